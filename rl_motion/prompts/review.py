"""A human in the loop: whoever looks at prompts one by one decides here, and has an answer once it is on the disk.

A decision rewrites POOL/prompts.parquet (some 60 ms for 20,000 prompts), so that there is one truth and no journal
beside it. Several people may review a pool at once: a decision about a prompt that changed meanwhile is refused.
"""

from __future__ import annotations

import getpass
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rl_motion.config import UserError
from rl_motion.prompts.decisions import By, clashes, edited, former_ids, judged, now, undone
from rl_motion.prompts.pool import MAX_TEXT
from rl_motion.prompts.table import (
    BUILD,
    REVIEWS,
    Decision,
    Overtaken,
    PoolTable,
    Row,
    is_current,
    pool_folder,
    read_table,
    write_table,
)

MOST = 100_000
"""Prompts on one page: more than anybody reads, and as much as a browser holds with ease."""


class Asked(BaseModel):
    """What the page sends. seen: how many entries the prompt's history had when it was shown; text: of an edit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(max_length=64)]
    seen: Annotated[int, Field(ge=0)]
    decision: Literal["accept", "reject", "edit", "undo"]
    text: Annotated[str, Field(max_length=10_000)] = ""


class Conflict(Exception):
    """The prompt was changed since it was shown; `row` is what it is now."""

    def __init__(self, row: Row) -> None:
        """Of the row as it is."""
        super().__init__(row.id)
        self.row = row


class ReviewDesk:
    """The pool that is reviewed, by one person; safe to use from several threads."""

    def __init__(self, pool: str | Path, who: str, clock: Callable[[], str] = now) -> None:
        """Read the pool.

        Args:
            pool: its folder, or its prompts.parquet.
            who: who decides.
            clock: the time in UTC, ISO 8601.

        Raises:
            UserError: there is no pool that can be read, or `who` is no name.
        """
        self.who = checked_name(who)
        self.folder = pool_folder(pool)
        self._clock = clock
        self._lock = threading.Lock()
        self._take(read_table(self.folder))

    @property
    def rows(self) -> Sequence[Row]:
        """The prompts as they are now."""
        return self._table.rows

    def counts(self) -> dict[str, int]:
        """Prompts of the pool by review state, once no decision is being written."""
        with self._lock:
            found = Counter(row.review for row in self.rows)
        return {state: found[state] for state in REVIEWS}

    def refresh(self) -> None:
        """Read the pool again where somebody else wrote it; raises UserError as at first."""
        with self._lock:
            self._follow()

    def prepare(self) -> None:
        """Work out what every prompt means (some 0.1 ms each), so that the first edit need not wait; in a thread."""
        from rl_motion.prompts.reading import meaning

        for row in self.rows:
            meaning(row.text)

    def followed(self, ids: Sequence[str]) -> list[Row]:
        """These prompts as they are now, also where an edit gave them another id."""
        with self._lock:
            former = {name: row for row in self.rows for name in former_ids(row)}
            by_id = former | {row.id: row for row in self.rows}
        return [by_id[name] for name in ids if name in by_id]

    def decide(self, asked: Asked) -> Row:
        """Decide about one prompt and write the pool; the prompt as it is then.

        Raises:
            Conflict: it is no longer what was shown.
            UserError: there is no such prompt, nothing to undo, or the text cannot be taken.
            OSError: the pool could not be written; nothing has changed.
        """
        with self._lock:
            while True:
                self._follow()
                index = self._find(asked)
                row = self._decided(self.rows[index], asked)
                if row is self.rows[index]:
                    return row
                for clash in clashes(self.rows, {index: row}, set(self._table.info.get("excluded", []))).values():
                    raise UserError(clash)
                rows = [*self.rows[:index], row, *self.rows[index + 1 :]]
                try:
                    self._take(write_table(self.folder, rows, self._table.info, self._table))
                except Overtaken:
                    continue
                return row

    def _find(self, asked: Asked) -> int:
        index = self._index.get(asked.id)
        if index is not None and len(self.rows[index].history) == asked.seen:
            return index
        if index is None:
            index = next((n for n, row in enumerate(self.rows) if asked.id in former_ids(row)), None)
        if index is None:
            raise UserError(f"got {asked.id!r}, which no prompt has; want one of this pool; load the page again")
        raise Conflict(self.rows[index])

    def _decided(self, row: Row, asked: Asked) -> Row:
        by = By(self.who, self._clock())
        match asked.decision:
            case "accept":
                return judged(row, "accepted", by)
            case "reject":
                return judged(row, "rejected", by)
            case "edit":
                return edited(row, asked.text, by)
            case "undo":
                return undone(row, by)

    def _follow(self) -> None:
        if not is_current(self._table, self.folder):
            self._take(read_table(self.folder))

    def _take(self, table: PoolTable) -> None:
        self._table = table
        self._index = {row.id: index for index, row in enumerate(table.rows)}


def chosen(rows: Sequence[Row], sample: int | None = None, seed: int = 0, only_unreviewed: bool = False) -> list[Row]:
    """The prompts to look at.

    Args:
        rows: of the pool.
        sample: so many at random, in random order; None: all, in the pool's order. Decisions do not change the sample.
        seed: of the sample.
        only_unreviewed: of these, the ones that nobody decided about.
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(rows)) if sample is not None else None
    taken = rows if order is None else [rows[i] for i in order[:sample]]
    return [row for row in taken if not only_unreviewed or row.review == "unreviewed"]


def shown(row: Row, texts: Mapping[str, str]) -> dict[str, Any]:
    """A prompt as the page takes it; `texts` of captions and meta-motions by id, where they are known."""
    return {
        **row.model_dump(include={"id", "text", "length", "tokens", "operation", "split", "review", "author", "model"}),
        "seconds": round(row.length / row.fps, 1),
        "metas": [texts.get(name, name) for name in row.metas],
        "sources": list(dict.fromkeys(texts.get(name, name) for name in row.sources)),
        "difficulty": round(row.difficulty, 2),
        "plausibility": round(row.plausibility, 2),
        "history": [decision.model_dump() for decision in row.history],
    }


def known_texts(folder: Path) -> dict[str, str]:
    """Texts of meta-motions and captions by id, as far as the pool's making left them: they are a help, not needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts: dict[str, str] = {}
    for name in ("captions.parquet", "metas.parquet"):
        try:
            table = pq.read_table(folder / BUILD / name, columns=["id", "text"])
            if set(table.schema.types) != {pa.string()}:
                continue
            pairs = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
            texts |= {str(key): str(text)[:MAX_TEXT] for key, text in pairs}
        except (OSError, KeyError, ValueError, pa.ArrowException):
            continue
    return texts


def login_name() -> str:
    """Who is logged in; empty where nobody knows, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def checked_name(who: str) -> str:
    """A reviewer's name, spaces around it cut; raises UserError."""
    name = who.strip()
    try:
        Decision(decision="accepted", who=name, when=now())
    except ValidationError:
        raise UserError(
            f"got the name {who[:60]!r}; want 1 to 100 printable characters, to record who decides; give --who NAME"
        ) from None
    return name
