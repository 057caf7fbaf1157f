"""Several learners on Ray: the adapter of one, bit for bit, and no failure that hangs or stays hidden."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, RunFault
from rl_motion.runtime import frontend, ray_learners, resuming
from rl_motion.runtime.pool import SystemFault
from tests import fakes
from tests.fakes import real_job, result, rows, toy_job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def everything(model: str = "toy", **runtime: Any) -> Job:
    """Every option that a learner carries, and optimiser steps of three units and of one."""
    tree = toy_job(model, **runtime).model_dump()
    algorithm = {"advantages": "running", "advantage_min_count": 8, "kl_weight": 0.2, "kl_target": 1e-3}
    tree["algorithm"] |= {**algorithm, "inner_epochs": 2}
    tree["train"] |= {"ema_decay": 0.7, "units_per_step": 3}
    return Job.model_validate(tree)


def on_ray(learners: int, model: str = "toy") -> Job:
    return everything(model, backend="ray", learner_workers=learners)


def limited(job: Job, steps: int) -> Job:
    return job.model_copy(update={"train": job.train.model_copy(update={"max_skipped_steps": steps})})


def folder_of(job: Job, out: Path) -> Path:
    return frontend.start(job, out, QUIET).folder


def state(folder: Path) -> bytes:
    """Everything the next step would depend on."""
    return (folder / "commits" / "00000004" / "learner.safetensors").read_bytes()


def test_one_two_and_three_learners_end_alike(tmp_path: Path) -> None:
    local = folder_of(everything(), tmp_path)
    for learners in (1, 2, 3):
        shared = folder_of(on_ray(learners), tmp_path)
        assert result(shared) == result(local)
        assert state(shared) == state(local)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_policy_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.REAL_POLICY)
    local = folder_of(real_job(model, threads=1), tmp_path)
    shared = folder_of(real_job(model, threads=1, backend="ray", learner_workers=2), tmp_path)
    assert result(shared) == result(local)


def test_control_gradients_added_as_they_arrive_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: learner by learner instead of in unit order."""
    monkeypatch.setattr(frontend, "MEANS", fakes.HASTY)
    one, two = (folder_of(on_ray(learners), tmp_path) for learners in (1, 2))
    assert result(one)[0] != result(two)[0]
    assert result(one) == result(folder_of(everything(), tmp_path))


def test_a_run_goes_on_with_another_number_of_learners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = resuming.settings_of
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))
    folder = tmp_path / "toy"
    with pytest.raises(KeyboardInterrupt):
        frontend.start(everything("toy:interrupt=1"), tmp_path, QUIET)
    for learners, iterations in ((2, 3), (1, 4)):
        sizes = [f"runtime.learner_workers={learners}", f"train.iterations={iterations}"]
        frontend.resume(folder, ["runtime.backend=ray", "model.name=toy", *sizes], QUIET)
        assert len(rows(folder)) == iterations
    straight = folder_of(everything(), tmp_path / "straight")
    assert result(folder) == result(straight)
    assert state(folder) == state(straight)


def test_a_step_that_is_not_finite_is_skipped_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unit 1 is the second learner's. And the control: the step does change the adapter."""
    local = folder_of(everything("toy:nan=1"), tmp_path)
    caplog.clear()
    shared = folder_of(on_ray(2, "toy:nan=1"), tmp_path)
    assert result(shared) == result(local)
    assert state(shared) == state(local)
    assert [row["learner/skipped_steps"] for row in rows(shared)] == [0, 2, 0, 0]
    skips = [message for message in caplog.messages if "skipped" in message]
    assert skips == ["an optimiser step was skipped: got loss nan in iteration 1, unit 1"] * 2
    assert result(shared)[0] != result(folder_of(everything(), tmp_path))[0]


@pytest.mark.parametrize("learners", [2, 3])
def test_a_learner_that_dies_costs_time_only(learners: int, tmp_path: Path) -> None:
    """Unit 2 is the first learner's of two and the last's of three; the others are in the middle of the update."""
    marker = tmp_path / "crashed"
    crashed = folder_of(on_ray(learners, f"toy:crash_learner={marker}"), tmp_path)
    assert marker.exists()
    straight = folder_of(everything(), tmp_path / "straight")
    assert result(crashed) == result(straight)
    assert state(crashed) == state(straight)


def test_a_gradient_that_is_lost_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the worst moment: the learners have made their last step and do not know that the update begins anew."""
    calls, check = itertools.count(), ray_learners._check_alike

    def lose(states: Sequence[str]) -> None:
        if next(calls) == 2:
            raise SystemFault("node gone", lost=True)
        check(states)

    monkeypatch.setattr(ray_learners, "_check_alike", lose)
    lost = folder_of(on_ray(2), tmp_path)
    assert next(calls) == 7  # start, four updates, the one that is lost and the learners put back
    assert result(lost) == result(folder_of(everything(), tmp_path))


def test_a_learner_that_dies_every_time_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(RunFault, match=r"the update failed 4 times .*actor died") as caught:
        folder_of(on_ray(2, f"toy:crash_learner={tmp_path}/absent/marker"), tmp_path)
    assert any("rl-motion resume" in note for note in caught.value.__notes__)
    assert len(rows(tmp_path / "toy")) == 1


@pytest.mark.parametrize(
    ("mishap", "error", "message"),
    [
        ("nan=1", RunFault, "got loss nan in iteration 1, unit 1, the last of 1 optimiser steps"),
        ("bug_learner=1", ValueError, "a bug in learning from unit 1"),
        ("drift={}/moved", RunFault, "got learners in different states .*learner_workers=1"),
    ],
)
def test_what_goes_wrong_in_one_learner_ends_the_run_at_its_last_commit(
    mishap: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    """Unit 1 is the second learner's."""
    with pytest.raises(error, match=message):
        folder_of(limited(on_ray(2, f"toy:{mishap.format(tmp_path)}"), 1), tmp_path)
    assert [row["iteration"] for row in rows(tmp_path / "toy")] == [0]
