"""A run on disk: its folder, and what is written there after every iteration.

DIR/<run>/job.yaml  metrics.jsonl  commits/  adapter/  prompts/  report.json  report.html  logs/
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_motion.config import Job
from rl_motion.config.load import dump_job
from rl_motion.runtime import resuming, status_file
from rl_motion.runtime.commit import (
    ADAPTER_FILES,
    LEARNER_FILE,
    LEDGER_FILE,
    Best,
    Commit,
    Commits,
    Manifest,
    behaviour_file,
)
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.loop import State
from rl_motion.runtime.prompt_records import PromptRecords
from rl_motion.runtime.store import Store
from rl_motion.runtime.validate import REWARD
from rl_motion.runtime.workers import Behaviour, Snapshot
from rl_motion.tracking.files import write_atomic
from rl_motion.tracking.jsonl import ITERATION, TIME, JsonlTracker
from rl_motion.tracking.mlflow_data import TABLES
from rl_motion.tracking.mlflow_tracker import MlflowSettings, MlflowTracker, flatten
from rl_motion.types import Metrics

_MLFLOW_PATIENCE_S = 60.0
_log = logging.getLogger(__name__)


class Run:
    """A run's folder, held by one process at a time."""

    def __init__(
        self,
        folder: Path,
        job: Job,
        commit: Commit | None = None,
        store: Store | None = None,
        changed: Sequence[str] = (),
    ) -> None:
        """Use `create` or `reopen` of opening.py.

        Args:
            folder: exists and is locked.
            job: resolved.
            commit: what the run goes on from.
            store: where commits go beside the folder.
            changed: settings that differ from those of the commit, in words.
        """
        self.folder = folder
        self.job = job
        self.commit = commit
        self.changed = changed
        self._run_id = commit.manifest.run_id if commit else uuid.uuid4().hex
        self._wall_before_s = commit.manifest.wall_s if commit else 0.0
        self._best = commit.manifest.best if commit else None
        self._started = time.monotonic()
        self._commits = Commits(folder / "commits", job.runtime.keep_commits)
        self._store = store
        self._rows = JsonlTracker(folder / "metrics.jsonl")
        self._mlflow: MlflowTracker | None = None
        self._prompts: PromptRecords | None = None
        self._pool_sha256 = ""
        self._weights_sha256: Mapping[str, str] = {}
        self._validation_sha256 = ""
        self.iterations: int | None = commit.manifest.iteration if commit else None
        """Finished and committed; None as long as a new run has no commit."""

    @property
    def wall_s(self) -> float:
        """Seconds of work so far, over all resumes."""
        return self._wall_before_s + time.monotonic() - self._started

    def mlflow_behind(self) -> int | None:
        """Rows that MLflow lacks; None without MLflow."""
        return self._mlflow.behind() if self._mlflow else None

    def rest_on(self, pool_sha256: str, weights_sha256: Mapping[str, str], validation_sha256: str) -> None:
        """Say which prompts and frozen weights this machine has, before anything starts.

        Raises:
            UserError: they are not those of the run.
        """
        if self.commit is not None:
            resuming.check_inputs(self.commit.manifest, pool_sha256, weights_sha256, validation_sha256)
        self._pool_sha256, self._weights_sha256 = pool_sha256, weights_sha256
        self._validation_sha256 = validation_sha256

    def begin(self, snapshot: Snapshot, prompts: PromptRecords) -> State:
        """Bring the records in line with where the run starts: a first commit, or the one it goes on from.

        Args:
            snapshot: of the learner as it starts.
            prompts: that the run reads.

        Returns:
            The run as the loop goes on with it.

        Raises:
            RunFault: the learner does not come back as it was committed, or the store does not answer.
            UserError: the store holds another run, or more of this one.
        """
        job = dump_job(self.job).encode()
        write_atomic(self.folder / "job.yaml", job)
        state, last = State(snapshot), None
        if self.commit is None:
            self._write(state, None)
        else:
            resuming.check_state(self.commit.manifest, snapshot)
            state, last = _state(self.commit, snapshot), self.commit.manifest.metrics
            self._commits.drop_after(snapshot.version)
        self._rows.rewind(snapshot.version, last)
        if self._store:
            self._store.catch_up(job, self._rows.rows(), self._kept())
        self._prompts = prompts
        prompts.write_pool(self.folder)
        if self.job.tracking.mlflow_uri is not None:
            self._mlflow = MlflowTracker(
                self._mlflow_settings(self.job.tracking.mlflow_uri, prompts),
                self._rows,
                [self.folder / "job.yaml", self.folder / TABLES],
            )
        return state

    def record(self, iteration: int, state: State, metrics: Metrics) -> None:
        """After an iteration: commit, then the row, then MLflow in its own time, then the store.

        Raises:
            RunFault: the store does not answer; the folder has the iteration.
        """
        row = {**metrics, ITERATION: float(iteration), TIME: float(time.time_ns() // 1_000_000)}
        self._note_best(iteration + 1, metrics)
        commit = self._write(state, row)
        self._rows.append(row)
        if self._mlflow:
            self._mlflow.wake()
        if self._store:
            self._store.add_row(row)
            self._store.write(commit.manifest, commit.files)

    def publish_adapter(self) -> str:
        """Put an adapter where users look for it, `adapter/`; returns which one, and why, in words.

        That of the newest commit or, as `train.publish` says, of the best.

        Raises:
            RunFault: the disk does not answer.
        """
        wanted = self._best if self.job.train.publish == "best" else None
        commit = self._commits.read(wanted.iteration) if wanted else None
        commit = commit or self._commits.newest()
        if commit is None:
            return "none"
        for name in ADAPTER_FILES:
            write_atomic(self.folder / name, commit.files[name])
        after = f"after iteration {commit.manifest.iteration}"
        if wanted is None:
            return f"{after}, the last"
        if wanted.iteration != commit.manifest.iteration:
            return f"{after}, the last, as the commit of the best ({wanted.iteration}) is damaged"
        interval = "" if wanted.low is None else f" [{wanted.low:.4g}, {wanted.high:.4g}]"
        return f"{after}, the best in validation: reward {wanted.reward:.4g}{interval}"

    def end(self, status: status_file.State) -> None:
        """Say how the run ended, publish the adapter and what was learned of the prompts, and close the run in MLflow:
        FINISHED, FAILED or KILLED."""
        status_file.ended(self.folder, status, time.time())
        self.publish_adapter()
        self._show_ledger()
        if self._mlflow is None:
            return
        paths = [self.folder / name for name in ("report.html", "report.json", "adapter", TABLES)]
        files = [path for path in paths if path.exists()]
        if not self._mlflow.finish(status, files, _MLFLOW_PATIENCE_S if status != "KILLED" else 5.0):
            _log.warning("MLflow lacks the last rows; `rl-motion resume %s` sends what is missing", self.folder)

    def _show_ledger(self) -> None:
        """What was learned of the prompts, as far as it was committed. It repeats what the commit holds: a disk that
        does not take it is no reason to leave the run open in MLflow, or to say less of what ended it."""
        newest = self._commits.newest()
        if self._prompts is None or newest is None:
            return
        try:
            self._prompts.write_ledger(self.folder, _ledger(newest))
        except OSError as error:
            _log.warning("the tables of the ledger are not up to date (%s); resume %s", error, self.folder)

    def _note_best(self, iteration: int, metrics: Metrics) -> None:
        reward = metrics.get(REWARD)
        if reward is None or (self._best is not None and reward <= self._best.reward):
            return
        self._best = Best(
            iteration=iteration,
            reward=reward,
            low=metrics.get(f"{REWARD}_low"),
            high=metrics.get(f"{REWARD}_high"),
            measured=resuming.measure_of(self.job),
            prompts_sha256=self._validation_sha256,
        )

    def _write(self, state: State, row: Metrics | None) -> Commit:
        snapshot, environment = state.snapshot, state.snapshot.environment
        manifest = Manifest(
            iteration=snapshot.version,
            adapter_sha256=snapshot.sha256,
            pool_sha256=self._pool_sha256,
            weights_sha256=dict(self._weights_sha256),
            job=resuming.settings_of(self.job),
            threads=environment.threads,
            cpu_capability=environment.cpu_capability,
            torch=environment.torch,
            device=environment.device,
            run_id=self._run_id,
            mlflow_run_id=self._mlflow.run_id if self._mlflow else None,
            wall_s=self.wall_s,
            metrics=row,
            behaviour={older.version: older.sha256 for older in state.older},
            best=self._best,
        )
        adapter = {f"adapter/{name}": content for name, content in snapshot.files.items()}
        in_flight = {behaviour_file(older.version): older.adapter for older in state.older}
        files = {LEARNER_FILE: snapshot.state, LEDGER_FILE: state.ledger.to_bytes(), **adapter, **in_flight}
        try:
            self._commits.write(manifest, files)
        finally:  # whole, where only what follows the commit failed
            if snapshot.version in self._commits.iterations():
                self.iterations = snapshot.version
        return Commit(manifest, files)

    def _kept(self) -> list[Commit]:
        """The newest commit, and before it the best where that is another."""
        newest = self._commits.newest()
        best = self._best and newest and self._best.iteration != newest.manifest.iteration
        found = [self._commits.read(self._best.iteration) if self._best and best else None, newest]
        return [commit for commit in found if commit is not None]

    def _mlflow_settings(self, uri: str, prompts: PromptRecords) -> MlflowSettings:
        out = self.folder.resolve().parent
        return MlflowSettings(
            uri=uri.replace("{out}", str(out)),
            experiment=self.job.tracking.experiment,
            run_name=self.folder.name,
            key=self._run_id,
            artifacts=out / "mlartifacts",
            params=flatten(self.job.model_dump(mode="json")),
            tags={"rl_motion.pool_sha256": self._pool_sha256, "rl_motion.folder": str(self.folder.resolve())},
            parent=self.job.tracking.parent,
            data_sets=prompts.data_sets,
        )


def _state(commit: Commit, snapshot: Snapshot) -> State:
    """A run after the commit whose learner came back as `snapshot`."""
    manifest, files = commit.manifest, commit.files
    versions = sorted(manifest.behaviour.items())
    older = [Behaviour(version, sha256, files[behaviour_file(version)]) for version, sha256 in versions]
    return State(snapshot, _ledger(commit), older)


def _ledger(commit: Commit) -> Ledger:
    """That of the commit; an empty one, where it was made before there was any."""
    return Ledger.from_bytes(commit.files[LEDGER_FILE]) if LEDGER_FILE in commit.files else Ledger()
