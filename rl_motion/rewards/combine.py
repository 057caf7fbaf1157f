"""From a job's list of rewards to one number per motion: the weighted sum, in own units or calibrated.

Legend: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl_motion.config import RewardConfig, RunFault, UserError, nearest
from rl_motion.protocols import Reward
from rl_motion.rewards.calibration import Spread
from rl_motion.types import Motions, Scored, Unit


@dataclass(frozen=True, slots=True)
class Term:
    """One reward with its name and its weight in the total, where it counts as (value - mean) / std."""

    name: str
    weight: float
    reward: Reward
    mean: float = 0.0
    std: float = 1.0


def build_terms(
    configs: Sequence[RewardConfig],
    registry: Mapping[str, Callable[..., Reward]],
    spreads: Mapping[str, Spread] | None = None,
) -> tuple[Term, ...]:
    """The terms a job asks for.

    Args:
        configs: the job's `rewards`.
        registry: usually `rl_motion.rewards.REWARDS` and the job's own.
        spreads: a calibration's, for every name; None: rewards count in their own units.

    Raises:
        UserError: no reward at all, an unknown name, or the same name twice.
    """
    check_names(configs, registry)
    terms = tuple(Term(config.name, config.weight, _made(registry[config.name], config)) for config in configs)
    if spreads is None:
        return terms
    return tuple(replace(term, mean=spreads[term.name].mean, std=spreads[term.name].std) for term in terms)


def _made(kind: Callable[..., Reward], config: RewardConfig) -> Reward:
    return kind() if config.model is None else kind(config.model)


def check_names(configs: Sequence[RewardConfig], registry: Collection[str]) -> None:
    """Refuse rewards that cannot be found or told apart.

    Raises:
        UserError: no reward at all, an unknown name, or the same name twice.
    """
    names = [config.name for config in configs]
    if not names:
        raise UserError(f"got no reward; want at least one; choose from {sorted(registry)}")
    for name in names:
        if name not in registry:
            raise UserError(
                f"rewards: got {name[:200]!r}; want one of {sorted(registry)}, or FILE.py:CLASS in the working "
                f"directory; {nearest(name, registry, 'correct it in the job')}"
            )
        if names.count(name) > 1:
            raise UserError(f"got reward {name!r} {names.count(name)} times; want it once; add up its weights")
    if all(config.weight == 0 for config in configs):
        raise UserError(f"rewards: got weight 0 for {names}; want one that counts; change its weight")


def score(terms: Sequence[Term], motions: Motions, unit: Unit, noise_level_B: Tensor | None = None) -> Scored:
    """Every reward of the unit's motions, in its own units, and the weighted sum of what they count as.

    On the graph where motions and rewards are, and on the motions' device. `noise_level_B`: of motions that are not
    clean; see `Reward`. A reward may be NaN or infinite, and then the total of that row is not finite either: training
    skips such units, others `refuse_non_finite`.

    Raises:
        RunFault: a reward of the wrong shape.
    """
    prompts = unit.row_prompts
    here = motions.features_BFD.device  # a model may be elsewhere, or a plugin compute in NumPy
    rewards = {
        term.name: _checked(term.name, term.reward(motions, prompts, noise_level_B=noise_level_B), unit.batch).to(here)
        for term in terms
    }
    # Without calibration (x - 0) / 1 is x to the last bit.
    counted = [term.weight * ((rewards[term.name] - term.mean) / term.std) for term in terms]
    total_B = torch.stack(counted).sum(dim=0)
    return Scored(unit_index=unit.index, rewards=rewards, total_B=total_B)


def non_finite(scored: Scored, unit: Unit) -> list[str]:
    """A line for every reward that is not finite in some row: its first such value, and that row's prompt."""
    lines = []
    for name, value_B in scored.rewards.items():
        bad = (~torch.isfinite(value_B)).nonzero().flatten().tolist()
        if bad:
            lines.append(
                f"got {float(value_B[bad[0]])} from reward {name!r} for prompt {unit.row_prompts[bad[0]].text!r} "
                f"(row {bad[0]}; {len(bad)} of {len(value_B)} rows are not finite)"
            )
    return lines


def refuse_non_finite(scored: Scored, unit: Unit) -> Scored:
    """The same rewards, all of them finite.

    Raises:
        RunFault: one is not; names it and the prompt.
    """
    for line in non_finite(scored, unit):
        raise RunFault(
            f"{line}; want finite rewards; look at that motion, lower the learning rate or correct the reward, then "
            "start again"
        )
    return scored


def _checked(name: str, value_B: object, rows: int) -> Tensor:
    if not isinstance(value_B, Tensor) or not value_B.is_floating_point():
        kind = value_B.dtype if isinstance(value_B, Tensor) else type(value_B).__name__
        raise RunFault(
            f"got {kind} from reward {name!r}; want a Tensor [B] of floating-point numbers; correct the reward, then "
            "resume"
        )
    if value_B.shape != (rows,):
        raise RunFault(
            f"got shape {tuple(value_B.shape)} from reward {name!r}; want one value for each of "
            f"{rows} rows; correct the reward, then resume"
        )
    return value_B
