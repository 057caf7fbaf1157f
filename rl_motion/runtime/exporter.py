"""A run's numbers for Prometheus, through Ray: each node's metrics port has them as `ray_rl_motion_<name>`.

All are gauges, those that count too: Ray's counters refuse to start at 0, and an alert on the first of something needs
a series that was there before. Ray's histograms pass on a bucket's middle in place of what was observed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rl_motion.runtime.status_file import RunStatus
from rl_motion.types import Metrics

PREFIX = "rl_motion_"


class Metric(NamedTuple):
    """What it is, and its tags beside `run`. What counts does so from the start of the process."""

    description: str
    tags: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = {
    "iterations_done": Metric("Finished iterations"),
    "iterations_wanted": Metric("Iterations of the whole run"),
    "iteration_seconds": Metric("Mean seconds of the last ten iterations"),
    "since_iteration_seconds": Metric("Seconds since the last iteration ended"),
    "stage_seconds": Metric("Seconds of each stage of the last iteration", ("stage",)),
    "units": Metric("Units that a worker has (in_flight), and that none has (waiting)", ("state",)),
    "oldest_unit_seconds": Metric("Age of the oldest unfinished unit"),
    "workers": Metric("Workers wanted, ready, busy, coming, leaving", ("role", "state")),
    "gpus": Metric("GPUs that Ray set aside", ("role",)),
    "utilisation": Metric("Busy worker-seconds / worker-seconds of the last two minutes", ("role",)),
    "call_seconds": Metric("Median seconds of the last calls", ("role",)),
    "rows": Metric("Samples in finished calls", ("role",)),
    "rows_per_worker_second": Metric("Samples a second and worker, of the last two minutes", ("role",)),
    "rows_per_gpu_second": Metric("Samples a second and GPU of all pools, of the last two minutes"),
    "retries": Metric("Calls that were made again", ("reason",)),
    "speculated": Metric("Copies of a straggler's call"),
    "bytes_moved": Metric("Adapters to rollout workers, trajectories from them"),
    "staleness": Metric("Updates between the adapter that sampled the last iteration and the one that learned"),
    "staleness_bound": Metric("What the job allows of it"),
    "reward_mean": Metric("Mean total reward of the last iteration"),
    "kl": Metric("KL between the policy and its base, of the last iteration"),
    "sentinels_out": Metric("Sentinels outside their band in the last validation"),
    "skipped_steps": Metric("Optimiser steps that were skipped"),
    "prompts_drawn": Metric("Different prompts that taught"),
    "prompts_flat": Metric("Share of the last iteration's prompts whose samples all scored alike"),
    "prompts_set_aside": Metric("Prompts that are no longer drawn"),
    "mlflow_behind": Metric("Rows that MLflow lacks"),
}

_OF_ROWS = {
    "staleness": "policy/staleness",
    "reward_mean": "reward/total",
    "kl": "policy/kl",
    "prompts_drawn": "prompts/drawn",
    "prompts_flat": "prompts/flat",
    "prompts_set_aside": "prompts/set_aside",
    "sentinels_out": "sentinel/alarms",
}
"""Gauges that are a metric of the last row."""
_REASONS = ("died", "hung", "lost", "unsound", "learner")
_SKIPPED = "learner/skipped_steps"

Sample = tuple[str, dict[str, str], float]
"""A metric's name, its tags beside `run`, its value."""


class Exporter:
    """Of one run, for as long as its process lives."""

    def __init__(self, run: str) -> None:
        """Makes nothing yet: Ray may not be there."""
        self._run = run
        self._made: dict[str, Any] = {}
        self._skipped = 0.0

    def count(self, metrics: Metrics) -> None:
        """Take in a row: what it counts must not be missed where two come within one look."""
        self._skipped += metrics.get(_SKIPPED, 0.0)

    def export(self, status: RunStatus) -> None:
        """Hand everything to Ray, where it runs in this process."""
        if "ray" not in sys.modules:  # a run in one process never imports it
            return
        import ray

        if not ray.is_initialized():
            return
        for name, tags, value in [*samples(status), ("skipped_steps", {}, self._skipped)]:
            self._metric(name).set(value, tags={"run": self._run, **tags})

    def _metric(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._made:
            told = METRICS[name]
            self._made[name] = Gauge(PREFIX + name, description=told.description, tag_keys=("run", *told.tags))
        return self._made[name]


def samples(status: RunStatus) -> Iterator[Sample]:
    """What Prometheus is told of a moment; what is not known is left out."""
    yield "iterations_done", {}, status.done
    yield "iterations_wanted", {}, status.iterations
    yield "since_iteration_seconds", {}, status.since_s
    yield "staleness_bound", {}, status.lag
    known = {name: status.metrics.get(key) for name, key in _OF_ROWS.items()}
    known |= {"iteration_seconds": status.iteration_s, "rows_per_gpu_second": status.rows_per_gpu_s}
    known |= {"mlflow_behind": status.mlflow_behind}
    yield from ((name, {}, value) for name, value in known.items() if value is not None)
    for name, value in status.metrics.items():
        if name.startswith("time/") and name.endswith("_s") and value is not None:
            yield "stage_seconds", {"stage": name.removeprefix("time/").removesuffix("_s")}, value
    for role, rate in status.rates.items():
        yield "utilisation", {"role": role}, rate.utilisation
        yield "rows_per_worker_second", {"role": role}, rate.rows_per_worker_s
    yield from _of_workers(status)


def _of_workers(status: RunStatus) -> Iterator[Sample]:
    workers = status.workers
    if workers is None:
        return
    yield "units", {"state": "in_flight"}, workers.in_flight
    yield "units", {"state": "waiting"}, workers.waiting
    yield "oldest_unit_seconds", {}, workers.oldest_s
    yield "speculated", {}, workers.speculated
    yield "bytes_moved", {}, workers.bytes_moved
    for reason, count in {**dict.fromkeys(_REASONS, 0), **workers.retries}.items():
        yield "retries", {"reason": reason}, count
    for pool in workers.pools:
        role: dict[str, str] = {"role": pool.role}
        for state in ("wanted", "ready", "busy", "coming", "leaving"):
            yield "workers", {**role, "state": state}, getattr(pool, state)
        yield "gpus", role, pool.gpus
        yield "rows", role, pool.rows
        if pool.recent_s is not None:
            yield "call_seconds", role, pool.recent_s
