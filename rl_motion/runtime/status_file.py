"""RUN/status.json: how a run is doing, once a second, for whoever looks. Needs neither torch nor ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rl_motion.config.errors import UserError
from rl_motion.runtime.rates import PoolRate
from rl_motion.runtime.status import Role, Status
from rl_motion.tracking.files import read_whole

_MAX_BYTES = 1_000_000
_WORKERS = TypeAdapter(Status)

State = Literal["STARTING", "RUNNING", "EVALUATING", "FINISHED", "FAILED", "KILLED"]
"""STARTING: workers are being made. RUNNING: training. The last three are MLflow's words for how a run ended; KILLED is
what Ctrl-C and a stopped job do. A process that was ended from outside could not say so: see held.py."""
OVER = frozenset({"FINISHED", "FAILED", "KILLED"})


class Answer(BaseModel):
    """What became of the last request to scale: its id, and why it was refused, or None."""

    model_config = ConfigDict(frozen=True)

    id: str
    refused: str | None


class RunStatus(BaseModel):
    """A run at one moment.

    run: its folder's name; name: the job's. pid, host: of the process that holds it. lag: updates between the adapter
    that samples and the one that learns. started, unix_s: when that process began, and when this was written. done,
    iterations: finished ones, and all. metrics: of the last row, None where they were not finite. iteration_s: mean
    seconds of the last iterations; since_s: seconds since the last one ended. left_s: until training ends, at this
    pace. workers: what the backend says; None before it says anything. rates: of the last minutes, by role.
    rows_per_gpu_s: samples a second for every GPU of all pools. mlflow_behind: rows that MLflow lacks; None without
    MLflow.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    run: str
    name: str
    pid: int
    host: str
    backend: str
    mode: str
    lag: int
    started: float
    unix_s: float
    state: State
    done: int
    iterations: int
    metrics: dict[str, float | None] = {}
    iteration_s: float | None = None
    since_s: float = 0.0
    left_s: float | None = None
    workers: Status | None = None
    rates: dict[Role, PoolRate] = {}
    rows_per_gpu_s: float | None = None
    mlflow_behind: int | None = None
    answer: Answer | None = None


def path_of(folder: Path) -> Path:
    """Where it lies."""
    return folder / "status.json"


def write(folder: Path, status: RunStatus) -> None:
    """Replace the file: readers see the old one or the new one.

    It is not synced: a power cut may lose it, and the next second would have replaced it anyway.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    path = path_of(folder)
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps(finite(status.model_dump(mode="json")), allow_nan=False) + "\n"
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read(folder: Path) -> RunStatus:
    """What the run last said.

    Raises:
        UserError: it never said anything, or this is no run.
    """
    path = path_of(folder)
    if not (folder / "job.yaml").is_file() and not path.exists():
        raise UserError(f"got RUN={str(folder)!r}, which has no job.yaml; want a run's folder; name one like runs/demo")
    try:
        return RunStatus.model_validate_json(read_whole(path, _MAX_BYTES))
    except FileNotFoundError:
        problem = "no status.json, as it has not begun, or was made before runs had one"
    except ValidationError as error:
        problem = f"a status.json with {error.error_count()} wrong fields, perhaps of another release"
    except (OSError, ValueError) as error:
        problem = f"a status.json that cannot be read ({getattr(error, 'strerror', None) or 'no text'})"
    raise UserError(
        f"{folder}: got {problem}; want what a run writes once a second; read {folder / 'logs' / 'run.log'}"
    )


def ended(folder: Path, state: State, unix_s: float) -> None:
    """Say how the run ended; nothing where it never said that it began, or the disk is full: the log has it too."""
    with suppress(UserError, OSError):
        write(folder, read(folder).model_copy(update={"state": state, "unix_s": unix_s}))


def is_finite(workers: Status) -> bool:
    """Whether all of its numbers are."""
    tree = _WORKERS.dump_python(workers, mode="json")
    return bool(finite(tree) == tree)


def finite(tree: Any) -> Any:
    """The same tree with None for numbers that are not finite, which JSON has no words for."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return tree
