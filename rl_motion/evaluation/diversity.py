"""How much the motions of one prompt differ: what a policy that collapses to one motion per prompt loses.

Legend: B rows of a unit (prompt-major), P prompts, M samples per prompt, F frames, J joints.
"""

from __future__ import annotations

import torch
from torch import Tensor


def diversity_P(joints_BFJ3: Tensor, length_B: Tensor, samples_per_prompt: int) -> Tensor | None:
    """Mean distance in metres between two samples of a prompt, over its pairs, valid frames and joints.

    Every frame is centred on its root first, so that where a motion walks to does not count, only how it
    moves. This is multimodality (Guo et al. 2022) measured on joints instead of on the embeddings of an
    evaluator.

    Args:
        joints_BFJ3: joint positions in metres; joint 0 is the root.
        length_B: valid frames; equal within a prompt, as a unit makes them.
        samples_per_prompt: M.

    Returns:
        [P], or None where M is 1: a single sample has no diversity.
    """
    if samples_per_prompt < 2:
        return None
    centred_BFJ3 = joints_BFJ3 - joints_BFJ3[:, :, :1]
    per_prompt = zip(centred_BFJ3.split(samples_per_prompt), length_B.split(samples_per_prompt), strict=True)
    return torch.stack([_mean_pair_distance(joints[:, : int(length.min())]) for joints, length in per_prompt])


def _mean_pair_distance(joints_MFJ3: Tensor) -> Tensor:
    first, second = torch.triu_indices(len(joints_MFJ3), len(joints_MFJ3), offset=1)
    distance_PFJ: Tensor = torch.linalg.vector_norm(joints_MFJ3[first] - joints_MFJ3[second], dim=-1)
    return distance_PFJ.mean()
