"""Whether runs can be written where they are to lie: whole files, synced, locked, with room."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from rl_motion.runtime.doctor.findings import Case, Finding, failed, fine, size, skipped
from rl_motion.tracking.files import missing_folders, remove_empty, sync_folder, write_synced

ROOM_BYTES = 1_000_000_000
"""For logs, pages and MLflow's database, beside the commits."""
_COMMIT_ADAPTERS = 6
"""A commit holds the adapter twice (published, learner's), Adam's moments, the average, and some more."""
_SLOW_SYNC_S = 5.0


def check_storage(case: Case) -> Finding:
    """Leaves everything as it was."""
    new = missing_folders(case.out)
    try:
        case.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=case.out) as folder:
            began = time.perf_counter()
            trouble = _replaced(Path(folder)) or _locked(Path(folder))
            seconds = time.perf_counter() - began
        free = shutil.disk_usage(case.out).free
    except OSError as error:
        return failed(f"{error.strerror!r} in {case.out}", "a folder that can be written", "choose another --out")
    finally:
        remove_empty(new)
    commits = case.job.runtime.keep_commits * _COMMIT_ADAPTERS * (case.adapter_bytes or 0)
    if trouble is not None:
        return trouble
    if free < ROOM_BYTES + commits:
        return failed(
            f"{size(free)} free in {case.out}",
            f"{size(ROOM_BYTES + commits)}",
            "make room, choose another --out, or lower runtime.keep_commits",
        )
    if seconds > _SLOW_SYNC_S:
        return failed(
            f"{seconds:.1f} s for writing and syncing two small files in {case.out}",
            f"less than {_SLOW_SYNC_S:.0f} s, as every iteration is synced",
            "choose a faster disk for --out",
        )
    return fine(f"{case.out}: writes, syncs and locks in {seconds:.2g} s, {size(free)} free")


def _replaced(folder: Path) -> Finding | None:
    """A file that takes another's place is there as a whole, and a folder can be renamed."""
    for content in (b"old", b"new"):
        write_synced(folder / "half", content)
        (folder / "half").replace(folder / "whole")
    write_synced(folder / ".writing" / "file", b"new")
    (folder / ".writing").rename(folder / "commit")
    sync_folder(folder)
    if (folder / "whole").read_bytes() == b"new" and (folder / "commit" / "file").read_bytes() == b"new":
        return None
    return failed(
        f"a file system that loses what is renamed ({folder.parent})", "renames that are whole", "choose another --out"
    )


def _locked(folder: Path) -> Finding | None:
    """A lock keeps out whoever comes second."""
    first, second = (os.open(folder / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
    finally:
        os.close(first)
        os.close(second)
    return failed(
        f"a file system without locks ({folder.parent})",
        "locks, or two processes may work on one run",
        "mount it with locks (NFS: without `nolock`), or choose another --out",
    )


def check_commits_uri(case: Case) -> Finding:
    """The second place of commits takes a file, gives it back and lets it go."""
    uri = case.job.runtime.commits_uri
    if uri is None:
        return skipped("runtime.commits_uri is not set: commits lie in the run alone")
    from pyarrow import fs

    files, root = fs.FileSystem.from_uri(uri)
    path = f"{root}/.doctor-{uuid.uuid4().hex}"
    files.create_dir(root, recursive=True)
    with files.open_output_stream(path) as stream:
        stream.write(b"whole")
    with files.open_input_stream(path) as stream:
        whole = stream.read() == b"whole"
    files.delete_file(path)
    if not whole:
        return failed("another content than was written", "a file system that keeps what it takes", "choose another")
    return fine("runtime.commits_uri takes a file, gives it back and lets it go")
