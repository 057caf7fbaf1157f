"""What a job's rewards read from its working directory: plugins and calibrations, from the command line to Ray."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, UserError
from rl_motion.config.load import dump_job
from rl_motion.runtime import checks, frontend
from rl_motion.runtime.build import Workshop, build_rewards, check_job
from rl_motion.runtime.frontend import Means
from tests import fakes
from tests.fakes import real_job, result, rows, toy_job

PLUGIN = """
from rl_motion.types import MotionForm, Normalisation, Representation

class Near:
    accepts = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
    differentiable = True
    def __call__(self, motions, prompts, noise_level_B=None):
        return -(motions.features_BFD - 0.8).square().mean(dim=(1, 2))
"""
NEAR = "my_reward.py:Near"
CHECKED = Means(replace(fakes.WORKSHOP, check=check_job), fakes.evaluate)
"""Real checks, before toys."""
OWN_REWARDS = Means(replace(fakes.WORKSHOP, rewards=build_rewards), fakes.evaluate)
"""Only the rewards are real."""
REAL = Means(Workshop(), fakes.evaluate)


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with prompts and a plugin."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "my_reward.py").write_text(PLUGIN)
    (folder / "prompts.txt").write_text("".join(f"a person does thing number {n}\n" for n in range(4)))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(checks, "CHECKPOINTS", {})
    return folder


def with_rewards(job: Job, *rewards: str, **changes: Any) -> Job:
    tree = job.model_dump() | {"rewards": [{"name": name} for name in rewards], **changes}
    return Job.model_validate(tree | {"prompts": {"sources": {"prompts.txt": 1.0}}})


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(job: Job, out: Path, *more: str) -> Any:
    Path("job.yaml").write_text(dump_job(job))
    return command("train", "job.yaml", "--out", out, *more)


def start(job: Job, out: Path) -> Path:
    return frontend.start(job, out, Console(file=io.StringIO())).folder


def refused(ended: Any, *words: str) -> None:
    assert ended.exit_code == 2, ended.output + ended.stderr
    assert "Traceback" not in ended.output + ended.stderr
    for word in ("got", "want", *words):
        assert word in ended.stderr


def test_control_a_right_plugin_passes_the_checks(model: Path) -> None:
    check_job(with_rewards(real_job(model), NEAR, "jerk"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Normalisation.NONE", "Normalisation.DATASET", ["humanml3d-263 normalised by dataset", "un-normalised"]),
        ("import MotionForm", "import MotionFrom", ["ImportError", "line 2"]),
        ("class Near", "class Far", ["no class 'Near'", "'Far'"]),
        ("differentiable = True", "pass", ["differentiable=None"]),
    ],
)
def test_a_wrong_plugin_is_refused_before_anything_starts(
    model: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: list[str]
) -> None:
    monkeypatch.setattr(frontend, "MEANS", CHECKED)
    (work / "my_reward.py").write_text(PLUGIN.replace(old, new))
    refused(train(with_rewards(real_job(model), NEAR), tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rewards.0.name=../my_reward.py:Near", ["in the job's working directory"]),
        ("rewards.0.name=gone.py:Near", ["gone.py", "No such file"]),
        ("rewards.0.name=nope", ["'nope'", "FILE.py:CLASS"]),
        ("rewards=[{name: jerk}, {name: jerk}]", ["'jerk' 2 times"]),
        ("rewards=[]", ["no reward"]),
        ("calibration=gone.json", ["gone.json", "rl-motion calibrate"]),
    ],
)
def test_wrong_rewards_are_refused_before_anything_starts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, words: list[str]
) -> None:
    monkeypatch.setattr(frontend, "MEANS", CHECKED)
    refused(train(with_rewards(real_job(model), NEAR), tmp_path / "out", "--set", override), *words)
    assert not (tmp_path / "out").exists()


def test_a_contrast_needs_two_prompts_in_a_unit(model: Path) -> None:
    job = with_rewards(real_job(model), "tmr_contrastive")
    with pytest.raises(UserError, match=r"prompts_per_unit=1; want at least 2"):
        check_job(job)
    check_job(job.model_copy(update={"train": job.train.model_copy(update={"prompts_per_unit": 2})}))


def test_a_run_does_not_go_on_over_a_changed_plugin(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "MEANS", OWN_REWARDS)
    folder = start(with_rewards(toy_job(iterations=2), NEAR), tmp_path / "out")
    assert {f"reward/{NEAR}", "reward/total"} <= fakes.rows(folder)[0].keys()
    (work / "my_reward.py").write_text(f"{PLUGIN}# changed\n")
    refused(command("resume", folder, "--set", "train.iterations=3"), f"reward.{NEAR}: got")
    (work / "my_reward.py").write_text(PLUGIN)
    assert command("resume", folder, "--set", "train.iterations=3").exit_code == 0
    assert result(folder) == result(start(with_rewards(toy_job(iterations=3), NEAR), tmp_path / "whole"))


def test_a_plugin_that_changes_while_the_run_trains_does_not_judge_it(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "MEANS", OWN_REWARDS)
    edits = PLUGIN.replace("return", "open('my_reward.py', 'a').write('# changed'); return")
    (work / "my_reward.py").write_text(edits)
    ended = train(with_rewards(toy_job(), NEAR), tmp_path / "out")
    refused(ended, "changed while the run trained", "saved: 4 iterations")
    (work / "my_reward.py").write_text(edits)
    assert command("resume", tmp_path / "out" / "toy").exit_code == 0


def test_an_error_in_a_plugin_is_a_fault_with_its_traceback(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "MEANS", OWN_REWARDS)
    (work / "my_reward.py").write_text(PLUGIN.replace("0.8", "undefined_name"))
    ended = train(with_rewards(toy_job(), NEAR), tmp_path / "out")
    assert ended.exit_code == 1
    for word in ("my_reward.py", "undefined_name", "saved: 0 iterations"):
        assert word in ended.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_plugin_reaches_ray_workers_that_run_elsewhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster was not started here, so a worker would look for the file in another directory."""
    monkeypatch.setattr(frontend, "MEANS", OWN_REWARDS)
    local = start(with_rewards(toy_job(), NEAR), tmp_path / "local")
    remote = start(with_rewards(toy_job(backend="ray", reward_workers=2), NEAR), tmp_path / "ray")
    assert result(remote) == result(local)


def test_a_calibration_makes_the_base_the_zero_and_its_spread_the_unit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 motions are those of the first iteration: same units, same noise, and an adapter that changes nothing yet."""
    monkeypatch.setattr(frontend, "MEANS", REAL)
    job = with_rewards(real_job(model, threads=1), "jerk")
    job = job.model_copy(update={"train": job.train.model_copy(update={"iterations": 1})})
    Path("job.yaml").write_text(dump_job(job))
    made = command("calibrate", "job.yaml", "--out", "c.json", "--motions", 16)
    assert made.exit_code == 0, made.output + made.stderr
    assert "jerk: mean -" in made.output and "(16 motions)" in made.output
    first = Path("c.json").read_bytes()
    raw, calibrated = (start(job.model_copy(update={"calibration": c}), tmp_path) for c in (None, "c.json"))
    spread = json.loads(first)["rewards"]["jerk"]
    (before,), (after,) = rows(raw), rows(calibrated)
    assert before["reward/total"] == pytest.approx(spread["mean"], rel=1e-5)
    assert after["reward/jerk"] == before["reward/jerk"]
    assert after["reward/total"] == pytest.approx(0, abs=1e-4)
    assert after["reward/total_std"] == pytest.approx(1, rel=1e-4)
    # The same measurement again, with the job that uses it: the same file.
    assert (
        command("calibrate", "job.yaml", "--set", "calibration=c.json", "--out", "d.json", "--motions", 16).exit_code
        == 0
    )
    assert Path("d.json").read_bytes() == first
    # Another measurement in its place: a resume sees it.
    assert command("calibrate", "job.yaml", "--out", "c.json", "--motions", 32).exit_code == 0
    refused(command("resume", calibrated, "--set", "train.iterations=2"), "calibration: got")
    Path("c.json").write_bytes(first)
    assert command("resume", calibrated, "--set", "train.iterations=2").exit_code == 0


def test_a_calibration_of_another_model_is_refused_before_anything_starts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from safetensors.torch import load, save

    monkeypatch.setattr(frontend, "MEANS", REAL)
    shutil.copytree(model.parent, "zoo")
    own = Path("zoo") / model.name
    job = with_rewards(real_job(own, threads=1), "jerk", NEAR, calibration="c.json")
    Path("job.yaml").write_text(dump_job(job))
    assert command("calibrate", "job.yaml", "--out", "c.json", "--motions", 16).exit_code == 0
    check_job(job)  # control
    refused(train(with_rewards(job, "jerk", "foot_skate"), tmp_path / "out"), "without ['foot_skate']")
    refused(train(job, tmp_path / "out", "--set", "policy.steps=5"), "policy.steps: got 4, want 5")
    Path("my_reward.py").write_text(f"{PLUGIN}# changed\n")
    refused(train(job, tmp_path / "out"), f"other inputs (reward.{NEAR})")
    Path("my_reward.py").write_text(PLUGIN)
    weights = own / "model.safetensors"
    tensors = load(weights.read_bytes())
    weights.unlink()  # a new file: the old one may still be mapped into memory
    weights.write_bytes(save(tensors | {"std_D": tensors["std_D"] * 1.01}))
    refused(train(job, tmp_path / "out"), "c.json", "other inputs (model)")
    assert not (tmp_path / "out").exists()


def test_calibrate_ends_with_2_for_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    Path("job.yaml").write_text(dump_job(toy_job()))
    refused(command("calibrate", "job.yaml", "--out", "c.txt"), ".json")
    refused(command("calibrate", "nowhere.yaml", "--out", "c.json"), "nowhere.yaml")
    refused(command("calibrate", "job.yaml", "--out", "job.yaml/c.json", "--motions", "8"), "choose another")
    assert not Path("c.json").exists()
