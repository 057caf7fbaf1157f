"""Rotations from joints: a body of rigid bones that stands where 22 joints were, for formats that store rotations.

Joints say where a bone points and not how it is turned about itself. What is decided here:

* **Bone lengths** are one set for the whole motion: its own medians, or a given body's (`reshape`).
* **Swing** is exact: every bone points as the joints say. The pelvis and the upper spine carry three bones each, which
  in real motion are no rigid piece (hips against spine, collars against neck). So each of these bones has a joint of
  its own, of length zero, as in the CMU database's skeletons (`LHipJoint`, `LowerBack`, `LClavicle`, ...); what turns
  there is what is not rigid.
* **Pelvis and upper spine** are turned as their three bones are (least squares over directions: Kabsch 1976); the spine
  between them shares the twist.
* **Twist** of thighs and upper arms is where knees and elbows bend: forward of a T-pose's palms-down arms and backward
  of its legs. The straighter the limb, the less it says; then toes tell how a leg is turned, and where they do not, the
  twist against the parent is zero. It is smoothed over a tenth of a second, which moves no joint: the bones beyond are
  turned after it. All other bones have no twist against their parent.

Facing +Z with Y up, the body's left is +X. Shape legend: F frames, J joints (22), N nodes of the written tree (28).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_motion.motion.rotations import FloatArray, matrix_to_quaternion, qbetween, qinv, qmul, qrot
from rl_motion.motion.skeleton import HUMANML3D, JOINT_NAMES, LEG_JOINTS, STANDING_OFFSETS_J3

_POINT_M = 1e-6
"""A bone shorter than that has no direction."""
_STRAIGHT = 0.25
"""Sine of the bend at which a limb's plane and "no twist" weigh alike: 14 degrees, more than knees bend backward."""
_TOES = 0.5
"""The same of toes that are square to a straight leg."""
_SMOOTHING_S = 0.1

_T_POSE = {18: (1, 0, 0), 19: (-1, 0, 0), 20: (1, 0, 0), 21: (-1, 0, 0)}
_REST_J3 = STANDING_OFFSETS_J3.copy()
for _joint, _direction in _T_POSE.items():
    _REST_J3[_joint] = np.array(_direction) * np.linalg.norm(_REST_J3[_joint])
REST_DIRECTIONS_J3: FloatArray = np.concatenate([
    np.zeros((1, 3)), _REST_J3[1:] / np.linalg.norm(_REST_J3[1:], axis=-1, keepdims=True)
])  # fmt: skip
"""Unit direction of the bone into each joint [22, 3] in the rest pose: a T-pose, facing Z+."""
REST_DIRECTIONS_J3.setflags(write=False)

_NODES: tuple[tuple[str, str, str], ...] = (
    ("Hips", "", "pelvis"),
    ("LHipJoint", "Hips", "pelvis"),
    ("LeftUpLeg", "LHipJoint", "left_hip"),
    ("LeftLeg", "LeftUpLeg", "left_knee"),
    ("LeftFoot", "LeftLeg", "left_ankle"),
    ("LeftToeBase", "LeftFoot", "left_foot"),
    ("RHipJoint", "Hips", "pelvis"),
    ("RightUpLeg", "RHipJoint", "right_hip"),
    ("RightLeg", "RightUpLeg", "right_knee"),
    ("RightFoot", "RightLeg", "right_ankle"),
    ("RightToeBase", "RightFoot", "right_foot"),
    ("LowerBack", "Hips", "pelvis"),
    ("Spine", "LowerBack", "spine1"),
    ("Spine1", "Spine", "spine2"),
    ("Spine2", "Spine1", "spine3"),
    ("LowerNeck", "Spine2", "spine3"),
    ("Neck", "LowerNeck", "neck"),
    ("Head", "Neck", "head"),
    ("LClavicle", "Spine2", "spine3"),
    ("LeftShoulder", "LClavicle", "left_collar"),
    ("LeftArm", "LeftShoulder", "left_shoulder"),
    ("LeftForeArm", "LeftArm", "left_elbow"),
    ("LeftHand", "LeftForeArm", "left_wrist"),
    ("RClavicle", "Spine2", "spine3"),
    ("RightShoulder", "RClavicle", "right_collar"),
    ("RightArm", "RightShoulder", "right_shoulder"),
    ("RightForeArm", "RightArm", "right_elbow"),
    ("RightHand", "RightForeArm", "right_wrist"),
)
"""Name, parent and joint of each node, parents first and depth first: Mixamo's names where Mixamo has the joint."""

NODE_NAMES: tuple[str, ...] = tuple(name for name, _, _ in _NODES)
_NODE = {name: node for node, name in enumerate(NODE_NAMES)}
NODE_PARENTS: tuple[int, ...] = tuple(_NODE.get(parent, -1) for _, parent, _ in _NODES)
"""Parent of each node; -1 for the hips."""
NODE_JOINTS: tuple[int, ...] = tuple(JOINT_NAMES.index(joint) for _, _, joint in _NODES)
"""The joint [22] where each node is."""
NODE_CHILDREN: tuple[tuple[int, ...], ...] = tuple(
    tuple(child for child, parent in enumerate(NODE_PARENTS) if parent == node) for node in range(len(_NODES))
)

_HUBS = {_NODE["Hips"]: (1, 2, 3), _NODE["Spine2"]: (12, 13, 14)}
"""Nodes that carry several bones -> the joints where these end."""
_SHARED_TWIST = {_NODE["Spine"]: 1 / 3, _NODE["Spine1"]: 2 / 3}
"""Nodes between the two hubs -> how far towards the upper one."""
_HINGED: dict[int, tuple[float, float, float]] = {
    _NODE["LeftUpLeg"]: (0, 0, -1),
    _NODE["RightUpLeg"]: (0, 0, -1),
    _NODE["LeftArm"]: (0, 0, 1),
    _NODE["RightArm"]: (0, 0, 1),
}
"""Nodes whose child is a knee or an elbow -> where it bends to in the rest pose."""
_TIPS: dict[int, tuple[tuple[float, float, float], float]] = {
    _NODE["LeftToeBase"]: ((0, 0, 1), 0.4),
    _NODE["RightToeBase"]: ((0, 0, 1), 0.4),
    _NODE["Head"]: ((0, 1, 0), 1.6),
    _NODE["LeftHand"]: ((1, 0, 0), 0.35),
    _NODE["RightHand"]: ((-1, 0, 0), 0.35),
}
"""Leaves -> where they end in the rest pose: a direction, and a share of the bone before."""


@dataclass(frozen=True, eq=False)
class Rotations:
    """A motion of rigid bones.

    Attributes:
        offsets_N3: each node's place in its parent's frame in the rest pose, metres; zero for the hips.
        root_F3: place of the hips, metres.
        local_FN4: rotation of each node against its parent, which turns everything beyond the node (BVH, glTF, SMPL);
            unit quaternions (w, x, y, z), those of neighbouring frames in one half-space.
        fps: frames per second.
    """

    offsets_N3: FloatArray
    root_F3: FloatArray
    local_FN4: FloatArray
    fps: float

    @property
    def tips(self) -> dict[int, FloatArray]:
        """Where the leaves end, in their own frame, metres: crown, fingers, toes."""
        lengths_N = np.linalg.norm(self.offsets_N3, axis=-1)
        return {node: np.array(way) * share * lengths_N[node] for node, (way, share) in _TIPS.items()}

    def nodes(self) -> tuple[FloatArray, FloatArray]:
        """Places [F, N, 3] in metres and rotations [F, N, 4] in the world: forward kinematics."""
        places = np.empty((*self.local_FN4.shape[:2], 3))
        turns = np.empty_like(self.local_FN4)
        places[:, 0], turns[:, 0] = self.root_F3, self.local_FN4[:, 0]
        for node, parent in enumerate(NODE_PARENTS[1:], start=1):
            places[:, node] = places[:, parent] + qrot(turns[:, parent], self.offsets_N3[node])
            turns[:, node] = qmul(turns[:, parent], self.local_FN4[:, node])
        return places, turns

    def joints(self) -> FloatArray:
        """The 22 joints [F, J, 3] in metres that these rotations give."""
        places_FN3, _ = self.nodes()
        joints_FJ3: FloatArray = places_FN3[:, [NODE_JOINTS.index(joint) for joint in range(len(JOINT_NAMES))]]
        return joints_FJ3


def bone_lengths(joints_FJ3: FloatArray) -> FloatArray:
    """The median length [J - 1] in metres of the bone into each joint but the root."""
    lengths: FloatArray = np.median(HUMANML3D.bone_lengths(np.asarray(joints_FJ3, np.float64)), axis=0)
    return lengths


def reshape(joints_FJ3: FloatArray, lengths_J: FloatArray) -> FloatArray:
    """The same movement [F, J, 3] of a body with these bone lengths [J - 1], metres, in every frame.

    Bones point as before, the path scales with the legs (as HumanML3D's `uniform_skeleton` does), and the lowest joint
    of the motion is as high as it was: who stood on the floor stands on it.
    """
    joints = np.asarray(joints_FJ3, np.float64)
    legs = [joint - 1 for joint in LEG_JOINTS]
    own_m = bone_lengths(joints)[legs].sum()
    scale = lengths_J[legs].sum() / own_m if own_m > _POINT_M else 1.0
    shaped = HUMANML3D.from_directions(joints[:, 0] * scale, _directions(joints), lengths_J)
    shaped[..., 1] += joints[..., 1].min() - shaped[..., 1].min()
    return shaped


def solve(joints_FJ3: FloatArray, fps: float, lengths_J: FloatArray | None = None) -> Rotations:
    """Rotations whose joints are those given, with constant bone lengths.

    Args:
        joints_FJ3: positions [F, 22, 3] in metres, Y up.
        fps: frames per second.
        lengths_J: of the bones into joints 1 to 21, metres; None keeps the motion's own (their medians).

    Raises:
        ValueError: another shape, no frame, or a coordinate that is not finite.
    """
    joints: FloatArray = np.asarray(joints_FJ3, np.float64)
    if joints.ndim != 3 or len(joints) < 1 or joints.shape[1:] != (22, 3) or not np.isfinite(joints).all():
        raise ValueError(f"joints: got {joints.shape}, want finite [F >= 1, 22, 3]; cut the padding off and drop NaN")
    if lengths_J is None:
        lengths = bone_lengths(joints)
        joints = HUMANML3D.from_directions(joints[:, 0], _directions(joints), lengths)
    else:
        lengths = np.asarray(lengths_J, np.float64)
        joints = reshape(joints, lengths)
    directions_FJ3 = np.concatenate([np.zeros((len(joints), 1, 3)), _directions(joints)], axis=1)

    world_FN4 = np.empty((len(joints), len(NODE_NAMES), 4))
    guess_F4: FloatArray
    hubs = {node: _frame(directions_FJ3[:, ends], REST_DIRECTIONS_J3[list(ends)]) for node, ends in _HUBS.items()}
    lower_F4, upper_F4 = hubs.values()
    for node, parent in enumerate(NODE_PARENTS):
        if node in hubs:
            world_FN4[:, node] = hubs[node]
            continue
        guess_F4 = world_FN4[:, parent]
        if (share := _SHARED_TWIST.get(node)) is not None:
            guess_F4 = _between(lower_F4, upper_F4, share)
        if not (children := NODE_CHILDREN[node]):
            world_FN4[:, node] = guess_F4
            continue
        bone = NODE_JOINTS[children[0]]
        world_FN4[:, node] = _swing(guess_F4, REST_DIRECTIONS_J3[bone], directions_FJ3[:, bone])
        if node in _HINGED:
            limb_FB3 = directions_FJ3[:, _limb(node)]
            world_FN4[:, node] = _twisted(world_FN4[:, node], limb_FB3, np.array(_HINGED[node]), fps)

    local_FN4 = world_FN4.copy()
    local_FN4[:, 1:] = qmul(qinv(world_FN4[:, NODE_PARENTS[1:]]), world_FN4[:, 1:])
    offsets_N3 = np.zeros((len(NODE_NAMES), 3))
    for node, (joint, parent) in enumerate(zip(NODE_JOINTS, NODE_PARENTS, strict=True)):
        if parent >= 0 and joint != NODE_JOINTS[parent]:
            offsets_N3[node] = REST_DIRECTIONS_J3[joint] * lengths[joint - 1]
    return Rotations(offsets_N3, joints[:, 0], _one_half_space(local_FN4), fps)


def _directions(joints_FJ3: FloatArray) -> FloatArray:
    """Unit directions [F, J - 1, 3]; the rest pose's where a bone is a point."""
    bones = joints_FJ3[:, 1:] - joints_FJ3[:, HUMANML3D.parents[1:]]
    lengths = np.linalg.norm(bones, axis=-1, keepdims=True)
    unit: FloatArray = np.where(lengths > _POINT_M, bones / np.maximum(lengths, _POINT_M), REST_DIRECTIONS_J3[1:])
    return unit


def _frame(directions_FB3: FloatArray, rest_B3: FloatArray) -> FloatArray:
    """The rotation [F, 4] that takes rest directions [B, 3] nearest to those of each frame [F, B, 3] (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(np.einsum("fbi,bj->fij", directions_FB3, rest_B3))
    flip_F33 = np.broadcast_to(np.eye(3), u.shape).copy()
    flip_F33[:, 2, 2] = np.sign(np.linalg.det(u @ vt))
    return matrix_to_quaternion(u @ flip_F33 @ vt)


def _between(start_F4: FloatArray, end_F4: FloatArray, share: float) -> FloatArray:
    """The rotation [F, 4] that far on the short way from one to the other (normalised straight line)."""
    end = np.where((start_F4 * end_F4).sum(-1, keepdims=True) < 0, -end_F4, end_F4)
    mixed = (1 - share) * start_F4 + share * end
    unit: FloatArray = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)
    return unit


def _swing(guess_F4: FloatArray, rest_3: FloatArray, direction_F3: FloatArray) -> FloatArray:
    """The rotation [F, 4] nearest to the guess that turns the rest direction to exactly that one."""
    return qmul(qbetween(qrot(guess_F4, rest_3), direction_F3), guess_F4)


def _limb(node: int) -> list[int]:
    """The joints where the bones of an arm (upper arm, forearm) or of a leg (thigh, shin, foot) end."""
    joints = []
    while NODE_CHILDREN[node]:
        node = NODE_CHILDREN[node][0]
        joints.append(NODE_JOINTS[node])
    return joints


def _twisted(world_F4: FloatArray, limb_FB3: FloatArray, bends_to_3: FloatArray, fps: float) -> FloatArray:
    """Turn an upper limb about itself so that its lower one bends to where this kind of limb bends.

    Args:
        world_F4: rotation of the upper limb without twist.
        limb_FB3: unit directions of its bones, from the body outwards: two of an arm, three of a leg.
        bends_to_3: where it bends to in the rest pose.
        fps: frames per second.
    """
    upper_F3, lower_F3 = limb_FB3[:, 0], limb_FB3[:, 1]
    says_F3 = _across(lower_F3, upper_F3)
    if limb_FB3.shape[1] > 2:
        straight_F1 = np.maximum((upper_F3 * lower_F3).sum(-1, keepdims=True), 0)
        says_F3 = says_F3 - _TOES * straight_F1 * _across(_across(limb_FB3[:, 2], lower_F3), upper_F3)
    x_F3 = qrot(world_F4, bends_to_3)
    x_F, y_F = (says_F3 * x_F3).sum(-1), (says_F3 * np.cross(upper_F3, x_F3)).sum(-1)
    # A vector per frame whose angle is the twist: filtered as one, it has no jump at 180 degrees.
    plane_F2 = _smooth(np.stack([x_F + _STRAIGHT, y_F], axis=-1), _SMOOTHING_S * fps)
    half_F1 = np.arctan2(plane_F2[:, 1:], plane_F2[:, :1]) / 2
    return qmul(np.concatenate([np.cos(half_F1), np.sin(half_F1) * upper_F3], axis=-1), world_F4)


def _across(vector_F3: FloatArray, unit_F3: FloatArray) -> FloatArray:
    """The part of a vector that is square to a unit vector."""
    part: FloatArray = vector_F3 - (vector_F3 * unit_F3).sum(-1, keepdims=True) * unit_F3
    return part


def _smooth(values_FC: FloatArray, sigma_frames: float) -> FloatArray:
    """Gaussian-filtered over frames, the first and the last repeated."""
    radius = int(np.ceil(3 * sigma_frames))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_frames) ** 2)
    padded = np.pad(values_FC, ((radius, radius), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=0)
    smoothed: FloatArray = windows @ (weights / weights.sum())
    return smoothed


def _one_half_space(turns_FN4: FloatArray) -> FloatArray:
    """The same rotations, each quaternion with the sign that is nearer to the frame before: interpolation is short."""
    signs_FN = np.sign((turns_FN4[1:] * turns_FN4[:-1]).sum(-1))
    signs_FN[signs_FN == 0] = 1
    continued: FloatArray = turns_FN4.copy()
    continued[1:] *= np.cumprod(signs_FN, axis=0)[..., None]
    return continued
