"""Where the work runs changes the speed and nothing else."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, RunFault
from rl_motion.runtime import frontend, ray_backend, ray_calls
from tests import fakes
from tests.fakes import result, rows, toy_job


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def run(job: Job, out: Path) -> Path:
    return frontend.start(job, out, Console(file=io.StringIO())).folder


def test_the_toy_learns(tmp_path: Path) -> None:
    folder = run(toy_job(iterations=40), tmp_path)
    rewards = [row["reward/total"] for row in rows(folder)]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.2


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    first, again = (result(run(toy_job(), tmp_path)) for _ in range(2))
    assert first == again
    job = toy_job()
    other = job.model_copy(update={"train": job.train.model_copy(update={"seed": 1})})
    assert result(run(other, tmp_path))[0] != first[0]


def test_every_worker_that_comes_in_has_to_compute_like_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacements too, of every pool: with other CPU instructions the numbers would depend on who computes."""
    from rl_motion.runtime.workers import Environment

    monkeypatch.setattr(ray_backend, "get", lambda answer: answer)
    backend: Any = object.__new__(ray_backend.RayBackend)
    backend._environment = None
    like = Environment(threads=1, cpu_capability="AVX2", torch="2", machine="x86_64")
    for size in (1, 2):
        pool = ray_backend.Pool(spawn=object, size=size, inspect=backend._inspect, coming={like: "actor"})
        assert pool.admit(like) == like
    other = dataclasses.replace(like, cpu_capability="DEFAULT")
    pool.coming[other] = "replacement"
    with pytest.raises(RunFault, match=r"got a worker with .*DEFAULT.*; want .*AVX2"):
        pool.admit(other)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestRay:
    @pytest.mark.parametrize(("rollout", "reward"), [(1, 1), (2, 2), (4, 1)])
    def test_ray_gives_the_bits_of_local(self, tmp_path: Path, rollout: int, reward: int) -> None:
        local = result(run(toy_job(), tmp_path))
        remote = toy_job(backend="ray", rollout_workers=rollout, reward_workers=reward)
        assert result(run(remote, tmp_path)) == local

    def test_control_noise_keyed_by_the_worker_would_be_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Negative control: a policy whose noise belongs to the process differs between 1 and 2 workers."""
        monkeypatch.setattr(frontend, "MEANS", fakes.CARELESS)
        one, two = (result(run(toy_job(backend="ray", rollout_workers=n), tmp_path)) for n in (1, 2))
        assert one[0] != two[0]

    def test_a_worker_that_dies_costs_time_only(self, tmp_path: Path) -> None:
        local = result(run(toy_job(), tmp_path / "local"))
        marker = tmp_path / "crashed"
        crashing = toy_job(f"toy:crash={marker}", backend="ray", rollout_workers=2)
        assert result(run(crashing, tmp_path)) == local
        assert marker.exists()

    def test_a_learner_that_dies_is_rebuilt_from_its_last_snapshot(self, tmp_path: Path) -> None:
        local = result(run(toy_job(), tmp_path / "local"))
        marker = tmp_path / "crashed"
        crashing = toy_job(f"toy:crash_learner={marker}", backend="ray")
        assert result(run(crashing, tmp_path)) == local
        assert marker.exists()

    def test_what_the_learner_remembers_survives_its_death(self, tmp_path: Path) -> None:
        """Running statistics, average and KL weight are those of the last snapshot, not of the interrupted update."""

        def job(*model: str, **runtime: Any) -> Job:
            base = toy_job(*model, **runtime)
            algorithm = {"advantages": "running", "advantage_min_count": 8, "kl_weight": 0.2, "kl_target": 1e-3}
            sections = {"algorithm": base.algorithm, "train": base.train}
            added = {"algorithm": algorithm, "train": {"ema_decay": 0.7}}
            return base.model_copy(update={n: s.model_copy(update=added[n]) for n, s in sections.items()})

        local = result(run(job(), tmp_path / "local"))
        marker = tmp_path / "crashed"
        assert result(run(job(f"toy:crash_learner={marker}", backend="ray"), tmp_path)) == local
        assert marker.exists()

    def test_a_unit_that_always_kills_its_worker_ends_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunFault, match="failed 4 times") as caught:
            run(toy_job(f"toy:crash={tmp_path}/absent/marker", backend="ray", rollout_workers=2), tmp_path)
        assert any("rl-motion resume" in note for note in caught.value.__notes__)

    def test_a_bug_reaches_the_user_at_once_with_its_traceback(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a bug in unit") as caught:
            run(toy_job("toy:bug", backend="ray"), tmp_path)
        assert "_misbehave" in str(caught.value)

    def test_lost_trajectories_are_sampled_again(self, tmp_path: Path) -> None:
        from rl_motion.runtime.ray_backend import RayBackend
        from rl_motion.runtime.ray_calls import SystemFault

        job = toy_job(backend="ray")
        backend: Any = RayBackend(job, fakes.WORKSHOP)
        try:
            snapshot = backend.start()
            held = backend.rollout(fakes.pool(job).draw(0, job.train), snapshot)
            before = [scored.total_B.tolist() for scored in backend.score(held)]
            fault = SystemFault(RuntimeError("node gone"))
            refs = [item.ref for item in held]
            backend._sample_again(held, fault)
            assert [item.ref for item in held] != refs
            assert [scored.total_B.tolist() for scored in backend.score(held)] == before
        finally:
            backend.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_cannot_be_made_says_why_at_once_and_one_that_dies_is_replaced() -> None:
    """The first would fail on every node alike; the second, the control, is the machines' fault."""
    import ray

    class Worker:
        def __init__(self, broken: bool) -> None:
            if broken:
                raise ImportError("no module called motion_of_mine")

        def prepare(self) -> None:
            time.sleep(60)

    made = ray.remote(Worker).options(num_cpus=0)
    with pytest.raises(RunFault, match=r"got .*no module called motion_of_mine.*; want .*resume") as refused:
        ray_calls.get(made.remote(True).prepare.remote())
    assert not isinstance(refused.value, ray_calls.SystemFault)
    actor = made.remote(False)
    waiting = actor.prepare.remote()
    ray.kill(actor)
    with pytest.raises(ray_calls.SystemFault):
        ray_calls.get(waiting)
