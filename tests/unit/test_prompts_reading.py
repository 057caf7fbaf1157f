"""What a meta-motion says, why it may be none, and where paraphrases meet."""

from __future__ import annotations

import pytest
from hypothesis import given

from rl_motion.prompts.lexicon import ARMS, LEGS, WHOLE
from rl_motion.prompts.reading import Facts, counts, meaning, read_meta
from rl_motion.prompts.usable import MAX_WORDS
from tests.meta_motions import TEXTS
from tests.unit.test_prompts_words import ANYTHING


def facts(text: str) -> Facts:
    found = read_meta(text)
    assert isinstance(found, Facts), (text, found)
    return found


REFUSED = [
    # (refused, the reason, its counterpart that is none)
    ("walks forward", "no performer", "a person walks forward"),
    ("a person is happy", "no verb", "a person walks happily"),
    (f"a person walks {'very ' * MAX_WORDS}slowly", "too long", "a person walks very slowly"),
    ("a person walks, slowly", "several parts", "a person walks slowly"),
    ("a person walks to the blorple", "unknown word", "a person walks to the table"),
    ("a person walks while he waves", "not one clause", "a person walks"),
    ("a person walks and runs", "not one clause", "a person runs"),
    ("a person walked forward", "not one clause", "a person walks forward"),
    ("a person does it again", "points back", "a person does a cartwheel"),
    ("a person walks back", "points back", "a person walks back and forth"),
    ("a person walks over them", "points back", "a person walks around them"),
    ("a person pushes someone", "another body", "a person pushes something"),
    ("a person waves with their", "cut short", "a person waves with their hand"),
    ("a person reaches their right", "cut short", "a person turns to the right"),
    ("a person picks their left hand", "does to a limb what is done to things", "a person picks a flower"),
    ("a person waves left and right and up", "several parts", "a person waves up and down"),
    ("a person reads a book", "unknown motion", "a person holds a book"),
    ("a person does something", "unknown motion", "a person does a kick"),
    ("a person raises", "says not what is moved", "a person raises their arm"),
]


@pytest.mark.parametrize(("text", "reason", "other"), REFUSED, ids=[text[:40] for text, _, _ in REFUSED])
def test_what_is_none_has_a_reason(text: str, reason: str, other: str) -> None:
    assert read_meta(text) == reason
    facts(other)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_one_has_facts(text: str) -> None:
    assert facts(text).phrase == text.removeprefix("a person ")


USES = {
    "a person raises their left arm": {"left_arm"},
    "a person raises both arms": ARMS,
    "a person raises an arm": ARMS,
    "a person waves": ARMS,
    "a person walks forward": LEGS | {"root"},
    "a person kicks with their left leg": LEGS | {"root"},
    "a person lifts their right leg": {"right_leg", "root"},
    "a person moves both arms": ARMS,
    "a person moves across the room": LEGS | {"root"},
    "a person turns": LEGS | {"root", "torso"},
    "a person turns their head": {"head"},
    "a person nods": {"head"},
    "a person bows": LEGS | {"root", "torso"},
    "a person bends their left leg": LEGS | {"root"},
    "a person takes a seat": LEGS | {"root", "torso"},
    "a person does a cartwheel": WHOLE,
    "a person steps in place": LEGS | {"root", "torso"},
}


@pytest.mark.parametrize("text", USES)
def test_parts_that_are_busy(text: str) -> None:
    assert facts(text).uses == USES[text]


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("a person sits down", ("stand", "sit")),
        ("a person takes a seat", ("stand", "sit")),
        ("a person stands up", ("low", "stand")),
        ("a person stands", ("stand", "stand")),
        ("a person crawls", ("kneel", "kneel")),
        ("a person shuffles on their knees", ("kneel", "kneel")),
        ("a person walks on a beam", ("stand", "stand")),
        ("a person squats", ("stand", "stand")),
        ("a person waves", ("any", "any")),
    ],
)
def test_postures(text: str, held: tuple[str, str]) -> None:
    assert (facts(text).before, facts(text).after) == held


def test_what_is_said() -> None:
    said = facts("a man slowly kicks forward with his right leg twice")
    assert said.phrase == "slowly kicks forward with their right leg twice"
    assert (said.side, said.direction, said.speed, said.limb) == ("right", "forward", "slow", "leg")
    assert said.counted and said.style and not said.travels
    plain = facts("a person kicks")
    assert (plain.side, plain.direction, plain.speed, plain.counted, plain.style) == ("", "", "", False, False)
    assert facts("a person throws a kick").verb == "kick"


@pytest.mark.parametrize(
    ("text", "travels"),
    [
        ("a person walks forward", True),
        ("a person walks in place", False),
        ("a person walks on a treadmill", False),
        ("a person waves", False),
        ("a person circles their arms", False),
        ("a person crawls", True),
    ],
)
def test_where_it_goes(text: str, travels: bool) -> None:
    assert facts(text).travels is travels


def test_what_can_be_counted() -> None:
    assert counts(facts("a person jumps")) and counts(facts("a person squats"))
    assert not counts(facts("a person jumps twice"))
    assert not counts(facts("a person walks"))
    assert not counts(facts("a person crouches"))  # to crouch again one has to come up


MEET = [
    ("a man walks backwards", "the person is walking backward"),
    ("a person jogs slowly", "someone slowly runs"),
    ("a person lifts his left hand", "the woman raises her left arm"),
    ("a person jumps two times", "a person jumps twice"),
    ("a person kicks with their left foot", "a man kicks with his left leg"),
    ("a person walks forward while waving", "while waving, a man walks forward"),
    ("a person walks while waving", "a person waves while walking"),
    ("a person walks and then sits", "after walking, a person sits"),
    ("a person walks before sitting", "a person first walks and after that sits"),
    ("a person spins counterclockwise", "a person spins anticlockwise"),
]
APART = [
    ("a person raises their left arm", "a person raises their right arm"),
    ("a person jumps once", "a person jumps twice"),
    ("a person walks forward", "a person walks backward"),
    ("a person waves left to right", "a person waves right to left"),
    ("a person spins clockwise", "a person spins counterclockwise"),
    ("a person walks and then sits", "a person sits and then walks"),
    ("a person walks while waving", "a person walks and then waves"),
    ("a person walks slowly", "a person walks quickly"),
    ("a person raises their arm", "a person lowers their arm"),
    ("a person walks", "a person runs"),
]


@pytest.mark.parametrize(("one", "other"), MEET)
def test_paraphrases_meet(one: str, other: str) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(("one", "other"), APART)
def test_others_do_not(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


@given(ANYTHING)
def test_any_text_is_read(text: str) -> None:
    assert meaning(text) == meaning(f" {text} ")
    found = read_meta(text)
    assert found if isinstance(found, str) else found.uses
