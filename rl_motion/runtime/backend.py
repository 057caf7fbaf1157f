"""The seam between the loop and whoever does the work: in this process, or on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rl_motion.config import Job
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.status import Role, Status
from rl_motion.runtime.workers import Behaviour, Learned, Snapshot
from rl_motion.types import Scored, Unit

Held = Any
"""A trajectory, wherever it is: itself in one process, a reference on Ray. The loop passes it on unopened."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Units sampled and scored, in unit order.

    units: as they were asked for, without the prompts of `set_aside` (id -> reason), which nobody could work on.
    seconds: that workers spent, by stage.
    """

    units: Sequence[Unit]
    behaviour: Behaviour
    trajectories: Sequence[Held]
    scored: Sequence[Scored]
    set_aside: Mapping[str, str]
    seconds: Mapping[str, float]


class Backend(Protocol):
    """Both give the same numbers."""

    def start(self) -> Snapshot:
        """Make workers and learner; the untrained starting point."""

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learner back to a commit's version and state."""

    def ask(self, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
        """Have the units sampled with this adapter and scored; the answer is waited for by calling what is returned.

        Whoever asks for several batches gets them worked on in the order asked.
        """

    def learn(self, rollouts: Rollouts) -> Learned:
        """One update from all of them."""

    def scale(self, role: Role, workers: int, reason: str) -> None:
        """From now on so many workers, which changes the speed alone; returns at once, from any thread.

        Raises:
            UserError: this backend, or this pool, keeps its size.
        """

    def status(self) -> Status:
        """How things are; from any thread."""

    def close(self) -> None:
        """Let the workers go."""


def make_backend(job: Job, workshop: Workshop) -> Backend:
    """The backend that the job names."""
    if job.runtime.backend == "ray":
        from rl_motion.runtime.ray_backend import RayBackend

        return RayBackend(job, workshop)
    from rl_motion.runtime.local import LocalBackend

    return LocalBackend(job, workshop)
