"""Validation while a run trains: it changes no number of the run, is not made twice, and says which adapter is best."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.runtime import frontend, resuming
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.validate import validation_units
from rl_motion.runtime.workers import Behaviour
from rl_motion.types import Unit
from tests import fakes
from tests.fakes import result, rows, toy_job

SAID = io.StringIO()
QUIET = Console(file=SAID)
OVERSHOOTS = {"learning_rate": 2.0}
"""The adapter passes by what the reward asks for, so that the best is not the last."""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys, whose mishap is part of their name; apart from it the jobs are the same."""
    SAID.truncate(0)
    original = resuming.settings_of
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))


def validating(every: int | None = 2, iterations: int = 7, train: dict[str, Any] | None = None, **runtime: Any) -> Job:
    tree = toy_job(iterations=iterations, **runtime).model_dump()
    tree["evaluation"] |= {"validate_every": every, "validation_prompts": 4, "samples_per_prompt": 3}
    tree["train"] |= train or {}
    return Job.model_validate(tree)


def run(job: Job, out: Path) -> Path:
    return frontend.start(job, out, QUIET).folder


def interrupted(job: Job, out: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        frontend.start(fakes.with_model(job, f"toy:interrupt={at}"), out, QUIET)
    return out / job.name


def validated(folder: Path) -> dict[int, float]:
    """Rewards by finished iterations."""
    return {int(r["iteration"]) + 1: r["validation/reward"] for r in rows(folder) if "validation/reward" in r}


def best_of(folder: Path) -> dict[str, Any] | None:
    last = sorted((folder / "commits").iterdir())[-1]
    return json.loads((last / "manifest.json").read_text())["best"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [{}, {"mode": "async"}, {"mode": "async", "staleness": 3}])
def test_it_changes_nothing_else(mode: dict[str, Any], tmp_path: Path) -> None:
    plain, watched = run(validating(None, **mode), tmp_path / "plain"), run(validating(2, **mode), tmp_path / "watched")
    kept = [{k: v for k, v in row.items() if not k.startswith(("validation/", "sentinel/"))} for row in rows(watched)]
    assert kept == rows(plain)
    assert result(watched)[0] == result(plain)[0]
    assert list(validated(watched)) == [2, 4, 6]
    row = rows(watched)[1]
    assert row["validation/reward_low"] < row["validation/reward"] < row["validation/reward_high"]
    assert best_of(plain) is None


def test_it_is_the_reward_of_the_newest_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where training is sampled with an older one; and the units are those of the job, always the same."""
    asked: list[tuple[Sequence[Unit], int]] = []
    ask = LocalBackend.ask

    def noting(self: LocalBackend, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
        if units[0].seed == Job(name="x").evaluation.seed:
            asked.append((units, behaviour.version))
        return ask(self, units, behaviour)

    monkeypatch.setattr(LocalBackend, "ask", noting)
    job = validating(2, mode="async", staleness=2)
    run(job, tmp_path)
    assert [version for _, version in asked] == [2, 0, 4, 6], "and once what sentinels are compared with"
    expected = validation_units(job, fakes.validation(job), fakes.pool(job))
    assert all(units == expected for units, _ in asked)
    assert sum(unit.batch for unit in expected) == 4 * 3


@pytest.mark.parametrize("mode", [{}, {"mode": "async", "staleness": 3}])
def test_a_resume_validates_no_iteration_twice(
    mode: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(validating(train=OVERSHOOTS, **mode), tmp_path / "whole")
    asked: Counter[int] = Counter()
    ask = LocalBackend.ask

    def noting(self: LocalBackend, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
        asked[behaviour.version] += units[0].seed == Job(name="x").evaluation.seed
        return ask(self, units, behaviour)

    monkeypatch.setattr(LocalBackend, "ask", noting)
    for at in (2, 4, 5):
        asked.clear()
        folder = interrupted(validating(train=OVERSHOOTS, **mode), tmp_path / str(at), at)
        frontend.resume(folder, ["model.name=toy"], QUIET)
        assert result(folder) == result(whole)
        assert best_of(folder) == best_of(whole)
        # What sentinels are compared with is asked for once by every process that validates.
        assert +asked == {0: 2, 2: 1, 4: 1, 6: 1}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("mode", [{}, {"mode": "async", "staleness": 2}])
def test_ray_validates_the_same(mode: dict[str, Any], tmp_path: Path) -> None:
    local = run(validating(iterations=5, **mode), tmp_path / "local")
    remote = run(validating(iterations=5, backend="ray", rollout_workers=2, **mode), tmp_path / "ray")
    assert result(remote) == result(local)


def adapter(folder: Path, iteration: int) -> bytes:
    return (folder / "commits" / f"{iteration:08d}" / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_best_is_kept_and_published(tmp_path: Path) -> None:
    settings = {"keep_commits": 1, "train": OVERSHOOTS | {"publish": "best"}}
    folder = run(validating(1, **settings), tmp_path)
    rewards = validated(folder)
    best = max(rewards, key=lambda iteration: rewards[iteration])
    assert best < 7
    assert sorted(path.name for path in (folder / "commits").iterdir()) == [f"{best:08d}", "00000007"]
    found = best_of(folder)
    assert found is not None and found["iteration"] == best and found["reward"] == rewards[best]
    marked = json.loads((folder / "commits" / f"{best:08d}" / "manifest.json").read_text())
    assert marked["best"]["iteration"] == marked["iteration"] == best
    published = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert published == adapter(folder, best) != adapter(folder, 7)
    assert f"adapter: after iteration {best}, the best in validation: reward {rewards[best]:.4g} [" in SAID.getvalue()
    # The same run, published otherwise: a resume may say so.
    frontend.resume(folder, ["train.publish=last"], QUIET)
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == adapter(folder, 7)
    assert "changed: train.publish: best -> last (which adapter is published)\n" in SAID.getvalue()
    assert "adapter: after iteration 7, the last\n" in SAID.getvalue()


def test_of_equals_the_first_is_the_best(tmp_path: Path) -> None:
    folder = run(validating(train={"learning_rate": 1e-30}), tmp_path)
    assert len(set(validated(folder).values())) == 1
    found = best_of(folder)
    assert found is not None and found["iteration"] == 2


def test_a_best_commit_that_is_damaged_is_said(tmp_path: Path) -> None:
    folder = run(validating(1, keep_commits=1, train=OVERSHOOTS | {"publish": "best"}), tmp_path)
    found = best_of(folder)
    assert found is not None
    shutil.rmtree(folder / "commits" / f"{found['iteration']:08d}" / "adapter")
    frontend.resume(folder, [], QUIET)
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == adapter(folder, 7)
    assert (
        f"after iteration 7, the last, as the commit of the best ({found['iteration']}) is damaged" in SAID.getvalue()
    )


def job_with(sources: dict[str, float], prompts: int = 4) -> Job:
    tree = validating().model_dump()
    tree["prompts"]["validation"] = sources
    tree["evaluation"]["validation_prompts"] = prompts
    return Job.model_validate(tree)


def texts(*words: str) -> list[Any]:
    return [make_prompt(text, 4) for text in words]


POOL = PromptPool({"toy": texts("a person walks", "a person jumps")}, {"toy": 1.0}, 0)
FOUR = texts("one", "two", "three", "four")


def test_units_mix_the_sources_by_weight() -> None:
    job = job_with({"a": 3.0, "b": 1.0})
    units = validation_units(job, {"a": FOUR, "b": texts("five", "one")}, POOL)
    chosen = [prompt.text for unit in units for prompt in unit.prompts]
    assert len(set(chosen)) == 4 and chosen[3] in {"five", "one"}
    assert {unit.seed for unit in units} == {job.evaluation.seed} != {job.train.seed}
    assert units == validation_units(job, {"a": FOUR, "b": texts("five", "one")}, POOL)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"a": FOUR, "b": texts("A person  walks")}, ["'b'", "'A person walks'", "trained with too"]),
        ({"a": FOUR[:1], "b": FOUR}, ["1 prompts of its own in 'a'", "2 to take"]),
        ({"a": FOUR[:2], "b": FOUR[:2]}, ["0 prompts of its own in 'b'"]),
    ],
)
def test_sources_that_cannot_serve_are_refused(sources: dict[str, list[Any]], words: list[str]) -> None:
    with pytest.raises(UserError, match=r"prompts\.validation: got .*; want .*; ") as caught:
        validation_units(job_with({"a": 1.0, "b": 1.0}), sources, POOL)
    assert all(word in str(caught.value) for word in words)


def test_a_source_that_gets_none_is_refused() -> None:
    with pytest.raises(UserError, match="in 'b' and 0 to take from it"):
        validation_units(job_with({"a": 100.0, "b": 1.0}), {"a": FOUR, "b": texts("five")}, POOL)
