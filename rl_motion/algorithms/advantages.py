"""Advantages within a prompt's group of samples.

Legend: B rows, prompt-major; P prompts, N samples per prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rl_motion.config import AlgorithmConfig, RunFault


def group_advantages(reward_B: Tensor, samples_per_prompt: int, config: AlgorithmConfig) -> Tensor:
    """(reward - mean) / (std + floor) over the samples of each prompt, clipped; float64 [B].

    Per-prompt statistics as in DDPO (arXiv:2305.13301, section 5.2), from the current samples alone. The std
    is that of the group itself (not Bessel's); the floor keeps tiny differences from being blown up to unit
    size.

    Args:
        reward_B: total reward of each row of one unit, prompt-major.
        samples_per_prompt: N; divides B.
        config: `advantage_floor` (in units of the reward) and `advantage_clip`.

    Raises:
        RunFault: a reward is not finite.
        ValueError: B is not a multiple of N.
    """
    if len(reward_B) % samples_per_prompt:
        raise ValueError(
            f"got {len(reward_B)} rewards for {samples_per_prompt} samples per prompt; want whole groups; "
            "pass one whole unit"
        )
    if not bool(torch.isfinite(reward_B).all()):
        bad = int((~torch.isfinite(reward_B)).nonzero()[0])
        raise RunFault(
            f"got reward {reward_B[bad].item()} in row {bad}; want finite rewards; correct the reward and "
            "resume from the last commit"
        )
    reward_PN = reward_B.double().reshape(-1, samples_per_prompt)
    mean_P1 = reward_PN.mean(dim=1, keepdim=True)
    std_P1 = reward_PN.std(dim=1, correction=0, keepdim=True)
    advantage_PN = torch.nan_to_num((reward_PN - mean_P1) / (std_P1 + config.advantage_floor), nan=0.0)
    return advantage_PN.clamp(-config.advantage_clip, config.advantage_clip).reshape(-1)
