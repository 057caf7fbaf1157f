"""What an iteration's rewards come to, in all and by prompt, and what to say of those that are not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch

from rl_motion.rewards.combine import non_finite
from rl_motion.types import Metrics, Scored, Unit

FLAT = 0.01
"""A prompt's samples score alike where their standard deviation is at most this share of that of all rows."""
_log = logging.getLogger(__name__)


def reward_metrics(scored: Sequence[Scored], units: Sequence[Unit]) -> Metrics:
    """Means over the iteration's rows whose rewards are all finite: the total, its spread, every reward by name.

    `reward/count` is how many these are, `reward/non_finite` how many are left out. No means where none is finite.
    `prompts/flat` is the share of prompts whose samples all score alike, of those whose rewards are all finite.
    """
    columns = {name: torch.cat([unit.rewards[name] for unit in scored]).double() for name in scored[0].rewards}
    columns["total"] = torch.cat([unit.total_B for unit in scored]).double()
    finite_N = torch.stack([torch.isfinite(column_N) for column_N in columns.values()]).all(dim=0)
    count = int(finite_N.sum())
    metrics = {"reward/count": float(count), "reward/non_finite": float(len(finite_N) - count)}
    if count:
        metrics |= {f"reward/{name}": column_N[finite_N].mean().item() for name, column_N in columns.items()}
        spread = metrics["reward/total_std"] = columns["total"][finite_N].std(correction=0).item()
        variances = [variance for _, _, variance in by_prompt(scored, units) if math.isfinite(variance)]
        flat = sum(variance <= (FLAT * spread) ** 2 for variance in variances)
        metrics |= {"prompts/flat": flat / len(variances)} if variances else {}
    return metrics


def by_prompt(scored: Sequence[Scored], units: Sequence[Unit]) -> Iterator[tuple[str, float, float]]:
    """(id, mean, population variance) of every prompt's total rewards; not finite where one of them is not."""
    for part, unit in zip(scored, units, strict=True):
        total_PS = part.total_B.double().view(len(unit.prompts), unit.samples_per_prompt)
        means, variances = total_PS.mean(dim=1).tolist(), total_PS.var(dim=1, correction=0).tolist()
        yield from zip([prompt.id for prompt in unit.prompts], means, variances, strict=True)


def warn_of_rewards(scored: Sequence[Scored], units: Sequence[Unit]) -> None:
    """Say which rewards are not finite, and for which prompts."""
    for part, unit in zip(scored, units, strict=True):
        for line in non_finite(part, unit):
            _log.warning("iteration %d, unit %d: %s", unit.iteration, unit.index, line)
