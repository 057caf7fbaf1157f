"""The same workers as Ray actors. Ray is placement: nothing here computes.

    driver -- unit, adapter ref --> rollout actor -- trajectory ref --> reward actor --> Scored
                                          \\------- trajectory refs --------> learner actor --> Learned
                                                                             |  ^ unit gradients, by reference
                                                                        other learners

Trajectories pass from actor to actor as references; the driver holds none of them. A system error (a dead
actor or node, a lost object) costs time only: the unit is sampled again by a fresh actor and, being keyed by
what it is and not by who computes it, comes out the same. An application error stops the run at once, with
its own traceback.

Learners share an update in rounds (rl_motion/learner/rounds.py). Nobody waits for a peer: a learner that fails or dies
is the failure of its own call, which the driver sees at once.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from torch import Tensor

from rl_motion.config import Job, RunFault
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.cluster import connect
from rl_motion.runtime.ray_calls import ATTEMPTS, SystemFault, all_of, any_of, get, given_up, resources
from rl_motion.runtime.reward_metrics import warn_of_rewards
from rl_motion.runtime.workers import (
    Environment,
    Learned,
    LearnerWorker,
    RewardWorker,
    RolloutWorker,
    Snapshot,
    warned,
)
from rl_motion.types import Scored, Trajectory, Unit

_log = logging.getLogger(__name__)

Call = Callable[[Any], tuple[Any, ...]]
"""Submits one call to an actor; the first reference returned says that it is done, the last is its result."""


@dataclass(slots=True)
class Held:
    """A unit and where its trajectory is."""

    unit: Unit
    ref: Any


class RolloutActor(RolloutWorker):
    """A rollout worker whose caller can see that it is done without receiving the trajectory."""

    @ray.method(num_returns=2)
    def sample_apart(self, version: int, sha256: str, adapter: bytes, unit: Unit) -> tuple[Environment, Trajectory]:
        """Where the unit was sampled, and its trajectory, as two objects."""
        return self.environment(), self.sample(version, sha256, adapter, unit)


@dataclass
class Pool:
    """Actors of one kind: those at work, and those on their way. Dead ones are replaced.

    Work never waits for an actor that is on its way while another is there: on a cluster that lost a node the
    replacement may take minutes to find a place, or never find one.
    """

    spawn: Callable[[], Any]
    size: int
    inspect: Callable[[Any], None]
    """Sees the answer of every actor that comes in, replacements too; raises RunFault where it may not stay."""
    actors: list[Any] = field(default_factory=list)
    coming: dict[Any, Any] = field(default_factory=dict)
    """By the reference of what they answer once they are ready."""
    deaths: int = 0
    """Actors that died on their way, one after the other."""

    def fill(self) -> None:
        """Start what is missing."""
        for _ in range(self.size - len(self.actors) - len(self.coming)):
            actor = self.spawn()
            self.coming[actor.prepare.remote()] = actor

    def replace(self, actor: Any) -> None:
        """End an actor, dead or doubtful, and start another."""
        self.actors.remove(actor)
        ray.kill(actor)
        self.fill()

    def admit(self, ready: Any) -> Any:
        """Take in the actor that answered; None where it died on its way and another was started.

        Raises:
            RunFault: too many died on their way, or `inspect` refused it.
        """
        actor = self.coming.pop(ready)
        try:
            answer = get(ready)
        except SystemFault as fault:
            self.deaths += 1
            if self.deaths == ATTEMPTS:
                raise given_up(f"starting a worker ({fault})") from fault
            self.fill()
            return None
        self.deaths = 0
        self.actors.append(actor)
        self.inspect(answer)
        return answer

    def admit_all(self) -> list[Any]:
        """Wait for all that are on their way; returns what they answered."""
        answers = []
        while self.coming:
            answers += [self.admit(ready) for ready in any_of(list(self.coming))]
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        """End all."""
        for actor in (*self.actors, *self.coming.values()):
            ray.kill(actor)
        self.actors.clear()
        self.coming.clear()


class RayBackend:
    """Rollout pool, reward pool and learners, on the cluster of this process or on one of its own."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Connects; `start` makes the workers."""
        self._owns_cluster = connect()
        workers = job.runtime
        self._units_per_step = job.train.units_per_step
        if workers.learner_workers > self._units_per_step:
            _log.warning(
                "%d learners share %d units of an optimiser step: the others are idle; lower runtime.learner_workers",
                workers.learner_workers,
                self._units_per_step,
            )
        self._rollout = Pool(_spawner(RolloutActor, job, workshop, "rollout"), workers.rollout_workers, self._inspect)
        self._reward = Pool(_spawner(RewardWorker, job, workshop, "reward"), workers.reward_workers, self._inspect)
        self._learner = Pool(_spawner(LearnerWorker, job, workshop, "learner"), workers.learner_workers, self._inspect)
        self._environment: Environment | None = None
        self._kept: Snapshot
        self._asked: tuple[Sequence[Unit], tuple[int, str, Any]]

    def start(self) -> Snapshot:
        """Make all workers at once; the untrained starting point.

        Raises:
            RunFault: the workers' CPUs compute differently, so that the promise "same numbers" cannot hold.
        """
        for pool in (self._learner, self._rollout, self._reward):
            pool.fill()
        snapshots = self._learner.admit_all()
        for pool in (self._rollout, self._reward):
            pool.admit_all()
        return self._keep(_agreed(snapshots))

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learners back to a commit's version and state."""
        return self._keep(_agreed(all_of([actor.restore.remote(version, state) for actor in self._learner.actors])))

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
                scored = [result for result, _ in _scatter(self._reward, calls)]
            except SystemFault as fault:
                self._sample_again(trajectories, fault)
            else:
                warn_of_rewards(scored, [held.unit for held in trajectories])
                return scored
        raise given_up("scoring")

    def learn(self, trajectories: list[Held], rewards: Sequence[Tensor]) -> Learned:
        """One update from all of them; dead learners are rebuilt from the last snapshot and asked again."""
        cause: SystemFault | None = None
        for _ in range(ATTEMPTS):
            try:
                learned = self._learn_together(trajectories, rewards)
            except SystemFault as fault:
                cause = fault
                if fault.lost:
                    self._sample_again(trajectories, fault)
                else:
                    self._replace_learners(fault)
                # The snapshot is that of the last commit: nothing of the interrupted update survives in it.
                for actor in self._learner.actors:
                    actor.restore.remote(self._kept.version, self._kept.state)
            else:
                self._keep(learned.snapshot)
                return warned(learned)
        raise given_up(f"the update ({cause})") from cause

    def close(self) -> None:
        """Let the workers go; shut Ray down where this run started it."""
        for pool in (self._rollout, self._reward, self._learner):
            pool.close()
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

    def _learn_together(self, trajectories: Sequence[Held], rewards: Sequence[Tensor]) -> Learned:
        """All learners in lock-step; gradients pass between them as references.

        Raises:
            SystemFault: one of them died, or an object that it needs is lost.
            RunFault: they are no longer alike.
        """
        learners, units = self._learner.actors, [held.unit for held in trajectories]
        shares: list[list[Any]] = [[] for _ in learners]
        for position, held in enumerate(trajectories):
            shares[position % self._units_per_step % len(learners)].append(held.ref)
        turns = [
            learner.begin.options(num_returns=2).remote(units, list(rewards), *share)
            for learner, share in zip(learners, shares, strict=True)
        ]
        while None in (ended := all_of([end for end, _ in turns])):
            said = [gradients for _, gradients in turns]
            turns = [learner.proceed.options(num_returns=2).remote(*said) for learner in learners]
        _check_alike(ended)
        learned: Learned = get(learners[0].learned.remote())
        return learned

    def _replace_learners(self, fault: SystemFault) -> None:
        _log.warning("a learner died (%s); rebuilding all from their last snapshot", fault)
        for actor in list(self._learner.actors):
            self._learner.replace(actor)
        self._learner.admit_all()

    def _inspect(self, answer: Snapshot | Environment) -> None:
        """Every worker computes like the first learner, which `start` admits before all others."""
        environment = answer.environment if isinstance(answer, Snapshot) else answer
        self._environment = self._environment or environment
        _check_same(environment, self._environment)

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._kept = snapshot
        return snapshot


def _spawner(kind: type, job: Job, workshop: Workshop, role: str) -> Callable[[], Any]:
    """How to start one actor of this kind: on nodes with the custom resource `role`, where there are any."""
    cluster = resources()
    workers = job.runtime.rollout_workers + job.runtime.reward_workers + job.runtime.learner_workers
    cores, wanted = cluster.get("CPU", 0.0), job.runtime.threads
    # Claim what is used where the cluster has it, or has yet to grow; a fair share of it where it is too small,
    # since fewer cores change the speed alone.
    cpus = wanted if cores == 0 or wanted * workers <= cores else int(cores / workers * 100) / 100
    options: dict[str, Any] = {
        "num_cpus": cpus if cpus < 1 else int(cpus),
        "scheduling_strategy": "SPREAD",
    }
    if role in cluster:
        options["resources"] = {role: 0.001}
    actor: Any = ray.remote(kind).options(**options)
    return lambda: actor.remote(job, workshop)


def _sampling(version: int, sha256: str, adapter: Any, unit: Unit) -> Call:
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
        done = any_of([*running, *pool.coming])[0]
        if done in pool.coming:
            idle += [pool.actors[-1]] if pool.admit(done) is not None else []
            continue
        index, actor, result = running.pop(done)
        try:
            results[index] = (get(done), result)
            idle.append(actor)
        except SystemFault as fault:
            if fault.lost:
                raise
            failures[index] += 1
            if failures[index] == ATTEMPTS:
                raise given_up(f"a unit of work ({fault})") from fault
            _log.warning("a worker died (%s); its unit goes to another", fault)
            pool.replace(actor)
            waiting.appendleft(index)
    return results


def _check_same(got: Environment, want: Environment) -> None:
    if got != want:
        raise RunFault(
            f"got a worker with {got}; want {want}, the learner's, or numbers depend on who computes them; "
            "use nodes of one kind, or set ATEN_CPU_CAPABILITY=default on all, and resume the run"
        )


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
