"""Contradictions are refused with their reason, what one body can do is not."""

from __future__ import annotations

import pytest
from hypothesis import given

from rl_motion.prompts.plausible import at_once, contradicts_itself, in_turn, judge
from tests.meta_motions import meta
from tests.unit.test_prompts_words import ANYTHING

CASES = [
    # (refused, the reason, its counterpart that is not)
    (
        "a person waves with the left hand while raising their left arm",
        "two uses of one limb",
        "a person waves with the left hand while raising their right arm",
    ),
    ("a person kicks while squatting", "two uses of one limb", "a person kicks while waving"),
    ("a person jumps while sitting down", "two uses of one limb", "a person nods while jumping"),
    ("a person nods while looking up", "two uses of head", "a person nods while walking"),
    ("a person sits down and then jumps", "from sit to stand without a way there", "a person jumps and then sits down"),
    (
        "a person lies down and then walks forward",
        "from lie to stand without a way there",
        "a person lies down and then stands up",
    ),
    ("a person walks and then stands up", "stands up while standing", "a person sits down and then stands up"),
    ("a person slowly walks quickly", "slowly and quickly", "a person slowly walks forward"),
    ("a person jumps once twice", "twice and once", "a person jumps twice"),
    (
        "a person turns clockwise counterclockwise",
        "clockwise and counterclockwise",
        "a person turns clockwise",
    ),
    ("a person walks and then a person is walking", "the same motion twice", "a person walks and then runs"),
    ("a person", "not understood: no motion", "a person walks"),
    ("a person walks and then does it again", "not understood: points back", "a person walks and then sits"),
    (
        "a person slowly raises their left arm while quickly lowering their right arm",
        "slow and fast at once",
        "a person slowly raises their left arm while slowly lowering their right arm",
    ),
]


@pytest.mark.parametrize(("text", "reason", "other"), CASES, ids=[reason for _, reason, _ in CASES])
def test_rules(text: str, reason: str, other: str) -> None:
    assert judge(text) == (0.0, reason)
    assert judge(other) == (1.0, "")


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("walks forward", "circles their arms", ""),
        ("walks forward", "waves", ""),
        ("raises their left arm", "raises their right arm", ""),
        ("raises their left arm", "claps", "two uses of one limb"),
        ("walks forward", "runs backward", "two uses of one limb"),
        ("sits down", "waves", "postures that do not go together"),  # it ends elsewhere than it began
        ("sits down", "crouches", "two uses of one limb"),
        ("nods", "shakes their head", "two uses of head"),
    ],
)
def test_at_once_both_ways(one: str, other: str, reason: str) -> None:
    first, second = meta(f"a person {one}").facts, meta(f"a person {other}").facts
    assert at_once(first, second) == at_once(second, first) == reason


def test_in_turn_is_no_both_ways() -> None:
    sits, stands = meta("a person sits down").facts, meta("a person stands up").facts
    assert in_turn(sits, stands) == ""
    assert in_turn(stands, sits) == ""
    assert in_turn(stands, stands) == "stands up while standing"
    assert in_turn(sits, meta("a person walks").facts) == "from sit to stand without a way there"
    assert in_turn(sits, meta("a person waves").facts) == ""


def test_a_posture_does_not_move() -> None:
    assert contradicts_itself(meta("a person walks forward").facts) == ""
    assert contradicts_itself(meta("a person stands walking").facts) == ""
    assert contradicts_itself(meta("a person walks slowly quickly").facts) == "slowly and quickly"


def test_strain_costs() -> None:
    assert judge("a person walks, turns around, waves and then bows")[0] == 0.9
    far = "a person walks forward to the table in the middle of the room and then waves their left hand in the air"
    assert judge(far) == (1.0, "")
    assert judge(f"{far} slowly") == (0.9, "")


@given(ANYTHING)
def test_any_text_is_judged(text: str) -> None:
    plausibility, reason = judge(text)
    assert 0 <= plausibility <= 1
    assert (plausibility == 0) == bool(reason)
