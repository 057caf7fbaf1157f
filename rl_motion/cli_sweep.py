"""`rl-motion sweep`: many runs of one job, over any of its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded, printable

if TYPE_CHECKING:
    from rich.table import Table

    from rl_motion.runtime.sweep_record import Record


def sweep(  # noqa: PLR0913, PLR0917 - options
    job: Annotated[str, typer.Argument(metavar="JOB", help="A YAML file, or the name of a packaged job.")],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="a.b=v1,v2", help="Every one of these values of a key; repeatable (product)."),
    ] = None,
    uniform: Annotated[
        list[str] | None,
        typer.Option("--uniform", metavar="a.b=low:high", help="A value drawn between two; repeatable."),
    ] = None,
    loguniform: Annotated[
        list[str] | None,
        typer.Option("--loguniform", metavar="a.b=low:high", help="The same for its logarithm; repeatable."),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=10_000, help="Draws, each with every point of the grid.")
    ] = 1,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="reward/NAME",
            help="What the best trial has most of: a training reward, mean of the last tenth of the iterations. Never "
            "a held-out result: choosing by it would spoil it.",
        ),
    ] = "reward/total",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Trials are DIR/<job name>-001 and so on.")] = Path(
        "runs/sweep"
    ),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key in all trials; repeatable.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Same as --set train.seed=N; the draws follow it too.")
    ] = None,
) -> None:
    """Run a job with many settings, side by side as far as the machine goes; the same command again goes on.

    Every trial is an ordinary run in a process of its own (runtime.threads cores, the numbers of any backend), nested
    in one MLflow run. All are checked before the first starts. One that fails ends no other.
    """
    with guarded():
        from rl_motion.config.load import load_job

        resolved = load_job(job, overrides or [], seed)
        from rl_motion.runtime.sweep import run_sweep
        from rl_motion.runtime.sweep_plan import Search

        console = Console()
        search = Search(grid or (), uniform or (), loguniform or (), samples)
        record = run_sweep(resolved, search, metric, out, console)
        console.print(_table(record))
        _conclude(record, out, console)


def _table(record: Record) -> Table:
    """Trials, best first, with what they had of their own."""
    from rich.table import Table

    from rl_motion.evaluation.format import interval, number

    keys = list(record.trials[0].fields)
    table = Table(title=f"Trials by {record.metric}", caption=_CAPTION)
    for name in ("trial", *keys, record.metric, "interval"):
        table.add_column(name, justify="left" if name == "trial" else "right")
    for entry in sorted(record.trials, key=lambda entry: -_worth(entry.value)):
        said = ("failed", "-") if entry.value is None else (number(_worth(entry.value)), interval(entry.value))
        fields = [printable(str(entry.fields[key])) for key in keys]
        table.add_row(entry.name, *fields, *said, style="bold" if entry.name == record.best else None)
    return table


_CAPTION = "training reward: mean of the last tenth of the iterations, 95 % bootstrap over iterations"


def _worth(value: dict[str, float | int | None] | None) -> float:
    return float("-inf") if value is None or value["value"] is None else float(value["value"])


def _conclude(record: Record, out: Path, console: Console) -> None:
    from rl_motion.evaluation.report import before_after_table
    from rl_motion.runtime.sweep_record import FILE

    best = out / str(record.best)
    console.print(before_after_table(json.loads((best / "report.json").read_text())))
    for entry in record.trials:
        if entry.reason is not None:
            typer.echo(printable(f"failed: {entry.name}: {entry.reason}"), err=True)
    typer.echo(f"best:    {best} (the table above is its report, which nothing was chosen by)")
    typer.echo(f"adapter: {best / 'adapter'}")
    typer.echo(f"trials:  {out / FILE}")
