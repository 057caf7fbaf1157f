"""How long new weights take to all rollout workers, and that nothing but the adapter travels.

    python jobs/bench/ray_sync.py --out bench          # about one minute on two idle cores

After an update the driver puts the new adapter into the object store once, and every worker takes it out, checks its
hash and loads it before its next unit. Measured is that with sixteen workers: from the put until the driver has a
receipt of a unit from each, all sampled with the new version. The workers are the project's `RolloutActor`; their
adapter has the tensors of MDM's at rank 4 (17.9 M frozen parameters, which do not travel).

Simulated: the sampling, which takes no time, so that nothing but the sync is measured; and the network between nodes,
as all workers are on this machine and share its object store.
"""

from __future__ import annotations

import pickle
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray_light
import typer
from goals import Goal
from ray_models import mdm_job, save_mdm
from ray_part import Measured, Say, local_ray, run_part
from safetensors import torch as safetensors

from rl_motion.models.adapter import adapter_checksum
from rl_motion.runtime.workers import Behaviour
from rl_motion.types import AdapterState, Unit

WORKERS, ROUNDS = 16, 60
MOST_MS = 150.0
MOST_SHARE = 1.02
"""Bytes that travel over those of the adapter's numbers: names and shapes are in the header of the file."""


def measure(quick: bool, say: Say) -> Measured:
    """Bytes, then milliseconds."""
    say("the adapter")
    sizes, behaviour = adapter(quick)
    carried, numbers = len(pickle.dumps(behaviour)), 4 * sum(sizes)
    workers, rounds = (2, 3) if quick else (WORKERS, ROUNDS)
    with local_ray():
        times_ms, put_ms = synced(sizes, workers, rounds, say)
    p95 = float(np.percentile(times_ms, 95))
    note = f"{workers} workers on this machine, {numbers / 1e6:.2f} MB of adapter, {rounds} updates"
    goals = [
        Goal("sync/p95", p95, MOST_MS, at_least=False, unit="ms", note=note),
        Goal(
            "sync/bytes", carried / numbers, MOST_SHARE, at_least=False, note="what travels over the adapter's numbers"
        ),
    ]
    details = {"adapter_bytes": numbers, "carried_bytes": carried, "tensors": len(sizes), "times_ms": times_ms}
    return goals, details | {"median_ms": statistics.median(times_ms), "put_ms": statistics.median(put_ms)}


def adapter(quick: bool) -> tuple[list[int], Behaviour]:
    """Numbers of each tensor of MDM's adapter, and what a learner of that job hands to rollout workers.

    Raises:
        ValueError: there is more in it than the adapter.
    """
    from rl_motion.runtime.build import build_policy
    from rl_motion.runtime.workers import LearnerWorker

    with tempfile.TemporaryDirectory() as folder:
        job = mdm_job(save_mdm(Path(folder), quick=quick), 8, backend="local")
        state = build_policy(job).adapter_state()
        behaviour = LearnerWorker(job, ray_light.REAL).prepare().behaviour
    check_carried(behaviour, state)
    return [tensor.numel() for tensor in state.values()], behaviour


def check_carried(behaviour: Behaviour, state: AdapterState) -> None:
    """Refuse what holds more or less than the adapter.

    Raises:
        ValueError: other tensors, or other shapes.
    """
    carried = safetensors.load(behaviour.adapter)
    shapes = [{name: tensor.shape for name, tensor in found.items()} for found in (carried, state)]
    if shapes[0] != shapes[1]:
        other = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())[:5]
        raise ValueError(f"got {other} where the adapter alone is to travel")


def synced(sizes: Sequence[int], workers: int, rounds: int, say: Say) -> tuple[list[float], list[float]]:
    """Milliseconds of every sync to all workers, and of the put alone; the first, which warms up, is left out."""
    import ray

    from rl_motion.runtime.ray_actors import RolloutActor

    job = ray_light.light_job(workers, 1, workers, sizes=sizes)
    units = [_unit(number) for number in range(workers)]
    kind: Any = ray.remote(RolloutActor)
    say(f"starting {workers} workers")
    actors = [kind.options(num_cpus=0).remote(job, ray_light.WORKSHOP) for _ in range(workers)]
    times_ms, put_ms = [], []
    try:
        ray.get([actor.arrive.remote() for actor in actors])
        for version in range(rounds + 1):
            say(f"update {version} of {rounds}")
            behaviour = _behaviour(sizes, version)
            started = time.perf_counter()
            handle = ray.put(behaviour)
            put = time.perf_counter()
            done = [actor.sample_apart.remote(handle, unit)[0] for actor, unit in zip(actors, units, strict=True)]
            receipts = ray.get(done)
            ended = time.perf_counter()
            if any(receipt.flaw is not None for receipt in receipts):  # of another version, among others
                raise ValueError(
                    f"got {[r.flaw.text for r in receipts if r.flaw][:1]}; want units of version {version}"
                )
            if version:
                times_ms.append(1000 * (ended - started))
                put_ms.append(1000 * (put - started))
    finally:
        for actor in actors:
            ray.kill(actor)
    return times_ms, put_ms


def _behaviour(sizes: Sequence[int], version: int) -> Behaviour:
    import torch

    state = {f"layer{number:03d}": torch.full((size,), float(version)) for number, size in enumerate(sizes)}
    return Behaviour(version, adapter_checksum(state), safetensors.save(state))


def _unit(number: int) -> Unit:
    from rl_motion.prompts.pool import make_prompt

    return Unit(0, 0, number, (make_prompt(f"rollout=0 reward=0 learn=0 number={number}", 4),), 2)


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/ray_sync.json.")] = Path("bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Two workers, for tests: the figures mean nothing.")] = False,
) -> None:
    """Run the part."""
    run_part("ray_sync", out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
