"""The learners as Ray actors: they share an update in rounds (rl_motion/learner/rounds.py).

Nobody waits for a peer: a learner that fails, dies or hangs is the failure of its own call, which the driver sees. All
are then rebuilt from the last snapshot, in which nothing of the interrupted update survives.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from torch import Tensor

from rl_motion.config import RunFault
from rl_motion.runtime.pool import ATTEMPTS, SystemFault, given_up
from rl_motion.runtime.ray_calls import all_of
from rl_motion.runtime.sound import Arrival
from rl_motion.runtime.status import PoolStatus
from rl_motion.runtime.workers import Learned, Snapshot
from rl_motion.types import Unit

_log = logging.getLogger(__name__)


class Learners:
    """A fixed number of learners that change alike."""

    def __init__(
        self,
        spawn: Callable[[int], tuple[Any, Any]],
        size: int,
        units_per_step: int,
        deadline_s: float,
        say: Callable[[str], None],
    ) -> None:
        """Nothing is made before `start`.

        Args:
            spawn: makes the actor with this number and asks for its arrival; returns both.
            size: how many.
            units_per_step: units of an optimiser step, dealt out in turn.
            deadline_s: of one round; a learner that takes longer counts as hung.
            say: records an event.
        """
        self._spawn, self._size = spawn, size
        self._units_per_step = units_per_step
        self._deadline_s = deadline_s
        self._say = say
        self._inspect: Callable[[Snapshot], None] = lambda _: None
        self._actors: list[Any] = []
        self._arriving: list[Any] = []
        self._made = 0
        self._kept: Snapshot | None = None
        self._busy = False
        self.arrivals: list[Arrival] = []
        """Of the learners there are: where each is."""
        self._done = self._rows = 0
        self._busy_s = 0.0
        self._last_s: float | None = None
        self.retries = 0

    def start(self, check: Callable[[], None], inspect: Callable[[Snapshot], None]) -> Snapshot:
        """Make all; the untrained starting point, which is the same for all.

        `inspect` sees every learner's, those made anew later too; raises RunFault where it may not stay.

        Raises:
            RunFault: they died on their way too often, or are not alike.
        """
        self._inspect = inspect
        reasons: list[str] = []
        while len(reasons) < ATTEMPTS:
            try:
                return self._arrive(check)
            except SystemFault as fault:
                reasons.append(str(fault))
                self.close()
        raise given_up("starting the learners", reasons)

    def restore(self, version: int, state: bytes, check: Callable[[], None]) -> Snapshot:
        """Put all back to a commit's version and state; dead and hung ones are made anew.

        Raises:
            RunFault: they died too often.
        """
        reasons: list[str] = []
        while len(reasons) < ATTEMPTS:
            try:
                if reasons:
                    self.close()
                    self._arrive(check)
                restoring = [actor.restore.remote(version, state) for actor in self._actors]
                return self._keep(_agreed(all_of(restoring, self._deadline_s, check)))
            except SystemFault as fault:
                reasons.append(str(fault))
        raise given_up("restoring the learners", reasons)

    def learn(
        self,
        units: Sequence[Unit],
        rewards: Sequence[Tensor],
        behaviour: Any,
        trajectories: Sequence[Any],
        check: Callable[[], None],
    ) -> Learned:
        """One update from references to all trajectories; dead and hung learners are rebuilt and asked again.

        Raises:
            SystemFault: a trajectory is lost; the learners are as they were before.
            RunFault: learners died too often, or are no longer alike.
        """
        reasons: list[str] = []
        for _ in range(ATTEMPTS):
            started = time.monotonic()
            self._busy = True
            try:
                if reasons:
                    self._rebuild(check)
                learned = self._together(units, rewards, behaviour, trajectories, check)
            except SystemFault as fault:
                self.retries += 1
                if fault.lost:
                    # They may have made their last step, and not know that the update begins anew.
                    kept = self._kept
                    assert kept is not None
                    self.restore(kept.version, kept.state, check)
                    raise
                reasons.append(str(fault))
                self._say(f"a learner failed ({fault}); all are rebuilt from version {self._version}")
            else:
                self._count(time.monotonic() - started, units)
                self._keep(learned.snapshot)
                return learned
            finally:
                self._busy = False
        raise given_up("the update", reasons)

    def status(self) -> PoolStatus:
        """As numbers."""
        coming = len(self._arriving)
        return PoolStatus(
            role="learner",
            wanted=self._size,
            ready=len(self._actors) - coming,
            busy=len(self._actors) - coming if self._busy else 0,
            coming=coming,
            leaving=0,
            calls=self._done,
            rows=self._rows,
            busy_s=self._busy_s,
            recent_s=self._last_s,
            gpus=sum(arrival.gpus for arrival in self.arrivals),
        )

    def close(self) -> None:
        """End all."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._arriving = [], []

    @property
    def _version(self) -> int:
        return 0 if self._kept is None else self._kept.version

    def _together(
        self,
        units: Sequence[Unit],
        rewards: Sequence[Tensor],
        behaviour: Any,
        trajectories: Sequence[Any],
        check: Callable[[], None],
    ) -> Learned:
        """All in lock-step; gradients pass between them as references."""
        learners = self._actors
        shares: list[list[Any]] = [[] for _ in learners]
        for position, trajectory in enumerate(trajectories):
            shares[position % self._units_per_step % len(learners)].append(trajectory)
        turns = [
            learner.begin.options(num_returns=2).remote(behaviour, units, list(rewards), *share)
            for learner, share in zip(learners, shares, strict=True)
        ]
        while None in (ended := all_of([end for end, _ in turns], self._deadline_s, check)):
            said = [gradients for _, gradients in turns]
            turns = [learner.proceed.options(num_returns=2).remote(*said) for learner in learners]
        _check_alike(ended)
        learned: Learned = all_of([learners[0].learned.remote()], self._deadline_s, check)[0]
        return learned

    def _arrive(self, check: Callable[[], None]) -> Snapshot:
        for _ in range(self._size):
            self._made += 1
            actor, arriving = self._spawn(self._made)
            self._actors.append(actor)
            self._arriving.append(arriving)
        arrivals: list[Arrival] = all_of(self._arriving, check=check)
        self._arriving = []
        self.arrivals = arrivals
        snapshots = [arrival.answer for arrival in arrivals if isinstance(arrival.answer, Snapshot)]
        for snapshot in snapshots:  # one that is made anew may be on another kind of node
            self._inspect(snapshot)
        return self._keep(_agreed(snapshots))

    def _rebuild(self, check: Callable[[], None]) -> None:
        kept = self._kept
        assert kept is not None
        self.close()
        try:
            self._arrive(check)
        finally:
            self._kept = kept
        self.restore(kept.version, kept.state, check)

    def _count(self, seconds: float, units: Sequence[Unit]) -> None:
        self._done += 1
        self._rows += sum(unit.batch for unit in units)
        self._busy_s += seconds * len(self._actors)
        self._last_s = seconds

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._kept = snapshot
        return snapshot


def _agreed(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The learners' starting point, which is the same for all."""
    _check_alike([hashlib.sha256(snapshot.state).hexdigest() for snapshot in snapshots])
    return snapshots[0]


def _check_alike(states: Sequence[str]) -> None:
    """Raises RunFault where learners differ in any bit of what their next step depends on."""
    if len(set(states)) > 1:
        raise RunFault(
            f"got learners in different states ({', '.join(state[:12] for state in states)}); want the same bits in "
            "all, as they add the same gradients in the same order; resume the run with runtime.learner_workers=1, or "
            "on nodes of one kind"
        )
