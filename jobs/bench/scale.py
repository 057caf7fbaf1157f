"""How a run scales with rollout workers: sixteen for real, and more by a model that is checked against them.

    python jobs/bench/scale.py --out bench             # about two minutes on two idle cores
    python jobs/bench/scale.py --out bench --predict   # the plot and the predictions again, from what was measured

Sixteen light workers go through the project's own loop, backend and flow on Ray. They sleep for a stated time instead
of computing, so that the machine's two cores are left to what is measured: everything but the work. The same costs go
into simulation.py, which says what 64, 256 and 1024 rollout workers come to, beside reward and learner pools.
Throughput is motions a second for every GPU of all pools.

Simulated: the work (it sleeps), the trajectories (a few numbers) and, beyond sixteen workers, everything.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import ray_light
import typer
from goals import Goal, read_part
from ray_part import Measured, Say, iterate, local_ray, run_part, synchronous
from scale_plot import plot
from simulation import Case, Costs, Plan, Pools, Work, bend, limited_by, shared_out, simulate, without

from rl_motion.config import Job
from rl_motion.runtime import loop

WORKERS = 16
UNITS_PER_WORKER = 4
STRETCHES = 3
"""Of the calibration."""
UNIT_S = (0.25, 1.0)
"""Calibrated durations of a rollout."""
SIZES = (16, 64, 256, 1024)
GPU_WORK = Work(1.0, 0.05, 0.4, spread=0.1)
"""Of the predictions, in units of a rollout's second: about what the stages of MDM take of each other
(`ray_overhead.py` measures them), and how much rollouts differ where lengths do."""
TRAJECTORY_BYTES = 32 * 10 * 196 * 263 * 4
"""A unit of 32 motions at full length: ten latents and the sample."""
ADAPTER_BYTES = 0.8e6
"""MDM's at rank 4, as a unit's gradient has it."""
BYTES_S = 1e9
"""Between nodes, on a 10 Gbit/s network: what trajectories and gradients take there. Not measured here."""


def measure(quick: bool, say: Say) -> Measured:
    """Sixteen workers for real, the model beside them, and its predictions."""
    from rl_motion.runtime.ray_backend import RayBackend

    workers = 2 if quick else WORKERS
    units = workers * UNITS_PER_WORKER
    job = ray_light.light_job(workers, 2, units, lag=1)
    with local_ray():
        backend = RayBackend(job, ray_light.WORKSHOP)
        try:
            say(f"starting {workers} light workers")
            started = time.monotonic()
            state = loop.State(backend.start())
            while backend.status().pools[0].ready < workers or backend.status().pools[1].ready < 2:
                time.sleep(0.05)
            up_s = time.monotonic() - started
            say("what a call costs")
            state, costs = calibrated(job, backend, state, 2 if quick else 5)
            costs = replace(costs, watched_s=watched_seconds((1, 2) if quick else (16, 256, 1024)))
            runs = []
            for unit_s in (0.05,) if quick else UNIT_S:
                for mode in (synchronous(job), job):
                    say(f"rollouts of {unit_s:g} s, {mode.runtime.mode}")
                    state, run = measured_run(mode, backend, state, unit_s, costs)
                    runs.append(run)
        finally:
            backend.close()
    say("the model")
    foreseen = predictions(costs, SIZES[:2] if quick else SIZES)
    stages = {"up_s": up_s, "workers": workers, "costs": asdict(costs)}
    return goals(runs, workers), stages | {"runs": runs, "predictions": foreseen}


def calibrated(job: Job, backend: Any, state: loop.State, iterations: int) -> tuple[loop.State, Costs]:
    """The costs of this machine, from units that take no time.

    An iteration of one unit has two calls, one after the other: what one takes. Of that the driver, which does it for
    all workers in one thread, pays what that thread computes for a call in iterations of many units; the rest, Ray's
    own threads included, passes beside the other workers' calls. What is left of an iteration is the update.

    All within a second or two, which something else may disturb, and it only ever adds: of each the least of three.
    """
    alone = job.model_copy(update={"train": job.train.model_copy(update={"prompts_per_iteration": 1})})
    flow = time.pthread_getcpuclockid(backend._thread.ident)
    answers, calls, updates = [], [], []
    for _ in range(STRETCHES):
        state, _, one = iterate(synchronous(alone), ray_light.pool(alone, 0, 0, 0), backend, state, iterations)
        before_s = time.clock_gettime(flow)
        state, _, many = iterate(synchronous(job), ray_light.pool(job, 0, 0, 0), backend, state, iterations)
        answers.append((time.clock_gettime(flow) - before_s) / iterations / job.train.prompts_per_iteration / 2)
        calls.append(statistics.median(row["time/wait_s"] for row in one) / 2)
        updates.append(statistics.median(row["time/learner_s"] for row in many))
    answer_s = min(answers)
    return state, Costs(answer_s=answer_s, latency_s=max(min(calls) - answer_s, 0.0), update_s=min(updates))


def watched_seconds(sizes: Sequence[int]) -> float:
    """What a look at the calls costs for each that is under way, through the project's own `RayCalls.wait`."""
    import ray

    from rl_motion.runtime.ray_calls import RayCalls

    @ray.remote(num_cpus=0)
    class Asleep:
        def nap(self) -> None:
            time.sleep(3600)

    kind: Any = Asleep
    calls, actor = RayCalls(), kind.remote()
    taken = []
    try:
        for size in sizes:
            refs = [ray.put(0), *(actor.nap.remote() for _ in range(size))]
            calls.wait(refs, 1.0)
            rounds = []
            for _ in range(20):
                started = time.perf_counter()
                calls.wait(refs, 1.0)
                rounds.append(time.perf_counter() - started)
            taken.append(statistics.median(rounds))
    finally:
        ray.kill(actor)
    return max((taken[-1] - taken[0]) / (sizes[-1] - sizes[0]), 0.0)


def measured_run(
    job: Job, backend: Any, state: loop.State, unit_s: float, costs: Costs
) -> tuple[loop.State, dict[str, Any]]:
    """A few iterations, what would be ideal, and what the model makes of them."""
    units, workers, one_step_off = job.train.prompts_per_iteration, job.runtime.rollout_workers, job.runtime.lag > 0
    # All stages are there; the rollouts are what the other two can keep up with.
    reward_s, learn_s = unit_s / 20, unit_s / 40 / UNITS_PER_WORKER / workers * 16
    iterations = 6 if one_step_off else 3
    pool = ray_light.pool(job, unit_s, reward_s, learn_s)
    state, seconds, rows = iterate(job, pool, backend, state, iterations)
    iteration_s = statistics.median(seconds)
    slept_s = statistics.median(row["time/rollout_s"] for row in rows) / units
    work, pools = Work(unit_s, reward_s, learn_s, rows=2), Pools(workers, job.runtime.reward_workers, 1)
    plan = Plan(units, lag=job.runtime.lag, iterations=8)
    ideal_s = simulate(pools, work, Costs(), plan).iteration_s
    model_s = simulate(pools, work, costs, plan).iteration_s
    return state, {
        "mode": job.runtime.mode,
        "unit_s": unit_s,
        "slept_s": slept_s,
        "iteration_s": iteration_s,
        "all_s": seconds,
        "ideal_s": ideal_s,
        "model_s": model_s,
        "of_ideal": ideal_s / iteration_s,
        "model_error": abs(model_s / iteration_s - 1),
    }


def goals(runs: Sequence[Mapping[str, Any]], workers: int) -> list[Goal]:
    """Of the runs with the longest rollouts; the model's error is the largest of all runs."""
    longest = max(run["unit_s"] for run in runs)
    named = {"sync": "synchronous", "async": "one_step_off"}
    note = f"{workers} light workers, rollouts of {longest:g} s, ideal: the same without any cost of running it"
    found = [
        Goal(f"scale/{named[run['mode']]}", run["of_ideal"], 0.95, at_least=True, note=note)
        for run in runs
        if run["unit_s"] == longest
    ]
    worst = max(run["model_error"] for run in runs)
    return [*found, Goal("scale/model_error", worst, 0.05, at_least=False, note=f"the largest of {len(runs)} runs")]


def predicted_costs(costs: Costs) -> Costs:
    """This machine's, with what bytes take between nodes."""
    between = {"fetch_s": TRAJECTORY_BYTES / BYTES_S, "exchange_s": ADAPTER_BYTES / BYTES_S}
    return replace(costs, step_s=costs.update_s, **between)


def cases(costs: Costs) -> list[Case]:
    """What is predicted: as a run stands, and with one thing changed after the other."""
    best = shared_out(10_000, GPU_WORK, one_step_off=True)
    reward_per, learner_per = best.rollout / best.reward, best.rollout / best.learner
    far = predicted_costs(costs)
    longer = Work(4 * GPU_WORK.rollout_s, 4 * GPU_WORK.reward_s, 4 * GPU_WORK.learn_s, GPU_WORK.spread, 128)
    # A unit four times as large has four times the trajectory, and one gradient.
    large = replace(far, fetch_s=4 * far.fetch_s)
    return [
        Case("one learner", GPU_WORK, far, reward_per, None),
        Case("learners in proportion", GPU_WORK, far, reward_per, learner_per),
        Case("... synchronous", GPU_WORK, far, reward_per, learner_per, lag=0),
        Case("... units four times as large", longer, large, reward_per, learner_per),
        Case("... and no exchange of gradients", longer, without(large, "exchange_s"), reward_per, learner_per),
    ]


def predictions(costs: Costs, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Every case at every size: throughput per GPU, what is busiest, and where the case bends."""
    found = []
    for case in cases(costs):
        points = []
        for size in sizes:
            outcome, pools = case.outcome(size), case.pools(size)
            blamed = blame(case, size)
            points.append(
                {"rollout_workers": size, "gpus": pools.gpus, "pools": asdict(pools), "busiest": limited_by(outcome)}
                | {"blamed": blamed, "driver_busy": outcome.busy["driver"], "update_s": outcome.update_s}
                | {"iteration_s": outcome.iteration_s, "efficiency": outcome.efficiency}
                | {"motions_per_gpu_s": outcome.motions_per_gpu_s}
            )
        found.append({"case": case.name, "points": points, "bends_at": bend(case, sizes)})
    return found


def blame(case: Case, size: int) -> dict[str, float]:
    """For each cost, by how much throughput would rise without it; those that change nothing are left out."""
    rate = case.outcome(size).motions_per_gpu_s
    gains = {
        name: replace(case, costs=without(case.costs, name)).outcome(size).motions_per_gpu_s / rate - 1
        for name in asdict(case.costs)
    }
    return {name: gain for name, gain in gains.items() if gain > 0.01}


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/scale.json, OUT/scale.png.")] = Path(
        "bench"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Two workers, for tests: the figures mean nothing.")] = False,
    predict: Annotated[bool, typer.Option("--predict", help="Predict again from OUT/parts/scale.json.")] = False,
) -> None:
    """Run the part."""
    if predict:
        stages = read_part(out / "parts" / "scale.json").stages
        found = predictions(Costs(**stages["costs"]), SIZES)
        typer.echo(json.dumps(found, indent=1))
    else:
        stages = run_part("scale", out, quick, measure).stages
        found = stages["predictions"]
    plot(found, stages["runs"], out / "scale.png")


if __name__ == "__main__":
    typer.run(main)
