"""Whole runs in which something is not finite: what is skipped, recorded and said, and where the run ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rl_motion.config import Job, RunFault
from rl_motion.runtime import frontend, run
from rl_motion.runtime.workers import LearnerWorker
from tests import fakes
from tests.fakes import result, rows, toy_job

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def job_of(model: str, **train: object) -> Job:
    """Four optimiser steps an iteration, one for each unit."""
    tree = toy_job(model).model_dump()
    return Job.model_validate(tree | {"train": tree["train"] | {"units_per_step": 1, **train}})


def start(job: Job, out: Path) -> Path:
    return frontend.start(job, out, QUIET).folder


def strict(text: str) -> object:
    def refuse(name: str) -> object:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_reward_that_is_not_finite_costs_one_step(tmp_path: Path) -> None:
    """It is counted and said in the run's log; and no row of the records holds a NaN."""
    folder = start(job_of("toy:nan_reward=1"), tmp_path)
    found = rows(folder)
    assert [row["learner/skipped_steps"] for row in found] == [0, 1, 0, 0]
    assert [row["learner/updates"] for row in found] == [4, 3, 4, 4]
    assert [row["reward/non_finite"] for row in found] == [0, 1, 0, 0]
    assert [row["reward/count"] for row in found] == [16, 15, 16, 16]
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        strict(line)
    warned = [line.partition(": ")[2] for line in (folder / "logs" / "run.log").read_text().splitlines()]
    reward, step = (line for line in warned if "iteration 1, unit 0" in line)
    assert reward.startswith("iteration 1, unit 0: got nan from reward 'near' for prompt 'a person does thing number")
    assert step == "an optimiser step was skipped: got 1 of 4 rewards that are not finite in iteration 1, unit 0"


def test_control_a_row_with_nan_is_refused_here() -> None:
    with pytest.raises(AssertionError, match="NaN is no JSON"):
        strict('{"reward/total": NaN}')


def test_iterations_without_a_sound_unit_are_counted_and_change_no_adapter(tmp_path: Path) -> None:
    job = job_of("toy:nan_rewards=2", max_skipped_steps=9)
    folder = start(job, tmp_path)
    found = rows(folder)
    assert [row["learner/updates"] for row in found] == [4, 4, 0, 0]
    assert (found[3]["reward/count"], found[3]["reward/non_finite"]) == (12, 4)
    assert "policy/kl" not in found[3]
    short = start(job_of("toy:nan_rewards=2", iterations=2), tmp_path / "short")
    assert result(folder)[0] == result(short)[0]
    manifest = strict((folder / "commits" / "00000004" / "manifest.json").read_text())
    assert manifest["iteration"] == 4


ENDS = r"in iteration 2, unit 1, the last of 6 optimiser steps in a row"


def test_a_row_of_skipped_steps_ends_the_run_resumed_or_not(tmp_path: Path) -> None:
    """Iteration 1 skips four; two of the next are too many. What was committed stays."""
    with pytest.raises(RunFault, match=ENDS) as straight:
        start(job_of("toy:nan_rewards=1", max_skipped_steps=6), tmp_path)
    assert f"saved: 2 iterations and their adapter in {tmp_path / 'toy'}" in straight.value.__notes__
    for again in range(2):  # and once more after the fault
        folder = tmp_path / "half" / "toy"
        if not again:
            start(job_of("toy:nan_rewards=1", max_skipped_steps=6, iterations=2), folder.parent)
        with pytest.raises(RunFault, match=ENDS):
            frontend.resume(folder, ["train.iterations=4"], QUIET)
        assert len(rows(folder)) == 2


def test_control_a_count_that_is_not_committed_ends_the_run_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import torch as safetensors

    folder = start(job_of("toy:nan_rewards=1", max_skipped_steps=6, iterations=2), tmp_path)
    original = LearnerWorker.restore

    def forgetful(self: LearnerWorker, version: int, state: bytes) -> object:
        kept = {name: t for name, t in safetensors.load(state).items() if name != "skipped_in_a_row"}
        return original(self, version, safetensors.save(kept))

    monkeypatch.setattr(LearnerWorker, "restore", forgetful)
    with pytest.raises(RunFault, match=r"in iteration 3, unit 1, the last of 6"):
        frontend.resume(folder, ["train.iterations=4"], QUIET)


def test_a_resumed_run_may_have_another_limit(tmp_path: Path) -> None:
    """It changes no number: with a higher one the run gets to its end, as if it had had it from the start."""
    with pytest.raises(RunFault, match=ENDS):
        start(job_of("toy:nan_rewards=1", max_skipped_steps=6), tmp_path)
    folder = frontend.resume(tmp_path / "toy", ["train.max_skipped_steps=20"], QUIET).folder
    assert result(folder) == result(start(job_of("toy:nan_rewards=1", max_skipped_steps=20), tmp_path / "straight"))
    assert "train.max_skipped_steps" not in run.identity(toy_job())
