"""The 22-joint HumanML3D skeleton: names, tree, inverse and forward kinematics (NumPy, metres, Y up).

Two conventions of a local rotation meet here and must not be mixed:

* HumanML3D (`inverse_kinematics`, `forward_kinematics`): joint j's rotation turns the bone that ends IN j,
  from its raw axis; the arms' chains start again from the root's rotation (EricGuo5513/HumanML3D,
  common/skeleton.py).
* Authoring (`fk_local`): as in BVH and SMPL, joint j's rotation turns everything BEYOND j, and `offsets_J3`
  give the rest pose in the parent's frame.

Facing +Z with Y up, the body's left is +X. Shape legend: F frames, J joints (22).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from rl_motion.motion.rotations import (
    FloatArray,
    cont6d_to_matrix,
    qbetween,
    qinv,
    qmul,
    quaternion_to_matrix,
)

JOINT_NAMES: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
"""SMPL names, by joint index; `*_foot` is the toe joint that HumanML3D's contacts use."""

KINEMATIC_CHAINS: tuple[tuple[int, ...], ...] = (
    (0, 2, 5, 8, 11),
    (0, 1, 4, 7, 10),
    (0, 3, 6, 9, 12, 15),
    (9, 14, 17, 19, 21),
    (9, 13, 16, 18, 20),
)
LEFT_JOINTS: tuple[int, ...] = tuple(i for i, name in enumerate(JOINT_NAMES) if name.startswith("left_"))
RIGHT_JOINTS: tuple[int, ...] = tuple(i for i, name in enumerate(JOINT_NAMES) if name.startswith("right_"))

# Right knee and right ankle: the two bones whose length is "the leg" when a clip is scaled to the target.
LEG_JOINTS = (5, 8)


def _constant(rows: list[list[float]]) -> FloatArray:
    array = np.array(rows, dtype=np.float64)
    array.setflags(write=False)
    return array


RAW_OFFSETS_J3 = _constant([
    [0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, -1, 0], [0, 1, 0], [0, -1, 0], [0, -1, 0],
    [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, -1, 0], [0, -1, 0],
    [0, -1, 0], [0, -1, 0], [0, -1, 0], [0, -1, 0],
])  # fmt: skip
"""Unit axis of the bone that ends in each joint (HumanML3D `t2m_raw_offsets`). An axis system, not a pose."""

HUMANML3D_OFFSETS_J3 = RAW_OFFSETS_J3 * _constant([
    [0.0], [0.10307396948337555], [0.1098833680152893], [0.13156823813915253], [0.3936232030391693],
    [0.39018821716308594], [0.14319021999835968], [0.4324330687522888], [0.42564335465431213],
    [0.05736473575234413], [0.14338181912899017], [0.14941906929016113], [0.21936005353927612],
    [0.1374867707490921], [0.14338283240795135], [0.1030392199754715], [0.13161404430866241],
    [0.122984379529953], [0.2568399906158447], [0.2630917429924011], [0.26601171493530273],
    [0.2698763906955719],
])  # fmt: skip
"""Target skeleton of HumanML3D [22, 3] in metres: raw axis x bone length in frame 0 of clip 000021."""
HUMANML3D_OFFSETS_J3.setflags(write=False)

_STANDING_DIRECTIONS_J3 = _constant([
    [0, 0, 0], [0.65, -0.73, 0.2], [-0.65, -0.73, 0.2], [0, 1, 0.07], [0, -1, 0], [0, -1, 0], [0, 1, 0.14],
    [0, -1, 0], [0, -1, 0], [0, 1, 0.13], [0.08, -0.35, 0.93], [-0.08, -0.35, 0.93], [0, 1, 0.04],
    [0.63, 0.78, 0], [-0.63, 0.78, 0], [0, 1, 0.07], [0.95, 0.28, -0.09], [-0.95, 0.28, -0.09], [0, -1, 0],
    [0, -1, 0], [0, -1, 0], [0, -1, 0],
])  # fmt: skip
STANDING_OFFSETS_J3 = _STANDING_DIRECTIONS_J3 * (
    np.linalg.norm(HUMANML3D_OFFSETS_J3, axis=-1, keepdims=True)
    / np.maximum(np.linalg.norm(_STANDING_DIRECTIONS_J3, axis=-1, keepdims=True), 1e-9)
)
"""Rest pose for `fk_local` [22, 3] in metres: HumanML3D's bone lengths, arms and legs straight down.

The trunk's directions are those of people who stand still in the CMU database, made symmetric and rounded.
"""
STANDING_OFFSETS_J3.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A kinematic tree with raw bone axes.

    Attributes:
        chains: joint indices from the root outwards; a later chain may start at a joint of an earlier one.
        raw_offsets_J3: unit axis of the bone that ends in each joint (zero for the root).
        facing: (right hip, left hip, right shoulder, left shoulder).
    """

    chains: tuple[tuple[int, ...], ...]
    raw_offsets_J3: FloatArray
    facing: tuple[int, int, int, int]

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each joint along its bone; -1 for the root."""
        parents = [-1] * len(self.raw_offsets_J3)
        for chain in self.chains:
            for parent, child in pairwise(chain):
                parents[child] = parent
        return tuple(parents)

    @cached_property
    def rotation_parents(self) -> tuple[int, ...]:
        """Joint that a local HumanML3D rotation is relative to: the root at the start of every chain."""
        starts = {chain[1] for chain in self.chains}
        return tuple(0 if joint in starts else parent for joint, parent in enumerate(self.parents))

    def bone_lengths(self, joints_J3: FloatArray) -> FloatArray:
        """Return the length [..., J - 1] in metres of the bone into each joint but the root."""
        bones = joints_J3[..., 1:, :] - joints_J3[..., self.parents[1:], :]
        lengths: FloatArray = np.sqrt((bones * bones).sum(-1))
        return lengths

    def bone_directions(self, joints_J3: FloatArray) -> FloatArray:
        """Return the unit direction [..., J - 1, 3] of the bone into each joint but the root."""
        bones = joints_J3[..., 1:, :] - joints_J3[..., self.parents[1:], :]
        directions: FloatArray = bones / np.sqrt((bones * bones).sum(-1, keepdims=True))
        return directions

    def from_directions(self, root_3: FloatArray, directions_J3: FloatArray, lengths_J: FloatArray) -> FloatArray:
        """Return joints [..., J, 3] from root [..., 3], bone directions [..., J - 1, 3], lengths [J - 1]."""
        bones = directions_J3 * lengths_J[:, None]
        joints = np.empty((*root_3.shape[:-1], len(self.parents), 3), dtype=bones.dtype)
        joints[..., 0, :] = root_3
        for joint, parent in enumerate(self.parents[1:], start=1):
            joints[..., joint, :] = joints[..., parent, :] + bones[..., joint - 1, :]
        return joints

    def inverse_kinematics(self, joints_J3: FloatArray, root_4: FloatArray) -> FloatArray:
        """Return HumanML3D's local rotations [..., J, 4] of joints [..., J, 3], given the root's [..., 4].

        Every bone's own turn comes from `qbetween`, so rotation about the bone's axis is not recovered.
        """
        turns = qbetween(self.raw_offsets_J3[1:].astype(joints_J3.dtype), self.bone_directions(joints_J3))
        absolute = np.concatenate([root_4[..., None, :], turns], axis=-2)
        local = qmul(qinv(absolute[..., self.rotation_parents[1:], :]), turns)
        return np.concatenate([root_4[..., None, :], local], axis=-2)

    def forward_kinematics(self, root_3: FloatArray, rotations: FloatArray, offsets_J3: FloatArray) -> FloatArray:
        """Return joints [..., J, 3] from HumanML3D's local rotations: the inverse of `inverse_kinematics`.

        Args:
            root_3: root position [..., 3], metres.
            rotations: quaternions [..., J, 4] or 6-D rotations [..., J, 6]; entry 0 is the root's.
            offsets_J3: raw axis x bone length, metres (`HUMANML3D_OFFSETS_J3`).

        Raises:
            ValueError: the last dimension of `rotations` is neither 4 nor 6.
        """
        if rotations.shape[-1] not in {4, 6}:
            raise ValueError(f"rotations: got {rotations.shape}, want [..., J, 4] quaternions or [..., J, 6]")
        local = quaternion_to_matrix(rotations) if rotations.shape[-1] == 4 else cont6d_to_matrix(rotations)
        absolute = local.copy()
        joints = np.empty(local.shape[:-1], dtype=local.dtype)
        joints[..., 0, :] = root_3
        for j, (parent, start) in enumerate(zip(self.parents, self.rotation_parents, strict=True)):
            if j > 0:
                absolute[..., j, :, :] = absolute[..., start, :, :] @ local[..., j, :, :]
                joints[..., j, :] = joints[..., parent, :] + absolute[..., j, :, :] @ offsets_J3[j]
        return joints


HUMANML3D = Skeleton(KINEMATIC_CHAINS, RAW_OFFSETS_J3, facing=(2, 1, 17, 16))
"""The 22-joint skeleton of HumanML3D."""
PARENTS: tuple[int, ...] = HUMANML3D.parents
"""Parent joint of each joint; -1 for the pelvis."""


def fk_local(root_position_F3: FloatArray, local_rotations_FJ33: FloatArray, offsets_J3: FloatArray) -> FloatArray:
    """Return joints [F, J, 3] in metres of a pose authored with local rotations (BVH and SMPL convention).

    World rotation of j = world rotation of its parent @ local rotation of j; position of j = position of its
    parent + parent's world rotation @ offset of j. All-identity rotations give the rest pose; the
    rotations of the leaves (head, toes, wrists) move nothing. Leading dimensions other than F are allowed.
    `STANDING_OFFSETS_J3` is the natural rest pose; `HUMANML3D_OFFSETS_J3` is an axis system, not a pose.

    Raises:
        ValueError: the shapes do not agree with 22 joints.
    """
    if local_rotations_FJ33.shape[-3:] != (len(PARENTS), 3, 3) or offsets_J3.shape != (len(PARENTS), 3):
        raise ValueError(
            f"fk_local: got rotations {local_rotations_FJ33.shape} and offsets {offsets_J3.shape}, "
            f"want [F, {len(PARENTS)}, 3, 3] and [{len(PARENTS)}, 3]"
        )
    world = np.empty_like(local_rotations_FJ33)
    joints = np.empty(local_rotations_FJ33.shape[:-1], dtype=local_rotations_FJ33.dtype)
    world[..., 0, :, :] = local_rotations_FJ33[..., 0, :, :]
    joints[..., 0, :] = root_position_F3
    for joint, parent in enumerate(PARENTS[1:], start=1):
        world[..., joint, :, :] = world[..., parent, :, :] @ local_rotations_FJ33[..., joint, :, :]
        joints[..., joint, :] = joints[..., parent, :] + world[..., parent, :, :] @ offsets_J3[joint]
    return joints
