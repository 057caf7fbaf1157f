"""metrics.jsonl has everything, always; MLflow gets all of it once, however often it was away."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl_motion.config import UserError
from rl_motion.tracking import mlflow_tracker
from rl_motion.tracking.jsonl import JsonlTracker
from rl_motion.tracking.mlflow_data import DataSet
from rl_motion.tracking.mlflow_tracker import MlflowSettings, MlflowTracker, flatten


def row(iteration: int, when: int = 0) -> dict[str, float]:
    values = {f"policy/kl_s{n:02d}": 0.1 * n for n in range(3)}
    return {"iteration": float(iteration), "time/unix_ms": float(1000 + iteration + when), **values}


@pytest.fixture
def rows(tmp_path: Path) -> JsonlTracker:
    return JsonlTracker(tmp_path / "metrics.jsonl")


def test_lines_are_sorted_and_read_back(rows: JsonlTracker) -> None:
    for iteration in range(3):
        rows.append(row(iteration))
    assert rows.rows() == [row(0), row(1), row(2)]
    line = rows.path.read_text().splitlines()[0]
    assert line == json.dumps(json.loads(line), sort_keys=True)


def test_rewind_mends_what_a_crash_left(rows: JsonlTracker) -> None:
    for iteration in range(4):
        rows.append(row(iteration))
    with rows.path.open("ab") as file:
        file.write(b'{"iteration": 4, "ti')
    rows.rewind(3, row(2))
    assert rows.rows() == [row(0), row(1), row(2)]
    rows.rewind(4, row(3))  # the commit is there, the row is not
    assert rows.rows() == [row(0), row(1), row(2), row(3)]
    rows.rewind(0, None)
    assert rows.rows() == []


def test_flatten() -> None:
    """Whole: a run's identity is compared by it. What MLflow takes is for the tracker to cut."""
    assert flatten({"a": {"b": 1, "c": {"d": ["x" * 600]}}, "e/é*": None}) == {
        "a.b": "1",
        "a.c.d": str(["x" * 600]),
        "e/é*": "None",
    }


def test_mlflows_database_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes its tables in many steps; a kill between them would be the end of every run beside it."""
    import sqlite3

    from mlflow import MlflowClient

    uri, path = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db"

    def dies(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_tracker, "write_synced", dies)
        with pytest.raises(OSError, match="power cut"):
            mlflow_tracker.make_database(uri)
    assert list(tmp_path.iterdir()) == []
    mlflow_tracker.make_database(uri)
    assert list(tmp_path.iterdir()) == [path]
    client = MlflowClient(tracking_uri=uri)
    made = client.create_experiment("e")
    mlflow_tracker.make_database(uri)  # what is there stays
    assert client.get_experiment(made).name == "e"
    # Control: one that was left half made stays broken.
    half = tmp_path / "half.db"
    with sqlite3.connect(half) as connection:
        connection.execute("CREATE TABLE metrics (key VARCHAR(250) NOT NULL)")
    with pytest.raises(Exception, match=r"already exists|duplicate|[Nn]o such"):
        MlflowClient(tracking_uri=f"sqlite:///{half}").search_experiments()


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "sqlite:///{out}/mlflow.db",
        "http://127.0.0.1:5000",
        "postgresql://h/db?sslkey=/k&sslmode=require",
        "databricks://profile",
    ],
)
def test_uris_that_are_taken(uri: str | None) -> None:
    mlflow_tracker.check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:secret@host:5000/x", "MLFLOW_TRACKING_PASSWORD"),
        ("https://secret@host", "MLFLOW_TRACKING_TOKEN"),
        ("postgresql://me:secret@host/db", "in the environment"),
        ("https://me:se:secret@t@host", "in the environment"),
        ("file:///tmp/mlruns", "sqlite:"),
        ("./mlruns", "sqlite:"),
        ("http://[secret", "correct it"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=r"got .*; want ") as caught:
        mlflow_tracker.check_uri(uri)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


class FakeMlflow:
    """Stands in for the server: keeps what arrives, and is away as long as `away` says so."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, set[str]]] = []
        self.away = 0
        self.lose_answers = 0
        self.closed: list[str] = []
        self.artifacts: list[str] = []

    def history(self) -> list[int]:
        return [step for step, names in self.rows if "iteration" in names]

    def log_batch(self, run_id: str, metrics: Any) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionError("no server")
        self.rows.append((metrics[0].step, {metric.key for metric in metrics}))
        if self.lose_answers:
            self.lose_answers -= 1
            raise ConnectionError("no answer")

    def log_artifact(self, run_id: str, path: str) -> None:
        self.artifacts.append(Path(path).name)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.closed.append(status)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()

    def connect(self: MlflowTracker) -> FakeMlflow:
        self.run_id, self._sent, self._client = "id", set(fake.history()), fake  # type: ignore[assignment]
        return fake

    monkeypatch.setattr(MlflowTracker, "_connect", connect)
    monkeypatch.setattr(mlflow_tracker, "_RETRY_S", (0.01, 0.02))
    return fake


def settings(tmp_path: Path, uri: str = "http://127.0.0.1:9") -> MlflowSettings:
    return MlflowSettings(uri, "e", "run", "key", tmp_path / "art", {"train.seed": "0"}, {"tag": "t"})


def test_a_server_that_is_away_gets_everything_later(
    tmp_path: Path, rows: JsonlTracker, server: FakeMlflow, caplog: pytest.LogCaptureFixture
) -> None:
    server.away = 5
    tracker = MlflowTracker(settings(tmp_path), rows, [])
    for iteration in range(20):
        rows.append(row(iteration))
        tracker.wake()
    assert tracker.finish("FINISHED", [rows.path], 20)
    assert server.history() == list(range(20))
    assert server.closed == ["FINISHED"]
    assert server.artifacts == ["metrics.jsonl"]
    assert caplog.text.count("does not answer") == 1


def test_a_lost_answer_gives_no_second_row(tmp_path: Path, rows: JsonlTracker, server: FakeMlflow) -> None:
    """The metrics come twice with one timestamp, which MLflow takes as one; the step counts once."""
    server.lose_answers = 1
    rows.append(row(0))
    assert MlflowTracker(settings(tmp_path), rows, []).finish("FINISHED", [], 20)
    assert server.history() == [0]


def test_training_never_waits(tmp_path: Path, rows: JsonlTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(MlflowTracker, "_connect", lambda self: release.wait(30))
    tracker = MlflowTracker(settings(tmp_path), rows, [])
    began = time.monotonic()
    for iteration in range(50):
        rows.append(row(iteration))
        tracker.wake()
    assert time.monotonic() - began < 5
    assert not tracker.finish("FINISHED", [], 0.05)
    release.set()


def test_the_start_of_a_run_goes_before_mlflows_import(
    tmp_path: Path, rows: JsonlTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = threading.Event()

    def connect(self: MlflowTracker) -> None:
        connected.set()
        raise OSError("away")

    monkeypatch.setattr(MlflowTracker, "_connect", connect)
    tracker = MlflowTracker(settings(tmp_path), rows, [])
    assert not connected.wait(0.3)
    rows.append(row(0))
    tracker.wake()
    assert connected.wait(5)
    monkeypatch.setattr(mlflow_tracker, "_HEAD_START_S", 0.01)
    connected.clear()
    MlflowTracker(settings(tmp_path), rows, [])
    assert connected.wait(5)  # a long first rollout does not hide the run


@pytest.mark.slow
def test_real_mlflow_over_two_processes_of_one_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rows = JsonlTracker(tmp_path / "metrics.jsonl")
    for iteration in range(3):
        rows.append(row(iteration))
    first = MlflowTracker(settings(tmp_path, uri), rows, [])
    assert first.finish("KILLED", [], 120)
    rows.rewind(2, row(1))  # the last commit was damaged: iteration 2 is made again, at another time
    for iteration in range(2, 5):
        rows.append(row(iteration, when=777))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_bytes(b"w")
    again = MlflowTracker(settings(tmp_path, uri), rows, [])
    assert again.finish("FINISHED", [tmp_path / "adapter"], 120)
    assert first.run_id == again.run_id is not None
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.seed": "0"}
    for name in ("iteration", "policy/kl_s02"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == [0, 1, 2, 3, 4]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "adapter")] == ["adapter/weights"]
    assert (tmp_path / "art").is_dir()

    nested = replace(settings(tmp_path, uri), key="trial", parent="sweep")
    trial = MlflowTracker(nested, JsonlTracker(tmp_path / "none"), [])
    time.sleep(0.5)  # the parent is not there yet: nothing is recorded outside of it
    assert len(client.search_runs([run.info.experiment_id])) == 1
    sweep = MlflowTracker(replace(nested, key="sweep", parent=None), JsonlTracker(tmp_path / "none"), [])
    assert sweep.finish("FINISHED", [], 120)
    assert trial.finish("FINISHED", [], 120)
    inside = f"tags.`mlflow.parentRunId` = '{sweep.run_id}'"
    assert [found.info.run_id for found in client.search_runs([run.info.experiment_id], inside)] == [trial.run_id]


def test_data_sets_come_once_whatever_fails(
    tmp_path: Path, rows: JsonlTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes them only the third time, and the run goes on in another process."""
    from mlflow import MlflowClient

    monkeypatch.setattr(mlflow_tracker, "_RETRY_S", (0.01, 0.02))
    log, tries = mlflow_tracker.log_data_sets, []

    def unsteady(*arguments: Any) -> None:
        tries.append(arguments)
        if len(tries) == 2:
            log(*arguments)  # the answer is lost
        if len(tries) < 3:
            raise ConnectionError("no server")
        log(*arguments)

    monkeypatch.setattr(mlflow_tracker, "log_data_sets", unsteady)
    data = DataSet("pools/mine/train", "a" * 40, "pools/mine", {"text": "string"}, {"num_rows": 3}, "training")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        tracker = MlflowTracker(replace(settings(tmp_path, uri), data_sets=[data]), rows, [])
        assert tracker.finish("FINISHED", [], 60)
    assert len(tries) == 4
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    (got,) = run.inputs.dataset_inputs
    assert (got.dataset.name, got.dataset.digest) == ("pools/mine/train", "a" * 36)
    assert [(tag.key, tag.value) for tag in got.tags] == [("mlflow.data.context", "training")]
