"""What a resume compares: the job that the commit names, setting by setting, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.runtime.commit import Manifest
from rl_motion.runtime.run import _check_job, identity


def manifest(job: Job, **without: str) -> Manifest:
    kept = {name: value for name, value in identity(job).items() if name not in without.values()}
    return Manifest(
        iteration=1, adapter_sha256="", pool_sha256="", weights_sha256={}, job=kept, threads=job.runtime.threads,
        cpu_capability="", torch="", run_id="", mlflow_run_id=None, wall_s=0.0, metrics=None,
    )  # fmt: skip


def refused(manifest: Manifest, job: Job) -> str:
    with pytest.raises(UserError) as caught:
        _check_job(manifest, job, Path("runs/x"))
    return str(caught.value)


def test_a_setting_that_is_newer_than_the_commit_is_at_its_default() -> None:
    """No key of the schema needs a note elsewhere; and one that the job changes is refused all the same."""
    job = load_job("demo")
    for name in identity(job):
        if name.startswith(("algorithm.", "train.", "policy.", "adapter.")):
            section, key = name.split(".")
            section_class = type(getattr(job, section))
            if getattr(getattr(job, section), key) == section_class.model_fields[key].default:
                _check_job(manifest(job, without=name), job, Path("runs/x"))
    changed = load_job("demo", ["train.ema_decay=0.9"])
    assert "train.ema_decay: got 0.9; want None" in refused(manifest(job, without="train.ema_decay"), changed)


def test_a_source_of_prompts_is_no_such_setting() -> None:
    job = load_job("demo")
    assert "prompts.sources.source/train" in refused(manifest(job, without="prompts.sources.source/train"), job)


def test_settings_are_compared_whole() -> None:
    """Beyond what MLflow takes of a parameter, and where two names look alike to it."""
    rewards = [{"name": f"{'deep/' * 120}mine.py:Mine"}, {"name": "jerk"}]
    first = Job.model_validate({"name": "x", "rewards": rewards})
    second = Job.model_validate({"name": "x", "rewards": [rewards[0], rewards[1] | {"weight": -5.0}]})
    _check_job(manifest(first), first, Path("runs/x"))
    assert "rewards" in refused(manifest(first), second)
    sources = [Job.model_validate({"name": "x", "prompts": {"sources": {name: 1.0}}}) for name in ("a*.txt", "a?.txt")]
    assert "prompts.sources" in refused(manifest(sources[0]), sources[1])
