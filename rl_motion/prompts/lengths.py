"""How long a motion takes, learnt from captions that come with their length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from typing import Protocol

from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.reading import Facts, read_meta

MIN_FRAMES = 40
"""HumanML3D's shortest motion, at 20 frames a second."""
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
    """Frames of a meta-motion: its verb's median length in captions of a single motion, drawn towards the median of all.

    Where captions come without lengths it is 60 to 90 frames by kind.
    """
    by_verb: dict[str, list[int]] = defaultdict(list)
    for caption in captions:
        if caption.frames is None:
            continue
        motions = decompose(caption.text)
        facts = read_meta(motions[0]) if len(motions) == 1 else "several"
        if isinstance(facts, Facts):
            by_verb[facts.verb].append(caption.frames)
    every = [frames for found in by_verb.values() for frames in found]
    overall = median(every) if every else None
    verbs = {
        verb: round((len(found) * median(found) + _PRIOR * overall) / (len(found) + _PRIOR))
        for verb, found in by_verb.items()
        if overall is not None
    }

    def frames_of(text: str) -> int:
        facts = read_meta(text)
        if isinstance(facts, Facts) and facts.verb in verbs:
            return verbs[facts.verb]
        if overall is not None:
            return round(overall)
        if not isinstance(facts, Facts):
            return _DEFAULT["limb"]
        kind = "travel" if facts.travels else "posture" if facts.before != facts.after else "limb"
        return _DEFAULT[kind]

    return frames_of
