"""KIT-ML's 251 features per frame: joints -> features (NumPy) and features -> joints (torch).

HumanML3D's features (`motion/features.py`, whose quirks and `own_heading` hold here too) with the constants that
EricGuo5513/text-to-motion (MIT) uses for KIT: 21 joints, other chains, 12.5 fps. The 21 joints, performer's side:

    0 pelvis, 1-3 spine to neck, 4 head, 5-7 right arm, 8-10 left arm (shoulder, elbow, wrist),
    11-15 right leg, 16-20 left leg (hip, knee, ankle, mid-foot, toe)

Lengths are millimetres, as KIT-ML's are: features come in the unit of the target skeleton, whatever that of the
joints. The official contact threshold, 0.05, knows no unit and is kept: in millimetres a foot is in contact only while
it moves less than 0.22 mm per frame (in metres: less than 0.22 m, that is always).

Shape legend: B batch, F frames, J joints (21), D features (251). Y up, facing Z+ in frame 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rl_motion.motion.features import FeatureLayout, extract_features, recover_joints
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import HUMANML3D, STANDING_OFFSETS_J3, Skeleton

Joints = TypeVar("Joints", FloatArray, torch.Tensor)

FPS = 12.5
MILLIMETRES_PER_METRE = 1000.0


def _constant(values: Sequence[object]) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


KIT = Skeleton(
    chains=((0, 11, 12, 13, 14, 15), (0, 16, 17, 18, 19, 20), (0, 1, 2, 3, 4), (3, 5, 6, 7), (3, 8, 9, 10)),
    raw_offsets_J3=_constant([
        [0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0], [0, -1, 0], [-1, 0, 0],
        [0, -1, 0], [0, -1, 0], [1, 0, 0], [0, -1, 0], [0, -1, 0], [0, 0, 1], [0, 0, 1], [-1, 0, 0], [0, -1, 0],
        [0, -1, 0], [0, 0, 1], [0, 0, 1],
    ]),
    facing=(11, 16, 5, 8),
)  # fmt: skip
"""The 21-joint skeleton of KIT-ML (`kit_raw_offsets`, `kit_kinematic_chain`)."""

LAYOUT = FeatureLayout(
    skeleton=KIT,
    leg_joints=(17, 18),
    contact_joints=(19, 20, 14, 15),
    contact_threshold=0.05,
)
"""KIT-ML's: millimetres, 21 joints, 251 features."""

# Each joint is the midpoint of two joints of the other skeleton; mostly the same one twice, which is exact.
_KIT_FROM = (
    (0, 0), (6, 6), (9, 9), (12, 12), (15, 15),
    (17, 17), (19, 19), (21, 21), (16, 16), (18, 18), (20, 20),
    (2, 2), (5, 5), (8, 8), (8, 11), (11, 11), (1, 1), (4, 4), (7, 7), (7, 10), (10, 10),
)  # fmt: skip
"""By KIT joint: mid-feet lie between ankle and toe; KIT's spine is HumanML3D's spine2, spine3 and neck."""
_FROM_KIT = (
    (0, 0), (16, 16), (11, 11), (0, 1), (17, 17), (12, 12), (1, 1), (18, 18), (13, 13), (2, 2), (20, 20), (15, 15),
    (3, 3), (2, 8), (2, 5), (4, 4), (8, 8), (5, 5), (9, 9), (6, 6), (10, 10), (7, 7),
)  # fmt: skip
"""By HumanML3D joint: spine1 lies between pelvis and spine2, collars between spine3 and shoulder, as in its chains."""


def to_kit_joints(joints_FJ3: Joints) -> Joints:
    """Return KIT's 21 joints [..., F, 21, 3] from HumanML3D's 22, metres in and out; spine1 and collars are dropped."""
    return _midpoints(joints_FJ3, _KIT_FROM, len(_FROM_KIT))


def from_kit_joints(joints_FJ3: Joints) -> Joints:
    """Return HumanML3D's 22 joints [..., F, 22, 3] from KIT's 21, metres in and out; mid-feet are dropped."""
    return _midpoints(joints_FJ3, _FROM_KIT, len(_KIT_FROM))


def _midpoints(joints_FJ3: Joints, pairs: tuple[tuple[int, int], ...], want_J: int) -> Joints:
    if tuple(joints_FJ3.shape[-2:]) != (want_J, 3):
        raise ValueError(f"joints: got {tuple(joints_FJ3.shape)}, want [..., {want_J}, 3]")
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return (joints_FJ3[..., first, :] + joints_FJ3[..., second, :]) * 0.5


def in_kit_joints(offsets_J3: FloatArray) -> FloatArray:
    """A HumanML3D target skeleton [22, 3] as one of KIT's [21, 3], in the same unit: bones of a person who stands."""
    lengths_J = np.linalg.norm(offsets_J3[1:], axis=-1)
    directions_J3 = STANDING_OFFSETS_J3[1:] / np.linalg.norm(STANDING_OFFSETS_J3[1:], axis=-1, keepdims=True)
    standing_J3 = to_kit_joints(HUMANML3D.from_directions(np.zeros(3), directions_J3, lengths_J))
    target_J3: FloatArray = KIT.raw_offsets_J3 * np.append(0.0, KIT.bone_lengths(standing_J3))[:, None]
    return target_J3


_LEGS, _TRUNK, _ARMS = (1, 2, 4, 5, 7, 8, 10, 11), (3, 6, 9, 12, 15), (13, 14, 16, 17, 18, 19, 20, 21)
_SHARE_J = np.ones(len(STANDING_OFFSETS_J3))
for _joints, _share in ((_LEGS, 1.08), (_TRUNK, 0.94), (_ARMS, 0.92)):
    _SHARE_J[list(_joints)] = _share
LONG_LEGGED_OFFSETS_J3 = STANDING_OFFSETS_J3 * _SHARE_J[:, None]
"""Rest pose for `fk_local` [22, 3] in metres of a body with other proportions than HumanML3D's."""
LONG_LEGGED_OFFSETS_J3.setflags(write=False)
KIT_OFFSETS_J3 = MILLIMETRES_PER_METRE * in_kit_joints(LONG_LEGGED_OFFSETS_J3)
"""Default target skeleton [21, 3] in millimetres: that body in KIT's joints. Not KIT-ML's own (its clip 03950), which
comes with its data: pass KIT-ML's where features must equal published ones."""
KIT_OFFSETS_J3.setflags(write=False)


def joints_to_features(
    joints_FJ3: FloatArray,
    offsets_J3: FloatArray = KIT_OFFSETS_J3,
    *,
    own_heading: bool = False,
) -> NDArray[np.float32]:
    """Return the features [F - 1, 251] of one clip; see `joints_to_features_batch`."""
    features_BFD = joints_to_features_batch(joints_FJ3[None], offsets_J3, own_heading=own_heading)
    features_FD: NDArray[np.float32] = features_BFD[0]
    return features_FD


def joints_to_features_batch(
    joints_BFJ3: FloatArray,
    offsets_J3: FloatArray = KIT_OFFSETS_J3,
    *,
    own_heading: bool = False,
) -> NDArray[np.float32]:
    """Return the features [B, F - 1, 251] of clips of equal length, in the unit of `offsets_J3`.

    Args:
        joints_BFJ3: positions in any unit, Y up, 12.5 fps, any heading, place, floor height and proportions.
        offsets_J3: target skeleton, millimetres; only the bones' lengths count.
        own_heading: as in `rl_motion.motion.features.joints_to_features_batch`.

    Raises:
        ValueError: wrong shape, fewer than two frames, a non-finite coordinate, or a bone of length zero.
    """
    return extract_features(LAYOUT, joints_BFJ3, offsets_J3, own_heading=own_heading)


def features_to_joints(features_FD: torch.Tensor) -> torch.Tensor:
    """Return joints [..., F, 21, 3] in the features' unit from features [..., F, 251]; differentiable.

    `recover_from_ric(., 21)`, as `rl_motion.motion.features.features_to_joints`.

    Raises:
        ValueError: the last dimension is not 251.
    """
    return recover_joints(LAYOUT, features_FD)
