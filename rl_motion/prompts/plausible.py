"""Can one body do this? Rules for descriptions of one person, applied to every author's texts.

Contradictions that they find: two uses of one limb at the same time, postures that do not follow one another (sits,
then jumps; jumps while sitting), going to two places at once, opposite words of one motion (slowly and quickly), the
same motion twice in one breath. What they do not see is physics and taste: README has the rate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.lexicon import ARMS, LEGS
from rl_motion.prompts.reading import Facts, meaning, read_meta

_OPPOSITES = (
    ("slowly", "quickly"),
    ("slowly", "fast"),
    ("slow", "fast"),
    ("clockwise", "counterclockwise"),
    ("twice", "once"),
)
_AT_ONCE = re.compile(r"^while | while | at the same time|simultaneously")
_LONG = 22
"""Words of a sentence beyond which it is hard to follow."""


def judge(text: str) -> tuple[float, str]:
    """(plausibility 0..1, reason where it is implausible).

    1 minus a tenth for each sign of strain; 0 with a reason for a contradiction.
    """
    clauses = decompose(text)
    read: list[Facts] = []
    for facts in map(read_meta, clauses):
        if isinstance(facts, str):
            return 0.0, f"not understood: {facts}"
        read.append(facts)
    if not read:
        return 0.0, "not understood: no motion"
    reason = next(filter(None, map(contradicts_itself, read)), "") or _repeats(clauses) or _clash(text, read)
    if reason:
        return 0.0, reason
    strain = (len(text.split()) > _LONG) + (len(read) > 3) + sum(f.style and f.counted for f in read)
    return round(1.0 - 0.1 * strain, 3), ""


def contradicts_itself(facts: Facts) -> str:
    """Why this motion alone cannot be; empty where it can."""
    words = set(facts.phrase.split())
    for one, other in _OPPOSITES:
        if {one, other} <= words:
            return f"{one} and {other}"
    if facts.verb in ("sit", "lie", "kneel", "stand") and words & {"jumping", "running"}:
        return "a posture that moves"
    return ""


def at_once(first: Facts, second: Facts) -> str:
    """Why the two cannot happen at the same time; empty where they can."""
    shared = first.uses & second.uses
    if shared & (ARMS | LEGS):
        return "two uses of one limb"
    if first.travels and second.travels and shared <= {"torso"}:
        return "two ways at once"
    if shared:  # of the head or of the root rather than of the torso
        return f"two uses of {min(shared)}"
    if len({first.before, first.after, second.before, second.after} - {"any"}) > 1:
        return "postures that do not go together"
    if first.speed and second.speed and first.speed != second.speed:
        return "slow and fast at once"
    return ""


def in_turn(first: Facts, second: Facts) -> str:
    """Why the second cannot follow the first; empty where it can."""
    held, wanted = first.after, second.before
    if "any" in (held, wanted):
        return ""
    if wanted == "low":
        return "" if held in ("sit", "lie", "kneel", "crouch") else "stands up while standing"
    return "" if held == wanted else f"from {held} to {wanted} without a way there"


def _repeats(clauses: Sequence[str]) -> str:
    return "the same motion twice" if len({meaning(clause) for clause in clauses}) < len(clauses) else ""


def _clash(text: str, read: Sequence[Facts]) -> str:
    if len(read) == 2 and _AT_ONCE.search(text):
        return at_once(read[0], read[1])
    return next(filter(None, (in_turn(a, b) for a, b in pairwise(read))), "")
