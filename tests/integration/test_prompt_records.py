"""A run's prompts in MLflow, as data sets and as tables, and in RUN/prompts: once, however often it is resumed."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rl_motion.config import Job
from rl_motion.prompts import table
from rl_motion.prompts.curricula import Curriculum
from rl_motion.prompts.pool import PromptPool
from rl_motion.runtime import frontend, prompt_records, resuming, run
from rl_motion.runtime.frontend import Means
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.prompt_records import PromptRecords
from rl_motion.runtime.prompt_sources import read_source
from rl_motion.tracking import mlflow_data
from tests import fakes
from tests.fakes import toy_job
from tests.integration.test_pool_sources import row

QUIET = Console(file=io.StringIO())
TRAIN = [row(f"a person walks {n} steps", length=4, difficulty=n / 8) for n in range(8)]
VAL = [row(f"a person turns {n} times", "val", length=4) for n in range(4)]


def pool(job: Job) -> PromptPool:
    given = read_source("mine", "train", 4, 20.0)
    made = {"mine": given.prompts}
    return PromptPool(made, {"mine": 1.0}, 0, Curriculum(job.prompts), {"mine": {"too long": 2}})


def validation(job: Job) -> dict[str, Any]:
    return {"mine": read_source("mine", "val", 4, 20.0).prompts}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the pool `mine`; toys, whose mishap is part of their name."""
    monkeypatch.chdir(tmp_path)
    table.write_table(Path("mine"), [*TRAIN, *VAL, row("a person naps", length=4, review="rejected")], {})
    original = resuming.settings_of
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))
    monkeypatch.setattr(
        frontend, "MEANS", Means(replace(fakes.WORKSHOP, pool=pool, validation=validation), fakes.evaluate)
    )
    return tmp_path


def job(**tracking: Any) -> Job:
    more = {"prompts": {"sources": {"mine": 1.0}, "validation": {"mine": 1.0}}, "tracking": tracking}
    more["evaluation"] = {"validate_every": 2, "validation_prompts": 4}
    return Job.model_validate(toy_job().model_dump() | more)


def accept(one: table.Row) -> table.Row:
    decided = table.Decision(decision="accepted", who="me", when="2026-01-31T12:00:00Z")
    return table.Row.model_validate(one.model_dump() | {"review": "accepted", "history": (decided,)})


def review() -> None:
    """Somebody accepts everything that is not rejected: none of it changes."""
    read = table.read_table("mine")
    rows = [one if one.history else accept(one) for one in read.rows]
    table.write_table(Path("mine"), rows, read.info, replaces=read)


def resumed(made: Job, out: Path, at: int = 2) -> Path:
    """A run that was interrupted, and resumed after a review of its pool."""
    with pytest.raises(KeyboardInterrupt):
        frontend.start(fakes.with_model(made, f"toy:interrupt={at}"), out, QUIET)
    review()
    return frontend.resume(out / made.name, ["model.name=toy"], QUIET).folder


@pytest.mark.slow
def test_mlflow_knows_the_data_sets_and_shows_the_tables(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    folder = resumed(job(mlflow_uri="sqlite:///{out}/mlflow.db"), desk / "out")
    client = MlflowClient(tracking_uri=f"sqlite:///{desk}/out/mlflow.db")
    experiment = client.get_experiment_by_name("rl_motion")
    (found,) = client.search_runs([experiment.experiment_id])
    inputs = {
        one.dataset.name: (one.dataset, {t.key: t.value for t in one.tags}) for one in found.inputs.dataset_inputs
    }
    assert len(found.inputs.dataset_inputs) == 2  # not four, after a resume
    (trained, tags), (validated, others) = inputs["mine/train"], inputs["mine/val"]
    assert len(trained.digest) == len(validated.digest) == 16 and trained.digest != validated.digest
    assert (tags["mlflow.data.context"], others["mlflow.data.context"]) == ("training", "validation")
    assert json.loads(tags["rl_motion.set_aside"]) == {"too long": 2}
    assert json.loads(tags["rl_motion.reviews"]) == {"unreviewed": 8}
    assert json.loads(trained.source) == {"uri": "mine/prompts.parquet"}
    assert json.loads(trained.profile) == {"num_rows": 8, "operations": {"sequence": 8}}
    assert {"name": "text", "type": "string", "required": True} in json.loads(trained.schema)["mlflow_colspec"]
    shown = {one["path"] for one in json.loads(found.data.tags["mlflow.loggedArtifacts"]) if one["type"] == "table"}
    assert shown == {"prompts/pool.json", "prompts/ledger.json"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{desk}/out/mlflow.db")  # load_table reads nothing else
    named = {"run_ids": [found.info.run_id], "experiment_id": experiment.experiment_id}
    prompts = client.load_table(artifact_file="prompts/pool.json", **named)
    assert list(prompts["text"]) == [one.text for one in [*TRAIN, *VAL]]
    assert list(prompts["split"]) == ["train"] * 8 + ["val"] * 4 and set(prompts["source"]) == {"mine"}
    assert set(prompts["operation"]) == {"sequence"} and set(prompts["review"]) == {"accepted"}
    learned = client.load_table(artifact_file="prompts/ledger.json", **named)
    assert list(learned["times_drawn"]) == sorted(learned["times_drawn"], reverse=True)
    assert learned["times_drawn"].sum() == 16 and len(learned) == 8
    assert list(pq.read_table(folder / "prompts/ledger.parquet")["text"].to_pylist()) == list(learned["text"])


def test_the_ledger_on_disk_is_that_of_the_last_commit(desk: Path) -> None:
    folder = resumed(job(mlflow_uri=None), desk / "out")
    last = sorted((folder / "commits").iterdir())[-1]
    ledger = Ledger.from_bytes((last / "ledger.json").read_bytes())
    found = {one["id"]: one for one in pq.read_table(folder / "prompts" / "ledger.parquet").to_pylist()}
    assert set(found) == {one.id for one in TRAIN}
    for name, one in found.items():
        got = ledger.rewards[name]
        assert one["times_drawn"] == ledger.taught[name] and one["version"] == got.version
        assert [one["reward_first"], one["reward_last"], one["trend"]] == [got.first, got.last, got.trend]
        assert [one["variance"], one["variance_smoothed"]] == [got.variance, got.smoothed]
    # Control: an undisturbed run learns the same of each.
    whole = frontend.start(job(mlflow_uri=None), desk / "whole", QUIET).folder
    assert pq.read_table(whole / "prompts/ledger.parquet").equals(pq.read_table(folder / "prompts/ledger.parquet"))


def records_of_the_pool() -> PromptRecords:
    return PromptRecords(job(), pool(job()), validation(job()))


@pytest.mark.usefixtures("desk")
def test_records_are_of_the_pool_that_the_run_read_whatever_becomes_of_it() -> None:
    before = records_of_the_pool()
    prompts, examined = pool(job()), validation(job())
    Path("mine/prompts.parquet").unlink()
    table.write_table(Path("mine"), [row(one.text, one.split, length=4, operation="repeat") for one in TRAIN], {})
    after = PromptRecords(job(), prompts, examined)
    assert after.data_sets == before.data_sets


@pytest.mark.usefixtures("desk")
def test_a_data_set_is_another_once_its_prompts_are() -> None:
    def digests() -> list[str]:
        return [one.digest for one in records_of_the_pool().data_sets]

    first = digests()
    review()
    assert digests() == first
    read = table.read_table("mine")
    harder = [row(TRAIN[0].text, length=4, difficulty=1.0), *read.rows[1:]]
    table.write_table(Path("mine"), harder, read.info, replaces=read)
    assert digests()[0] != first[0] and digests()[1] == first[1]


def test_a_source_that_is_no_pool_is_a_data_set_too(desk: Path) -> None:
    made = fakes.pool(toy_job())
    records = PromptRecords(toy_job(), made, {"mine.txt": [one.prompt for one in VAL]})
    trained, validated = records.data_sets
    assert (trained.name, trained.context, trained.profile) == ("toy", "training", {"num_rows": 10})
    assert (validated.name, validated.context, validated.source) == ("mine.txt", "validation", "mine.txt")
    other = PromptRecords(toy_job(), fakes.other_pool(toy_job()), {}).data_sets[0]
    assert len(trained.digest) == 16 and other.digest != trained.digest


def test_a_table_that_is_too_long_says_so_in_its_name(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mlflow_data, prompt_records):
        monkeypatch.setattr(module, "MOST_ROWS", 5)
    records, ledger = PromptRecords(job(), pool(job()), {}), Ledger()
    ledger.taught[TRAIN[6].id] = 3
    records.write_pool(desk)
    records.write_ledger(desk, ledger)
    names = {path.name for path in (desk / "prompts").iterdir()}
    assert names == {"pool_5_first.json", "ledger_5_most_drawn.json", "ledger.parquet"}
    tables = {name: json.loads((desk / "prompts" / name).read_text())["data"] for name in names if ".json" in name}
    assert [one[0] for one in tables["pool_5_first.json"]] == [one.text for one in TRAIN[:5]]
    assert tables["ledger_5_most_drawn.json"][0][:3] == [TRAIN[6].text, 3, None]
    assert pq.read_table(desk / "prompts" / "ledger.parquet").num_rows == 8


def test_a_disk_without_room_for_the_ledger_neither_fails_the_run_nor_leaves_it_open_in_mlflow(
    desk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    closed: list[Any] = []
    monkeypatch.setattr(PromptRecords, "write_ledger", full)
    monkeypatch.setattr(run, "MlflowTracker", lambda *_: Mock(run_id=None, finish=lambda *told: closed.append(told[0])))
    made = job(mlflow_uri="sqlite:///{out}/mlflow.db")
    frontend.start(made, desk / "out", QUIET)
    assert "No space left" in caplog.text
    with pytest.raises(KeyboardInterrupt):  # what ended it is what is seen
        frontend.start(fakes.with_model(made, "toy:interrupt=2"), desk / "other", QUIET)
    assert closed == ["FINISHED", "KILLED"]
