"""The loop. Everything else in this package is how its five lines come to be true.

prompts -> rollout -> rewards -> learner -> commit
  pool      workers    workers    adapter    one manifest, then tracking
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rl_motion.config import Job
from rl_motion.prompts.pool import PromptPool
from rl_motion.runtime.backend import Backend
from rl_motion.runtime.reward_metrics import reward_metrics
from rl_motion.runtime.workers import Snapshot
from rl_motion.types import Metrics

Record = Callable[[int, Snapshot, Metrics], None]
"""Makes an iteration durable: (iteration, the learner after it, its metrics)."""


def train(job: Job, pool: PromptPool, backend: Backend, snapshot: Snapshot, record: Record) -> Snapshot:
    """Iterate from where `snapshot` stands to the job's last iteration; returns the learner after it."""
    for iteration in range(snapshot.version, job.train.iterations):
        clock = Clock()
        units = pool.draw(iteration, job.train)
        trajectories = backend.rollout(units, snapshot)
        clock.lap("rollout")
        scored = backend.score(trajectories)
        clock.lap("reward")
        learned = backend.learn(trajectories, [unit.total_B for unit in scored])
        clock.lap("learner")
        snapshot = learned.snapshot
        record(iteration, snapshot, reward_metrics(scored) | learned.metrics | clock.laps)
    return snapshot


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
