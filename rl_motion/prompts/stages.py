"""The stages between captions and prompts; what they decide follows from what comes in and from the answers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rl_motion.config.errors import UserError
from rl_motion.prompts import lengths, planner, plausible, reading, words
from rl_motion.prompts.answers import Answers
from rl_motion.prompts.author import (
    Answer,
    Author,
    Composition,
    Decompose,
    Decomposition,
    Judge,
    Question,
    Refused,
    Unanswered,
    Verdict,
)
from rl_motion.prompts.pool import make_prompt
from rl_motion.prompts.sources import FPS, Caption
from rl_motion.prompts.splits import split_of
from rl_motion.prompts.table import Row
from rl_motion.prompts.tally import Tally
from rl_motion.types import Prompt

MOST_SOURCES = 8
"""Most source captions of a meta-motion that a prompt names; `_build/metas.parquet` has them all."""
_FULL = f"{planner.PER_PAIR} prompts of these meta-motions are there"

Watch = Callable[[str, int, int], None]
"""(stage, done, of how many), as it goes."""


class Desk:
    """Puts questions to the author, by way of the answers that are kept."""

    def __init__(self, answers: Answers, author: Author, watch: Watch) -> None:
        """Nothing is asked yet."""
        self._answers, self.author, self.watch = answers, author, watch
        self.unanswered = 0
        """Questions that did not get through; the next build asks them again."""

    def ask(self, stage: str, questions: Sequence[Question]) -> list[Answer | Refused]:
        """The answers, in the questions' order; raises UserError where the author cannot be asked."""
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            self.watch(stage, done, len(questions))

        answers = self._answers.ask(self.author, questions, count)
        self.unanswered += sum(isinstance(answer, Unanswered) for answer in answers)
        return answers


class MetaMotion(NamedTuple):
    """A meta-motion, and the meaning that its id stands for."""

    meta: planner.Meta
    meaning: str


def meta_motions(
    captions: Sequence[Caption], excluded: Mapping[str, str], desk: Desk, tally: Tally
) -> tuple[list[MetaMotion], dict[str, int]]:
    """The different meta-motions of captions, in the order in which they first occur, and counts.

    Args:
        captions: each is told in one or more meta-motions, or set aside.
        excluded: meanings that neither a caption nor a meta-motion may have.
        desk: who is asked.
        tally: takes what is set aside.

    Returns:
        The meta-motions, and how many captions were `decomposable` or `single`, of how many `parts` in all.
    """
    kept: list[Caption] = []
    for caption in captions:
        if reading.meaning(caption.text) in excluded:
            tally.add("read", "an excluded caption", caption.text, caption.ids)
        else:
            kept.append(caption)
    counts = dict.fromkeys(("decomposable", "single", "parts"), 0)
    found: dict[str, tuple[str, reading.Facts, dict[str, None]]] = {}
    answers = desk.ask("decompose", [Decompose(caption=caption.text) for caption in kept])
    for caption, answer in zip(kept, answers, strict=True):
        if not isinstance(answer, Decomposition) or not answer.meta_motions:
            reason = _reason(answer) if not isinstance(answer, Decomposition) else "no motion in it"
            tally.add("decompose", reason, caption.text, caption.ids)
            continue
        counts["decomposable" if answer.decomposable else "single"] += 1
        counts["parts"] += len(answer.meta_motions)
        for text in answer.meta_motions:
            facts, meaning = reading.read_meta(text), reading.meaning(text)
            if isinstance(facts, str):
                tally.add("meta-motion", facts, text, caption.ids)
            elif meaning in excluded:
                tally.add("meta-motion", "an excluded caption", text, caption.ids)
            else:
                found.setdefault(meaning, (text, facts, {}))[2].update(dict.fromkeys(caption.ids))
    frames_of = lengths.estimator(kept)
    metas = [
        MetaMotion(planner.Meta(_id(meaning), text, facts, frames_of(text), tuple(sources)), meaning)
        for meaning, (text, facts, sources) in found.items()
    ]
    return metas, counts


class _Candidate(NamedTuple):
    """A composition that passed the rules."""

    order: planner.Order
    prompt: Prompt
    meaning: str
    tokens: tuple[str, ...]
    plausibility: float


class Prompts:
    """The prompts so far: `most` at most, new in meaning, `planner.PER_PAIR` of a pair."""

    def __init__(self, metas: Sequence[MetaMotion], known: Mapping[str, str], most: int) -> None:
        """None yet; `known` says by meaning what is there already."""
        self.rows: list[Row] = []
        self.orders = 0
        """Taken in: each became a prompt or was set aside."""
        self._most = most
        self._known = {one.meaning: "a meta-motion" for one in metas} | dict(known)
        self._meaning_of = {one.meta.id: one.meaning for one in metas}
        self._of_pair: Counter[tuple[str, ...]] = Counter()

    @property
    def missing(self) -> int:
        """How many more are wanted."""
        return self._most - len(self.rows)

    def take(self, orders: Sequence[planner.Order], desk: Desk, tally: Tally) -> None:
        """Have orders composed and judged, and take in what passes."""
        self.orders += len(orders)
        candidates = list(self._candidates(orders, desk, tally))
        verdicts = desk.ask("judge", [Judge(text=candidate.prompt.text) for candidate in candidates])
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            order, text, sources = candidate.order, candidate.prompt.text, _sources(candidate.order)
            if not isinstance(verdict, Verdict):
                tally.add("judge", _reason(verdict), text, sources)
            elif not verdict.plausible:
                tally.add("judge", verdict.reason or "implausible", text, sources)
            elif candidate.meaning in self._known:
                tally.add("novel", f"the same as {self._known[candidate.meaning]}", text, sources)
            elif self._full(order):
                tally.add("combine", _FULL, text, sources)
            elif not self.missing:
                tally.add("enough", f"more than {self._most} prompts", text, sources)
            else:
                self.rows.append(self._row(candidate, desk.author))
                self._of_pair[_pair(order)] += 1
                self._known[candidate.meaning] = "another prompt"

    def _candidates(self, orders: Sequence[planner.Order], desk: Desk, tally: Tally) -> Iterator[_Candidate]:
        """What passes all that costs no further question."""
        free = [order for order in orders if not self._full(order)]
        for order in orders:
            if self._full(order):
                tally.add("combine", _FULL, _asked(order), _sources(order))
        answers = desk.ask("compose", [order.question for order in free])
        for order, answer in zip(free, answers, strict=True):
            if not isinstance(answer, Composition):
                tally.add("compose", _reason(answer), _asked(order), _sources(order))
                continue
            try:
                prompt = make_prompt(answer.text, order.frames)
            except UserError:
                tally.add("check", "not 1 to 1000 printable characters", answer.text, _sources(order))
                continue
            plausibility, flaw = plausible.judge(prompt.text)
            meaning, tokens = reading.meaning(prompt.text), tuple(words.tokens(prompt.text))
            if flaw or not tokens:
                tally.add("check", flaw or "no words in it", prompt.text, _sources(order))
            elif meaning in self._known:
                tally.add("novel", f"the same as {self._known[meaning]}", prompt.text, _sources(order))
            else:
                yield _Candidate(order, prompt, meaning, tokens, plausibility)

    def _full(self, order: planner.Order) -> bool:
        return self._of_pair[_pair(order)] >= planner.PER_PAIR

    def _row(self, candidate: _Candidate, author: Author) -> Row:
        order, prompt = candidate.order, candidate.prompt
        meanings = [self._meaning_of[meta.id] for meta in order.metas]
        return Row(
            id=prompt.id,
            text=prompt.text,
            length=prompt.length,
            fps=FPS,
            tokens=candidate.tokens,
            sources=_sources(order),
            metas=tuple(meta.id for meta in order.metas),
            operation=order.question.operation,
            author=author.name,  # type: ignore[arg-type]  # a row checks it
            model=author.model,
            fingerprint=author.fingerprint,
            difficulty=order.difficulty,
            plausibility=candidate.plausibility,
            split=split_of(meanings, order.question.operation, order.question.detail),
        )


def _pair(order: planner.Order) -> tuple[str, ...]:
    return tuple(sorted({meta.id for meta in order.metas}))


def _asked(order: planner.Order) -> str:
    return " + ".join(order.question.meta_motions)


def _sources(order: planner.Order) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for meta in order.metas for one in meta.sources[:MOST_SOURCES]))


def _reason(answer: Answer | Refused) -> str:
    return answer.reason if isinstance(answer, Refused) else "an answer to another question"


def _id(meaning: str) -> str:
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]
