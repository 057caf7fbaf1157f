"""The embedded author: no network, no model.

Grammar decomposes (clauses.py), words (compose.py) and judges (plausible.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from rl_motion.prompts.author import Answer, Compose, Composition, Decompose, Decomposition, Question, Refused, Verdict
from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.compose import compose
from rl_motion.prompts.plausible import judge

_RULES = (
    "author",
    "vocabulary",
    "words",
    "phrases",
    "cutter",
    "clauses",
    "lexicon",
    "usable",
    "bodies",
    "reading",
    "compose",
    "plausible",
    "grammar",
)
"""Modules whose text an answer depends on."""


class GrammarAuthor:
    """Answers by rule, at thousands of questions a second."""

    name = "grammar"

    def __init__(self) -> None:
        """Its fingerprint is the hash of its rules and its dictionary's release: other rules, other answers."""
        here = Path(__file__).parent
        digest = hashlib.sha256(version("lemminflect").encode())
        for module in _RULES:
            digest.update((here / f"{module}.py").read_bytes())
        self.fingerprint = digest.hexdigest()
        self.model = f"grammar-{self.fingerprint[:8]}"

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refused]]:
        """In the order asked."""
        for index, question in enumerate(questions):
            yield index, self._one(question)

    @staticmethod
    def _one(question: Question) -> Answer | Refused:
        if isinstance(question, Decompose):
            motions = decompose(question.caption)
            if not motions:
                return Refused(reason="no motion found")
            return Decomposition(decomposable=len(motions) > 1, meta_motions=tuple(motions[:8]))
        if isinstance(question, Compose):
            try:
                return Composition(text=compose(question))
            except ValueError as error:
                return Refused(reason=str(error)[:200])
        score, reason = judge(question.text)
        return Verdict(plausible=score > 0.0, reason=reason)
