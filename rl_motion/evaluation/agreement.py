"""Do the evaluator, the rewards and the oracle agree, and does anything of it remain once the oracle has spoken?

The AUC of each for the oracle's verdict; and within what the oracle calls a success, and within what it calls a
failure, the rank correlation of the evaluator's nearness with each reward. Where that is positive the two share what
the oracle does not measure: style, care, or a blind spot of both.

Intervals are cluster bootstraps over prompts, as in `statistics.py`; ranks are those of the whole, not of a resample.
Legend: N motions, C clusters (prompts), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.evaluate import Record
from rl_motion.evaluation.retrieval import auc
from rl_motion.evaluation.statistics import LEVEL, Estimate, resamples_RC

Floats = NDArray[np.float64]

EVALUATOR = "evaluator"
CONVENTION = (
    "agreement: auc is the probability that a motion which the oracle accepts scores above one that it rejects "
    "(evaluator: minus the distance between motion and text); within_success and within_failure are Spearman's "
    "correlations of the evaluator with a reward among motions of that verdict; 95 % bootstrap over prompts, null "
    "where a verdict or a spread is missing"
)


def agreement(records: Sequence[Record], *, seed: int) -> dict[str, Any]:
    """Of one arm's records on one split: {evaluator: {auc}, reward: {auc, within_success, within_failure}}, each an
    estimate or None; empty where the motions have no verdict."""
    if not records or any(record.oracle_success is None for record in records):
        return {}
    verdict_N = np.array([record.oracle_success == 1 for record in records])
    clusters_N = [record.prompt.id for record in records]
    distances = [record.distance for record in records]
    near_N = None if None in distances else -np.array(distances, dtype=np.float64)
    found: dict[str, Any] = {}
    if near_N is not None:
        found[EVALUATOR] = {"auc": _dict(auc_estimate(near_N, verdict_N, clusters_N, seed=seed))}
    for name in records[0].rewards:
        value_N = np.array([record.rewards[name] for record in records], dtype=np.float64)
        found[name] = {"auc": _dict(auc_estimate(value_N, verdict_N, clusters_N, seed=seed))}
        if near_N is not None:
            for key, chosen_N in (("within_success", verdict_N), ("within_failure", ~verdict_N)):
                of = [cluster for cluster, chosen in zip(clusters_N, chosen_N, strict=True) if chosen]
                found[name][key] = _dict(rank_correlation(near_N[chosen_N], value_N[chosen_N], of, seed=seed))
    return found


def auc_estimate(
    score_N: Floats, label_N: NDArray[np.bool_], clusters_N: Sequence[str], *, seed: int
) -> Estimate | None:
    """The area under the ROC curve with its interval; None where one outcome is absent."""
    value = auc(score_N, label_N)
    if value is None:
        return None
    cluster_N, count = _numbered(clusters_N)
    good_N, bad_N = score_N[label_N], score_N[~label_N]
    wins = (good_N[:, None] > bad_N) + 0.5 * (good_N[:, None] == bad_N)
    won_CC = np.zeros((count, count))
    np.add.at(won_CC, (cluster_N[label_N][:, None], cluster_N[~label_N][None]), wins)
    good_C, bad_C = (np.bincount(cluster_N[mask], minlength=count).astype(np.float64) for mask in (label_N, ~label_N))
    times_RC = resamples_RC(count, seed)
    won_R = np.einsum("rc,rc->r", times_RC @ won_CC, times_RC)
    return _interval(value, won_R, (times_RC @ good_C) * (times_RC @ bad_C), count, len(score_N))


def rank_correlation(x_N: Floats, y_N: Floats, clusters_N: Sequence[str], *, seed: int) -> Estimate | None:
    """Spearman's correlation (ties: mean ranks) with its interval; None with fewer than three rows or no spread."""
    if len(x_N) < 3:
        return None
    x_N, y_N = _standard_ranks(x_N), _standard_ranks(y_N)
    if not (x_N.any() and y_N.any()):
        return None
    cluster_N, count = _numbered(clusters_N)
    times_RC = resamples_RC(count, seed)

    def summed_R(values_N: Floats) -> Floats:
        found: Floats = times_RC @ np.bincount(cluster_N, weights=values_N, minlength=count)
        return found

    n_R, sx_R, sy_R = summed_R(np.ones_like(x_N)), summed_R(x_N), summed_R(y_N)
    covariance_R = summed_R(x_N * y_N) * n_R - sx_R * sy_R
    spread_R = (summed_R(x_N**2) * n_R - sx_R**2) * (summed_R(y_N**2) * n_R - sy_R**2)
    return _interval(float((x_N * y_N).mean()), covariance_R, np.sqrt(spread_R.clip(min=0)), count, len(x_N))


def _interval(value: float, above_R: Floats, below_R: Floats, clusters: int, n: int) -> Estimate:
    """Quantiles of above / below over the resamples in which below is not zero."""
    sound_R = below_R > 1e-9
    if clusters < 2 or not sound_R.any():
        return Estimate(value, None, None, n)
    low, high = np.quantile(above_R[sound_R] / below_R[sound_R], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n)


def _numbered(clusters_N: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    names, cluster_N = np.unique(np.asarray(clusters_N), return_inverse=True)
    return cluster_N, len(names)


def _standard_ranks(values_N: Floats) -> Floats:
    """Ranks, ties being the mean of theirs, with mean 0 and deviation 1; all zero where there is no spread."""
    order = np.sort(values_N)
    ranks_N: Floats = (np.searchsorted(order, values_N, "left") + np.searchsorted(order, values_N, "right")) / 2.0
    ranks_N = ranks_N - ranks_N.mean()
    return ranks_N / (ranks_N.std() or 1.0)


def _dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_dict()
