"""What a sweep has come to: sweep.json, and what each trial's own folder says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rl_motion.config import Job, UserError
from rl_motion.evaluation.statistics import bootstrap_mean
from rl_motion.runtime.sweep_plan import Trial
from rl_motion.tracking.files import read_whole, write_atomic
from rl_motion.tracking.jsonl import ITERATION, JsonlTracker

FILE = "sweep.json"
_MOST_BYTES = 50_000_000
_LAST = 10
"""A trial is worth the mean of the last of so many parts of its iterations: one iteration is noise."""


class Entry(BaseModel):
    """One trial. `value`: {value, low, high, n}, of a finished one; `reason`: why it failed."""

    model_config = ConfigDict(extra="forbid")

    name: str
    fields: dict[str, Any]
    state: Literal["waiting", "finished", "failed"] = "waiting"
    reason: str | None = None
    value: dict[str, float | int | None] | None = None


class Record(BaseModel):
    """A sweep. `key` names it for MLflow, over all its resumes; `job` is what all trials have in common."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    key: str
    job: dict[str, Any]
    metric: str
    best: str | None = None
    trials: list[Entry]

    def entry(self, name: str) -> Entry:
        """The trial of this name."""
        return next(entry for entry in self.trials if entry.name == name)

    def end(self, name: str, reason: str | None, out: Path) -> Entry:
        """Write down how a trial ended; `reason`: why it failed, None where it did not."""
        entry = self.entry(name)
        if reason is None:
            judge(self, entry, out)
        else:
            entry.state, entry.reason, entry.value = "failed", reason, None
        self.write(out)
        return entry

    def write(self, out: Path) -> None:
        """Put it into the sweep's folder."""
        self.best = _best(self.trials)
        write_atomic(out / FILE, (self.model_dump_json(indent=1) + "\n").encode())


def begin(out: Path, job: Job, trials: Sequence[Trial], metric: str) -> Record:
    """The record of the sweep in `out`, a new one where there is none.

    Raises:
        UserError: there is one of another sweep, it cannot be read, or runs are there that no sweep made.
    """
    tree = job.model_dump(mode="json")
    entries = [Entry(name=trial.name, fields=dict(trial.fields)) for trial in trials]
    new = Record(key=uuid.uuid4().hex, job=tree, metric=metric, trials=entries)
    if not (out / FILE).exists():
        _refuse_strangers(out, entries)
        return new
    old = _read(out / FILE)
    same = json.loads(json.dumps([entry.fields for entry in entries])) == [entry.fields for entry in old.trials]
    if not same or [e.name for e in old.trials] != [e.name for e in entries] or old.job != tree:
        raise UserError(
            f"got --out {out}, which holds a sweep of another job, or over other values; want the same to go on with "
            "it; repeat its command, or choose another --out"
        )
    old.metric = metric
    for entry in old.trials:
        if entry.state == "finished" and (out / entry.name / "report.json").is_file():
            judge(old, entry, out)
        else:  # one that failed, or was removed since, has another try
            entry.state, entry.reason, entry.value = "waiting", None, None
    return old


def judge(record: Record, entry: Entry, out: Path) -> None:
    """Value a trial that has ended well.

    Raises:
        UserError: its rows lack the metric, as no reward has that name.
    """
    rows = JsonlTracker(out / entry.name / "metrics.jsonl").rows()
    rows = rows[-max(1, len(rows) // _LAST) :]
    if not rows or any(record.metric not in row for row in rows):
        known = sorted(name for name in (rows[-1] if rows else {}) if name.startswith("reward/"))
        raise UserError(f"got --metric {record.metric}, which {entry.name} lacks; want one of {known}; choose one")
    names = [str(row[ITERATION]) for row in rows]
    entry.state, entry.reason = "finished", None
    entry.value = bootstrap_mean([row[record.metric] for row in rows], names, seed=0).as_dict()


def _refuse_strangers(out: Path, entries: Sequence[Entry]) -> None:
    """A run of that name that no sweep made would be gone on with as if it were the trial."""
    there = [entry.name for entry in entries if (out / entry.name).exists()]
    if there:
        raise UserError(
            f"got --out {out}, which has {there[0]} but no {FILE}; want a folder of its own; choose another --out"
        )


def _best(entries: Sequence[Entry]) -> str | None:
    valued = [(entry.value["value"], entry.name) for entry in entries if entry.value is not None]
    return max(valued, key=lambda pair: pair[0] or 0.0)[1] if valued else None


def _read(path: Path) -> Record:
    try:
        return Record.model_validate_json(read_whole(path, _MOST_BYTES))
    except (OSError, ValidationError):
        raise UserError(
            f"got {path}, which is no record of a sweep; want one that `rl-motion sweep` wrote; choose another --out"
        ) from None
