"""Every check of `rl-motion doctor` passes where all is well and fails where it is not; none ends the others."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, TrackingConfig
from rl_motion.config.load import dump_job
from rl_motion.runtime import checks, doctor, frontend
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.doctor import drill, memory, nodes, replaying, storage, tracking
from rl_motion.runtime.doctor.findings import Case, Finding, NodeFacts, made
from rl_motion.runtime.doctor.memory import Weights
from rl_motion.runtime.local import LocalBackend
from rl_motion.types import Trajectory, Unit
from tests import fakes
from tests.fakes import toy_job
from tests.watching import QUIET

HERE = NodeFacts("here", {"rl_motion": "0.1.0 (aa)", "ray": "2.60.0"}, "AVX2", 10**10, ())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(toy_job(), fakes.WORKSHOP, tmp_path / "deep" / "runs")


def with_uri(case: Case, uri: str | None) -> Case:
    return replace(case, job=case.job.model_copy(update={"tracking": TrackingConfig(mlflow_uri=uri)}))


def assert_teaches(finding: Finding) -> None:
    assert finding.state == "failed"
    assert finding.text.startswith("got ") and "; want " in finding.text and finding.text.count("; ") >= 2


# Nodes


def test_nodes_that_are_alike() -> None:
    assert nodes.compared(HERE, [HERE, replace(HERE, address="there")]).state == "fine"


@pytest.mark.parametrize(
    "other",
    [
        {"versions": {**HERE.versions, "rl_motion": "0.1.0 (bb)"}},
        {"versions": {"ray": "2.60.0"}},
        {"cpu_capability": "AVX512"},
    ],
)
def test_nodes_that_differ(other: dict[str, Any]) -> None:
    finding = nodes.compared(HERE, [HERE, replace(HERE, address="there", **other)])
    assert_teaches(finding)
    assert "there" in finding.text


def test_what_a_process_finds() -> None:
    found = nodes.look("here")
    assert found.versions["torch"] == torch.__version__
    assert 10**8 < found.free_bytes < 10**14
    assert nodes.source_sha256() == nodes.source_sha256()


# Audit


def test_the_audit_learns_what_a_unit_weighs(case: Case) -> None:
    assert replaying.check_audit(case).state == "fine"
    assert case.adapter_bytes == 3 * 4
    assert case.trajectory_bytes is not None and case.trajectory_bytes > 4 * 4 * 3 * 4 * 3  # three states of 4 x 4 x 3
    assert case.peak_bytes is not None and case.peak_bytes > 10**7


class Forgetful(fakes.TinyPolicy):
    """Scores otherwise than it draws."""

    def _log_prob(self, latents_BTFD: Any, mean_BSFD: Any) -> Any:
        return super()._log_prob(latents_BTFD, mean_BSFD) + torch.rand(1) * 1e-6


def test_an_audit_that_fails_is_a_finding(case: Case) -> None:
    case.workshop = replace(case.workshop, policy=lambda job: Forgetful())
    finding = made(replaying.check_audit, case)
    assert finding.state == "failed" and "want exactly 0" in finding.text
    assert memory.check_memory(case).state == "skipped"


# Memory


def test_the_estimate_is_what_its_formula_says() -> None:
    job = toy_job(backend="ray", rollout_workers=3, learner_workers=2)  # four units of an iteration
    each = memory.estimate(job, Weights(frozen=100, adapter=10, trajectory=7, peak=0))
    worker = memory.PROCESS_BYTES + 100
    assert each == {"rollout": worker, "reward": worker, "learner": worker + 50 + 2 * 7, "store": 4 * 7}
    assert memory.estimate(job, Weights(100, 10, 7, peak=2 * worker))["learner"] == 2 * worker + 14
    assert memory.needed(job, 1, each) == 3 * worker + worker + 2 * each["learner"] + 28
    assert memory.needed(job, 2, each) == 2 * worker + worker + each["learner"] + 28
    late = toy_job(backend="ray", mode="async", staleness=3)
    assert memory.estimate(late, Weights(100, 10, 7, 0))["store"] == 4 * 4 * 7


def test_memory_is_held_against_the_smallest_node(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"0" * 1000)
    monkeypatch.setattr(
        checks, "directories", lambda job: {"model": tmp_path / "weights", "text": tmp_path / "weights"}
    )
    assert memory.frozen_bytes(case.job) == 1000
    case.job = toy_job(backend="ray")
    case.adapter_bytes, case.trajectory_bytes, case.peak_bytes = 10, 10, 10
    case.nodes = [HERE, replace(HERE, address="there", free_bytes=10**10)]
    assert memory.check_memory(case).state == "fine"
    case.nodes = [HERE, replace(HERE, address="there", free_bytes=10**9)]
    finding = memory.check_memory(case)
    assert_teaches(finding)
    assert "there" in finding.text


# Storage


def test_storage_is_left_as_it_was(case: Case, tmp_path: Path) -> None:
    assert storage.check_storage(case).state == "fine"
    assert list(tmp_path.iterdir()) == []


def test_storage_that_is_no_folder(case: Case, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file")
    assert_teaches(storage.check_storage(case))


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, kind: None)


def no_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda self, other: other.write_bytes(b"ha"))


def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "ROOM_BYTES", 10**18)


def no_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_SLOW_SYNC_S", 0.0)


@pytest.mark.parametrize("trouble", [no_locks, no_renames, no_sync, no_room, no_haste])
def test_storage_that_is_no_good(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    trouble(monkeypatch)
    assert_teaches(storage.check_storage(case))
    assert list(tmp_path.iterdir()) == []


# MLflow


def test_mlflow_that_is_not_there(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    assert tracking.check_mlflow(with_uri(case, None)).state == "skipped"
    assert tracking.check_mlflow(with_uri(case, "sqlite:///{out}/mlflow.db")).state == "fine"
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        finding = tracking.check_mlflow(with_uri(case, f"http://127.0.0.1:{taken.getsockname()[1]}/secret-path"))
    assert_teaches(finding)
    assert "127.0.0.1" in finding.text and "secret-path" not in finding.text
    assert made(tracking.check_mlflow, with_uri(case, "http://me:pw@host")).text.startswith("tracking.mlflow_uri: got")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.slow
def test_mlflow_takes_a_run(case: Case, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.create_experiment("rl_motion", artifact_location=tmp_path.as_uri())
    assert tracking.check_mlflow(with_uri(case, uri)).state == "fine"
    experiment = client.get_experiment_by_name("rl_motion")
    assert experiment is not None and client.search_runs([experiment.experiment_id]) == []
    (tmp_path / "mlflow.db").write_text("no database")
    assert_teaches(tracking.check_mlflow(with_uri(case, uri)))


# A worker dies


class Death(BaseException):
    """What `os._exit` raises here."""


class Surviving(LocalBackend):
    """Samples again what a dead worker held; `spoils` what comes back."""

    spoils = False
    deaths = 0

    def ask(self, units: Sequence[Unit], behaviour: Any) -> Callable[[], Rollouts]:
        def answer() -> Rollouts:
            try:
                return LocalBackend.ask(self, units, behaviour)()
            except Death:
                self.deaths += 1
                again = LocalBackend.ask(self, units, behaviour)()
                if self.spoils:
                    again.scored[0].total_B.add_(0)
                    again.scored[0].rewards["near"][0] += 1e-6
                return again

        return answer

    def status(self) -> Any:
        return replace(QUIET, retries={"died": self.deaths})


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Iterator[drill.Fate]:
    def die(code: int) -> None:
        raise Death

    monkeypatch.setattr(os, "_exit", die)
    yield drill.Fate()


def test_a_death_that_costs_time_alone(fate: drill.Fate) -> None:
    seen = drill.drill(toy_job(), fakes.WORKSHOP, Surviving, fate.doom, fate.takes)
    assert (seen.died, seen.same) == (1, True)
    assert drill.judged(seen).state == "fine"
    assert fate.takes() is False


def test_other_numbers_after_a_death_are_seen(fate: drill.Fate, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = replace(fakes.WORKSHOP, policy=fakes.careless_policy)
    for workshop, spoils in ((careless, False), (fakes.WORKSHOP, True)):
        monkeypatch.setattr(Surviving, "spoils", spoils)
        seen = drill.drill(toy_job(), workshop, Surviving, fate.doom, fate.takes)
        assert (seen.died, seen.same) == (1, False)
        assert_teaches(drill.judged(seen))


def test_a_drill_without_a_death_is_no_drill() -> None:
    seen = drill.drill(toy_job(), fakes.WORKSHOP, LocalBackend, lambda: None, lambda: False)
    assert (seen.died, seen.same) == (0, True)
    assert_teaches(drill.judged(seen))


def test_a_mortal_policy_is_its_policy() -> None:
    mortal = drill.mortal_policy(toy_job(), fakes.policy, lambda: False)
    assert mortal.schedule_hash == "tiny"
    [unit] = fakes.pool(toy_job()).draw(0, toy_job().train)[:1]
    assert isinstance(mortal.rollout(unit), Trajectory)


# All together


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(memory, "frozen_bytes", lambda job: 1000)
    (tmp_path / "toy.yaml").write_text(dump_job(toy_job()))
    return tmp_path / "toy.yaml"


def test_a_machine_that_is_well(job: Path, tmp_path: Path) -> None:
    ended = invoke("doctor", job, "--out", tmp_path / "runs")
    assert ended.exit_code == 0, ended.output
    lines = ended.stdout.splitlines()
    assert [line[0] for line in lines] == ["–", "✓", "✓", "✓", "–", "–", "–", "–", "a"]
    assert [line[2:].partition(":")[0] for line in lines[:-1]] == list(doctor.CHECKS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.yaml"]


def test_one_check_that_fails_does_not_end_the_others(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: Case) -> Finding:
        raise ZeroDivisionError("a bug\x1b[2J")

    monkeypatch.setattr(doctor, "CHECKS", {**doctor.CHECKS, "nodes": broken})
    ended = invoke("doctor", job, "--out", tmp_path / "runs")
    assert ended.exit_code == 1
    assert "✗ nodes: got ZeroDivisionError: a bug" in ended.stdout and "\x1b" not in ended.stdout
    assert "✓ storage" in ended.stdout and ended.stdout.endswith("1 checks failed\n")


def test_a_job_that_is_wrong_is_not_examined(job: Path, tmp_path: Path) -> None:
    assert invoke("doctor", tmp_path / "nowhere.yaml").exit_code == 2
    assert invoke("doctor", job, "--set", "train.iteratoins=2").exit_code == 2


def test_plain_jobs_have_no_second_place(case: Case, tmp_path: Path) -> None:
    assert storage.check_commits_uri(case).state == "skipped"
    other = case.job.runtime.model_copy(update={"commits_uri": f"file://{tmp_path}/commits"})
    case.job = Job.model_construct(**{**dict(case.job), "runtime": other})
    assert storage.check_commits_uri(case).state == "fine"
    assert list((tmp_path / "commits").iterdir()) == []
    other = case.job.runtime.model_copy(update={"commits_uri": "nonsense://x"})
    case.job = Job.model_construct(**{**dict(case.job), "runtime": other})
    assert made(storage.check_commits_uri, case).state == "failed"


def test_mortal_workshops_travel() -> None:
    """As Ray would send them."""
    policy = partial(drill.mortal_policy, make=fakes.policy, doomed=partial(drill._ask, None))
    there = pickle.loads(pickle.dumps(replace(fakes.WORKSHOP, policy=policy)))
    assert isinstance(there.policy(toy_job()), drill.Mortal)
