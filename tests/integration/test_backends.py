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
from rl_motion.runtime.pool import SystemFault
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


def test_every_worker_that_comes_in_has_to_compute_like_the_learner() -> None:
    """Replacements too, of every pool: with other CPU instructions the numbers would depend on who computes."""
    from rl_motion.runtime.workers import Environment

    backend: Any = object.__new__(ray_backend.RayBackend)
    like = Environment(threads=1, cpu_capability="AVX2", torch="2", machine="x86_64")
    backend._environment = None
    for _ in range(2):
        backend._inspect(like)
    with pytest.raises(RunFault, match=r"got a worker with .*DEFAULT.*; want .*AVX2"):
        backend._inspect(dataclasses.replace(like, cpu_capability="DEFAULT"))


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
        with pytest.raises(RunFault, match="no worker survives or answers") as caught:
            run(toy_job(f"toy:crash={tmp_path}/absent/marker", backend="ray", rollout_workers=2), tmp_path)
        assert any("rl-motion resume" in note for note in caught.value.__notes__)

    def test_a_bug_reaches_the_user_at_once_with_its_traceback(self, tmp_path: Path) -> None:
        started = time.monotonic()
        with pytest.raises(ValueError, match="a bug in unit") as caught:
            run(toy_job("toy:bug", backend="ray"), tmp_path)
        assert time.monotonic() - started < 30  # of which the workers' start takes all but a moment
        assert "_misbehave" in str(caught.value)

    def test_a_poisoned_prompt_is_set_aside_with_its_reason_whatever_the_number_of_workers(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It costs its unit nothing but itself; the local run without that prompt is the oracle."""

        def job(model: str = "toy", **runtime: Any) -> Job:
            base = toy_job(model, iterations=3, **runtime)
            return base.model_copy(update={"train": base.train.model_copy(update={"prompts_per_unit": 2})})

        with caplog.at_level("INFO"):
            found = [result(run(job("toy:poison=3", backend="ray", rollout_workers=n), tmp_path)) for n in (1, 2)]
        assert found[0] == found[1]
        assert found[0][1][-1]["prompts/set_aside"] == 1
        assert "is set aside from now on: rollout worker died" in caplog.text


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
    assert not isinstance(refused.value, SystemFault)
    actor = made.remote(False)
    waiting = actor.prepare.remote()
    ray.kill(actor)
    with pytest.raises(SystemFault):
        ray_calls.get(waiting)
