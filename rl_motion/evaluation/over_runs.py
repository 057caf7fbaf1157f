"""Several runs of one job: their mean and Student's 95 % interval, which says how sure it is for other training seeds.

The intervals within a run (statistics.py) are over prompts, those here over runs: neither contains the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import atan, cos, pi, sin, sqrt

import numpy as np

from rl_motion.evaluation.statistics import LEVEL, Estimate


def student_mean(values: Sequence[float]) -> Estimate:
    """The mean of a value per run with Student's interval; None and None for one run. `n` counts runs.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"got {array.tolist()}; want one finite value per run; leave out the runs that have none")
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = student_quantile(n - 1) * float(array.std(ddof=1)) / sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


@cache
def student_quantile(degrees: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t with so many degrees of freedom, by bisection."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < LEVEL else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| < t): the finite series of Abramowitz and Stegun 26.7.3 (odd degrees) and 26.7.4 (even)."""
    angle = atan(t / sqrt(degrees))
    odd = degrees % 2
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for step in range(1 + odd, degrees, 2):
        total += term
        term *= cos(angle) ** 2 * step / (step + 1)
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
