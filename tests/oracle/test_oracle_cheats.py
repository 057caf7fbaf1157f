"""Motion that satisfies a check's letter and does not do what the caption says: the oracle rejects each.

Beside each cheat the honest motion that it imitates is accepted: a check that rejects everything would be seen.
Legend: F frames, J joints.
"""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from rl_motion.data import oracle, oracle_measures
from rl_motion.data.actions import perform
from rl_motion.data.grammar import Claim, render, source_claims, target_claims
from rl_motion.data.pose import FIRST_BODY, HIP, KNEE, OUT, SHOULDER, SPINE, Pose

FRAMES = 40
CLAIMS = (*source_claims(), *target_claims())
SECONDS = 0.5


def caption(claim):
    return render(claim, Random(claim.key))


def honest(claim, seed=0):
    return perform(claim, FRAMES, np.random.default_rng([808, seed]))


def succeeds(claim, joints_FJ3):
    return oracle.check(caption(claim), joints_FJ3).success


def still():
    return Pose(np.arange(FRAMES) / FIRST_BODY.fps, np.random.default_rng(0), FIRST_BODY)


def statues(claims):
    """Claims that one of an honest motion's frames, held for the whole clip, would satisfy."""
    return [c for c in claims if any(succeeds(c, np.repeat(frame[None], FRAMES, 0)) for frame in honest(c))]


ONCE = [c for c in CLAIMS if c.count == 1 and not c.speed]


def test_a_statue_repeats_nothing_whatever_it_holds():
    assert len({c.action for c in ONCE}) == 16
    assert len(statues(ONCE)) <= 0.01 * len(ONCE)


def test_an_oracle_that_counts_what_is_held_is_noticed(monkeypatch):
    """Negative control: excursions that are under way in the first frame count."""
    bumps = oracle_measures.bumps

    def lenient(signal_F, high, low, fps):
        return bumps(np.concatenate([[low - 1.0], signal_F]), high, low, fps)

    for module in ("oracle_gestures", "oracle_rules", "oracle_travel"):
        monkeypatch.setattr(f"rl_motion.data.{module}.bumps", lenient)
    assert len(statues(ONCE[::3])) > 0.2 * len(ONCE[::3])


@pytest.mark.parametrize("shift_m", [-0.5, -0.15, 0.15])
def test_feet_belong_on_the_floor(shift_m):
    some = [c for c in CLAIMS[::7] if succeeds(c, honest(c))]
    assert len(some) > 100
    assert not any(succeeds(c, honest(c) + np.array([0, shift_m, 0])) for c in some)


def test_bent_knees_are_not_a_body_that_sinks():
    bent = [c for c in CLAIMS if c.style == "bent"]
    sunk = [honest(replace(c, style="")) - np.array([0, 0.15, 0]) for c in bent]
    assert all(succeeds(c, honest(c)) for c in bent)
    assert not any(oracle.check(caption(c), x).claim for c, x in zip(bent, sunk, strict=True))
    squeezed = [x * np.array([1, 0.8, 1]) for x in (honest(replace(c, style="")) for c in bent)]
    assert not any(oracle.check(caption(c), x).claim for c, x in zip(bent, squeezed, strict=True))


def march_together(_):
    """Both knees at once, the pelvis held up by nothing."""
    pose = still()
    for leg, lag in (("left", 0.0), ("right", 1 / FIRST_BODY.fps)):
        lift = 1.25 * np.maximum(np.sin(2 * np.pi * (pose.t_F - lag) / 0.92), 0)
        pose.add(HIP[leg], 0, -lift)
        pose.add(KNEE[leg], 0, 1.2 * lift)
    joints = pose.joints()
    joints[..., 1] += (joints[0, 0, 1] - joints[:, 0, 1])[:, None]
    return joints


def twist_of_the_hips(claim):
    """The hips turn the other way; the chest faces ahead throughout."""
    pose = still()
    twist = 0.7 * OUT[claim.side] * pose.bumps(0.1, SECONDS, claim.count)
    pose.yaw_F -= twist
    for joint in SPINE:
        pose.add(joint, 1, twist / 3)
    return pose.joints()


def lean_of_a_plank(claim):
    """The whole body tilts about its feet."""
    pose = still()
    joints = pose.joints()
    angle = -OUT[claim.side] * np.radians(25) * pose.bumps(0.1, SECONDS, claim.count)
    cos, sin, x, y = np.cos(angle)[:, None], np.sin(angle)[:, None], joints[..., 0].copy(), joints[..., 1].copy()
    joints[..., 0], joints[..., 1] = cos * x - sin * y, sin * x + cos * y
    return joints


def clap_with_one_arm(claim):
    pose = still()
    together = pose.bumps(0.1, SECONDS, claim.count)
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 0, -1.15)
    pose.add(SHOULDER["left"], 1, 0.6 - 1.5 * together)
    return pose.joints()


def slide(claim):
    """What is asked for, while the body slides a metre aside and back."""
    aside = np.sin(2 * np.pi * np.arange(FRAMES) / (FRAMES - 1))
    return honest(claim) + np.stack([aside, np.zeros(FRAMES), np.zeros(FRAMES)], -1)[:, None]


SIDED = [Claim(action, side, count) for action in ("lean", "twist") for side in OUT for count in (1, 2, 3)]
IN_PLACE = [
    *(Claim(action, count=n) for action in ("clap", "reach", "squat", "bow") for n in (1, 2)), Claim("march"),
    *(Claim(action, "left", 2) for action in ("lunge", "heel", "kick", "knee", "punch", "raise", "wave")), *SIDED,
]  # fmt: skip
CHEATS = {
    march_together: [Claim("march")],
    twist_of_the_hips: [c for c in SIDED if c.action == "twist"],
    lean_of_a_plank: [c for c in SIDED if c.action == "lean"],
    clap_with_one_arm: [Claim("clap", count=n) for n in (1, 2, 3)],
    slide: IN_PLACE,
}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_rejected_and_what_it_imitates_is_not(cheat):
    claims = CHEATS[cheat]
    assert all(succeeds(c, honest(c)) for c in claims)
    verdicts = [oracle.check(caption(c), cheat(c)) for c in claims]
    assert not any(verdict.claim for verdict in verdicts)


def test_a_metre_aside_and_back_is_seen_by_the_place_alone(monkeypatch):
    """Negative control: without the bound on the way, sliding would pass."""
    monkeypatch.setattr(oracle_measures.Measures, "spread", 0.0)
    assert all(succeeds(c, slide(c)) for c in IN_PLACE)
