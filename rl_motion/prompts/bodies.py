"""What a motion asks of a body: which parts it keeps busy, whether it travels, and the posture before and after it.

Looked up by verb (lexicon.py) and by the parts that the words after it name; nothing of physics.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from rl_motion.prompts.lexicon import (
    ARMS,
    HEAD_VERBS,
    JUMPS,
    LEG_VERBS,
    LEGS,
    LIMBS,
    PERFORMED,
    POSTURES,
    TORSO_VERBS,
    TRAVEL,
    TURNS,
    WHOLE,
)
from rl_motion.prompts.vocabulary import listed
from rl_motion.prompts.words import Word

_WHOLE_VERBS = listed("""
    jack cartwheel handstand pushup somersault backflip flip burpee situp roll dance waltz salsa jig exercise crawl swim
    climb fall lie
""")
_WHOLE_TRAVEL = listed("crawl climb dance waltz salsa roll swim")
_CARRIED = LEGS | {"root", "torso"}
"""What holds the body while it jumps, turns, bends or changes its posture."""


def limbs(after: Sequence[Word]) -> frozenset[str]:
    """Parts that the words after the verb name: `their left arm`, `both hands`, `knees`; both where no side is said."""
    found: set[str] = set()
    for place, word in enumerate(after):
        part = LIMBS.get(word.text)
        if part is None or word.text in ("hip", "hips"):
            continue
        if part in ("arm", "leg"):
            near = {w.text for w in after[max(0, place - 3) : place]}
            said = near & {"left", "right"}
            found |= {f"{side}_{part}" for side in (said if len(said) == 1 else ("left", "right"))}
        else:
            found.add(part)
    return frozenset(found)


def postures(core: str, texts: Set[str], after: Sequence[Word]) -> tuple[str, str]:
    """(held before, held after): stand, sit, crouch, kneel, lie; `low`: any of these but standing; `any`.

    Args:
        core: lemma of what is done.
        texts: all words.
        after: the words after the verb.
    """
    if core in ("stand", "get", "rise"):
        return ("low", "stand") if "up" in texts else ("stand", "stand")
    if _takes_seat(core, texts):
        return "stand", "sit"
    if core in POSTURES:
        return POSTURES[core]
    if core in TRAVEL and texts & {"knees", "fours"} and "on" in texts:
        return "kneel", "kneel"
    if core in TURNS:  # `turns their head`
        return ("any", "any") if _object_first(after) else ("stand", "stand")
    stands = core in TRAVEL | JUMPS | LEG_VERBS | TORSO_VERBS | PERFORMED
    return ("stand", "stand") if stands else ("any", "any")


def busy(core: str, texts: Set[str], after: Sequence[Word]) -> frozenset[str]:  # noqa: C901, PLR0911 - one rule a line
    """Parts of the body that are busy; arguments as for `postures`. The first rule that fits counts."""
    named = limbs(after)
    if core in _WHOLE_VERBS:
        return WHOLE
    if _moves_limb(core, after):
        return named
    if _travels(core, texts):
        return LEGS | {"root"} | (named & ARMS)
    if core in JUMPS or core in POSTURES or core in ("stand", "get", "step"):
        return _CARRIED | named
    if core in TURNS:
        return named if named & (ARMS | LEGS | {"head"}) and _object_first(after) else _CARRIED | named
    if core in HEAD_VERBS or (core in ("shake", "tilt") and "head" in texts):
        return frozenset({"head"})
    if core in LEG_VERBS:
        return LEGS | {"root"} | named
    if _takes_seat(core, texts) or (core in TORSO_VERBS and not named & (ARMS | LEGS)):
        return _CARRIED
    if core in TORSO_VERBS and named & LEGS:
        return LEGS | {"root"}
    if named & LEGS:
        return named | {"root"}
    return named if named & ARMS else ARMS


def travels(core: str, texts: Set[str], after: Sequence[Word]) -> bool:
    """Whether the body goes somewhere; arguments as for `postures`."""
    if core in _WHOLE_VERBS:
        return core in _WHOLE_TRAVEL
    return _travels(core, texts) and not _moves_limb(core, after) and not texts & {"place", "spot", "treadmill"}


def _travels(core: str, texts: Set[str]) -> bool:
    return core in TRAVEL and not (core == "step" and "place" in texts)


def _takes_seat(core: str, texts: Set[str]) -> bool:
    return core in ("take", "lower") and bool(texts & {"seat", "chair"})


def _moves_limb(core: str, after: Sequence[Word]) -> bool:
    """`sways their hips` aside: `moves both arms`, `circles their arms`."""
    return core in ("move", "circle", "sway", "back") and _object_first(after)


def _object_first(after: Sequence[Word]) -> bool:
    """Whether a part of the body is what the verb is done to: `turns their head`."""
    return bool(after) and after[0].tag in ("DET", "NOUN", "NUM") and bool(limbs(after))
