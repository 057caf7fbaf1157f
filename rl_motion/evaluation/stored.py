"""What an evaluation leaves beside its report, so that others are made without the model.

    RUN/evaluation/records.parquet   a row per motion, all arms: what was measured
    RUN/evaluation/motions.npz       the first sample of every prompt: joints of every arm, metres, Y up

Both are written together and read back as foreign data: no pickles, and a broken file is said to be one.
Legend: P prompts, F frames, J joints.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.evaluation.evaluate import Motion, Record
from rl_motion.tracking.files import read_whole
from rl_motion.types import Prompt

FOLDER, RECORDS, MOTIONS = "evaluation", "records.parquet", "motions.npz"
_SENTINEL, _REWARD = "sentinel/", "reward/"
_MOST = 1 << 30
_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, EOFError),
    # A damaged zip also reads as one that is encrypted or compressed in a way that nobody knows: RuntimeError.
    *(zipfile.BadZipFile, zlib.error, RuntimeError),
    # And the header of an array as Python that is none.
    *(tokenize.TokenError, SyntaxError),
)
_COLUMNS = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("oracle_success", pa.float64()),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("diversity", pa.float64()),
        pa.field("distance", pa.float64()),
    ]
)
"""Beside them a column `sentinel/NAME` and `reward/NAME` (float64, null where not measured) for every name."""


def files_of(folder: Path, records: Sequence[Record], motions: Sequence[Motion]) -> dict[Path, bytes]:
    """The two files of a run's folder, to be written together (`tracking.files.write_together`)."""
    inside = folder / FOLDER
    return {inside / RECORDS: _parquet(records), inside / MOTIONS: _npz(motions)}


def read_records(folder: Path) -> list[Record]:
    """The records of a run's folder, in order.

    Raises:
        UserError: there are none, or the file is broken.
    """
    path = folder / FOLDER / RECORDS
    try:
        table = pq.read_table(pa.BufferReader(_content(path)))
        missing = [field.name for field in _COLUMNS if field not in table.schema]
        if missing:
            raise ValueError(f"got no column {missing[0]!r} of its type")
        if any(table.column(field.name).null_count for field in _COLUMNS if not field.nullable):
            raise ValueError("got empty cells")
        rows: list[dict[str, Any]] = table.to_pylist()
        return [_record(row) for row in rows]
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _broken(path, error) from error


def read_motions(folder: Path) -> list[Motion]:
    """The motions of a run's folder, split by split, in the order in which their prompts were drawn.

    Raises:
        UserError: there are none, or the file is broken.
    """
    path = folder / FOLDER / MOTIONS
    try:
        with np.load(io.BytesIO(_content(path)), allow_pickle=False) as arrays:
            return [motion for split in arrays["splits"].tolist() for motion in _of_split(arrays, split)]
    except _UNREADABLE as error:
        raise _broken(path, error) from error


def _parquet(records: Sequence[Record]) -> bytes:
    columns: dict[str, list[Any]] = {
        "split": [record.split for record in records],
        "arm": [record.arm for record in records],
        "prompt_id": [record.prompt.id for record in records],
        "text": [record.prompt.text for record in records],
        "length": [record.prompt.length for record in records],
        "group": [record.prompt.group for record in records],
        "sample": [record.sample for record in records],
        "oracle_success": [record.oracle_success for record in records],
        "reward": [record.reward for record in records],
        "diversity": [record.diversity for record in records],
        "distance": [record.distance for record in records],
    }
    schema = _COLUMNS
    named = {_SENTINEL: [record.sentinels for record in records], _REWARD: [record.rewards for record in records]}
    for prefix, rows in named.items():
        for name in dict.fromkeys(name for row in rows for name in row):
            columns[prefix + name] = [row.get(name) for row in rows]
            schema = schema.append(pa.field(prefix + name, pa.float64()))
    written = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), written, compression="zstd")
    return written.getvalue()


def _record(row: Mapping[str, Any]) -> Record:
    return Record(
        split=row["split"],
        arm=row["arm"],
        prompt=Prompt(row["prompt_id"], row["text"], row["length"], row["group"]),
        sample=row["sample"],
        oracle_success=row["oracle_success"],
        reward=row["reward"],
        diversity=row["diversity"],
        sentinels=_named(row, _SENTINEL),
        rewards=_named(row, _REWARD),
        distance=row["distance"],
    )


def _named(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {name: float(value) for name, value in found.items() if value is not None}


def _npz(motions: Sequence[Motion]) -> bytes:
    """Of every split its prompts, lengths and rate, and of every arm its joints, padded with zeros to the longest."""
    arrays: dict[str, Any] = {"splits": np.array(list(dict.fromkeys(motion.split for motion in motions)), dtype=str)}
    for split in arrays["splits"].tolist():
        own = [motion for motion in motions if motion.split == split]
        first = next(iter(own[0].joints_by_arm))
        length_P = np.array([len(motion.joints_by_arm[first]) for motion in own])
        arrays |= {
            f"{split}/prompt_id": np.array([motion.prompt_id for motion in own], dtype=str),
            f"{split}/length": length_P,
            f"{split}/fps": np.array(own[0].fps),
            f"{split}/arms": np.array(list(own[0].joints_by_arm), dtype=str),
        }
        for arm in own[0].joints_by_arm:
            joints_PFJ3 = np.zeros((len(own), length_P.max(), *own[0].joints_by_arm[first].shape[1:]), np.float32)
            for row, motion in enumerate(own):
                joints_PFJ3[row, : length_P[row]] = motion.joints_by_arm[arm]
            arrays[f"{split}/joints/{arm}"] = joints_PFJ3
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    return written.getvalue()


def _of_split(arrays: Mapping[str, NDArray[Any]], split: str) -> list[Motion]:
    prompts, lengths = arrays[f"{split}/prompt_id"].tolist(), arrays[f"{split}/length"].tolist()
    fps, arms = float(arrays[f"{split}/fps"]), arrays[f"{split}/arms"].tolist()
    joints = {arm: arrays[f"{split}/joints/{arm}"] for arm in arms}
    for arm, joints_PFJ3 in joints.items():
        sound = joints_PFJ3.dtype == np.float32 and joints_PFJ3.ndim == 4 and joints_PFJ3.shape[3] == 3
        if not sound or not np.isfinite(joints_PFJ3).all() or not fps > 0:
            raise ValueError(f"got joints of {split}, {arm!r} that are no finite float32 [P, F, J, 3]")
        if (
            not len(joints_PFJ3) == len(prompts) == len(lengths)
            or not 0 < min(lengths) <= max(lengths) <= joints_PFJ3.shape[1]
        ):
            raise ValueError(f"got joints of {split}, {arm!r} that do not fit its prompts and lengths")
    return [
        Motion(split, prompt, fps, {arm: joints[arm][row, :length] for arm in arms})
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def _content(path: Path) -> bytes:
    try:
        return read_whole(path, _MOST)
    except OSError as error:
        raise UserError(
            f"got {path}, which cannot be read ({error.strerror or error}); want what an evaluation leaves in its "
            "run's folder; evaluate the run again, or choose one that has it"
        ) from error


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(
        f"got {path} that is no file of an evaluation ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
        "want it as it was written; evaluate the run again"
    )
