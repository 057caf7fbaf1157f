"""Commands for a cluster: `rl-motion submit`, and `rl-motion jobs` for what was submitted."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from rl_motion.cli_guard import guarded, printable
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.runtime.job_server import JobServer, Submission

jobs = typer.Typer(name="jobs", help="What was submitted to a cluster: list it, read along, stop it.")

_OF_RAY = re.compile(r"\tINFO job_manager\.py:\d+ -- |^Running entrypoint for job ")
"""What Ray puts before a job's own words."""

AddressOption = Annotated[
    str,
    typer.Option(
        "--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The head's job server: http://head:8265."
    ),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `rl-motion jobs list` names it.")]


def submit(  # noqa: PLR0913, PLR0917 - options
    address: AddressOption,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="[JOB]",
            help="A YAML file, or the name of a packaged job. It is checked here; it and the files that it names by "
            "relative path are sent, nothing else. With --resume: the files alone.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="The run is DIR/<job name> on the cluster's disks.")
    ] = "~/runs",
    run: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with the run in this folder of the cluster.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of the job; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Same as --set train.seed=N.")] = None,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME", help="Send this environment variable, whose value is taken from here; repeatable."
        ),
    ] = None,
    cpus: Annotated[
        float, typer.Option("--entrypoint-cpus", min=0, help="CPUs of the command itself; 0: it runs on the head.")
    ] = 0.0,
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--entrypoint-resource", metavar="NAME=N", help="Run the command on a node with this; repeatable."
        ),
    ] = None,
) -> None:
    """Run a job on a cluster and read along until it ends; Ctrl-C ends the reading alone."""
    with guarded():
        from dataclasses import replace

        from rl_motion.runtime import submit as sending
        from rl_motion.runtime.job_server import JobServer, check_address

        check_address(address)
        claims = sending.custom_resources(resources or [])
        environment = sending.environment(variables or [])
        if run is not None:
            if seed is not None:
                raise UserError("got --seed with --resume; want the run's own seed; leave it out")
            made = sending.to_resume(run, overrides or [], job)
        elif job is not None:
            made = sending.to_train(job, out, overrides or [], seed)
        else:
            raise UserError("got neither JOB nor --resume RUN; want something to run; name a job, such as demo")
        server = JobServer(address)
        job_id = server.submit(replace(made, environment=environment, cpus=cpus, resources=claims))
        typer.echo(f"job: {job_id} at {server.address}; Ctrl-C ends this reading, not the job")
        code = _read_along(server, job_id)
    raise typer.Exit(code)


@jobs.command("list")
def list_jobs(address: AddressOption) -> None:
    """What was submitted since the head started, newest first."""
    with guarded():
        from rl_motion.runtime.job_server import JobServer
        from rl_motion.runtime.progress import duration

        for job in JobServer(address).jobs():
            began = (job.start_time or 0) / 1000
            ended = job.end_time / 1000 if job.end_time else time.time()
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
            told = f"{job.submission_id}  {job.status.value:<9}  {when}  {duration(ended - began):>6}  {job.entrypoint}"
            typer.echo(printable(told))


@jobs.command()
def logs(
    job_id: IdArgument,
    address: AddressOption,
    follow: Annotated[bool, typer.Option("--follow", help="Read along until it ends; exit as it does.")] = False,
) -> None:
    """What a job has said."""
    code = 0
    with guarded():
        from rl_motion.runtime.job_server import JobServer

        server = JobServer(address)
        if follow:
            code = _read_along(server, job_id)
        else:
            typer.echo(server.logs(job_id), nl=False)
    raise typer.Exit(code)


@jobs.command()
def stop(job_id: IdArgument, address: AddressOption) -> None:
    """End a job as Ctrl-C would: its run can be resumed."""
    with guarded():
        from rl_motion.runtime.job_server import JobServer

        server = JobServer(address)
        if server.stop(job_id):
            typer.echo(f"stopped: {job_id}\n{_how_to_resume(server)}")
        else:
            typer.echo(f"{job_id} had ended before")


def followed(server: JobServer, submission: Submission, show: Callable[[str], None]) -> int:
    """Submit a short command and show its lines, without those of Ray; its exit code. Ctrl-C ends it there too."""
    rest = ""

    def by_line(text: str) -> None:
        nonlocal rest
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if not _OF_RAY.search(line):
                show(printable(line))

    job_id = server.submit(submission)
    try:
        ended = server.follow(job_id, by_line)
    except KeyboardInterrupt:
        server.stop(job_id)
        raise
    by_line("\n" if rest else "")
    if ended.exit_code:
        typer.echo(printable(f"job {job_id}: {ended.reason}"), err=True)
    return ended.exit_code


def _read_along(server: JobServer, job_id: str) -> int:
    """Show a job's words until it ends; returns the exit code, after saying why it is not 0."""
    try:
        ended = server.follow(job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt as error:
        where = f"{shlex.quote(job_id)} --address {server.address}"
        error.add_note(f"the job goes on; read along again: rl-motion jobs logs --follow {where}")
        error.add_note(f"stop it: rl-motion jobs stop {where}")
        raise
    if ended.exit_code:
        typer.echo(printable(f"job {job_id}: {ended.reason}\n{_how_to_resume(server)}"), err=True)
    return ended.exit_code


def _how_to_resume(server: JobServer) -> str:
    return f"go on with the run that its log names: rl-motion submit --resume RUN --address {server.address}"
