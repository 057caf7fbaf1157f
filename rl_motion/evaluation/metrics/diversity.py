"""Diversity over all motions: the mean distance between two of them (Guo et al. 2022, section 5).

Equal to `calculate_diversity` of the official code, given its indices. Differs: fewer motions than 300 give as many
pairs as there are motions, where the official code refuses.

Legend: N motions, C channels, P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Pairs = tuple[NDArray[np.integer], NDArray[np.integer]]
"""(first_P, second_P): rows to compare; as in the official code each half is drawn without replacement, and a pair may
be of one motion with itself."""

PAIRS = 300
CONVENTION = (
    f"diversity (of the evaluator's embeddings): mean Euclidean distance over {PAIRS} random pairs of all motions, or "
    "as many pairs as there are motions; as good as it is near to that of real motion"
)


def draw_pairs(rows: int, most: int, rng: np.random.Generator) -> Pairs:
    """`most` pairs, or `rows` where that is fewer."""
    count = min(most, rows)
    return rng.permutation(rows)[:count], rng.permutation(rows)[:count]


def diversity(motion_NC: Floats, pairs: Pairs) -> float:
    """The mean distance over the pairs."""
    first_P, second_P = pairs
    apart_PC = motion_NC[first_P].astype(np.float64) - motion_NC[second_P].astype(np.float64)
    return float(np.linalg.norm(apart_PC, axis=-1).mean())
