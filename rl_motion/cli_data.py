"""`rl-motion data`: motion of one's own becomes a data set, once."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rl_motion.cli_guard import guarded, printable

if TYPE_CHECKING:
    from rl_motion.data.datasets import Dataset, FileReport

data = typer.Typer(
    name="data", help="Data sets of captioned motion: import one's own, look at it.", no_args_is_help=True
)

_SHOWN = 20
"""Most reasons, and most other notes, that are shown; all are in report.json."""
_WIDTH = 100
"""Most characters of a reason and of its example."""


@data.command("import")
def import_(  # noqa: PLR0913, PLR0917 - options
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A folder as HumanML3D's or KIT-ML's, a motion file (BVH, AMC, joints), or a folder of those.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The data set's folder; not there yet.")],
    kind: Annotated[str | None, typer.Option(help="What PATH is; default: found out by how it looks.")] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Motion files: which joint is which, lines such as 'left_knee: LeftLeg'; YAML."
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=1, max=1000, help="Frames a second of motion files that do not tell; 120 of AMC, else 20."),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Motion files: each mirrored as well, where captions fit or are told.")
    ] = False,
) -> None:
    """Read motion and captions into a data set: Parquet, memory-mapped by all who read it.

    A file that cannot be used is left out, with a line in DIR/report.json that says why; it never loses the others.
    DIR is there as a whole at the end, or not at all. Of motion files DIR/report.html has a picture of each: look
    there whether axes and names were guessed rightly.
    """
    with guarded():
        from rl_motion.data.datasets.kinds import KINDS, kind_of
        from rl_motion.data.datasets.sources import Options
        from rl_motion.data.datasets.writing import refuse_place, write_dataset
        from rl_motion.runtime.progress import duration

        refuse_place(out)
        found = kind_of(path, kind)
        started = time.monotonic()
        source = KINDS[found].read(path, Options(names, fps, mirror))
        with _watching(Console(stderr=True), source.total) as watch:
            made = write_dataset(
                out,
                source.entries,
                representation=source.representation,
                fps=source.fps,
                kind=found,
                statistics=source.statistics,
                pages=source.pages,
                watch=watch,
            )
        _show(made, made.report())
        name = shlex.quote(str(out))
        said = (
            f"data set: {name} ({duration(time.monotonic() - started)})\n"
            f"look:     rl-motion data inspect {name}\n"
            f"{_pictures(out)}"
            f"prompts:  rl-motion train JOB --set {shlex.quote(f'prompts.sources={{{out}: 1}}')}"
        )
        typer.echo(printable(said))


def _pictures(out: Path) -> str:
    from rl_motion.data.datasets.motion_files import PAGE

    return f"pictures: {shlex.quote(str(out / PAGE))}\n" if (out / PAGE).is_file() else ""


@data.command()
def inspect(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A data set's folder.")]) -> None:
    """Show what is in a data set, and what was left out of it and why; refuse a broken one."""
    with guarded():
        from rl_motion.data.datasets import Dataset

        opened = Dataset.open(directory)
        opened.check()
        _show(opened, opened.report())


def _show(dataset: Dataset, reports: list[FileReport]) -> None:
    info = dataset.info
    table = _table(f"{info.name}: {info.kind}, {info.representation}, {info.fps:g} frames a second", "split")
    for name in ("clips", "minutes", "captions", "frames"):
        table.add_column(name, justify="right")
    for name, split in info.splits.items():
        minutes = split.frames / info.fps / 60
        lengths = f"{split.shortest} to {split.longest}"
        table.add_row(name, str(split.clips), f"{minutes:.1f}", str(split.captions), lengths)
    Console().print(table)
    told = {"given": "came with the data", "train": "are of the split train alone"}[info.statistics]
    typer.echo(f"mean and deviation {told}; content sha256 {info.sha256[:16]}")
    _show_left_out(info.left_out, reports)
    _show_notes([report for report in reports if not report.left_out])


def _show_left_out(left_out: dict[str, int], reports: list[FileReport]) -> None:
    if not left_out:
        typer.echo("nothing was left out")
        return
    example = {report.left_out: report for report in reversed(reports)}
    table = _table("Left out", "reason", "such as")
    table.add_column("count", justify="right")
    by_count = sorted(left_out.items(), key=lambda item: -item[1])
    for reason, count in by_count[:_SHOWN]:
        report = example.get(reason)
        table.add_row(_plain(reason), _plain(_told(report) if report else ""), str(count))
    if by_count[_SHOWN:]:
        table.add_row("others, all in report.json", "", str(sum(count for _, count in by_count[_SHOWN:])))
    Console().print(table)


def _show_notes(reports: list[FileReport]) -> None:
    """What was mended or guessed, of files that are in the data set."""
    if not reports:
        return
    table = _table("Noted", "file", "what")
    for report in reports[:_SHOWN]:
        table.add_row(
            _plain(report.file), _plain("; ".join((*report.wrong, *(f"guessed: {g}" for g in report.guessed))))
        )
    if reports[_SHOWN:]:
        table.add_row(f"{len(reports) - _SHOWN} others", "in report.json")
    Console().print(table)


def _told(report: FileReport) -> str:
    return f"{report.file}: {report.wrong[0]}" if report.wrong else report.file


@contextmanager
def _watching(console: Console, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else a plain line every ten seconds."""
    from rl_motion.runtime.progress import PLAIN_EVERY_S

    done = 0
    if not console.is_terminal:
        spoke = time.monotonic()

        def say() -> None:
            nonlocal done, spoke
            done += 1
            if time.monotonic() - spoke >= PLAIN_EVERY_S:
                spoke = time.monotonic()
                of = f" of about {total}" if total is not None else ""
                console.print(f"read {done}{of}", highlight=False, soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("reading", total=total)

        def show() -> None:
            nonlocal done
            done += 1
            # Files may give several clips, or a report beside their clip: the total is a first guess.
            bars.update(task, completed=done, total=None if total is None else max(total, done))

        yield show


def _table(title: str, *words: str) -> Table:
    table = Table(title=_plain(title), title_justify="left", title_style="bold")
    for name in words:
        table.add_column(name)
    return table


def _plain(text: str) -> Text:
    """Foreign words for a terminal: no escapes, no markup."""
    shown = printable(" ".join(text.split()))
    return Text(shown if len(shown) <= _WIDTH else f"{shown[: _WIDTH - 1]}…")
