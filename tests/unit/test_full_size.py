"""jobs/full_size.py: models of the published sizes take the paper's step, here narrower; what is no step is refused."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from rl_motion.config import UserError
from rl_motion.models.zoo import DENOISERS, load_denoiser, load_tmr
from rl_motion.runtime.checks import frame_rate
from tests.unit.test_jobs import application, load

PARAMETERS = {"mdm": 17_880_327, "mdm-smpl": 27.0e6, "stablemofusion": 299.0e6}
"""As published, without the text encoder; see docs/checkpoints.md."""


@pytest.fixture(scope="module")
def script(root):
    return load(root, "full_size")


@pytest.fixture(scope="module")
def models(script, tmp_path_factory):
    """All models, tiny, in one folder."""
    folder = tmp_path_factory.mktemp("full-size") / "models"
    for name in script.MODELS:
        script.make_models(folder, name, tiny=True)
    return folder


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_the_published_size(name, script):
    shape = script.MODELS[name]
    network_class, shape_class, _ = DENOISERS[shape.kind]
    with torch.device("meta"):
        network = network_class(shape_class(features=shape.features))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=2e-3)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["mdm", "mdm-kit", "mdm-smpl", "stablemofusion"])
def test_a_step_of_the_papers_job(name, script, models):
    """263, 251 and 205 features; the reward reads 263, and is given the others converted."""
    job = script.job_of(models, name, tiny=True)
    shape = script.MODELS[name]
    denoiser = load_denoiser(models / name)
    assert (denoiser.features, denoiser.fps, frame_rate(job)) == (shape.features, shape.fps, shape.fps)
    assert load_tmr(models / "tmr").representation == "humanml3d-263"
    assert (job.policy.steps, job.adapter.rank, job.algorithm.kl_weight) == (10, 4, 0.1)
    found = script.measure(models, name, "step", tiny=True)
    assert 0.0 < found["grad_norm"] < math.inf
    assert (found["adapter_changed"], found["skipped_steps"]) == (1.0, 0.0)
    assert all(found[key] > 0.0 for key in ("rollout_s", "audit_s", "reward_s", "learner_s", "peak_gb"))


@pytest.mark.usefixtures("one_thread")
def test_weights_that_start_at_zero_are_no_step(script, tmp_path, monkeypatch):
    """Negative control: as its authors initialise it, nothing before StableMoFusion's last layer has a gradient."""
    monkeypatch.setattr(script, "_wake", lambda _: None)
    script.make_models(tmp_path / "models", "stablemofusion", tiny=True)
    with pytest.raises(UserError, match="want a positive finite gradient"):
        script.measure(tmp_path / "models", "stablemofusion", "adapter", tiny=True)


@pytest.mark.usefixtures("one_thread")
def test_full_fine_tuning_trains_every_weight_and_an_adapter_few(script, models):
    found = {part: script.measure(models, "stablemofusion", part, tiny=True) for part in ("adapter", "full")}
    network = load_denoiser(models / "stablemofusion").network
    assert found["full"]["trained"] == sum(parameter.numel() for parameter in network.parameters())
    assert 0 < found["adapter"]["trained"] < found["full"]["trained"]


def test_full_fine_tuning_that_does_not_fit_is_refused_with_its_need(script, models, monkeypatch):
    script.refuse_too_large(4.8, 20.0)
    for need, free in ((25.0, 100.0), (4.8, 4.0)):
        with pytest.raises(UserError, match=f"want {need} GB"):
            script.refuse_too_large(need, free)
    monkeypatch.setattr(script, "free_gb", lambda: 1e-6)
    with pytest.raises(UserError, match="before any activation"):
        script.learner_alone(script.job_of(models, "stablemofusion", tiny=True), full=True)


def test_what_was_measured_is_kept_and_other_sizes_are_not_counted(script, tmp_path, monkeypatch):
    asked = []

    def process(*words):
        asked.append(words[1:3])
        return {"peak_gb": 1.5, "grad_norm": 0.1, "learner_s": 2.0}

    monkeypatch.setattr(script, "_process", process)
    words = ["--out", str(tmp_path), "--model", "stablemofusion", "--tiny"]
    first, second = (CliRunner().invoke(application(script), words) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert [part for _, part in asked] == ["model", "adapter", "model", "full", "model", "step"]
    assert first.stdout == second.stdout == (tmp_path / "full-size.md").read_text()
    assert "| stablemofusion | full | 1.50 |  |  |  | 2.0 | 0.1 |" in first.stdout
    other = CliRunner().invoke(application(script), words[:-1])
    assert other.exit_code == 2
    assert "of another job or other sizes" in other.stderr


def test_a_mistake_is_one_line_and_writes_nothing(script, tmp_path):
    ended = CliRunner().invoke(application(script), ["--out", str(tmp_path / "out"), "--model", "mld"])
    assert ended.exit_code == 2
    assert "got --model 'mld'" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_process_of_its_own_says_its_figures_last(script, tmp_path):
    ended = CliRunner().invoke(application(script), ["--out", str(tmp_path), "--model", "mdm", "--tiny"])
    assert ended.exit_code == 0, ended.output
    figures = json.loads((tmp_path / "results" / "mdm-step.json").read_text())["figures"]
    assert (figures["adapter_changed"], figures["threads"]) == (1.0, 1.0)
    assert not list((tmp_path / "models").glob(".*"))
