"""What an iteration's rewards come to, and what to say of those that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from rl_motion.rewards.combine import non_finite
from rl_motion.types import Metrics, Scored, Unit

_log = logging.getLogger(__name__)


def reward_metrics(scored: Sequence[Scored]) -> Metrics:
    """Means over the iteration's rows whose rewards are all finite: the total, its spread, every reward by name.

    `reward/count` is how many these are, `reward/non_finite` how many are left out. No means where none is finite.
    """
    columns = {name: torch.cat([unit.rewards[name] for unit in scored]).double() for name in scored[0].rewards}
    columns["total"] = torch.cat([unit.total_B for unit in scored]).double()
    finite_N = torch.stack([torch.isfinite(column_N) for column_N in columns.values()]).all(dim=0)
    count = int(finite_N.sum())
    metrics = {"reward/count": float(count), "reward/non_finite": float(len(finite_N) - count)}
    if count:
        metrics |= {f"reward/{name}": column_N[finite_N].mean().item() for name, column_N in columns.items()}
        metrics["reward/total_std"] = columns["total"][finite_N].std(correction=0).item()
    return metrics


def warn_of_rewards(scored: Sequence[Scored], units: Sequence[Unit]) -> None:
    """Say which rewards are not finite, and for which prompts."""
    for part, unit in zip(scored, units, strict=True):
        for line in non_finite(part, unit):
            _log.warning("iteration %d, unit %d: %s", unit.iteration, unit.index, line)
