"""Wrong input: the machine. No room, no right to write, a port that is taken, a cluster that is away or another's.

Tests may run as root, whom no permission stops: refusals come from the system call itself.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.runtime import frontend
from rl_motion.runtime import loop as loops
from tests import fakes
from tests.integration.wrong_input.desk import Case, Desk, Mishap, refused, sample, table, train

CALIBRATE = ["calibrate", "job.yaml", "--out", "c.json", "--motions", "4"]
LOOP = loops.train
ON_RAY = train("runtime.backend=ray")


def failing(call: str, number: int, only: str = "") -> Mishap:
    """`os.<call>` fails with this error, on paths that hold `only`."""

    def mishap(desk: Desk) -> None:
        real = getattr(os, call)

        def fail(*arguments: Any, **options: Any) -> Any:
            if only in str(arguments[0]):
                raise OSError(number, os.strerror(number), str(arguments[0]))
            return real(*arguments, **options)

        desk.monkeypatch.setattr(os, call, fail)

    return mishap


def full(desk: Desk) -> None:
    failing("fsync", errno.ENOSPC)(desk)


def other_ray(desk: Desk) -> None:
    """What Ray itself says when it joins a cluster of another release, without a cluster."""
    import ray
    from ray._private.utils import check_version_info

    def init(**_: object) -> None:
        check_version_info({"ray_version": "2.41.0", "python_version": "3.9.1"}, "node 10.0.0.7")

    desk.monkeypatch.setattr(ray, "init", init)
    desk.monkeypatch.setattr(ray, "is_initialized", lambda: False)
    desk.monkeypatch.setenv("RAY_ADDRESS", "auto")


def ray_address(value: str) -> Mishap:
    def mishap(desk: Desk) -> None:
        import ray

        desk.monkeypatch.setattr(ray, "is_initialized", lambda: False)
        desk.monkeypatch.setenv("RAY_ADDRESS", value)

    return mishap


@table(
    Case("no room for a run", train(), ["No space left", "no run folder is kept"], full),
    Case("no quota for a run", train(), ["quota"], failing("fsync", errno.EDQUOT)),
    Case("no room for a page", sample(), ["page.html", "No space left"], full),
    Case("no room for a calibration", CALIBRATE, ["c.json", "No space left"], full),
    Case(
        "no right to make a folder",
        train(),
        ["--out runs", "Permission denied"],
        failing("mkdir", errno.EACCES, "runs"),
    ),
    Case("a file system to read alone", train(), ["--out runs", "Read-only"], failing("mkdir", errno.EROFS, "runs")),
    Case("no right to make a run", train(), ["--out runs", "not permitted"], failing("mkdir", errno.EPERM, "right")),
    Case("no right to write a run", train(), ["Permission denied"], failing("open", errno.EACCES, "lock")),
    Case("--out in /proc", [*train(), "--out", "/proc/runs"], ["--out /proc/runs"]),
    Case("a page in /proc", sample("--out", "/proc/page.html"), ["--out /proc/page.html"]),
    Case("a page that is a folder", sample(), ["page.html"], lambda d: d.path("page.html").mkdir()),
    Case("a page below a file", sample("--out", "job.yaml/page.html"), ["job.yaml/page.html"]),
    Case("joints that are a folder", sample(), ["page.html"], lambda d: d.path("page.npy").mkdir()),
    Case("a calibration in /proc", [*CALIBRATE[:3], "/proc/c.json", *CALIBRATE[4:]], ["--out /proc/c.json"]),
    Case("Ray of another release", ON_RAY, ["2.41.0", "cannot be joined", "install"], other_ray),
    Case("a cluster that is away", ON_RAY, ["'127.0.0.1:1'", "refused"], ray_address("127.0.0.1:1")),
    Case("a cluster without a name", ON_RAY, ["'nonsense'"], ray_address("nonsense")),
    Case("a port that is none", ON_RAY, ["'127.0.0.1:99999'"], ray_address("127.0.0.1:99999")),
)
def test_machines(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


def test_a_disk_that_fills_up_while_the_run_trains(desk: Desk) -> None:
    """What was committed stays, the message says how to go on, and going on works once there is room."""
    desk.monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    desk.monkeypatch.setattr(loops, "train", LOOP)
    real, full = os.fsync, True

    def fsync(descriptor: int) -> None:
        rows = Path("runs/right/metrics.jsonl")
        if full and rows.exists() and rows.read_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    desk.monkeypatch.setattr(os, "fsync", fsync)
    ended = CliRunner().invoke(app, train("train.iterations=3"))
    refused(ended, ["No space left", "saved: 1 iterations", "resume: rl-motion resume runs/right"], {}, {})
    full = False
    assert CliRunner().invoke(app, ["resume", "runs/right"]).exit_code == 0


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_port_that_is_taken(taken: int, desk: Desk, hold: Callable[[Case], None]) -> None:
    def started(*_: object) -> None:
        raise AssertionError("MLflow was started")

    desk.monkeypatch.setattr(os, "execv", started)
    desk.write("runs/mlflow.db", b"")
    hold(Case("taken", ["ui", "--out", "runs", "--port", str(taken)], [f"--port {taken}", "Address already in use"]))


def test_control_the_page_can_be_written(desk: Desk) -> None:
    ended = CliRunner().invoke(app, sample())
    assert ended.exit_code == 0, ended.output + ended.stderr
    assert Path("page.html").is_file() and Path("page.npy").is_file()
