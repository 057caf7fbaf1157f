"""Seconds that can be compared: everything that is compared runs in turn, in one process, round after round.

A machine's speed changes while it is measured: its clock, its neighbours. So a figure is a ratio of one round, and what
is told is the median over rounds with its quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Arms = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]
"""Seconds of every arm, a round each."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds, its quartiles, and how many rounds there were."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def json(self) -> dict[str, Any]:
        """As `bench.json` has it."""
        return asdict(self)


def interleaved(
    arms: Arms, *, seconds: float, least: int = 3, most: int = 15, tell: Callable[[str], None] = lambda _: None
) -> Times:
    """Measure the arms in turn until the time is up.

    Every other round goes backwards, so that none is always the one after the largest. Nobody is warmed up here: an arm
    whose first call is another than the next has to be called before.

    Args:
        arms: what is measured, by name.
        seconds: no round begins after so many, once there are `least`.
        least: rounds, at least.
        most: rounds, at most.
        tell: is told what is being measured.
    """
    times: Times = {name: [] for name in arms}
    began = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - began >= seconds:
            break
        for name in list(arms) if number % 2 == 0 else reversed(list(arms)):
            tell(f"{name}, round {number + 1}")
            started = time.perf_counter()
            arms[name]()
            times[name].append(time.perf_counter() - started)
    return times


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of fewer than four values their least and largest stand in."""
    low, high = min(values), max(values)
    if len(values) >= 4:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), low, high, len(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of two arms, round by round."""
    return spread([one / other for one, other in zip(over, under, strict=True)])
