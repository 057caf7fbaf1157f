"""A run on disk: its folder, its lock, what is written after every iteration, and what a resume checks.

DIR/<run>/job.yaml  metrics.jsonl  commits/  adapter/  report.json  report.html  logs/
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_motion.config import Job, RunFault, UserError
from rl_motion.config.load import dump_job, load_job
from rl_motion.runtime.commit import ADAPTER_FILES, LEARNER_FILE, Commit, Commits, Manifest
from rl_motion.runtime.held import held
from rl_motion.runtime.status_file import State, ended
from rl_motion.runtime.workers import Snapshot
from rl_motion.tracking.files import missing_folders, remove_empty, write_atomic
from rl_motion.tracking.jsonl import ITERATION, TIME, JsonlTracker
from rl_motion.tracking.mlflow_tracker import MlflowSettings, MlflowTracker, flatten
from rl_motion.types import Metrics

_MLFLOW_PATIENCE_S = 60.0
_log = logging.getLogger(__name__)


class Run:
    """A run's folder, held by one process at a time."""

    def __init__(self, folder: Path, job: Job, commit: Commit | None = None) -> None:
        """Use `create` or `reopen`.

        Args:
            folder: exists and is locked.
            job: resolved.
            commit: what the run goes on from.
        """
        self.folder = folder
        self.job = job
        self.commit = commit
        self._run_id = commit.manifest.run_id if commit else uuid.uuid4().hex
        self._wall_before_s = commit.manifest.wall_s if commit else 0.0
        self._started = time.monotonic()
        self._commits = Commits(folder / "commits", job.runtime.keep_commits)
        self._rows = JsonlTracker(folder / "metrics.jsonl")
        self._mlflow: MlflowTracker | None = None
        self._pool_sha256 = ""
        self._weights_sha256: dict[str, str] = {}
        self.iterations: int | None = commit.manifest.iteration if commit else None
        """Finished and committed; None as long as a new run has no commit."""

    @property
    def wall_s(self) -> float:
        """Seconds of work so far, over all resumes."""
        return self._wall_before_s + time.monotonic() - self._started

    def mlflow_behind(self) -> int | None:
        """Rows that MLflow lacks; None without MLflow."""
        return self._mlflow.behind() if self._mlflow else None

    def rest_on(self, pool_sha256: str, weights_sha256: dict[str, str]) -> None:
        """Say which prompts and frozen weights this machine has, before anything starts.

        Raises:
            UserError: they are not those of the run.
        """
        if self.commit is not None:
            _check_inputs(self.commit.manifest, pool_sha256, weights_sha256)
        self._pool_sha256, self._weights_sha256 = pool_sha256, weights_sha256

    def begin(self, snapshot: Snapshot) -> None:
        """Bring the records in line with where the run starts: a first commit, or the one it goes on from.

        Raises:
            RunFault: the learner does not come back as it was committed.
        """
        write_atomic(self.folder / "job.yaml", dump_job(self.job).encode())
        if self.commit is None:
            self._write(snapshot, None)
        else:
            _check_state(self.commit.manifest, snapshot)
            self._commits.drop_after(snapshot.version)
        self._rows.rewind(snapshot.version, self.commit.manifest.metrics if self.commit else None)
        if self.job.tracking.mlflow_uri is not None:
            self._mlflow = MlflowTracker(
                self._mlflow_settings(self.job.tracking.mlflow_uri),
                self._rows,
                [self.folder / "job.yaml"],
            )

    def record(self, iteration: int, snapshot: Snapshot, metrics: Metrics) -> None:
        """After an iteration: commit, then the row, then MLflow in its own time."""
        row = {**metrics, ITERATION: float(iteration), TIME: float(time.time_ns() // 1_000_000)}
        self._write(snapshot, row)
        self._rows.append(row)
        if self._mlflow:
            self._mlflow.wake()

    def publish_adapter(self) -> None:
        """Put the newest commit's adapter where users look for it: `adapter/`.

        Raises:
            RunFault: the disk does not answer.
        """
        commit = self._commits.newest()
        if commit is not None:
            for name in ADAPTER_FILES:
                write_atomic(self.folder / name, commit.files[name])

    def end(self, status: State) -> None:
        """Say how the run ended, publish the adapter and close the run in MLflow: FINISHED, FAILED or KILLED."""
        ended(self.folder, status, time.time())
        self.publish_adapter()
        if self._mlflow is None:
            return
        paths = [self.folder / name for name in ("report.html", "report.json", "adapter")]
        files = [path for path in paths if path.exists()]
        if not self._mlflow.finish(status, files, _MLFLOW_PATIENCE_S if status != "KILLED" else 5.0):
            _log.warning("MLflow lacks the last rows; `rl-motion resume %s` sends what is missing", self.folder)

    def _write(self, snapshot: Snapshot, row: Metrics | None) -> None:
        environment = snapshot.environment
        manifest = Manifest(
            iteration=snapshot.version,
            adapter_sha256=snapshot.sha256,
            pool_sha256=self._pool_sha256,
            weights_sha256=self._weights_sha256,
            job=identity(self.job),
            threads=environment.threads,
            cpu_capability=environment.cpu_capability,
            torch=environment.torch,
            run_id=self._run_id,
            mlflow_run_id=self._mlflow.run_id if self._mlflow else None,
            wall_s=self.wall_s,
            metrics=row,
        )
        adapter = {f"adapter/{name}": content for name, content in snapshot.files.items()}
        try:
            self._commits.write(manifest, {LEARNER_FILE: snapshot.state, **adapter})
        finally:  # whole, where only what follows the commit failed
            if self._commits.has(snapshot.version):
                self.iterations = snapshot.version

    def _mlflow_settings(self, uri: str) -> MlflowSettings:
        out = self.folder.resolve().parent
        return MlflowSettings(
            uri=uri.replace("{out}", str(out)),
            experiment=self.job.tracking.experiment,
            run_name=self.folder.name,
            key=self._run_id,
            artifacts=out / "mlartifacts",
            params=flatten(self.job.model_dump(mode="json")),
            tags={"rl_motion.pool_sha256": self._pool_sha256, "rl_motion.folder": str(self.folder.resolve())},
        )


@contextmanager
def create(job: Job, out: Path) -> Iterator[Run]:
    """A new run in DIR/<job name>, or <job name>-2 and so on where that exists.

    Raises:
        UserError: DIR cannot be written.
    """
    made = missing_folders(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = _fresh(out, job.name)
    except OSError as error:
        remove_empty(made)
        raise UserError(
            f"got --out {out}, where no folder can be made ({error.strerror}); want one that can be written; choose "
            "another"
        ) from None
    new: Run | None = None
    try:
        with held(folder):
            new = Run(folder, job)
            yield new
    finally:
        if new is None:
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            remove_empty(made)


@contextmanager
def reopen(folder: Path, overrides: Sequence[str] = ()) -> Iterator[Run]:
    """A run at its newest whole commit.

    Raises:
        UserError: there is no such run, nothing was committed, it is running, or the job asked for is
            another one.
    """
    if not (folder / "job.yaml").is_file():
        raise UserError(f"got RUN={str(folder)!r}, which has no job.yaml; want a run's folder; name one like runs/demo")
    job = load_job(folder / "job.yaml", overrides)
    nothing = UserError(
        f"{folder}: got no whole commit, as nothing was trained; want one to go on from; start again: "
        f"rl-motion train {folder / 'job.yaml'}"
    )
    if not (folder / "commits").is_dir():
        raise nothing
    with held(folder):
        commit = Commits(folder / "commits", job.runtime.keep_commits).newest()
        if commit is None:
            raise nothing
        _check_job(commit.manifest, job, folder)
        yield Run(folder, job, commit)


def identity(job: Job) -> dict[str, Any]:
    """What a run's numbers depend on, by dotted name: all but names, places, amounts of work and records."""
    tree = job.model_dump(mode="json", exclude={"name", "runtime", "tracking", "evaluation"})
    for amount in ("iterations", "max_skipped_steps"):
        del tree["train"][amount]
    return flatten(tree)


def _not_named(got: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an older commit may lack, as their defaults have them: a new one changes no other job."""
    defaults = identity(Job(name="any"))
    return {name: value for name, value in defaults.items() if name in got and not name.startswith("prompts.sources.")}


def _check_job(manifest: Manifest, job: Job, folder: Path) -> None:
    got = identity(job)
    want = _not_named(got) | manifest.job
    want["runtime.threads"], got["runtime.threads"] = str(manifest.threads), str(job.runtime.threads)
    names = sorted(name for name in want.keys() | got.keys() if want.get(name) != got.get(name))
    if names:
        differences = "\n".join(f"  {name}: got {got.get(name)}; want {want.get(name)}" for name in names)
        raise UserError(
            f"{folder}: the job differs from the one that the run was started with\n{differences}\n"
            "a resumed run goes on bit for bit; leave these as they were, or start a new run: rl-motion train"
        )


def _check_inputs(manifest: Manifest, pool_sha256: str, weights_sha256: dict[str, str]) -> None:
    if manifest.pool_sha256 != pool_sha256:
        raise UserError(
            f"got prompts with hash {pool_sha256[:12]}; want {manifest.pool_sha256[:12]}, those of the run; "
            "put the prompt files back as they were, or start a new run"
        )
    want, got = manifest.weights_sha256, weights_sha256
    roles = sorted(role for role in want.keys() | got.keys() if want.get(role) != got.get(role))
    if roles:
        found = "; ".join(f"{r}: got {got.get(r, 'none')[:12]}, want {want.get(r, 'none')[:12]}" for r in roles)
        raise UserError(
            f"the frozen weights, or what the rewards read, are not those that the run was started with ({found}); put "
            "the checkpoints back, and the rewards' files, as they were, or start a new run"
        )


def _check_state(manifest: Manifest, snapshot: Snapshot) -> None:
    if snapshot.sha256 != manifest.adapter_sha256:
        raise RunFault(
            f"got adapter {snapshot.sha256[:12]} from the commit; want {manifest.adapter_sha256[:12]}; "
            "the model may have changed since; put it back and resume"
        )
    here, there = snapshot.environment, (manifest.cpu_capability, manifest.torch)
    if (here.cpu_capability, here.torch) != there:
        _log.warning(
            "the run was made with CPU capability %s and torch %s, here are %s and %s: it goes on, but not bit for bit",
            *there,
            here.cpu_capability,
            here.torch,
        )


def _fresh(out: Path, name: str) -> Path:
    for number in range(1, 100_000):
        folder = out / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"got 100000 runs named {name!r} in {out}; want another name; set `name` in the job")


def discard(run: Run) -> None:
    """Remove the folder of a new run that never got as far as a commit.

    Raises:
        ValueError: the run has committed, or was there before.
    """
    if run.iterations is not None:
        raise ValueError(f"got {run.folder}, which has {run.iterations} iterations; want a new run; keep it")
    shutil.rmtree(run.folder, ignore_errors=True)
