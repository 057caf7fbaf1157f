"""What a resume compares: the settings that the commit names with those asked for, one by one, whole."""

from __future__ import annotations

from typing import Any

import pytest

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.runtime import resuming
from rl_motion.runtime.commit import Best, Manifest
from rl_motion.runtime.resuming import changes, check_inputs, measure_of, refuse, settings_of


def manifest(made_by: Job, without: str = "", **more: Any) -> Manifest:
    kept = {name: value for name, value in settings_of(made_by).items() if name != without}
    given = {
        "iteration": 1, "adapter_sha256": "", "pool_sha256": "p" * 64, "weights_sha256": {}, "job": kept,
        "threads": made_by.runtime.threads, "cpu_capability": "", "torch": "", "run_id": "", "mlflow_run_id": None,
        "wall_s": 0.0, "metrics": None,
    }  # fmt: skip
    return Manifest.model_validate(given | more)


def asked(*overrides: str, of: str = "demo") -> Job:
    return load_job(of, overrides)


def test_a_setting_that_is_newer_than_the_commit_is_at_its_default() -> None:
    """No key of the schema needs a note elsewhere; and one that the job changes is refused all the same."""
    job, default = asked(), settings_of(Job(name="any"))
    tried = 0
    for name, value in settings_of(job).items():
        if not name.startswith("prompts.sources.") and default.get(name) == value:
            assert changes(manifest(job, without=name), job, job) == changes(manifest(job), job, job)
            tried += 1
    assert tried > 40
    changed = asked("train.ema_decay=0.9")
    found = changes(manifest(job, without="train.ema_decay"), job, changed)
    assert found.refused == ("train.ema_decay: got 0.9; want None",)


def test_a_source_of_prompts_is_no_such_setting() -> None:
    job = asked()
    (line,) = changes(manifest(job, without="prompts.sources.source/train"), job, job).refused
    assert line.startswith("prompts.sources.source/train: got ")


def test_settings_are_compared_whole() -> None:
    """Beyond what MLflow takes of a parameter, and where two names look alike to it."""
    rewards = [{"name": f"{'deep/' * 120}mine.py:Mine"}, {"name": "jerk"}]
    first = Job.model_validate({"name": "x", "rewards": rewards})
    second = Job.model_validate({"name": "x", "rewards": [rewards[0], rewards[1] | {"weight": -5.0}]})
    assert changes(manifest(first), first, first) == resuming.Changes((), ())
    assert "rewards: got" in changes(manifest(first), first, second).refused[0]
    sources = [Job.model_validate({"name": "x", "prompts": {"sources": {name: 1.0}}}) for name in ("a*.txt", "a?.txt")]
    assert len(changes(manifest(sources[0]), sources[0], sources[1]).refused) == 2


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("runtime.rollout_workers=4", "runtime.rollout_workers: 2 -> 4 (speed only)"),
        ("runtime.backend=local", "runtime.backend: ray -> local (speed only)"),
        ("runtime.keep_commits=5", "runtime.keep_commits: 2 -> 5 (how many commits stay)"),
        ("runtime.commits_uri=s3://b/x", "runtime.commits_uri: None -> s3://b/x (where commits go)"),
        ("train.iterations=7", "train.iterations: 30 -> 7 (how far it goes)"),
        ("evaluation.prompts=9", "evaluation.prompts: 64 -> 9 (what is measured beside training)"),
        ("tracking.experiment=e", "tracking.experiment: rl_motion -> e (records only)"),
        ("name=other", "name: demo -> other (a name)"),
        ("prompts.validation={v.txt: 1}", "prompts.validation.v.txt: None -> 1.0 (what is measured beside training)"),
    ],
)
def test_what_may_change_is_said(override: str, line: str) -> None:
    job = asked("train.iterations=30", "evaluation.prompts=64")
    found = changes(manifest(job), job, asked("train.iterations=30", "evaluation.prompts=64", override))
    assert line in found.free
    assert found.refused == ()


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["train.seed=9"], ["train.seed: got 9; want 0"]),
        (["runtime.mode=async"], ["runtime.mode: got async, staleness 1; want sync"]),
        (["runtime.threads=7"], ["runtime.threads: got 7; want "]),
        (["policy.steps=5", "train.learning_rate=1.0"], ["policy.steps: got 5", "train.learning_rate: got 1.0"]),
    ],
)
def test_what_would_change_the_numbers_is_refused_in_one_message(overrides: list[str], lines: list[str]) -> None:
    job = asked()
    found = changes(manifest(job), job, asked(*overrides, "runtime.rollout_workers=3"))
    with pytest.raises(UserError) as caught:
        refuse(found, "runs/x")
    for line in lines:
        assert line in str(caught.value)
    assert len(found.refused) == len(lines)
    assert "rollout_workers" not in str(caught.value)


def test_staleness_counts_where_it_is_used() -> None:
    job = asked()
    assert changes(manifest(job), job, asked("runtime.staleness=3")).refused == ()
    behind = asked("runtime.mode=async", "runtime.staleness=3")
    assert changes(manifest(behind), behind, asked("runtime.mode=async")).refused != ()


def test_a_commit_of_the_first_format_says_less() -> None:
    """It has what the numbers depend on alone: the rest is compared with job.yaml, and lag is that of its day, none."""
    job = asked("runtime.rollout_workers=4", "train.iterations=30")
    numbers = ("adapter.", "algorithm.", "calibration", "model.", "policy.", "prompts.sources", "rewards", "train.")
    kept = {n: v for n, v in settings_of(job).items() if n.startswith(numbers) and n not in {"train.iterations"}}
    old = manifest(job, format=1, job=kept)
    assert changes(old, job, job) == resuming.Changes((), ())
    longer = asked("runtime.rollout_workers=4", "train.iterations=31")
    assert changes(old, job, longer).free == ("train.iterations: 30 -> 31 (how far it goes)",)
    behind = asked("runtime.rollout_workers=4", "train.iterations=30", "runtime.mode=async")
    assert changes(old, behind, behind).refused == ("runtime.mode: got async, staleness 1; want sync",)


VALIDATED = ("evaluation.validate_every=2",)


def best(job: Job) -> Best:
    return Best(iteration=2, reward=1.0, low=None, high=None, measured=measure_of(job), prompts_sha256="v" * 64)


@pytest.mark.parametrize(
    "override",
    ["evaluation.seed=3", "evaluation.samples_per_prompt=9", "evaluation.validation_prompts=64",
     "prompts.validation={v.txt: 1}"],
)  # fmt: skip
def test_rewards_that_do_not_compare_are_refused(override: str) -> None:
    """Once an iteration is the best by validation; before that, or without it, the same change is free."""
    job, other = asked(*VALIDATED), asked(*VALIDATED, override)
    (line, *_) = changes(manifest(job, best=best(job)), job, other).refused
    assert "by which iteration 2 is the best so far" in line
    assert changes(manifest(job), job, other).refused == ()
    assert changes(manifest(job, best=best(job)), job, asked(override)).refused == ()
    assert changes(manifest(job, best=best(job)), job, asked("evaluation.validate_every=5")).refused == ()


def test_prompts_of_validation_are_bound_where_one_is_the_best() -> None:
    job = asked(*VALIDATED)
    chosen = manifest(job, best=best(job))
    check_inputs(chosen, "p" * 64, {}, "v" * 64)
    check_inputs(chosen, "p" * 64, {}, "")
    check_inputs(manifest(job), "p" * 64, {}, "w" * 64)
    with pytest.raises(UserError, match="got prompts of validation with hash wwwwww"):
        check_inputs(chosen, "p" * 64, {}, "w" * 64)
