"""What a source of prompts is: a pool, a data set, a split of the embedded world or a text file; and what training, and
validation, may take from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from rl_motion.config import UserError
from rl_motion.data.datasets.captions import caption_prompts, is_dataset, texts_file
from rl_motion.data.names import SPLIT
from rl_motion.prompts import table
from rl_motion.prompts.pool import read_prompts
from rl_motion.types import Prompt

Use = Literal["train", "val"]
_KEYS: Mapping[Use, str] = {"train": "prompts.sources", "val": "prompts.validation"}
_USES: Mapping[Use, str] = {"train": "training", "val": "validation"}


@dataclass(frozen=True, slots=True)
class Source:
    """prompts: for this use. rows: of a pool, those of `prompts`, by prompt id; else empty.

    any_length: it was made for no model in particular: prompts of more frames than the job's reads are no mistake.
    """

    prompts: list[Prompt]
    rows: Mapping[str, table.Row] = field(default_factory=dict)
    any_length: bool = False


_newest: dict[tuple[Path, Use], Mapping[str, table.Row]] = {}
"""Of every pool, the rows that `read_source` found in it last, until they are taken."""


def read_source(name: str, use: Use, default_length: int, fps: float) -> Source:
    """The prompts of a source that are there for this use: what is held out, or was rejected, is never among them.

    What is known of a pool's prompts is kept for `take_rows`.

    Args:
        name: as the job has it.
        use: `train` for prompts.sources, `val` for prompts.validation.
        default_length: frames of a text file's prompts that come without a length.
        fps: of the model, in whose frames a split's lengths are given. Files and pools count the model's own.

    Raises:
        UserError: it is no pool, no data set, no split for this use and no readable file of prompts, or has nothing for
            this use.
    """
    split = SPLIT.fullmatch(name)
    if split is not None:
        if split[2] != use:
            raise UserError(
                f"{_KEYS[use]}: got {name!r}, which is not for {_USES[use]}; want a pool, a data set, a {use} split "
                f"or a text file; use {split[1]}/{use}"
            )
        from rl_motion.data.worlds import prompts

        return Source(prompts(name, fps))
    if table.is_pool(name):
        found = _of_pool(name, use)
        _newest[Path(name).absolute(), use] = found.rows
        return found
    if is_dataset(name):
        return Source(caption_prompts(name, use, fps), any_length=True)
    return Source(read_prompts(name, default_length, [f"source/{use}", f"target/{use}"]))


def take_rows(name: str, use: Use) -> Mapping[str, table.Row]:
    """The rows, by prompt id, of the pool as `read_source` found it last; nothing of what is no pool, or was taken.

    To read the pool again would not do: somebody may have reviewed it since, and the run has what was read first.
    """
    return _newest.pop((Path(name).absolute(), use), {})


def file_of(name: str) -> str:
    """The one file that holds a source that is no split: of a pool prompts.parquet, of a data set texts.parquet."""
    if is_dataset(name):
        return str(PurePosixPath(name) / texts_file(name).name) if Path(name).is_dir() else name
    return str(PurePosixPath(name) / table.FILE) if Path(name).is_dir() and table.is_pool(name) else name


def _of_pool(name: str, use: Use) -> Source:
    pool = table.read_table(name)
    found = table.prompts_of(pool, use)
    if not found:
        raise UserError(
            f"{_KEYS[use]}: got the pool {name!r}, which has no prompts in its split {use!r} that were not rejected; "
            "want one at least; build it from more captions, or name another source"
        )
    wanted = {prompt.id for prompt in found}
    return Source(found, {row.id: row for row in pool.rows if row.id in wanted}, any_length=True)
