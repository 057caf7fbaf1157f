"""Faults of recorded motion: what can be mended is, all of it is said, and sound motion is left alone."""

import numpy as np
import pytest

from rl_motion.motion.formats.faults import mend
from rl_motion.motion.formats.retarget import Body
from rl_motion.motion.resample import resample
from rl_motion.motion.skeleton import JOINT_NAMES
from tests.motion_formats import walk

HAND = JOINT_NAMES.index("left_wrist")


def at(fps):
    """The walk at another rate: straight lines between its frames."""
    return resample(walk(), 20.0, fps)


def t_pose(frame_J3):
    """A frame with its arms to the sides."""
    out = frame_J3.copy()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder = out[JOINT_NAMES.index(f"{side}_shoulder")]
        for number, part in enumerate(("elbow", "wrist"), start=1):
            out[JOINT_NAMES.index(f"{side}_{part}")] = shoulder + np.array([sign * 0.26 * number, 0, 0])
    return out


@pytest.mark.parametrize("fps", [20.0, 30.0, 60.0, 120.0])
@pytest.mark.parametrize("action", ["walk", "jump", "spin", "squat", "circle"])
def test_sound_motion_is_left_alone(fps, action):
    joints = resample(walk(action=action), 20.0, fps)
    mended = mend(Body(joints, fps))
    assert (mended.left_out, mended.body.wrong) == ("", ())
    np.testing.assert_array_equal(mended.body.joints_FJ3, joints)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("end", ["start", "end"])
def test_a_t_pose_is_cut(count, end):
    pose = np.repeat(t_pose(walk()[0])[None], count, axis=0)
    joints = np.concatenate([pose, walk()] if end == "start" else [walk(), pose + walk()[-1, :1] - pose[0, :1]])
    mended = mend(Body(joints, 20.0))
    assert mended.left_out == ""
    assert mended.body.wrong == (f"T-pose at the {end}: {count} frames cut",)
    np.testing.assert_array_equal(mended.body.joints_FJ3, walk())


def test_who_stands_so_for_long_or_always_or_moves_so_means_it():
    long = np.repeat(walk()[:1], 150, axis=0)
    long[:120] = t_pose(walk()[0])
    moving = np.concatenate([[t_pose(frame) for frame in walk()[:20]], walk()[20:]])
    for joints in (long, moving, walk(action="spin"), np.stack([t_pose(frame) for frame in walk()])):
        assert not any("T-pose" in line for line in mend(Body(joints, 20.0)).body.wrong)


@pytest.mark.parametrize("fps", [20.0, 120.0])
@pytest.mark.parametrize("width", [1, 2])
def test_a_spike_is_bridged(fps, width):
    joints = at(fps).copy()
    joints[40 : 40 + width, HAND] += [0.0, 2.0, 0.0]
    mended = mend(Body(joints, fps))
    assert mended.left_out == ""
    assert any("spikes in" in line and "bridged" in line for line in mended.body.wrong)
    assert np.abs(mended.body.joints_FJ3 - at(fps)).max() < 0.1


def test_many_spikes_are_a_reason():
    joints = walk().copy()
    joints[::5, HAND] += [0.0, 1.5, 0.0]
    assert mend(Body(joints, 20.0)).left_out == "spikes"


def test_a_body_that_jumps_is_in_pieces():
    joints = walk().copy()
    joints[30:] += [3.0, 0.0, 0.0]
    mended = mend(Body(joints, 20.0))
    assert mended.left_out == "jumps of the whole body"
    assert "first before frame 30" in mended.body.wrong[-1]


def test_what_does_not_move_is_static():
    noise = np.random.default_rng(0).normal(size=walk().shape) * 0.001
    assert mend(Body(np.repeat(walk()[:1], 60, axis=0) + noise, 20.0)).left_out == "static"


def test_frames_that_are_not_finite_are_cut_at_the_ends_and_bridged_inside():
    joints = walk().copy()
    joints[:3] = np.nan
    joints[30:32, HAND] = np.inf
    mended = mend(Body(joints, 20.0))
    assert mended.left_out == ""
    assert mended.body.wrong == ("5 of 60 frames are NaN or infinite, first frame 0",)
    assert len(mended.body.joints_FJ3) == 57
    assert np.abs(mended.body.joints_FJ3 - walk()[3:]).max() < 0.05


@pytest.mark.parametrize("bad", [slice(20, 30), slice(0, 60, 3), slice(0, 60)])
def test_too_many_of_them_are_a_reason(bad):
    joints = walk().copy()
    joints[bad] = np.nan
    assert mend(Body(joints, 20.0)).left_out == "NaN or infinite"


def test_odd_feet_and_bones_are_said():
    sliding = walk() + np.arange(60)[:, None, None] * [0.0, 0.0, 0.08]
    assert any("slide" in line for line in mend(Body(sliding, 20.0)).body.wrong)
    stretched = walk().copy()
    knee, ankle = JOINT_NAMES.index("left_knee"), JOINT_NAMES.index("left_ankle")
    share = (1.0 + 0.5 * np.sin(np.arange(60) / 3.0))[:, None]
    stretched[:, ankle] = stretched[:, knee] + share * (stretched[:, ankle] - stretched[:, knee])
    assert any("changes its length" in line for line in mend(Body(stretched, 20.0)).body.wrong)
    assert any("above the lowest point" in line for line in mend(Body(hovering(), 20.0)).body.wrong)


def hovering():
    """A walk on a table, from which a hand once reaches to the floor."""
    joints = walk().copy()
    reach = np.clip(1.0 - np.abs(np.arange(60) - 30) / 8.0, 0.0, 1.0)
    joints[:, HAND, 1] -= 1.6 * reach
    return joints


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_very_short_motion_ends_in_words(frames):
    mended = mend(Body(walk()[:frames].copy(), 20.0))
    assert isinstance(mended.left_out, str)
