"""A data set's captions as prompts: all that post-training reads of it. texts.parquet is enough, no motion is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from rl_motion.config import UserError
from rl_motion.data.datasets import arrow
from rl_motion.data.datasets.dataset import TEXTS
from rl_motion.data.folder import wording
from rl_motion.prompts.pool import MAX_FRAMES, make_prompt
from rl_motion.types import Prompt

UNIT = 4
"""Lengths are whole multiples of so many frames, rounded down, as the authors' loaders give them (`unit_length` of
HumanML3D's code): motion of up to 199 frames asks for 196, which is the longest that their models make."""


def is_dataset(path: str | Path) -> bool:
    """Whether this is a data set's folder, or its texts.parquet: the part that holds captions."""
    return texts_file(path).is_file() and (Path(path).is_dir() or Path(path).name == TEXTS)


def texts_file(path: str | Path) -> Path:
    """The captions of a data set that is named by its folder, or by this file."""
    return Path(path) / TEXTS if Path(path).is_dir() else Path(path)


def caption_prompts(path: str | Path, split: str, fps: float) -> list[Prompt]:
    """The captions of a split's clips as prompts, each once for every length that a clip with it has.

    Of `val` those alone that are worded as no caption of `train`: people say 'a person walks forward' of many motions.

    Args:
        path: the data set's folder, or its texts.parquet.
        split: `train` or `val`; what is held out is nobody's prompt.
        fps: of the model: lengths are in its frames, in whole `UNIT`s.

    Raises:
        UserError: the file cannot be read, or has nothing for this split.
    """
    if split not in ("train", "val"):
        raise ValueError(f"got the split {split!r}, want train or val: others are for evaluation")
    file = texts_file(path)
    own_fps = arrow.fps_of(file)
    table = arrow.read_columns(file, arrow.texts_schema(), ("split", "frames", "caption"))
    columns = [table.column(name).to_pylist() for name in ("split", "frames", "caption")]
    rows = list(zip(*columns, strict=True))
    trained = {wording(text) for of, _, text in rows if of == "train"} if split == "val" else set()
    wanted = ((text, frames) for of, frames, text in rows if of == split and wording(text) not in trained)
    found = _prompts(file, wanted, fps / own_fps)
    if not found:
        raise UserError(
            f"got the data set {path}, which has no caption in its split {split!r}"
            f"{' that is worded as none of train' if trained else ''}; want one at least; name another source"
        )
    return found


def examined_prompts(path: str | Path, split: str, fps: float, longest: int) -> list[Prompt]:
    """The captions of a split as prompts for evaluation.

    Of `test` those alone that are worded as no caption of `train` or `val`: whoever trained on these has read it.

    Args:
        path: the data set's folder, or its texts.parquet.
        split: `test` or `train`.
        fps: of the model: lengths are in its frames, in whole `UNIT`s.
        longest: frames; a longer prompt asks for so many.

    Raises:
        UserError: the file cannot be read, or has nothing for this split.
    """
    file = texts_file(path)
    per_frame = fps / arrow.fps_of(file)
    table = arrow.read_columns(file, arrow.texts_schema(), ("split", "frames", "caption"))
    rows = list(zip(*(table.column(name).to_pylist() for name in ("split", "frames", "caption")), strict=True))
    read = {wording(text) for of, _, text in rows if of in ("train", "val")} if split != "train" else set()
    wanted = (
        (text, min(frames, int(longest / per_frame)))
        for of, frames, text in rows
        if of == split and wording(text) not in read
    )
    found = _prompts(file, wanted, per_frame)
    if not found:
        raise UserError(
            f"evaluation.data: got {path}, which has no caption in its split {split!r}"
            f"{' that is worded as none of train or val' if read else ''}; want one at least; name another data set"
        )
    return found


def _prompts(file: Path, rows: Iterable[tuple[str, int]], per_frame: float) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for text, frames in rows:
        length = min(math.ceil(frames * per_frame - 1e-6), MAX_FRAMES)
        try:
            prompt = make_prompt(text, max(length // UNIT * UNIT, UNIT))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        found.setdefault(prompt.id, prompt)
    return list(found.values())
