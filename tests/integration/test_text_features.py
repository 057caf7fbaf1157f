"""A text encoder of some size never runs in the loop: its features are there before the first iteration."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models import text_cache
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint
from rl_motion.runtime import frontend, progress, text_features
from tests import fakes, guarded_texts
from tests.fakes import real_job, result
from tests.small_encoders import save_clip, save_distilbert


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MDM that reads the tokens of a DistilBERT, whose rare words alone have 17 MB."""
    folder = tmp_path_factory.mktemp("large")
    create_tiny_bert(["a person does thing number 1 2 3"], folder / "words", TinyBertConfig(hidden=16))
    save_distilbert(folder / "distilbert", folder / "words", vocabulary=270_000)
    torch.manual_seed(0)
    shape = MDMConfig(
        latent_dim=16,
        ff_size=32,
        num_layers=1,
        num_heads=2,
        text_dim=16,
        mask_frames=True,
        pos_embed_max_len=60,
        arch="trans_dec",
        text_tokens=True,
    )
    network = MDM(shape)
    config = CheckpointConfig(
        kind="mdm", network=network_shape(network), text_encoder="distilbert", schedule=ScheduleConfig(timesteps=50)
    )
    save_checkpoint(folder / "mdm", network, config, MotionSpace(torch.zeros(263), torch.ones(263)))
    return folder / "mdm"


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `guard` changes in this process is as before after the test."""
    monkeypatch.setattr(TextEncoder, "_model", TextEncoder._model)


def run(job: fakes.Job, out: Path, monkeypatch: pytest.MonkeyPatch, means: frontend.Means) -> Path:
    monkeypatch.setattr(frontend, "MEANS", means)
    return frontend.start(job, out, Console(file=io.StringIO())).folder


@pytest.mark.usefixtures("unguarded")
def test_in_the_loop_no_text_is_encoded_and_numbers_are_those_without_a_cache(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(text_cache.FOLDER, "off")
    without = run(real_job(large, threads=1), tmp_path, monkeypatch, fakes.REAL_POLICY)
    monkeypatch.setenv(text_cache.FOLDER, str(guarded_texts.cache_of(real_job(large))))
    cached = run(real_job(large, threads=1), tmp_path, monkeypatch, guarded_texts.MEANS)
    assert result(cached) == result(without)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "unguarded")
def test_workers_on_ray_share_the_cache_and_agree_with_one_process(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(text_cache.FOLDER, str(guarded_texts.cache_of(real_job(large))))
    remote_job = real_job(large, backend="ray", rollout_workers=2)
    remote = run(remote_job, tmp_path, monkeypatch, guarded_texts.MEANS)
    assert result(remote) == result(run(real_job(large), tmp_path, monkeypatch, guarded_texts.MEANS))


@pytest.mark.usefixtures("unguarded")
def test_without_the_filling_a_worker_would_load_it(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the test above."""
    job = real_job(large, threads=1)
    monkeypatch.setenv(text_cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(guarded_texts, "cache_of", lambda job: tmp_path / "cache")
    with pytest.raises(UserError, match=r"distilbert that does not load \(AssertionError: a worker loads"):
        run(job, tmp_path, monkeypatch, guarded_texts.EMPTY)


def test_the_filling_says_how_far_it_is_and_is_cheap_to_repeat(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(text_cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)  # what takes no time is else not told of
    job, before = real_job(large, threads=3), torch.get_num_threads()
    prompts, out = fakes.pool(job).prompts, io.StringIO()
    with caplog.at_level("INFO"):
        text_features.fill(job, frontend.Workshop(), prompts, Console(file=out, width=60))
        # Ten prompts, "a" and "".
        assert out.getvalue().endswith("text features, distilbert: 12/12\n")
        assert "distilbert ran 12 times for 12 texts" in caplog.text
        caplog.clear()
        text_features.fill(job, frontend.Workshop(), prompts, Console(file=out, width=60))
        assert " ran " not in caplog.text
    assert torch.get_num_threads() == before
    torch.set_num_threads(3)  # those of the job are the ones that count
    try:
        encoder = TextEncoder(large.parent / "distilbert")
        encoder.tokens([prompt.text for prompt in prompts])
        assert encoder.computed == 0
    finally:
        torch.set_num_threads(before)


def test_captions_that_a_model_reads_in_part_are_counted(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(text_cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(text_cache, "WORTH_BYTES", 1)
    save_clip(tmp_path / "clip", whole=False)
    encoder = TextEncoder(tmp_path / "clip", cut=22)
    job = real_job(large, threads=1)
    workshop = frontend.Workshop(text_readers=lambda job: [(encoder, "pooled")])
    text_features.fill(job, workshop, fakes.pool(job).prompts, Console(file=io.StringIO()))
    assert "of 12 texts, 10 are longer than the 22 tokens" in caplog.text
