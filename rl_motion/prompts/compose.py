"""Words a new description from meta-motions by grammar: `Compose` in, a sentence out, the same one every time."""

from __future__ import annotations

import hashlib
import re
from random import Random

from rl_motion.prompts.author import Compose
from rl_motion.prompts.clauses import PERFORMERS
from rl_motion.prompts.lexicon import LIMBS
from rl_motion.prompts.words import Word, inflect, parse

SUBJECTS = (("a person", "their"), ("someone", "their"), ("the person", "their"), ("a man", "his"), ("a woman", "her"))
"""Performers with the possessive that agrees."""
_WEIGHTS = (6, 1, 1, 2, 2)
SWAPS = (("left", "right"), ("forward", "backward"), ("forwards", "backwards"), ("clockwise", "counterclockwise"),
         ("clockwise", "anticlockwise"))  # fmt: skip
_REFLEXIVE = {"their": "themselves", "his": "himself", "her": "herself"}
_FRONTED = frozenset({"slowly", "quickly"})
"""Adverbs that may stand before the verb."""


def compose(question: Compose) -> str:
    """The description that the question asks for; wording is drawn by a hash of the question.

    Raises:
        ValueError: a meta-motion has no verb in the third person, or a swap finds nothing to swap.
    """
    rng = Random(hashlib.sha256(question.model_dump_json().encode()).digest())
    subject, possessive = rng.choices(SUBJECTS, _WEIGHTS)[0]
    phrases = [phrase(text) for text in question.meta_motions]
    if question.operation == "sequence":
        text = _sequence(subject, phrases[0], phrases[1], rng)
    elif question.operation == "simultaneous":
        text = _simultaneous(subject, phrases[0], phrases[1], rng)
    elif " to " in question.detail and _is_swap(question.detail):
        text = f"{subject} {_swapped(phrases[0], question.detail)}"
    else:
        text = f"{subject} {_with_detail(phrases[0], question.detail, rng)}"
    return _agreeing(text, possessive)


def phrase(meta_motion: str) -> str:
    """A meta-motion without its performer, with `their` for the performer's own.

    Raises:
        ValueError: there is no performer, or nothing but one.
    """
    words = parse(meta_motion)
    place = 0
    while place < len(words) and words[place].tag in ("DET", "ADJ", "NUM") and place < 3:
        place += 1
    if place >= len(words) - 1 or words[place].text not in PERFORMERS:
        raise ValueError(f"got {meta_motion!r}; want a performer and a motion")
    return " ".join(_owned([word for word in words[place + 1 :] if word.tag != "PUNCT"]))


def gerund(verb_phrase: str) -> str:
    """`slowly walks forward` -> `slowly walking forward`.

    Raises:
        ValueError: there is no finite verb.
    """
    words = parse(f"a person {verb_phrase}")[2:]
    for place, word in enumerate(words):
        if word.third:
            tail = [w.text for w in words[place + 1 :]]
            return " ".join([*(w.text for w in words[:place]), inflect(word.lemma, "VBG"), *tail])
    raise ValueError(f"got {verb_phrase!r}; want a verb in the third person")


def _sequence(subject: str, first: str, second: str, rng: Random) -> str:
    return rng.choice(
        (
            lambda: f"{subject} {first} and then {second}",
            lambda: f"{subject} {first}, then {second}",
            lambda: f"{subject} {first} before {gerund(second)}",
            lambda: f"after {gerund(first)}, {subject} {second}",
            lambda: f"{subject} first {first} and after that {second}",
        )
    )()


def _simultaneous(subject: str, first: str, second: str, rng: Random) -> str:
    return rng.choice(
        (
            lambda: f"{subject} {first} while {gerund(second)}",
            lambda: f"{subject} {first} while {gerund(second)}",
            lambda: f"while {gerund(first)}, {subject} {second}",
            lambda: f"{subject} {first} and {second} at the same time",
        )
    )()


def _with_detail(verb_phrase: str, detail: str, rng: Random) -> str:
    if detail in _FRONTED and rng.random() < 0.5:
        return f"{detail} {verb_phrase}"
    return f"{verb_phrase} {detail}"


def _is_swap(detail: str) -> bool:
    first, _, second = detail.partition(" to ")
    return (first, second) in SWAPS or (second, first) in SWAPS


def _swapped(verb_phrase: str, detail: str) -> str:
    """Both words change places, each with its -s form: `left to right` also turns right into left."""
    first, _, second = detail.partition(" to ")
    swap = {first: second, second: first, f"{first}s": f"{second}s", f"{second}s": f"{first}s"}
    text = re.sub(r"[a-z]+", lambda found: swap.get(found[0], found[0]), verb_phrase)
    if text == verb_phrase:
        raise ValueError(f"got {verb_phrase!r}; want {first} or {second} in it")
    return text


def _owned(words: list[Word]) -> list[str]:
    """The words, limbs with a possessive where captions leave it out: `raises hands` -> `raises their hands`."""
    out: list[str] = []
    for place, word in enumerate(words):
        start = place
        while start and words[start - 1].tag == "ADJ":
            start -= 1
        before = words[start - 1] if start else None
        bare = before is not None and (
            before.tag == "VERB" or before.text in ("on", "to", "over", "above", "in", "behind", "at")
        )
        if word.text in LIMBS and word.tag == "NOUN" and bare and word.text not in ("body", "toe", "toes", "heel"):
            out.insert(len(out) - (place - start), "their")
        out.append(_theirs(word))
    return out


def _theirs(word: Word) -> str:
    if word.text in ("his", "her", "its") and word.tag == "DET":
        return "their"
    if word.text in ("him", "her") and word.tag == "PRON":
        return "them"
    return "themselves" if word.text in ("himself", "herself", "itself", "themself") else word.text


def _agreeing(text: str, possessive: str) -> str:
    if possessive == "their":
        return text
    text = re.sub(r"\btheir\b", possessive, text)
    text = re.sub(r"\bthemselves\b", _REFLEXIVE[possessive], text)
    return re.sub(
        r"\b(in front of|behind|beside|around|above|below|under|with) them\b",
        rf"\1 {'him' if possessive == 'his' else 'her'}",
        text,
    )
