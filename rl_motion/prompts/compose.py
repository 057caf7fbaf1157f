"""Words a new description from meta-motions by grammar: `Compose` in, a sentence out, the same one every time.

Meta-motions are put into one sentence under one performer: the second motion as a gerund or joined, what is changed
behind the motion, possessives after the performer. Nothing is paraphrased: the motions keep their captions' words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from random import Random

from rl_motion.prompts.author import Compose
from rl_motion.prompts.lexicon import LIMBS
from rl_motion.prompts.phrases import neutral, performer_end
from rl_motion.prompts.vocabulary import listed
from rl_motion.prompts.words import Word, inflect, parse

SUBJECTS = (("a person", "their"), ("someone", "their"), ("the person", "their"), ("a man", "his"), ("a woman", "her"))
"""Performers with the possessive that agrees."""
_WEIGHTS = (6, 1, 1, 2, 2)
SWAPS = (("left", "right"), ("forward", "backward"), ("clockwise", "counterclockwise"),
         ("clockwise", "anticlockwise"))  # fmt: skip
"""Words that change places: of `side` the first pair, of `direction` the others."""
_BEFORE_LIMBS = listed("on to over above in behind at near towards toward against")
_REFLEXIVE = {"his": "himself", "her": "herself"}
_OBJECT = {"his": "him", "her": "her"}
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
    elif _is_swap(question.detail):
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
    start = performer_end(words)
    if start is None or start == len(words):
        raise ValueError(f"got {meta_motion!r}; want a performer and a motion")
    return " ".join(_owned([word for word in words[start:] if word.tag != "PUNCT"]))


def gerund(verb_phrase: str) -> str:
    """`slowly walks forward` -> `slowly walking forward`.

    Raises:
        ValueError: there is no finite verb.
    """
    words = parse(f"a person {verb_phrase}")[2:]
    verb = next((word for word in words if word.third), None)
    if verb is None:
        raise ValueError(f"got {verb_phrase!r}; want a verb in the third person")
    return " ".join(inflect(word.lemma, "VBG") if word is verb else word.text for word in words)


def _sequence(subject: str, first: str, second: str, rng: Random) -> str:
    ways = (
        lambda: f"{subject} {first} and then {second}",
        lambda: f"{subject} {first}, then {second}",
        lambda: f"{subject} {first} before {gerund(second)}",
        lambda: f"after {gerund(first)}, {subject} {second}",
        lambda: f"{subject} first {first} and after that {second}",
    )
    return rng.choice(ways)()


def _simultaneous(subject: str, first: str, second: str, rng: Random) -> str:
    ways = (
        lambda: f"{subject} {first} while {gerund(second)}",
        lambda: f"{subject} {first} while {gerund(second)}",  # twice: the usual way
        lambda: f"while {gerund(first)}, {subject} {second}",
        lambda: f"{subject} {first} and {second} at the same time",
    )
    return rng.choice(ways)()


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


def _owned(words: Sequence[Word]) -> list[str]:
    """The words, limbs with a possessive where captions leave it out: `raises hands` -> `raises their hands`."""
    out: list[str] = []
    for place, word in enumerate(words):
        start = place
        while start and words[start - 1].tag == "ADJ":
            start -= 1
        if start and _is_bare_limb(word, words[start - 1]):
            out.insert(len(out) - (place - start), "their")
        out.append(neutral(word))
    return out


def _is_bare_limb(word: Word, before: Word) -> bool:
    """before: the word before the limb and its adjectives."""
    owned = not before.third and before.text not in _BEFORE_LIMBS
    named = word.tag == "NOUN" and word.text in LIMBS and word.text not in ("body", "toe", "toes", "heel")
    return named and not owned


def _agreeing(text: str, possessive: str) -> str:
    """The text with what belongs to the performer in the performer's gender."""
    if possessive == "their":
        return text
    text = re.sub(r"\btheir\b", possessive, text)
    text = re.sub(r"\bthemselves\b", _REFLEXIVE[possessive], text)
    near = r"\b(in front of|behind|beside|around|above|below|under|with) them\b"
    return re.sub(near, rf"\1 {_OBJECT[possessive]}", text)
