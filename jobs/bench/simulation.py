"""A discrete-event model of a run: rollout, reward and learner pools, and the one driver that gives them work.

It is what `rl_motion/runtime/flow.py`, `loop.py` and `ray_learners.py` do, without doing it:

    driver  one thread. A turn looks at the calls that are done, of which each costs it `answer_s`; looking costs
            `turn_s` and `watched_s` for every call under way. What is free gets the next unit.
    worker  hears of a call, and is heard of, `latency_s` later in all. A rollout's duration varies by `spread`.
    update  `update_s`, and on every learner the trajectories and the work of its share of each optimiser step; with
            several learners each reads the gradients of all units (`rl_motion/learner/rounds.py`).
    loop    asks for the units of `lag` iterations ahead, waits for those of this one, updates.

`scale.py` takes the costs from this machine, checks the model against what the real path takes there with sixteen
workers, and asks it about more.

Legend: seconds of one unit throughout, where nothing else is said.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

WARM = 2
"""Iterations that are left out at the start of a simulated run, and as many as its lag at its end."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Workers of each role; on GPUs, one GPU for each."""

    rollout: int
    reward: int
    learner: int

    @property
    def gpus(self) -> int:
        """Of all pools: throughput is per GPU of any role."""
        return self.rollout + self.reward + self.learner


@dataclass(frozen=True, slots=True)
class Work:
    """What a unit asks of each pool.

    rollout_s, reward_s, learn_s: of one unit on one worker. spread: standard deviation of a rollout's seconds over
    their mean (log-normal). rows: motions of a unit.
    """

    rollout_s: float
    reward_s: float
    learn_s: float
    spread: float = 0.0
    rows: int = 32

    @property
    def gpu_s(self) -> float:
        """Of all GPUs together: no pools of any size do better than a unit in so many."""
        return self.rollout_s + self.reward_s + self.learn_s


@dataclass(frozen=True, slots=True)
class Costs:
    """What running it adds.

    turn_s, watched_s: of a turn of the driver, and of it for every call under way. answer_s: of the driver, for every
    call that is done (it takes the answer and begins another). latency_s: from the driver to a worker and back.
    update_s: of an update whatever its size: advantages, snapshot, commit. step_s: of an optimiser step of several
    learners. fetch_s: a trajectory to a learner. exchange_s: a unit's gradient to another learner.
    """

    turn_s: float = 0.0
    watched_s: float = 0.0
    answer_s: float = 0.0
    latency_s: float = 0.0
    update_s: float = 0.0
    step_s: float = 0.0
    fetch_s: float = 0.0
    exchange_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What an iteration is: its units, its optimiser steps, and how far rollouts are ahead of the learner."""

    units: int
    steps: int = 1
    lag: int = 0
    iterations: int = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """A simulated run once it is under way.

    iteration_s: mean seconds between two ends of iterations. busy: share of that time at work, of each pool and of the
    driver. update_s: of one update. motions_per_gpu_s: per GPU of all pools. efficiency: of what as many GPUs do that
    are never idle.
    """

    iteration_s: float
    busy: Mapping[str, float]
    update_s: float
    motions_per_gpu_s: float
    efficiency: float


def update_seconds(pools: Pools, work: Work, costs: Costs, plan: Plan) -> float:
    """Of one update by all learners: the slowest of them, step by step."""
    per_step = math.ceil(plan.units / plan.steps)
    learners = min(pools.learner, per_step)
    share = math.ceil(per_step / learners)
    together = costs.step_s + costs.exchange_s * (per_step - share) if learners > 1 else 0.0
    return costs.update_s + plan.steps * (share * (costs.fetch_s + work.learn_s) + together)


@dataclass
class _Batch:
    """The units of an iteration that are not done, and those that nobody has sampled yet."""

    missing: int
    done_s: float = math.inf


@dataclass
class _Flow:
    """The driver's thread and the two pools behind it."""

    pools: Pools
    work: Work
    costs: Costs
    random: np.random.Generator
    free_s: float = 0.0
    """When the driver can turn to the next answers."""
    busy_s: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0, "driver": 0.0})
    idle: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, deque[_Batch]] = field(default_factory=lambda: {"rollout": deque(), "reward": deque()})
    heard: list[tuple[float, int, str, _Batch]] = field(default_factory=list)
    """Calls under way: when the driver can hear of them, in that order."""
    begun: int = 0

    def __post_init__(self) -> None:
        """All workers are there and idle."""
        self.idle = {"rollout": self.pools.rollout, "reward": self.pools.reward}

    def ask(self, units: int, now_s: float) -> _Batch:
        """Units of a batch, behind those asked for before."""
        batch = _Batch(units)
        self.waiting["rollout"].extend([batch] * units)
        self._give_out(max(self.free_s, now_s))
        return batch

    def until(self, batch: _Batch, at_least_s: float) -> float:
        """Go on until a batch is done; returns when whoever waits since `at_least_s` knows it."""
        while batch.missing:
            self._turn()
        return max(batch.done_s, at_least_s)

    def pass_time(self, until_s: float) -> None:
        """Go on with what happens before this moment."""
        while self.heard and max(self.free_s, self.heard[0][0]) <= until_s:
            self._turn()

    def _turn(self) -> None:
        """Hear of every call that is done by now, or of the next one."""
        costs, now_s = self.costs, max(self.free_s, self.heard[0][0])
        answers = []
        looked_s = costs.turn_s + costs.watched_s * len(self.heard)
        while self.heard and self.heard[0][0] <= now_s:
            answers.append(heapq.heappop(self.heard))
        spent_s = looked_s + costs.answer_s * len(answers)
        self.busy_s["driver"] += spent_s
        self.free_s = now_s + spent_s
        for number, (_, _, role, batch) in enumerate(answers, start=1):
            self.idle[role] += 1
            if role == "rollout":
                self.waiting["reward"].append(batch)
                continue
            batch.missing -= 1
            if not batch.missing:
                batch.done_s = now_s + looked_s + costs.answer_s * number
        self._give_out(self.free_s)

    def _give_out(self, now_s: float) -> None:
        for role, queue in self.waiting.items():
            while queue and self.idle[role]:
                self.idle[role] -= 1
                seconds = self._duration(role)
                self.busy_s[role] += seconds
                self.begun += 1
                call = (now_s + self.costs.latency_s + seconds, self.begun, role, queue.popleft())
                heapq.heappush(self.heard, call)

    def _duration(self, role: str) -> float:
        mean_s = self.work.rollout_s if role == "rollout" else self.work.reward_s
        if role == "reward" or not self.work.spread:
            return mean_s
        sigma = math.sqrt(math.log1p(self.work.spread**2))
        return float(mean_s * math.exp(sigma * self.random.standard_normal() - sigma**2 / 2))


def simulate(pools: Pools, work: Work, costs: Costs, plan: Plan, seed: int = 0) -> Outcome:
    """A run of `plan.iterations` iterations, after `WARM` of them.

    Raises:
        ValueError: too few iterations.
    """
    if plan.iterations <= WARM + plan.lag:
        raise ValueError(f"got {plan.iterations} iterations; want more than {WARM + plan.lag}")
    flow = _Flow(pools, work, costs, np.random.default_rng(seed))
    ahead: deque[_Batch] = deque()
    now_s, ends = 0.0, [0.0]
    update_s = update_seconds(pools, work, costs, plan)
    marks: list[dict[str, float]] = [dict(flow.busy_s)]
    for iteration in range(plan.iterations):
        flow.pass_time(now_s)
        while len(ahead) <= plan.lag and iteration + len(ahead) < plan.iterations:
            ahead.append(flow.ask(plan.units, now_s))
        now_s = flow.until(ahead.popleft(), now_s) + update_s
        flow.pass_time(now_s)
        ends.append(now_s)
        marks.append(dict(flow.busy_s))
    first, last = WARM, plan.iterations - plan.lag
    spent_s, count = ends[last] - ends[first], last - first
    workers = {"rollout": pools.rollout, "reward": pools.reward, "driver": 1}
    busy = {role: (marks[last][role] - marks[first][role]) / spent_s / many for role, many in workers.items()}
    busy["learner"] = count * plan.units * work.learn_s / spent_s / pools.learner
    rate = count * plan.units / spent_s / pools.gpus
    return Outcome(spent_s / count, busy, update_s, rate * work.rows, rate * work.gpu_s)


def shared_out(gpus: int, work: Work, *, one_step_off: bool) -> Pools:
    """How so many GPUs are best dealt out where nothing but the work counts, at least one to each role.

    One step off, all pools work at once: each has GPUs as its work is. Synchronously the learners wait while the others
    work, and the others while they learn: by the square roots.
    """
    if gpus < 3:
        raise ValueError(f"got {gpus} GPUs; want 3 at least, one for each pool")
    sampled = work.rollout_s + work.reward_s
    share = work.learn_s / work.gpu_s
    if not one_step_off:
        share = math.sqrt(work.learn_s) / (math.sqrt(work.learn_s) + math.sqrt(sampled))
    learner = min(max(round(gpus * share), 1), gpus - 2)
    reward = min(max(round((gpus - learner) * work.reward_s / sampled), 1), gpus - learner - 1)
    return Pools(gpus - learner - reward, reward, learner)


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a plot: how pools, costs and an iteration grow with the number of rollout workers.

    reward_per: rollout workers for each reward worker. learner_per: for each learner; None: one learner, however many
    there are. units_per: units of an iteration for each rollout worker.
    """

    name: str
    work: Work
    costs: Costs
    reward_per: float
    learner_per: float | None
    units_per: int = 4
    steps: int = 1
    lag: int = 1

    def pools(self, rollout: int) -> Pools:
        """With so many rollout workers."""
        learner = 1 if self.learner_per is None else max(math.ceil(rollout / self.learner_per), 1)
        return Pools(rollout, max(math.ceil(rollout / self.reward_per), 1), learner)

    def outcome(self, rollout: int) -> Outcome:
        """What it comes to."""
        plan = Plan(self.units_per * rollout, self.steps, self.lag)
        return simulate(self.pools(rollout), self.work, self.costs, plan)


def bend(case: Case, workers: Sequence[int], lost: float = 0.1) -> int | None:
    """The first size at which a GPU does less by this share than at the first size; None where there is none."""
    rates = [case.outcome(count).motions_per_gpu_s for count in workers]
    return next((count for count, rate in zip(workers, rates, strict=True) if rate < (1 - lost) * rates[0]), None)


def limited_by(outcome: Outcome) -> str:
    """Which part of the run is busiest: what to change."""
    return max(outcome.busy, key=lambda part: outcome.busy[part])


def without(costs: Costs, *names: str) -> Costs:
    """The same, where these costs are nothing: what they are to blame for."""
    return replace(costs, **dict.fromkeys(names, 0.0))
