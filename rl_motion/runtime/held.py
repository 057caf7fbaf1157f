"""A run's folder is held by one process at a time; whoever looks can tell whether it still is.

The lock goes with the process, however that ends. This module needs neither torch nor ray.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_motion.config.errors import UserError
from rl_motion.runtime.logs import logging_to

_PATIENCE_S = 1.0
"""Longer than anybody takes to look whether a run is held."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the run's lock and write its logs.

    Raises:
        UserError: another process holds it.
    """
    (folder / "logs").mkdir(exist_ok=True)
    descriptor = os.open(_lock(folder), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _taken(descriptor, fcntl.LOCK_EX, _PATIENCE_S):
            raise UserError(
                f"got {folder}, a run that another process is working on; want one at a time; wait for it or end it"
            )
        with logging_to(folder / "logs", folder.name):
            yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process is working on the run, on this machine or another that shares the disk and its locks."""
    try:
        descriptor = os.open(_lock(folder), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _taken(descriptor, fcntl.LOCK_SH, 0.0)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> Path:
    return folder / "logs" / "lock"


def _taken(descriptor: int, kind: int, patience_s: float) -> bool:
    """Try to lock for so long; closing the descriptor unlocks."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True
