"""How long a motion takes, learnt from captions that come with their length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Protocol

from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.reading import Facts, read_meta

_DEFAULT = {"travel": 90, "limb": 60, "posture": 70}
"""Frames where no caption comes with a length: 4.5, 3 and 3.5 seconds."""
_PRIOR = 5
"""How many captions of its own a verb needs to count as much as all others together."""


class Timed(Protocol):
    """A caption with its length, where that is known."""

    @property
    def text(self) -> str:
        """The caption."""

    @property
    def frames(self) -> int | None:
        """At 20 frames a second."""


def estimator(captions: Iterable[Timed]) -> Callable[[str], int]:
    """A function from a meta-motion to its frames, learnt from captions of a single motion.

    The median of the captions with its verb, drawn towards the median of all; 60 to 90 frames by kind where no caption
    comes with a length.
    """
    by_verb: dict[str, list[int]] = defaultdict(list)
    for caption in captions:
        if caption.frames is None:
            continue
        motions = decompose(caption.text)
        facts = read_meta(motions[0]) if len(motions) == 1 else "several"
        if isinstance(facts, Facts):
            by_verb[facts.verb].append(caption.frames)
    if not by_verb:
        return _by_kind
    overall = median(frames for found in by_verb.values() for frames in found)
    verbs = {
        verb: round((len(found) * median(found) + _PRIOR * overall) / (len(found) + _PRIOR))
        for verb, found in by_verb.items()
    }

    def frames_of(text: str) -> int:
        facts = read_meta(text)
        return verbs.get(facts.verb, round(overall)) if isinstance(facts, Facts) else round(overall)

    return frames_of


def _by_kind(text: str) -> int:
    facts = read_meta(text)
    if isinstance(facts, Facts) and facts.travels:
        return _DEFAULT["travel"]
    return _DEFAULT["posture" if isinstance(facts, Facts) and facts.before != facts.after else "limb"]
