"""The same workers as Ray actors. Ray is placement: nothing here computes.

    driver -- unit, adapter ref --> rollout actor -- trajectory ref --> reward actor --> Scored
                                          \\------- trajectory refs --------> learner actor --> Learned

Trajectories pass from actor to actor as references; the driver holds none of them. A system error (a dead actor or
node, a lost object) costs time only: the unit is sampled again by a fresh actor and, being keyed by what it is and not
by who computes it, comes out the same. An application error stops the run at once, with its own traceback.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions
from torch import Tensor

from rl_motion.config import Job, RunFault, UserError
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.workers import (
    Environment,
    Learned,
    LearnerWorker,
    RewardWorker,
    RolloutWorker,
    Snapshot,
)
from rl_motion.types import Scored, Trajectory, Unit

ATTEMPTS = 4
"""How often one call is tried before a run gives up on its system errors."""

_SYSTEM_ERRORS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
)
_CONNECT_WAIT_S = 60.0
_log = logging.getLogger(__name__)

Call = Callable[[Any], tuple[Any, ...]]
"""Submits one call to the actor given; returns references: first of what says that it is done, last of its result."""


@dataclass(slots=True)
class Held:
    """A unit and where its trajectory is."""

    unit: Unit
    ref: Any


class SystemFault(RunFault):
    """A call failed because of the machines, not because of the code; `lost` when an object it needed is gone."""

    def __init__(self, cause: BaseException) -> None:
        """Keep what Ray said."""
        super().__init__(str(cause).strip().splitlines()[0])
        self.lost = isinstance(cause, exceptions.ObjectLostError)


class RolloutActor(RolloutWorker):
    """A rollout worker whose caller can see that it is done without receiving the trajectory."""

    @ray.method(num_returns=2)
    def sample_apart(
        self, version: int, sha256: str, adapter: bytes, unit: Unit
    ) -> tuple[Environment, Trajectory]:
        """Where the unit was sampled, and its trajectory, as two objects."""
        return self.environment(), self.sample(version, sha256, adapter, unit)


@dataclass
class Pool:
    """Actors of one kind; dead ones are replaced."""

    spawn: Callable[[], Any]
    size: int
    actors: list[Any] = field(default_factory=list)

    def fill(self) -> None:
        """Start what is missing."""
        self.actors += [self.spawn() for _ in range(self.size - len(self.actors))]

    def replace(self, actor: Any) -> Any:  # noqa: ANN401 - Ray's handles have no type
        """End an actor, dead or doubtful, and start another."""
        self.actors.remove(actor)
        ray.kill(actor)
        self.actors.append(self.spawn())
        return self.actors[-1]


class RayBackend:
    """Rollout pool, reward pool and learner on the cluster this process belongs to, else on one of its own."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Connects; `start` makes the workers."""
        self._owns_cluster = connect()
        self._rollout = Pool(_spawner(RolloutActor, job, workshop, "rollout"), job.runtime.rollout_workers)
        self._reward = Pool(_spawner(RewardWorker, job, workshop, "reward"), job.runtime.reward_workers)
        self._learner = Pool(_spawner(LearnerWorker, job, workshop, "learner"), 1)
        self._kept: Snapshot
        self._asked: tuple[Sequence[Unit], tuple[int, str, Any]]

    def start(self) -> Snapshot:
        """Make all workers at once; the untrained starting point.

        Raises:
            RunFault: the workers' CPUs compute differently, so that the promise "same numbers" cannot hold.
        """
        pools = (self._rollout, self._reward, self._learner)
        for pool in pools:
            pool.fill()
        ready = [actor.prepare.remote() for pool in pools for actor in pool.actors]
        _wait_for_actors(ready)
        *environments, snapshot = [_get(ref) for ref in ready]
        for environment in environments:
            _check_same(environment, snapshot.environment)
        return self._keep(snapshot)

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learner back to a commit's version and state."""
        return self._keep(_get(self._learner.actors[0].restore.remote(version, state)))

    def rollout(self, units: Sequence[Unit], snapshot: Snapshot) -> list[Held]:
        """Sample every unit with this adapter, whoever is free takes the next; results in unit order."""
        adapter = ray.put(snapshot.adapter)
        self._asked = (units, (snapshot.version, snapshot.sha256, adapter))
        return self._sample()

    def score(self, trajectories: list[Held]) -> list[Scored]:
        """Rewards of every trajectory, in the same order."""
        for _ in range(ATTEMPTS):
            calls: list[Call] = [_scoring(held) for held in trajectories]
            try:
                return [scored for scored, _ in _scatter(self._reward, calls)]
            except SystemFault as fault:
                self._sample_again(trajectories, fault)
        raise _given_up("scoring")

    def learn(self, trajectories: list[Held], advantages: Sequence[Tensor]) -> Learned:
        """One update from all of them; a learner that died is rebuilt from the last snapshot and asked again."""
        for _ in range(ATTEMPTS):
            learner = self._learner.actors[0]
            try:
                learned: Learned = _get(
                    learner.learn.remote(list(advantages), *(held.ref for held in trajectories))
                )
            except SystemFault as fault:
                if fault.lost:
                    self._sample_again(trajectories, fault)
                else:
                    self._rebuild_learner(fault)
            else:
                self._keep(learned.snapshot)
                return learned
        raise _given_up("the update")

    def close(self) -> None:
        """Let the workers go; shut Ray down where this run started it."""
        for pool in (self._rollout, self._reward, self._learner):
            for actor in pool.actors:
                ray.kill(actor)
            pool.actors.clear()
        if self._owns_cluster:
            ray.shutdown()

    def _sample(self) -> list[Held]:
        units, (version, sha256, adapter) = self._asked
        done = _scatter(self._rollout, [_sampling(version, sha256, adapter, unit) for unit in units])
        for environment, _ in done:
            _check_same(environment, self._kept.environment)
        return [Held(unit, ref) for unit, (_, ref) in zip(units, done, strict=True)]

    def _sample_again(self, trajectories: list[Held], fault: SystemFault) -> None:
        """Trajectories died with their node: the same units give the same trajectories."""
        _log.warning("trajectories were lost (%s); sampling them again", fault)
        trajectories[:] = self._sample()

    def _rebuild_learner(self, fault: SystemFault) -> None:
        _log.warning("the learner died (%s); rebuilding it from its last snapshot", fault)
        learner = self._learner.replace(self._learner.actors[0])
        # The snapshot is that of the last commit: nothing of the interrupted update survives in it.
        learner.restore.remote(self._kept.version, self._kept.state)

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._kept = snapshot
        return snapshot


def connect() -> bool:
    """Join the cluster of a submitted job or of RAY_ADDRESS, else start one on this machine.

    Returns:
        True where this process started the cluster and has to end it.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        ray.init(**quiet)
        return False
    # A cluster on loopback for this process alone: no token, no usage report, no dashboard.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, **quiet)
    return True


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def _spawner(kind: type, job: Job, workshop: Workshop, role: str) -> Callable[[], Any]:
    """How to start one actor of this kind: on the nodes that offer the custom resource `role`, if any does."""
    cluster = _resources()
    workers = job.runtime.rollout_workers + job.runtime.reward_workers + 1
    wanted = job.runtime.threads
    # Claim what is used where the cluster has it; a fair share where it has not: fewer cores change the speed alone.
    cpus = (
        wanted
        if wanted * workers <= cluster.get("CPU", 0)
        else int(cluster.get("CPU", 0) / workers * 100) / 100
    )
    options: dict[str, Any] = {
        "num_cpus": cpus if cpus < 1 else int(cpus),
        "scheduling_strategy": "SPREAD",
    }
    if role in cluster:
        options["resources"] = {role: 0.001}
    actor: Any = ray.remote(kind).options(**options)
    return lambda: actor.remote(job, workshop)


def _sampling(version: int, sha256: str, adapter: Any, unit: Unit) -> Call:  # noqa: ANN401 - a reference
    return lambda actor: tuple(actor.sample_apart.remote(version, sha256, adapter, unit))


def _scoring(held: Held) -> Call:
    return lambda actor: (actor.score.remote(held.ref),)


def _scatter(pool: Pool, calls: Sequence[Call]) -> list[tuple[Any, Any]]:
    """Make every call on whichever actor is free.

    Returns:
        For each call, the value of its first reference, and its last reference.

    Raises:
        SystemFault: an object that a call needs is lost.
        RunFault: a call failed `ATTEMPTS` times for reasons of the system.
    """
    results: list[Any] = [None] * len(calls)
    waiting, idle = deque(range(len(calls))), list(pool.actors)
    running: dict[Any, tuple[int, Any, Any]] = {}
    failures: Counter[int] = Counter()
    while waiting or running:
        while waiting and idle:
            index, actor = waiting.popleft(), idle.pop()
            refs = calls[index](actor)
            running[refs[0]] = (index, actor, refs[-1])
        (done, *_), _ = ray.wait(list(running), num_returns=1, fetch_local=False)
        index, actor, result = running.pop(done)
        try:
            results[index] = (_get(done), result)
        except SystemFault as fault:
            if fault.lost:
                raise
            failures[index] += 1
            if failures[index] == ATTEMPTS:
                raise _given_up(f"a unit of work ({fault})") from fault
            _log.warning("a worker died (%s); its unit goes to another", fault)
            actor = pool.replace(actor)
            waiting.appendleft(index)
        idle.append(actor)
    return results


def _get(ref: Any) -> Any:  # noqa: ANN401 - a reference and what it stands for
    """The value, or the error that the user should see."""
    try:
        return ray.get(ref)
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, _SYSTEM_ERRORS):
            raise SystemFault(cause) from None
        if isinstance(cause, UserError | RunFault):
            raise cause from None
        raise
    except _SYSTEM_ERRORS as error:
        raise SystemFault(error) from None


def _wait_for_actors(ready: list[Any]) -> None:
    """Until all have answered; says what it waits for, as a cluster may take minutes to grow."""
    while True:
        _, missing = ray.wait(ready, num_returns=len(ready), timeout=_CONNECT_WAIT_S)
        if not missing:
            return
        _log.warning(
            "waiting for %d of %d workers; the cluster offers %s",
            len(missing),
            len(ready),
            _resources(),
        )


def _check_same(got: Environment, want: Environment) -> None:
    if got != want:
        raise RunFault(
            f"got a worker with {got}; want {want}, the learner's, or numbers depend on who computes them; "
            "use nodes of one kind, or set ATEN_CPU_CAPABILITY=default on all, and resume the run"
        )


def _given_up(what: str) -> RunFault:
    return RunFault(
        f"{what} failed {ATTEMPTS} times because workers or nodes died; look at `ray status` and resume the run"
    )
