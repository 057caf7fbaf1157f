"""Writing a data set: clips come one by one, and its folder is there as a whole or not at all.

DIR/dataset.json              what is in it, how much of it, who was left out and why, hashes
DIR/motions-00000.parquet ... clips: id, split, trial, mirrored, frames, captions (how many), features
DIR/texts.parquet             captions: motion, split, frames, caption, tokens, start_s, end_s
DIR/statistics.safetensors    mean, std
DIR/report.json               by input file: what was wrong, what was guessed; some kinds add pages of their own
DIR/_arrow/                   made by the first who reads: the same columns for memory-mapping; may be deleted
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rl_motion.config import UserError
from rl_motion.data.datasets import arrow
from rl_motion.data.datasets.clips import SHAPES, Clip, FileReport, Statistics, caption_fault, fault_of
from rl_motion.data.datasets.dataset import (
    FILE,
    MOST_NAME,
    REPORT,
    STATISTICS,
    TEXTS,
    Dataset,
    DatasetInfo,
    PartInfo,
    SplitInfo,
)
from rl_motion.data.datasets.statistics import RunningStatistics, statistics_bytes, statistics_fault
from rl_motion.tracking.files import missing_folders, remove_empty, sync_folder, write_synced
from rl_motion.types import Representation

GROUP_BYTES, SHARD_BYTES = 8 << 20, 256 << 20
"""Features that are written, and later mapped, together; features of a file."""
_GROUP_ROWS = 4096
_MOST_BYTES_OF_NAME = 200
"""Of the folder's: the one that it is written under, beside it, has 26 more, and file systems allow 255."""
_MOST_WORDS = 500
"""Characters of a line of the report."""


def write_dataset(  # noqa: PLR0913 - what is known of the data beside its clips
    directory: Path,
    entries: Iterable[Clip | FileReport],
    *,
    representation: Representation,
    fps: float,
    kind: str,
    name: str | None = None,
    statistics: Statistics | None = None,
    pages: Callable[[], Mapping[str, bytes]] | None = None,
    watch: Callable[[], None] | None = None,
) -> Dataset:
    """Write a data set of clips as they come, in constant memory.

    What cannot be in one (`clips.fault_of`: NaN, another width, an id that came before) is left out, counted and told
    of in the report; a caption that cannot be (`clips.caption_fault`) is left out alone.

    Args:
        directory: that is not there yet.
        entries: clips, and reports of the files that they come from, in any order.
        representation: of all clips.
        fps: of all clips.
        kind: of what was imported, a name of `kinds.KINDS`.
        name: of the data set; the directory's name where none is given.
        statistics: that come with the data; None: of the split `train` alone.
        pages: files to lie beside the data, by name; asked for after the last entry.
        watch: called after every entry.

    Raises:
        UserError: the directory is there already or cannot be one (`refuse_place`), there is no clip that can be used,
            or, without statistics, none in `train`. Nothing is left of the directory then, nor after any other
            exception, Ctrl-C included.
    """
    about = _About(representation, fps, kind, _printable(name or directory.absolute().name)[:MOST_NAME])
    if statistics is not None and (fault := statistics_fault(statistics, about.features_D)):
        raise ValueError(f"statistics: {fault}")
    refuse_place(directory)
    with _appearing(directory) as folder:
        writer = _Writer(folder, about)
        for entry in entries:
            writer.add(entry)
            if watch is not None:
                watch()
        parts = writer.close()
        _refuse_too_little(writer, own_statistics=statistics is not None)
        for page, content in (pages() if pages is not None else {}).items():
            write_synced(folder / Path(page).name, content)
        known = statistics if statistics is not None else writer.statistics.result(representation)
        write_synced(folder / STATISTICS, statistics_bytes(known))
        write_synced(
            folder / REPORT, _json({"version": arrow.VERSION, "files": [asdict(one) for one in writer.reports]})
        )
        info = _info(writer, parts, "given" if statistics is not None else "train")
        write_synced(folder / FILE, _json(info.model_dump(mode="json")))
        sync_folder(folder)
    return Dataset.open(directory)


@dataclass(frozen=True, slots=True)
class _About:
    """What is known of a data set before its clips."""

    representation: Representation
    fps: float
    kind: str
    name: str

    @property
    def features_D(self) -> int:
        return SHAPES[self.representation].features_D

    @property
    def in_files(self) -> dict[str, Any]:
        """What each of its Parquet files says of itself."""
        return {"version": arrow.VERSION, "representation": str(self.representation), "fps": self.fps}


def _refuse_too_little(writer: _Writer, *, own_statistics: bool) -> None:
    """Refuse clips that make no data set; raises UserError."""
    if not writer.splits:
        raise UserError(
            f"got nothing of which a data set can be made ({_most(writer.left_out)}); want one clip at least; "
            "mend what is named"
        )
    if not own_statistics and not writer.statistics.frames:
        raise UserError(
            f"got clips of {', '.join(sorted(writer.splits))} alone; want some of train, over which mean and "
            "deviation are computed; bring them, or the data's own mean and deviation"
        )


def _info(
    writer: _Writer, parts: tuple[list[PartInfo], PartInfo], statistics: Literal["given", "train"]
) -> DatasetInfo:
    """What the folder says of itself."""
    motions, texts = parts
    about = writer.about
    return DatasetInfo(
        version=arrow.VERSION,
        name=about.name,
        representation=about.representation,
        fps=about.fps,
        joints=SHAPES[about.representation].joints_J,
        kind=about.kind,
        splits={split: counted.info for split, counted in sorted(writer.splits.items())},
        left_out=dict(sorted(writer.left_out.items())),
        statistics=statistics,
        motions=motions,
        texts=texts,
        sha256=writer.digest.hexdigest(),
    )


def refuse_place(directory: Path) -> None:
    """Raise UserError where a data set cannot be written: something is there, or its name is none that readers take."""
    try:
        size = len(directory.absolute().name.encode())
        str(directory.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"got {directory}, a path that is no UTF-8; want one that is, as Parquet's readers take no other; choose "
            "another place"
        ) from None
    if size > _MOST_BYTES_OF_NAME:
        raise UserError(
            f"got {directory}, a name of {size} bytes; want at most {_MOST_BYTES_OF_NAME}; choose a shorter one"
        )
    refuse_existing(directory)


def refuse_existing(directory: Path) -> None:
    """Raise UserError where a data set is to be written and something is already."""
    if os.path.lexists(directory):
        raise UserError(
            f"got {directory}, which is there already; want a new place; choose one, or remove it (rm -r) to write it "
            "anew"
        )


@dataclass
class _Counted:
    clips: int = 0
    frames: int = 0
    captions: int = 0
    shortest: int = 0
    longest: int = 0

    @property
    def info(self) -> SplitInfo:
        return SplitInfo(**asdict(self))

    def add(self, clip: Clip) -> None:
        frames = len(clip.features_FD)
        self.shortest = min(self.shortest or frames, frames)
        self.longest = max(self.longest, frames)
        self.clips += 1
        self.frames += frames
        self.captions += len(clip.captions)


class _Writer:
    """Rows gather until they fill a row group, row groups until they fill a file."""

    def __init__(self, folder: Path, about: _About) -> None:
        self.splits: dict[str, _Counted] = {}
        self.left_out: Counter[str] = Counter()
        self.reports: list[FileReport] = []
        self.statistics = RunningStatistics(about.features_D)
        self.digest = hashlib.sha256(json.dumps(about.in_files, sort_keys=True).encode())
        self.about = about
        self._folder = folder
        self._ids: set[str] = set()
        self._clips: list[Clip] = []
        self._bytes = 0
        self._texts = _Part(folder / TEXTS, arrow.texts_schema(), about.in_files)
        self._shard: _Part | None = None
        self._shard_bytes = 0
        self._shards: list[PartInfo] = []

    def add(self, entry: Clip | FileReport) -> None:
        if isinstance(entry, FileReport):
            self._tell(entry)
            return
        fault = fault_of(entry, self.about.features_D)
        if not fault and entry.id in self._ids:
            fault = "an id that another clip has"
        if fault:
            self._tell(FileReport(entry.id[:200], left_out=fault))
            return
        bad = [fault for caption in entry.captions if (fault := caption_fault(caption))]
        if bad:
            self._tell(FileReport(entry.id, wrong=tuple(bad)))
            entry = replace(entry, captions=tuple(c for c in entry.captions if not caption_fault(c)))
        self._ids.add(entry.id)
        self.splits.setdefault(entry.split, _Counted()).add(entry)
        if entry.split == "train":
            self.statistics.add(entry.features_FD)
        said = [asdict(caption) for caption in entry.captions]
        self.digest.update(_json([entry.id, entry.split, entry.trial, entry.mirrored, said, len(entry.features_FD)]))
        self.digest.update(entry.features_FD.tobytes())
        self._clips.append(entry)
        self._bytes += entry.features_FD.nbytes
        if self._bytes >= GROUP_BYTES or len(self._clips) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> tuple[list[PartInfo], PartInfo]:
        self._flush()
        if self._shard is not None:
            self._shards.append(self._shard.close())
        return self._shards, self._texts.close()

    def _tell(self, report: FileReport) -> None:
        told = FileReport(
            _printable(report.file),
            tuple(map(_printable, report.wrong)),
            tuple(map(_printable, report.guessed)),
            _printable(report.left_out),
        )
        self.reports.append(told)
        if told.left_out:
            self.left_out[told.left_out] += 1

    def _flush(self) -> None:
        if not self._clips:
            return
        if self._shard is not None and self._shard_bytes >= SHARD_BYTES:
            self._shards.append(self._shard.close())
            self._shard = None
        if self._shard is None:
            path = self._folder / f"motions-{len(self._shards):05d}.parquet"
            self._shard, self._shard_bytes = _Part(path, arrow.motions_schema(), self.about.in_files), 0
        self._shard.write(_motion_columns(self._clips))
        self._texts.write(_text_columns(self._clips))
        self._shard_bytes += self._bytes
        self._clips, self._bytes = [], 0


class _Part:
    """A Parquet file that is being written, a row group at a time."""

    def __init__(self, path: Path, schema: Any, about: dict[str, Any]) -> None:
        import pyarrow.parquet as pq

        self._path, self._schema = path, schema.with_metadata(arrow.about(about))
        packed = [f"{field.name}.list.element" for field in schema if field.name == "features"]
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            write_page_checksum=True,
            use_byte_stream_split=packed,  # floats of one kind: a tenth smaller
            use_dictionary=[field.name for field in schema if field.name in ("split", "tokens")],
        )
        self._rows = 0

    def write(self, columns: dict[str, Any]) -> None:
        import pyarrow as pa

        table = pa.table(columns, schema=self._schema)
        if len(table):
            self._file.write_table(table, row_group_size=len(table))
            self._rows += len(table)

    def close(self) -> PartInfo:
        self._file.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return PartInfo(file=self._path.name, rows=self._rows, sha256=arrow.sha256_of(self._path))


def _motion_columns(clips: list[Clip]) -> dict[str, Any]:
    import pyarrow as pa

    sizes = [clip.features_FD.size for clip in clips]
    values = np.concatenate([clip.features_FD.reshape(-1) for clip in clips])
    features = pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *sizes]), pa.int32()), pa.array(values), arrow.motions_schema().field("features").type
    )
    return {
        "id": [clip.id for clip in clips],
        "split": [clip.split for clip in clips],
        "trial": [clip.trial for clip in clips],
        "mirrored": [clip.mirrored for clip in clips],
        "frames": [len(clip.features_FD) for clip in clips],
        "captions": [len(clip.captions) for clip in clips],
        "features": features,
    }


def _text_columns(clips: list[Clip]) -> dict[str, Any]:
    rows = [(clip, caption) for clip in clips for caption in clip.captions]
    return {
        "motion": [clip.id for clip, _ in rows],
        "split": [clip.split for clip, _ in rows],
        "frames": [len(clip.features_FD) for clip, _ in rows],
        "caption": [caption.text for _, caption in rows],
        "tokens": [list(caption.tokens) for _, caption in rows],
        "start_s": [caption.start_s for _, caption in rows],
        "end_s": [caption.end_s for _, caption in rows],
    }


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `directory` at the end, or goes with all that is in it.

    It holds a lock as long as its writer lives: what a killed one left behind goes before the next begins.
    """
    parent = directory.absolute().parent
    made = missing_folders(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"got {directory}, whose parent is no folder; want a new place; choose one") from None
    for left in parent.glob(f".{_escaped(directory.name)}.*.partial"):
        _remove_unlocked(left)
    folder = parent / f".{directory.name}.{secrets.token_hex(8)}.partial"
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        refuse_existing(directory)
        folder.rename(directory)
        sync_folder(parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(folder, ignore_errors=True)
        remove_empty(made)
        raise
    finally:
        os.close(lock)


def _remove_unlocked(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _escaped(name: str) -> str:
    from glob import escape

    return escape(name)


def _printable(text: str) -> str:
    """Names of files may hold anything, bytes that are no text too."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_MOST_WORDS])


def _most(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3)) or "no motion at all"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"
