"""What a person sees while a run runs: a live bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rl_motion.types import Metrics  # needs torch, which commands that only look do without

PLAIN_EVERY_S = 10.0
_SHOWN = {
    "words": "text/loss",
    "loss": "network/loss",
    "val": "network/val_loss",
    "reward": "reward/total",
    "KL": "policy/kl",
    "clipped": "policy/clip_fraction",
    "drift": "policy/drift",
}


class Watch:
    """Iterations as they come; the time left is that of the iterations seen so far."""

    def __init__(self, console: Console, done: int, total: int) -> None:
        """Starts counting now.

        Args:
            console: where to write.
            done: iterations finished before.
            total: iterations of the run.
        """
        self._console = console
        self._first = done
        self._total = total
        self._started = time.monotonic()
        self._spoke = float("-inf")
        self._live: tuple[Progress, TaskID] | None = None
        if console.is_terminal:
            columns = (
                TextColumn("iteration"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
            )
            bar = Progress(*columns, console=console)
            self._live = (bar, bar.add_task("starting", total=total, completed=done))
            bar.start()

    def show(self, iteration: int, metrics: Metrics) -> None:
        """An iteration is done."""
        now = time.monotonic()
        done = iteration + 1
        left_s = (now - self._started) / (done - self._first) * (self._total - done)
        words = [f"{name} {metrics[key]:.4g}" for name, key in _SHOWN.items() if key in metrics]
        text = "  ".join([*words, f"{duration(left_s)} left"])
        if self._live:
            bar, task = self._live
            bar.update(task, completed=done, description=text)
        elif now - self._spoke >= PLAIN_EVERY_S or done == self._total:
            self._spoke = now
            self._console.print(f"iteration {done}/{self._total}  {text}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say it above the bar, or as a line of its own."""
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._live[0].stop()


@contextmanager
def watching(console: Console, done: int, total: int) -> Iterator[Watch]:
    """A `Watch` that is closed whatever happens."""
    watch = Watch(console, done, total)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def counting(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """How many are done: a bar on a terminal; elsewhere a line every ten seconds, and one at their end."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    spoke = started = time.monotonic()

    def say(done: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        # What took no time needs no words.
        if now - spoke >= PLAIN_EVERY_S or (done == total and now - started >= PLAIN_EVERY_S):
            spoke = now
            console.print(f"{title}: {done}/{total}", highlight=False, markup=False, soft_wrap=True)

    yield say


def duration(seconds: float) -> str:
    """Such as `8s`, `3m20s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
