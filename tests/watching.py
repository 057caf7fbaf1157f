"""A backend that only says how things are, for tests of what looks at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rl_motion.config import UserError
from rl_motion.runtime.status import Event, PoolStatus, Role, Status

QUIET = Status(
    pools=(
        PoolStatus("rollout", 2, 2, 1, 0, 0, 10, 160, 30.0, 3.0, 0.0),
        PoolStatus("reward", 1, 1, 0, 0, 0, 10, 160, 5.0, 0.5, 1.0),
        PoolStatus("learner", 1, 1, 0, 0, 0, 2, 160, 4.0, None, 1.0),
    ),
    waiting=1,
    in_flight=2,
    oldest_s=1.5,
    retries={"died": 1},
    speculated=0,
    bytes_moved=2_000_000,
    events=(Event(1_700_000_000.0, "a worker died"),),
)


class Seen:
    """What a watcher asks of a backend; `said` is what it hears, or the error that it meets."""

    def __init__(self, said: Status | Exception = QUIET) -> None:
        self.said = said
        self.scaled: list[tuple[Role, int, str]] = []
        self.looks = 0

    def status(self) -> Status:
        self.looks += 1
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def scale(self, role: Role, workers: int, reason: str) -> None:
        if workers == 13:
            raise UserError("got 13 workers; want luck; choose another number")
        if workers == 666:
            raise ValueError("a bug in scaling")
        self.scaled.append((role, workers, reason))
        assert isinstance(self.said, Status)
        pools = tuple(replace(pool, wanted=workers) if pool.role == role else pool for pool in self.said.pools)
        self.said = replace(self.said, pools=pools)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a watcher has no business with {name}")
