"""What an answer must say to be kept, whoever gave it. Its form is checked before, by the class of the answer."""

from __future__ import annotations

import re
from functools import cache

from rl_motion.prompts.author import Answer, Compose, Composition, Decompose, Decomposition, Judge, Question, Verdict
from rl_motion.prompts.words import dictionary, split

VERSION = 1
"""Rises with every change of what passes: answers that passed another version are asked for again."""
MAX_TEXT = 300
"""Characters of a meta-motion or a composition."""
_SHARE = 0.6
"""Of the content words: least that a meta-motion takes from its caption, and a composition from every meta-motion."""
_MAX_NEW = 6
"""Content words that a composition may bring along."""
_PLAIN = re.compile(r"""[A-Za-zÀ-ÖØ-öø-ÿ0-9 ,.'’"“”()/:;!?%°⁰º&+–—-]*""")
_CODE = re.compile(
    r"[{}<>`]|//|\bwww\.|\w@\w|\w\.\w+\(|\w\(['\")]|\.(com|org|net|io|ru|cn|ai|html?|js|py|sh|exe)\b", re.I
)
_ORDERS = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|prompts?|above|previous|rules?)\b"
    r"|\b(json|assistant|system prompt|language model|as an ai)\b",
    re.I,
)
"""Words to a model. One alone does not tell: captions have `answers a phone`, `gives instruction`, `a model walks`."""
_READER = re.compile(r"\b(you|your|yours|yourself|please|click here)\b", re.I)
_FILLERS = frozenset(
    split("""
    a an the this that these those he she it they him them her his hers its their theirs himself herself itself
    themselves who which someone somebody person people man woman figure human guy boy girl character subject one
    is are was were be been being am has have had do does did can could will would may might should must not no
    and or but then while whilst as if when before after at same time once with in on from of by for into onto to
    towards toward so also next finally first afterwards meanwhile simultaneously during until again all both each
    start begin continue there
    """)
)
"""Words that tell nothing of a motion, or only the order of motions."""


def question_flaw(question: Question) -> str:
    """Why no author should be asked this: it holds code or speaks to a model. "" where it may be asked."""
    match question:
        case Decompose(caption=caption):
            texts = [caption]
        case Compose(meta_motions=meta_motions, detail=detail):
            texts = [*meta_motions, detail]
        case Judge(text=text):
            texts = [text]
    for text in texts:
        if not text.isprintable():
            return f"the question holds control characters: {printable(text)!r}"
        if found := _CODE.search(text) or _ORDERS.search(text):
            return f"the question holds {printable(found.group())!r}, which no description of a motion does"
    return ""


def check(question: Question, answer: Answer) -> str:
    """What is wrong with an answer, as a sentence that its author can act on; "" where nothing is."""
    match question, answer:
        case Decompose(), Decomposition():
            return _of_decomposition(question, answer)
        case Compose(), Composition():
            return _of_composition(question, answer)
        case Judge(), Verdict():
            return _of_verdict(answer)
    return f"a {type(answer).__name__} is no answer to a question of kind {question.kind}"


def printable(text: str, most: int = 200) -> str:
    """Foreign words for a message: on one line, no control characters, cut short."""
    line = " ".join(text[: 4 * most].split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= most else line[: most - 1] + "…"


def _of_decomposition(question: Decompose, answer: Decomposition) -> str:
    metas = answer.meta_motions
    if answer.decomposable != (len(metas) > 1):
        said = str(answer.decomposable).lower()
        return f"decomposable is {said} with {len(metas)} meta-motions; want true for two or more, else false"
    known = _lemmas(question.caption)
    for meta in metas:
        if flaw := _sentence_flaw(meta):
            return f"the meta-motion {printable(meta, 80)!r} {flaw}"
        words = _content(meta)
        if not words:
            return f"the meta-motion {printable(meta, 80)!r} tells of no motion"
        strange = [word for word in words if not _forms(word) & known]
        if len(strange) > (1 - _SHARE) * len(words):
            return f"the meta-motion {printable(meta, 80)!r} says what the caption does not: {', '.join(strange)}"
    return ""


def _of_composition(question: Compose, answer: Composition) -> str:
    text = answer.text
    if flaw := _sentence_flaw(text):
        return f"the text {printable(text, 80)!r} {flaw}"
    said, changed = _lemmas(text), _lemmas(question.detail)
    known = changed.union(*map(_lemmas, question.meta_motions))
    for meta in question.meta_motions:
        # What the operation changes need not stay: `left` of a side, `forward` of a direction.
        words = [word for word in _content(meta) if not _forms(word) & changed]
        lost = [word for word in words if not _forms(word) & said]
        if len(lost) > (1 - _SHARE) * len(words):
            return f"the text leaves out of {printable(meta, 80)!r}: {', '.join(lost)}"
    new = [word for word in _content(text) if not _forms(word) & known]
    if len(new) > _MAX_NEW:
        return f"the text adds {len(new)} words of its own, {', '.join(new[:10])}; want at most {_MAX_NEW}"
    return ""


def _of_verdict(answer: Verdict) -> str:
    if not answer.plausible and not answer.reason.strip():
        return "the text is called implausible without a reason"
    if not answer.reason.isprintable() or _CODE.search(answer.reason):
        return f"the reason {printable(answer.reason, 80)!r} is not one line of plain words"
    return ""


def _sentence_flaw(text: str) -> str:
    """Why this is no plain sentence about a motion."""
    if not text.strip() or len(text) > MAX_TEXT:
        return f"has {len(text)} characters; want 1 to {MAX_TEXT}"
    if not text.isprintable():
        return "has line breaks or control characters; want one plain line"
    if not _PLAIN.fullmatch(text) or _CODE.search(text):
        return "has characters of code, markup or links; want plain words"
    if found := _ORDERS.search(text) or _READER.search(text):
        return f"speaks to a reader ({printable(found.group(), 40)!r}); want a description in the third person"
    return ""


def _content(text: str) -> list[str]:
    """Words that tell of a motion, each once."""
    return [word for word in dict.fromkeys(split(text)) if word[0].isalnum() and word not in _FILLERS]


def _lemmas(text: str) -> set[str]:
    return set().union(*map(_forms, _content(text)))


@cache
def _forms(word: str) -> frozenset[str]:
    """Every lemma that a word may have, whatever it is in its sentence: tags differ between a caption and its parts."""
    # The dictionary has `backwards` and `backward` as two words.
    plain = word[:-1] if word.endswith("wards") else word
    return frozenset({plain, *dictionary(plain).values()})
