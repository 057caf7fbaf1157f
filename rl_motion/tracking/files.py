"""Files that are there as a whole or as they were before, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal


def read_whole(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        OSError: it cannot be read, is larger, or is no file: a pipe would wait, a device may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "a folder, a pipe or a device")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes")
    return content


def write_synced(path: Path, content: bytes, mode: Literal["wb", "ab"] = "wb") -> None:
    """Write a file, or add to it, and wait until the disk has it.

    Raises:
        OSError: there is no room, or no right to write; it names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path), path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or as it was before: readers never see half of it."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder that belong together: what fails leaves all of them, and the folder, as they were.

    Raises:
        OSError: there is no room, no right to write, or a folder in a file's place.
    """
    folder = next(iter(contents)).parent
    made = missing_folders(folder)
    partial = {path: path.with_name(f"{path.name}.partial") for path in contents}
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            write_synced(partial[path], content)
        for path, whole in partial.items():
            whole.replace(path)
    except BaseException:  # Ctrl-C too
        for half in partial.values():
            with suppress(OSError):
                half.unlink()
        remove_empty(made)
        raise
    sync_folder(folder)


def missing_folders(folder: Path) -> list[Path]:
    """This folder and those above it that are not there yet, innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: Sequence[Path]) -> None:
    """Those of these folders, innermost first, that are there and hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with _named(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error says which file or folder: `open` names it, `write` and `fsync` do not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
