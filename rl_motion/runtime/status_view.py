"""A run's status for people: one table of its pools, a few lines around it. Needs neither torch nor ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rl_motion.runtime.held import is_held
from rl_motion.runtime.progress import duration
from rl_motion.runtime.status import Status
from rl_motion.runtime.status_file import OVER, RunStatus

_EVENTS = 5
_QUIET_S = 10.0
"""A run that trains says something every second: beyond this it is told how long it has been silent."""
_STATES = {"STARTING": "yellow", "RUNNING": "green", "EVALUATING": "cyan", "FINISHED": "bold green"}


def view(folder: Path, status: RunStatus, held: bool, now_s: float) -> RenderableType:
    """Everything that fits a screen.

    Args:
        folder: the run's, for the command that goes on with it.
        status: what the run last said.
        held: whether a process is working on it.
        now_s: Unix seconds.
    """
    parts: list[RenderableType] = [_headline(status, held), *map(Text, _lines(status))]
    if status.workers is not None and status.workers.pools:
        parts += [_pools(status, status.workers), Text(_units(status.workers))]
        parts += map(Text, _events(status.workers))
    silent_s = now_s - status.unix_s
    if gone(status, held):
        parts.append(Text(f"its process is gone, without a word; go on: rl-motion resume {folder}", "bold red"))
    elif status.state in {"STARTING", "RUNNING"} and silent_s > _QUIET_S:
        parts.append(Text(f"no word for {duration(silent_s)}", "bold red"))
    elif status.state in {"FAILED", "KILLED"}:
        parts.append(Text(f"why: {folder / 'logs' / 'run.log'}; go on: rl-motion resume {folder}", "yellow"))
    return Group(*parts)


def gone(status: RunStatus, held: bool) -> bool:
    """Whether a process that had not ended holds the run no longer: it was ended from outside."""
    return not held and status.state not in OVER


def show(console: Console, folder: Path, status: RunStatus) -> None:
    """Print the view of this moment."""
    console.print(view(folder, status, is_held(folder), time.time()), soft_wrap=not console.is_terminal)


def _headline(status: RunStatus, held: bool) -> Text:
    state = "GONE" if gone(status, held) else status.state
    text = Text.assemble((state, _STATES.get(state, "bold red")), f"  {status.run}  iteration {status.done}")
    text.append(f"/{status.iterations}")
    if status.left_s is not None and state == "RUNNING":
        text.append(f"  {duration(status.left_s)} left")
    if status.iteration_s is not None:
        text.append(f"  {status.iteration_s:.3g} s each")
    return text.append(f"  {status.mode} on {status.backend}, process {status.pid} on {status.host}")


def _lines(status: RunStatus) -> Iterator[str]:
    shown = {"reward": "reward/total", "KL": "policy/kl", "clipped": "policy/clip_fraction", "drift": "policy/drift"}
    shown |= {"staleness": "policy/staleness", "prompts drawn": "prompts/drawn", "flat": "prompts/flat"}
    shown |= {"set aside": "prompts/set_aside", "skipped": "learner/skipped_steps"}
    known = {word: status.metrics.get(name) for word, name in shown.items()}
    numbers = [f"{word} {value:.4g}" for word, value in known.items() if value is not None]
    if status.mlflow_behind is not None:
        numbers.append(f"MLflow lacks {status.mlflow_behind} rows")
    if numbers:
        yield "  ".join(numbers)
    stages = [
        f"{name.removeprefix('time/').removesuffix('_s')} {value:.3g} s"
        for name, value in status.metrics.items()
        if name.startswith("time/") and name.endswith("_s") and value is not None
    ]
    if stages:
        yield "last iteration: " + "  ".join(stages)


def _pools(status: RunStatus, workers: Status) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("pool")
    for name in ("wanted", "ready", "busy", "coming", "leaving", "used", "samples/s", "each", "call", "GPUs"):
        table.add_column(name, justify="right")
    for pool in workers.pools:
        rate = status.rates.get(pool.role)
        rates = (f"{rate.utilisation:.0%}", f"{rate.rows_per_s:.3g}", f"{rate.rows_per_worker_s:.3g}") if rate else ()
        sizes = (pool.wanted, pool.ready, pool.busy, pool.coming, pool.leaving)
        call = f"{pool.recent_s:.3g} s" if pool.recent_s is not None else "-"
        missing = "bold red" if pool.ready < pool.wanted else None
        table.add_row(pool.role, *map(str, sizes), *(rates or "---"), call, f"{pool.gpus:g}", style=missing)
    return table


def _units(workers: Status) -> str:
    retries = ", ".join(f"{reason} {count}" for reason, count in workers.retries.items() if count) or "none"
    return (
        f"units: {workers.in_flight} in flight, {workers.waiting} waiting, the oldest {duration(workers.oldest_s)}  "
        f"retries: {retries}  copies: {workers.speculated}  moved: {workers.bytes_moved / 1e6:.4g} MB"
    )


def _events(workers: Status) -> Iterator[str]:
    for event in workers.events[-_EVENTS:]:
        yield f"{time.strftime('%H:%M:%S', time.localtime(event.unix_s))}  {event.text}"
