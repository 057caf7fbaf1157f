"""What people decide about a prompt, as values: a row and a decision give the row that follows, its history in it."""

from __future__ import annotations

from collections.abc import Sequence
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


def placed(rows: Sequence[Row], index: int, row: Row) -> list[Row]:
    """The rows with another one at a place.

    Raises:
        UserError: an edit made it the same as a prompt that the pool has.
    """
    if row.text != rows[index].text:
        refuse_twin(row, next((n for n, other in enumerate(rows) if other.text == row.text and n != index), None))
    return [*rows[:index], row, *rows[index + 1 :]]


def refuse_twin(row: Row, twin: int | None) -> None:
    """Refuse a text that the row at the place `twin` has; raises UserError."""
    if twin is not None:
        raise UserError(
            f"got {row.text[:60]!r}, which is the text of row {twin + 1} too; want each once; change or reject it"
        )


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
