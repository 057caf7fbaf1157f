"""A data set as it was written: what is in it at once, its motions memory-mapped when they are asked for.

Legend: N clips of a split, F frames, D features of a frame.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rl_motion.config import UserError
from rl_motion.config.errors import nearest
from rl_motion.data.datasets import arrow
from rl_motion.data.datasets.clips import SHAPES, SPLIT_NAME, Caption, Clip, FileReport, Statistics
from rl_motion.data.datasets.statistics import read_statistics
from rl_motion.tracking.files import read_whole
from rl_motion.types import Representation

FILE, TEXTS, STATISTICS, REPORT = "dataset.json", "texts.parquet", "statistics.safetensors", "report.json"
MOST_NAME = 255
"""Characters of a data set's name."""
_MOST_BYTES = 1 << 28
"""Of dataset.json and report.json."""

_Count = Annotated[int, Field(ge=0, lt=2**40)]
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitInfo(_Value):
    """What a split holds. frames: of all its clips; shortest, longest: of one."""

    clips: _Count
    frames: _Count
    captions: _Count
    shortest: _Count
    longest: _Count


class PartInfo(_Value):
    """A Parquet file of the data set."""

    file: Annotated[str, Field(pattern=r"^(motions-\d{5,}|texts)\.parquet$")]
    rows: _Count
    sha256: _Hash


class DatasetInfo(_Value):
    """What dataset.json says.

    kind: of what was imported. joints: that the features describe. left_out: how many files, clips or captions are not
    in the data set, by reason. statistics: whether mean and deviation came with the data or are of its train split.
    sha256: of the content, however it is packed.
    """

    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
    representation: Representation
    fps: Annotated[float, Field(gt=0, le=arrow.MOST_FPS, allow_inf_nan=False)]
    joints: _Count
    kind: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    splits: dict[Annotated[str, Field(pattern=f"^{SPLIT_NAME.pattern}$")], SplitInfo]
    left_out: dict[str, _Count]
    statistics: Literal["given", "train"]
    motions: Annotated[list[PartInfo], Field(min_length=1)]
    texts: PartInfo
    sha256: _Hash


class Dataset:
    """A folder that `write_dataset` made. Pickles as its path; workers open it themselves."""

    def __init__(self, directory: Path, info: DatasetInfo) -> None:
        """Use `open`."""
        self.directory, self.info = directory, info
        self._maps: dict[int, arrow.Mapped] = {}
        columns = ("id", "split", "trial", "mirrored", "frames", "captions")
        schema = arrow.motions_schema()
        parts = [arrow.read_columns(directory / part.file, schema, columns) for part in info.motions]
        self._starts_P = np.cumsum([0, *(len(part) for part in parts)])
        import pyarrow as pa

        self._index = pa.concat_tables(parts).combine_chunks()
        self._frames_N: NDArray[np.int32] = self._index.column("frames").to_numpy()
        said_N = self._index.column("captions").to_numpy().astype(np.int64)
        self._texts_N = np.concatenate([[0], np.cumsum(said_N)])
        self._check_index(said_N)

    @classmethod
    def open(cls, directory: str | Path) -> Dataset:
        """Read what is in a data set, without its motions and captions.

        Raises:
            UserError: it is none, is of another version, or its files do not belong together.
        """
        directory = Path(directory)
        return cls(directory, read_info(directory))

    def __reduce__(self) -> tuple[Any, ...]:
        """As its path."""
        return Dataset.open, (self.directory,)

    @property
    def features_D(self) -> int:
        """Features of a frame."""
        return SHAPES[self.info.representation].features_D

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and deviation of the features; raises UserError where their file is broken."""
        return read_statistics(self.directory / STATISTICS, self.info.representation)

    def split(self, name: str) -> ClipView:
        """The clips of a split, in the order in which they were written.

        Raises:
            UserError: there is no such split.
        """
        if name not in self.info.splits:
            raise UserError(
                f"got the split {name[:60]!r} of {self.directory}; want one of {', '.join(self.info.splits)}; "
                f"{nearest(name, self.info.splits, 'choose one of these')}"
            )
        import pyarrow.compute as pc

        return ClipView(self, np.flatnonzero(pc.equal(self._index.column("split"), name).to_numpy()))

    def report(self) -> list[FileReport]:
        """What was wrong with the files that were imported, and what was guessed; raises UserError."""
        path = self.directory / REPORT
        content = _read_json(path)
        try:
            return [
                FileReport(one["file"], tuple(one["wrong"]), tuple(one["guessed"]), one["left_out"])
                for one in content["files"]
            ]
        except (KeyError, TypeError):
            arrow.refuse(path, "which is no report")

    def check(self) -> None:
        """Read every file as a whole.

        Raises:
            UserError: one is not as it was written.
        """
        for part in (*self.info.motions, self.info.texts):
            path = self.directory / part.file
            if arrow.sha256_of(path) != part.sha256:
                arrow.refuse(path, "which is not the file that was written (its sha256 is another)")
        _ = self.statistics
        self.report()

    def frames_of(self, rows_N: NDArray[np.int64]) -> NDArray[np.int32]:
        """Frames of clips, by their place in the data set."""
        return self._frames_N[rows_N]

    def trials_of(self, rows_N: NDArray[np.int64]) -> list[str]:
        """Recordings of clips, by their place in the data set."""
        found: list[str] = self._index.column("trial").take(rows_N).to_pylist()
        return found

    def clip(self, row: int) -> Clip:
        """The clip at a place of the data set, its features a view of the mapped file.

        Raises:
            UserError: its file is not as it was written.
        """
        known = {name: self._index.column(name)[row].as_py() for name in ("id", "split", "trial", "mirrored")}
        return Clip(
            id=known["id"],
            split=known["split"],
            trial=known["trial"],
            features_FD=self.features(row),
            captions=self.captions(row),
            mirrored=known["mirrored"],
        )

    def features(self, row: int) -> NDArray[np.float32]:
        """Features [F, D] of the clip at a place of the data set: read-only, mapped."""
        part = int(np.searchsorted(self._starts_P, row, side="right")) - 1
        batch, at = self._mapped(part).batch_of(row - int(self._starts_P[part]))
        column = batch.column(0)
        first, last = (int(edge) for edge in column.offsets[at : at + 2].to_numpy())
        frames, features_D = int(self._frames_N[row]), self.features_D
        values = column.values
        if last - first != frames * features_D or not 0 <= first <= last <= len(values):
            arrow.refuse(self.directory / self.info.motions[part].file, "with clips that are not as long as they say")
        flat: NDArray[np.float32] = values.to_numpy(zero_copy_only=True)[first:last]
        return flat.reshape(frames, features_D)

    def captions(self, row: int) -> tuple[Caption, ...]:
        """Captions of the clip at a place of the data set."""
        first, last = int(self._texts_N[row]), int(self._texts_N[row + 1])
        if first == last:
            return ()
        batch, at = self._mapped(-1).batch_of(first)
        rows = batch.slice(at, last - first).to_pylist()
        return tuple(Caption(one["caption"], tuple(one["tokens"]), one["start_s"], one["end_s"]) for one in rows)

    def _mapped(self, part: int) -> arrow.Mapped:
        """Of the motions' part of that number; -1: of the captions."""
        if part not in self._maps:
            info = self.info.texts if part < 0 else self.info.motions[part]
            schema = arrow.texts_schema() if part < 0 else arrow.motions_schema()
            names = ("caption", "tokens", "start_s", "end_s") if part < 0 else ("features",)
            self._maps[part] = arrow.Mapped(self.directory / info.file, info.sha256, schema, names)
        return self._maps[part]

    def _check_index(self, said_N: NDArray[np.int64]) -> None:
        """Refuse parts that do not belong together."""
        info = self.info
        counted = dict.fromkeys(info.splits, 0)
        for count in self._index.column("split").value_counts().to_pylist():
            counted[count["values"]] = count["counts"]
        fits = (
            np.diff(self._starts_P).tolist() == [part.rows for part in info.motions]
            and counted == {name: split.clips for name, split in info.splits.items()}
            and bool((self._frames_N > 0).all() and (said_N >= 0).all())
            and int(self._texts_N[-1]) == info.texts.rows == sum(arrow.row_groups(self.directory / info.texts.file))
        )
        if not fits:
            arrow.refuse(self.directory, f"whose files do not hold what {FILE} says")


class ClipView(Sequence[Clip]):
    """Clips of a data set; lengths and captions come without touching the motion."""

    def __init__(self, dataset: Dataset, rows_N: NDArray[np.int64]) -> None:
        """Those at these places of the data set."""
        self.dataset, self.rows_N = dataset, rows_N

    def __len__(self) -> int:
        """N."""
        return len(self.rows_N)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipView: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipView:
        """A clip, or a view of some."""
        if isinstance(index, slice):
            return ClipView(self.dataset, self.rows_N[index])
        return self.dataset.clip(int(self.rows_N[index]))

    def __iter__(self) -> Iterator[Clip]:
        """In their order."""
        return (self.dataset.clip(int(row)) for row in self.rows_N)

    @property
    def frames_N(self) -> NDArray[np.int32]:
        """Frames of every clip."""
        return self.dataset.frames_of(self.rows_N)

    @property
    def trials(self) -> list[str]:
        """The recording of every clip."""
        return self.dataset.trials_of(self.rows_N)

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Captions of a clip."""
        return self.dataset.captions(int(self.rows_N[index]))

    def where(self, keep_N: NDArray[np.bool_]) -> ClipView:
        """Those of the clips for which this says so."""
        return ClipView(self.dataset, self.rows_N[keep_N])


def read_info(directory: Path) -> DatasetInfo:
    """What dataset.json says; raises UserError."""
    path = directory / FILE
    if not path.is_file():
        raise UserError(
            f"got {directory}, which holds no {FILE}; want a data set; make one: rl-motion data import PATH --out DIR"
        )
    content = _read_json(path)
    if isinstance(content, dict) and content.get("version") != arrow.VERSION:
        raise UserError(
            f"{path}: got version {str(content.get('version'))[:40]}; want {arrow.VERSION}; import the data again, or "
            "install the rl-motion that wrote it"
        )
    try:
        info = DatasetInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        arrow.refuse(path, f"in which {where or 'it'} is not as it should be ({first['msg'][:200]})")
    missing = [part.file for part in (*info.motions, info.texts) if not (directory / part.file).is_file()]
    if missing:
        arrow.refuse(directory, f"which lacks {', '.join(missing[:3])}")
    return info


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_whole(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        arrow.refuse(path, f"which cannot be read ({str(error)[:200]})")
