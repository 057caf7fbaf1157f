"""A pretraining on disk: its folder, its state, its records.

DIR/<name>/job.yaml  run.json  metrics.jsonl  NAME.state.safetensors  text/  model/  logs/

`model/` is there at the end, as a whole; the states of what is trained (`text`, `network`) until then.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from rl_motion.config import PretrainJob, UserError
from rl_motion.config.load import dump_job, load_pretrain_job
from rl_motion.models.fitting import Fit
from rl_motion.runtime.held import held
from rl_motion.runtime.pretraining.making import refuse_not_finite
from rl_motion.tracking.files import missing_folders, remove_empty, sync_folder, write_atomic
from rl_motion.tracking.jsonl import ITERATION, TIME, JsonlTracker
from rl_motion.tracking.mlflow_data import DataSet
from rl_motion.tracking.mlflow_tracker import MlflowSettings, MlflowTracker, flatten
from rl_motion.types import Metrics

JOB, RUN, ROWS, MODEL = "job.yaml", "run.json", "metrics.jsonl", "model"
_FREE = ("runtime.save_every_s", "tracking.mlflow_uri")
"""Settings that change no number: a run may go on with others."""
_log = logging.getLogger(__name__)


class PretrainRun:
    """A run's folder, held by one process at a time."""

    def __init__(self, folder: Path, job: PretrainJob, about: Mapping[str, str]) -> None:
        """Use `open_run`.

        Args:
            folder: exists and is locked.
            job: as it is asked for now.
            about: what run.json says: the run's key, and hashes of what it reads.
        """
        self.folder, self.job, self.about = folder, job, about
        self._rows = JsonlTracker(folder / ROWS)
        self._mlflow: MlflowTracker | None = None
        self.saved = 0
        """Steps that a kill would not lose, the text encoder's included."""

    @property
    def model(self) -> Path:
        """Where the checkpoint is at the end."""
        return self.folder / MODEL

    def begin(self, steps: int, data: DataSet | None) -> None:
        """Bring the records in line with where the run goes on, after so many steps."""
        self.saved = steps
        self._rows.rewind(steps + 1, None)
        if self.job.tracking.mlflow_uri is None:
            return
        out = self.folder.resolve().parent
        settings = MlflowSettings(
            uri=self.job.tracking.mlflow_uri.replace("{out}", str(out)),
            experiment=self.job.tracking.experiment,
            run_name=self.folder.name,
            key=self.about["run_id"],
            artifacts=out / "mlartifacts",
            params=flatten(self.job.model_dump(mode="json")),
            tags={"rl_motion.folder": str(self.folder.resolve()), "rl_motion.kind": f"pretrain {self.job.kind}"},
            parent=self.job.tracking.parent,
            data_sets=() if data is None else (data,),
        )
        self._mlflow = MlflowTracker(settings, self._rows, [self.folder / JOB])

    def record(self, steps: int, metrics: Metrics) -> None:
        """A row of metrics.jsonl, after so many steps."""
        self._rows.append({**metrics, ITERATION: float(steps), TIME: float(time.time_ns() // 1_000_000)})
        if self._mlflow:
            self._mlflow.wake()

    def rows(self) -> list[Metrics]:
        """All so far."""
        return self._rows.rows()

    def state_file(self, name: str) -> Path:
        """Of what is trained."""
        return self.folder / f"{name}.state.safetensors"

    def read_state(self, name: str) -> Mapping[str, Tensor] | None:
        """The state of what is trained; None where there is none.

        Raises:
            UserError: it cannot be read.
        """
        path = self.state_file(name)
        if not path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"got {path}, which cannot be read ({str(error)[:200]}); want the state that was saved; remove "
                f"{self.folder} and start again"
            ) from None

    def write_state(self, name: str, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Save it, as a whole or not at all; `steps` of the run are safe then."""
        from safetensors.torch import save

        write_atomic(self.state_file(name), save(dict(tensors)))
        self.saved = steps

    def end(self, status: str) -> None:
        """Close the run in MLflow: FINISHED, FAILED or KILLED."""
        if self._mlflow is None:
            return
        files = [path for name in ("README.md", "config.json") if (path := self.model / name).is_file()]
        if not self._mlflow.finish(status, files, 60.0 if status != "KILLED" else 5.0):
            _log.warning("MLflow lacks the last rows of %s", self.folder)


class Stage:
    """The training of one part of a run: has its state, and follows it."""

    def __init__(
        self,
        run: PretrainRun,
        name: str,
        before: int,
        show: Callable[[int, Metrics], None],
        validate: Callable[[Fit], float | None] = lambda fit: None,
    ) -> None:
        """Go on where it stopped.

        Args:
            run: whose part it is.
            name: of the part.
            before: steps of the parts before it.
            show: is told (steps, metrics) of every row.
            validate: the loss on `val`.
        """
        self._run, self._name, self._before = run, name, before
        self._show, self._validate = show, validate
        self._losses: list[float] = []
        self._saved_s = time.monotonic()

    def state(self) -> Mapping[str, Tensor] | None:
        """As the last process left it."""
        return self._run.read_state(self._name)

    def after(self, loss: float, fit: Fit) -> None:
        """A row for every so many steps, and the state now and then: after a row, so that none is half full."""
        refuse_not_finite(loss, fit.done)
        self._losses.append(loss)
        settings, last = self._run.job.train, fit.done == fit.recipe.steps
        if fit.done % settings.log_every and not last:
            return
        row = {f"{self._name}/loss": sum(self._losses) / len(self._losses)}
        if (last or fit.done % settings.validate_every == 0) and (found := self._validate(fit)) is not None:
            row[f"{self._name}/val_loss"] = found
        self._losses, steps = [], self._before + fit.done
        self._run.record(steps, row)
        self._show(steps, row)
        if not last and time.monotonic() - self._saved_s >= self._run.job.runtime.save_every_s:
            self._run.write_state(self._name, fit.state(), steps)
            self._saved_s = time.monotonic()


@contextmanager
def open_run(job: PretrainJob, out: Path, reads: Mapping[str, str]) -> Iterator[PretrainRun]:
    """The run DIR/<job name>: a new one, or the one that is there, to go on with.

    Args:
        job: resolved.
        out: DIR.
        reads: hashes of what the run reads, by name; those of a run that is there must be the same.

    Raises:
        UserError: something else is there, or a run of another job or on other data.
    """
    folder = out / job.name
    made = missing_folders(folder)
    if folder.exists() and not (folder / JOB).is_file() and not _is_empty(folder):
        raise UserError(f"got {folder}, which is there and no pretraining; want a new place; choose a name or --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"got --out {out}, where no folder can be made ({error.strerror}); want one that can be written; choose "
            "another"
        ) from None
    with held(folder):
        fresh = not (folder / JOB).is_file()
        run: PretrainRun | None = None
        try:
            if not fresh:
                _refuse_other(folder, job)
            about = _about(folder, reads)
            write_atomic(folder / JOB, dump_job(job).encode())
            run = PretrainRun(folder, job, about)
            yield run
        finally:
            if fresh and (run is None or (run.saved == 0 and not run.model.is_dir())):
                shutil.rmtree(folder, ignore_errors=True)
                remove_empty(made)


def _is_empty(folder: Path) -> bool:
    """But for the logs that whoever began there may have left."""
    return folder.is_dir() and all(path.name == "logs" for path in folder.iterdir())


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is there under its name at the end, as a whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def forget(run: PretrainRun, name: str) -> None:
    """Remove the state of what is done."""
    with suppress(FileNotFoundError):
        run.state_file(name).unlink()


def _about(folder: Path, reads: Mapping[str, str]) -> dict[str, str]:
    path = folder / RUN
    if not path.is_file():
        about = {"run_id": uuid.uuid4().hex, **reads}
        write_atomic(path, (json.dumps(about, indent=1) + "\n").encode())
        return about
    try:
        known: Any = json.loads(path.read_text(encoding="utf-8"))
        about = {str(name): str(value) for name, value in known.items()}
        _ = about["run_id"]
    except (OSError, ValueError, AttributeError, KeyError):
        raise UserError(f"got {path}, which is no record of a run; want the one that was written; start anew") from None
    for name, value in reads.items():
        if about.get(name) != value:
            raise UserError(
                f"got {folder}, whose {name} was {about.get(name, 'none')[:16]} and is {value[:16]} now; want the run "
                "to go on as it began; put it back, or choose another name"
            )
    return about


def _refuse_other(folder: Path, job: PretrainJob) -> None:
    known, asked = (flatten(one.model_dump(mode="json")) for one in (load_pretrain_job(folder / JOB), job))
    other = sorted(name for name in known.keys() | asked.keys() if known.get(name) != asked.get(name))
    if refused := [name for name in other if name not in _FREE]:
        name = refused[0]
        raise UserError(
            f"got {folder}, a run with {name}={str(known.get(name))[:80]}, and {name}={str(asked.get(name))[:80]} now; "
            "want the same job to go on with it; choose another name or --out"
        )
