"""Captions are taken apart where another motion begins, nowhere else: each rule, an example and a counter-example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.prompts import phrases
from rl_motion.prompts.clauses import decompose
from rl_motion.prompts.words import parse
from tests.unit.test_prompts_words import ANYTHING, seconds

PAPER = {
    "a person walks forward, then stutters on his right leg.": [
        "a person walks forward",
        "a person stutters on his right leg",
    ],
    "a person flexes their left arm.": ["a person flexes their left arm"],
}
CUT = {
    # marks, conjunctions and order words before a finite verb
    "a person walks and sits": ["a person walks", "a person sits"],
    "a person walks, then slowly sits": ["a person walks", "a person slowly sits"],
    "a person walks before sitting": ["a person walks", "a person sits"],
    "a person walks and jumps at the same time": ["a person walks", "a person jumps"],
    "a person walks. he sits down.": ["a person walks", "a person sits down"],
    # imperatives, past and infinitives go on as they began
    "walk forward and wave": ["a person walks forward", "a person waves"],
    "a person walked and sat": ["a person walks", "a person sits"],
    "a person starts to walk and wave": ["a person walks", "a person waves"],
    "a person walks forward and raised it": ["a person walks forward", "a person raises it"],
    # who performs
    "a man walks and he sits": ["a man walks", "a man sits"],
    "this man is walking and sits": ["a man walks", "a man sits"],
    "the video shows a man walking. he sits down.": ["a man walks", "a man sits down"],
    "walking forward and waving": ["a person walks forward", "a person waves"],
    # gerunds that name an action
    "a person walks forward while waving.": ["a person walks forward", "a person waves"],
    "a person walks forward holding a rail": ["a person walks forward", "a person holds a rail"],
    "a man raises his arms, slowly lowering them": ["a man raises his arms", "a man slowly lowers them"],
    # a purpose that is a motion
    "a person bends down to pick up a box": ["a person bends down", "a person picks up a box"],
    # limbs that move
    "a person walks with his arms swinging": ["a person walks", "a person swings his arms"],
    "a person jumps and the right leg kicks": ["a person jumps", "a person kicks the right leg"],
    "a person walks while their arms are moving": ["a person walks", "a person moves their arms"],
    # what is left out
    "a person walks forward, then to the left": ["a person walks forward", "a person walks to the left"],
    "a person moves both arms up, then to the sides": [
        "a person moves both arms up",
        "a person moves both arms to the sides",
    ],
    "a person raises the left arm, then the right arm": [
        "a person raises the left arm",
        "a person raises the right arm",
    ],
    "a person bends and moves his arm up": ["a person bends his arm", "a person moves his arm up"],
    # a joint that is missing
    "a person walks forward squats down": ["a person walks forward", "a person squats down"],
}
WHOLE = {
    "a person walks forward and to the left": "a person walks forward and to the left",
    "a person raises both the left and the right arm": "a person raises both the left and the right arm",
    "a person walks with arms outstretched": "a person walks with arms outstretched",
    "a person walks keeping the back straight": "a person walks keeping the back straight",
    "a person walks like a zombie and a robot": "a person walks like a zombie and a robot",
    "a person walks as if drunk": "a person walks as if drunk",
    "a person walks as though pushing a cart": "a person walks as though pushing a cart",
    "a person starts to walk": "a person walks",
    "a person begins walking": "a person walks",
    "a person appears to be walking": "a person walks",
    "a person tries to walk": "a person walks",
    "a person uses their hands to pick up a box": "a person uses their hands to pick up a box",
    "a person is pushed": "a person is pushed",
    "a person is down on their knees": "a person is down on their knees",
    "a person does jumping jacks": "a person does jumping jacks",
    "step forward": "a person steps forward",
    "a person walks back and forth": "a person walks back and forth",
    "someone is walking": "someone walks",
}


@pytest.mark.parametrize("caption", PAPER)
def test_examples_of_the_paper(caption: str) -> None:
    assert decompose(caption) == PAPER[caption]


@pytest.mark.parametrize("caption", CUT)
def test_another_motion(caption: str) -> None:
    assert decompose(caption) == CUT[caption]


@pytest.mark.parametrize("caption", WHOLE)
def test_one_motion(caption: str) -> None:
    assert decompose(caption) == [WHOLE[caption]]


@pytest.mark.parametrize("caption", ["", "...", "a person", "7 & 8", "a person does not fall", "שלום 😀"])
def test_no_motion(caption: str) -> None:
    assert decompose(caption) == []


def test_a_simile_ends_at_a_finite_verb_alone() -> None:
    assert decompose("a person walks like a zombie and sits") == ["a person walks like a zombie", "a person sits"]
    assert len(decompose("a person walks like a zombie and crawling")) == 1  # control


def test_the_first_one_is_found_under_any_performer() -> None:
    for name in ("a man", "the figure", "someone", "he", "a young woman", "the person"):
        first, second = decompose(f"{name} walks forward and waves")
        assert (first, second) == (f"{name} walks forward", f"{name} waves")


@pytest.mark.parametrize(
    ("finder", "text", "end"),
    [
        (phrases.limb_end, "the right leg kicks", 3),
        (phrases.limb_end, "the right box falls", None),
        (phrases.subject_end, "the man slowly walks", 2),
        (phrases.subject_end, "the man there", None),
        (phrases.subject_end, "the box walks", None),
        (phrases.verb_at, "slowly, then walks", 3),
        (phrases.verb_at, "the walk", None),
        (phrases.joint_end, ", and then walks", 3),
        (phrases.joint_end, "walks and", None),
        (phrases.joint_end, "after that sits", 2),
    ],
)
def test_finders(finder, text: str, end: int | None) -> None:
    assert finder(parse(text), 0) == end


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("starts to walk", True),
        ("starts walking", True),
        ("looks like running", True),
        ("starts", False),
        ("looks to the left", False),
        ("walks to sit", False),
        ("tries it", False),
        ("goes walking", False),
    ],
)
def test_phases(text: str, found: bool) -> None:
    assert phrases.is_phase(parse(f"a person {text}"), 2) is found


@given(ANYTHING)
def test_any_text_is_taken_apart(text: str) -> None:
    for motion in decompose(text):
        assert len(motion.split()) >= 2
        assert motion == motion.strip() and motion[-1] not in ".,;:"


@given(st.lists(st.sampled_from([*PAPER, *CUT, *WHOLE]), min_size=1, max_size=3))
def test_meta_motions_are_whole(captions: list[str]) -> None:
    """Decomposing a meta-motion of these gives it back: nothing is left to cut."""
    for caption in captions:
        for motion in decompose(caption):
            assert decompose(motion) == [motion]


@pytest.mark.parametrize(
    "unit", ["walks ", "walk, ", "the man walks ", ", ", "as , ", "then left ", "a person walked and ", "! "]
)
def test_a_long_caption_takes_no_long_time(unit: str) -> None:
    text = ("a person walk and " + unit * 1000)[:1000]
    assert seconds(decompose, text) < 0.05
