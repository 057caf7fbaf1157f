"""Commands for a run that is under way: `rl-motion status` and `rl-motion scale`, here or on a cluster's head."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded
from rl_motion.cli_jobs import followed
from rl_motion.config.errors import UserError

_REFRESH_S = 1.0
_LINE_S = 2.0
_MOST = 4096

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder; with --address: on the cluster, such as '~/runs/demo'.")
]
ThereOption = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="Do it on the cluster with this job server: http://head:8265."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, max=_MOST, help="So many from now on.")]


def status(
    run: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and show it once a second until the run ends or Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The run's status.json; with --watch, a line every two seconds.")
    ] = False,
    address: ThereOption = None,
) -> None:
    """How a run is doing: its workers, its pace, its rewards, what went wrong lately."""
    code = 0
    with guarded():
        if address is not None:
            code = _status_there(run, watch, as_json, address)
        elif as_json:
            _print_json(Path(run), watch)
        else:
            _show(Path(run), watch)
    raise typer.Exit(code)


def scale(
    run: RunArgument,
    rollout_workers: WorkersOption = None,
    reward_workers: WorkersOption = None,
    address: ThereOption = None,
) -> None:
    """Give a run that trains more workers, or fewer; its numbers stay the same, and a resume keeps the size."""
    code = 0
    with guarded():
        from rl_motion.runtime import control
        from rl_motion.runtime.status import Role

        asked: dict[Role, int | None] = {"rollout": rollout_workers, "reward": reward_workers}
        sizes = {role: workers for role, workers in asked.items() if workers is not None}
        if not sizes:
            raise UserError("got no number of workers; want one; give --rollout-workers N or --reward-workers N")
        if address is not None:
            words = [word for role, workers in sizes.items() for word in (f"--{role}-workers", str(workers))]
            code = _there(address, "scale", run, words, typer.echo)
        else:
            with _patience() as waiting:
                before, after = control.scale(Path(run), sizes, waiting)
            for role in sizes:
                typer.echo(f"{role} workers: {before.get(role, '?')} -> {after.get(role, '?')}")
    raise typer.Exit(code)


def _show(folder: Path, watch: bool) -> None:
    from rich.live import Live

    from rl_motion.runtime import status_file
    from rl_motion.runtime.held import is_held
    from rl_motion.runtime.status_view import gone, show, view

    console = Console()
    now = status_file.read(folder)
    if not (watch and console.is_terminal):
        show(console, folder, now)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            held = is_held(folder)
            live.update(view(folder, now, held, time.time()), refresh=True)
            if now.state in status_file.OVER or gone(now, held):
                return
            time.sleep(_REFRESH_S)
            now = status_file.read(folder)


def _print_json(folder: Path, watch: bool) -> None:
    """One object a line, with what only the disk of the run can tell: whether a process holds it."""
    import json

    from rl_motion.runtime import status_file
    from rl_motion.runtime.held import is_held
    from rl_motion.runtime.status_view import gone

    while True:
        now, held = status_file.read(folder), is_held(folder)
        typer.echo(json.dumps({**json.loads(now.model_dump_json()), "held": held}))
        sys.stdout.flush()
        if not watch or now.state in status_file.OVER or gone(now, held):
            return
        time.sleep(_LINE_S)


def _status_there(run: str, watch: bool, as_json: bool, address: str) -> int:
    """The same of a run on a cluster: the head sends lines of JSON, which are shown here."""
    from rich.live import Live

    from rl_motion.runtime.status_file import RunStatus
    from rl_motion.runtime.status_view import view

    console = Console()
    live = watch and console.is_terminal and not as_json
    words = ["--json", "--watch"] if live or (watch and as_json) else ["--json"]
    with Live(console=console, auto_refresh=False) if live else _nothing() as screen:

        def show(line: str) -> None:
            if not line.startswith('{"format"'):
                typer.echo(line, err=True)
            elif as_json:
                typer.echo(line)
            else:
                now = RunStatus.model_validate_json(line)
                shown = view(Path(run), now, '"held": true' in line, time.time())
                screen.update(shown, refresh=True) if screen else console.print(shown, soft_wrap=True)

        return _there(address, "status", run, words, show)


def _there(address: str, command: str, run: str, words: list[str], show: Callable[[str], None]) -> int:
    """Run a command of `rl-motion` on a run of the cluster; its exit code."""
    from rl_motion.runtime.job_server import JobServer, check_address
    from rl_motion.runtime.submit import to_look

    check_address(address)
    asked = to_look(command, run, words)
    return followed(JobServer(address), asked, show)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


@contextmanager
def _patience() -> Iterator[Callable[[float], None]]:
    """Shows how long somebody has waited, on a terminal."""
    console = Console(stderr=True)
    with console.status("waiting for the run") as spinner:
        yield lambda passed_s: spinner.update(f"waiting for the run ({passed_s:.0f} s)")
