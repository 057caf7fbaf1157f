"""A real denoiser, LoRA through peft and the real learner: local and Ray agree bit for bit, and so does a resume."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config.load import load_job
from rl_motion.runtime import frontend
from rl_motion.runtime.build import Workshop, check_job
from tests import fakes
from tests.fakes import learn, real_job, result


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_local_ray_and_resume_agree(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.REAL_POLICY)
    quiet = Console(file=io.StringIO())
    local = frontend.start(real_job(model), tmp_path, quiet).folder
    remote = frontend.start(real_job(model, backend="ray", rollout_workers=2), tmp_path, quiet).folder
    assert result(remote) == result(local)
    half = real_job(model)
    half = half.model_copy(update={"train": half.train.model_copy(update={"iterations": 1})})
    resumed = frontend.start(half, tmp_path, quiet).folder
    assert result(resumed)[0] != result(local)[0]
    frontend.resume(resumed, ["train.iterations=2", "runtime.backend=ray"], quiet)
    assert result(resumed) == result(local)


def test_sample_writes_a_page_and_an_array(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "made" / "page.html"
    command = ["sample", "--model", model, "--prompt", "a person walks", "--prompt", "one <b>jumps</b>"]
    ended = CliRunner().invoke(app, [*map(str, command), "--samples", "2", "--length", "12", "--out", str(page)])
    assert ended.exit_code == 0, ended.output
    assert str(page) in ended.output
    joints_BFJ3 = np.load(page.with_suffix(".npy"), allow_pickle=False)
    assert joints_BFJ3.shape == (4, 12, 22, 3)
    html = page.read_text()
    assert "a person walks" in html
    assert "<b>jumps" not in html


def test_sample_refuses_what_is_no_adapter(model: Path, tmp_path: Path) -> None:
    command = ["sample", "--model", str(model), "--prompt", "a walk", "--adapter", str(tmp_path)]
    ended = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "page.html")])
    assert ended.exit_code == 2
    assert "adapter" in ended.stderr


@pytest.mark.parametrize(
    ("override", "word"), [("model.name=mdm-nowhere", "mdm-nowhere"), ("rewards=[{name: nope}]", "'nope'")]
)
def test_unknown_parts_are_refused_before_anything_starts(
    model: Path, tmp_path: Path, override: str, word: str
) -> None:
    from rl_motion.config.load import dump_job

    path = tmp_path / "job.yaml"
    path.write_text(dump_job(real_job(model, backend="ray")))
    ended = CliRunner().invoke(app, ["train", str(path), "--set", override, "--out", str(tmp_path / "out")])
    assert ended.exit_code == 2
    assert word in ended.stderr
    assert not (tmp_path / "out").exists()


def test_metrics_are_json(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.REAL_POLICY)
    folder = frontend.start(real_job(model, threads=1), tmp_path, Console(file=io.StringIO())).folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = {"reward/total", "reward/near", "policy/kl", "policy/clip_fraction", "time/rollout_s", "reward/count"}
    assert wanted <= rows[0].keys()
    assert rows[0]["policy/kl"] == 0.0 < rows[1]["policy/kl"]


@pytest.mark.parametrize("base", ["mdm-embedded", "t2m-unet-embedded"])
def test_the_longer_job_runs_with_another_network_by_one_changed_key(base: str) -> None:
    """The packaged weights and reward, in units of two prompts; the audit of the first iteration passes."""
    small = [
        "iterations=2",
        "prompts_per_iteration=4",
        "prompts_per_unit=2",
        "units_per_step=1",
        "samples_per_prompt=2",
    ]
    job = load_job("first-light", [f"model.name={base}", *(f"train.{setting}" for setting in small)])
    check_job(job)
    first, second = learn(job, Workshop())
    assert first["learner/updates"] == second["learner/updates"] == 2.0
    assert 0.0 < first["policy/kl"] < second["policy/kl"] < 1e-3
    assert first["reward/total"] > 0.3
