"""Whether a job fits into the memory of its nodes: an estimate, before anything is started.

    worker  = process + weights                                     rollout, reward
    learner = peak, or process + weights + 5 adapters; + its trajectories
    node    = its share of all workers + trajectories in the object store

`process` is Python with torch and peft. `weights` are the files of model, text encoder and rewards. `peak` is what this
process held when it replayed a unit with gradient, activations included (the audit measures it, on CPU). Five adapters:
itself, its gradient, Adam's two moments, the average. Trajectories in the store: those of an iteration, for each
iteration in flight.

Left out: activations of workers on GPUs and what CUDA itself takes (some 0.5 GB a process), what the allocator wastes,
rewards that allocate more than their files hold, and everything else that runs on the nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl_motion.config import Job
from rl_motion.runtime import checks
from rl_motion.runtime.doctor.findings import Case, Finding, failed, fine, size, skipped

PROCESS_BYTES = 600_000_000
"""Measured: 0.4 GB of torch and peft, 0.1 GB of ray and the package, and some room."""
_ADAPTERS = 5


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes that the audit and the files of a job give."""

    frozen: int
    adapter: int
    trajectory: int
    peak: int


def estimate(job: Job, weights: Weights) -> dict[str, int]:
    """Bytes by what needs them: one worker of each role, and the object store for all."""
    worker = PROCESS_BYTES + weights.frozen
    units = job.train.prompts_per_iteration // job.train.prompts_per_unit
    share = math.ceil(units / job.runtime.learner_workers)
    learner = max(weights.peak, worker + _ADAPTERS * weights.adapter) + share * weights.trajectory
    return {
        "rollout": worker,
        "reward": worker,
        "learner": learner,
        "store": units * weights.trajectory * (job.runtime.lag + 1),
    }


def needed(job: Job, nodes: int, each: dict[str, int]) -> int:
    """Bytes that the fullest node needs where workers are spread evenly over so many nodes."""
    runtime = job.runtime
    counts = {
        "rollout": runtime.max_rollout_workers or runtime.rollout_workers,
        "reward": runtime.max_reward_workers or runtime.reward_workers,
        "learner": runtime.learner_workers,
    }
    return sum(math.ceil(count / nodes) * each[role] for role, count in counts.items()) + each["store"]


def check_memory(case: Case) -> Finding:
    """The fullest node against the one with the least free memory."""
    if case.trajectory_bytes is None or case.adapter_bytes is None or not case.nodes:
        return skipped("nothing was measured, as the audit or the look at the nodes failed")
    weights = Weights(frozen_bytes(case.job), case.adapter_bytes, case.trajectory_bytes, case.peak_bytes or 0)
    each = estimate(case.job, weights)
    need = needed(case.job, len(case.nodes), each) if case.on_ray else each["learner"] + 2 * weights.frozen
    told = ", ".join(f"{name} {size(count)}" for name, count in each.items())
    least = min(case.nodes, key=lambda node: node.free_bytes)
    if need > least.free_bytes:
        return failed(
            f"{size(least.free_bytes)} free on {least.address}, and workers that need about {size(need)} ({told})",
            "room for all",
            "add nodes, or lower runtime.*_workers, train.prompts_per_unit or train.prompts_per_iteration",
        )
    gpus = [f"{name}: {size(free)}" for node in case.nodes for name, free in node.gpus]
    told += f"; GPUs: {', '.join(gpus)} free" if gpus else ""
    return fine(f"about {size(need)} of {size(least.free_bytes)} free on {least.address} ({told})")


def frozen_bytes(job: Job) -> int:
    """Of the safetensors files of model, text encoder and rewards, each once."""
    folders = {path.resolve() for path in checks.directories(job).values()}
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
