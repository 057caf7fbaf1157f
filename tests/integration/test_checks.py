"""What is wrong with a job ends with exit code 2 and a sentence before anything starts; so do adapters and prompts."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load, save
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, UserError
from rl_motion.config.load import dump_job
from rl_motion.runtime import checks, frontend, sampling
from rl_motion.runtime.build import Workshop, build_pool, check_job
from rl_motion.runtime.frontend import Means
from rl_motion.runtime.resuming import Changes
from rl_motion.types import Prompt, Unit
from tests import fakes
from tests.fakes import real_job

LONG_TEXT = " ".join(["person"] * 70)


@pytest.fixture
def job(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that is right: its prompts come from a file, its reward needs no packaged weights."""
    monkeypatch.setattr(checks, "CHECKPOINTS", {})
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"a person does thing number {n}\n" for n in range(4)))
    made = real_job(model, threads=1)
    return made.model_copy(update={"prompts": made.prompts.model_copy(update={"sources": {str(path): 1.0}})})


@pytest.fixture
def adapter(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The adapter of a run of one iteration."""
    monkeypatch.setattr(frontend, "MEANS", fakes.REAL_POLICY)
    made = real_job(model, threads=1)
    made = made.model_copy(update={"train": made.train.model_copy(update={"iterations": 1})})
    return frontend.start(made, tmp_path / "runs", Console(file=io.StringIO())).folder / "adapter"


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(ended: Any, *words: str) -> None:
    assert ended.exit_code == 2, ended.output + ended.stderr
    assert "Traceback" not in ended.stderr
    for word in ("got", "want", *words):
        assert word in ended.stderr


def test_control_the_job_is_right(job: Job) -> None:
    check_job(job)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("adapter.targets=[]", ["adapter.targets", "attention"]),
        ("policy.steps=60", ["policy.steps=60"]),
        ("policy.steps=1", ["no stochastic transition"]),
        ("prompts.default_length=60", ["60 frames", "at most 59"]),
        ("tracking.mlflow_uri=http://me:secret@host/", ["MLFLOW_TRACKING_PASSWORD"]),
        ("tracking.mlflow_uri=file:///tmp/x", ["sqlite"]),
    ],
)
@pytest.mark.parametrize("how", ["train", "resume"])
def test_a_wrong_job_is_refused_before_anything_starts(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, override: str, words: list[str]
) -> None:
    means = Means(replace(fakes.WORKSHOP, check=check_job), fakes.evaluate)
    monkeypatch.setattr(frontend, "MEANS", means)
    monkeypatch.setattr("rl_motion.runtime.resuming.changes", lambda *_: Changes((), ()))
    folder = tmp_path / "out" / job.name
    if how == "resume":
        shutil.rmtree(frontend.start(job, tmp_path / "out", Console(file=io.StringIO())).folder / "adapter")
        ended = command("resume", folder, "--set", override)
        assert not (folder / "adapter").exists()
    else:
        (tmp_path / "job.yaml").write_text(dump_job(job))
        ended = command("train", tmp_path / "job.yaml", "--out", tmp_path / "out", "--set", override)
        assert not folder.exists()
    refused(ended, *words)
    assert "secret" not in ended.output + ended.stderr


def test_lengths_of_a_prompt_file_are_checked_and_long_texts_are_set_aside(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    right = path.read_text()
    before = build_pool(job)
    path.write_text(f"{right}a walk#60\n")
    with pytest.raises(UserError, match=r"got .*60 frames.*want at most"):
        check_job(job)
    path.write_text(f"{right}{LONG_TEXT}\n")
    check_job(job)
    pool = build_pool(job)
    assert (pool.prompts, pool.sha256) == (before.prompts, before.sha256)
    assert (before.set_aside, pool.set_aside) == ({}, {str(path): {checks.TOO_MANY: 1}})
    path.write_text(f"{LONG_TEXT}\n")
    with pytest.raises(UserError, match=r"got 1 prompts .*want at most 64"):
        check_job(job)


def test_prompts_of_one_length_for_a_model_that_sees_padding(job: Job, model: Path, tmp_path: Path) -> None:
    """Seen before anything starts, not by the first unit that mixes them; and evaluation keeps to one length too."""
    folder = tmp_path / "zoo"
    shutil.copytree(model.parent, folder)
    config = json.loads((folder / "mdm" / "config.json").read_text())
    config["network"]["mask_frames"] = False
    (folder / "mdm" / "config.json").write_text(json.dumps(config))
    seen = job.model_copy(update={"model": job.model.model_copy(update={"name": str(folder / "mdm")})})
    check_job(seen)
    masked, alike = (checks.examined(each, "target/test") for each in (job, seen))
    assert {prompt.length for prompt in masked} == {38, 39, 40}
    assert {prompt.length for prompt in alike} == {38}
    path = tmp_path / "prompts.txt"
    path.write_text(f"{path.read_text()}a person jumps#12\n")
    check_job(job)
    with pytest.raises(UserError, match=r"got prompts of .*12 frames; want one length, .* sees padded frames; give"):
        check_job(seen)


def test_the_longest_prompt_that_passes_can_be_sampled(model: Path, job: Job) -> None:
    """The limit is exact: one frame more is refused, by the check and by the policy itself."""
    policy = sampling.load_policy(job, None)
    for length in (59, 60):
        prompt = Prompt("p", "a person", length)
        unit = Unit(seed=0, iteration=0, index=0, prompts=(prompt,), samples_per_prompt=1)
        if length == 59:
            checks.check_prompts([model], [prompt])
            policy.rollout(unit)
        else:
            with pytest.raises(UserError, match="59"):
                checks.check_prompts([model], [prompt])
            with pytest.raises(UserError, match=r"got a prompt of 60 frames; want at most 59.*shorten"):
                policy.rollout(unit)


@pytest.mark.parametrize(("option", "value", "word"), [("--length", 500, "500 frames"), ("--prompt", LONG_TEXT, "72")])
def test_sample_refuses_what_is_too_long(model: Path, tmp_path: Path, option: str, value: object, word: str) -> None:
    page = tmp_path / "page.html"
    refused(command("sample", "--model", model, "--prompt", "a walk", "--out", page, option, value), word, "shorten")
    assert not page.exists()


def test_sample_computes_with_the_jobs_threads(job: Job) -> None:
    for threads in (2, 1):
        runtime = job.runtime.model_copy(update={"threads": threads})
        sampling.load_policy(job.model_copy(update={"runtime": runtime}), None)
        assert torch.get_num_threads() == threads


def broken(adapter: Path, how: str) -> None:
    config_file, weights_file = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    config = json.loads(config_file.read_text())
    if how == "no rank":
        del config["r"]
    if how == "rank in words":
        config["r"] = "four"
    config_file.write_text("{" if how == "no JSON" else "[]" if how == "a list" else json.dumps(config))
    if how == "cut short":
        weights_file.write_bytes(weights_file.read_bytes()[:-100])
    if how == "no safetensors":
        weights_file.write_bytes(b"PK" * 100)
    if how == "a tensor short":
        weights_file.write_bytes(save(dict(list(load(weights_file.read_bytes()).items())[1:])))


def test_broken_adapters_are_refused(model: Path, adapter: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    sample = ["sample", "--prompt", "a walk", "--length", "12", "--out", page, "--adapter"]
    made = command(*sample, adapter)
    assert made.exit_code == 0, made.output + made.stderr
    page.unlink()
    for how in ("no rank", "rank in words", "no JSON", "a list", "cut short", "no safetensors", "a tensor short"):
        copy = tmp_path / how
        shutil.copytree(adapter, copy)
        broken(copy, how)
        refused(command(*sample, copy, "--model", model))
        assert not page.exists()


def test_an_adapter_belongs_to_its_own_base_model(model: Path, adapter: Path, tmp_path: Path) -> None:
    """The other model has the same shape: nothing but the name tells them apart."""
    other = tmp_path / "zoo" / "other"
    shutil.copytree(model.parent, other.parent)
    (other.parent / model.name).rename(other)
    page = tmp_path / "page.html"
    sample = ["sample", "--prompt", "a walk", "--length", "12", "--out", page, "--adapter", adapter]
    refused(command(*sample, "--model", other), str(model), str(other), "leave out --model")
    assert not page.exists()
    assert sampling.job_of(adapter, None).model.name == str(model)
    (adapter.parent / "job.yaml").unlink()
    assert sampling.job_of(adapter, None).model.name == str(model)
    for same in ([], ["--model", model], ["--model", f"{model}/../{model.name}"]):
        made = command(*sample, *same)
        assert made.exit_code == 0, made.output + made.stderr
    config_file = adapter / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    assert command(*sample, "--model", other).exit_code == 0


def test_weights_are_hashed_by_role_and_content(job: Job, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    shutil.copytree(model.parent, folder)
    moved = fakes.with_model(job, str(folder / model.name))
    before = checks.weights_sha256(job)
    assert before.keys() == {"model", "model.text_encoder"}
    assert checks.weights_sha256(moved) == before
    (folder / model.name / "README.md").write_text("other words")
    assert checks.weights_sha256(moved) == before
    for path, role in ((folder / model.name, "model"), (folder / "text", "model.text_encoder")):
        weights = path / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
        assert checks.weights_sha256(moved)[role] != before[role]


def test_a_run_does_not_go_on_over_other_weights(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(check=fakes.check, rewards=fakes.rewards, pool=fakes.pool)
    monkeypatch.setattr(frontend, "MEANS", Means(workshop, fakes.evaluate))
    monkeypatch.setattr(checks, "CHECKPOINTS", {})
    quiet = Console(file=io.StringIO())
    shutil.copytree(model.parent, tmp_path / "zoo")
    own = tmp_path / "zoo" / model.name
    made = real_job(own, threads=1)
    made = made.model_copy(update={"train": made.train.model_copy(update={"iterations": 1})})
    folder = frontend.start(made, tmp_path, quiet).folder
    weights = own / "model.safetensors"
    content = weights.read_bytes()
    tensors = load(content)
    weights.unlink()  # a new file: the old one may still be mapped into memory
    weights.write_bytes(save(tensors | {"std_D": tensors["std_D"] * 1.01}))
    with pytest.raises(UserError, match=r"model: got .*want .*start a new run"):
        frontend.resume(folder, ["train.iterations=2"], quiet)
    weights.unlink()
    weights.write_bytes(content)
    frontend.resume(folder, ["train.iterations=2"], quiet)


def test_where_the_last_transition_lands_is_recorded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.REAL_POLICY)
    folder = frontend.start(real_job(model, threads=1), tmp_path, Console(file=io.StringIO())).folder
    for row in fakes.rows(folder):
        assert 0 < row["policy/landing_sigma"] < 1
        assert row["policy/landing_snr_weight"] > 0
