"""A sweep: trials are ordinary runs, each in its own folder, side by side as far as the machine goes.

DIR/sweep.json  <trial>/ (a run: adapter/, report.json, ...)  mlflow.db

Ray Tune places trials and notices those that die. What there is to remember is in sweep.json and in the runs' own
commits, not in Tune's pickles: the same command again goes on with what is not finished.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rl_motion.config import Job, RunFault, UserError
from rl_motion.config.errors import Paused
from rl_motion.runtime import frontend
from rl_motion.runtime.cluster import connect
from rl_motion.runtime.commit import Commits
from rl_motion.runtime.sweep_plan import Search, Trial, check_metric, plan
from rl_motion.runtime.sweep_record import FILE, Entry, Record, begin
from rl_motion.tracking.files import missing_folders, remove_empty
from rl_motion.tracking.jsonl import JsonlTracker
from rl_motion.tracking.mlflow_tracker import MlflowSettings, MlflowTracker, check_uri, flatten

_PARENT_S = 30.0
"""How long trials wait for the sweep's own MLflow run; where the server is away longer, they find it later."""
_SCRATCH = ".tune-"
_log = logging.getLogger(__name__)


def run_sweep(job: Job, search: Search, metric: str, out: Path, console: Console) -> Record:
    """Run every trial that is not finished yet; returns what all have come to.

    Raises:
        UserError: the search, a trial's job or `out` is wrong; nothing was started.
        RunFault: no trial ended well.
        KeyboardInterrupt: with a note that says how to go on.
    """
    check_uri(job.tracking.mlflow_uri)
    trials = plan(job, search)
    check_metric(metric, trials)
    console.print(f"sweep: {len(trials)} trials of {job.name} in {out}; checking them", highlight=False)
    for trial in trials:
        frontend.MEANS.workshop.check(trial.job)
    with _held(out.resolve()) as folder:
        record = begin(folder, job, trials, metric)
        record.write(folder)
        missing = [trial for trial in trials if record.entry(trial.name).state != "finished"]
        if missing:
            _work(record, missing, folder, console)
    if record.best is None:
        raise _none_left(record, out)
    return record


def _work(record: Record, trials: Sequence[Trial], out: Path, console: Console) -> None:
    """Run these trials and write down how each ends."""
    parent = _parent(record, trials[0].job, out)
    status = "KILLED"
    owns_cluster = connect()
    try:
        _tune(record, trials, out, console)
        status = "FINISHED"
    finally:
        if owns_cluster:
            import ray

            ray.shutdown()
        record.write(out)
        if parent and not parent.finish(status, [out / FILE], 60.0 if status == "FINISHED" else 5.0):
            _log.warning("MLflow lacks the sweep's end; the same command again sends it")


def _tune(record: Record, trials: Sequence[Trial], out: Path, console: Console) -> None:
    # Trials read prompts and rewards relative to where the command was typed, and report to nobody but us.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0"}
    from ray import tune

    from rl_motion.runtime.ray_calls import resources
    from rl_motion.runtime.sweep_watch import Watch

    jobs = {trial.name: _nested(trial.job, record.key) for trial in trials}
    work = partial(_trial, jobs=jobs, out=out, means=frontend.MEANS)
    iterations = {name: job.train.iterations for name, job in jobs.items()}
    cpus = min(max(trial.job.runtime.threads for trial in trials), max(1.0, resources().get("CPU", 1.0)))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=out, prefix=_SCRATCH) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(work, {"cpu": cpus}),
            param_space={"trial": tune.grid_search(list(jobs))},
            run_config=tune.RunConfig(
                name="sweep", storage_path=scratch, verbose=0, callbacks=[Watch(record, iterations, out, console)]
            ),
        )
        tuner.fit()
    if any(entry.state == "waiting" for entry in record.trials):
        raise KeyboardInterrupt


def _trial(config: Mapping[str, Any], jobs: Mapping[str, Job], out: Path, means: frontend.Means) -> None:
    """One trial, in a process of its own: start its run, or go on with it. How it ended is its result."""
    from ray import tune

    frontend.MEANS = means
    logging.getLogger("rl_motion").setLevel(logging.INFO)
    job, console = jobs[config["trial"]], Console(file=sys.stdout, quiet=True)
    folder = out / job.name
    reason = None
    try:
        if Commits(folder / "commits", job.runtime.keep_commits).newest() is not None:
            frontend.resume(folder, [], console)
        else:
            # A trial that was killed before its first commit has trained nothing.
            shutil.rmtree(folder, ignore_errors=True)
            frontend.start(job, out, console)
    except Paused as error:  # a KeyboardInterrupt, which would end this process without a word
        reason = str(error)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError | RunFault) else f"{type(error).__name__}: {error}"
    tune.report({"reason": reason})


def _nested(job: Job, key: str) -> Job:
    return job.model_copy(update={"tracking": job.tracking.model_copy(update={"parent": key})})


def _parent(record: Record, job: Job, out: Path) -> MlflowTracker | None:
    """The sweep's own run in MLflow, in which trials are nested; None where the job is not tracked there."""
    if job.tracking.mlflow_uri is None:
        return None
    settings = MlflowSettings(
        uri=job.tracking.mlflow_uri.replace("{out}", str(out)),
        experiment=job.tracking.experiment,
        run_name=out.name,
        key=record.key,
        artifacts=out / "mlartifacts",
        params=flatten(record.job),
        tags={"rl_motion.folder": str(out), "rl_motion.metric": record.metric},
    )
    tracker = MlflowTracker(settings, JsonlTracker(out / "sweep.jsonl"), [])
    patience = time.monotonic() + _PARENT_S
    while tracker.run_id is None and time.monotonic() < patience:
        time.sleep(0.1)
    return tracker


@contextmanager
def _held(out: Path) -> Iterator[Path]:
    """The sweep's folder, made where it is not there, held by one process at a time.

    Raises:
        UserError: it cannot be made, or another process works on it.
    """
    made = missing_folders(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".sweep.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        remove_empty(made)
        raise UserError(
            f"got --out {out}, where no folder can be made ({error.strerror}); want one that can be written; choose "
            "another"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"got {out}, a sweep that another process is working on; want one at a time; wait for it or end it"
            ) from None
        for left in out.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield out
    except KeyboardInterrupt as error:
        error.add_note(f"saved: every trial's last whole iteration, in {out}")
        error.add_note(f"go on: the same command again: {shlex.join(['rl-motion', *sys.argv[1:]])}")
        raise
    finally:
        os.close(descriptor)


def _none_left(record: Record, out: Path) -> RunFault:
    reasons = "\n".join(f"  {entry.name}: {_first_line(entry)}" for entry in record.trials[:10])
    return RunFault(f"got no trial that ended well:\n{reasons}\nlook at {out}/*/logs/run.log, and run the sweep again")


def _first_line(entry: Entry) -> str:
    return (entry.reason or "").splitlines()[0] if entry.reason else "did not end"
