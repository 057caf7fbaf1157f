"""How busy pools of workers are, and how much they get done, from looks at their status."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from rl_motion.runtime.status import PoolStatus, Role, Status

_WINDOW_S = 120.0


@dataclass(frozen=True, slots=True)
class PoolRate:
    """utilisation: busy worker-seconds / worker-seconds; rows_per_s: of finished calls, also for each worker."""

    utilisation: float
    rows_per_s: float
    rows_per_worker_s: float


@dataclass(frozen=True, slots=True)
class _Look:
    """Sums up to a moment: worker-seconds, those of them that were busy, rows."""

    now_s: float
    workers_s: float
    busy_s: float
    rows: int


class Rates:
    """Of the last two minutes. Workers count as they were found until the next look.

    Calls under way count, which a pool's own `busy_s` knows only once they are over: calls may take minutes.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._looks: dict[Role, deque[_Look]] = {}
        self._pools: dict[Role, PoolStatus] = {}

    def look(self, status: Status, now_s: float) -> Mapping[Role, PoolRate]:
        """Take in how things are at this moment of a steady clock; the rates by role, from the second look on."""
        rates = {}
        for pool in status.pools:
            looks = self._looks.setdefault(pool.role, deque([_Look(now_s, 0.0, 0.0, pool.rows)]))
            last, before = looks[-1], self._pools.get(pool.role, pool)
            passed = now_s - last.now_s
            looks.append(
                _Look(now_s, last.workers_s + passed * before.ready, last.busy_s + passed * before.busy, pool.rows)
            )
            while len(looks) > 2 and looks[1].now_s < now_s - _WINDOW_S:
                looks.popleft()
            self._pools[pool.role] = pool
            rate = _between(looks[0], looks[-1])
            if rate is not None:
                rates[pool.role] = rate
        return rates


def _between(first: _Look, last: _Look) -> PoolRate | None:
    passed, workers_s, rows = last.now_s - first.now_s, last.workers_s - first.workers_s, last.rows - first.rows
    if passed <= 0 or workers_s <= 0:
        return None
    return PoolRate((last.busy_s - first.busy_s) / workers_s, rows / passed, rows / workers_s)
