"""How many rollout and reward workers an iteration is worth: from what was measured, with the reason in words.

With n rollout and m reward workers, U units a batch, and r, w, L seconds for a unit's rollout, its rewards and the
update, the pools work side by side, and

    synchronous:  T(n, m) = max(ceil(U / n) r, ceil(U / m) w) + L
    asynchronous: T(n, m) = max(ceil(U / n) r, ceil(U / m) w, L)

The fewest workers win whose T is within a twentieth of the best that the bounds allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SLACK = 1.05
EVERY = 3
"""Iterations between two decisions: the first after a change still measures the old size."""


@dataclass(frozen=True, slots=True)
class Measured:
    """units: of a batch. rollout_s, reward_s: of one unit. learner_s: of an update."""

    units: int
    rollout_s: float
    reward_s: float
    learner_s: float
    asynchronous: bool

    def iteration_s(self, rollout_workers: int, reward_workers: int) -> float:
        """T above."""
        rollout = math.ceil(self.units / rollout_workers) * self.rollout_s
        reward = math.ceil(self.units / reward_workers) * self.reward_s
        pools = max(rollout, reward)
        return max(pools, self.learner_s) if self.asynchronous else pools + self.learner_s


@dataclass(frozen=True, slots=True)
class Decision:
    """As many workers, and why."""

    rollout_workers: int
    reward_workers: int
    reason: str


def decide(now: tuple[int, int], bounds: tuple[range, range], measured: Measured) -> Decision | None:
    """What to change; None where the present sizes are the ones.

    Args:
        now: rollout and reward workers.
        bounds: sizes that are allowed for each.
        measured: at the present sizes.
    """
    # More workers than units would idle.
    choices = [(n, m) for n in bounds[0] for m in bounds[1] if n == bounds[0][0] or n <= measured.units]
    predicted = {choice: measured.iteration_s(*choice) for choice in choices}
    best = min(predicted.values())
    good = [choice for choice in choices if predicted[choice] <= _SLACK * best]
    chosen = min(good, key=lambda choice: (sum(choice), predicted[choice], choice))
    before = measured.iteration_s(*now)
    if chosen == now or (predicted[chosen] * _SLACK > before and sum(chosen) >= sum(now)):
        return None
    reason = (
        f"{measured.units} units of {measured.rollout_s:.2f} s rollout and {measured.reward_s:.2f} s reward, update "
        f"{measured.learner_s:.2f} s: an iteration should take {predicted[chosen]:.1f} s instead of {before:.1f} s "
        f"with rollout workers {now[0]} -> {chosen[0]}, reward workers {now[1]} -> {chosen[1]}"
    )
    return Decision(*chosen, reason)
