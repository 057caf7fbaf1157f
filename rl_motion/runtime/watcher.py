"""The eyes and ears of a run: a thread of its process that looks once a second.

It writes RUN/status.json, exports Prometheus metrics where Ray is there, and obeys RUN/control.json. It never stops the
training: what fails in it is logged once, and it goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rl_motion.config import Job, UserError
from rl_motion.config.load import dump_job
from rl_motion.runtime import control, status_file
from rl_motion.runtime.backend import Backend
from rl_motion.runtime.exporter import Exporter
from rl_motion.runtime.logs import go_on_to
from rl_motion.runtime.rates import Rates
from rl_motion.runtime.status import Status
from rl_motion.runtime.status_file import Answer, RunStatus, State
from rl_motion.tracking.files import write_atomic
from rl_motion.types import Metrics

_PERIOD_S = 1.0
_JOIN_S = 5.0
_RECENT = 10
"""Iterations that the pace is the mean of."""
_MAIN = (
    "reward/",
    "policy/kl",
    "policy/clip_fraction",
    "policy/drift",
    "policy/staleness",
    "prompts/",
    "learner/",
    "time/",
    "sentinel/alarms",
)
"""Beginnings of the names of metrics that status.json repeats; metrics.jsonl has all."""
_log = logging.getLogger(__name__)


class Watcher:
    """A run's; `watching_run` makes it."""

    def __init__(self, folder: Path, job: Job, backend: Backend, done: int, behind: Callable[[], int | None]) -> None:
        """Looks once, then begins the thread.

        Args:
            folder: the run's.
            job: resolved.
            backend: whose status is asked for, and who is asked to scale.
            done: iterations finished before.
            behind: rows that MLflow lacks; None without MLflow.
        """
        self._folder = folder
        self._job = job
        self._backend = backend
        self._behind = behind
        self._done = done
        self._state: State = "STARTING"
        self._metrics: Metrics = {}
        self._ends: deque[float] = deque([time.monotonic()], _RECENT + 1)
        self._started = time.time()
        self._rates = Rates()
        self._exporter = Exporter(folder.name)
        self._answer: Answer | None = None
        self._told: set[str] = set()
        self._over = threading.Event()
        with suppress(OSError):
            control.path_of(folder).unlink()  # of a process that is gone
        self._thread = threading.Thread(target=self._work, name="watcher", daemon=True)
        self._thread.start()

    def begin(self, done: int) -> None:
        """Training begins, after so many iterations; requests are heard from now on."""
        go_on_to(iteration=done)
        self._done = done
        self._ends = deque([time.monotonic()], _RECENT + 1)
        self._state = "RUNNING"

    def iteration(self, iteration: int, metrics: Metrics) -> None:
        """This iteration is done."""
        go_on_to(iteration=iteration + 1)
        self._metrics = metrics
        self._done = iteration + 1
        self._ends.append(time.monotonic())
        with self._going_on("counting"):
            self._exporter.count(metrics)

    def close(self, state: State | None) -> None:
        """End the thread; say a last time how things are, where `state` says that they are well."""
        self._over.set()
        self._thread.join(_JOIN_S)
        if state is not None and not self._thread.is_alive():  # where it hangs, looking once more would hang too
            self._state = state
            self._look()

    def _work(self) -> None:
        while True:
            go_on_to(iteration=self._done)
            if self._state == "RUNNING":
                with self._going_on("control.json"):
                    self._obey()
            self._look()
            if self._over.wait(_PERIOD_S):
                return

    def _look(self) -> None:
        workers = None
        with self._going_on("the backend's status"):
            workers = self._ask()
        status = None
        with self._going_on("status.json"):
            status = self._status(workers)
            if not self._over.is_set() or self._state == "EVALUATING":
                status_file.write(self._folder, status)
        with self._going_on("metrics for Prometheus"):
            if status is not None:
                self._exporter.export(status)

    def _ask(self) -> Status:
        status = self._backend.status()
        if not status_file.is_finite(status):
            raise ValueError(f"got a number that is not finite in {status}; want none")
        return status

    def _status(self, workers: Status | None) -> RunStatus:
        now, ends = time.monotonic(), list(self._ends)
        pace = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None
        done, iterations = self._done, self._job.train.iterations
        rates = self._rates.look(workers, now) if workers else {}
        gpus = sum(pool.gpus for pool in workers.pools) if workers else 0.0
        metrics = {name: value for name, value in self._metrics.items() if name.startswith(_MAIN)}
        return RunStatus(
            run=self._folder.name,
            name=self._job.name,
            pid=os.getpid(),
            host=socket.gethostname(),
            backend=self._job.runtime.backend,
            mode=self._job.runtime.mode,
            lag=self._job.runtime.lag,
            started=self._started,
            unix_s=time.time(),
            state=self._state,
            done=done,
            iterations=iterations,
            metrics=status_file.finite(metrics),
            iteration_s=pace,
            since_s=now - ends[-1],
            left_s=pace * (iterations - done) if pace is not None else None,
            workers=workers,
            rates=dict(rates),
            rows_per_gpu_s=rates["rollout"].rows_per_s / gpus if gpus and "rollout" in rates else None,
            mlflow_behind=self._behind(),
            answer=self._answer,
        )

    def _obey(self) -> None:
        """Take over a request, if there is one; what cannot be obeyed is answered, or logged where it has no id."""
        path = control.path_of(self._folder)
        if not path.exists():
            return
        try:
            request = control.read(path)
        except (OSError, ValueError) as error:
            _log.warning("a request was put aside: %s", error)
            path.unlink()
            return
        try:
            self._scale(request)
            self._answer = Answer(id=request.id, refused=None)
        except Exception as error:
            self._answer = Answer(id=request.id, refused=str(error) or type(error).__name__)
            if not isinstance(error, UserError):
                raise
        finally:
            path.unlink(missing_ok=True)

    def _scale(self, request: control.Request) -> None:
        job = control.resized(self._job, request.sizes)
        for role, workers in request.sizes.items():
            self._backend.scale(role, workers, "rl-motion scale")
        write_atomic(self._folder / "job.yaml", dump_job(job).encode())
        self._job = job

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Training does not depend on being watched: log the first failure, go on after each."""
        try:
            yield
        except Exception as error:
            if what not in self._told:
                self._told.add(what)
                _log.warning("watching failed (%s: %s); the run goes on", what, error)
                _log.info("watching failed", exc_info=error)


@contextmanager
def watching_run(
    folder: Path, job: Job, backend: Backend, done: int = 0, behind: Callable[[], int | None] = lambda: None
) -> Iterator[Watcher]:
    """A `Watcher` from before the workers are made until training is over; how a run ends is said by `Run.end`."""
    watcher = Watcher(folder, job, backend, done, behind)
    try:
        yield watcher
    except BaseException:
        watcher.close(None)
        raise
    watcher.close("EVALUATING")
