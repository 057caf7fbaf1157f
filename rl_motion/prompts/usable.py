"""Which meta-motions can be combined with others: motions of one body that stand by themselves.

Out of its caption a meta-motion may point to what is gone (`does it again`), be cut short (`raises their`), hold a
second clause that grammar did not see, or need another body. Such ones are told by rules, each with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rl_motion.prompts.lexicon import (
    ARM_VERBS,
    HEAD_VERBS,
    JUMPS,
    LEG_VERBS,
    LIMBS,
    NEEDS_OBJECT,
    NO_ANTECEDENT,
    OTHERS,
    PERFORMED,
    PERFORMING,
    POSTURES,
    TORSO_VERBS,
    TRAVEL,
    TURNS,
)
from rl_motion.prompts.vocabulary import listed
from rl_motion.prompts.words import Word, dictionary, inflect

MAX_WORDS = 15
"""Of a meta-motion: longer ones are clauses that grammar did not see through."""
_KNOWN_VERBS = (
    TRAVEL | JUMPS | TURNS | LEG_VERBS | ARM_VERBS | HEAD_VERBS | TORSO_VERBS | POSTURES.keys() | {"stand", "get"}
)
_OPEN_ENDED = listed("with of from at for their towards to into by")
"""After these something must follow."""
_OTHER_CLAUSE = listed("while as before after then until if because though like to")
_NEVER_LIMBS = listed("eat pick drink climb dig pour play catch dribble juggle conduct write type step walk")
"""What is done to things only: `picks his left hand` lost its preposition."""
_GERUND_OBJECTS = listed("jack jacks walking boxing starting standing")
_HALVES_OF_ONE = listed("leg foot arm hand knee side step time full turn another")
"""`one leg`: here `one` is a number."""
_COUNTED_THINGS = listed(
    "item object ball box bottle chair cup phone rock stick bag dumbbell racket table club telephone"
)
"""Things that need an article: `lifts item`."""
_MANNERS = listed("manner fashion motion way")
_PLACES_OF_THEM = listed("of behind beside around above below under with")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A meta-motion: its text, its words without marks and without performer, and which of them is the verb."""

    text: str
    length: int
    """Words in all."""
    rest: Sequence[Word]
    head: int

    @property
    def verb(self) -> Word:
        """What is done."""
        return self.rest[self.head]

    @property
    def after(self) -> Sequence[Word]:
        """The words after the verb."""
        return self.rest[self.head + 1 :]


def unusable(sentence: Sentence) -> str:
    """Why this is no motion of one body that stands by itself; empty where it is."""
    return next((reason for reason, applies in _RULES if applies(sentence)), "")


def _unknown(sentence: Sentence) -> bool:
    return any(w.tag in ("NOUN", "VERB", "ADJ", "ADV") and not _known(w.text) for w in sentence.rest)


def _known(word: str) -> bool:
    return bool(dictionary(word.partition("'")[0])) or word.endswith("ly") or word in LIMBS


def _several_clauses(sentence: Sentence) -> bool:
    verb = sentence.verb
    if verb.text != inflect(verb.lemma, "VBZ") or (any(w.ing for w in sentence.after) and not _takes_gerund(sentence)):
        return True
    return any(
        w.third
        or w.tag == "AUX"
        or (w.tag == "VERB" and w.text == w.lemma)
        or (w.text in _OTHER_CLAUSE and w.tag in ("SCONJ", "PART"))
        for w in sentence.after
    )


def _takes_gerund(sentence: Sentence) -> bool:
    """`does jumping jacks`, `starts walking`."""
    takes = sentence.verb.lemma in ("do", "perform", "make", "take", "throw", "start", "go")
    return takes or any(w.text in _GERUND_OBJECTS for w in sentence.after)


def _points_back(sentence: Sentence) -> bool:
    return any(
        (w.text in NO_ANTECEDENT or w.text in ("them", "him", "themself") or (w.text == "her" and w.tag == "PRON"))
        and not _harmless(w, sentence.rest)
        for w in sentence.rest
    )


def _harmless(word: Word, rest: Sequence[Word]) -> bool:
    """`back and forth`, `their back`, `in front of them`, `each other`: nothing that was said before."""
    place = rest.index(word)
    follower = rest[place + 1].text if place + 1 < len(rest) else ""
    before = rest[place - 1] if place else None
    match word.text:
        case "back":
            return follower == "and" or word.tag == "NOUN"
        case "them" | "him" | "her":
            return before is not None and before.text in _PLACES_OF_THEM
        case "still":
            return before is not None and before.lemma in ("stand", "sit", "lie", "stay")
        case "other":
            return before is not None and before.text == "each"
        case "one":
            return follower in _HALVES_OF_ONE or word.tag == "NUM"
    return False


def _cut_short(sentence: Sentence) -> bool:
    """Whether something must follow the last word: `with their`, `reaches their right`."""
    if not sentence.after:
        return False
    last, before = sentence.after[-1], sentence.after[-2] if len(sentence.after) > 1 else None
    if last.text in ("left", "right") and before is not None:
        # `creeps to their left` is whole.
        of_a_limb = before.text in ("their", "his", "her", "the") and [w.tag for w in sentence.after[-3:-2]] != ["ADP"]
        return of_a_limb or before.text in ("with", "both", "and") or before.tag == "ADJ"
    return last.tag in ("DET", "CCONJ", "AUX", "PART") or last.text in _OPEN_ENDED


def _misses_preposition(sentence: Sentence) -> bool:
    """The first noun is a limb, before any preposition: `eats his hand`, not `walks with crossed arms`."""
    first = next((w for w in sentence.after if w.tag in ("NOUN", "ADP")), sentence.verb)
    return sentence.verb.lemma in _NEVER_LIMBS and first.text in LIMBS


def _slip(sentence: Sentence) -> bool:
    """`lifts item`, `takes a big steps`, `walks side to side manner`, `in circle's`: no sentence to go on with."""
    texts = [w.text for w in sentence.after]
    if any("'" in text for text in texts) or (_MANNERS & set(texts) and not {"in", "with", "a", "the"} & set(texts)):
        return True
    first = next((w for w in sentence.after if w.tag not in ("ADJ", "ADV")), None)
    if first is not None and first.text in _COUNTED_THINGS:
        return True
    for place, word in enumerate(sentence.after):
        following = next((w for w in sentence.after[place + 1 :] if w.tag != "ADJ"), None)
        plural = following is not None and following.tag == "NOUN" and following.lemma != following.text
        if word.text in ("a", "an") and plural and following is not None and following.text.endswith("s"):
            return True
    return False


def _unplaced(sentence: Sentence) -> bool:
    """`puts their right hand`: where?"""
    place = any(w.tag == "ADP" or (w.tag == "ADV" and not w.text.endswith("ly")) for w in sentence.rest)
    return sentence.verb.lemma in ("put", "place", "set", "lay", "bring") and not place


def _unknown_motion(sentence: Sentence) -> bool:
    lemma, after = sentence.verb.lemma, sentence.after
    if lemma == "throw":
        return False
    if lemma in PERFORMING:
        performed = any(w.lemma in PERFORMED or w.text in PERFORMED for w in after)
        return not (performed or (lemma == "take" and any(w.text == "seat" for w in after)))
    if lemma in ("move", "go"):
        return not after
    return lemma not in _KNOWN_VERBS


def _misses_object(sentence: Sentence) -> bool:
    """A verb that needs an object, or at least a place, has none: `lifts up`, `raises`."""
    return sentence.verb.lemma in NEEDS_OBJECT and not any(
        w.tag == "NOUN" or w.text in ("something", "themselves", "himself", "herself") for w in sentence.after
    )


_RULES: tuple[tuple[str, Callable[[Sentence], bool]], ...] = (
    ("too long", lambda sentence: sentence.length > MAX_WORDS),
    ("several parts", lambda sentence: any(mark in sentence.text for mark in ",;:()/?!")),
    ("unknown word", _unknown),
    ("not one clause", _several_clauses),
    ("points back", _points_back),
    ("another body", lambda sentence: any(w.text in OTHERS for w in sentence.after)),
    ("not one clause", lambda sentence: any(w.text in ("after", "before") for w in sentence.after)),
    ("cut short", _cut_short),
    ("cut short", _unplaced),
    ("a slip", _slip),
    ("does to a limb what is done to things", _misses_preposition),
    ("several parts", lambda sentence: sum(w.tag == "CCONJ" for w in sentence.after) > 1),
    ("unknown motion", _unknown_motion),
    ("says not what is moved", _misses_object),
)
"""Reasons in the order in which they are looked for; the first that applies is told."""
