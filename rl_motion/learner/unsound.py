"""What makes an optimiser step one to skip: a number that is not finite, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rl_motion.config import RunFault
from rl_motion.types import Experience, Metrics


def unsound_part(experience: Experience, numbers: Metrics, gradient: Mapping[str, Tensor]) -> str:
    """What of a unit is not finite, the first of what follows from one another; empty where all is.

    Args:
        experience: its rollout's log-probs and its rewards.
        numbers: its loss and what the algorithm recorded.
        gradient: by name of the parameter.
    """
    if not finite(experience.trajectory.log_prob_BS):
        return "log-probs of the rollout that are not finite"
    rewards_B = experience.reward_B
    if not finite(rewards_B):
        return f"{int((~torch.isfinite(rewards_B)).sum())} of {len(rewards_B)} rewards that are not finite"
    wrong = [f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value)]
    wrong += [f"a gradient of {name} that is not finite" for name, tensor in gradient.items() if not finite(tensor)]
    return wrong[0] if wrong else ""


def finite(tensor: Tensor) -> bool:
    """Neither NaN nor infinite anywhere."""
    return bool(torch.isfinite(tensor).all())


def too_many(cause: str, in_a_row: int, limit: int, before: Sequence[str]) -> RunFault:
    """The fault that ends a run which skips one step after the other; `before`: its update's other ones, as notes."""
    fault = RunFault(
        f"got {cause}, the last of {in_a_row} optimiser steps in a row that were skipped; want fewer than {limit}; "
        "look at the rewards of that iteration. Resume once their cause is mended, or with a higher "
        "train.max_skipped_steps to see whether it passes; else start a new run with a lower train.learning_rate"
    )
    for line in before:
        fault.add_note(line)
    return fault
