"""Multimodality: how far motions of one text are apart (Guo et al. 2022, section 5).

Equal to the mean of `calculate_multimodality` of the official code, given its indices: the same pairs of replicates for
every text. Differs: where there are 10 replicates or fewer, which the official code refuses, every two of them are a
pair, and none is compared with itself.

Legend: P prompts, R replicates of each, C channels, M pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.metrics.diversity import Pairs, draw_pairs

Floats = NDArray[np.floating]

PAIRS = 10
CONVENTION = (
    f"multimodality: mean Euclidean distance over {PAIRS} random pairs of motions of one text, the same pairs for "
    "every text, where a pair may be of one motion with itself, as in the official code, which lowers it by a share of "
    f"one in the number of motions; over every pair of different ones where a text has {PAIRS} or fewer; its interval "
    "is a bootstrap over prompts"
)


def draw(replicates: int, rng: np.random.Generator) -> Pairs:
    """The pairs of replicates, for all texts."""
    if replicates > PAIRS:
        return draw_pairs(replicates, PAIRS, rng)
    first, second = np.triu_indices(replicates, 1)
    return first, second


def multimodality_P(motion_PRC: Floats, pairs: Pairs) -> NDArray[np.float64]:
    """The mean distance of each prompt; the metric is their mean."""
    first_M, second_M = pairs
    apart_PMC = motion_PRC[:, first_M].astype(np.float64) - motion_PRC[:, second_M].astype(np.float64)
    return np.asarray(np.linalg.norm(apart_PMC, axis=-1).mean(axis=-1))
