"""What the parts of the benchmark that run on Ray share: their command line, a loop's times, processes and pins."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from goals import Goal, Part, machine, write_part
from rich.console import Console
from rich.table import Table

from rl_motion.config import Job, TrainConfig
from rl_motion.prompts.pool import PromptPool
from rl_motion.runtime import loop
from rl_motion.runtime.backend import Backend
from rl_motion.types import Metrics

Measured = tuple[Sequence[Goal], Mapping[str, Any]]
"""The goals of a part, and everything else that it measured."""
THREADS = 2
"""Of a part that computes in its own process."""
Say = Callable[[str], None]
"""Tells whoever waits what is measured now."""


def run_part(name: str, out: Path, quick: bool, measure: Callable[[bool, Say], Measured]) -> Part:
    """Measure a part, write OUT/parts/<name>.json and show its goals on stderr.

    Ctrl-C leaves what was there before: a part is written whole or not at all.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Else Ray's workers yield to everything else on the machine (niceness 15), and the process they are compared with
    # does not: on a busy machine that would be measured.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A shell's background jobs ignore Ctrl-C, and so would the commands that parts start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console(stderr=True)
    started, where = time.monotonic(), machine()
    with console.status(name) as shown:

        def say(text: str) -> None:
            shown.update(f"{name}: {text}")

        goals, stages = measure(quick, say)
    part = Part(name, list(goals), dict(stages), time.monotonic() - started, quick, where)
    folder = out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    write_part(folder / f"{name}.json", part)
    console.print(_table(part))
    return part


def _table(part: Part) -> Table:
    title = f"{part.name}, {part.seconds:.0f} s" + (", quick: the figures mean nothing" if part.quick else "")
    table = Table("goal", "value", "wanted", "met", "measured on", title=title)
    for goal in part.goals:
        wanted = f"{'>=' if goal.at_least else '<='} {goal.goal:g} {goal.unit}"
        table.add_row(goal.name, f"{goal.value:.3g} {goal.unit}", wanted, "yes" if goal.met else "no", goal.note)
    return table


@contextmanager
def local_ray() -> Iterator[None]:
    """A cluster on this machine for the time of the context, which takes it down again."""
    import ray

    from rl_motion.runtime.cluster import connect

    beside = os.environ.get("PYTHONPATH")
    # Where Ray's workers find ray_light.py, whatever script started the cluster.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([beside] if beside else [])])
    owned = connect()
    try:
        yield
    finally:
        if owned:
            ray.shutdown()


def longer(job: Job, iterations: int) -> Job:
    """The same job up to this iteration."""
    train: TrainConfig = job.train.model_copy(update={"iterations": iterations})
    return job.model_copy(update={"train": train})


def synchronous(job: Job) -> Job:
    """The same job, every iteration of which is sampled with the newest adapter."""
    return job.model_copy(update={"runtime": job.runtime.model_copy(update={"mode": "sync"})})


def iterate(
    job: Job, pool: PromptPool, backend: Backend, state: loop.State, iterations: int
) -> tuple[loop.State, list[float], list[Metrics]]:
    """Go on with a run through the project's own loop.

    Returns:
        The run afterwards, from which a synchronous job may go on as well as one that is one step off; seconds between
        the ends of one iteration and the next, of all but those at the ends of this stretch, where an asynchronous run
        has nothing to overlap with (the first 1 + lag and the last lag); the metrics of every iteration.
    """
    ends, rows, behaviours = [time.perf_counter()], [], [state.snapshot.behaviour]

    def record(iteration: int, after: loop.State, metrics: Metrics) -> None:
        ends.append(time.perf_counter())
        rows.append(metrics)
        behaviours.append(after.snapshot.behaviour)

    lag = job.runtime.lag
    after = loop.train(longer(job, state.snapshot.version + iterations), pool, backend, state, record)
    seconds = [later - earlier for earlier, later in pairwise(ends)]
    inner = seconds[1 + lag : len(seconds) - lag] if lag else seconds
    # Without the ledger, which holds prompts of the next iterations: the next stretch may have others.
    return loop.State(after.snapshot, older=[behaviours[-2]]), inner, rows


def resident_mb(pid: int) -> float:
    """Memory that a process holds now (VmRSS), in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} holds no memory")


def processes(backend: Any) -> dict[str, list[int]]:
    """Process numbers of a Ray backend's workers, by role. No business of whoever uses a backend: hence its parts."""
    flow, learners = backend._flow, backend._learners
    found = {role: [member.pid for member in pool.members if member.pid] for role, pool in flow.pools.items()}
    return found | {"learner": [arrival.pid for arrival in learners.arrivals]}


def pin(pid: int, core: int) -> None:
    """Let every thread of a process run on this core alone."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), {core})
        except ProcessLookupError:  # ended meanwhile
            continue
