"""What a reader of foreign files gives, and what makes one.

A reader never ends because of one bad file: it tells of it in a `FileReport` and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_motion.data.datasets.clips import Clip, FileReport, Statistics
from rl_motion.types import Representation


class BadFile(Exception):
    """Why a file, or a part of it, cannot be used: in words that many files share, and what it is with this one."""

    def __init__(self, reason: str, detail: str) -> None:
        """Takes both."""
        super().__init__(f"{reason} ({detail})")
        self.reason, self.detail = reason, detail

    def report(self, file: str) -> FileReport:
        """Of a file that is left out for it."""
        return FileReport(file, wrong=(self.detail,), left_out=self.reason)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of how to read; a kind passes over what does not concern it.

    names: a map of joint names (`motion/formats/names.py`). fps: of motion whose file does not tell. mirrored: with the
    mirror image of every clip of which is told what it shows.
    """

    names: Path | None = None
    fps: float | None = None
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader found.

    statistics: that come with the data; None: they are computed from its train split. total: clips and reports that
    `entries` gives, about, for a progress bar; None where nobody knows. entries: read as they are asked for. pages:
    files to lie beside the data, by name; asked for after the last entry.
    """

    representation: Representation
    fps: float
    entries: Iterator[Clip | FileReport]
    total: int | None = None
    statistics: Statistics | None = None
    pages: Callable[[], Mapping[str, bytes]] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """says: what it is, for help and errors. recognise: cheap, by names alone; raises nothing. read: raises UserError
    where nothing at all can be read."""

    says: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Options], Source]
