"""Rotations from joints: what is written stands where the joints were, bends as bodies bend and does not jump."""

from __future__ import annotations

import numpy as np
import pytest

from rl_motion.data.actions import perform
from rl_motion.data.embedded import splits
from rl_motion.motion import inverse
from rl_motion.motion.inverse import (
    NODE_CHILDREN,
    NODE_JOINTS,
    NODE_NAMES,
    NODE_PARENTS,
    REST_DIRECTIONS_J3,
    bone_lengths,
    reshape,
    solve,
)
from rl_motion.motion.resample import resample
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, STANDING_OFFSETS_J3, fk_local

LENGTHS_J = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1)
CLAIMS = {claim.action: claim for part in ("source/train", "target/train") for claim in splits()[part]}
MOTIONS = [np.asarray(perform(c, 40, np.random.default_rng(n)), float) for n, c in enumerate(CLAIMS.values())]


def turned(joint, axis, degrees):
    """One frame of a standing body [1, 22, 3] with one joint turned about x, y or z."""
    return posed({joint: (axis, degrees)})


def posed(turns):
    rotations = np.tile(np.eye(3), (1, 22, 1, 1))
    for joint, (axis, degrees) in turns.items():
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        a, b = (axis + 1) % 3, (axis + 2) % 3
        rotations[0, joint, [a, a, b, b], [a, b, a, b]] = cos, -sin, sin, cos
    return fk_local(np.array([[0.0, 0.95, 0.0]]), rotations, STANDING_OFFSETS_J3)


def far(rotations, joints_FJ3):
    return np.linalg.norm(rotations.joints() - joints_FJ3, axis=-1)


def steps(rotations):
    """Degrees [F - 1, N] that each node turns from frame to frame."""
    cosine = (rotations.local_FN4[1:] * rotations.local_FN4[:-1]).sum(-1)
    return np.degrees(2 * np.arccos(np.clip(np.abs(cosine), 0, 1)))


def loose(frames=30, seed=0):
    """A body none of whose bones moves with another: HumanML3D's lengths, every direction a path of its own."""
    rng = np.random.default_rng(seed)
    rest = REST_DIRECTIONS_J3[1:]
    wander = np.cumsum(rng.normal(scale=0.05, size=(frames, 21, 3)), axis=0) + rng.normal(scale=0.25, size=(21, 3))
    directions = (rest + wander) / np.linalg.norm(rest + wander, axis=-1, keepdims=True)
    return HUMANML3D.from_directions(rng.normal(size=(frames, 3)), directions, LENGTHS_J)


def test_the_tree_has_each_joint_and_parents_come_first():
    assert set(NODE_JOINTS) == set(range(22))
    assert all(parent < node for node, parent in enumerate(NODE_PARENTS))
    assert len(set(NODE_NAMES)) == len(NODE_NAMES)
    # Depth first, as BVH writes it: a node's parent is the one before, or one that is still open.
    order = []
    stack = [0]
    while stack:
        order.append(node := stack.pop())
        stack += reversed(NODE_CHILDREN[node])
    assert order == list(range(len(NODE_NAMES)))


@pytest.mark.parametrize("action", CLAIMS)
def test_every_joint_of_a_rigid_body_is_where_it_was(action):
    joints = MOTIONS[list(CLAIMS).index(action)]
    assert far(solve(joints, 20.0), joints).max() < 1e-6


def test_every_joint_is_where_it_was_where_pelvis_and_chest_are_no_rigid_pieces():
    joints = loose()
    rotations = solve(joints, 20.0)
    assert far(rotations, joints).max() < 1e-6
    virtual = rotations.local_FN4[:, [NODE_NAMES.index("LowerBack"), NODE_NAMES.index("LClavicle")]]
    assert (np.abs(virtual[..., 0]) < 0.999).any()  # they were needed


def test_bones_whose_lengths_flicker_get_one_length_and_joints_stay_within_a_centimetre():
    rng = np.random.default_rng(1)
    errors = []
    for joints in MOTIONS[::4]:
        shaky = joints + rng.normal(scale=0.003, size=joints.shape)
        rotations = solve(shaky, 20.0)
        errors.append(far(rotations, shaky).mean())
        lengths = HUMANML3D.bone_lengths(rotations.joints())
        np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-9)
    assert max(errors) < 0.01


def test_a_given_body_has_its_own_bones_points_them_as_before_and_stands_on_the_same_floor():
    longer = LENGTHS_J * np.linspace(0.8, 1.3, 21)
    for joints in MOTIONS[::4]:
        rotations = solve(joints, 20.0, longer)
        got = rotations.joints()
        np.testing.assert_allclose(HUMANML3D.bone_lengths(got), np.broadcast_to(longer, (len(got), 21)), atol=1e-9)
        np.testing.assert_allclose(HUMANML3D.bone_directions(got), HUMANML3D.bone_directions(joints), atol=1e-6)
        assert got[..., 1].min() == pytest.approx(joints[..., 1].min(), abs=1e-9)
        scale = longer[[4, 7]].sum() / bone_lengths(joints)[[4, 7]].sum()
        np.testing.assert_allclose(got[:, 0, [0, 2]], joints[:, 0, [0, 2]] * scale, atol=1e-9)
        back = reshape(got, bone_lengths(joints))
        np.testing.assert_allclose(back, joints, atol=1e-6)


def test_a_body_that_turns_turns_at_the_hips_alone():
    yaw = np.linspace(0, 3 * np.pi, 60)
    standing = turned(0, 0, 0)[0]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    joints = np.stack([cos * standing[:, 0] + sin * standing[:, 2], np.tile(standing[:, 1], (60, 1)),
                       cos * standing[:, 2] - sin * standing[:, 0]], axis=-1)  # fmt: skip
    rotations = solve(joints, 20.0)
    assert steps(rotations)[:, 1:].max() < 1e-3
    hips = rotations.local_FN4[:, 0]
    np.testing.assert_allclose(np.abs((hips[0] * hips).sum(-1)), np.abs(np.cos(yaw / 2)), atol=1e-6)


@pytest.mark.parametrize(("knee", "node"), [(4, "LeftLeg"), (5, "RightLeg")])
def test_a_knee_bends_about_the_axis_from_side_to_side(knee, node):
    w, x, y, z = solve(turned(knee, 0, 70), 20.0).local_FN4[0, NODE_NAMES.index(node)]
    assert np.degrees(2 * np.arccos(abs(w))) == pytest.approx(70, abs=1)
    assert abs(x) > 20 * max(abs(y), abs(z))
    assert x * w > 0


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_the_plane_of_a_bent_limb_twists_its_upper_half(side):
    """A forearm that points forward from a hanging arm needs no twist; one that points across needs a quarter turn."""
    elbow = 18 if side == "Left" else 19
    node = NODE_NAMES.index(f"{side}ForeArm")
    forward, across = posed({elbow: (0, -80)}), posed({elbow: (2, -80 if side == "Left" else 80)})
    for joints in (forward, across):
        w, *xyz = solve(joints, 20.0).local_FN4[0, node]
        # The elbow is a hinge about the T-pose's vertical axis, whichever way the hand goes.
        axis = np.array(xyz) / np.linalg.norm(xyz)
        assert abs(axis[1]) > 0.95
        assert np.degrees(2 * np.arccos(abs(w))) == pytest.approx(80, abs=1)


def test_toes_tell_how_a_straight_leg_is_turned():
    thigh = NODE_NAMES.index("LeftUpLeg")
    straight, out = (solve(turned(1, 1, degrees), 20.0).nodes()[1][0, thigh] for degrees in (0, 60))
    assert 30 < np.degrees(2 * np.arccos(np.clip(abs((straight * out).sum()), 0, 1))) < 65


def fastest(motions):
    """Degrees a node turns at most in 1/160 s."""
    return max(steps(solve(resample(joints, 20.0, 160.0), 160.0)).max() for joints in motions)


def test_rotations_do_not_jump(monkeypatch):
    assert fastest(MOTIONS) < 9  # the fastest limb turns 7 degrees in that time
    monkeypatch.setattr(inverse, "_STRAIGHT", 0.0)
    monkeypatch.setattr(inverse, "_SMOOTHING_S", 1e-6)
    monkeypatch.setattr(inverse, "_TOES", 0.0)
    assert fastest(MOTIONS) > 90  # without what holds the twist of straight limbs


def test_quaternions_are_units_and_neighbours_lie_in_one_half_space():
    for joints in MOTIONS[::4]:
        local_FN4 = solve(joints, 20.0).local_FN4
        np.testing.assert_allclose(np.linalg.norm(local_FN4, axis=-1), 1, atol=1e-9)
        assert ((local_FN4[1:] * local_FN4[:-1]).sum(-1) > 0).all()


def test_coinciding_joints_and_one_frame_give_finite_rotations():
    point = np.zeros((3, 22, 3))
    stacked = turned(0, 0, 0)
    stacked[:, 15] = stacked[:, 12]
    for joints in (point, stacked, stacked[:1]):
        rotations = solve(joints, 12.5)
        assert np.isfinite(rotations.local_FN4).all()
        assert far(rotations, joints).max() < 1e-6


@pytest.mark.parametrize("joints", [np.zeros((0, 22, 3)), np.zeros((2, 21, 3)), np.full((2, 22, 3), np.nan)])
def test_what_are_no_joints_is_refused(joints):
    with pytest.raises(ValueError, match="want finite"):
        solve(joints, 20.0)
