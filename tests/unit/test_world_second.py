"""The second dialect: its splits, captions, clips and oracle; and both worlds by split."""

import hashlib
from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch

from rl_motion.config import UserError
from rl_motion.data import embedded, second, second_grammar, worlds
from rl_motion.data.actions import perform
from rl_motion.data.grammar import COARSE, contradictions, source_claims, target_claims
from rl_motion.data.pose import FIRST_BODY
from rl_motion.data.second_reading import read
from rl_motion.motion import kit
from rl_motion.motion.convert import converted
from rl_motion.motion.joints import motion_joints
from rl_motion.types import Motions, Normalisation, Representation

CLAIMS = [c for c in source_claims() + target_claims() if second_grammar.speaks_of(c)]
PINNED = "1760b25660d4bbf3"
"""Of all splits and prompts. The packaged models were trained on this world: a change orphans them."""


def succeeds(caption, joints_FJ3, fps=kit.FPS):
    return second.check(read(caption), joints_FJ3, fps).success


def as_motions(clips):
    features, length = torch.from_numpy(clips.features_NFD), torch.from_numpy(clips.length_N)
    return Motions(features, length, kit.FPS, Representation.KIT_251, Normalisation.NONE)


@pytest.fixture(scope="module")
def shown():
    """Captions, claims and joints of one clip for each combination of the train split, as models see them."""
    clips = second.clips("train", len(second.claims()["train"]), seed=70_707)
    joints_NFJ3 = motion_joints(as_motions(clips)).numpy()
    cut = [joints[:length] for joints, length in zip(joints_NFJ3, clips.length_N, strict=True)]
    return list(zip(clips.captions, clips.claims, cut, strict=True))


def test_splits_are_those_of_the_first_dialect_so_nothing_tested_in_one_is_trained_on_in_the_other():
    parts = second.claims()
    assert {part: len(claims) for part, claims in parts.items()} == {"train": 369, "val": 54, "test": 106}
    for one, other in combinations(parts, 2):
        assert not {*parts[one]} & {*parts[other]}
        assert not {p.text for p in second.worded(one, 48)} & {p.text for p in second.worded(other, 48)}
    first = embedded.splits()
    for part, claims in parts.items():
        assert {*claims} <= {*first[f"source/{part}"], *first[f"target/{part}"]}
    assert sorted(c for claims in parts.values() for c in claims) == sorted(CLAIMS)
    assert all(c.side for c in CLAIMS if c.action in COARSE)


def test_the_world_does_not_change():
    rows = [(part, [(p.id, p.text, p.length, p.group) for p in second.worded(part, 12)]) for part in second.PARTS]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == PINNED


def test_captions_are_read_as_they_were_meant():
    for claim in CLAIMS:
        for number in range(12):
            reading = read(second_grammar.render(claim, Random(number)))
            assert (reading.action, reading.count, reading.speed) == (claim.action, claim.count, claim.speed)
            assert (reading.extent, reading.gaze, reading.style) == (claim.extent, claim.gaze, claim.style)
            assert reading.side == ("" if claim.action == "bow" else claim.side)


def test_a_caption_of_no_world_is_refused():
    with pytest.raises(ValueError, match="without a known action"):
        read("a human paints a wall")


def test_clips_have_kits_features_and_the_bodys_bones(shown):
    clips = second.clips("val", 20, seed=1)
    assert clips.features_NFD.shape == (20, 25, 251)
    assert {*clips.length_N.tolist()} <= {24, 25}
    for features, length in zip(clips.features_NFD, clips.length_N, strict=True):
        assert not features[length:].any() and features[:length].any()
    lengths_J = kit.KIT.bone_lengths(kit.features_to_joints(torch.from_numpy(clips.features_NFD)).numpy()[0, 0])
    assert np.abs(lengths_J / np.linalg.norm(kit.KIT_OFFSETS_J3[1:], axis=-1) - 1).max() < 1e-3
    again = second.clips("val", 20, seed=1)
    assert np.array_equal(clips.features_NFD, again.features_NFD) and clips.captions == again.captions
    assert not np.array_equal(clips.features_NFD, second.clips("val", 20, seed=2).features_NFD)


def test_the_oracle_accepts_what_each_action_does(shown):
    by_action = {}
    for caption, claim, joints in shown:
        by_action.setdefault(claim.action, []).append(succeeds(caption, joints))
    assert len(by_action) == 20
    assert np.mean([v for found in by_action.values() for v in found]) >= 0.97
    assert min(np.mean(found) for found in by_action.values()) >= 0.8


def test_the_oracle_rejects_what_does_something_else(shown):
    rng = Random(0)
    frozen = [succeeds(caption, np.repeat(joints[len(joints) // 2 :][:1], 25, 0)) for caption, _, joints in shown]
    others = [rng.choice(shown) for _ in shown]
    other = [
        succeeds(caption, joints)
        for (caption, claim, _), (_, done, joints) in zip(shown, others, strict=True)
        if claim.action != done.action
    ]
    against = [
        succeeds(second_grammar.render(other, rng), joints)
        for _, claim, joints in shown
        for other in contradictions(claim).values()
        if second_grammar.speaks_of(other)
    ]
    noise = np.random.default_rng(0)
    noisy = [succeeds(caption, joints + noise.normal(0, 0.03, joints.shape)) for caption, _, joints in shown]
    assert len(other) > 300 and len(against) > 700
    assert np.mean(frozen) < 0.01 and np.mean(other) < 0.01 and np.mean(against) < 0.01 and np.mean(noisy) < 0.05


def test_the_oracle_knows_this_body_from_another(shown):
    """A scaled skeleton, and the first dialect's bones, which its own oracle wants, are out of the band."""
    scaled = [succeeds(caption, 1.3 * joints) for caption, _, joints in shown[:60]]
    assert not any(scaled)
    claim = next(c for _, c, _ in shown if c.action == "squat")
    first = perform(claim, 26, np.random.default_rng(0), replace_rate(FIRST_BODY))
    wide = first.copy()
    wide[:, [18, 19, 20, 21]] += 0.35 * (first[:, [18, 19, 20, 21]] - first[:, [16, 17, 16, 17]])
    verdict = second.check(read("a man does a squat"), wide, kit.FPS)
    assert not verdict.in_band and "bones" in verdict.reasons[-1]


def replace_rate(body):
    return replace(body, fps=kit.FPS)


def test_not_finite_motion_fails(shown):
    caption, _, joints = shown[0]
    broken = joints.copy()
    broken[3, 4] = np.nan
    assert second.check(read(caption), broken, kit.FPS).reasons == ("not finite",)


def test_worlds_by_split():
    assert worlds.world_of("second/val") is worlds.SECOND
    assert worlds.world_of("target/test") is worlds.FIRST is worlds.world_of("first/train")
    both = worlds.prompts("first/val")
    assert both == embedded.prompts("source/val") + embedded.prompts("target/val")
    for wrong in ("second", "second/all", "../second/train", "third/train", "second/train\n"):
        with pytest.raises(UserError, match="got split"):
            worlds.prompts(wrong)
    with pytest.raises(UserError):
        worlds.clips("first/train", 4)


def test_lengths_are_in_the_models_frames():
    own, other = worlds.prompts("second/val"), worlds.prompts("second/val", 20.0)
    assert worlds.prompts("second/val", 12.5) == own
    assert [p.text for p in own] == [p.text for p in other]
    assert {(a.length, b.length) for a, b in zip(own, other, strict=True)} == {(24, 39), (25, 40)}
    for split in ("source/val", "first/train"):
        slow = worlds.prompts(split, 12.5)
        assert {p.length for p in slow} == {24, 25} and len({p.id for p in slow}) == len(slow)
        assert {p.text for p in slow} == {p.text for p in worlds.prompts(split)}
    ids = [p.id for p in other]
    assert len({*ids}) == len(ids) and not {*ids} & {p.id for p in own}


def test_each_world_judges_the_motion_of_either_body(shown):
    """The second dialect's clips as HumanML3D's features at 20 fps still do what their captions say, mostly.

    What is lost is quick, and lost in 12.5 frames a second.
    """
    clips = second.clips("train", 120, seed=3)
    first = converted(as_motions(clips), Representation.HUMANML3D_263, 20.0)
    joints = motion_joints(first).numpy()
    verdicts = [
        worlds.SECOND.success(Representation.HUMANML3D_263, caption, joints[n, :length], 20.0)
        for n, (caption, length) in enumerate(zip(clips.captions, first.length_B.tolist(), strict=True))
    ]
    assert np.mean(verdicts) > 0.85
    turned = [
        worlds.SECOND.success(Representation.HUMANML3D_263, caption, joints[n - 1, : first.length_B[n - 1]], 20.0)
        for n, caption in enumerate(clips.captions)
    ]
    assert np.mean(turned) < 0.1
