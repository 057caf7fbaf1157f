"""The same workers as Ray actors. Ray is placement: nothing here computes.

    driver -- unit, adapter ref --> rollout actor -- trajectory ref --> reward actor --> rewards
                                          \\------- trajectory refs --------> learner actor --> Learned
                                                                             |  ^ unit gradients, by reference
                                                                        other learners

Trajectories pass from actor to actor as references; the driver holds none of them. What happens when something fails is
in flow.py for rollouts and rewards, in ray_learners.py for the learners. An application error stops the run at once,
with its own traceback.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from rl_motion.config import Job, RunFault, RuntimeConfig, UserError
from rl_motion.models.device import VARIABLE, stays_on_cpu
from rl_motion.runtime import autoscale
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.cluster import connect
from rl_motion.runtime.flow import Flow, Means
from rl_motion.runtime.gpus import gpu_shares
from rl_motion.runtime.pool import ATTEMPTS, Pool, SystemFault, given_up
from rl_motion.runtime.ray_actors import LearnerActor, RewardActor, RolloutActor
from rl_motion.runtime.ray_calls import RayCalls, nodes_resources, resources
from rl_motion.runtime.ray_learners import Learners
from rl_motion.runtime.status import Role, Status
from rl_motion.runtime.units import Batch
from rl_motion.runtime.workers import Behaviour, Environment, Learned, Snapshot
from rl_motion.types import Unit

_CLOSING_S = 10.0
_log = logging.getLogger(__name__)


class RayBackend:
    """Rollout pool, reward pool and learners, on the cluster of this process or on one of its own."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Connects; `start` makes the workers."""
        self._owns_cluster = connect()
        self._job = job
        self._gpu_shares = _gpu_shares(job.runtime)
        self._tag = f"{job.name}-{uuid.uuid4().hex[:4]}"
        workers, per_step = job.runtime, job.train.units_per_step
        if workers.learner_workers > per_step:
            _log.warning(
                "%d learners share %d units of an optimiser step: the others are idle; lower runtime.learner_workers",
                workers.learner_workers,
                per_step,
            )
        calls = RayCalls()
        rollout = self._spawner(RolloutActor, "rollout", workshop)
        reward = self._spawner(RewardActor, "reward", workshop)
        learner = self._spawner(LearnerActor, "learner", workshop)
        self._flow = Flow(
            calls,
            Pool("rollout", calls, rollout, self._inspect, workers.rollout_workers),
            Pool("reward", calls, reward, self._inspect_reward, workers.reward_workers),
            Means(
                sample=lambda actor, behaviour, unit: tuple(actor.sample_apart.remote(behaviour, unit)),
                score=lambda actor, unit, trajectory: (actor.score_apart.remote(unit, trajectory),) * 2,
                hand=ray.put,
                sign=lambda actor: actor.environment.remote(),
            ),
            workers.deadline_s,
        )
        self._learners = Learners(learner, workers.learner_workers, per_step, workers.deadline_s, self._flow.say)
        self._thread = threading.Thread(target=self._flow.run, name="flow", daemon=True)
        self._environment: Environment | None = None
        self._reward_environment: Environment | None = None
        self._answered: tuple[Rollouts, Batch] | None = None
        """The last answer: what is learned from, if it is. No other is held on to: validation's are dropped here."""
        self._least: dict[Role, int] = {"rollout": workers.rollout_workers, "reward": workers.reward_workers}
        """Sizes below which the controller does not go."""
        self._updates = 0
        self._marked: set[str] = set()
        """Roles that nodes were marked with once: where the last of these is lost, its successor is waited for."""

    def start(self) -> Snapshot:
        """Make all workers at once; the untrained starting point. Rollout and reward workers may still be on their way.

        Raises:
            RunFault: the workers' CPUs compute differently, so that the promise "same numbers" cannot hold.
        """
        self._thread.start()
        return self._learners.start(self._flow.check, self._inspect)

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Put the learners back to a commit's version and state."""
        return self._learners.restore(version, state, self._flow.check)

    def ask(self, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
        """Have every unit sampled with this adapter and scored; whoever is free takes the next."""
        batch = self._flow.ask(units, behaviour)

        def answer() -> Rollouts:
            rollouts = self._flow.result(batch)
            self._answered = rollouts, batch
            return rollouts

        return answer

    def learn(self, rollouts: Rollouts) -> Learned:
        """One update from all of them."""
        answered, self._answered = self._answered, None
        if answered is None or answered[0] is not rollouts:
            raise ValueError("got rollouts other than the last answer; want these; learn before the next answer")
        batch = answered[1]
        reasons: list[str] = []
        while len(reasons) < ATTEMPTS:
            totals = [scored.total_B for scored in rollouts.scored]
            try:
                learned = self._learners.learn(
                    rollouts.units, totals, batch.handle, rollouts.trajectories, self._flow.check
                )
            except SystemFault as fault:
                reasons.append(str(fault))
                self._flow.again(batch)
                before, rollouts = rollouts.set_aside, self._flow.result(batch)
                poisoned = sorted(rollouts.set_aside.keys() - before.keys())
                if poisoned:  # the loop has counted them already; the next process meets them where it asks
                    raise RunFault(
                        f"got prompts that no worker survives, {poisoned}, when lost trajectories were sampled again; "
                        "want them known before the update; resume the run"
                    ) from fault
            else:
                self._updates += 1
                self._consider(len(rollouts.units))
                return learned
        raise given_up("the update", reasons)

    def scale(self, role: Role, workers: int, reason: str) -> None:
        """From now on so many workers.

        Raises:
            UserError: learners keep their number.
        """
        if role == "learner":
            raise UserError(
                f"got {workers} learner workers for a run under way; want them kept, as all hold one state; end the "
                f"run and resume it with --set runtime.learner_workers={workers}"
            )
        # What somebody asked for is what the controller leaves alone from now on.
        self._least[role] = workers
        self._resize(role, workers, reason)

    def status(self) -> Status:
        """How things are."""
        flow = self._flow
        waiting, flying, oldest_s = flow.counts()
        retries = {**flow.retries, "learner": self._learners.retries}
        return Status(
            pools=(*(pool.status() for pool in flow.pools.values()), self._learners.status()),
            waiting=waiting,
            in_flight=flying,
            oldest_s=oldest_s,
            retries={reason: count for reason, count in retries.items() if count},
            speculated=flow.speculated,
            bytes_moved=flow.bytes_moved,
            events=tuple(flow.events),
        )

    def close(self) -> None:
        """Let the workers go; shut Ray down where this run started it."""
        self._flow.close()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_S)
        for pool in self._flow.pools.values():
            pool.close()
        self._learners.close()
        if self._owns_cluster:
            ray.shutdown()

    def _resize(self, role: Role, workers: int, reason: str) -> None:
        pool = self._flow.pools[role]
        if workers != pool.wanted:
            self._flow.say(f"{role} workers {pool.wanted} -> {workers}: {reason}")
            pool.wanted = workers

    def _consider(self, units: int) -> None:
        """Every few iterations: whether other sizes of the pools would pay, within the job's bounds."""
        limits = self._job.runtime
        if limits.max_rollout_workers is None and limits.max_reward_workers is None:
            return
        rollout, reward = self._flow.pools["rollout"], self._flow.pools["reward"]
        rollout_s, reward_s, learner_s = rollout.recent_s, reward.recent_s, self._learners.status().recent_s
        if self._updates % autoscale.EVERY or rollout_s is None or reward_s is None or learner_s is None:
            return
        measured = autoscale.Measured(units, rollout_s, reward_s, learner_s, limits.lag > 0)
        bounds = (
            self._bounds("rollout", limits.max_rollout_workers),
            self._bounds("reward", limits.max_reward_workers),
        )
        decision = autoscale.decide((rollout.wanted, reward.wanted), bounds, measured)
        if decision is not None:
            self._resize("rollout", decision.rollout_workers, decision.reason)
            self._resize("reward", decision.reward_workers, decision.reason)

    def _bounds(self, role: Role, most: int | None) -> range:
        least = self._least[role]
        return range(least, max(least, most or 0) + 1)

    def _inspect(self, answer: Snapshot | Environment) -> None:
        """Every worker computes like the first that arrived, the learner as a rule."""
        environment = answer.environment if isinstance(answer, Snapshot) else answer
        self._environment = self._environment or environment
        _check_same(environment, self._environment)

    def _inspect_reward(self, environment: Environment) -> None:
        """Reward workers compute alike; on what device is their own affair, as nobody replays a reward."""
        self._reward_environment = self._reward_environment or environment
        _check_same(environment, self._reward_environment)
        known = self._environment
        if known is not None:
            _check_same(environment, replace(known, device=environment.device))

    def _spawner(self, kind: type, role: Role, workshop: Workshop) -> Callable[[int], tuple[Any, Any]]:
        """Makes actors of this kind, with names that explain themselves in Ray's dashboard."""

        def spawn(number: int) -> tuple[Any, Any]:
            offered = resources()
            self._marked |= offered.keys() & {role}
            options = _place(role in self._marked, role, self._job.runtime.threads, self._workers(), offered)
            options["num_gpus"] = self._gpu_shares[role]
            name = f"{self._tag}/{role}-{number}"
            actor: Any = ray.remote(kind).options(name=name, **options).remote(self._job, workshop)
            return actor, actor.arrive.remote()

        return spawn

    def _workers(self) -> int:
        return sum(pool.wanted for pool in self._flow.pools.values()) + self._job.runtime.learner_workers


def _gpu_shares(sizes: RuntimeConfig) -> Mapping[Role, float]:
    """Settled when a run starts: who takes another's place claims what that one had."""
    workers: dict[Role, int] = {
        "rollout": max(sizes.rollout_workers, sizes.max_rollout_workers or 0),
        "reward": max(sizes.reward_workers, sizes.max_reward_workers or 0),
        "learner": sizes.learner_workers,
    }
    nodes = [] if stays_on_cpu() else nodes_resources()
    return gpu_shares(workers, nodes, {role for role in workers if any(role in node for node in nodes)})


def _place(marked: bool, role: Role, threads: int, workers: int, offered: Mapping[str, float]) -> dict[str, Any]:
    """What an actor claims of the cluster.

    Where nodes are marked with the custom resource `role`, it goes there, with a core for each of its threads, and
    waits for room: that is the demand which Ray's autoscaler meets with new nodes. Elsewhere it goes anywhere, and
    claims cores only if there are enough for all workers: on a small machine fewer cores change the speed alone.
    """
    options: dict[str, Any] = {"num_cpus": threads, "scheduling_strategy": "SPREAD"}
    if marked:
        options["resources"] = {role: 0.001}
    elif 0 < offered.get("CPU", 0.0) < threads * workers:
        options["num_cpus"] = 0
    return options


def _check_same(got: Environment, want: Environment) -> None:
    if got != want:
        raise RunFault(
            f"got a worker with {got}; want {want}, the learner's, or numbers depend on who computes them; "
            "use nodes of one kind, or set ATEN_CPU_CAPABILITY=default on all and, where their GPUs differ, "
            f"{VARIABLE}=cpu, and resume the run"
        )
