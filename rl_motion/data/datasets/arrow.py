"""Parquet for keeping, Arrow for mapping: the columns of a data set, and a file of either kind made of the other.

Parquet is compressed, so it cannot be memory-mapped. The first to read a file writes its columns once more, as Arrow
IPC, under the Parquet file's hash; everybody after maps that. What was written for another content has another name.

Legend: F frames, D features of a frame.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from rl_motion.config import UserError
from rl_motion.tracking.files import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

MAPS = "_arrow"
"""Folder of the Arrow files, in the data set's own; Arrow and Parquet readers pass over names that begin with `_`."""
KEY = b"rl_motion.dataset"
"""Of a Parquet file's metadata: version, representation and frames per second, as JSON."""
VERSION: Literal[1] = 1
MOST_FPS = 1000
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_CHUNK = 1 << 20


def motions_schema() -> pa.Schema:
    """Of `motions-*.parquet`: a row a clip.

    captions: how many rows it has in texts.parquet. features: F * D values, frame by frame.
    """
    import pyarrow as pa

    text, values = pa.string(), pa.list_(pa.field("element", pa.float32(), nullable=False))
    types = {
        "id": text,
        "split": text,
        "trial": text,
        "mirrored": pa.bool_(),
        "frames": pa.int32(),
        "captions": pa.int32(),
        "features": values,
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def texts_schema() -> pa.Schema:
    """Of `texts.parquet`: a row a caption, in the order of the clips; split and frames are those of its clip."""
    import pyarrow as pa

    text, words = pa.string(), pa.list_(pa.field("element", pa.string(), nullable=False))
    types = {
        "motion": text,
        "split": text,
        "frames": pa.int32(),
        "caption": text,
        "tokens": words,
        "start_s": pa.float64(),
        "end_s": pa.float64(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def about(value: object) -> dict[bytes, bytes]:
    """Metadata that says this of a Parquet file."""
    return {KEY: json.dumps(value, sort_keys=True).encode()}


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_columns(path: Path, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file that has this schema.

    Raises:
        UserError: it cannot be read, has other columns, or misses values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow, schema)
            table = file.read(list(names), use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        refuse(path, f"which cannot be read ({_first_line(error)})")
    _check_whole(path, table)
    return table


def fps_of(path: Path) -> float:
    """Frames per second of a Parquet file of a data set.

    Raises:
        UserError: it is none, or of another version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        said = json.loads((pq.read_schema(path).metadata or {}).get(KEY, b"null"))
        version, fps = said["version"], float(said["fps"])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        refuse(path, f"which says nothing of its frames per second ({_first_line(error)})")
    if version != VERSION or not 0 < fps <= MOST_FPS:
        refuse(path, f"of version {str(version)[:40]}, {fps:g} frames a second")
    return fps


def row_groups(path: Path) -> list[int]:
    """Rows of every row group, which are those of every batch of its map.

    Raises:
        UserError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        refuse(path, f"which cannot be read ({_first_line(error)})")
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


class Mapped:
    """Columns of a Parquet file, memory-mapped: what is read of them takes no memory of the process's own."""

    def __init__(self, path: Path, sha256: str, schema: pa.Schema, names: Sequence[str]) -> None:
        """Makes the map where there is none yet, which reads the file once.

        Args:
            path: the Parquet file.
            sha256: that it must have.
            schema: that it must have.
            names: of the columns.

        Raises:
            UserError: it is broken, or is not the file that was written.
            OSError: there is no room for the map.
        """
        import pyarrow as pa

        self._path, self._sha256, self._schema = path, sha256, schema
        self._own = pa.schema([schema.field(name) for name in names])
        self._rows = row_groups(path)
        self._starts = [0, *accumulate(self._rows)]
        self._file = self._open()
        self._batches: dict[int, Any] = {}

    def batch_of(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and the row's place in it; raises UserError where the map is damaged."""
        import pyarrow as pa

        number = bisect_right(self._starts, row) - 1
        if number not in self._batches:
            try:
                batch = self._file.get_batch(number)
                batch.validate()
            except (pa.ArrowException, OSError) as error:
                self._refuse_map(_first_line(error))
            if batch.num_rows != self._rows[number]:
                self._refuse_map(f"{batch.num_rows} rows in batch {number}")
            self._batches[number] = batch
        return self._batches[number], row - self._starts[number]

    def _open(self) -> Any:
        """The map, made where there is none; one that was cut short is made again."""
        import pyarrow as pa

        for fresh in (False, True):
            path = self._made(fresh)
            try:
                file = pa.ipc.open_file(pa.memory_map(str(path)))
                if file.schema.equals(self._own) and file.num_record_batches == len(self._rows):
                    return file
            except (pa.ArrowException, OSError):
                continue
        self._refuse_map("it was just written")

    def _refuse_map(self, why: str) -> NoReturn:
        raise UserError(
            f"got the map of {self._path}, which cannot be read ({why}); want one that belongs to it; remove the "
            f"folder {MAPS} beside it, which is made again"
        )

    def _made(self, fresh: bool) -> Path:
        """The file of the map: beside the Parquet file, or in the user's cache where nothing may be written there."""
        places = [self._path.parent / MAPS, _cache_home()]
        name = f"{self._sha256[:32]}.arrow"
        found = next((place / name for place in places if (place / name).is_file()), None)
        if found is not None and not fresh:
            return found
        for place in places:
            try:
                place.mkdir(parents=True, exist_ok=True)
                with _locked(place):
                    if fresh or not (place / name).is_file():
                        self._write(place / name)
                return place / name
            except OSError as error:
                if error.errno not in _READ_ONLY or place is places[-1]:
                    raise
        raise AssertionError("the last place raises")

    def _write(self, target: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if sha256_of(self._path) != self._sha256:
            refuse(self._path, "which is not the file that was written (its sha256 is another)")
        partial = target.with_name(f"{target.name}.partial")
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                _check_schema(self._path, file.schema_arrow, self._schema)
                with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, self._own) as out:
                    for number in range(file.num_row_groups):
                        table = file.read_row_group(number, self._own.names, use_threads=False)
                        _check_whole(self._path, table)
                        for batch in table.cast(self._own).combine_chunks().to_batches():
                            out.write_batch(batch)
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(target)
            sync_folder(target.parent)
        except pa.ArrowException as error:
            partial.unlink(missing_ok=True)
            refuse(self._path, f"which cannot be read ({_first_line(error)})")
        except BaseException:  # Ctrl-C too
            partial.unlink(missing_ok=True)
            raise


def refuse(path: Path, got: str) -> NoReturn:
    """Raise UserError about a file of a data set."""
    raise UserError(f"got {path}, {got}; want a data set as rl-motion wrote it; copy it anew, or import it again")


def _check_schema(path: Path, found: pa.Schema, want: pa.Schema) -> None:
    if found.names != want.names or any(found.field(name).type != want.field(name).type for name in want.names):
        refuse(path, f"with the columns {', '.join(f'{field.name} {field.type}' for field in found)[:300]}")


def _check_whole(path: Path, table: pa.Table) -> None:
    """Refuse missing values: the schema forbids them, a foreign file may have them all the same."""
    for name in table.column_names:
        column = table.column(name)
        inner = [getattr(chunk, "values", None) for chunk in column.chunks]
        if column.null_count or any(values is not None and values.null_count for values in inner):
            refuse(path, f"which misses values of its column {name!r}")


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-motion" / "datasets"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: the others wait, and find what it wrote."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
