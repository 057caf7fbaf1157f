"""A run whose commits go to a store goes on there: on the same machine, or from the URI alone on another."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, RunFault, UserError
from rl_motion.runtime import frontend, resuming
from rl_motion.runtime import store as stores
from rl_motion.runtime.store import open_store
from tests import fakes
from tests.fakes import result, rows, toy_job
from tests.stores import s3

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys, whose mishap is part of their name; apart from it the jobs are the same."""
    original = resuming.settings_of
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))
    monkeypatch.setattr(stores, "_PAUSES_S", ())


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "nfs").mkdir()
    return (tmp_path / "nfs").as_uri()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3(monkeypatch) as uri:
        yield uri


def job_in(uri: str | None, **more: Any) -> Job:
    sections = {"evaluation": {"validate_every": 2, "validation_prompts": 4}}
    return Job.model_validate(toy_job(iterations=6, commits_uri=uri, **more).model_dump() | sections)


def interrupted(job: Job, out: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        frontend.start(fakes.with_model(job, f"toy:interrupt={at}"), out, QUIET)
    return out / job.name


def resume(where: str | Path, out: Path = Path("nowhere"), *overrides: str) -> Path:
    return frontend.resume(where, ["model.name=toy", *overrides], QUIET, out).folder


def straight(tmp_path: Path, **more: Any) -> tuple[bytes, list[dict[str, float]]]:
    return result(frontend.start(job_in(None, **more), tmp_path / "straight", QUIET).folder)


def elsewhere(uri: str, tmp_path: Path, **more: Any) -> None:
    whole = straight(tmp_path, **more)
    shutil.rmtree(interrupted(job_in(uri, **more), tmp_path / "first", at=5))
    folder = resume(f"{uri}/toy", tmp_path / "second")
    assert folder == tmp_path / "second" / "toy"
    assert result(folder) == whole
    assert [row["iteration"] for row in rows(folder)] == list(range(6))
    found = open_store(uri, "toy").newest()
    assert found is not None and found.manifest.iteration == 6
    assert open_store(uri, "toy").rows(6) == [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    # Longer, from a third machine: nothing is left of the others.
    shutil.rmtree(tmp_path / "second")
    assert len(rows(resume(f"{uri}/toy", tmp_path / "third", "train.iterations=7"))) == 7


def test_on_another_machine_from_the_uri_alone(bucket: str, tmp_path: Path) -> None:
    elsewhere(bucket, tmp_path)


@pytest.mark.parametrize("staleness", [1, 3])
def test_with_units_in_flight(staleness: int, folder: str, tmp_path: Path) -> None:
    elsewhere(folder, tmp_path, mode="async", staleness=staleness)


@pytest.mark.slow
def test_the_same_mlflow_run_goes_on_elsewhere(folder: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    job = job_in(folder)
    job = job.model_copy(update={"tracking": job.tracking.model_copy(update={"mlflow_uri": uri})})
    first = interrupted(job, tmp_path / "first", at=3)
    for thread in threading.enumerate():  # a slow machine may still be sending: another process would have ended
        if thread.name == "mlflow":
            thread.join(60)
    shutil.rmtree(first)
    second = resume(f"{folder}/toy", tmp_path / "second")
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("rl_motion").experiment_id])
    for name in ("reward/total", "iteration"):
        history = client.get_metric_history(found.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(row["iteration"], row[name]) for row in rows(second)]


def test_a_store_that_fails_ends_the_run_and_is_caught_up_with(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = straight(tmp_path)
    put = stores.Store._put

    def away(self: stores.Store, name: str, content: bytes) -> None:
        if name.startswith("commits/00000003/"):
            self._call(lambda _: (_ for _ in ()).throw(OSError("AWS Error NETWORK_CONNECTION")), None)
        put(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "_put", away)
        with pytest.raises(RunFault, match=r"got no answer from file:.*NETWORK_CONNECTION") as caught:
            frontend.start(job_in(folder), tmp_path / "runs", QUIET)
    run = tmp_path / "runs" / "toy"
    assert caught.value.__notes__ == [
        f"saved: 3 iterations and their adapter in {run}",
        f"resume: rl-motion resume {run}",
    ]
    found = open_store(folder, "toy").newest()
    assert found is not None and found.manifest.iteration == 2
    assert result(resume(run)) == whole
    assert len(open_store(folder, "toy").rows(6)) == 6


def test_a_resume_may_begin_and_end_to_use_a_store(folder: str, tmp_path: Path) -> None:
    whole = straight(tmp_path)
    run = interrupted(job_in(None, keep_commits=1), tmp_path, at=3)
    resume(run, Path("nowhere"), f"runtime.commits_uri={folder}", "train.iterations=5")
    store = open_store(folder, "toy")
    assert store._commits()[1] == {4, 5} and len(store.rows(5)) == 5
    (tmp_path / "nfs").rename(tmp_path / "gone")
    with pytest.raises(UserError, match="no bucket or folder"):
        resume(run)
    assert result(resume(run, Path("nowhere"), "runtime.commits_uri=null", "train.iterations=6")) == whole


def test_a_copy_of_a_store_goes_on_where_it_is(folder: str, tmp_path: Path) -> None:
    whole = straight(tmp_path)
    interrupted(job_in(folder), tmp_path / "first", at=3)
    shutil.copytree(tmp_path / "nfs", tmp_path / "copy")
    copy = (tmp_path / "copy").as_uri()
    assert result(resume(f"{copy}/toy", tmp_path / "second")) == whole
    reached = [store.newest() for store in (open_store(folder, "toy"), open_store(copy, "toy"))]
    assert [commit and commit.manifest.iteration for commit in reached] == [3, 6]


def test_runs_do_not_share_a_name_in_a_store(folder: str, tmp_path: Path) -> None:
    names = [frontend.start(job_in(folder), tmp_path / where, QUIET).folder.name for where in ("a", "b")]
    assert names == ["toy", "toy-2"]
    other = frontend.start(job_in(None), tmp_path / "c", QUIET).folder
    with pytest.raises(UserError, match="another run of this name"):
        resume(other, Path("nowhere"), f"runtime.commits_uri={folder}")


def test_the_older_of_two_copies_is_refused(folder: str, tmp_path: Path) -> None:
    """It would erase what the other has done."""
    run = interrupted(job_in(folder), tmp_path / "first", at=3)
    resume(f"{folder}/toy", tmp_path / "second")
    with pytest.raises(UserError, match=r"got a run of 3 iterations, which has 6 in file:") as caught:
        resume(run)
    assert "saved: 3 iterations" in caught.value.__notes__[0]


def command(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["resume", *words])
    return ended.exit_code, ended.stderr


def test_what_cannot_be_fetched(folder: str, tmp_path: Path) -> None:
    run = interrupted(job_in(folder), tmp_path / "first", at=3)
    out = str(tmp_path / "out")
    for uri, said in (
        (f"{folder}/none", "no whole commit"),
        (f"{folder}-not-there/toy", "no bucket or folder"),
        (f"{folder}/.toy", "the URI of a run"),
        ("s3://key:hunter2@b/toy", "AWS_ACCESS_KEY_ID"),
        ("ftp://b/toy", "no file system"),
    ):
        code, text = command(uri, "--out", out)
        assert code == 2 and said in text and "hunter2" not in text and "want" in text
    assert not Path(out).exists()
    code, text = command(f"{folder}/toy", "--out", str(run.parent))
    assert code == 2 and f"got {run}, which is there already" in text
    (tmp_path / "nfs" / "toy" / "job.yaml").unlink()
    code, text = command(f"{folder}/toy", "--out", out)
    assert code == 2 and "lacks a file" in text and not Path(out).exists()
