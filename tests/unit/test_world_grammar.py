"""The embedded world's captions: what can be said, what contradicts what, and how it is worded."""

from random import Random

import pytest

from rl_motion.data.grammar import COARSE, VERBS, Claim, contradictions, render, source_claims, target_claims

SIDE_WORDS = ("left", "right", "clockwise")


def test_combinations_are_distinct_and_name_known_values():
    claims = [*source_claims(), *target_claims()]
    assert len(set(claims)) == len(claims) == len({c.key for c in claims})
    assert {c.action for c in claims} == VERBS.keys()
    assert len(VERBS) >= 12
    sides = {"", "left", "right", "forward", "backward", "up", "clockwise", "counterclockwise"}
    for claim in claims:
        assert claim.side in sides
        assert claim.count in (0, 1, 2, 3)
        assert claim.speed in ("", "slow", "fast")


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
    assert Claim("kick", "left", 2, "slow").key == "kick/left/2/slow/-"
    assert Claim("sit").key == "sit/-/-/-/-"


def test_contradictions_are_claims_of_the_world_that_differ_in_one_thing():
    world = {*source_claims(), *target_claims()}
    for claim in world:
        for kind, other in contradictions(claim).items():
            assert other in world
            changed = {
                f for f in ("action", "side", "count", "speed", "extent") if getattr(claim, f) != getattr(other, f)
            }
            assert changed == {kind}
            assert getattr(other, kind)
    assert contradictions(Claim("kick", "left", 2, "fast")) == {
        "side": Claim("kick", "right", 2, "fast"),
        "count": Claim("kick", "left", 3, "fast"),
        "speed": Claim("kick", "left", 2, "slow"),
    }
