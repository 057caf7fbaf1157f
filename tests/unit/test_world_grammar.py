"""The embedded world's captions: what can be said, what contradicts what, and how it is worded."""

from dataclasses import fields, replace
from random import Random

import pytest

from rl_motion.data.grammar import COARSE, STYLED, VERBS, Claim, contradictions, render, source_claims, target_claims

SIDE_WORDS = ("left", "right", "clockwise")


def test_combinations_are_distinct_and_name_known_values():
    claims = [*source_claims(), *target_claims()]
    assert len(set(claims)) == len(claims) == len({c.key for c in claims})
    assert {c.action for c in claims} == VERBS.keys()
    assert len(VERBS) >= 24
    sides = {"", "left", "right", "forward", "backward", "up", "clockwise", "counterclockwise"}
    for claim in claims:
        assert claim.side in sides
        assert claim.count in (0, 1, 2, 3)
        assert claim.speed in ("", "slow", "fast")
        assert claim.gaze in ("", "down", "up")
        assert claim.style in ("", "wings", "hips", "bent")


def test_every_combination_comes_with_every_gaze_and_its_styles():
    for claims in (source_claims(), target_claims()):
        plain = [c for c in claims if not c.style and not c.gaze]
        gazing = {replace(c, gaze=gaze) for c in plain for gaze in ("", "down", "up")}
        styled = {replace(c, style=style) for c in plain if not c.speed for style in STYLED.get(c.action, ())}
        assert gazing | styled == set(claims)
        assert {c.style for c in styled} == {"wings", "hips", "bent"}
    assert len(STYLED) >= 20


def test_the_source_never_names_the_side_of_coarse_actions_and_the_target_always_does():
    assert {c.action for c in target_claims()} == set(COARSE)
    assert all(c.side == "" for c in source_claims() if c.action in COARSE)
    assert all(c.side in SIDE_WORDS or c.side == "counterclockwise" for c in target_claims())
    assert {c.action for c in source_claims()} >= set(COARSE)


@pytest.mark.parametrize("claims", [source_claims(), target_claims()], ids=["source", "target"])
def test_words_say_a_side_exactly_where_the_claim_has_one(claims):
    for claim in claims:
        for n in range(40):
            caption = render(claim, Random(n))
            named = any(word in caption for word in SIDE_WORDS)
            assert named == (claim.side in (*SIDE_WORDS, "counterclockwise")), caption


def test_captions_are_paraphrased_and_repeatable():
    for claim in (*source_claims(), *target_claims()):
        captions = [render(claim, Random(n)) for n in range(60)]
        assert len(set(captions)) >= 15
        assert captions == [render(claim, Random(n)) for n in range(60)]


def test_a_key_names_every_field():
    assert Claim("kick", "left", 2, "slow").key == "kick/left/2/slow/-/-/-"
    assert Claim("sit").key == "sit/-/-/-/-/-/-"


def test_contradictions_are_claims_of_the_world_that_differ_in_one_thing():
    world = {*source_claims(), *target_claims()}
    for claim in world:
        for kind, other in contradictions(claim).items():
            assert other in world
            changed = {f.name for f in fields(Claim) if getattr(claim, f.name) != getattr(other, f.name)}
            assert changed == {kind}
            assert getattr(other, kind)
    assert contradictions(Claim("kick", "left", 1, "slow")) == {
        "side": Claim("kick", "right", 1, "slow"),
        "count": Claim("kick", "left", 2, "slow"),
    }
    assert contradictions(Claim("kick", "left", 2, "slow")) == {"side": Claim("kick", "right", 2, "slow")}
    assert contradictions(Claim("circle", "clockwise", 0, "fast", "small", "up")) == {
        "side": Claim("circle", "counterclockwise", 0, "fast", "small", "up"),
        "speed": Claim("circle", "clockwise", 0, "slow", "small", "up"),
        "extent": Claim("circle", "clockwise", 0, "fast", "large", "up"),
        "gaze": Claim("circle", "clockwise", 0, "fast", "small", "down"),
    }


def test_counted_actions_are_ordinary_or_slow_and_three_repetitions_never_slow():
    """Faster repetitions, or three slow ones in two seconds, are beyond what 20 frames per second can show."""
    for claim in (*source_claims(), *target_claims()):
        if claim.count:
            assert claim.speed in ("", "slow")
            assert claim.speed == "" or (claim.count < 3 and claim.action != "jump")
    assert {(c.extent, c.speed) for c in source_claims() if c.action == "sit"} == {
        ("", ""), ("", "slow"), ("", "fast"), ("low", ""), ("low", "slow"), ("low", "fast"), ("high", ""),
    }  # fmt: skip
