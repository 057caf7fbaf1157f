"""Words of motion captions with their parts of speech, in HumanML3D's own form.

HumanML3D's text processing tagged its captions with spaCy: hyphens removed, alphabetic tokens only, `word/POS` with the
lemma of nouns and verbs (not of "left") and Universal POS tags; models trained on it expect that form. This makes the
same form without a model: words whose class is closed are listed (vocabulary.py), the others come from lemminflect's
dictionary, and what is ambiguous is settled by rules over the neighbours, left to right. A rule returns a tag, or "" to
leave the word to the next one.

It is made for English captions of motions: an unknown word is told by its ending, and letters beyond a to z
are dropped. Accuracy on gold labels: README.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from rl_motion.prompts.vocabulary import (
    ADJECTIVES_FIRST,
    AFTER_VERBS,
    ALSO_INFINITIVES,
    CLAUSE_AFTER_AS,
    CLOSED,
    FORMS,
    MENDED,
    MOSTLY_NOUNS,
    NO_SIDES_NOUN,
    NOUNS_IN_ING,
    NOUNS_THAT_ACT,
    OWNERS,
    STATIVE,
    SUBJECTS,
    TYPOS,
    VERBS_IN_S,
)

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[,.;:!?/()]")
_OPEN_TAGS = ("NOUN", "ADJ", "ADV", "VERB")
"""Of open classes, the likelier first where nothing else tells."""


@dataclass(frozen=True, slots=True)
class Word:
    """A token: as written (lower case, mended), its Universal POS (`PUNCT` for marks) and its lemma."""

    text: str
    tag: str
    lemma: str

    @property
    def ing(self) -> bool:
        """A present participle."""
        return self.tag == "VERB" and self.text.endswith("ing") and self.lemma != self.text

    @property
    def third(self) -> bool:
        """The third person singular of a verb."""
        return self.tag == "VERB" and self.text.endswith("s") and self.text != self.lemma

    @property
    def past(self) -> bool:
        """A past form or past participle that differs from the base."""
        return self.tag == "VERB" and not self.ing and not self.third and self.text != self.lemma


def tokens(text: str) -> list[str]:
    """HumanML3D's `word/POS` tokens."""
    return [f"{word}/{pos}" for word, pos in tag(text)]


def tag(text: str) -> list[tuple[str, str]]:
    """(word, Universal POS) of the alphabetic tokens, in HumanML3D's form."""
    out = []
    for word in parse(text):
        plain = word.text.partition("'")[0]
        if plain.isalpha():
            out.append((word.lemma if word.tag in ("NOUN", "VERB") else plain, word.tag))
    return out


def parse(text: str) -> list[Word]:
    """Every token with its tag and lemma, punctuation included."""
    words = split(text)
    tags: list[str] = []
    for place in range(len(words)):
        tags.append(_tag(words, tags, place))
    return [Word(word, pos, _lemma(word, pos)) for word, pos in zip(words, tags, strict=True)]


def split(text: str) -> list[str]:
    """Lower-case tokens, punctuation of their own, hyphens removed, frequent misspellings mended."""
    clean = text.lower().replace("’", "'").replace("-", "").replace("&", " and ")
    words = []
    for token in _TOKEN.findall(clean):
        words += TYPOS.get(token, token).split()
    return words


@cache
def dictionary(word: str) -> Mapping[str, str]:
    """Possible tags of an open-class word with its lemma for each, from lemminflect's dictionary; empty: unknown."""
    if word in ("left", "right"):
        return {"ADJ": word, "NOUN": word, "ADV": word}
    if word in MENDED:
        return MENDED[word]
    from lemminflect import getAllLemmas

    return {pos: lemmas[0] for pos, lemmas in getAllLemmas(word).items() if pos in _OPEN_TAGS}


@cache
def inflect(lemma: str, form: str) -> str:
    """A verb's form by its Penn tag: VBZ walks, VBG walking."""
    if lemma == "be":
        return {"VBZ": "is", "VBG": "being"}[form]
    if (lemma, form) in FORMS:
        return FORMS[lemma, form]
    from lemminflect import getInflection

    return str(getInflection(lemma, tag=form)[0])


def _lemma(token: str, pos: str) -> str:
    plain = token.partition("'")[0]
    if pos not in _OPEN_TAGS:
        return plain
    if pos == "VERB" and plain in ("has", "have", "had", "having"):
        return "have"
    if pos == "VERB" and plain in ("does", "did", "doing", "do"):
        return "do"
    return dictionary(plain).get(pos, _stripped(plain, pos))


def _stripped(word: str, pos: str) -> str:
    """The lemma of a word that no dictionary has, by its ending."""
    if pos == "VERB" and word.endswith("ing") and len(word) > 5:
        return word[:-3]
    if pos in ("VERB", "NOUN") and word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word


class _Spot(NamedTuple):
    """A word that wants its tag: the words of the text, the tags before, and the neighbours, empty at the ends."""

    word: str
    before: str
    tag_before: str
    after: str
    words: Sequence[str]
    tags: Sequence[str]
    place: int


def _tag(words: Sequence[str], tags: Sequence[str], place: int) -> str:
    word = words[place].partition("'")[0]
    if not word[0].isalnum():
        return "PUNCT"
    if word[0].isdigit():
        return "NUM"
    before, tag_before = (words[place - 1], tags[place - 1]) if place else ("", "")
    after = words[place + 1] if place + 1 < len(words) else ""
    spot = _Spot(word, before, tag_before, after, words, tags, place)
    special = _BY_WORD[word](spot) if word in _BY_WORD else ""
    if special or word in CLOSED:
        return special or CLOSED[word]
    found = dictionary(word)
    if not found:
        return _by_ending(word)
    return next(iter(found)) if len(found) == 1 else _ambiguous(spot, found)


def _by_ending(word: str) -> str:
    if word.endswith("ly"):
        return "ADV"
    return "VERB" if word.endswith(("ing", "ed")) else "NOUN"


# -- words with rules of their own


def _of_to(spot: _Spot) -> str:
    """Before an infinitive a particle, else a preposition."""
    base = dictionary(spot.after).get("VERB") == spot.after and spot.after not in MOSTLY_NOUNS - ALSO_INFINITIVES
    return "PART" if base and spot.after not in CLOSED else "ADP"


def _of_way(spot: _Spot) -> str:
    """`around the table`, but `turns around`."""
    closed = CLOSED.get(spot.after) in ("DET", "NUM", "PRON")
    noun_follows = (closed or "NOUN" in dictionary(spot.after)) and spot.after not in ("", "and", "then")
    return "ADP" if noun_follows or spot.word == "by" else "ADV"


def _of_side(spot: _Spot) -> str:
    """`left arm`, `to the left`, `turns left`."""
    noun_follows = (
        spot.after[:1].isalpha()
        and "NOUN" in dictionary(spot.after)
        and spot.after not in NO_SIDES_NOUN
        and not (spot.after in VERBS_IN_S and spot.after not in MOSTLY_NOUNS)
    )
    if noun_follows:
        return "ADJ"
    return "NOUN" if spot.tag_before in ("DET", "ADP") else "ADV"


def _of_motion(spot: _Spot) -> str:
    """`in a waving motion`, but `the man then motions`."""
    named = spot.tag_before in ("ADJ", "ADV") or spot.before in ("a", "for")
    return "NOUN" if named and spot.before not in ("then", "also", "still", "slowly", "quickly") else ""


def _of_that(spot: _Spot) -> str:
    if spot.before == "after":
        return "PRON"
    return "DET" if "NOUN" in dictionary(spot.after) and spot.tag_before != "NOUN" else "SCONJ"


def _of_her(spot: _Spot) -> str:
    """`her arm`, but `beside her`."""
    return "PRON" if not spot.after[:1].isalnum() or spot.after in CLOSED else ""


def _of_back(spot: _Spot) -> str:
    return "NOUN" if spot.tag_before == "DET" or spot.before in ("lower", "upper") else "ADV"


def _of_right(spot: _Spot) -> str:
    return "ADV" if spot.after == "then" else _of_side(spot)


def _for_all(words: str, rule: Callable[[_Spot], str]) -> dict[str, Callable[[_Spot], str]]:
    return dict.fromkeys(words.split(), rule)


_BY_WORD: dict[str, Callable[[_Spot], str]] = {
    "to": _of_to,
    **_for_all("up down off out over", lambda spot: "ADP"),
    **_for_all("around across along through by past", _of_way),
    "back": _of_back,
    "as": lambda spot: "SCONJ" if spot.after in CLAUSE_AFTER_AS else "ADP",
    **_for_all("clockwise counterclockwise anticlockwise", lambda spot: "ADJ" if _noun_like(spot.after) else "ADV"),
    "like": lambda spot: "SCONJ",
    "human": lambda spot: "NOUN",
    "first": lambda spot: "ADV" if not spot.before or spot.before in SUBJECTS else "",
    "that": _of_that,
    "her": _of_her,
    "motion": _of_motion,
    "while": lambda spot: "NOUN" if spot.before in ("a", "for") else "",
    "so": lambda spot: "ADV" if spot.after == "then" else "",
    "left": _of_side,
    "right": _of_right,
    **_for_all("has have had having", lambda spot: "AUX" if _past_form(spot.after) else "VERB"),
    **_for_all("do doing", lambda spot: "VERB"),
    **_for_all("does did", lambda spot: "AUX" if spot.after == "not" else "VERB"),
    **_for_all("both all each", lambda spot: "PRON" if spot.after == "of" else ""),
    "one": lambda spot: "NOUN" if spot.before in ("the", "this", "that", "other") else "",
    **_for_all("near next", lambda spot: "ADV" if spot.after == "to" else ""),
    **_for_all("still straight", lambda spot: "ADV" if spot.before in STATIVE else ""),
}
"""Rules of words whose tag their neighbours decide, whatever the dictionary says."""


# -- words of several open classes


def _ambiguous(spot: _Spot, found: Mapping[str, str]) -> str:
    for rule in _IN_ORDER:
        decided = rule(spot, found)
        if decided:
            return decided
    return next(pos for pos in _OPEN_TAGS if pos in found)


def _gerund(spot: _Spot, found: Mapping[str, str]) -> str:
    """Forms in -ing are verbs; `the boxing`, of those that mostly are nouns, is none."""
    if not spot.word.endswith("ing") or "VERB" not in found or spot.word in NOUNS_IN_ING:
        return ""
    noun = spot.word in MOSTLY_NOUNS and spot.tag_before in ("DET", "ADJ", "ADP") and not _noun_like(spot.after)
    return "NOUN" if noun else "VERB"


def _adjective(spot: _Spot, found: Mapping[str, str]) -> str:
    """`a slow walk`, `walks slow`; `open`, `lower` and `still` are adjectives right after a determiner only."""
    if spot.word not in ADJECTIVES_FIRST or "ADJ" not in found:
        return ""
    verb, mostly_else = "VERB" in found, spot.word in ("open", "lower", "still")
    if spot.tag_before == "NUM" or (spot.tag_before == "DET" and (mostly_else or spot.after in VERBS_IN_S)):
        return "ADJ"
    if _noun_like(spot.after) and not mostly_else:
        return "ADJ"
    if "ADV" in found and spot.tag_before not in ("DET", "AUX") and not (verb and spot.tag_before in ("PRON", "PART")):
        return "ADV"
    return "" if verb and spot.tag_before in ("PART", "CCONJ", "PRON", "") else "ADJ"


def _adverb(spot: _Spot, found: Mapping[str, str]) -> str:
    return "ADV" if "ADV" in found and spot.word.endswith("ly") else ""


def _after_helper(spot: _Spot, found: Mapping[str, str]) -> str:
    """`to walk`, `is pushed`."""
    helped = spot.tag_before == "PART" or (spot.tag_before == "AUX" and _past_form(spot.word))
    return "VERB" if "VERB" in found and helped else ""


def _plural(spot: _Spot, found: Mapping[str, str]) -> str:
    """`two steps`, `his kicks`: a noun; not so `to the left kicks`, where the side is nobody's."""
    if not _third(spot, found) or spot.tag_before not in ("DET", "NUM", "ADJ") or spot.before in SUBJECTS:
        return ""
    owner = spot.words[max(spot.place - 2, 0)]
    if spot.tag_before == "ADJ" and spot.before in ("left", "right") and owner not in OWNERS:
        return ""
    return "NOUN" if "NOUN" in found else "VERB"


def _third_person(spot: _Spot, found: Mapping[str, str]) -> str:
    """`and kicks`, `the person steps`, `the right leg kicks`."""
    if not _third(spot, found) or spot.word not in VERBS_IN_S:
        return ""
    expected = (
        spot.tag_before in ("PRON", "ADV", "CCONJ", "PUNCT", "")
        or spot.before in SUBJECTS
        or (spot.tag_before in ("NOUN", "ADP") and _verb_wanted(spot))
    )
    return "VERB" if expected and (spot.word not in MOSTLY_NOUNS or _clause_start(spot)) else ""


def _past(spot: _Spot, found: Mapping[str, str]) -> str:
    """`walked`; `with a raised arm`."""
    if "VERB" not in found or not _past_form(spot.word):
        return ""
    describes = "ADJ" in found and spot.tag_before in ("DET", "ADP", "ADJ") and _noun_like(spot.after)
    return "ADJ" if describes else "VERB"


def _noun(spot: _Spot, found: Mapping[str, str]) -> str:
    mostly = spot.word in MOSTLY_NOUNS
    if "NOUN" not in found or not (mostly or spot.tag_before in ("DET", "ADJ", "NUM")):
        return ""
    if "VERB" in found and not mostly and spot.tag_before == "NUM" and spot.before in SUBJECTS:
        return ""
    return "ADJ" if "ADJ" in found and not mostly and _noun_like(spot.after) else "NOUN"


def _begins(spot: _Spot, found: Mapping[str, str]) -> str:
    """The verb of an imperative, or after a conjunction or a subject."""
    starts = spot.place == 0 or spot.tag_before in ("CCONJ", "PUNCT") or spot.before in SUBJECTS | {"then"}
    return "VERB" if "VERB" in found and starts else ""


def _other_third(spot: _Spot, found: Mapping[str, str]) -> str:
    if not _third(spot, found):
        return ""
    return "NOUN" if spot.tag_before == "ADP" and "NOUN" in found else "VERB"


def _before_noun(spot: _Spot, found: Mapping[str, str]) -> str:
    return "ADJ" if "ADJ" in found and _noun_like(spot.after) else ""


_IN_ORDER = (
    _gerund,
    _adjective,
    _adverb,
    _after_helper,
    _plural,
    _third_person,
    _past,
    _noun,
    _begins,
    _other_third,
    _before_noun,
)
"""The rules of words that the dictionary has in several classes; the first that decides counts."""


def _third(spot: _Spot, found: Mapping[str, str]) -> bool:
    return spot.word.endswith("s") and found.get("VERB", spot.word) != spot.word


def _past_form(word: str) -> bool:
    lemma = dictionary(word).get("VERB", word)
    return lemma != word and not word.endswith(("s", "ing")) and word not in MOSTLY_NOUNS


def _noun_like(word: str) -> bool:
    return (
        word not in CLOSED
        and "NOUN" in dictionary(word)
        and word not in ("back", "left", "right", "up", "down", "forward")
        and not (word in VERBS_IN_S and word not in MOSTLY_NOUNS)
    )


def _clause_start(spot: _Spot) -> bool:
    """Whether a word that is mostly a noun is a verb here: after a subject, or followed by what only verbs are."""
    return spot.before in SUBJECTS or (
        spot.tag_before in ("ADV", "CCONJ", "PUNCT", "PRON")
        and spot.after in AFTER_VERBS
        and spot.word in NOUNS_THAT_ACT
    )


def _verb_wanted(spot: _Spot) -> bool:
    """Whether the clause that a word in -s follows has a subject and no verb yet: `the right leg kicks`."""
    for place in range(spot.place - 1, -1, -1):
        if spot.tags[place] in ("VERB", "AUX"):
            return False
        if spot.tags[place] in ("PUNCT", "CCONJ", "SCONJ") or spot.words[place] == "then":
            return place < spot.place - 1
        if spot.words[place] in ("with", "on", "in", "to", "of"):
            return False
    return True
