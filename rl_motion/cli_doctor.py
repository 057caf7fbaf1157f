"""`rl-motion doctor`: look at machine, cluster and job before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded, printable
from rl_motion.cli_jobs import followed

_SIGNS = {"fine": "✓", "failed": "✗", "skipped": "–"}


def doctor(
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="A YAML file, or the name of a packaged job.")] = "demo",
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where runs are to lie.")] = "runs",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of the job; repeatable.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Look at the cluster with this job server: http://head:8265."),
    ] = None,
) -> None:
    """Check nodes, memory, storage, MLflow, the job's log-probs and what happens when a worker dies.

    Trains nothing and leaves nothing behind. Exit code 1 where a check fails.
    """
    code = 0
    with guarded():
        if address is not None:
            code = _there(address, job, "~/runs" if out == "runs" else out, overrides or [])
        else:
            code = _here(job, Path(out), overrides or [])
    raise typer.Exit(code)


def _here(source: str, out: Path, overrides: list[str]) -> int:
    from rl_motion.config.load import load_job

    job = load_job(source, overrides)
    from rl_motion.runtime import frontend
    from rl_motion.runtime.doctor import examine

    workshop = frontend.MEANS.workshop
    workshop.check(job)
    failures = 0
    with Console(stderr=True).status("") as progress:
        for name, finding in examine(job, workshop, out, progress.update):
            failures += finding.state == "failed"
            typer.echo(printable(f"{_SIGNS[finding.state]} {name}: {finding.text}"))
    typer.echo(f"{failures} checks failed" if failures else "all is well")
    return 1 if failures else 0


def _there(address: str, source: str, out: str, overrides: list[str]) -> int:
    from rl_motion.runtime import submit
    from rl_motion.runtime.job_server import JobServer, check_address

    check_address(address)
    asked = submit.to_train(source, out, overrides, command="doctor")
    return followed(JobServer(address), asked, typer.echo)
