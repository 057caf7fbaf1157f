"""Can one body do this? Rules for descriptions of one person, applied to every author's texts.

Contradictions that they find: two uses of one limb at the same time, postures that do not follow one another (sits, then
jumps; jumps while sitting), going to two places at once, opposite words of one motion (slowly and fast, left arm and right
arm of one hand), the same motion twice in one breath. What they do not see is physics and taste: README has the rate.
"""

from __future__ import annotations

import re
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


def judge(text: str) -> tuple[float, str]:
    """(plausibility 0..1, reason where it is implausible).

    1 minus a tenth for each sign of strain; 0 with a reason for a contradiction.
    """
    clauses = decompose(text)
    facts = [read_meta(clause) for clause in clauses]
    bad = [f for f in facts if isinstance(f, str)]
    if not facts or bad:
        return 0.0, f"not understood: {bad[0] if bad else 'no motion'}"
    read = [f for f in facts if isinstance(f, Facts)]
    for one in read:
        reason = contradicts_itself(one)
        if reason:
            return 0.0, reason
    if len(read) > 1 and len({meaning(clause) for clause in clauses}) < len(clauses):
        return 0.0, "the same motion twice"
    if _AT_ONCE.search(text) and len(read) == 2:
        reason = at_once(read[0], read[1])
    else:
        reason = next(filter(None, (in_turn(a, b) for a, b in pairwise(read))), "")
    if reason:
        return 0.0, reason
    strain = (len(text.split()) > 22) + (len(read) > 3) + sum(f.style and f.counted for f in read)
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
    shared = (first.uses & second.uses) - {"torso"}
    if shared & (ARMS | LEGS):
        return "two uses of one limb"
    if shared:
        return f"two uses of {min(shared)}"
    if first.travels and second.travels:
        return "two ways at once"
    if "torso" in first.uses & second.uses:
        return "two uses of torso"
    fixed = {f.before for f in (first, second)} | {f.after for f in (first, second)}
    if "low" in fixed or len(fixed - {"any"}) > 1:
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
    if held != wanted:
        return f"from {held} to {wanted} without a way there"
    return ""
