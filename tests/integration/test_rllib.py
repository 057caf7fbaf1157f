"""RLlib's way in gives the loop's bits; its traps (stale weights, dropped pushes, endless restarts) are closed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rl_motion.config import Job, RunFault, UserError
from rl_motion.config.load import change_job
from rl_motion.runtime import loop
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.workers import Behaviour, Snapshot
from rl_motion.types import Metrics
from tests import fakes
from tests.fakes import toy_job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
Build = Callable[..., Any]


def local(job: Job) -> tuple[Snapshot, list[Metrics]]:
    """The learner after the loop's own run, and its metrics without times."""
    found: list[Metrics] = []
    backend = LocalBackend(job, fakes.WORKSHOP)
    begun = loop.State(backend.start())
    end = loop.train(job, fakes.pool(job), backend, begun, lambda _, __, metrics: found.append(metrics)).snapshot
    own = (
        "time/",
        "policy/staleness",
        "prompts/drawn",
        "prompts/set_aside",
        "prompts/unread",
    )  # the loop says of itself
    return end, [{name: value for name, value in row.items() if not name.startswith(own)} for row in found]


def config(job: Job, runners: int, **search: Any) -> Any:
    from rl_motion.runtime.rllib import DDPOConfig

    made = DDPOConfig().job(job, search=search, workshop=fakes.WORKSHOP)
    return made.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds algorithms that end with the test."""
    made: list[Any] = []

    def build(job: Job, runners: int) -> Any:
        made.append(config(job, runners).build_algo())
        return made[-1]

    yield build
    for algo in made:
        algo.stop()


def finish(algo: Any) -> Snapshot:
    """Train to the job's last iteration."""
    while not algo.train()["done"]:
        pass
    after: Snapshot = algo.learner_group.snapshot
    return after


@pytest.mark.parametrize("runners", [0, 2])
def test_rllib_gives_the_bits_of_the_loop_and_so_do_four_restores_in_a_row(
    build: Build, tmp_path: Path, runners: int
) -> None:
    snapshot, rows = local(toy_job())
    algo = build(toy_job(), runners)
    results = [algo.train() for _ in rows[:2]]
    saved = algo.save_to_path(tmp_path / "saved")
    results += [algo.train() for _ in rows[2:]]
    assert [{name: result[name] for name in row} for result, row in zip(results, rows, strict=True)] == rows
    assert [result["done"] for result in results] == [False, False, False, True]
    after = algo.learner_group.snapshot
    assert (after.files, after.state) == (snapshot.files, snapshot.state)
    for _ in range(4):
        # Every runner still holds the adapter of the last iteration.
        algo.restore_from_path(saved)
        assert (algo.learner_group.snapshot.version, algo.training_iteration) == (2, 2)
        assert finish(algo).state == snapshot.state


def test_control_a_runner_that_waits_for_pushes_is_caught_after_a_restore(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one that ignores the request's adapter samples with what it was born with, and is seen."""
    from rl_motion.runtime.rllib import config as made
    from rl_motion.runtime.rllib.runner import Runner, Sampled

    class Pushed(Runner):
        def sample(self, *, unit: Any, **request: Any) -> Sampled:
            if not hasattr(self, "born"):
                self.born = request
            return super().sample(**self.born, unit=unit)

    monkeypatch.setattr(made, "Runner", Pushed)
    algo = build(toy_job(), 0)
    start = algo.save_to_path(tmp_path / "start")
    algo.train()
    with pytest.raises(RunFault, match=r"got a trajectory of adapter version 0 .* want version 1"):
        algo.train()
    algo.restore_from_path(start)
    algo.train()


def test_an_adapter_other_than_the_announced_is_refused(build: Build) -> None:
    algo = build(toy_job(), 0)
    unit = fakes.pool(toy_job()).draw(0, toy_job().train)[0]
    with pytest.raises(RunFault, match="got an adapter that differs from version 1"):
        algo.env_runner.sample(behaviour=Behaviour(1, "0" * 64, algo.learner_group.snapshot.adapter), unit=unit)


def test_a_checkpoint_that_comes_back_as_another_adapter_is_refused(build: Build) -> None:
    algo = build(toy_job(), 0)
    with pytest.raises(RunFault, match=r"got adapter .* from the checkpoint; want 000000000000"):
        algo.set_state(algo.get_state() | {"sha256": "0" * 64})


def test_what_it_cannot_do_is_refused_before_anything_starts(build: Build) -> None:
    for override, words in (
        ("runtime.mode=async", "want sync"),
        ("prompts.curriculum=signal", "nobody keeps a ledger"),
    ):
        with pytest.raises(UserError, match=words):
            build(change_job(toy_job(), [override]), 0)
    # Control: a curriculum that needs no ledger trains.
    assert build(change_job(toy_job(), ["prompts.curriculum=difficulty"]), 0).train()["prompts/flat"] == 0.0


@pytest.mark.slow
def test_a_runner_that_dies_is_replaced_and_costs_time_only(build: Build, tmp_path: Path) -> None:
    snapshot, _ = local(toy_job())
    marker = tmp_path / "crashed"
    algo = build(toy_job(f"toy:crash={marker}"), 1)
    group = algo.env_runner_group
    # The trap that makes a replacement stale elsewhere: of two pushes at once RLlib makes one and says nothing.
    assert [group.foreach_env_runner_async("ping", tag="push") for _ in range(2)] == [1, 0]
    assert finish(algo).sha256 == snapshot.sha256
    assert marker.exists()
    assert group.num_remote_worker_restarts() == 1


@pytest.mark.slow
def test_a_unit_that_always_kills_its_runner_ends_the_training(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl_motion.runtime.rllib import algorithm

    monkeypatch.setattr(algorithm, "ATTEMPTS", 2)
    algo = build(toy_job(f"toy:crash={tmp_path}/absent/marker"), 1)
    with pytest.raises(RunFault, match="units failed 2 times"):
        algo.train()


@pytest.mark.parametrize("runners", [0, 1])
def test_a_bug_reaches_the_user_at_once_and_restarts_nothing(build: Build, runners: int) -> None:
    algo = build(toy_job("toy:bug"), runners)
    with pytest.raises(ValueError, match="a bug in unit 0") as caught:
        algo.train()
    assert runners == 0 or "_misbehave" in str(caught.value)
    group = algo.env_runner_group
    assert (group.num_healthy_remote_env_runners(), group.num_remote_worker_restarts()) == (runners, 0)


@pytest.mark.slow
def test_the_page_for_rllib_users_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its snippets run as they are, but with the toy in the demo's place; Tune's trials are the loop's runs."""
    from rl_motion.runtime.rllib import config as made

    page = (Path(__file__).parents[2] / "docs" / "rllib.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 2
    monkeypatch.setattr(made, "load_job", lambda _, overrides: change_job(toy_job(), overrides))
    monkeypatch.setattr(made, "Workshop", lambda: fakes.WORKSHOP)
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, said)
    assert said["result"]["training_iteration"] == 3
    assert (tmp_path / "runs" / "rllib" / "adapter" / "adapter_model.safetensors").is_file()
    # Runners that were born with other weights had the checkpoint's before their first rollout.
    assert said["again"].learner_group.snapshot.files == local(toy_job())[0].files
    found = list(said["results"])
    assert len(found) == 2
    for result in found:
        rate = result.config["search"]["train.learning_rate"]
        _, rows = local(change_job(toy_job(), ["train.iterations=3", f"train.learning_rate={rate}"]))
        assert result.metrics["reward/total"] == rows[-1]["reward/total"]


class TestRefused:
    def test_no_job(self) -> None:
        from rl_motion.runtime.rllib import DDPOConfig

        with pytest.raises(UserError, match=r"got a DDPOConfig without a job; want one; call"):
            DDPOConfig().validate()

    def test_a_setting_that_nothing_reads(self) -> None:
        """RLlib would take it and go on."""
        with pytest.raises(UserError, match=r"got the RLlib setting lr=0.1, which DDPO does not read; want .*; "):
            config(toy_job(), 0).training(lr=0.1).validate()
        unknown = config(toy_job(), 0)
        unknown.num_env_runer = 2
        with pytest.raises(UserError, match=r"got the RLlib setting num_env_runer=2.*num_env_runners"):
            unknown.validate()

    def test_a_search_over_no_key_of_the_job(self) -> None:
        with pytest.raises(UserError, match=r"unknown key 'train.learning_rte'.*train.learning_rate"):
            config(toy_job(), 0, **{"train.learning_rte": 0.1}).validate()
