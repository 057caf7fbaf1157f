"""Sweeps: every trial an ordinary run, nested in one MLflow run; the same command again goes on."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, RunFault, UserError
from rl_motion.config.load import change_job, dump_job
from rl_motion.runtime import frontend, sweep, sweep_watch
from rl_motion.runtime.sweep_plan import Search, plan
from rl_motion.runtime.sweep_record import Record, begin
from tests import fakes
from tests.fakes import result, toy_job

RATES = Search(grid=["train.learning_rate=0.01,0.05"])


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def run(job: Job, search: Search, out: Path) -> Record:
    return sweep.run_sweep(job, search, "reward/total", out, Console(file=io.StringIO()))


def plain(job: Job, out: Path, *overrides: str) -> Any:
    """What an ordinary run of the same settings comes to."""
    return result(frontend.start(change_job(job, overrides), out, Console(quiet=True)).folder)


def nested(database: Path) -> dict[str, tuple[str, str | None, str]]:
    """MLflow's runs by name, of which no two share one: their id, their parent's, their status."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("rl_motion")
    runs = client.search_runs([experiment.experiment_id])
    found = {
        run.info.run_name: (run.info.run_id, run.data.tags.get("mlflow.parentRunId"), run.info.status) for run in runs
    }
    assert len(found) == len(runs)
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_trials_are_runs_one_that_dies_ends_no_other_and_the_same_again_goes_on(tmp_path: Path) -> None:
    out, marker = tmp_path / "out", tmp_path / "crashed"
    uri = "sqlite:///{out}/mlflow.db"
    job = change_job(toy_job(), [f"tracking.mlflow_uri={uri}"])
    search = Search(grid=[f"model.name=toy,'toy:crash_learner={marker}'"])
    first = run(job, search, out)
    assert [entry.state for entry in first.trials] == ["finished", "failed"]
    assert first.trials[1].reason is not None
    assert "its process died" in first.trials[1].reason
    untouched = (out / "toy-001" / "report.json").stat().st_mtime_ns
    before = nested(out / "mlflow.db")

    again = run(job, search, out)
    assert [entry.state for entry in again.trials] == ["finished", "finished"]
    assert (out / "toy-001" / "report.json").stat().st_mtime_ns == untouched
    # Resumed from its last commit, it is what it would have been, bit for bit.
    assert result(out / "toy-001") == plain(toy_job(), tmp_path / "plain")
    assert result(out / "toy-002") == result(out / "toy-001")
    written = json.loads((out / "sweep.json").read_text())
    assert (written["best"], written["metric"]) == ("toy-001", "reward/total")
    after = nested(out / "mlflow.db")
    assert set(after) == {"out", "toy-001", "toy-002"}
    assert {(name, ids[0]) for name, ids in before.items()} <= {(name, ids[0]) for name, ids in after.items()}
    assert {name: ids[1:] for name, ids in after.items()} == {
        "out": (None, "FINISHED"),
        "toy-001": (after["out"][0], "FINISHED"),
        "toy-002": (after["out"][0], "FINISHED"),
    }


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_ends_it_with_a_word_on_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = sweep_watch.Watch.on_trial_start

    def interrupted(self: Any, *arguments: Any, **named: Any) -> None:
        told(self, *arguments, **named)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sweep_watch.Watch, "on_trial_start", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(toy_job(), RATES, tmp_path / "out")
    assert any("the same command again: rl-motion " in note for note in caught.value.__notes__)
    assert not list((tmp_path / "out").glob(".tune-*"))
    monkeypatch.undo()
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    record = run(toy_job(), RATES, tmp_path / "out")
    assert [entry.state for entry in record.trials] == ["finished", "finished"]
    for entry in record.trials:
        override = f"train.learning_rate={entry.fields['train.learning_rate']}"
        assert result(tmp_path / "out" / entry.name) == plain(toy_job(), tmp_path / entry.name, override)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_command_shows_trials_best_first_and_says_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(dump_job(toy_job()))
    out = tmp_path / "out"
    grid = ["--grid", "model.name=toy,toy:bug"]
    ended = CliRunner().invoke(app, ["sweep", str(path), *grid, "--out", str(out)], env={"COLUMNS": "120"})
    assert ended.exit_code == 0, ended.output
    assert "failed: toy-002: ValueError: a bug in unit 0" in ended.stderr
    assert f"best:    {out}/toy-001" in ended.stdout
    assert "training reward" in ended.stdout


def test_what_another_sweep_or_no_sweep_has_made_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    trials = plan(toy_job(), RATES)
    begin(out, toy_job(), trials, "reward/total").write(out)
    assert begin(out, toy_job(), trials, "reward/total").trials[0].state == "waiting"
    for job, grid in ((toy_job(), "train.seed=1,2"), (toy_job(iterations=5), RATES.grid[0])):
        with pytest.raises(UserError, match="which holds a sweep of another job, or over other values; want"):
            begin(out, job, plan(job, Search([grid])), "reward/total")
    (out / "toy-002").mkdir()
    (out / "sweep.json").unlink()
    with pytest.raises(UserError, match=r"which has toy-002 but no sweep.json; want .*; choose another"):
        begin(out, toy_job(), trials, "reward/total")
    (out / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"which is no record of a sweep"):
        begin(out, toy_job(), trials, "reward/total")


def test_a_sweep_of_which_nothing_ends_well_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "connect", lambda: False)
    monkeypatch.setattr(sweep, "_tune", lambda record, _, out, __: record.end("toy-001", "a bug in unit 0", out))
    with pytest.raises(RunFault, match=r"no trial that ended well:\n  toy-001: a bug in unit 0"):
        run(toy_job(), Search(grid=["train.seed=1"]), tmp_path)
