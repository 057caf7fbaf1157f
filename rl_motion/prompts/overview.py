"""What is in a pool, for people who look at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

from rl_motion.config.errors import UserError, nearest
from rl_motion.prompts.author import Operation
from rl_motion.prompts.reading import meaning
from rl_motion.prompts.table import PoolTable, Row


@dataclass(frozen=True, slots=True)
class Filter:
    """Which prompts: of a split, of an operation, with these words somewhere (case counts for nothing)."""

    split: str | None = None
    operation: str | None = None
    where: str | None = None

    def of(self, table: PoolTable) -> list[Row]:
        """The prompts of a pool, in its order; raises UserError where there is none such."""
        self._known("--split", self.split, sorted({row.split for row in table.rows}))
        self._known("--operation", self.operation, sorted({row.operation for row in table.rows}))
        where = (self.where or "").casefold()
        found = [
            row
            for row in table.rows
            if self.split in (None, row.split)
            and self.operation in (None, row.operation)
            and where in row.text.casefold()
        ]
        if not found:
            given = {"--split": self.split, "--operation": self.operation, "--where": self.where}
            words = " ".join(f"{option} {value[:60]!r}" for option, value in given.items() if value is not None)
            raise UserError(f"got {words}; want what some prompt of the pool fits; leave an option out")
        return found

    @staticmethod
    def _known(option: str, name: str | None, names: Sequence[str]) -> None:
        if name is not None and name not in names:
            do = nearest(name, names, "choose one of them")
            raise UserError(f"got {option} {name[:60]!r}; want what the pool has: {', '.join(names)}; {do}")


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts.

    by_operation: with the split. lengths: frames, difficulty: 0..1, each as (least, median, most). verbs: lemmas, the
    most frequent first. duplicates: prompts beyond the first of a meaning.
    """

    by_operation: Mapping[tuple[Operation, str], int]
    by_review: Mapping[str, int]
    lengths: tuple[float, float, float]
    difficulty: tuple[float, float, float]
    verbs: Sequence[tuple[str, int]]
    duplicates: int


def overview(rows: Sequence[Row]) -> Overview:
    """Of at least one prompt."""
    verbs = Counter(token.removesuffix("/VERB") for row in rows for token in row.tokens if token.endswith("/VERB"))
    return Overview(
        by_operation=Counter((row.operation, row.split) for row in rows),
        by_review=Counter(row.review for row in rows),
        lengths=_spread([row.length for row in rows]),
        difficulty=_spread([row.difficulty for row in rows]),
        verbs=verbs.most_common(12),
        duplicates=len(rows) - len({meaning(row.text) for row in rows}),
    )


def some(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many of them at random, in their order; all where there are no more."""
    places = Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return [rows[place] for place in sorted(places)]


def _spread(numbers: Sequence[float]) -> tuple[float, float, float]:
    return min(numbers), median(numbers), max(numbers)
