"""Intervals that do not flatter: the bootstrap over prompts, not over samples.

Samples of one prompt resemble one another, so a resample draws whole prompts with replacement (the cluster
bootstrap: Davison and Hinkley 1997, section 3.8) and the interval is the percentile one. With a few prompts
it is somewhat too narrow, as every percentile bootstrap is; with one there is none.

Legend: N rows, C clusters (prompts), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value over n rows with its 95 % interval; None and None where fewer than two prompts speak."""

    value: float
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The form of report.json: {value, low, high, n}."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def bootstrap_mean(values_N: ArrayLike, clusters_N: Sequence[str], *, seed: int) -> Estimate:
    """The mean over rows, its interval over prompts.

    Args:
        values_N: one finite value per row.
        clusters_N: the prompt of each row.
        seed: of the resampling; the same seed and clusters draw the same prompts.

    Raises:
        ValueError: no rows, lengths that differ, or values that are not finite.
    """
    values_N = _rows(values_N, clusters_N)
    return _ratio(values_N, np.ones_like(values_N), clusters_N, seed)


def paired_difference(base_N: ArrayLike, tuned_N: ArrayLike, clusters_N: Sequence[str], *, seed: int) -> Estimate:
    """The mean of tuned - base, row by row: row i of both has the same prompt and the same noise.

    Raises:
        ValueError: as `bootstrap_mean`.
    """
    return bootstrap_mean(_rows(tuned_N, clusters_N) - _rows(base_N, clusters_N), clusters_N, seed=seed)


def paired_ratio(base_N: ArrayLike, tuned_N: ArrayLike, clusters_N: Sequence[str], *, seed: int) -> Estimate | None:
    """The ratio of the means, tuned / base, of values that are not negative; None where the base's mean is
    zero.

    Raises:
        ValueError: as `bootstrap_mean`.
    """
    base_N, tuned_N = _rows(base_N, clusters_N), _rows(tuned_N, clusters_N)
    return _ratio(tuned_N, base_N, clusters_N, seed) if base_N.sum() > 0 else None


def resamples_RC(clusters: int, seed: int) -> Floats:
    """How often each resample draws each cluster; the same for the same seed and number of clusters."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(np.float64)


def _rows(values_N: ArrayLike, clusters_N: Sequence[str]) -> Floats:
    values = np.asarray(values_N, dtype=np.float64)
    if values.ndim != 1 or len(values) != len(clusters_N) or not len(values):
        raise ValueError(
            f"got values of shape {values.shape} and {len(clusters_N)} cluster labels; want one label per "
            "row and at least one row"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"got {int((~np.isfinite(values)).sum())} values that are not finite; want finite ones")
    return values


def _ratio(above_N: Floats, below_N: Floats, clusters_N: Sequence[str], seed: int) -> Estimate:
    """sum(above) / sum(below), resampled by cluster; a mean is the case below = 1."""
    _, cluster_N = np.unique(np.asarray(clusters_N), return_inverse=True)
    clusters = int(cluster_N.max()) + 1
    above_C = np.bincount(cluster_N, weights=above_N, minlength=clusters)
    below_C = np.bincount(cluster_N, weights=below_N, minlength=clusters)
    value = float(above_C.sum() / below_C.sum())
    if clusters < 2:
        return Estimate(value, None, None, len(above_N))
    times_RC = resamples_RC(clusters, seed)
    above_R, below_R = times_RC @ above_C, times_RC @ below_C
    # A resample of prompts whose base is all zero says nothing about the ratio; of a mean there is none.
    means_R = above_R[below_R > 0] / below_R[below_R > 0]
    low, high = np.quantile(means_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), len(above_N))
