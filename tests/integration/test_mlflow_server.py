"""A real MLflow server that is killed in the middle of a run and comes back: no row is lost and none comes twice.

RL_MOTION_MLFLOW_DOWN_S=60 keeps it away for longer than CI does.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from rl_motion.runtime import frontend
from tests import fakes
from tests.fakes import rows, toy_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DOWN_S = float(os.environ.get("RL_MOTION_MLFLOW_DOWN_S", "5"))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """MLflow on loopback, over a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2)
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
                time.sleep(0.2)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def test_a_server_that_is_away_for_a_while_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    server = Server(tmp_path)
    server.start()
    try:
        # Long enough to go on while the server is away.
        base = toy_job("toy:slow=0.1", iterations=int(20 + DOWN_S))
        job = base.model_copy(update={"tracking": base.tracking.model_copy(update={"mlflow_uri": server.uri})})
        done: list[Path] = []
        out = Console(file=io.StringIO())
        run = threading.Thread(target=lambda: done.append(frontend.start(job, tmp_path / "out", out).folder))
        run.start()
        client = MlflowClient(tracking_uri=server.uri)
        seen = 0
        while seen < 3:  # rows arrive
            time.sleep(0.2)
            experiment = client.get_experiment_by_name("rl_motion")
            found = client.search_runs([experiment.experiment_id]) if experiment else []
            seen = len(client.get_metric_history(found[0].info.run_id, "reward/total")) if found else 0
        server.kill()
        before = len(rows(tmp_path / "out" / "toy"))
        time.sleep(DOWN_S)
        assert len(rows(tmp_path / "out" / "toy")) > before  # training went on
        assert run.is_alive()
        server.start()
        run.join(300)
        (finished,) = client.search_runs([experiment.experiment_id])
        assert finished.info.status == "FINISHED"
        written = rows(done[0])
        assert len(written) == job.train.iterations
        for metric in ("reward/total", "policy/loss", "iteration"):
            history = client.get_metric_history(finished.info.run_id, metric)
            assert [(m.step, m.value) for m in history] == [(row["iteration"], row[metric]) for row in written]
    finally:
        server.kill()
