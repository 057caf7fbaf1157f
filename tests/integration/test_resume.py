"""A run that was interrupted goes on bit for bit, and refuses to become another run."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.runtime import frontend, opening, resuming, run
from rl_motion.runtime.frontend import Means
from tests import fakes
from tests.fakes import result, rows, toy_job

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def interrupted(job: Job, out: Path, at: int) -> Path:
    """A run that is killed while iteration `at` is sampled."""
    with pytest.raises(KeyboardInterrupt) as caught:
        frontend.start(fakes.with_model(job, f"toy:interrupt={at}"), out, QUIET)
    folder = out / job.name
    assert f"resume: rl-motion resume {folder}" in caught.value.__notes__
    return folder


def resume(folder: Path, *overrides: str) -> Path:
    return frontend.resume(folder, ["model.name=toy", *overrides], QUIET).folder


@pytest.fixture
def straight(tmp_path: Path) -> tuple[bytes, list[dict[str, float]]]:
    return result(frontend.start(toy_job(), tmp_path / "straight", QUIET).folder)


@pytest.fixture(autouse=True)
def _model_is_not_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mishap is part of the toy's name; apart from it the jobs are the same."""
    original = resuming.settings_of

    def without_mishap(job: Job) -> dict[str, str]:
        return original(fakes.with_model(job, "toy"))

    monkeypatch.setattr(resuming, "settings_of", without_mishap)


def test_two_and_two_are_four(tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    assert len(rows(folder)) == 2
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert result(resume(folder)) == straight
    assert [row["iteration"] for row in rows(folder)] == [0, 1, 2, 3]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_may_move_to_ray(tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    assert result(resume(folder, "runtime.backend=ray", "runtime.rollout_workers=2")) == straight


def test_a_damaged_commit_costs_one_iteration(tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]) -> None:
    folder = interrupted(toy_job(), tmp_path, at=3)
    damaged = folder / "commits" / "00000003" / "learner.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert result(resume(folder)) == straight


def test_a_kill_between_commit_and_row_loses_no_row(
    tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]
) -> None:
    folder = interrupted(toy_job(), tmp_path, at=3)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # and within the row
    (folder / "commits" / ".writing-00000004").mkdir()
    assert result(resume(folder)) == straight


def test_control_a_learner_without_its_moments_differs(
    tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: forget Adam's moments on the way, and the bits differ."""
    from rl_motion.learner.learner import Learner

    folder = interrupted(toy_job(), tmp_path, at=2)
    load = Learner.load_state_dict_tensors

    def forgetful(self: Learner, tensors: dict[str, object]) -> None:
        load(self, {k: v * 0 if k.startswith("adam_mean") else v for k, v in tensors.items()})  # type: ignore[operator,misc]

    monkeypatch.setattr(Learner, "load_state_dict_tensors", forgetful)
    assert result(resume(folder))[0] != straight[0]


OPTIONS = {
    "running": {"algorithm": {"advantages": "running", "advantage_min_count": 8, "advantage_floor": 0.1}},
    "leave one out": {"algorithm": {"advantages": "leave_one_out"}},
    "shrinkage": {"algorithm": {"advantage_shrinkage": 0.7}},
    "adaptive KL": {"algorithm": {"kl_weight": 0.2, "kl_target": 0.001}},
    "EMA": {"train": {"ema_decay": 0.7}},
}


def optional(name: str, **sizes: int) -> Job:
    """The toy job with an option on."""
    return load_tree(toy_job(**sizes), OPTIONS[name])


def load_tree(job: Job, sections: dict[str, dict[str, object]]) -> Job:
    tree = job.model_dump()
    return Job.model_validate(tree | {name: tree[name] | values for name, values in sections.items()})


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_goes_on_bit_for_bit(
    name: str, tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]
) -> None:
    whole = frontend.start(optional(name), tmp_path / "whole", QUIET).folder
    folder = interrupted(optional(name), tmp_path, at=3)
    assert result(resume(folder)) == result(whole) != straight
    states = [(f / "commits" / "00000004" / "learner.safetensors").read_bytes() for f in (folder, whole)]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("running", "advantages/rewards/"),
        ("shrinkage", "advantages/base_std"),
        ("adaptive KL", "algorithm/"),
        ("EMA", "ema/"),
    ],
)
def test_control_what_an_option_carries_has_to_be_committed(
    name: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: put back what the untrained learner had, and the bits differ."""
    from safetensors import torch as safetensors

    from rl_motion.runtime.workers import LearnerWorker

    whole = result(frontend.start(optional(name), tmp_path / "whole", QUIET).folder)
    folder = interrupted(optional(name), tmp_path, at=3)
    original = LearnerWorker.restore

    def forgetful(self: LearnerWorker, version: int, state: bytes) -> object:
        fresh = safetensors.load(self.prepare().state)
        kept = {name: t for name, t in safetensors.load(state).items() if not name.startswith(lost)}
        missing = {name: t for name, t in fresh.items() if name.startswith(lost)}
        return original(self, version, safetensors.save(kept | missing))

    monkeypatch.setattr(LearnerWorker, "restore", forgetful)
    assert result(resume(folder)) != whole


def test_the_published_adapter_is_the_average_of_the_committed_ones(tmp_path: Path) -> None:
    from safetensors.torch import load, load_file

    job = load_tree(toy_job(), OPTIONS["EMA"] | {"runtime": {"keep_commits": 9}})
    folder = frontend.start(job, tmp_path, QUIET).folder
    committed = [load_file(path / "learner.safetensors") for path in sorted((folder / "commits").iterdir())]
    mean = committed[0]["adapter/pull"].double()
    for state in committed[1:]:
        mean = 0.7 * mean + 0.3 * state["adapter/pull"].double()
    found = load(result(folder)[0])["pull"]
    assert found.tolist() == pytest.approx(mean.tolist(), rel=1e-6)
    assert found.tolist() != pytest.approx(committed[-1]["adapter/pull"].tolist(), rel=1e-2)
    plain = frontend.start(toy_job(), tmp_path / "plain", QUIET).folder
    assert rows(folder) == rows(plain)


NEWER = ("algorithm.advantages", "algorithm.kl_target", "policy.landing", "policy.solver_type", "train.ema_decay")
"""Settings that came after the first release of the loop."""


def older(folder: Path) -> None:
    """Take from a run's folder every setting that runs did not have when it was made."""
    import yaml

    job = yaml.safe_load((folder / "job.yaml").read_text())
    for name in NEWER:
        *sections, key = name.split(".")
        holder = job
        for section in sections:
            holder = holder[section]
        del holder[key]
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    for manifest in folder.glob("commits/*/manifest.json"):
        content = json.loads(manifest.read_text())
        content["job"] = {name: value for name, value in content["job"].items() if name not in NEWER}
        manifest.write_text(json.dumps(content))


def test_a_run_from_before_an_option_goes_on(tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    older(folder)
    with pytest.raises(UserError, match=r"train\.ema_decay: got 0\.5; want None"):
        resume(folder, "train.ema_decay=0.5")
    assert result(resume(folder)) == straight


def test_control_a_run_that_lacks_another_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: where a setting that the commit lacks has no default, the same folder is refused."""
    folder = interrupted(toy_job(), tmp_path, at=2)
    older(folder)
    monkeypatch.setattr(resuming, "_defaults", lambda got: {})
    with pytest.raises(UserError, match=r"algorithm\.advantages: got group; want None"):
        resume(folder)


def test_a_finished_run_can_be_made_longer(tmp_path: Path, straight: tuple[bytes, list[dict[str, float]]]) -> None:
    folder = frontend.start(toy_job(iterations=2), tmp_path, QUIET).folder
    assert result(resume(folder, "train.iterations=4")) == straight
    assert "iterations: 4" in (folder / "job.yaml").read_text()


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_resumed_run_is_never_erased(
    tmp_path: Path,
    straight: tuple[bytes, list[dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
) -> None:
    """Not even where its commits cannot be read once it is open: what is there can be read tomorrow."""
    folder = interrupted(toy_job(), tmp_path, at=2)

    def unreadable(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            patch.setattr(Path, "read_bytes", unreadable)
            raise fault

        patch.setattr(frontend.loop, "train", fails)
        with pytest.raises(type(fault)) as caught:
            resume(folder)
        assert "saved: 2 iterations" in caught.value.__notes__[0]
        assert "not up to date" in caught.value.__notes__[-1]
    with opening.reopen(folder, ["model.name=toy"]) as old, pytest.raises(ValueError, match="keep it"):
        opening.discard(old)
    assert result(resume(folder)) == straight


def test_wall_time_adds_up(tmp_path: Path) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    manifest = sorted((folder / "commits").iterdir())[-1] / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"wall_s": 1000.0}))
    assert frontend.resume(folder, ["model.name=toy"], QUIET).wall_s > 1000


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rate=0.1", ["train.learning_rate: got 0.1; want 0.05", "start a new run"]),
        ("train.seed=9", ["train.seed: got 9; want 0"]),
        ("runtime.threads=2", ["runtime.threads: got 2; want 1"]),
        ("policy.steps=5", ["policy.steps: got 5; want 10"]),
        ("train.nonsense=5", ["unknown key"]),
    ],
)
def test_another_job_is_refused(tmp_path: Path, override: str, words: list[str]) -> None:
    folder = frontend.start(toy_job(iterations=1), tmp_path, QUIET).folder
    before = (folder / "job.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        resume(folder, override)
    for word in words:
        assert word in str(caught.value)
    assert (folder / "job.yaml").read_bytes() == before


def test_other_prompts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    monkeypatch.setattr(frontend, "MEANS", fakes.OTHER_PROMPTS)
    with pytest.raises(UserError, match="got prompts with hash"):
        resume(folder)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)
    with monkeypatch.context() as patch:
        patch.setattr(frontend, "MEANS", fakes.OTHER_WEIGHTS)
        with pytest.raises(UserError, match=r"model: got fedcba987654, want 0123456789ab.*put the checkpoints back"):
            resume(folder)
    resume(folder)


def test_a_resume_checks_the_job_as_a_start_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(toy_job(), tmp_path, at=2)

    def refuse(job: Job) -> None:
        raise UserError("no such reward")

    monkeypatch.setattr(frontend, "MEANS", Means(replace(fakes.WORKSHOP, check=refuse), fakes.evaluate))
    with pytest.raises(UserError, match="no such reward"):
        resume(folder)
    assert len(rows(folder)) == 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no job\.yaml"):
        frontend.resume(tmp_path / "none", [], QUIET)
    folder = frontend.start(toy_job(iterations=1), tmp_path, QUIET).folder
    shutil.rmtree(folder / "commits")
    with pytest.raises(UserError, match="no whole commit"):
        resume(folder)


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    folder = frontend.start(toy_job(iterations=1), tmp_path, QUIET).folder
    with opening.reopen(folder), pytest.raises(UserError, match="another process"):
        resume(folder)
    resume(folder)


def test_names_do_not_collide_and_failures_leave_nothing(tmp_path: Path) -> None:
    folders = [frontend.start(toy_job(iterations=1), tmp_path, QUIET).folder.name for _ in range(3)]
    assert folders == ["toy", "toy-2", "toy-3"]
    job = toy_job()
    crowded = job.model_copy(update={"train": job.train.model_copy(update={"prompts_per_iteration": 99})})
    with pytest.raises(UserError, match="different prompts"):
        frontend.start(crowded, tmp_path / "other", QUIET)
    assert not (tmp_path / "other").exists()


def tracked(job: Job, uri: str) -> Job:
    return job.model_copy(update={"tracking": job.tracking.model_copy(update={"mlflow_uri": uri})})


@pytest.mark.slow
def test_one_mlflow_run_over_a_resume(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = interrupted(tracked(toy_job(), "sqlite:///{out}/mlflow.db"), tmp_path, at=2)
    resume(folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("rl_motion")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "toy"
    assert found.data.params["train.learning_rate"] == "0.05"
    assert len(found.data.tags["rl_motion.pool_sha256"]) == 64
    history = client.get_metric_history(found.info.run_id, "reward/total")
    assert [(m.step, m.value) for m in history] == [(r["iteration"], r["reward/total"]) for r in rows(folder)]
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"job.yaml", "adapter", "prompts", "report.html", "report.json"}
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_server_that_never_answers_stops_nothing(
    tmp_path: Path,
    straight: tuple[bytes, list[dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "_MLFLOW_PATIENCE_S", 0.1)
    (tmp_path / "file").write_text("no folder")
    job = tracked(toy_job(), f"sqlite:///{tmp_path}/file/mlflow.db")
    assert result(frontend.start(job, tmp_path, QUIET).folder) == straight
    assert "MLflow lacks the last rows" in caplog.text
