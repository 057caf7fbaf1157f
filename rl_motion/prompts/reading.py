"""What a meta-motion asks of a body, and when two texts mean the same.

`read_meta` tells usable meta-motions from what only made sense in its caption; `meaning` is the key under which paraphrases meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rl_motion.prompts.clauses import PERFORMERS, decompose
from rl_motion.prompts.lexicon import (
    ARM_VERBS,
    ARMS,
    COUNTED,
    HEAD_VERBS,
    JUMPS,
    LEG_VERBS,
    LEGS,
    LIMBS,
    NEEDS_OBJECT,
    NO_ANTECEDENT,
    OTHERS,
    PERFORMED,
    POSTURES,
    SPEEDS,
    TORSO_VERBS,
    TRAVEL,
    TURNS,
    WHOLE,
)
from rl_motion.prompts.words import Word, dictionary, inflect, parse

_OPEN_ENDED = frozenset("with of from at for their towards to into by".split())
_NEVER_LIMBS = frozenset("eat pick drink climb dig pour play catch dribble juggle conduct write type step walk".split())
"""What is done to things only: `picks his left hand` lost its preposition."""
MAX_WORDS = 15
"""Of a meta-motion: longer ones are clauses that grammar did not see through."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A meta-motion as combining sees it.

    verb: lemma of what is done; of `does jumping jacks` the noun. phrase: the text without its subject.
    uses: parts of the body that are busy (lexicon.py). travels: it goes somewhere.
    before, after: posture held (stand | sit | crouch | kneel | lie | low | any; after `any`: the one before).
    limb: arm | leg, what would carry a side, empty where none would. side, direction, speed, style: as said, else empty.
    counted: a number of times is said.
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


def read_meta(text: str) -> Facts | str:
    """The facts of a meta-motion, or the reason why it is none that can be combined."""
    return _read(text)


@lru_cache(maxsize=200_000)
def _read(text: str) -> Facts | str:
    words = [w for w in parse(text) if w.tag != "PUNCT"]
    subject = _subject_length(words)
    if not subject:
        return "no performer"
    rest = words[subject:]
    head = next((n for n, w in enumerate(rest) if w.tag == "VERB"), None)
    if head is None or any(w.tag not in ("ADV",) for w in rest[:head]):
        return "no verb"
    reason = _unusable(text, words, rest, head)
    if reason:
        return reason
    return _facts(rest, head)


def _unusable(text: str, words: list[Word], rest: list[Word], head: int) -> str:
    """Why the text is no motion of one body that stands by itself; empty where it is."""
    if len(words) > MAX_WORDS:
        return "too long"
    if any(mark in text for mark in ",;:()/?!"):
        return "several parts"
    unknown = [w.text for w in rest if w.tag in ("NOUN", "VERB", "ADJ", "ADV") and not _known(w.text)]
    if unknown:
        return "unknown word"
    after = rest[head + 1 :]
    if any(w.third or (w.tag == "AUX") for w in after) or rest[head].text != inflect(rest[head].lemma, "VBZ"):
        return "not one clause"
    if any(
        w.text in ("while", "as", "before", "after", "then", "until", "if", "because", "though", "like", "to")
        and w.tag in ("SCONJ", "PART")
        for w in after
    ):
        return "not one clause"
    if any(w.ing for w in after) and not _performs(rest[head], after):
        return "not one clause"
    if any(w.tag == "VERB" and w.text == w.lemma for w in after):
        return "not one clause"
    lost = [
        w
        for w in rest
        if (w.text in NO_ANTECEDENT or w.text in ("them", "him", "themself") or (w.text == "her" and w.tag == "PRON"))
        and not _harmless(w, rest)
    ]
    if lost:
        return "points back"
    if any(w.text in OTHERS for w in after):
        return "another body"
    if any(w.text in ("after", "before") for w in after):
        return "not one clause"
    if after and _cut_short(after):
        return "cut short"
    if rest[head].lemma in _NEVER_LIMBS and next((w for w in after if w.tag == "NOUN"), rest[head]).text in LIMBS:
        return "does to a limb what is done to things"
    if sum(w.tag == "CCONJ" for w in after) > 1:
        return "several parts"
    if not _verb_known(rest[head], after):
        return "unknown motion"
    return "" if _complete(rest[head], after) else "says not what is moved"


def _cut_short(after: list[Word]) -> bool:
    """Whether something must follow the last word: `with their`, `reaches their right`."""
    last, before = after[-1], after[-2].text if len(after) > 1 else ""
    if last.text in ("left", "right"):
        return before in ("their", "his", "her", "with", "both", "and") or len(after) > 1 and after[-2].tag == "ADJ"
    return last.tag in ("DET", "CCONJ", "AUX", "PART") or last.text in _OPEN_ENDED


def _complete(verb: Word, after: list[Word]) -> bool:
    """Whether a verb that needs an object, or at least a place, has one: `lifts up` and `raises` lack it."""
    if verb.lemma not in NEEDS_OBJECT:
        return True
    return any(w.tag == "NOUN" or w.text in ("something", "themselves", "himself", "herself") for w in after)


def _harmless(word: Word, rest: list[Word]) -> bool:
    """`back and forth`, `their back`, `in front of them`, `each other`."""
    place = rest.index(word)
    follower = rest[place + 1].text if place + 1 < len(rest) else ""
    before = rest[place - 1].text if place else ""
    if word.text == "back":
        return (follower == "and") or word.tag == "NOUN"
    if word.text in ("them", "him", "her"):
        return before in ("of", "behind", "beside", "around", "above", "below", "under", "with")
    if word.text == "still":
        return place > 0 and rest[place - 1].lemma in ("stand", "sit", "lie", "stay")
    if word.text == "other":
        return before == "each"
    if word.text == "one":
        return (
            follower in ("leg", "foot", "arm", "hand", "knee", "side", "step", "time", "full", "turn", "another")
            or word.tag == "NUM"
        )
    return False


def _known(word: str) -> bool:
    return bool(dictionary(word.partition("'")[0])) or word.endswith("ly") or word in LIMBS


def _performs(verb: Word, after: list[Word]) -> bool:
    return verb.lemma in ("do", "perform", "make", "take", "throw", "start", "go") or any(
        w.text in ("jack", "jacks", "walking", "boxing", "starting", "standing") for w in after
    )


def _verb_known(verb: Word, after: list[Word]) -> bool:
    lemma = verb.lemma
    if lemma in ("do", "perform", "take", "make", "throw", "execute", "complete", "practice"):
        return bool({w.lemma for w in after} & PERFORMED or {w.text for w in after} & PERFORMED) or (
            lemma == "throw" or (lemma == "take" and "seat" in {w.text for w in after})
        )
    if lemma in ("move", "go"):
        return bool(after)
    return (
        lemma in TRAVEL | JUMPS | TURNS | LEG_VERBS | ARM_VERBS | HEAD_VERBS | TORSO_VERBS
        or lemma in POSTURES
        or lemma in ("stand", "get", "do")
    )


def _subject_length(words: list[Word]) -> int:
    place = 0
    while place < len(words) and words[place].tag in ("DET", "ADJ", "NUM") and place < 3:
        place += 1
    return place + 1 if place < len(words) and words[place].text in PERFORMERS else 0


def _facts(rest: list[Word], head: int) -> Facts:
    verb, after = rest[head], rest[head + 1 :]
    lemma = verb.lemma
    named = _limbs(after)
    performed = (
        next((w.lemma for w in after if w.lemma in PERFORMED or w.text in PERFORMED), "")
        if lemma in ("do", "perform", "take", "make", "execute", "complete", "practice") or _strikes(lemma, after)
        else ""
    )
    core = performed or lemma
    texts = {w.text for w in rest}
    before, held = _posture(core, texts, after)
    uses, travels = _busy(core, texts, named, after)
    speed = next((name for name, words in SPEEDS.items() if texts & words), "")
    counted = (
        bool(texts & {"once", "twice", "thrice", "times", "time", "repeatedly", "continuously"})
        or any(w.tag == "NUM" for w in rest)
        or bool(texts & {"several", "few", "couple", "some", "multiple", "two", "many"})
    )
    side = "left" if "left" in texts else "right" if "right" in texts else ""
    direction = next(
        (
            d
            for d in ("forward", "backward", "clockwise", "counterclockwise", "anticlockwise", "sideways")
            if texts & {d, d + "s"}
        ),
        "",
    )
    limb = (
        "arm"
        if uses & ARMS and not uses & (LEGS - named)
        else "leg"
        if core in LEG_VERBS - {"balance"} or (named and named <= LEGS)
        else ""
    )
    phrase = " ".join(_their(w) for w in rest)
    style = bool(texts & {"with", "like", "without"} and (named or "like" in texts)) or any(
        w.tag == "ADV" and w.text.endswith("ly") and not speed for w in rest
    )
    return Facts(core, phrase, uses, travels, before, held, limb, side, direction, speed, style, counted)


def _strikes(lemma: str, after: list[Word]) -> bool:
    """`throws a kick`, `swings a punch`: the noun says what moves."""
    return lemma in ("throw", "swing", "deliver") and bool({w.lemma for w in after[:4]} & {"kick", "punch", "uppercut"})


def _their(word: Word) -> str:
    """One performer, one pronoun: `their`."""
    if word.text in ("his", "her", "its") and word.tag == "DET":
        return "their"
    if word.text in ("him", "her") and word.tag == "PRON":
        return "them"
    return {"himself": "themselves", "herself": "themselves", "itself": "themselves", "themself": "themselves"}.get(
        word.text, word.text
    )


def _limbs(after: list[Word]) -> frozenset[str]:
    """Parts that the words after the verb name: `their left arm`, `both hands`, `knees`."""
    found: set[str] = set()
    for place, word in enumerate(after):
        part = LIMBS.get(word.text)
        if part is None or (part == "torso" and word.text in ("hip", "hips")):
            continue
        near = {w.text for w in after[max(0, place - 3) : place]}
        if part in ("arm", "leg"):
            sides = (
                ["left"]
                if "left" in near and "right" not in near
                else ["right"]
                if "right" in near and "left" not in near
                else ["left", "right"]
            )
            found |= {f"{side}_{part}" for side in sides}
        else:
            found.add(part)
    return frozenset(found)


def _posture(core: str, texts: set[str], after: list[Word]) -> tuple[str, str]:
    if core in ("stand", "get", "rise"):
        return ("low", "stand") if "up" in texts else ("stand", "stand")
    if core in ("take", "lower") and texts & {"seat", "chair"}:
        return "stand", "sit"
    if core in POSTURES:
        return POSTURES[core]
    if core in TRAVEL | JUMPS | LEG_VERBS | TORSO_VERBS | PERFORMED or (core in TURNS and not _limbs(after)):
        return (
            ("kneel", "kneel")
            if texts & {"knees", "fours"} and texts & {"on"} and core in TRAVEL
            else ("stand", "stand")
        )
    return "any", "any"


def _busy(core: str, texts: set[str], named: frozenset[str], after: list[Word]) -> tuple[frozenset[str], bool]:  # noqa: PLR0911
    """Parts of the body that are busy, and whether the motion goes somewhere."""
    object_first = bool(after) and after[0].tag in ("DET", "NOUN", "NUM") and bool(named)
    if core in (
        "jack",
        "cartwheel",
        "handstand",
        "pushup",
        "somersault",
        "backflip",
        "flip",
        "burpee",
        "situp",
        "roll",
        "dance",
        "waltz",
        "salsa",
        "jig",
        "exercise",
        "crawl",
        "swim",
        "climb",
        "fall",
        "lie",
    ):
        return WHOLE, core in ("crawl", "climb", "dance", "waltz", "salsa", "roll", "swim")
    if core in ("move", "circle", "sway", "back") and object_first:
        return named, False
    if core in TRAVEL and not (core == "step" and "place" in texts):
        return LEGS | {"root"} | (named & ARMS), not texts & {"place", "spot", "treadmill"}
    if core in JUMPS or core in POSTURES or core in ("stand", "get", "squat", "step", "march"):
        return LEGS | {"root", "torso"} | named, False
    if core in TURNS:
        return (
            (named, False)
            if named & (ARMS | LEGS | {"head"}) and object_first
            else (LEGS | {"root", "torso"} | named, False)
        )
    if core in HEAD_VERBS or (core in ("shake", "tilt", "turn") and "head" in texts):
        return frozenset({"head"}), False
    if core in LEG_VERBS:
        return LEGS | {"root"} | named, False
    if core in ("take", "lower") and texts & {"seat", "chair"}:
        return LEGS | {"root", "torso"}, False
    if core in TORSO_VERBS and not (named & (ARMS | LEGS)):
        return LEGS | {"root", "torso"}, False
    if core in TORSO_VERBS and named & LEGS:
        return LEGS | {"root"}, False
    if named & (ARMS | LEGS):
        return named | ({"root"} if named & LEGS else frozenset()), False
    return ARMS, False


_SYNONYMS = {
    "jog": "run", "elevate": "raise", "lift": "raise", "twirl": "spin", "grasp": "grab", "toss": "throw", "applaud": "clap",
    "rapidly": "fast", "quickly": "fast", "quick": "fast", "swiftly": "fast", "slowly": "slow", "unhurriedly": "slow",
    "forwards": "forward", "ahead": "forward", "backwards": "backward", "anticlockwise": "counterclockwise",
    "sidestep": "sidestep", "stroll": "stroll", "upward": "up", "upwards": "up", "downward": "down", "downwards": "down",
    "thrice": "three", "couple": "few", "several": "few", "some": "few", "multiple": "few", "stairs": "stair", "steps": "step",
    "rotate": "spin", "towards": "toward", "onto": "on", "into": "in", "forearm": "arm", "twice": "two",
    "once": "one", "perform": "do", "execute": "do", "glance": "look", "stroke": "rub",
    "object": "something", "item": "something", "thing": "something", "ground": "floor", "rear": "behind", "gently": "gently",
}  # fmt: skip
_EMPTY = frozenset(
    "a an the their his her its is are be person at pace in of time while and then also on speed they he she direction "
    "motion manner with body own way around using by for to".split()
)
"""Words that change no meaning between paraphrases, once the others are there."""
_KEEP_ORDER = frozenset("left right up down forward backward back in out".split())


@lru_cache(maxsize=200_000)
def meaning(text: str) -> str:
    """Key under which paraphrases meet: each motion's verb and content words by synonym class, motions in order.

    Order within a motion counts only among directions (`left to right`). Motions at the same time are sorted.
    """
    return ("|" if _simultaneous(text) else ">").join(
        _order(text, [_clause_key(clause) for clause in decompose(text) or [text]])
    )


def _order(text: str, keys: list[str]) -> list[str]:
    if _simultaneous(text):
        return sorted(keys)
    words = text.lower().split()
    if words and words[0] == "before":
        return keys[1:] + keys[:1]
    return keys


def _simultaneous(text: str) -> bool:
    padded = f" {text.lower()} "
    return any(
        mark in padded
        for mark in (" while ", " at the same time", " simultaneously", " as they ", " as he ", " as she ")
    )


def _clause_key(clause: str) -> str:
    words = [w for w in parse(clause) if w.tag != "PUNCT"]
    words = words[_subject_length(words) :]
    canonical = [_SYNONYMS.get(w.text, _SYNONYMS.get(w.lemma, w.lemma)) for w in words]
    verb = next((c for c, w in zip(canonical, words, strict=True) if w.tag == "VERB"), "")
    if verb in ("raise", "lower", "wave", "swing", "punch"):
        canonical = ["arm" if c in ("hand", "fist") else c for c in canonical]
    if verb in ("kick", "raise", "swing"):
        canonical = ["leg" if c == "foot" else c for c in canonical]
    ordered = [c for c in canonical if c in _KEEP_ORDER]
    rest = sorted(
        {c for c in canonical if c not in _EMPTY and c not in _KEEP_ORDER and c != verb and c not in ("same",)}
    )
    return " ".join([verb, *rest, *ordered])


def counts(facts: Facts) -> bool:
    """Whether it can be done a number of times that is not said yet."""
    return (
        facts.verb in COUNTED
        and not facts.counted
        and facts.before == facts.after
        or (facts.verb == "squat" and not facts.counted)
    )
