"""Tokens and parts of speech in HumanML3D's form: a rule, an example and a counter-example."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.prompts.vocabulary import CLOSED, MENDED, TYPOS
from rl_motion.prompts.words import Word, dictionary, inflect, parse, split, tag, tokens


def test_the_form_is_humanml3ds() -> None:
    text = "A person kicks something, or someone, with his left leg."
    assert " ".join(tokens(text)) == (
        "a/DET person/NOUN kick/VERB something/PRON or/CCONJ someone/PRON with/ADP his/DET left/ADJ leg/NOUN"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "the man's t-pose, 3 times!",
            ["the/DET", "man/NOUN", "tpose/NOUN", "time/NOUN"],
        ),  # apostrophe, hyphen, number
        ("he is running", ["he/PRON", "is/AUX", "run/VERB"]),  # lemmas of verbs, not of auxiliaries
        ("both feet left", ["both/DET", "foot/NOUN", "left/ADV"]),
        ("on the left", ["on/ADP", "the/DET", "left/NOUN"]),  # no form of `leave`
        ("walks foward infront", ["walk/VERB", "forward/ADV", "in/ADP", "front/NOUN"]),  # slips of the pen
        ("", []),
        ("?! ... 7", []),
        ("שלום 😀", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


RULES = [
    # (word, where it is the first, where it is the second)
    ("to", ("a person starts to walk", "PART"), ("a person walks to the door", "ADP")),
    ("around", ("a person walks around the table", "ADP"), ("a person turns around", "ADV")),
    ("back", ("a person scratches their back", "NOUN"), ("a person walks back", "ADV")),
    ("as", ("a person jumps as they turn", "SCONJ"), ("a person bends low as usual", "ADP")),
    ("clockwise", ("in a clockwise motion", "ADJ"), ("a person turns clockwise", "ADV")),
    ("first", ("a person first walks", "ADV"), ("the first step", "ADJ")),
    ("that", ("after that he sits", "PRON"), ("a motion that repeats", "SCONJ")),
    ("her", ("a woman raises her arm", "DET"), ("a ball rolls behind her.", "PRON")),
    ("motions", ("a person motions to the left", "VERB"), ("with two motions", "NOUN")),
    ("while", ("a person waits for a while", "NOUN"), ("a person walks while waving", "SCONJ")),
    ("left", ("a person raises the left arm", "ADJ"), ("a person turns to the left", "NOUN")),
    ("right", ("a person turns right", "ADV"), ("on the right side", "ADJ")),
    ("has", ("a person has walked", "AUX"), ("a person has a ball", "VERB")),
    ("does", ("a person does not walk", "AUX"), ("a person does a cartwheel", "VERB")),
    ("each", ("each of the arms", "PRON"), ("each arm", "DET")),
    ("one", ("the other one", "NOUN"), ("one leg", "NUM")),
    ("next", ("a person stands next to a wall", "ADV"), ("the next wall", "ADJ")),
    ("straight", ("a person stands straight", "ADV"), ("a straight line", "ADJ")),
    ("beginning", ("at the beginning", "NOUN"), ("beginning to walk", "VERB")),
    ("slow", ("a slow walk", "ADJ"), ("a person walks slow", "ADV")),
    ("walk", ("a person starts to walk", "VERB"), ("a slow walk", "NOUN")),
    ("pushed", ("a person is pushed", "VERB"), ("the ball pushed up", "VERB")),
    ("steps", ("a person steps forward", "VERB"), ("takes two steps", "NOUN")),
    ("kicks", ("the right leg kicks", "VERB"), ("with three kicks", "NOUN")),
    ("twisted", ("a man twisted his arm", "VERB"), ("with a twisted arm", "ADJ")),
    ("wave", ("walk and wave", "VERB"), ("a wave", "NOUN")),
    ("squat", ("a person does a squat", "NOUN"), ("a person starts to squat", "VERB")),
    ("jumps", ("a person jumps", "VERB"), ("two jumps", "NOUN")),
]


@pytest.mark.parametrize(("word", "one", "other"), RULES, ids=[word for word, _, _ in RULES])
def test_the_place_decides(word: str, one: tuple[str, str], other: tuple[str, str]) -> None:
    for text, expected in (one, other):
        assert next(w.tag for w in parse(text) if w.text == word) == expected, text


@pytest.mark.parametrize(
    ("word", "ing", "third", "past"),
    [
        (Word("walking", "VERB", "walk"), True, False, False),
        (Word("walks", "VERB", "walk"), False, True, False),
        (Word("threw", "VERB", "throw"), False, False, True),
        (Word("walk", "VERB", "walk"), False, False, False),
        (Word("walks", "NOUN", "walk"), False, False, False),  # control: no verb
        (Word("ring", "VERB", "ring"), False, False, False),  # control: its own base
    ],
)
def test_forms(word: Word, ing: bool, third: bool, past: bool) -> None:
    assert (word.ing, word.third, word.past) == (ing, third, past)


@pytest.mark.parametrize(
    ("lemma", "third", "gerund"),
    [
        ("walk", "walks", "walking"),
        ("hop", "hops", "hopping"),
        ("lie", "lies", "lying"),
        ("be", "is", "being"),
        ("crouch", "crouches", "crouching"),
        ("sidestep", "sidesteps", "sidestepping"),  # lemminflect doubles nothing here
    ],
)
def test_inflection(lemma: str, third: str, gerund: str) -> None:
    assert (inflect(lemma, "VBZ"), inflect(lemma, "VBG")) == (third, gerund)


def test_unknown_words_are_told_by_their_ending() -> None:
    assert not dictionary("frobbing")
    assert [w.tag for w in parse("wugly frobbing frobbed wug")] == ["ADV", "VERB", "VERB", "NOUN"]
    assert [w.lemma for w in parse("frobbing wugs")] == ["frobb", "wug"]


def test_tables_are_reached() -> None:
    """An entry that no token can be would stand there for nothing."""
    assert sum(split(word) == [word] for word in CLOSED) >= len(CLOSED) - 2
    assert sum(split(slip) == right.split() for slip, right in TYPOS.items()) >= len(TYPOS) - 2
    assert all(dictionary(word) == MENDED[word] for word in MENDED)


_FRAGMENTS = (
    "a the person walks walk walked and then , . ; while as left arm to with his is not 2 it's ' - — & 😀 שלום İ"
)
ANYTHING = st.one_of(
    st.text(max_size=1000),
    st.lists(st.sampled_from(_FRAGMENTS.split()), max_size=200).map(lambda words: " ".join(words)[:1000]),
    st.text(",.;:!?/()'-& \n\t", max_size=1000),
)


@given(ANYTHING)
def test_any_text_has_tokens(text: str) -> None:
    words = parse(text)
    assert [w.text for w in words] == split(text)
    for token in tokens(text):
        word, _, pos = token.rpartition("/")
        assert word.isalpha() and word.isascii() and word == word.lower()
        assert pos in {
            "DET",
            "NOUN",
            "VERB",
            "ADJ",
            "ADV",
            "ADP",
            "PRON",
            "AUX",
            "CCONJ",
            "SCONJ",
            "PART",
            "NUM",
            "INTJ",
        }


@given(ANYTHING)
def test_tags_depend_on_words_alone(text: str) -> None:
    """Neither of case nor of spaces."""
    assert tag(text) == tag(f"  {text.lower()} ".replace(" ", "  ")) == tag(text)


def seconds(function: Callable[[str], object], text: str) -> float:
    """Of this process; the least of three, after the dictionary is loaded."""
    function(text)
    taken = []
    for _ in range(3):
        started = time.process_time()
        function(text)
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.parametrize("unit", ["walks ", "kicks ", "a, ", ", ", "left ", "z", "it . "])
def test_a_long_caption_takes_no_long_time(unit: str) -> None:
    text = (unit * 1000)[:1000]
    assert seconds(tag, text) < 0.05
