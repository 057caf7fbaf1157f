"""A run's commits and rows on any file system that PyArrow knows, beside those on disk: enough to go on elsewhere.

    <uri>/<run>/job.yaml  rows/00000011.json  commits/00000012/manifest.json, and the commit's other files

Object stores cannot rename. So a commit's files come first and its manifest last: without one there is no commit, only
what an upload left, which goes with the next. Whoever reads compares every file with its hash in the manifest; one
that was written by half makes a damaged commit, and the one before is read. A row is there before the commit that
counts it. Why so: docs/adr/0007-commits-in-a-store.md.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

from rl_motion.config import RunFault, UserError
from rl_motion.runtime.commit import MANIFEST, Commit, Manifest, seal, surplus, unseal
from rl_motion.runtime.store_uri import check_uri
from rl_motion.tracking.jsonl import ITERATION
from rl_motion.types import Metrics

_JOB, _ROWS, _COMMITS = "job.yaml", "rows", "commits"
_FLAT = frozenset({"abfs", "gcs", "s3"})
"""File systems without folders that would have to be made."""
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between tries, beside PyArrow's own: a minute in all."""
_AT_ONCE = 16
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Store:
    """One run's folder in a store. For one process at a time: there is no lock, but another's commits are noticed."""

    def __init__(self, filesystem: Any, root: str, uri: str, keep: int) -> None:
        """Use `open_store`.

        Args:
            filesystem: PyArrow's.
            root: the run's folder in it.
            uri: the store's, for messages.
            keep: the last so many commits, and the best.
        """
        self._filesystem = filesystem
        self._root = root
        self._uri = uri
        self._keep = keep

    @property
    def taken(self) -> bool:
        """Whether there is anything."""
        return bool(self._below("", recursive=False))

    def newest(self) -> Commit | None:
        """The newest commit that is whole; warns about those that are not."""
        found = (self.read(iteration) for iteration in sorted(self._commits()[1], reverse=True))
        return next((commit for commit in found if commit is not None), None)

    def read(self, iteration: int) -> Commit | None:
        """This commit; None, with a warning, where it is not there as a whole."""
        try:
            return unseal(lambda name: self._get(f"{_COMMITS}/{iteration:08d}/{name}"))
        except (FileNotFoundError, ValueError) as error:
            _log.warning("commit %08d in %s is damaged (%s)", iteration, self._uri, error)
            return None

    def job(self) -> bytes:
        """The run's job.yaml; raises FileNotFoundError."""
        return self._get(_JOB)

    def rows(self, iterations: int) -> list[Metrics]:
        """The rows of that many iterations; warns about those that are lost."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._row, range(iterations)))
        lost = [iteration for iteration, row in enumerate(found) if row is None]
        if lost:
            _log.warning("%s lacks the metrics of iterations %s", self._uri, lost[:20])
        return [row for row in found if row is not None]

    def catch_up(self, job: bytes, rows: Iterable[Metrics], commits: Sequence[Commit]) -> None:
        """Send what the run's folder has and the store lacks.

        Args:
            job: job.yaml.
            rows: all of metrics.jsonl.
            commits: the newest, and before it the best where that is another.

        Raises:
            UserError: the store holds another run of this name, or has gone further with this one.
            RunFault: the store does not answer.
        """
        here, there = commits[-1].manifest, self.newest()
        reached = there.manifest.iteration if there else 0
        if there and there.manifest.run_id != here.run_id:
            raise UserError(
                f"runtime.commits_uri: got {self._uri}, where another run of this name is; want a place of its own; "
                "give another URI"
            )
        if reached > here.iteration:
            raise UserError(
                f"got a run of {here.iteration} iterations, which has {reached} in {self._uri}; want the one that is "
                "further, as it went on elsewhere or this folder was damaged; resume it from the store, into another "
                "folder: use rl-motion resume URI/RUN --out DIR"
            )
        known = {PurePosixPath(path).stem for path in self._below(_ROWS)}
        numbers, _ = self._commits()
        self._remove(n for n in numbers if n > reached)  # damaged: `newest` went past them
        missing = [row for row in rows if row[ITERATION] >= reached or f"{int(row[ITERATION]):08d}" not in known]
        self._put(_JOB, job)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.add_row, missing))
        for commit in commits:
            if commit.manifest.iteration not in self._commits()[1]:
                self.write(commit.manifest, commit.files)

    def add_row(self, row: Metrics) -> None:
        """Send a row; its commit comes after it."""
        self._put(f"{_ROWS}/{int(row[ITERATION]):08d}.json", json.dumps(row, sort_keys=True).encode())

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Send a commit, then remove what is neither among the last `keep` nor the best, and what uploads left.

        Raises:
            RunFault: the store does not answer, or another process works on the run.
        """
        _, whole = self._commits()
        if whole and max(whole) > manifest.iteration:
            raise RunFault(
                f"got {max(whole)} iterations in {self._uri} where this process made {manifest.iteration}; want one "
                "process to work on a run; end the other, then resume the one that is further"
            )
        text, folder = seal(manifest, files), _folder(manifest.iteration)
        for name, content in {**files, MANIFEST: text}.items():
            self._put(f"{folder}/{name}", content)
        numbers, whole = self._commits()
        self._remove((numbers - whole) | surplus(whole, self._keep, manifest.best))

    def _row(self, iteration: int) -> Metrics | None:
        try:
            row = json.loads(self._get(f"{_ROWS}/{iteration:08d}.json"))
            sound = row[ITERATION] == iteration and all(isinstance(value, float | int) for value in row.values())
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
            return None
        return row if sound else None

    def _commits(self) -> tuple[set[int], set[int]]:
        """All iterations of which there is anything, and those with a manifest."""
        paths = [PurePosixPath(path).parts for path in self._below(_COMMITS)]
        named = [parts for parts in paths if len(parts[0]) == 8 and parts[0].isdecimal()]
        return {int(parts[0]) for parts in named}, {int(parts[0]) for parts in named if parts[1:] == (MANIFEST,)}

    def _remove(self, iterations: Iterable[int]) -> None:
        for iteration in iterations:
            folder = self._path(_folder(iteration))
            # The manifest first: what is left, should this be interrupted, is no commit.
            for remove, path in (
                (self._filesystem.delete_file, f"{folder}/{MANIFEST}"),
                (self._filesystem.delete_dir, folder),
            ):
                with suppress(FileNotFoundError):  # or a try whose answer was lost did it
                    self._call(remove, path, absent=True)

    def _below(self, folder: str, *, recursive: bool = True) -> list[str]:
        """Paths of all files and folders in a folder, as seen from it."""
        from pyarrow.fs import FileSelector

        base = self._path(folder)
        select = FileSelector(base, recursive=recursive, allow_not_found=True)
        found = self._call(self._filesystem.get_file_info, select)
        return [info.path.removeprefix(base).strip("/") for info in found]

    def _get(self, name: str) -> bytes:
        def read(path: str) -> bytes:
            with self._filesystem.open_input_stream(path, compression=None) as file:
                return bytes(file.read())

        return self._call(read, self._path(name), absent=True)

    def _put(self, name: str, content: bytes) -> None:
        def write(path: str) -> None:
            if self._filesystem.type_name not in _FLAT:
                self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(path, compression=None) as file:
                file.write(content)

        self._call(write, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _call(self, action: Callable[[Any], T], argument: Any, *, absent: bool = False) -> T:
        """Try until it works, for a minute; `absent`: FileNotFoundError is an answer.

        Raises:
            RunFault: it never did.
        """
        for pause_s in (*_PAUSES_S, None):
            try:
                return action(argument)
            except OSError as error:
                if absent and isinstance(error, FileNotFoundError):
                    raise
                if pause_s is None:
                    raise _away(self._uri, error) from error
                _log.warning("%s: %s; trying again in %g s", self._uri, _brief(error), pause_s)
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def open_store(uri: str, run: str, keep: int = 1) -> Store:
    """The folder of this run in a store.

    Raises:
        UserError: the URI is none, or names a bucket or folder that is not there.
        RunFault: the store does not answer.
    """
    from pyarrow.fs import FileSystem, FileType

    check_uri(uri)
    try:
        filesystem, root = FileSystem.from_uri(uri)
        outermost = root.partition("/")[0] if filesystem.type_name in _FLAT else root
        there = filesystem.get_file_info(outermost).type == FileType.Directory
    except OSError as error:
        raise _away(uri, error) from error
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"runtime.commits_uri: got {uri}, which PyArrow does not read ({_brief(error)}); want a URI like "
            "s3://bucket/folder; correct it"
        ) from None
    if not there:
        raise UserError(
            f"runtime.commits_uri: got {uri}, where {outermost!r} is no bucket or folder; want one that is there; make "
            "it, mount it, or correct the URI"
        )
    return Store(filesystem, f"{root.rstrip('/')}/{run}", uri, keep)


def _folder(iteration: int) -> str:
    return f"{_COMMITS}/{iteration:08d}"


def _away(uri: str, error: Exception) -> RunFault:
    return RunFault(
        f"runtime.commits_uri: got no answer from {uri} ({_brief(error)}); want a store that can be read and written; "
        "mend that and resume, or resume with --set runtime.commits_uri=null"
    )


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
