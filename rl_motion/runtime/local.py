"""Everything in one process, one unit after another: debuggers work; Ray has to give the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rl_motion.config import Job
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.reward_metrics import warn_of_rewards
from rl_motion.runtime.workers import Learned, LearnerWorker, RewardWorker, RolloutWorker, Snapshot, warned
from rl_motion.types import Scored, Trajectory, Unit


class LocalBackend:
    """One worker of each kind. Rollout and learner hold separate policies, as they do on Ray."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Cheap; `start` does the work."""
        self._rollout = RolloutWorker(job, workshop)
        self._reward = RewardWorker(job, workshop)
        self._learner = LearnerWorker(job, workshop)

    def start(self) -> Snapshot:
        """Make everything; the untrained starting point."""
        self._rollout.prepare()
        self._reward.prepare()
        return self._learner.prepare()

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learner back to a commit's version and state."""
        return self._learner.restore(version, state)

    def rollout(self, units: Sequence[Unit], snapshot: Snapshot) -> list[Trajectory]:
        """Sample every unit with this adapter."""
        return [self._rollout.sample(snapshot.version, snapshot.sha256, snapshot.adapter, unit) for unit in units]

    def score(self, trajectories: list[Trajectory]) -> list[Scored]:
        """Rewards of every trajectory, in the same order."""
        scored = [self._reward.score(trajectory) for trajectory in trajectories]
        warn_of_rewards(scored, [trajectory.unit for trajectory in trajectories])
        return scored

    def learn(self, trajectories: list[Trajectory], rewards: Sequence[Tensor]) -> Learned:
        """One update from all of them and their total rewards [B]."""
        return warned(self._learner.learn(rewards, *trajectories))

    def close(self) -> None:
        """Nothing to let go."""
