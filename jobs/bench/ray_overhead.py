"""What Ray adds to a run at the size of MDM, and what working one step off takes from it.

    python jobs/bench/ray_overhead.py --out bench      # about five minutes on two idle cores

MDM in the authors' shape with random weights, units of eight motions of 60 frames, one thread:

1. An iteration on the local backend and one on Ray, in turn, synchronously and of one unit, so that nothing overlaps:
   what Ray adds is calls, trajectories in the object store, and the adapter on its way.
2. On Ray, rollout and learner on a core of their own each, iterations of two units synchronously and one step off, in
   turn. The ideal is what the measured seconds of the stages allow: their sum over the longer of both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from goals import Goal
from ray_models import MOTIONS, mdm_job, prompts, save_mdm
from ray_part import Measured, Say, iterate, local_ray, pin, processes, run_part, synchronous

from rl_motion.runtime import loop
from rl_motion.runtime.backend import Backend
from rl_motion.runtime.build import Workshop
from rl_motion.types import Metrics

FRAMES = 60
ROUNDS = 4
STEP_OFF = 5
"""Iterations of a stretch, of which the first two and the last are left out one step off."""
STRETCHES = 1


def measure(quick: bool, say: Say) -> Measured:
    """Both questions."""
    with tempfile.TemporaryDirectory() as folder, local_ray():
        say("making the model")
        model = save_mdm(Path(folder), quick=quick)
        goals, overhead = against_local(model, quick, say)
        more, apart = one_step_off(model, quick, say, balanced(overhead["stages"]["ray"]))
    return [*goals, *more], {"overhead": overhead, "one_step_off": apart}


def against_local(model: Path, quick: bool, say: Say) -> Measured:
    """Iterations of both backends in turn."""
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.ray_backend import RayBackend

    job = mdm_job(model, 8 if quick else FRAMES)
    backends: dict[str, Backend] = {"local": LocalBackend(job, Workshop()), "ray": RayBackend(job, Workshop())}
    rows: dict[str, list[Metrics]] = {name: [] for name in backends}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    try:
        states = {}
        for name, backend in backends.items():
            say(f"starting {name}")
            states[name] = loop.State(backend.start())
        for number in range(2 if quick else 1 + ROUNDS):
            for name, backend in backends.items():
                say(f"iteration {number} on {name}")
                states[name], spent, metrics = iterate(job, prompts(job), backend, states[name], 1)
                if number:  # the first one audits, and workers arrive
                    seconds[name] += spent
                    rows[name] += metrics
    finally:
        for backend in backends.values():
            backend.close()
    pairs = [ray / local for ray, local in zip(seconds["ray"], seconds["local"], strict=True)]
    ratio = statistics.median(pairs)
    stages = {
        name: _medians(found) | {"time/iteration_s": statistics.median(seconds[name])} for name, found in rows.items()
    }
    note = f"synchronous, one unit of {MOTIONS} motions of {FRAMES} frames, median of {len(pairs)} pairs of iterations"
    goal = Goal("ray/over_local", ratio, 1.05, at_least=False, note=note)
    return [goal], {"ratios": pairs, "stages": stages, "added_s": where_time_goes(stages)}


def where_time_goes(stages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seconds that an iteration on Ray takes more than locally, by part.

    rollout, reward: what the workers themselves spent. calls: of both stages, until the driver has all answers, beyond
    that. learner: the update with its calls and trajectories. rest: of the driver.
    """
    local, ray = stages["local"], stages["ray"]

    def calls(of: Mapping[str, float]) -> float:
        return of["time/wait_s"] - of["time/rollout_s"] - of["time/reward_s"]

    more = {name: ray[f"time/{name}_s"] - local[f"time/{name}_s"] for name in ("rollout", "reward", "learner")}
    more["calls"] = calls(ray) - calls(local)
    return more | {"rest": ray["time/iteration_s"] - local["time/iteration_s"] - sum(more.values())}


def balanced(stages: Mapping[str, float]) -> dict[str, int]:
    """How often a unit is learned from so that the learner is busy as long as the rollouts: what one step off is for.

    `stages`: of an iteration with `ray_models.LEARNS`, whose update learns from two transitions in one pass.
    """
    sampled = stages["time/rollout_s"] + stages["time/reward_s"]
    return {"transitions": 1, "inner_epochs": max(round(2 * sampled / stages["time/learner_s"]), 1)}


def one_step_off(model: Path, quick: bool, say: Say, learns: Mapping[str, int]) -> Measured:
    """The same workers, each role on a core, with and without waiting for one another."""
    from rl_motion.runtime.ray_backend import RayBackend

    job = mdm_job(model, 8 if quick else FRAMES, units=2, learns=learns, mode="async")
    backend = RayBackend(job, Workshop())
    found: dict[str, list[float]] = {"sync": [], "async": []}
    rows: list[Metrics] = []
    try:
        say("starting workers, one core to a role")
        state = loop.State(backend.start())
        state, _, _ = iterate(synchronous(job), prompts(job), backend, state, 1)
        cores = _pin(backend)
        for _ in range(1 if quick else STRETCHES):
            for mode in (synchronous(job), job):
                name = mode.runtime.mode
                say("one step off" if mode.runtime.lag else "synchronous")
                state, spent, metrics = iterate(mode, prompts(mode), backend, state, STEP_OFF - (not mode.runtime.lag))
                found[name] += spent
                rows += metrics if name == "sync" else []
    finally:
        backend.close()
    seconds = {name: statistics.median(spent) for name, spent in found.items()}
    stages = _medians(rows)
    ideal = ideal_gain(stages)
    note = f"rollout and learner on a core each, one thread; {ideal:.2f} would be ideal for these stages"
    goal = Goal("ray/one_step_off", seconds["sync"] / seconds["async"], 1.4, at_least=True, note=note)
    details = {"seconds": seconds, "all": found, "stages": stages, "ideal": ideal, "cores": cores}
    details |= {"learns": dict(learns)}
    return [goal], details


def ideal_gain(stages: Mapping[str, float]) -> float:
    """Iterations one step off for each synchronous one, where nothing but the stages takes time.

    Rewards run on the rollout's core and one unit behind, so that they count with the rollouts.
    """
    sampled, learned = stages["time/rollout_s"] + stages["time/reward_s"], stages["time/learner_s"]
    return (sampled + learned) / max(sampled, learned)


def _pin(backend: Any) -> dict[str, int]:
    """Rollout and reward workers on one core, the learner on another; which is which. One core: everybody on it."""
    available = sorted(os.sched_getaffinity(0))
    cores = {"rollout": available[0], "reward": available[0], "learner": available[-1]}
    for role, pids in processes(backend).items():
        for pid in pids:
            pin(pid, cores[role])
    return cores


def _medians(rows: Sequence[Metrics]) -> dict[str, float]:
    names = ("time/wait_s", "time/rollout_s", "time/reward_s", "time/learner_s")
    return {name: statistics.median(row[name] for row in rows) for name in names}


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/ray_overhead.json.")] = Path("bench"),
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model, for tests: the figures mean nothing.")] = False,
) -> None:
    """Run the part."""
    run_part("ray_overhead", out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
