"""What a run's workers say of themselves: values that may be asked for at any moment, from any thread.

Counters count from the start of the process; a resumed run begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["rollout", "reward", "learner"]
"""The three pools of workers."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One pool of workers.

    wanted: as many as the job, `rl-motion scale` or the controller ask for. ready: at work or idle. busy: of these, in
    a call. coming: on their way. leaving: in their last call.
    calls, rows, busy_s: finished calls, the rows (samples) in them, and the seconds that workers spent in them.
    recent_s: median seconds of the last calls; None before the first.
    gpus: that Ray set aside for its workers.
    """

    role: Role
    wanted: int
    ready: int
    busy: int
    coming: int
    leaving: int
    calls: int
    rows: int
    busy_s: float
    recent_s: float | None
    gpus: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an operator wants to know: a worker lost, a pool scaled, a prompt set aside."""

    unix_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of a backend.

    waiting, in_flight: units that no worker has, and that one has. oldest_s: age of the oldest unfinished unit, 0 if
    there is none. retries: calls that were made again, by reason (died, hung, lost, unsound). speculated: copies of a
    straggler's call. bytes_moved: adapters to rollout workers, trajectories from them. events: the last, oldest first.
    """

    pools: tuple[PoolStatus, ...]
    waiting: int
    in_flight: int
    oldest_s: float
    retries: Mapping[str, int]
    speculated: int
    bytes_moved: int
    events: tuple[Event, ...]
