"""What a meta-motion says, and when two texts mean the same.

`read_meta` tells usable meta-motions from what only made sense in its caption; `meaning` is the key under which
paraphrases meet. Both look words up and count them; they know no more of a sentence than its clauses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from rl_motion.prompts import bodies
from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.lexicon import ARMS, COUNTED, LEG_VERBS, LEGS, PERFORMED, PERFORMING, SPEEDS
from rl_motion.prompts.phrases import neutral, performer_end
from rl_motion.prompts.usable import Sentence, unusable
from rl_motion.prompts.vocabulary import listed
from rl_motion.prompts.words import Word, parse

_DIRECTIONS = ("forward", "backward", "clockwise", "counterclockwise", "anticlockwise", "sideways")
_NUMBERS = listed("""
    once twice thrice times time repeatedly continuously several few couple some multiple two many
""")


@dataclass(frozen=True, slots=True)
class Facts:
    """A meta-motion as combining sees it.

    verb: lemma of what is done; of `does jumping jacks` the noun. phrase: the text without its performer.
    uses: parts of the body that are busy (lexicon.py). travels: it goes somewhere.
    before, after: posture held (stand | sit | crouch | kneel | lie | low | any; after `any`: the one before).
    limb: arm | leg, what would carry a side, empty where none would. side, direction, speed: as said, else empty.
    style: a manner is said. counted: a number of times is said.
    """

    verb: str
    phrase: str
    uses: frozenset[str]
    travels: bool
    before: str
    after: str
    limb: str
    side: str
    direction: str
    speed: str
    style: bool
    counted: bool


@lru_cache(maxsize=200_000)
def read_meta(text: str) -> Facts | str:
    """The facts of a meta-motion, or the reason why it is none that can be combined."""
    words = [w for w in parse(text) if w.tag != "PUNCT"]
    start = performer_end(words)
    if start is None:
        return "no performer"
    rest = words[start:]
    head = next((place for place, w in enumerate(rest) if w.tag == "VERB"), None)
    if head is None or any(w.tag != "ADV" for w in rest[:head]):
        return "no verb"
    return unusable(Sentence(text, len(words), rest, head)) or _facts(rest, head)


def counts(facts: Facts) -> bool:
    """Whether it can be done a number of times that is not said yet."""
    returns = facts.verb == "squat" or (facts.verb in COUNTED and facts.before == facts.after)
    return returns and not facts.counted


def _facts(rest: Sequence[Word], head: int) -> Facts:
    verb, after = rest[head].lemma, rest[head + 1 :]
    texts = {w.text for w in rest}
    core = _performed(verb, after) or verb
    uses, named = bodies.busy(core, texts, after), bodies.limbs(after)
    held_before, held_after = bodies.postures(core, texts, after)
    speed = next((name for name, words in SPEEDS.items() if texts & words), "")
    manner = bool(texts & {"with", "without"} and named) or "like" in texts
    return Facts(
        verb=core,
        phrase=" ".join(neutral(w) for w in rest),
        uses=uses,
        travels=bodies.travels(core, texts, after),
        before=held_before,
        after=held_after,
        limb=_limb(core, uses, named),
        side=next((side for side in ("left", "right") if side in texts), ""),
        direction=next((way for way in _DIRECTIONS if texts & {way, f"{way}s"}), ""),
        speed=speed,
        style=manner or (not speed and any(w.tag == "ADV" and w.text.endswith("ly") for w in rest)),
        counted=bool(texts & _NUMBERS) or any(w.tag == "NUM" for w in rest),
    )


def _performed(verb: str, after: Sequence[Word]) -> str:
    """The noun that says what is done, where the verb does not: `does jumping jacks`, `throws a kick`."""
    strikes = verb in ("throw", "swing", "deliver") and any(w.lemma in ("kick", "punch", "uppercut") for w in after[:4])
    if verb not in PERFORMING and not strikes:
        return ""
    named = [w for w in after if w.lemma in PERFORMED or w.text in PERFORMED]
    # `jumping jacks` are jacks, no jump.
    return next((w.lemma for w in [w for w in named if w.tag == "NOUN"] or named), "")


def _limb(core: str, uses: Set[str], named: Set[str]) -> str:
    if uses & ARMS and not uses & (LEGS - named):
        return "arm"
    return "leg" if core in LEG_VERBS - {"balance"} or (named and named <= LEGS) else ""


_SYNONYMS = {
    "jog": "run", "elevate": "raise", "lift": "raise", "twirl": "spin", "rotate": "spin", "grasp": "grab",
    "toss": "throw", "applaud": "clap", "glance": "look", "stroke": "rub", "perform": "do", "execute": "do",
    "rapidly": "fast", "quickly": "fast", "quick": "fast", "swiftly": "fast", "slowly": "slow", "unhurriedly": "slow",
    "forwards": "forward", "ahead": "forward", "backwards": "backward", "anticlockwise": "counterclockwise",
    "upward": "up", "upwards": "up", "downward": "down", "downwards": "down", "towards": "toward", "onto": "on",
    "into": "in", "rear": "behind", "once": "one", "twice": "two", "thrice": "three", "couple": "few",
    "several": "few", "some": "few", "multiple": "few", "steps": "step", "stairs": "stair", "forearm": "arm",
    "object": "something", "item": "something", "thing": "something", "ground": "floor",
}  # fmt: skip
"""Words for others that say the same in captions, by text or lemma."""
_EMPTY = listed("""
    a an the their his her its is are be person at pace in of time while and then also on speed they he she direction
    motion manner with body own way around using by for to same them him
""")
"""Words that change no meaning between paraphrases, once the others are there."""
_KEEP_ORDER = listed("left right up down forward backward back in out")
_AT_ONCE = re.compile(r" while | at the same time| simultaneously| as (?:they|he|she) ")


_PHRASES = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r",? (?:with|keeping) (?:the|their|his|her) head (up|down)\b(.*)$", r"\2 while looking \1"),
        (r"(?<!while) looking (up|down)\b(.*)$", r"\2 while looking \1"),
        (r"look(ing|s) at the ceiling", r"look\1 up"),
        (r"look(ing|s) at the (?:floor|ground)", r"look\1 down"),
        (r"\b(?:in slow motion|at a slow pace|unhurriedly)\b", "slowly"),
        (r"\b(?:at a fast pace|rapidly|swiftly)\b", "quickly"),
        (r"\b(?:one|a single) time\b", "once"),
        (r"\btwo times\b", "twice"),
        (r"\bthree times\b", "thrice"),
        (r"\b(?:wide|big|large)\b", "large"),
        (r"\b(?:tight|little)\b", "small"),
        (r"\bwith (?:the |their |his |her )?arms (?:spread|like wings|outstretched)\b", "with outspread arms"),
        (
            r"\bwith (?:the |their |his |her )?(?:hands on (?:the |their |his |her )?hips|arms akimbo)\b",
            "with arms akimbo",
        ),
        (r"\b(?:with (?:the |their |his |her )?knees bent|in a low stance)\b", "with bent knees"),
        (r"\bon the (left|right) side\b", r"\1"),
        (r"\bin an? ((?:counter ?|anti)?clockwise) (?:direction|manner|motion|fashion)\b", r"\1"),
    )
)
"""Ways to say the same that no single word decides."""


@lru_cache(maxsize=200_000)
def meaning(text: str) -> str:
    """Key under which paraphrases meet: each motion's verb and content words by synonym class, motions in order.

    Order within a motion counts only among directions (`left to right`). Motions at the same time are sorted.
    """
    said = " ".join(text.lower().split())
    for pattern, plain in _PHRASES:
        said = pattern.sub(plain, said)
    keys = [_clause_key(clause) for clause in decompose(said) or [said]]
    if _AT_ONCE.search(f" {said} "):
        return "|".join(sorted(keys))
    if said.split()[:1] == ["before"]:
        keys = keys[1:] + keys[:1]
    return ">".join(keys)


def _clause_key(clause: str) -> str:
    words = [w for w in parse(clause) if w.tag != "PUNCT"]
    words = words[performer_end(words) or 0 :]
    canonical = [_SYNONYMS.get(w.text, _SYNONYMS.get(w.lemma, w.lemma)) for w in words]
    verb = next((c for c, w in zip(canonical, words, strict=True) if w.tag == "VERB"), "")
    if verb in ("raise", "lower", "wave", "swing", "punch"):
        canonical = ["arm" if c in ("hand", "fist") else c for c in canonical]
    if verb in ("kick", "raise", "swing"):
        canonical = ["leg" if c == "foot" else c for c in canonical]
    ordered = [c for c in canonical if c in _KEEP_ORDER]
    rest = sorted(set(canonical) - _EMPTY - _KEEP_ORDER - {verb})
    return " ".join([verb, *rest, *ordered])
