"""The loop. Everything else in this package is how its lines come to be true.

prompts -> rollout -> rewards -> learner -> commit
  pool      workers    workers    adapter    one manifest, then tracking
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rl_motion.config import Job, RunFault
from rl_motion.prompts.pool import PromptPool
from rl_motion.runtime.backend import Backend, Rollouts
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.reward_metrics import reward_metrics, warn_of_rewards
from rl_motion.runtime.workers import Behaviour, Snapshot, warned
from rl_motion.types import Metrics

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """A run between two iterations: all that the next ones depend on.

    older: the adapters, oldest first, that units still in flight are sampled with, beside the snapshot's own; empty
    where every unit is sampled with the newest.
    """

    snapshot: Snapshot
    ledger: Ledger = field(default_factory=Ledger)
    older: Sequence[Behaviour] = ()


Record = Callable[[int, State, Metrics], None]
"""Makes an iteration durable: (iteration, the run after it, its metrics)."""


def train(job: Job, pool: PromptPool, backend: Backend, state: State, record: Record) -> State:
    """Iterate from where `state` stands to the job's last iteration; returns the run after it.

    Iteration i is sampled with the adapter of i - lag updates (the first one, where there were fewer), always exactly
    that one: units of `lag` iterations are in flight while the learner works, and no number depends on who was faster.
    """
    lag = job.runtime.lag
    snapshot, ledger, adapters = state.snapshot, state.ledger, deque([*state.older, state.snapshot.behaviour], lag + 1)
    waiting: deque[Callable[[], Rollouts]] = deque()
    for iteration in range(snapshot.version, job.train.iterations):
        clock = Clock()
        ledger.draw(pool, job.train, range(iteration, iteration + lag + 1))
        while len(waiting) <= lag and iteration + len(waiting) < job.train.iterations:
            ahead = iteration + len(waiting)
            units = ledger.without_set_aside(pool.again(ahead, job.train, ledger.drawn[ahead]), lag)
            waiting.append(backend.ask(units, _of_version(adapters, ahead - lag)))
        rollouts = waiting.popleft()()
        clock.lap("wait")
        if not rollouts.units:
            raise RunFault(
                f"iteration {iteration}: got no prompt that is not set aside; want one at least; raise "
                "train.prompts_per_iteration or look at the workers' logs, and resume the run"
            )
        warn_of_rewards(rollouts.scored, rollouts.units)
        learned = warned(backend.learn(rollouts))
        clock.lap("learner")
        ledger.over(iteration, rollouts.units, rollouts.scored, rollouts.behaviour.version)
        for prompt_id, reason in rollouts.set_aside.items():
            _log.warning("prompt %s is set aside from now on: %s", prompt_id, reason)
        ledger.put_aside(iteration, rollouts.set_aside)
        snapshot = learned.snapshot
        adapters.append(snapshot.behaviour)
        metrics = reward_metrics(rollouts.scored, rollouts.units) | learned.metrics | clock.laps
        metrics |= {f"time/{stage}_s": seconds for stage, seconds in rollouts.seconds.items()}
        metrics["policy/staleness"] = float(iteration - rollouts.behaviour.version)
        metrics |= ledger.metrics() | {"prompts/unread": float(pool.unread)}
        state = State(snapshot, ledger, list(adapters)[:-1])
        record(iteration, state, metrics)
    return state


def _of_version(adapters: Sequence[Behaviour], version: int) -> Behaviour:
    return next(adapter for adapter in adapters if adapter.version == max(version, 0))


class Clock:
    """Seconds of each stage of one iteration, as metrics."""

    def __init__(self) -> None:
        """Starts now."""
        self.laps: Metrics = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.laps[f"time/{stage}_s"] = now - self._last
        self._last = now
