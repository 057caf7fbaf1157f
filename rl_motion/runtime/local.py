"""Everything in one process, one unit after another: debuggers work; Ray has to give the same numbers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from rl_motion.config import Job, UserError
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.status import PoolStatus, Role, Status
from rl_motion.runtime.workers import Behaviour, Learned, LearnerWorker, RewardWorker, RolloutWorker, Snapshot
from rl_motion.types import Unit

_ROLES: tuple[Role, ...] = ("rollout", "reward", "learner")


class LocalBackend:
    """One worker of each kind. Rollout and learner hold separate policies, as they do on Ray."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Cheap; `start` does the work."""
        self._rollout = RolloutWorker(job, workshop)
        self._reward = RewardWorker(job, workshop)
        self._learner = LearnerWorker(job, workshop)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._calls: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._at_work: Role | None = None

    def start(self) -> Snapshot:
        """Make everything; the untrained starting point."""
        self._rollout.prepare()
        self._reward.prepare()
        return self._learner.prepare()

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learner back to a commit's version and state."""
        return self._learner.restore(version, state)

    def ask(self, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
        """Sample and score them when the answer is asked for."""
        return lambda: self._collect(units, behaviour)

    def learn(self, rollouts: Rollouts) -> Learned:
        """One update from all of them."""
        started = time.perf_counter()
        totals = [scored.total_B for scored in rollouts.scored]
        self._at_work = "learner"
        learned = self._learner.learn(rollouts.behaviour, totals, *rollouts.trajectories)
        self._count("learner", time.perf_counter() - started, sum(unit.batch for unit in rollouts.units))
        self._at_work = None
        return learned

    def scale(self, role: Role, workers: int, reason: str) -> None:
        """Refused: there is one process."""
        raise UserError(
            f"got {workers} {role} workers for a run in one process; want runtime.backend=ray; end the run and resume "
            "it with --set runtime.backend=ray"
        )

    def status(self) -> Status:
        """One worker of each kind, of which one works at a time, and what was done."""
        at_work = self._at_work
        pools = tuple(
            PoolStatus(
                role,
                1,
                1,
                int(role == at_work),
                0,
                0,
                self._calls[role],
                self._rows[role],
                self._seconds[role],
                None,
                0.0,
            )
            for role in _ROLES
        )
        return Status(pools, 0, 0, 0.0, {}, 0, 0, ())

    def close(self) -> None:
        """Nothing to let go."""

    def _collect(self, units: Sequence[Unit], behaviour: Behaviour) -> Rollouts:
        started = time.perf_counter()
        self._at_work = "rollout"
        trajectories = [self._rollout.sample(behaviour, unit) for unit in units]
        sampled = time.perf_counter()
        self._at_work = "reward"
        scored = [self._reward.score(trajectory) for trajectory in trajectories]
        seconds = {"rollout": sampled - started, "reward": time.perf_counter() - sampled}
        for role, spent in seconds.items():
            self._count(role, spent, sum(unit.batch for unit in units), len(units))
        return Rollouts(units, behaviour, trajectories, scored, {}, seconds)

    def _count(self, role: str, seconds: float, rows: int, calls: int = 1) -> None:
        self._seconds[role] += seconds
        self._calls[role] += calls
        self._rows[role] += rows
