"""Workers come and go while a run is under way; the adapter does not notice."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.runtime import frontend
from rl_motion.runtime.backend import Backend
from rl_motion.types import Metrics
from tests import fakes
from tests.fakes import result, toy_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def eight_units(model: str = "toy", **runtime: Any) -> Job:
    base = toy_job(model, iterations=12, **runtime)
    return base.model_copy(update={"train": base.train.model_copy(update={"prompts_per_iteration": 8})})


def steered(
    job: Job, out: Path, monkeypatch: pytest.MonkeyPatch, steer: Callable[[Backend, int, Metrics], None]
) -> Path:
    """A run whose backend is handed to `steer` after every iteration."""
    made: list[Backend] = []
    make, train = frontend.make_backend, frontend.loop.train

    def remember(*arguments: Any) -> Backend:
        made.append(make(*arguments))
        return made[-1]

    def watched(job: Job, pool: Any, backend: Any, state: Any, record: Any) -> Any:
        def both(iteration: int, state: Any, metrics: Metrics) -> None:
            record(iteration, state, metrics)
            steer(backend, iteration, metrics)

        return train(job, pool, backend, state, both)

    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(frontend, "make_backend", remember)
    monkeypatch.setattr(frontend.loop, "train", watched)
    try:
        return frontend.start(job, out, Console(file=io.StringIO())).folder
    finally:
        monkeypatch.undo()


def wait_for(backend: Backend, ready: int) -> None:
    deadline = time.monotonic() + 90
    while backend.status().pools[0].ready != ready:
        assert time.monotonic() < deadline, backend.status()
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_then_four_then_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def steer(backend: Backend, iteration: int, metrics: Metrics) -> None:
        sizes.append(backend.status().pools[0].ready)
        if iteration == 2:
            backend.scale("rollout", 4, "because the test says so")
            wait_for(backend, 4)
        if iteration == 7:
            backend.scale("rollout", 2, "because the test says so")
            wait_for(backend, 2)
            with pytest.raises(
                UserError, match=r"got 3 learner workers .*resume it with --set runtime.learner_workers=3"
            ):
                backend.scale("learner", 3, "no")
            texts = [event.text for event in backend.status().events]
            assert "rollout workers 4 -> 2: because the test says so" in texts

    scaled = steered(eight_units(backend="ray"), tmp_path, monkeypatch, steer)
    assert sizes == [1] * 3 + [4] * 5 + [2] * 4
    alone = steered(eight_units(), tmp_path, monkeypatch, lambda *_: None)
    assert result(scaled) == result(alone)


@pytest.mark.usefixtures("ray_cluster")
def test_the_controller_grows_the_pool_that_is_slow_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def steer(backend: Backend, iteration: int, metrics: Metrics) -> None:
        said[:] = [event.text for event in backend.status().events]

    job = eight_units("toy:slow=0.1", backend="ray", max_rollout_workers=3)
    grown = steered(job, tmp_path, monkeypatch, steer)
    assert any(text.startswith("rollout workers 1 -> ") and "units of 0.1" in text for text in said), said
    assert result(grown) == result(steered(eight_units(), tmp_path, monkeypatch, lambda *_: None))


def test_workers_leave_a_node_that_drains_before_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cloud that takes back a spot machine announces it: no call fails, and the node is empty in time."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    others = {"learner": 1, "reward": 2}  # by default they might be placed on the node that is taken away
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": others})
    try:
        old = cluster.add_node(num_cpus=2, resources={"rollout": 2})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        seen: list[set[str]] = []

        def steer(backend: Any, iteration: int, metrics: Metrics) -> None:
            if iteration == 2:
                new = cluster.add_node(num_cpus=2, resources={"rollout": 2})
                command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
                command += ["--node-id", old.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
                command += ["--reason-message", "spot", "--deadline-remaining-seconds", "60"]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                deadline = time.monotonic() + 45
                while {m.node for m in backend._flow.pools["rollout"].members} != {new.node_id}:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                cluster.remove_node(old, allow_graceful=False)
            seen.append({event.text for event in backend.status().events})
            assert not backend.status().retries

        moved = steered(eight_units(backend="ray", rollout_workers=2), tmp_path, monkeypatch, steer)
        assert any("leaves its node, which drains" in text for text in seen[-1])
        assert result(moved) == result(steered(eight_units(), tmp_path, monkeypatch, lambda *_: None))
    finally:
        ray.shutdown()
        cluster.shutdown()
