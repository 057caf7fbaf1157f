"""What an iteration's rewards say, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rl_motion.types import Metrics, Scored


def reward_metrics(scored: Sequence[Scored]) -> Metrics:
    """Means over all rows of the iteration: the total, its spread, every reward by name, and their count."""
    total_N = torch.cat([unit.total_B for unit in scored]).double()
    names = scored[0].rewards
    means = {f"reward/{n}": torch.cat([u.rewards[n] for u in scored]).double().mean().item() for n in names}
    return means | {
        "reward/total": total_N.mean().item(),
        "reward/total_std": total_N.std(correction=0).item(),
        "reward/count": float(len(total_N)),
    }
