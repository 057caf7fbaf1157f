"""Machines fail at random moments; the run ends with the bits of an undisturbed one.

RL_MOTION_CHAOS_RUNS=10 makes more runs than CI does; the figures in docs/log.md are of such a run.
"""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job
from rl_motion.runtime import frontend
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.ray_backend import RayBackend
from tests import fakes
from tests.fakes import result, toy_job

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
RUNS = int(os.environ.get("RL_MOTION_CHAOS_RUNS", "1"))
KILLS = 5
ITERATIONS = 30
"""So many that the run outlasts its kills."""
_QUIET = Console(file=io.StringIO())


def chaos_job(**runtime: Any) -> Job:
    """Eight units an iteration, each slow enough to be hit."""
    base = toy_job("toy:slow=0.2", iterations=ITERATIONS, **runtime)
    return base.model_copy(update={"train": base.train.model_copy(update={"prompts_per_iteration": 8})})


@dataclass
class Machines:
    """A cluster of a head and four nodes; a node that is lost comes back, as a cluster manager has it."""

    cluster: Any
    nodes: dict[str, Any] = field(default_factory=dict)

    def add(self, role: str) -> None:
        node = self.cluster.add_node(num_cpus=2, resources={role.partition("-")[0]: 2})
        self.nodes[role] = node

    def lose(self, role: str) -> None:
        self.cluster.remove_node(self.nodes.pop(role), allow_graceful=False)
        self.add(role)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    made = Machines(Cluster(initialize_head=True, head_node_args={"num_cpus": 0}))
    try:
        for role in ("rollout-a", "rollout-b", "reward", "learner"):
            made.add(role)
        ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.cluster.shutdown()


class Killer:
    """Strikes five times while a run is under way, and measures how long until all workers are there again."""

    def __init__(self, seed: int, machines: Machines, backend: Callable[[], RayBackend | None]) -> None:
        self._random = random.Random(seed)
        self._machines = machines
        self._backend = backend
        self.recovered: list[tuple[str, float]] = []
        self.over = threading.Event()
        """The run is."""

    def strike(self) -> None:
        while (backend := self._backend()) is None or not self._whole(backend):
            if self.over.wait(0.05):
                return
        kinds = ["rollout", "reward", "learner", *self._random.choices(["rollout", "node"], k=KILLS - 3)]
        self._random.shuffle(kinds)
        for kind in kinds:
            if self.over.wait(self._random.uniform(0.1, 1.5)):
                return
            started = time.monotonic()
            if kind == "node":
                self._machines.lose(self._random.choice(["rollout-a", "rollout-b", "reward", "learner"]))
            else:
                self._kill(backend, kind)
            lost = backend.status().retries
            while not self.over.is_set() and (backend.status().retries == lost or not self._whole(backend)):
                if time.monotonic() - started > 15 and self._whole(backend):
                    break  # it was lost and replaced before we looked
                time.sleep(0.05)
            self.recovered.append((kind, time.monotonic() - started))

    def _kill(self, backend: RayBackend, kind: str) -> None:
        """A worker that holds a unit, if any does."""
        if kind == "learner":
            pids = [arrival.pid for arrival in backend._learners.arrivals]
        else:
            deadline = time.monotonic() + 3.0
            while True:
                members = backend._flow.pools[kind].members  # type: ignore[index]
                pids = [m.pid for m in members if m.pid and m.busy]
                if pids or time.monotonic() > deadline:
                    break
            pids = pids or [m.pid for m in members if m.pid]
        if pids:
            os.kill(self._random.choice(pids), signal.SIGKILL)

    @staticmethod
    def _whole(backend: RayBackend) -> bool:
        return all(pool.ready == pool.wanted and not pool.leaving for pool in backend.status().pools)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict[str, float]]]:
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontend, "MEANS", fakes.MEANS)
        hasty = chaos_job().model_copy(update={"model": toy_job().model})
        return result(frontend.start(hasty, out, _QUIET).folder)


@pytest.mark.parametrize("seed", range(RUNS))
def test_five_kills_change_no_bit(
    seed: int,
    machines: Machines,
    undisturbed: tuple[bytes, list[dict[str, float]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[RayBackend] = []
    make = frontend.make_backend

    def remember(job: Job, workshop: Any) -> Any:
        backend = make(job, workshop)
        made.append(backend)  # type: ignore[arg-type]
        return backend

    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(frontend, "make_backend", remember)
    killer = Killer(seed, machines, lambda: made[0] if made else None)
    folders: list[Path] = []

    def train() -> None:
        try:
            job = chaos_job(backend="ray", rollout_workers=2, learner_workers=2)
            folders.append(frontend.start(job, tmp_path, _QUIET).folder)
        finally:
            killer.over.set()

    # Only the main thread can start nodes.
    run = threading.Thread(target=train, daemon=True)
    run.start()
    killer.strike()
    run.join(300)
    taken = [(kind, round(seconds, 1)) for kind, seconds in killer.recovered]
    logging.getLogger("rl_motion.chaos").info("seed %d: seconds until all workers were back: %s", seed, taken)
    assert result(folders[0]) == undisturbed
    job = chaos_job()
    drawn = [unit for iteration in range(ITERATIONS) for unit in fakes.pool(job).draw(iteration, job.train)]
    ledger = Ledger.from_bytes((sorted((folders[0] / "commits").iterdir())[-1] / "ledger.json").read_bytes())
    assert ledger.taught == Counter(prompt.id for unit in drawn for prompt in unit.prompts)
    assert len(taken) == KILLS
