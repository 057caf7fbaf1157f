"""Finds performers, limbs and verbs in a tagged text: pure functions over its words, from a place in it.

They say where a phrase that begins at `place` ends (the place after it), or None where none begins there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rl_motion.prompts.vocabulary import BODY, PERFORMERS, listed
from rl_motion.prompts.words import Word

DETERMINERS = frozenset({"DET", "ADJ", "NUM"})
"""Tags of what stands before the noun of a phrase; three of them at most are looked past."""
_JOINTS = listed("then while whilst before after as until when")
"""Words at which a clause may end, beside marks and conjunctions."""
_JOINTS_GO_ON = _JOINTS | listed("also finally next afterwards eventually proceeds")
"""Words that may follow within a joint: `, and then finally`."""
_OBJECTS = listed("it his her their the a both them")
PHASES = listed("start begin continue appear seem try attempt proceed prepare look pretend happen tend want decide")
"""Verbs that only say how far another one is: `starts to walk` is a walk."""
_PHASES_OF_GERUNDS = listed("start begin continue try proceed")
_REFLEXIVES = listed("himself herself itself themself")


def past(words: Sequence[Word], place: int, tags: Collection[str]) -> int:
    """The first place from here whose word has none of the tags; the length where there is none."""
    while place < len(words) and words[place].tag in tags:
        place += 1
    return place


def past_determiners(words: Sequence[Word], place: int, tags: Collection[str] = DETERMINERS) -> int:
    """The place of the noun of a phrase that begins here."""
    return min(past(words, place, tags), place + 3)


def performer_end(words: Sequence[Word]) -> int | None:
    """Of a performer at the start of a text."""
    noun = past_determiners(words, 0)
    return noun + 1 if noun < len(words) and words[noun].text in PERFORMERS else None


def subject_end(words: Sequence[Word], place: int) -> int | None:
    """Of a performer who does something: `the man slowly walks`, `he is`."""
    noun = past_determiners(words, place)
    if noun >= len(words) or words[noun].text not in PERFORMERS:
        return None
    if noun == place and words[noun].tag not in ("PRON", "NOUN"):
        return None
    verb = past(words, noun + 1, ("ADV",))
    return noun + 1 if verb < len(words) and words[verb].tag in ("VERB", "AUX") else None


def limb_end(words: Sequence[Word], place: int) -> int | None:
    """Of a part of the body: `the right leg`."""
    noun = past_determiners(words, place)
    return noun + 1 if noun < len(words) and words[noun].text in BODY else None


def other_side(words: Sequence[Word], place: int) -> bool:
    """`the left`, `the other`: of what was named before."""
    return place + 1 < len(words) and words[place].tag == "DET" and words[place + 1].text in ("left", "right", "other")


def joint_end(words: Sequence[Word], place: int) -> int | None:
    """Of the marks, conjunctions and order words between two clauses: `, and then`."""
    if words[place].tag not in ("PUNCT", "CCONJ") and words[place].text not in _JOINTS:
        return None
    while place < len(words) and (
        words[place].tag in ("PUNCT", "CCONJ")
        or words[place].text in _JOINTS_GO_ON
        or (words[place].text == "that" and words[place - 1].text == "after")
    ):
        place += 1
    return place


def verb_at(words: Sequence[Word], place: int) -> int | None:
    """Where the verb or auxiliary of a clause stands that begins here, past adverbs and commas."""
    while place < len(words) and (words[place].tag == "ADV" or words[place].text == ","):
        place += 1
    return place if place < len(words) and words[place].tag in ("VERB", "AUX") else None


def limb_verb(words: Sequence[Word], end: int) -> int | None:
    """Where the verb of a limb stands whose phrase ended here: `his arms are slowly swinging`."""
    verb = past(words, end, ("AUX", "ADV"))
    return verb if verb < len(words) and words[verb].tag == "VERB" else None


def has_object(words: Sequence[Word], verb: int) -> bool:
    """`and moved it`, `and raised his arm`: no participle that describes something."""
    return verb + 1 < len(words) and words[verb + 1].text in _OBJECTS


def is_phase(words: Sequence[Word], place: int) -> bool:
    """Whether a verb only introduces the next one: `starts to walk`, `begins walking`, `looks like`."""
    verb = words[place]
    place = past(words, place + 1, ("ADV",))
    if verb.lemma not in PHASES or place >= len(words):
        return False
    follower, second = words[place], words[place + 1] if place + 1 < len(words) else None
    if verb.lemma == "look":
        return follower.text == "like" or (follower.text == "to" and second is not None and second.text == "be")
    if follower.text == "to" and second is not None:
        return second.tag in ("VERB", "AUX", "ADV") or second.text == "be"
    return follower.ing and verb.lemma in _PHASES_OF_GERUNDS


def neutral(word: Word) -> str:
    """The word, `their` and `them` for whoever performs."""
    if word.text in ("his", "her", "its") and word.tag == "DET":
        return "their"
    if word.text in ("him", "her") and word.tag == "PRON":
        return "them"
    return "themselves" if word.text in _REFLEXIVES else word.text
