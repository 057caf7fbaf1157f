"""On clusters with several nodes, and inside a submitted job."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config.load import dump_job
from rl_motion.prompts.pool import make_prompt
from rl_motion.runtime import frontend
from rl_motion.types import Unit
from tests import fakes
from tests.fakes import result, toy_job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SCRIPT = (
    "from rl_motion.runtime import frontend\n"
    "from tests import fakes\n"
    "frontend.MEANS = fakes.MEANS\n"
    "from rl_motion.cli import main\n"
    "main()\n"
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """A cluster in processes of its own; yields the address that jobs are submitted to."""
    port = free_port()
    options = [f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
    command = [*RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    with (tmp_path / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "head.log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_submitted_job_joins_its_cluster(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.py").write_text(SCRIPT)
    job = toy_job(backend="ray", rollout_workers=2)
    (tmp_path / "toy.yaml").write_text(dump_job(job))
    train = [sys.executable, str(tmp_path / "main.py"), "train", str(tmp_path / "toy.yaml")]
    command = [*RAY, "job", "submit", "--address", head, "--", *train, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "joined the cluster" in (tmp_path / "out" / "toy" / "logs" / "run.log").read_text()
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    local = frontend.start(toy_job(), tmp_path / "local", Console(file=io.StringIO())).folder
    assert result(tmp_path / "out" / "toy") == result(local)


def test_roles_go_to_their_nodes_and_a_lost_node_costs_time_only(tmp_path: Path) -> None:
    """Trajectories that die with their node are sampled again; rewards stay on the node that offers `reward`."""
    import ray
    from ray.cluster_utils import Cluster

    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.ray_backend import RayBackend

    if ray.is_initialized():
        ray.shutdown()
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"learner": 1}})
    backend: Any = None
    try:
        nodes = [cluster.add_node(num_cpus=1, resources={"rollout": 1}) for _ in range(2)]
        reward_node = cluster.add_node(num_cpus=1, resources={"reward": 1})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        job = toy_job(backend="ray", rollout_workers=2)
        # Long enough for Ray to keep a trajectory on the node that made it, instead of sending it to the driver.
        prompts = [make_prompt(f"thing {number}", 2000) for number in range(4)]
        units = [Unit(0, 0, index, (prompt,), 4) for index, prompt in enumerate(prompts)]
        alone = LocalBackend(job, fakes.WORKSHOP)
        backend = RayBackend(job, fakes.WORKSHOP)
        snapshot = backend.start()
        expected = alone.ask(units, alone.start().behaviour)()
        totals = [scored.total_B.tolist() for scored in expected.scored]
        held = backend.ask(units, snapshot.behaviour)()
        pools = backend._flow.pools
        assert {member.node for member in pools["reward"].members} == {reward_node.node_id}
        assert {member.node for member in pools["rollout"].members} <= {node.node_id for node in nodes}
        cluster.remove_node(nodes[0], allow_graceful=False)
        assert [scored.total_B.tolist() for scored in held.scored] == totals
        # The learner asks for trajectories that died with their node.
        learned = backend.learn(held)
        assert learned.snapshot.sha256 == alone.learn(expected).snapshot.sha256
        again = backend.ask(units, learned.snapshot.behaviour)()
        assert len(again.scored) == len(units)
    finally:
        if backend is not None:
            backend.close()
        ray.shutdown()
        cluster.shutdown()
