"""The workers as Ray actors: what a caller wants to know beside the result. Nothing here computes."""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from rl_motion.config import Job
from rl_motion.models.device import keep_to_cpu
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.sound import Arrival, Receipt, flaw_of_scored, flaw_of_trajectory, size_bytes
from rl_motion.runtime.workers import Behaviour, LearnerWorker, RewardWorker, RolloutWorker, Worker
from rl_motion.types import Trajectory, Unit


class _Placed(Worker):
    """A worker on the GPU that it claimed, or on the CPU."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """As every worker."""
        if not ray.get_gpu_ids():
            keep_to_cpu()
        super().__init__(job, workshop)


class RolloutActor(_Placed, RolloutWorker):
    """A rollout worker whose caller learns that it is done without receiving the trajectory."""

    def arrive(self) -> Arrival:
        """Make everything now instead of in the first call."""
        return _arrived(self.prepare())

    @ray.method(num_returns=2)
    def sample_apart(self, behaviour: Behaviour, unit: Unit) -> tuple[Receipt, Trajectory]:
        """The receipt and the unit's trajectory, as two objects."""
        started = time.perf_counter()
        trajectory = self.sample(behaviour, unit)
        flaw = flaw_of_trajectory(trajectory, unit, behaviour)
        seconds = time.perf_counter() - started
        return Receipt(self.environment(), seconds, flaw, size_bytes(trajectory)), trajectory


class RewardActor(_Placed, RewardWorker):
    """A reward worker whose answers say whether they are sound."""

    def arrive(self) -> Arrival:
        """Make everything now instead of in the first call."""
        return _arrived(self.prepare())

    def score_apart(self, unit: Unit, trajectory: Trajectory) -> Receipt:
        """The unit's rewards within a receipt."""
        started = time.perf_counter()
        scored = self.score(trajectory)
        flaw = flaw_of_scored(scored, unit)
        return Receipt(self.environment(), time.perf_counter() - started, flaw, scored=scored)


class LearnerActor(_Placed, LearnerWorker):
    """A learner that says where it is."""

    def arrive(self) -> Arrival:
        """Make everything now; its answer is the starting point."""
        return _arrived(self.prepare())


def _arrived(answer: Any) -> Arrival:
    context = ray.get_runtime_context()
    return Arrival(context.get_node_id(), os.getpid(), float(len(ray.get_gpu_ids())), answer)
