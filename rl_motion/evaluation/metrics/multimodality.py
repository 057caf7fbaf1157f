"""Multimodality: how far motions of one text are apart (Guo et al. 2022, section 5).

Equal to the mean of `calculate_multimodality` of the official code, given its indices: the same pairs of replicates for
every text. Differs: fewer replicates than 10 give as many pairs as there are replicates.

Legend: P prompts, R replicates of each, C channels, M pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.metrics.diversity import Pairs, draw_pairs

Floats = NDArray[np.floating]

PAIRS = 10
CONVENTION = (
    f"multimodality: mean Euclidean distance over {PAIRS} pairs of motions of one text, or as many pairs as it has "
    "motions, the same pairs for every text; a pair may be of one motion with itself, as in the official code, so that "
    "figures of few motions per text are low and do not compare with those of many; its interval is a bootstrap over "
    "prompts"
)


def draw(replicates: int, rng: np.random.Generator) -> Pairs:
    """The pairs of replicates, for all texts."""
    return draw_pairs(replicates, PAIRS, rng)


def multimodality_P(motion_PRC: Floats, pairs: Pairs) -> NDArray[np.float64]:
    """The mean distance of each prompt; the metric is their mean."""
    first_M, second_M = pairs
    apart_PMC = motion_PRC[:, first_M].astype(np.float64) - motion_PRC[:, second_M].astype(np.float64)
    return np.asarray(np.linalg.norm(apart_PMC, axis=-1).mean(axis=-1))
