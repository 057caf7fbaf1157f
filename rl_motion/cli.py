"""The command line: `rl-motion --help`. Commands import what is slow only when they run."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rl_motion.cli_data import data
from rl_motion.cli_doctor import doctor
from rl_motion.cli_guard import Commands, guarded
from rl_motion.cli_jobs import jobs, submit
from rl_motion.cli_model import model
from rl_motion.cli_pretrain import pretrain
from rl_motion.cli_prompts import prompts
from rl_motion.cli_report import report
from rl_motion.cli_sample import sample
from rl_motion.cli_sweep import sweep
from rl_motion.cli_watch import scale, status
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.runtime.frontend import Outcome

app = typer.Typer(
    name="rl-motion",
    cls=Commands,
    help="Post-train text-to-motion models with reinforcement learning, from text prompts alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A YAML file, or the name of a packaged job.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of the job; repeatable.")
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The run is DIR/<job name>.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Same as --set train.seed=N.")]
_RUNS = Path("runs")


@app.command()
def demo(out: OutOption = _RUNS, overrides: SetOption = None, seed: SeedOption = None) -> None:
    """Post-train the embedded model on this machine and show before and after."""
    train("demo", out, overrides, seed)


@app.command()
def train(job: JobArgument, out: OutOption = _RUNS, overrides: SetOption = None, seed: SeedOption = None) -> None:
    """Run a job: train, evaluate, report."""
    with guarded():
        from rl_motion.config.load import load_job

        resolved = load_job(job, overrides or [], seed)
        from rl_motion.runtime import frontend

        _conclude(frontend.start(resolved, out, _stdout()))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its URI in runtime.commits_uri.")],
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Of a URI: rebuild the folder in DIR.")] = _RUNS,
) -> None:
    """Go on with a run that was interrupted, bit for bit; `--set train.iterations=N` makes it longer."""
    with guarded():
        from rl_motion.runtime import frontend

        _conclude(frontend.resume(run, overrides or [], _stdout(), out))


@app.command()
def calibrate(
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="The calibration to write.")],
    motions: Annotated[int, typer.Option(min=2, max=100_000, help="At least so many, in whole units.")] = 512,
    overrides: SetOption = None,
    seed: SeedOption = None,
) -> None:
    """Measure how a job's rewards spread on its base model's motions; `calibration: FILE.json` in the job uses it."""
    with guarded():
        from rl_motion.config.load import load_job

        if out.suffix != ".json":
            raise UserError(f"got --out {out}; want a file that ends in .json; rename it")
        resolved = load_job(job, overrides or [], seed)
        from rl_motion.runtime.calibrate import calibrate as measure

        measured = measure(resolved, motions)
        measured.write(out)
        spreads = measured.rewards.items()
        _say(*(f"{name}: mean {s.mean:.4g}, std {s.std:.4g} ({s.n} motions)" for name, s in spreads))
        _say(f"calibration: {out}", f"use it: rl-motion train {job} --set calibration={out}")


@app.command()
def config(job: JobArgument, overrides: SetOption = None, seed: SeedOption = None) -> None:
    """Print the resolved job: every key with its value."""
    with guarded():
        from rl_motion.config.load import dump_job, load_job
        from rl_motion.tracking.mlflow_tracker import check_uri

        resolved = load_job(job, overrides or [], seed)
        check_uri(resolved.tracking.mlflow_uri)
        typer.echo(dump_job(resolved), nl=False)


@app.command()
def ui(
    out: OutOption = _RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's pages on the runs in DIR, for this machine alone."""
    with guarded():
        database = out.resolve() / "mlflow.db"
        if not database.is_file():
            raise UserError(
                f"got --out {out}, which holds no mlflow.db; want the DIR of a run; give it, or train first"
            )
        _refuse_taken(port)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Five processes that wait for jobs of MLflow's own, which a run has none of.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        _say(f"http://127.0.0.1:{port} (Ctrl-C ends it)")
        sys.stdout.flush()
        store = ["--backend-store-uri", f"sqlite:///{database}"]
        artifacts = ["--default-artifact-root", (out.resolve() / "mlartifacts").as_uri()]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *where])


app.command()(pretrain)
app.command()(sample)
app.command()(sweep)
app.command()(report)
app.command()(submit)
app.command()(doctor)
app.command()(scale)
app.command()(status)
app.add_typer(data)
app.add_typer(jobs)
app.add_typer(model)
app.add_typer(prompts)


def main() -> None:
    """Entry point."""
    app()


def _conclude(outcome: Outcome) -> None:
    """The table on held-out prompts, and where everything is."""
    from rl_motion.evaluation.report import before_after_table
    from rl_motion.runtime.progress import duration

    folder = outcome.folder
    _stdout().print(before_after_table(dict(outcome.report)))
    _say(
        f"run:     {folder} ({duration(outcome.wall_s)})",
        f"adapter: {folder / 'adapter'}",
        f"motions: {folder / 'report.html'}",
        *_where_tracked(outcome),
    )


def _where_tracked(outcome: Outcome) -> Iterator[str]:
    """How to look at the run in MLflow, where it is tracked there: in the database beside it, or on a server."""
    from rl_motion.config import TrackingConfig

    uri, out = outcome.mlflow_uri, outcome.folder.parent
    if uri == TrackingConfig().mlflow_uri:
        yield "MLflow:  rl-motion ui" + ("" if out == _RUNS else f" --out {out}")
    elif uri is not None:
        yield f"MLflow:  {uri}"


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"got --port {port}, which cannot be used ({error.strerror}); want a free one; choose another, or end "
                "what listens there"
            ) from None


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(line)


def _stdout() -> Console:
    return Console()


if __name__ == "__main__":
    main()
