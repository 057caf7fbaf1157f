"""metrics.jsonl: one line per iteration, sorted keys; always written, the source of all other records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rl_motion.tracking.files import write_atomic, write_synced
from rl_motion.types import Metrics

ITERATION = "iteration"
TIME = "time/unix_ms"


class JsonlTracker:
    """A run's rows on disk. Rows carry `iteration` and `time/unix_ms`."""

    def __init__(self, path: Path) -> None:
        """The file need not exist."""
        self.path = path

    def append(self, row: Metrics) -> None:
        """Add a row and wait until the disk has it."""
        write_synced(self.path, _line(row), "ab")

    def rows(self) -> list[Metrics]:
        """All whole rows, in order; a last line that was cut short is left out."""
        return list(_whole_rows(self.path))

    def read(self, offset: int) -> tuple[Metrics, int] | None:
        """The row that starts at this byte, and where the next one starts; None if it is not whole yet."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
        return (json.loads(line), offset + len(line)) if line.endswith(b"\n") else None

    def count_from(self, offset: int) -> int:
        """Whole rows from this byte on."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read().count(b"\n")

    def rewind(self, iteration: int, last: Metrics | None) -> None:
        """Make the file what it was after `iteration` iterations, `last` being the last of its rows.

        A run may have died between its commit and its row, or within a row, or after rows whose commit is
        damaged.
        """
        rows = {row[ITERATION]: row for row in self.rows() if row[ITERATION] < iteration}
        if last is not None:
            rows[last[ITERATION]] = last
        self.replace(rows[key] for key in sorted(rows))

    def replace(self, rows: Iterable[Metrics]) -> None:
        """Make these the file's rows."""
        write_atomic(self.path, b"".join(map(_line, rows)))


def _line(row: Metrics) -> bytes:
    return (json.dumps(row, sort_keys=True) + "\n").encode()


def _whole_rows(path: Path) -> Iterator[Metrics]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(row, dict) and ITERATION in row:
            yield row
