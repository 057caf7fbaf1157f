"""The seam between the pipeline and whoever answers its questions: the embedded grammar, an endpoint, a local model.

A question is a frozen value and an answer is a validated one, so that answers can be kept: the same question to the
same author (`fingerprint`) is never asked twice. Nothing an author says is trusted: `Refused` takes the place of an
answer that did not pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Operation = Literal["sequence", "simultaneous", "repeat", "speed", "side", "direction", "style"]
"""How a new description comes of meta-motions: of two, one after the other or at once; of one, changed."""

_Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decompose(_Value):
    """Does this caption describe several motions, and which (InstructMotion, section 4.2)?"""

    kind: Literal["decompose"] = "decompose"
    caption: _Text


class Compose(_Value):
    """One fluent description of these meta-motions.

    detail: what changes, in words, where the operation leaves it open: `twice`, `slowly`, `with arms spread`, `left to
    right` (side), `forward to backward` (direction). Empty for `sequence` and `simultaneous`.
    """

    kind: Literal["compose"] = "compose"
    operation: Operation
    meta_motions: Annotated[tuple[_Text, ...], Field(min_length=1, max_length=2)]
    detail: str = ""


class Judge(_Value):
    """Can one body do this?"""

    kind: Literal["judge"] = "judge"
    text: _Text


Question = Decompose | Compose | Judge


class Decomposition(_Value):
    """Meta-motions in the order they are told; of a caption that is one motion, that one."""

    decomposable: bool
    meta_motions: Annotated[tuple[_Text, ...], Field(max_length=8)]


class Composition(_Value):
    """The new description."""

    text: _Text


class Verdict(_Value):
    """Whether it is plausible, and if not, why not."""

    plausible: bool
    reason: Annotated[str, Field(max_length=500)] = ""


class Refused(_Value):
    """No answer that passed: the question is set aside, with the reason."""

    reason: _Text


class Unanswered(Refused):
    """The author could not be asked, whatever the question says: not an answer to keep, it is asked again."""


Answer = Decomposition | Composition | Verdict
ANSWERS: dict[str, type[Answer]] = {"decompose": Decomposition, "compose": Composition, "judge": Verdict}
"""The form of an answer, by the question's kind."""


def question_id(question: Question, fingerprint: str) -> str:
    """Key of an answer: hash of the question and of all else that the answer depends on."""
    return hashlib.sha256(f"{fingerprint}\x1f{question.model_dump_json()}".encode()).hexdigest()


class Author(Protocol):
    """Answers questions, in any order."""

    name: str
    """grammar | openai | transformers."""
    model: str
    """The model's name, for people; of the grammar its version."""
    fingerprint: str
    """SHA-256 of all that an answer depends on beside the question: weights or model name, templates, settings."""

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refused]]:
        """(index of the question, its answer), as they come; every index exactly once.

        Raises:
            UserError: the author cannot be reached or refuses us (address, key, model): nothing is lost.
        """
