"""The pool on disk: POOL/prompts.parquet, one row per prompt, versioned; POOL/_build holds what belongs to its making.

`pyarrow.parquet.read_table(POOL)` reads it too: Arrow passes over names that begin with `_`.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn, Self, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rl_motion.config import UserError
from rl_motion.prompts.author import Operation
from rl_motion.prompts.pool import MAX_FRAMES, MAX_TEXT, make_prompt
from rl_motion.tracking.files import sync_folder, write_synced
from rl_motion.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE, BUILD = "prompts.parquet", "_build"
SCHEMA_VERSION = 1
_KEY = b"rl_motion.pool"
_FEW = 100
_MAX_ROWS, _MAX_BYTES = 2_000_000, 4_000_000_000
"""Of a file, unpacked: beyond it somebody else's file would fill the memory."""
_BATCH = 256

Split = Literal["train", "val", "held_out_compositions", "held_out_metas"]
Review = Literal["unreviewed", "accepted", "rejected", "edited"]
SPLITS: tuple[Split, ...] = get_args(Split)
REVIEWS: tuple[Review, ...] = get_args(Review)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable characters only")
    return text


def _utc(when: str) -> str:
    if datetime.fromisoformat(when).utcoffset() != UTC.utcoffset(None):
        raise ValueError("a time in UTC, such as 2026-01-31T12:00:00Z")
    return when


def _single(number: float) -> float:
    return float(np.float32(number))


_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Before = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_printable)]
_Token = Annotated[str, Field(max_length=MAX_TEXT + len("/PUNCT"), pattern=r"^.+/[A-Z]+$"), AfterValidator(_printable)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_single)]
_Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), AfterValidator(_single)]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Decision(_Value):
    """What somebody decided about a prompt, and when (ISO 8601, UTC).

    before: the text that was there before an edit, or before one was undone; else empty.
    """

    decision: Literal["accepted", "rejected", "edited", "undone"]
    who: Annotated[_Name, Field(max_length=100)]
    when: Annotated[str, Field(max_length=40), AfterValidator(_utc)]
    before: _Before = ""


def standing(history: Sequence[Decision]) -> list[Decision]:
    """The decisions that were not undone, oldest first; the last one is the review state.

    Raises:
        ValueError: more was undone than decided.
    """
    stack: list[Decision] = []
    for decision in history:
        if decision.decision != "undone":
            stack.append(decision)
        elif not stack:
            raise ValueError("a history that undoes what was decided before")
        else:
            stack.pop()
    return stack


class Row(_Value):
    """A prompt of the pool, valid once it is made: ValidationError or UserError otherwise.

    id: `rl_motion.prompts.pool.prompt_id(text, length)`. length: frames, at `fps` frames per second. tokens: `word/POS`
    as HumanML3D has them. sources, metas: ids of the captions and of the meta-motions (1 or 2) that it was made of.
    fingerprint: of the author, all that its answers depend on. difficulty: 0 easy to 1 hard. plausibility: 0 to 1. The
    two and `fps` are rounded to single precision, as they are stored.
    """

    id: str
    text: str
    language: Annotated[_Name, Field(max_length=35)] = "en"
    length: Annotated[int, Field(ge=1, le=MAX_FRAMES)]
    fps: _Rate
    tokens: Annotated[tuple[_Token, ...], Field(min_length=1, max_length=MAX_TEXT)]
    sources: tuple[_Name, ...]
    metas: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=2)]
    operation: Operation
    author: Literal["grammar", "openai", "transformers"]
    model: _Name
    fingerprint: _Name
    difficulty: _Share
    plausibility: _Share
    review: Review = "unreviewed"
    history: tuple[Decision, ...] = ()
    split: Split

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        prompt = make_prompt(self.text, self.length)
        if prompt.text != self.text:
            raise ValueError("a text without spaces around it or two in a row")
        if prompt.id != self.id:
            raise ValueError(f"the id {prompt.id!r} for this text and length, not {self.id[:40]!r}")
        decided = standing(self.history)
        state = decided[-1].decision if decided else "unreviewed"
        if state != self.review:
            raise ValueError(f"the review state {state!r}, which its history ends in, not {self.review!r}")
        return self

    @property
    def prompt(self) -> Prompt:
        """What a model is asked for."""
        return Prompt(id=self.id, text=self.text, length=self.length)


class Stamp(NamedTuple):
    """Which writing of a file this is."""

    inode: int
    modified_ns: int
    size: int


@dataclass(frozen=True)
class PoolTable:
    """A pool as it was read: its rows in their order, and how it was made (settings, counts, hashes)."""

    rows: Sequence[Row]
    info: Mapping[str, Any]
    stamp: Stamp
    columns: pa.Table = field(repr=False, compare=False)
    """The rows as Arrow has them."""


class Overtaken(Exception):
    """Somebody else wrote the pool since it was read: read it again."""


def is_pool(path: str | Path) -> bool:
    """Whether this is a pool's folder, or its prompts.parquet."""
    return _file(Path(path)).is_file() if Path(path).is_dir() else Path(path).name == FILE and Path(path).is_file()


def pool_folder(pool: str | Path) -> Path:
    """The folder of a pool that is named by it, or by its prompts.parquet."""
    return _file(Path(pool)).parent


def is_current(table: PoolTable, folder: Path) -> bool:
    """Whether nobody wrote POOL/prompts.parquet since the table was read or written."""
    return _stamp(folder / FILE) == table.stamp


def write_table(
    folder: Path, rows: Sequence[Row], info: Mapping[str, Any], replaces: PoolTable | None = None
) -> PoolTable:
    """Write POOL/prompts.parquet as a whole or not at all; the same content gives the same bytes.

    Args:
        folder: POOL; made where it is not there.
        rows: in the order in which they are to be read.
        info: how the pool was made, as JSON can hold it; the schema version is added.
        replaces: the pool that the rows come from; None: there is none there yet.

    Raises:
        Overtaken: the pool there is not `replaces`: whoever wrote it meanwhile loses nothing.
        UserError: the rows are none, or one comes twice; or, without `replaces`, there is a pool.
        OSError: no room, or no right to write.
    """
    import pyarrow.parquet as pq

    path = folder / FILE
    _refuse_repeats(path, rows)
    columns = _columns(rows, replaces)
    about = _about({**info, "schema_version": SCHEMA_VERSION})
    buffer = io.BytesIO()
    pq.write_table(columns.replace_schema_metadata({_KEY: about}), buffer, compression="zstd", write_page_checksum=True)
    partial = folder / BUILD / f"{FILE}.partial"
    try:
        with _locked(folder):
            there = _stamp(path)
            if there is not None and replaces is None:
                raise UserError(f"got {folder}, where a pool is already; want a new place; choose one, or remove it")
            if replaces is not None and there != replaces.stamp:
                raise Overtaken(f"{path} was written by somebody else")
            write_synced(partial, buffer.getvalue())
            partial.replace(path)
            sync_folder(folder)
            stamp = _stamp(path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            partial.unlink()
        raise
    assert stamp is not None
    return PoolTable(rows, dict(info), stamp, columns)


def read_table(pool: str | Path) -> PoolTable:
    """The pool of a folder, or of its prompts.parquet, every row checked.

    Raises:
        UserError: it is not there, cannot be read, is of another version, or a row is not as it should be.
    """
    import pyarrow as pa

    path = _file(Path(pool))
    stamp = _stamp(path)
    if stamp is None or not path.is_file():  # a pipe would wait
        begun = (Path(pool) / BUILD).is_dir()
        how = "its build has not ended: run the same command again" if begun else "see rl-motion prompts build --help"
        raise UserError(f"got {pool}, which holds no {FILE}; want a pool; {how}")
    try:
        table, info = _read(path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _refuse(path, f"what cannot be read ({str(error).splitlines()[0][:200]})", "a pool in Parquet")
    rows = []
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        try:
            rows.append(_row(dict(zip(columns, values, strict=True))))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            got = "it" if not where else f"{where} = {str(first['input'])[:80]!r}"
            said = first["msg"].removeprefix("Value error, ")
            _refuse(path, f"{got} in row {number}", said[:1].lower() + said[1:])
        except UserError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
    _refuse_repeats(path, rows)
    return PoolTable(rows, info, stamp, table.cast(schema()))


def prompts_of(table: PoolTable, split: Split) -> list[Prompt]:
    """The split's prompts in their order, without those that were rejected."""
    return [row.prompt for row in table.rows if row.split == split and row.review != "rejected"]


def pool_sha256(table: PoolTable) -> str:
    """Hash of every row with all that is known of it, in order; how the pool was made is no part of it."""
    digest = hashlib.sha256(f"{SCHEMA_VERSION}".encode())
    for row in table.rows:
        digest.update(b"\n" + row.model_dump_json().encode())
    return digest.hexdigest()


def schema() -> pa.Schema:
    """The columns of version 1."""
    import pyarrow as pa

    string, strings = pa.string(), pa.list_(pa.string())
    decision = pa.struct([(name, string) for name in Decision.model_fields])
    types = {
        "length": pa.int32(),
        "tokens": strings,
        "sources": strings,
        "metas": strings,
        "history": pa.list_(decision),
    } | dict.fromkeys(("fps", "difficulty", "plausibility"), pa.float32())
    return pa.schema([pa.field(name, types.get(name, string), nullable=False) for name in Row.model_fields])


def _columns(rows: Sequence[Row], replaces: PoolTable | None) -> pa.Table:
    """The rows for Arrow. Where few of `replaces` have changed, the others are not converted again: reviewers wait."""
    import pyarrow as pa

    if replaces is None or len(rows) != len(replaces.rows):
        return _converted(rows)
    changed = [i for i, (row, before) in enumerate(zip(rows, replaces.rows, strict=True)) if row is not before]
    if len(changed) > _FEW:
        return _converted(rows)
    parts, start = [], 0
    for i in changed:
        parts += [replaces.columns.slice(start, i - start), _converted([rows[i]])]
        start = i + 1
    return pa.concat_tables([*parts, replaces.columns.slice(start)]).combine_chunks()


def _converted(rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    content = {name: [getattr(row, name) for row in rows] for name in Row.model_fields}
    content["history"] = [[decision.model_dump() for decision in row.history] for row in rows]
    return pa.table(content, schema=schema())


def _read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The columns as version 1 has them, and what the file says of itself, without its version."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        found, wanted = file.schema_arrow, schema()
        info = _info(path, (found.metadata or {}).get(_KEY))
        if found.names != wanted.names:
            _refuse(path, f"the columns {found.names}"[:300], f"{wanted.names}")
        for field in wanted:
            if found.field(field.name).type != field.type:
                _refuse(path, f"{found.field(field.name).type} in the column {field.name!r}", f"{field.type}")
        unpacked = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if file.metadata.num_rows > _MAX_ROWS or unpacked > _MAX_BYTES:
            _refuse(path, f"{file.metadata.num_rows} rows of {unpacked} bytes", f"{_MAX_ROWS}, {_MAX_BYTES} at most")
        return _unpacked(path, file), info


def _unpacked(path: Path, file: pq.ParquetFile) -> pa.Table:
    """All rows, counted as they come: a value that a file holds once may stand in every row."""
    import pyarrow as pa

    batches, size = [], 0
    for batch in file.iter_batches(_BATCH):
        size += batch.nbytes
        if size > _MAX_BYTES:
            _refuse(path, f"more than {_MAX_BYTES} bytes", f"{_MAX_BYTES} at most")
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow).combine_chunks()


def _about(info: object) -> bytes:
    return json.dumps(info, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()


def _info(path: Path, metadata: bytes | None) -> dict[str, Any]:
    try:
        info = json.loads(metadata) if metadata is not None else None
        _about(info)  # what cannot be written again, such as NaN, is refused before anybody decides
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        _refuse(path, "a file without the metadata `rl_motion.pool`", "a pool that rl-motion wrote")
    version = info.pop("schema_version", None)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        do = "install a newer rl-motion" if newer else "build the pool again"
        raise UserError(f"{path}: got schema version {str(version)[:40]}; want {SCHEMA_VERSION}; {do}")
    excluded = info.get("excluded", [])
    if not isinstance(excluded, list) or not all(isinstance(key, str) for key in excluded):
        _refuse(path, "metadata in which `excluded` is no list of strings", "the list that the build wrote")
    return info


def _row(values: dict[str, Any]) -> Row:
    for name in ("tokens", "sources", "metas", "history"):
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
    return Row.model_validate(values)


def _refuse_repeats(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        raise UserError(f"{path}: got no prompts; want at least one; build the pool from more captions")
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        before = first.setdefault(row.id, number)
        if before != number:
            _refuse(
                path, f"{row.text[:60]!r} with {row.length} frames in rows {before} and {number}", "each prompt once"
            )


def _refuse(path: Path, got: str, want: str) -> NoReturn:
    raise UserError(f"{path}: got {got}; want {want}; take the pool as rl-motion wrote it, or build it again")


def _file(pool: Path) -> Path:
    return pool if pool.name == FILE and not pool.is_dir() else pool / FILE


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, for as long as a file takes to write; the lock goes with the process."""
    (folder / BUILD).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / BUILD / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
