"""Runs as a report shows them: read from their folders and put together by job.

Runs of one job, that is, which differ in nothing but their seed (and names, places and workers), are one row with an
interval over runs; everything else is a row of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.evaluation.lines import Line, Report, lines_of, splits_of
from rl_motion.tracking.files import read_whole
from rl_motion.tracking.jsonl import ITERATION, JsonlTracker
from rl_motion.types import Metrics

_MAX_BYTES = 50_000_000
_PARTS = ("base", "tuned", "difference", "sentinels", "diversity", "classes", "evaluation", "conventions", "warnings")
"""What every report.json has, whatever release wrote it."""
_LISTS = ("conventions", "warnings")
"""Those that are lists; the others have names."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has its report. `rows` are those of metrics.jsonl; `name` is that of its folder, made unique."""

    name: str
    folder: Path
    job: Job
    report: Report
    rows: Sequence[Metrics]

    @property
    def seed(self) -> int:
        """Of its training."""
        return self.job.train.seed


@dataclass(frozen=True)
class JobRow:
    """One job: its runs, and what they say together."""

    label: str
    runs: tuple[FinishedRun, ...]
    lines: tuple[Line, ...]

    @property
    def reports(self) -> list[Report]:
        """Of its runs."""
        return [run.report for run in self.runs]

    def line(self, split: str, metric: str) -> Line | None:
        """One of them, where it was measured."""
        return next((one for one in self.lines if (one.split, one.metric.name) == (split, metric)), None)


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """The runs of these folders, in order.

    Raises:
        UserError: one is no run, has no report, or is named twice.
    """
    whole = [folder.resolve() for folder in folders]
    twice = next((folder for place, folder in enumerate(whole) if folder in whole[:place]), None)
    if twice is not None:
        raise UserError(f"got {twice} twice; want every run once; drop one of them")
    names = [folder.name for folder in whole]
    return [
        _read_run(given, folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}")
        for given, folder in zip(folders, whole, strict=True)
    ]


def summarise(runs: Sequence[FinishedRun], rests_on: Mapping[str, Mapping[str, str]]) -> list[JobRow]:
    """A row for every job, in the order in which its first run was named.

    Args:
        runs: to put together.
        rests_on: by a run's name, the hashes of the files that its job only names: prompts, rewards' files, weights.
            Runs whose hashes differ, or are known of one alone, are two jobs.

    Raises:
        UserError: two runs of one job have one seed: an interval over them would take a copy for a sample.
    """
    by_job: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_job.setdefault(_numbers_of(run.job, rests_on.get(run.name)), []).append(run)
    for group in by_job.values():
        _refuse_copies(group)
    labels = [_label([run.name for run in group]) for group in by_job.values()]
    return [
        JobRow(
            label if labels.count(label) == 1 else f"{label} ({place + 1})",
            tuple(group),
            tuple(lines_of([run.report for run in group])),
        )
        for place, (label, group) in enumerate(zip(labels, by_job.values(), strict=True))
    ]


def as_json(rows: Sequence[JobRow]) -> dict[str, Any]:
    """What machines read: every line of every job."""
    return {
        "jobs": [
            {
                "label": row.label,
                "runs": [{"name": run.name, "folder": str(run.folder), "seed": run.seed} for run in row.runs],
                "lines": [_line_as_json(line) for line in row.lines],
            }
            for row in rows
        ]
    }


def _line_as_json(line: Line) -> dict[str, Any]:
    estimates = {
        name: None if one is None else one.as_dict()
        for name, one in (("base", line.base), ("tuned", line.tuned), ("change", line.change), ("real", line.real))
    }
    within = [one.as_dict() for one in line.within]
    return {"split": line.split, "metric": line.metric.name, **estimates, "within": within, "words": line.words}


def _read_run(folder: Path, name: str) -> FinishedRun:
    if not (folder / "job.yaml").is_file():
        raise UserError(f"got RUN={str(folder)!r}, which has no job.yaml; want a run's folder; name one like runs/demo")
    return FinishedRun(
        name,
        folder,
        load_job(folder / "job.yaml"),
        _read_report(folder),
        [row for row in JsonlTracker(folder / "metrics.jsonl").rows() if _is_row(row)],
    )


def _read_report(folder: Path) -> Report:
    path = folder / "report.json"
    try:
        report: dict[str, Any] = json.loads(read_whole(path, _MAX_BYTES))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: got no report.json, as the run has not come to its end; want a run that was evaluated; wait "
            f"for it, or finish it with `rl-motion resume {folder}`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, getattr(error, "strerror", None) or "no JSON") from None
    missing = [part for part in _PARTS if not (isinstance(report, dict) and part in report)]
    if missing:
        raise damaged(path, f"no `{missing[0]}`")
    wrong = next((part for part in _PARTS if not isinstance(report[part], list if part in _LISTS else dict)), None)
    if wrong is not None:
        raise damaged(path, f"`{wrong}` that is {type(report[wrong]).__name__}")
    counts = report["evaluation"].get("prompts")
    if not isinstance(counts, dict) or any(not isinstance(counts.get(split), int) for split in splits_of(report)):
        raise damaged(path, "no `evaluation.prompts` for every split")
    return report


def damaged(path: Path, got: str) -> UserError:
    """Of a report that is none."""
    return UserError(
        f"{path}: got {got}; want the report that a run writes at its end; make it anew with "
        f"`rl-motion resume {path.parent}`, which evaluates the run again"
    )


def _is_row(row: Mapping[str, object]) -> bool:
    """JSON knows NaN as rows do; text, and a row of no iteration, is what no run writes."""
    return all(isinstance(value, int | float) for value in row.values()) and ITERATION in row


def _numbers_of(job: Job, rests_on: Mapping[str, str] | None) -> str:
    """All of a run that its numbers depend on but the seed of training."""
    apart: Any = {"name": True, "runtime": True, "tracking": True, "sentinels": True, "train": {"seed"}}
    files = None if rests_on is None else dict(rests_on)
    return json.dumps([job.model_dump(mode="json", exclude=apart), job.runtime.lag, files], sort_keys=True)


def _refuse_copies(runs: Sequence[FinishedRun]) -> None:
    by_seed: dict[int, str] = {}
    for run in runs:
        other = by_seed.setdefault(run.seed, run.name)
        if other != run.name:
            raise UserError(
                f"got {other} and {run.name}, two runs of one job with seed {run.seed}; want other seeds, as the same "
                "run twice says nothing new; drop one"
            )


def _label(names: Sequence[str]) -> str:
    """The first one's name without its seed or number."""
    if len(names) == 1:
        return names[0]
    return f"{re.sub(r'[-_.]?(seed)?[-_.]?[0-9]+$', '', names[0]) or names[0]} ({len(names)} runs)"
