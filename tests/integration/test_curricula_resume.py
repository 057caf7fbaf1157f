"""Curricula under kill and resume: what was in flight comes again, bit for bit, whatever the ledger knows by now."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.runtime import frontend, resuming
from rl_motion.runtime.ledger import Ledger
from tests import fakes
from tests.fakes import result, toy_job

QUIET = Console(file=io.StringIO())
ITERATIONS = 7
MODES = {"sync": {}, "async": {"mode": "async", "staleness": 2}}
CURRICULA = {
    "uniform": {},
    "difficulty": {"curriculum_start": 0.4, "curriculum_iterations": 6},
    "signal": {},
}


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys, whose mishap is part of their name; apart from it the jobs are the same."""
    original = resuming.settings_of
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))


def job(curriculum: str, mode: str = "sync", iterations: int = ITERATIONS, **runtime: Any) -> Job:
    made = toy_job(iterations=iterations, **MODES[mode], **runtime)
    prompts = {"curriculum": curriculum, **CURRICULA[curriculum]}
    return Job.model_validate(made.model_dump() | {"prompts": prompts})


def straight(made: Job, out: Path) -> Path:
    return frontend.start(made, out / "straight", QUIET).folder


def interrupted(made: Job, out: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        frontend.start(fakes.with_model(made, f"toy:interrupt={at}"), out, QUIET)
    return out / made.name


def resumed(folder: Path, *overrides: str) -> Path:
    return frontend.resume(folder, ["model.name=toy", *overrides], QUIET).folder


def ledger(folder: Path, iteration: int | None = None) -> Ledger:
    commits = sorted((folder / "commits").iterdir())
    found = commits[-1] if iteration is None else folder / "commits" / f"{iteration:08d}"
    return Ledger.from_bytes((found / "ledger.json").read_bytes())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_resumed_run_draws_what_an_undisturbed_one_draws(curriculum: str, mode: str, tmp_path: Path) -> None:
    whole = straight(job(curriculum, mode), tmp_path)
    for at in (1, 3, 5):
        folder = interrupted(job(curriculum, mode), tmp_path / str(at), at)
        assert list(ledger(folder).drawn) == ([at, at + 1] if mode == "async" else [])
        assert result(resumed(folder)) == result(whole)
        assert ledger(folder).to_bytes() == ledger(whole).to_bytes()


def test_control_the_curricula_are_different_runs(tmp_path: Path) -> None:
    found = [result(straight(job(name), tmp_path / name)) for name in CURRICULA]
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("forgets", ["drawn", "rewards"])
def test_control_without_the_cursor_or_the_rewards_the_draws_differ(
    forgets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: what is in flight is drawn anew, by what is known by now, or by nothing."""
    whole = straight(job("signal", "async"), tmp_path)
    original = Ledger.from_bytes

    def forgetful(content: bytes) -> Ledger:
        made = original(content)
        getattr(made, forgets).clear()
        return made

    folders = [interrupted(job("signal", "async"), tmp_path / str(at), at) for at in (3, 4)]
    monkeypatch.setattr(Ledger, "from_bytes", forgetful)
    assert any(result(resumed(folder)) != result(whole) for folder in folders)


def test_a_run_that_is_extended_is_the_longer_run(tmp_path: Path) -> None:
    """Its last iterations draw ahead as if it went on."""
    whole = straight(job("signal", "async", iterations=9), tmp_path)
    folder = straight(job("signal", "async", iterations=5), tmp_path / "short")
    assert list(ledger(folder).drawn) == [5, 6]
    assert result(resumed(folder, "train.iterations=9")) == result(whole)


def test_another_curriculum_is_another_run(tmp_path: Path) -> None:
    folder = straight(job("signal", iterations=1), tmp_path)
    with pytest.raises(UserError, match=r"prompts.curriculum: got uniform; want signal"):
        resumed(folder, "train.iterations=2", "prompts.curriculum=uniform")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_draws_the_same_whatever_the_number_of_workers_and_goes_on_with_what_is_in_flight(tmp_path: Path) -> None:
    whole = straight(job("signal", "async"), tmp_path)
    folder = interrupted(job("signal", "async"), tmp_path, 3)
    resumed(folder, "runtime.backend=ray", "runtime.rollout_workers=3")
    assert result(folder) == result(whole)
    assert ledger(folder).to_bytes() == ledger(whole).to_bytes()
