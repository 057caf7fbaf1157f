"""What people decide about a prompt, as values: a row and a decision give the row that follows, its history in it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rl_motion.config import UserError
from rl_motion.prompts.pool import make_prompt, prompt_id
from rl_motion.prompts.table import Decision, Row, standing


@dataclass(frozen=True, slots=True)
class By:
    """Who decides (1 to 100 printable characters), and when (ISO 8601, UTC)."""

    who: str
    when: str


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def judged(row: Row, verdict: Literal["accepted", "rejected"], by: By) -> Row:
    """The row accepted or rejected; the row itself where it is so already."""
    return row if row.review == verdict else _follow(row, Decision(decision=verdict, who=by.who, when=by.when))


def edited(row: Row, text: str, by: By) -> Row:
    """The row with another text, and so with another id and other tokens.

    Raises:
        UserError: the text is none that a prompt can have, or is the one that is there.
    """
    changed = make_prompt(text, row.length).text
    if changed == row.text:
        raise UserError("got the text as it was; want another one; change it, or accept it as it is")
    return _follow(row, Decision(decision="edited", who=by.who, when=by.when, before=row.text), changed)


def undone(row: Row, by: By) -> Row:
    """The row as it was before the last decision that stands, which its history keeps.

    Raises:
        UserError: nothing was decided.
    """
    decided = standing(row.history)
    if not decided:
        raise UserError("got a prompt about which nothing was decided; want a decision to undo; decide first")
    text = decided[-1].before or row.text
    before = row.text if text != row.text else ""
    return _follow(row, Decision(decision="undone", who=by.who, when=by.when, before=before), text)


def former_ids(row: Row) -> set[str]:
    """The ids that the row had before it was edited."""
    return {prompt_id(decision.before, row.length) for decision in row.history if decision.before} - {row.id}


def clashes(rows: Sequence[Row], changes: Mapping[int, Row], excluded: Collection[str]) -> dict[int, str]:
    """Which changed texts a pool cannot take, and why: they say what another row says, or what was kept out of it.

    A text that still says what its row said, as where a slip of the pen was mended, is never refused.

    Args:
        rows: of the pool, of every split.
        changes: rows that take the place of others, by place. Of two that say the same, the later one clashes.
        excluded: `excluded_key` of what the pool must not say.
    """
    if all(row.text == rows[index].text for index, row in changes.items()):
        return {}
    from rl_motion.prompts.reading import meaning

    moved = {index: row for index, row in changes.items() if meaning(row.text) != meaning(rows[index].text)}
    places = {meaning(row.text): index for index, row in enumerate(rows) if index not in moved}
    found = {}
    for index, row in moved.items():
        said = meaning(row.text)
        twin = places.setdefault(said, index)
        if twin != index:
            other = changes.get(twin, rows[twin]).text
            what = "is the text of" if other == row.text else f"means the same as {other[:60]!r} in"
            found[index] = (
                f"got {row.text[:60]!r}, which {what} row {twin + 1} too; want each once; change or reject it"
            )
        elif excluded_key(said) in excluded:
            found[index] = (
                f"got {row.text[:60]!r}, which means the same as a caption that the build was told to --exclude; "
                "want another text; change or reject it"
            )
    return found


def excluded_key(said: str) -> str:
    """Under which a pool's `info["excluded"]` keeps a meaning (`rl_motion.prompts.reading.meaning`): 16 hex digits."""
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _follow(row: Row, decision: Decision, text: str | None = None) -> Row:
    history = (*row.history, decision)
    decided = standing(history)
    changes: dict[str, Any] = {"history": history, "review": decided[-1].decision if decided else "unreviewed"}
    if text is not None and text != row.text:
        from rl_motion.prompts.words import tokens

        words = tuple(tokens(text))
        if not words:
            raise UserError(f"got {text[:60]!r}, in which there is no word; want a description; retype it")
        changes |= {"text": text, "id": prompt_id(text, row.length), "tokens": words}
    return Row.model_validate(dict(row) | changes)
