"""`rl-motion submit` against a real head node: there and back, with token authentication and without."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rl_motion.config.load import dump_job, load_job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-correct-horse"
TOKEN = "0123456789abcdef0123456789abcdef"
SMALL = (
    "name=small",
    "prompts.sources={prompts.txt: 1}",
    "rewards=[{name: mine.py:Mine}]",
    "train.iterations=2",
    "train.prompts_per_iteration=2",
    "train.prompts_per_unit=2",
    "train.samples_per_prompt=2",
    "train.units_per_step=1",
    "policy.steps=3",
    "evaluation.prompts=2",
    "evaluation.samples_per_prompt=1",
    "evaluation.page_prompts=1",
    "runtime={rollout_workers: 1, threads: 1}",
    "tracking.mlflow_uri=null",
)
REWARD = """
import os
from rl_motion.types import MotionForm, Normalisation, Representation

class Mine:
    accepts = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
    differentiable = True
    def __init__(self):
        assert os.environ["OF_THE_SUBMITTER"].startswith("hunter2"), "workers lack what --env names"
    def __call__(self, motions, prompts, noise_level_B=None):
        return motions.features_BFD.mean(dim=(1, 2))
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def head(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A head node whose PATH has `rl-motion`, of this checkout; yields the address of its job server."""
    command = folder / "bin" / "rl-motion"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rl_motion.cli "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environment = {**environment, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(folder)}
    port, agent = free_port(), free_port()
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent}"]
    # Ray gives up on a node that does not learn of these within 15 s, which a busy machine may need.
    ports += [
        f"--{name}={free_port()}"
        for name in ("dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
    ]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", *ports]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [*start, "--disable-usage-stats"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 300
            while not (listens(port) and listens(agent)):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Desk:
    """A submitter's working directory, home and environment, and a cluster; both have the same home."""

    home: Path
    environment: dict[str, str]
    address: str = ""

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rl_motion.cli", *words, "--address", self.address]

    def say(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            self.command(*words),
            cwd=self.home / "work",
            env=self.environment | more,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert "Traceback" not in ran.stderr and SECRET not in ran.stdout + ran.stderr, ran.stdout + ran.stderr
        return ran

    def jobs(self) -> list[list[str]]:
        """Ids and states, newest first."""
        return [line.split()[:2] for line in self.say("jobs", "list").stdout.splitlines()]


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """Of the mode of authentication that the test names."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.yaml").write_text(dump_job(load_job("demo", SMALL)))
    (work / "prompts.txt").write_text("a person walks#40\na person waves#40\n")
    (work / "mine.py").write_text(REWARD)
    environment = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "HOME"}}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": request.param, "HOME": str(tmp_path)}
    if request.param == "token":
        (tmp_path / "token").write_text(TOKEN)
        environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    with head(tmp_path, environment) as address:
        yield Desk(tmp_path, environment | {"OF_THE_SUBMITTER": SECRET}, address)


@pytest.mark.parametrize("desk", ["token"], indirect=True)
def test_there_and_back_with_a_token(desk: Desk) -> None:
    made = desk.say("submit", "job.yaml", "--env", "OF_THE_SUBMITTER")
    assert made.returncode == 0, made.stdout + made.stderr
    run = desk.home / "runs" / "small"
    assert f"adapter: {run / 'adapter'}" in made.stdout
    assert "joined the cluster" in (run / "logs" / "run.log").read_text()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "report.json").read_text())

    refused = desk.say("submit", "--resume", "~/runs/small", "--set", "train.seed=9")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "train.seed: got 9" in refused.stdout

    (_, failed), (first, succeeded) = desk.jobs()
    assert (failed, succeeded) == ("FAILED", "SUCCEEDED")
    assert "2/2" in desk.say("jobs", "logs", first).stdout
    assert "ended before" in desk.say("jobs", "stop", first).stdout
    assert desk.say("jobs", "logs", "nobody-000000").returncode == 2

    stranger = desk.say("jobs", "list", RAY_AUTH_MODE="disabled")
    assert stranger.returncode == 2 and "got no token" in stranger.stderr
    (desk.home / "other").write_text(TOKEN[::-1])
    impostor = desk.say("jobs", "list", RAY_AUTH_TOKEN_PATH=str(desk.home / "other"))
    assert impostor.returncode == 2 and "another token" in impostor.stderr


@pytest.mark.parametrize("desk", ["disabled"], indirect=True)
def test_stopped_and_resumed_without_one(desk: Desk) -> None:
    words = ("submit", "job.yaml", "--env", "OF_THE_SUBMITTER", "--set", "train.iterations=100000")
    reader = subprocess.Popen(
        desk.command(*words),
        cwd=desk.home / "work",
        env=desk.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    rows = desk.home / "runs" / "small" / "metrics.jsonl"
    deadline = time.monotonic() + 900
    while not (rows.exists() and rows.read_text()):
        assert reader.poll() is None and time.monotonic() < deadline, reader.stdout and reader.stdout.read()
        time.sleep(0.2)
    [(job_id, state)] = desk.jobs()
    assert state == "RUNNING"
    assert f"stopped: {job_id}" in desk.say("jobs", "stop", job_id).stdout
    said, _ = reader.communicate(timeout=120)
    assert reader.returncode == 1 and "it was stopped" in said
    assert "interrupted" in said and "resume: rl-motion resume" in said, said  # as after Ctrl-C
    done = rows.read_text().count("\n")
    more = ("--env", "OF_THE_SUBMITTER", "--set", f"train.iterations={done + 1}")
    resumed = desk.say("submit", "job.yaml", "--resume", "~/runs/small", *more)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert rows.read_text().count("\n") == done + 1
