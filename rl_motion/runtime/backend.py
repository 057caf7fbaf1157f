"""The seam between the loop and whoever does the work: in this process, or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from rl_motion.config import Job
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.workers import Learned, Snapshot
from rl_motion.types import Scored, Unit

Held = Any
"""A trajectory, wherever it is: itself in one process, a reference on Ray. The loop passes it on unopened."""


class Backend(Protocol):
    """Both give the same numbers."""

    def start(self) -> Snapshot:
        """Make workers and learner; the untrained starting point."""

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learner back to a commit's version and state."""

    def rollout(self, units: Sequence[Unit], snapshot: Snapshot) -> list[Held]:
        """Sample every unit with this adapter; results in unit order."""

    def score(self, trajectories: list[Held]) -> list[Scored]:
        """Rewards of every trajectory, in the same order."""

    def learn(self, trajectories: list[Held], rewards: Sequence[Tensor]) -> Learned:
        """One update from all of them and their total rewards [B]."""

    def close(self) -> None:
        """Let the workers go."""


def make_backend(job: Job, workshop: Workshop) -> Backend:
    """The backend that the job names."""
    if job.runtime.backend == "ray":
        from rl_motion.runtime.ray_backend import RayBackend

        return RayBackend(job, workshop)
    from rl_motion.runtime.local import LocalBackend

    return LocalBackend(job, workshop)
