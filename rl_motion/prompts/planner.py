"""Which meta-motions are combined, and how: a deterministic stream of orders for whoever composes.

Orders are drawn, not enumerated: a corpus of ten thousand meta-motions has fifty million pairs. What contradicts itself
by the facts (plausible.py) is not ordered in the first place, whoever writes the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from rl_motion.prompts.author import Compose, Operation
from rl_motion.prompts.compose import SWAPS
from rl_motion.prompts.lexicon import ARMS, LEGS, SPEED_OK, TURNS
from rl_motion.prompts.plausible import at_once, contradicts_itself, in_turn
from rl_motion.prompts.reading import Facts, counts

PER_PAIR = 3
"""Most prompts of a pair of meta-motions; one alone counts as a pair with itself."""
_SHARES: dict[Operation, float] = {
    "sequence": 0.3,
    "simultaneous": 0.28,
    "side": 0.12,
    "repeat": 0.07,
    "speed": 0.08,
    "direction": 0.07,
    "style": 0.08,
}
"""How the operations share the orders, as long as each finds meta-motions that it fits."""
_PAIRS: frozenset[Operation] = frozenset({"sequence", "simultaneous"})
_TRIES = 40
"""Draws of meta-motions for an operation before another one has its turn."""
_RECURRING = 1_500
"""Where so many meta-motions recur (in three captions to be paired, in two to be changed), the others are left out:
those are slips of the pen, mostly."""
_PATIENCE = 50
"""Tries in vain per meta-motion after which the stream ends."""
_IN_TURN = 0.6
"""Two motions in turn take this share of the clips that show one each: HumanML3D's captions of two have a median length
of 154 frames, those of one 130, as clips begin and end with standing about."""
_CHANGE_FRAMES = 20
"""And at least so much more than the longer one: a second."""
_STRETCH = {"twice": 1.6, "two times": 1.6, "three times": 2.2, "slowly": 1.3, "at a slow pace": 1.3}
"""How many times as long a motion takes that is changed so; other changes leave its length as it is."""
_TIMES = ("twice", "three times", "two times")
_SPEEDS = ("slowly", "quickly", "at a slow pace", "at a fast pace")
_FREE_ARMS = (
    "with the arms spread",
    "with the hands on the hips",
    "with arms akimbo",
    "with crossed arms",
    "with both arms raised",
)
_FREE_LEGS = ("with bent knees", "in a low stance", "while standing still")
_FREE_HEAD = ("looking down", "looking up", "with the head down", "with the head up")
"""Styles by the part of the body that must be free for them."""
_WITH_ONE = {
    **dict.fromkeys(("wave", "reach", "throw", "point", "grab", "gesture"), "hand"),
    **dict.fromkeys(("punch", "jab", "strike"), "fist"),
    **dict.fromkeys(("kick", "lunge", "stomp"), "leg"),
}
"""What verbs are done with, one of two, where no side is said."""
_LIMB_OPEN = re.compile(r"\b(both|hands?|fists?|legs?|feet|foot) ")
"""The limb is named already, without a side."""
_ONE_LIMB = re.compile(r"\ban? (arm|hand|leg|foot|knee|heel)\b")


@dataclass(frozen=True, slots=True)
class Meta:
    """A meta-motion: id, text, what it asks of the body, its length in frames, and the captions it was found in."""

    id: str
    text: str
    facts: Facts
    frames: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What to compose, of which meta-motions; frames of the result and its difficulty, 0 easy to 1 hard."""

    question: Compose
    metas: tuple[Meta, ...]
    frames: int
    difficulty: float


def orders(metas: Sequence[Meta], seed: int, max_frames: int, fps: float) -> Iterator[Order]:
    """Orders until nothing new comes up any more; a pair of meta-motions is ordered `PER_PAIR` times at most.

    Args:
        metas: in any order; the stream does not depend on it.
        seed: of the draws.
        max_frames: of a prompt; what would take longer is not ordered.
        fps: frames per second of the lengths.
    """
    ordered = sorted(metas, key=lambda meta: meta.id)
    if not ordered:
        return
    rng = Random(f"{seed}/{fps}")
    paired, changed = _Draw(_recurring(ordered, 3), rng), _Draw(_recurring(ordered, 2), rng)
    names, shares = list(_SHARES), list(_SHARES.values())
    asked: set[tuple[str, ...]] = set()
    per_pair: Counter[tuple[str, ...]] = Counter()
    vain = 0
    while vain < _PATIENCE * max(len(ordered), _TRIES):
        operation = rng.choices(names, shares)[0]
        for _ in range(_TRIES):
            vain += 1
            first, second = (paired if operation in _PAIRS else changed).two()
            order = _try(operation, first, second, rng)
            if order is None or order.frames > max_frames:
                continue
            pair = tuple(sorted({meta.id for meta in order.metas}))
            key = (operation, order.question.detail, *(meta.id for meta in order.metas))
            if key in asked or per_pair[pair] >= PER_PAIR:
                continue
            asked.add(key)
            per_pair[pair] += 1
            vain = 0
            yield order
            break


def _recurring(metas: list[Meta], least: int) -> list[Meta]:
    often = [meta for meta in metas if len(meta.sources) >= least]
    return often if len(often) >= _RECURRING else metas


class _Draw:
    """Draws meta-motions, frequent ones more often."""

    def __init__(self, metas: list[Meta], rng: Random) -> None:
        self._metas, self._rng = metas, rng
        self._weights = list(accumulate(min(len(meta.sources), 8) ** 0.5 for meta in metas))

    def two(self) -> list[Meta]:
        return self._rng.choices(self._metas, cum_weights=self._weights, k=2)


def _try(operation: Operation, first: Meta, second: Meta, rng: Random) -> Order | None:
    if contradicts_itself(first.facts):
        return None
    if operation == "sequence":
        return _in_turn(first, second)
    if operation == "simultaneous":
        return _at_once(first, second)
    details = _DETAILS[operation](first.facts)
    if not details:
        return None
    question = Compose(operation=operation, meta_motions=(first.text,), detail=rng.choice(details))
    frames = round(first.frames * _STRETCH.get(question.detail, 1.0))
    return Order(question, (first,), frames, _difficulty((first,), operation))


def _in_turn(first: Meta, second: Meta) -> Order | None:
    if first.id == second.id or _same_core(first.facts, second.facts):
        return None
    if in_turn(first.facts, second.facts) or contradicts_itself(second.facts):
        return None
    question = Compose(operation="sequence", meta_motions=(first.text, second.text))
    together = max(round(_IN_TURN * (first.frames + second.frames)), max(first.frames, second.frames) + _CHANGE_FRAMES)
    return Order(question, (first, second), together, _difficulty((first, second), "sequence"))


def _at_once(first: Meta, second: Meta) -> Order | None:
    # The one that carries the body leads: `walks forward while waving`.
    if "root" in second.facts.uses and "root" not in first.facts.uses:
        first, second = second, first
    if first.id == second.id or at_once(first.facts, second.facts) or contradicts_itself(second.facts):
        return None
    if first.facts.style or second.facts.style or first.facts.before != first.facts.after:
        return None
    question = Compose(operation="simultaneous", meta_motions=(first.text, second.text))
    frames = max(first.frames, second.frames)
    return Order(question, (first, second), frames, _difficulty((first, second), "simultaneous"))


def _same_core(first: Facts, second: Facts) -> bool:
    return first.verb == second.verb and (first.side, first.direction) == (second.side, second.direction)


def _difficulty(metas: Sequence[Meta], operation: Operation) -> float:
    """Rarer motions, more of them, and at once rather than alone: harder."""
    rare = sum(1.0 / len(meta.sources) for meta in metas) / len(metas) if all(m.sources for m in metas) else 1.0
    base = {"sequence": 0.5, "simultaneous": 0.7}.get(operation, 0.2)
    return round(min(1.0, base * 0.7 + 0.2 * rare + 0.1 * (len(metas) - 1)), 3)


def _swaps(facts: Facts, names: tuple[str, ...]) -> list[str]:
    """Details of swaps whose one word the phrase has and whose other it has not."""
    words = set(re.findall(r"[a-z]+", facts.phrase))
    return [f"{a} to {b}" for a, b in SWAPS if a in names and len(words & {a, b, f"{a}s", f"{b}s"}) == 1]


def _sides(facts: Facts) -> list[str]:
    if facts.side:
        return _swaps(facts, ("left",))
    if "head" in facts.uses or _LIMB_OPEN.search(f"{facts.phrase} "):
        return []
    part = _WITH_ONE.get(facts.verb, "")
    if part == "leg" or (part and facts.uses == ARMS):
        return [f"with the {side} {part}" for side in ("left", "right")]
    if facts.limb and _ONE_LIMB.search(facts.phrase):
        return ["on the left side", "on the right side"]
    return []


def _directions(facts: Facts) -> list[str]:
    found = _swaps(facts, ("forward", "forwards", "clockwise"))
    if found or facts.direction or facts.side or facts.counted:
        return found
    if facts.verb in ("turn", "sidestep", "lean") and len(facts.phrase.split()) <= 2:
        return ["to the left", "to the right"]
    circles = facts.travels and "circle" in facts.phrase.split()
    turns = facts.verb in TURNS - {"turn", "twist"} and "root" in facts.uses
    return ["clockwise", "counterclockwise"] if circles or turns else []


def _styles(facts: Facts) -> list[str]:
    if facts.style or facts.counted or facts.speed or len(facts.phrase.split()) > 6:
        return []
    found: list[str] = []
    if not facts.uses & ARMS and facts.uses & (LEGS | {"head"}) and facts.before == facts.after:
        found += _FREE_ARMS
    if not facts.uses & (LEGS | {"root"}) and facts.uses & ARMS:
        found += _FREE_LEGS
    if "head" not in facts.uses and "head" not in facts.phrase and facts.after not in ("lie", "low"):
        found += _FREE_HEAD
    return found


def _speeds(facts: Facts) -> list[str]:
    """What can be done slowly or fast and does not say so yet; standing about cannot."""
    said = facts.speed or facts.style or facts.counted or "pace" in facts.phrase or "speed" in facts.phrase
    state = facts.verb in ("stand", "sit", "kneel") and facts.before == facts.after
    if facts.verb not in SPEED_OK or said or state:
        return []
    return [detail for detail in _SPEEDS if facts.travels or "pace" not in detail]


def _times(facts: Facts) -> list[str]:
    return list(_TIMES) if counts(facts) and not facts.speed else []


_DETAILS: dict[Operation, Callable[[Facts], list[str]]] = {
    "repeat": _times,
    "speed": _speeds,
    "side": _sides,
    "direction": _directions,
    "style": _styles,
}
"""What a change of one meta-motion may say; nothing where the operation does not fit it."""
