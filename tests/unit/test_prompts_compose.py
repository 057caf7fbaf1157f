"""Composed sentences are fluent, the same every time, and say what was asked for."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.prompts.author import Compose
from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.compose import compose, gerund, phrase
from rl_motion.prompts.planner import orders
from rl_motion.prompts.reading import meaning
from tests.meta_motions import TEXTS, metas

WALK, RAISE = "a person walks forward", "a man raises his left arm"


def ask(operation: str, *meta_motions: str, detail: str = "") -> str:
    return compose(Compose(operation=operation, meta_motions=meta_motions, detail=detail))


def wordings(operation: str, *meta_motions: str, detail: str = "") -> set[str]:
    """What it is worded as, from many questions that differ in what no wording shows."""
    return {ask(operation, *meta_motions[:-1], meta_motions[-1] + " " * n, detail=detail) for n in range(300)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a person walks forward", "walks forward"),
        ("a man raises his left arm.", "raises their left arm"),
        ("a woman hugs herself", "hugs themselves"),
        ("a person raises hands", "raises their hands"),
        ("someone raises right hand", "raises their right hand"),
        ("a person raises a hand", "raises a hand"),  # control: nobody's needs no owner
        ("the figure stands on one leg", "stands on one leg"),
    ],
)
def test_phrases(text: str, expected: str) -> None:
    assert phrase(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slowly walks forward", "slowly walking forward"),
        ("lies down", "lying down"),
        ("hops on one leg", "hopping on one leg"),
        ("takes two steps", "taking two steps"),
        ("raises their hands", "raising their hands"),
    ],
)
def test_gerunds(text: str, expected: str) -> None:
    assert gerund(text) == expected


@pytest.mark.parametrize("text", ["", "walks forward", "a person", "the box falls"])
def test_without_a_performer_there_is_no_phrase(text: str) -> None:
    with pytest.raises(ValueError, match="want a performer and a motion"):
        phrase(text)


def test_without_a_verb_there_is_no_gerund() -> None:
    with pytest.raises(ValueError, match="want a verb in the third person"):
        gerund("slowly forward")


def test_composing_one_and_three() -> None:
    """As in the paper: the first and the third of its meta-motions, one after the other."""
    first, third = "a person walks forward", "a person flexes their left arm"
    assert decompose("a person walks forward, then stutters on his right leg.")[0] == first
    assert {text.replace("his", "their").replace("her", "their") for text in wordings("sequence", first, third)} >= {
        "a person walks forward and then flexes their left arm",
        "a person walks forward, then flexes their left arm",
        "a person walks forward before flexing their left arm",
        "after walking forward, a person flexes their left arm",
        "a person first walks forward and after that flexes their left arm",
    }


def test_at_once() -> None:
    said = wordings("simultaneous", WALK, RAISE)
    assert any(re.fullmatch(r"a woman walks forward while raising her left arm", text) for text in said)
    assert any(re.fullmatch(r"while walking forward, a man raises his left arm", text) for text in said)
    assert any(text.endswith(" at the same time") for text in said)


def test_possessives_agree() -> None:
    owner = {"a man": "his", "a woman": "her", "a person": "their", "someone": "their", "the person": "their"}
    performers = set()
    for text in wordings("sequence", RAISE, "a woman waves in front of herself") | wordings(
        "simultaneous", WALK, RAISE
    ):
        performer = re.search(r"\b(a man|a woman|a person|someone|the person)\b", text)[0]
        assert set(re.findall(r"\b(?:his|her|their)\b", text)) == {owner[performer]}, text
        selves = {"his": "himself", "her": "herself", "their": "themselves"}[owner[performer]]
        assert set(re.findall(r"\b\w+sel\w+\b", text)) <= {selves}, text
        performers.add(performer)
    assert performers == owner.keys()
    near = {"a man": "him", "a woman": "her", "a person": "them", "someone": "them", "the person": "them"}
    said = wordings("repeat", "a man waves in front of him", detail="twice")
    assert said == {f"{performer} waves in front of {them} twice" for performer, them in near.items()}


@pytest.mark.parametrize(
    ("operation", "detail", "meta_motion", "said"),
    [
        ("repeat", "twice", "a person jumps", r".* jumps twice"),
        ("speed", "slowly", WALK, r".* (slowly walks forward|walks forward slowly)"),
        ("style", "with arms akimbo", WALK, r".* walks forward with arms akimbo"),
        ("side", "with the left hand", "a person waves", r".* waves with the left hand"),
        ("side", "left to right", RAISE, r".* raises (his|her|their) right arm"),
        ("direction", "forward to backward", WALK, r".* walks backward"),
        ("direction", "forward to backward", "a person walks forwards", r".* walks backwards"),
        ("direction", "clockwise to counterclockwise", "a person spins counterclockwise", r".* spins clockwise"),
        ("direction", "to the left", "a person leans", r".* leans to the left"),
    ],
)
def test_changes(operation: str, detail: str, meta_motion: str, said: str) -> None:
    for text in wordings(operation, meta_motion, detail=detail):
        assert re.fullmatch(said, text), text


def test_a_swap_needs_something_to_swap() -> None:
    assert ask("side", "a person waves from left to right", detail="left to right").endswith("waves from right to left")
    with pytest.raises(ValueError, match="want left or right in it"):
        ask("side", "a person waves", detail="left to right")


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_a_question_has_one_answer(first: str, second: str) -> None:
    assert ask("sequence", first, second) == ask("sequence", first, second)


@given(st.text(min_size=1, max_size=300), st.text(max_size=30))
def test_what_cannot_be_worded_is_refused(text: str, detail: str) -> None:
    for operation, meta_motions in (("sequence", (text, WALK)), ("simultaneous", (WALK, text)), ("side", (text,))):
        try:
            assert ask(operation, *meta_motions, detail=detail)
        except ValueError as error:
            assert "want" in str(error)


def _given_back(wanted: int) -> tuple[int, int]:
    """Of so many planned sequences: how many decompose into what they were made of, and how many there were."""
    planned = (o for o in orders(metas(), 0, 1000, 20.0) if o.question.operation == "sequence")
    back = total = 0
    for order in islice(planned, wanted):
        parts = decompose(compose(order.question))
        back += [meaning(part) for part in parts] == [meaning(text) for text in order.question.meta_motions]
        total += 1
    return back, total


def test_a_composed_sequence_decomposes_into_what_it_was_made_of() -> None:
    back, total = _given_back(400)
    assert total >= 300
    assert back / total >= 0.95


def test_control_meanings_tell_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composer that turns the order round, or loses a motion, gives back hardly any."""
    words = compose.__globals__
    right = words["_sequence"]
    monkeypatch.setitem(words, "_sequence", lambda subject, first, second, rng: right(subject, second, first, rng))
    back, total = _given_back(100)
    assert back / total < 0.05
    monkeypatch.setitem(words, "_sequence", lambda subject, first, second, rng: f"{subject} {first}")
    assert _given_back(100)[0] == 0
