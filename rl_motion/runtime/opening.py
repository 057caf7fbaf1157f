"""How a run comes to be held by this process: a new folder, one that is there, or one rebuilt from a store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.runtime import resuming
from rl_motion.runtime.commit import Commits
from rl_motion.runtime.held import held
from rl_motion.runtime.run import Run
from rl_motion.runtime.store import Store, open_store
from rl_motion.runtime.store_uri import run_in
from rl_motion.tracking.files import missing_folders, remove_empty, sync_folder, write_synced
from rl_motion.tracking.jsonl import JsonlTracker

_JOB, _ROWS, _COMMITS = "job.yaml", "metrics.jsonl", "commits"


@contextmanager
def create(job: Job, out: Path) -> Iterator[Run]:
    """A new run in DIR/<job name>, or <job name>-2 and so on where that exists, there or in the job's store.

    Raises:
        UserError: DIR cannot be written, or the store is not there.
        RunFault: the store does not answer.
    """
    made = missing_folders(out)
    folder: Path | None = None
    new: Run | None = None
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder, store = _fresh(out, job)
        except OSError as error:
            raise UserError(
                f"got --out {out}, where no folder can be made ({error.strerror}); want one that can be written; "
                "choose another"
            ) from None
        with held(folder):
            new = Run(folder, job, store=store)
            yield new
    finally:
        if folder is not None and new is None:
            shutil.rmtree(folder, ignore_errors=True)
        if folder is None or not folder.exists():
            remove_empty(made)


@contextmanager
def reopen(folder: Path, overrides: Sequence[str] = ()) -> Iterator[Run]:
    """A run at its newest whole commit.

    Raises:
        UserError: there is no such run, nothing was committed, it is running, or the job asked for is
            another one.
        RunFault: its store does not answer.
    """
    path = folder / _JOB
    if not path.is_file():
        raise UserError(f"got RUN={str(folder)!r}, which has no job.yaml; want a run's folder; name one like runs/demo")
    job = load_job(path, overrides)
    nothing = UserError(
        f"{folder}: got no whole commit, as nothing was trained; want one to go on from; start again: "
        f"rl-motion train {path}"
    )
    if not (folder / _COMMITS).is_dir():
        raise nothing
    with held(folder):
        commit = Commits(folder / _COMMITS, job.runtime.keep_commits).newest()
        if commit is None:
            raise nothing
        changes = resuming.changes(commit.manifest, load_job(path), job)
        resuming.refuse(changes, str(folder))
        yield Run(folder, job, commit, _store(job, folder.name), changes.free)


def fetch(uri: str, out: Path) -> Path:
    """Rebuild a run's folder in DIR from a store: its job, its newest whole commit, the best one, and all rows.

    Args:
        uri: of the run: the store's, and the run's name as its last part.
        out: DIR.

    Returns:
        The folder, there as a whole or not at all.

    Raises:
        UserError: there is no such run, or its folder is there already.
        RunFault: the store does not answer.
    """
    where, name = run_in(uri)
    folder, partial = out / name, out / f".fetching-{name}"
    if folder.exists():
        raise UserError(f"got {folder}, which is there already; want a new place; resume that folder, or choose --out")
    store = open_store(where, name)
    newest = store.newest()
    if newest is None:
        raise UserError(f"got RUN={uri}, which holds no whole commit; want a run; check the URI")
    manifest = newest.manifest
    made = missing_folders(out)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_synced(partial / _JOB, store.job())
        JsonlTracker(partial / _ROWS).replace(store.rows(manifest.iteration))
        commits = Commits(partial / _COMMITS, keep=2)
        if manifest.best is not None and manifest.best.iteration < manifest.iteration:
            best = store.read(manifest.best.iteration)
            if best is not None:
                commits.write(best.manifest, best.files)
        commits.write(manifest, newest.files)
        partial.rename(folder)
        sync_folder(out)
    except FileNotFoundError as error:
        raise UserError(f"got RUN={uri}, which lacks a file ({error}); want a whole run; check the URI") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)
    return folder


def discard(run: Run) -> None:
    """Remove the folder of a new run that never got as far as a commit.

    Raises:
        ValueError: the run has committed, or was there before.
    """
    if run.iterations is not None:
        raise ValueError(f"got {run.folder}, which has {run.iterations} iterations; want a new run; keep it")
    shutil.rmtree(run.folder, ignore_errors=True)


def _store(job: Job, name: str) -> Store | None:
    uri = job.runtime.commits_uri
    return None if uri is None else open_store(uri, name, job.runtime.keep_commits)


def _fresh(out: Path, job: Job) -> tuple[Path, Store | None]:
    for number in range(1, 100_000):
        folder = out / (job.name if number == 1 else f"{job.name}-{number}")
        if folder.exists():
            continue
        store = _store(job, folder.name)
        if store is not None and store.taken:
            continue
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder, store
    raise UserError(f"got 100000 runs named {job.name!r} in {out}; want another name; set `name` in the job")
