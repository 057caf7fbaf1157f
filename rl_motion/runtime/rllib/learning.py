"""Our learner, where RLlib expects its group of learners: in the algorithm's own process."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import COMPONENT_LEARNER

from rl_motion.config import Job, RunFault
from rl_motion.models.device import keep_to_cpu
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.rllib.runner import Sampled
from rl_motion.runtime.workers import LearnerWorker, warned
from rl_motion.types import Metrics


class Learning:
    """A learner worker and what it has come to."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Makes everything: the untrained starting point. On the CPU, as RLlib gives its runners no GPU unasked."""
        keep_to_cpu()
        self._worker = LearnerWorker(job, workshop)
        self.snapshot = self._worker.prepare()

    def learn(self, sampled: list[Sampled]) -> Metrics:
        """One update from an iteration's units, in order.

        Raises:
            RunFault: one was computed on a machine that rounds differently, or sampled with another adapter.
        """
        here = self.snapshot.environment
        for one in sampled:
            if one.environment != here:
                raise RunFault(
                    f"got an env runner with {one.environment}; want {here}, the learner's, or numbers depend on who "
                    "computes them; use nodes of one kind, or set ATEN_CPU_CAPABILITY=default on all, and restore"
                )
        totals, trajectories = [one.scored.total_B for one in sampled], [one.trajectory for one in sampled]
        learned = warned(self._worker.learn(self.snapshot.behaviour, totals, *trajectories))
        self.snapshot = learned.snapshot
        return learned.metrics

    def state(self) -> dict[str, Any]:
        """Version, the learner's safetensors file, and its adapter's SHA-256."""
        return {"version": self.snapshot.version, "learner": self.snapshot.state, "sha256": self.snapshot.sha256}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to it.

        Raises:
            RunFault: what comes back is another adapter.
        """
        self.snapshot = self._worker.restore(state["version"], state["learner"])
        if self.snapshot.sha256 != state["sha256"]:
            raise RunFault(
                f"got adapter {self.snapshot.sha256[:12]} from the checkpoint; want {state['sha256'][:12]}; the model "
                "may have changed since; put it back and restore again"
            )

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """For RLlib's push of weights to its runners: none."""
        return {COMPONENT_LEARNER: {}}

    def shutdown(self) -> None:
        """Nothing to let go."""
