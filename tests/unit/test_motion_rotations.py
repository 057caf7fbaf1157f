"""Identities of rotations, and kinematics that undo one another."""

from __future__ import annotations

import numpy as np
import pytest

from rl_motion.motion import rotations as r
from rl_motion.motion.skeleton import (
    HUMANML3D,
    HUMANML3D_OFFSETS_J3,
    JOINT_NAMES,
    LEFT_JOINTS,
    PARENTS,
    RIGHT_JOINTS,
    STANDING_OFFSETS_J3,
    fk_local,
)

RNG = np.random.default_rng(0)


def quaternions(*shape):
    q = RNG.normal(size=(*shape, 4))
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def yaw(angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def test_product_rotates_by_the_right_factor_first():
    a, b, v = quaternions(5, 3), quaternions(5, 3), RNG.normal(size=(5, 3, 3))
    assert np.allclose(r.qrot(r.qmul(a, b), v), r.qrot(a, r.qrot(b, v)))
    assert not np.allclose(r.qrot(r.qmul(b, a), v), r.qrot(a, r.qrot(b, v)))


def test_inverse_undoes():
    q, v = quaternions(7), RNG.normal(size=(7, 3))
    assert np.allclose(r.qrot(r.qinv(q), r.qrot(q, v)), v)
    assert np.allclose(r.qmul(q, r.qinv(q)), [1, 0, 0, 0])


def test_quaternion_about_y_is_the_yaw_matrix():
    q = np.array([np.cos(0.35), 0.0, np.sin(0.35), 0.0])
    assert np.allclose(r.quaternion_to_matrix(q), yaw(0.7))
    assert np.allclose(r.qrot(q, np.array([0.0, 0.0, 1.0])), [np.sin(0.7), 0, np.cos(0.7)])


def test_matrix_and_quaternion_agree_also_near_half_turns():
    q = np.concatenate([quaternions(200), np.eye(4), quaternions(50) * [1e-9, 1, 1, 1]])
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    matrix = r.quaternion_to_matrix(q)
    v = RNG.normal(size=(len(q), 3))
    assert np.allclose(np.einsum("nij,nj->ni", matrix, v), r.qrot(q, v))
    back = r.matrix_to_quaternion(matrix)
    assert (back[:, 0] >= 0).all()
    assert np.allclose(np.abs((back * q).sum(-1)), 1.0)


def test_cont6d_is_two_columns_and_gram_schmidt_repairs_it():
    matrix = r.quaternion_to_matrix(quaternions(20))
    six = r.matrix_to_cont6d(matrix)
    assert np.allclose(six[:, 3:], matrix[:, :, 1])
    assert not np.allclose(six[:, 3:], matrix[:, 1, :])  # rows would be another convention
    assert np.allclose(r.cont6d_to_matrix(six), matrix)
    stretched = six * 3.0
    stretched[:, 3:] += 0.4 * six[:, :3]
    assert np.allclose(r.cont6d_to_matrix(stretched), matrix)


def test_quaternion_to_cont6d_is_the_short_way():
    q = quaternions(20)
    assert np.allclose(r.quaternion_to_cont6d(q), r.matrix_to_cont6d(r.quaternion_to_matrix(q)))


def test_between_takes_one_direction_to_the_other_also_when_opposite():
    start = np.concatenate([RNG.normal(size=(50, 3)), np.eye(3), -np.eye(3)])
    for end in (np.roll(start, 1, axis=0), -2.0 * start, start):
        turned = r.qrot(r.qbetween(start, end), start)
        assert np.allclose(turned / np.linalg.norm(turned, axis=-1, keepdims=True),
                           end / np.linalg.norm(end, axis=-1, keepdims=True))  # fmt: skip
    assert np.allclose(np.abs(r.qbetween(np.array([0.0, 0, -1]), np.array([0.0, 0, 1]))), [0, 0, 1, 0])


def test_float32_stays_float32():
    q, v = quaternions(3).astype(np.float32), RNG.normal(size=(3, 3)).astype(np.float32)
    for value in (r.qmul(q, q), r.qinv(q), r.qrot(q, v), r.qbetween(v, v), r.quaternion_to_matrix(q)):
        assert value.dtype == np.float32


def test_tree():
    assert PARENTS == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
    assert JOINT_NAMES[1] == "left_hip"
    assert JOINT_NAMES[2] == "right_hip"
    assert LEFT_JOINTS == (1, 4, 7, 10, 13, 16, 18, 20)
    assert RIGHT_JOINTS == (2, 5, 8, 11, 14, 17, 19, 21)
    assert HUMANML3D.rotation_parents[13] == HUMANML3D.rotation_parents[14] == 0


def random_pose(frames=9):
    return fk_local(RNG.normal(size=(frames, 3)), r.quaternion_to_matrix(quaternions(frames, 22)), HUMANML3D_OFFSETS_J3)


@pytest.mark.parametrize("form", ["quaternion", "cont6d"])
def test_forward_undoes_inverse_kinematics_whatever_the_root_turn(form):
    joints, root_turn = random_pose(), quaternions(9)
    local = HUMANML3D.inverse_kinematics(joints, root_turn)
    assert np.allclose(local[:, 0], root_turn)
    if form == "cont6d":
        local = r.quaternion_to_cont6d(local)
    got = HUMANML3D.forward_kinematics(joints[:, 0], local, HUMANML3D_OFFSETS_J3)
    assert np.allclose(got, joints)
    assert not np.allclose(HUMANML3D.forward_kinematics(joints[:, 0], local[::-1], HUMANML3D_OFFSETS_J3), joints)


def test_forward_kinematics_refuses_matrices():
    with pytest.raises(ValueError, match="quaternions"):
        HUMANML3D.forward_kinematics(np.zeros((2, 3)), np.zeros((2, 22, 3)), HUMANML3D_OFFSETS_J3)


def test_directions_and_lengths_rebuild_the_pose():
    joints = random_pose()
    lengths = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1)
    assert np.allclose(HUMANML3D.bone_lengths(joints), lengths)
    rebuilt = HUMANML3D.from_directions(joints[:, 0], HUMANML3D.bone_directions(joints), lengths)
    assert np.allclose(rebuilt, joints)


def test_local_rotation_turns_what_lies_beyond_the_joint():
    rotations = np.broadcast_to(np.eye(3), (1, 22, 3, 3)).copy()
    rest = fk_local(np.zeros((1, 3)), rotations, STANDING_OFFSETS_J3)[0]
    bend = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # by -90 degrees about X: down becomes forward
    rotations[0, 16] = bend
    moved = fk_local(np.zeros((1, 3)), rotations, STANDING_OFFSETS_J3)[0]
    changed = np.abs(moved - rest).max(-1) > 1e-9
    assert changed.nonzero()[0].tolist() == [18, 20]
    reach = np.linalg.norm(STANDING_OFFSETS_J3[[18, 20]], axis=-1).sum()
    assert np.allclose(moved[20] - moved[16], [0, 0, reach])


def test_standing_pose_stands():
    rest = fk_local(np.zeros((1, 3)), np.broadcast_to(np.eye(3), (1, 22, 3, 3)), STANDING_OFFSETS_J3)[0]
    lengths = np.linalg.norm(HUMANML3D_OFFSETS_J3, axis=-1)
    assert np.allclose(np.linalg.norm(STANDING_OFFSETS_J3, axis=-1), lengths)
    assert rest[15, 1] == rest[:, 1].max()
    assert rest[list(LEFT_JOINTS), 0].min() > 0 > rest[list(RIGHT_JOINTS), 0].max()
    assert np.ptp(rest[[16, 17], 0]) > np.ptp(rest[[1, 2], 0])  # else HumanML3D's heading would flip


def test_fk_local_refuses_other_trees():
    with pytest.raises(ValueError, match="22"):
        fk_local(np.zeros((1, 3)), np.zeros((1, 21, 3, 3)), HUMANML3D_OFFSETS_J3)
