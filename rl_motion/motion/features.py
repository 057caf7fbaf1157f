"""HumanML3D's 263 features per frame: joints -> features (NumPy) and features -> joints (torch).

Re-implements `process_file` and `recover_from_ric` of EricGuo5513/HumanML3D (MIT), vectorised and in float64;
the official code mixes float32 and float64, so values agree to about 4e-5. Its quirks are part of the
representation that every published checkpoint was trained on, and are kept:

* inverse kinematics takes (left hip - right hip) + (right shoulder - left shoulder) as the side axis, so the
  two partly cancel: the heading is only well defined while the shoulders are wider apart than the hips;
* the heading is smoothed over time (sigma 20 frames, one second) and forced to Z+ in frame 0, so that a turning
  body's first yaw velocity is a jump and a quick full turn leaves the heading where it was;
* the yaw velocity has the wrong sign in the one frame in which the smoothed heading passes through Z-, after
  which the recovered path is bent (6 % of CMU clips, by up to 1.5 m);
* F frames of joints give F - 1 rows; contacts test speed alone, not height.

`own_heading=True` mends the first three for data of one's own; the recovery of joints is the same (ADR 3).

A `FeatureLayout` holds what a data set may choose, so that KIT-ML's features (`motion/kit.py`) are these functions
with other constants.

Shape legend: B batch, F frames, J joints (22), D features (263). Metres, Y up, facing Z+ in frame 0, 20 fps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from rl_motion.motion.rotations import FloatArray, qbetween, qinv, qmul, qrot, quaternion_to_cont6d
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, LEG_JOINTS, Skeleton

FPS = 20

ROOT_YAW = 0
"""Half of the heading's change to the next frame, radians."""
ROOT_VEL = slice(1, 3)
"""Root velocity x, z in the heading's frame, metres per frame."""
ROOT_HEIGHT = 3
_SMOOTHING_FRAMES = 20.0


@dataclass(frozen=True, eq=False)
class FeatureLayout:
    """What a data set chooses: its skeleton, hence its columns, and the constants of its features.

    Columns: `ROOT_YAW`, `ROOT_VEL`, `ROOT_HEIGHT`, then the slices below. Lengths are in the unit of the skeleton that
    features are computed for.

    Attributes:
        skeleton: J joints and their bones.
        leg_joints: where the two bones end whose length is "the leg" when a clip is scaled to the target.
        contact_joints: left ankle, left toe, right ankle, right toe.
        contact_threshold: squared displacement per frame below which such a joint is in contact, in that unit squared.
    """

    skeleton: Skeleton
    leg_joints: tuple[int, int]
    contact_joints: tuple[int, int, int, int]
    contact_threshold: float

    @cached_property
    def joints_J(self) -> int:
        """Number of joints, the root with them."""
        return len(self.skeleton.raw_offsets_J3)

    @cached_property
    def joints(self) -> slice:
        """Joints 1 to J - 1 relative to the root's ground point, in the heading's frame."""
        return slice(4, 4 + 3 * (self.joints_J - 1))

    @cached_property
    def rot6d(self) -> slice:
        """Local rotations of joints 1 to J - 1, 6-D."""
        return slice(self.joints.stop, self.joints.stop + 6 * (self.joints_J - 1))

    @cached_property
    def vel(self) -> slice:
        """Velocity of all joints in the heading's frame, per frame."""
        return slice(self.rot6d.stop, self.rot6d.stop + 3 * self.joints_J)

    @cached_property
    def feet(self) -> slice:
        """Contacts of the four contact joints."""
        return slice(self.vel.stop, self.features_D)

    @cached_property
    def features_D(self) -> int:
        """Number of features of a frame."""
        return 4 + 12 * (self.joints_J - 1) + 3 + 4


LAYOUT = FeatureLayout(
    skeleton=HUMANML3D,
    leg_joints=LEG_JOINTS,
    contact_joints=(7, 10, 8, 11),
    contact_threshold=0.002,
)
"""HumanML3D's: metres, 22 joints, 263 features."""
JOINTS_J = LAYOUT.joints_J
FEATURES_D = LAYOUT.features_D
JOINTS = LAYOUT.joints
"""4-66: joints 1-21 relative to the root's ground point, in the heading's frame, metres."""
ROT6D = LAYOUT.rot6d
"""67-192: local rotations of joints 1-21, 6-D."""
VEL = LAYOUT.vel
"""193-258: velocity of joints 0-21 in the heading's frame, metres per frame."""
FEET = LAYOUT.feet
"""259-262: contacts of left ankle, left toe, right ankle, right toe."""
CONTACT_THRESHOLD = LAYOUT.contact_threshold
"""Squared displacement per frame (m^2) below which a foot joint is in contact."""


def joints_to_features(
    joints_FJ3: FloatArray,
    offsets_J3: FloatArray = HUMANML3D_OFFSETS_J3,
    *,
    own_heading: bool = False,
) -> NDArray[np.float32]:
    """Return the features [F - 1, 263] of one clip; see `joints_to_features_batch`."""
    features_BFD = joints_to_features_batch(joints_FJ3[None], offsets_J3, own_heading=own_heading)
    features_FD: NDArray[np.float32] = features_BFD[0]
    return features_FD


def joints_to_features_batch(
    joints_BFJ3: FloatArray,
    offsets_J3: FloatArray = HUMANML3D_OFFSETS_J3,
    *,
    own_heading: bool = False,
) -> NDArray[np.float32]:
    """Return the features [B, F - 1, 263] of clips of equal length.

    Args:
        joints_BFJ3: positions in metres, Y up, 20 fps, any heading, place, floor height and proportions.
        offsets_J3: target skeleton; only the bones' lengths count.
        own_heading: take the body's heading in each frame, unsmoothed, with a yaw velocity that keeps its sign.
            Leave it off where features must equal those of published data and checkpoints; turn it on for data
            of one's own.

    Raises:
        ValueError: wrong shape, fewer than two frames, a non-finite coordinate, or a bone of length zero.
    """
    return extract_features(LAYOUT, joints_BFJ3, offsets_J3, own_heading=own_heading)


def features_to_joints(features_FD: torch.Tensor) -> torch.Tensor:
    """Return joints [..., F, 22, 3] in metres from features [..., F, 263]; differentiable.

    The official `recover_from_ric`: the root starts at x = z = 0 facing Z+. Computes in the input's dtype,
    at least in float32: heading and place are running sums, which bfloat16 and float16 cannot hold.

    Raises:
        ValueError: the last dimension is not 263.
    """
    return recover_joints(LAYOUT, features_FD)


def extract_features(
    layout: FeatureLayout, joints_BFJ3: FloatArray, offsets_J3: FloatArray, *, own_heading: bool
) -> NDArray[np.float32]:
    """Return a layout's features [B, F - 1, D]: `joints_to_features_batch` for any data set."""
    joints = uniform_joints(layout, joints_BFJ3, offsets_J3)
    joints = _canonical(joints, layout.skeleton)
    heading_BF4 = (_own_heading if own_heading else _official_heading)(joints, layout.skeleton)
    rotations = layout.skeleton.inverse_kinematics(joints, heading_BF4)[..., 1:, :]

    per_joint_BF14 = heading_BF4[:, :-1, None]
    step_BFJ3 = joints[:, 1:] - joints[:, :-1]
    yaw_4 = qmul(heading_BF4[:, 1:], qinv(heading_BF4[:, :-1]))
    if own_heading:
        yaw_4 = np.where(yaw_4[..., :1] < 0, -yaw_4, yaw_4)
    local = joints[:, :-1, 1:] - joints[:, :-1, :1] * np.array([1.0, 0.0, 1.0])
    feet = step_BFJ3[:, :, layout.contact_joints, :]

    batch, rows = step_BFJ3.shape[:2]
    features = np.empty((batch, rows, layout.features_D), dtype=np.float32)
    features[..., ROOT_YAW] = np.arcsin(np.clip(yaw_4[..., 2], -1.0, 1.0))
    features[..., ROOT_VEL] = qrot(heading_BF4[:, 1:], step_BFJ3[:, :, 0])[..., [0, 2]]
    features[..., ROOT_HEIGHT] = joints[:, :-1, 0, 1]
    features[..., layout.joints] = qrot(per_joint_BF14, local).reshape(batch, rows, -1)
    features[..., layout.rot6d] = quaternion_to_cont6d(rotations[:, :-1]).reshape(batch, rows, -1)
    features[..., layout.vel] = qrot(per_joint_BF14, step_BFJ3).reshape(batch, rows, -1)
    features[..., layout.feet] = (feet * feet).sum(-1) < layout.contact_threshold
    return features


def uniform_joints(layout: FeatureLayout, joints_BFJ3: FloatArray, offsets_J3: FloatArray) -> FloatArray:
    """Return the clips [B, F, J, 3] in float64 with the target's bones, and the unit of its offsets."""
    return _uniform(_checked(joints_BFJ3, layout), offsets_J3, layout)


def recover_joints(layout: FeatureLayout, features_FD: torch.Tensor) -> torch.Tensor:
    """Return joints [..., F, J, 3] from a layout's features [..., F, D]: `features_to_joints` for any data set."""
    joints_FJ3, _ = _recover(layout, features_FD)
    return joints_FJ3


def recover_all_joints(layout: FeatureLayout, features_BFD: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """Return joints [B, F + 1, J, 3]: L rows were made of L + 1 frames, and the last row's velocities lead to frame L.

    Frames 0 to L - 1 are `recover_joints`'. What comes after a row's frame L is meaningless.

    Raises:
        ValueError: another width, or a length outside 1..F.
    """
    frames = features_BFD.shape[1]
    if not ((length_B >= 1) & (length_B <= frames)).all():
        raise ValueError(f"lengths: got {length_B.tolist()}, want each in 1..{frames}")
    joints, yaw_BF = _recover(layout, features_BFD)
    row_B = torch.arange(len(joints), device=joints.device)
    last_B = length_B.to(joints.device) - 1
    velocity_BJ3 = features_BFD[row_B, last_B, layout.vel].to(joints.dtype).unflatten(-1, (layout.joints_J, 3))
    step_x, step_z = _turn_back(yaw_BF[row_B, last_B, None], velocity_BJ3[..., 0], velocity_BJ3[..., 2])
    step_BJ3 = torch.stack([step_x, velocity_BJ3[..., 1], step_z], dim=-1)
    every_BFJ3 = torch.nn.functional.pad(joints, (0, 0, 0, 0, 0, 1))
    every_BFJ3[row_B, last_B + 1] = joints[row_B, last_B] + step_BJ3
    return every_BFJ3


def _recover(layout: FeatureLayout, features_FD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return joints [..., F, J, 3] and how far each frame's heading [..., F] is turned from Z+, radians."""
    if features_FD.shape[-1] != layout.features_D:
        raise ValueError(
            f"features: got {tuple(features_FD.shape)}, want [..., F, {layout.features_D}], denormalised; "
            "decode latents first"
        )
    x = features_FD if features_FD.dtype == torch.float64 else features_FD.float()
    # Row f holds the change from f to f + 1: shift by one, so that frame 0 is at the origin, heading Z+.
    yaw_F = torch.nn.functional.pad(2.0 * x[..., :-1, ROOT_YAW], (1, 0)).cumsum(-1)
    velocity_F2 = torch.nn.functional.pad(x[..., :-1, ROOT_VEL], (0, 0, 1, 0))
    ground_x, ground_z = _turn_back(yaw_F, velocity_F2[..., 0], velocity_F2[..., 1])
    ground_x, ground_z = ground_x.cumsum(-1), ground_z.cumsum(-1)
    root_F3 = torch.stack([ground_x, x[..., ROOT_HEIGHT], ground_z], dim=-1)

    local = x[..., layout.joints].unflatten(-1, (layout.joints_J - 1, 3))
    joint_x, joint_z = _turn_back(yaw_F[..., None], local[..., 0], local[..., 2])
    joint_x, joint_z = joint_x + ground_x[..., None], joint_z + ground_z[..., None]
    others_FJ3 = torch.stack([joint_x, local[..., 1], joint_z], dim=-1)
    return torch.cat([root_F3.unsqueeze(-2), others_FJ3], dim=-2), yaw_F


def _turn_back(yaw: torch.Tensor, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate (x, z) about Y by -yaw: from the heading's frame to the world."""
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    return cos * x - sin * z, sin * x + cos * z


def _checked(joints_BFJ3: FloatArray, layout: FeatureLayout) -> FloatArray:
    shape, joints_J = joints_BFJ3.shape, layout.joints_J
    if len(shape) != 4 or shape[1] < 2 or shape[2:] != (joints_J, 3):
        raise ValueError(f"joints: got shape {shape}, want [B, F >= 2, {joints_J}, 3] (one clip: [F, {joints_J}, 3])")
    joints = joints_BFJ3.astype(np.float64)
    if not np.isfinite(joints).all():
        raise ValueError("joints: got NaN or infinity, want finite positions; drop or repair the clip")
    if not layout.skeleton.bone_lengths(joints).all():
        raise ValueError("joints: got a bone of length zero, want distinct joints; drop or repair the clip")
    return joints


def _uniform(joints_BFJ3: FloatArray, offsets_J3: FloatArray, layout: FeatureLayout) -> FloatArray:
    """Give every clip the target's bone lengths, and its root the scale of the legs (`uniform_skeleton`).

    The official IK followed by FK keeps each bone's direction and replaces its length, done here directly.
    """
    target = np.sqrt((np.asarray(offsets_J3, dtype=np.float64)[1:] ** 2).sum(-1))
    bones = [joint - 1 for joint in layout.leg_joints]
    source_leg_B = layout.skeleton.bone_lengths(joints_BFJ3[:, 0])[:, bones].sum(-1)
    root = joints_BFJ3[:, :, 0] * (target[bones].sum() / source_leg_B)[:, None, None]
    return layout.skeleton.from_directions(root, layout.skeleton.bone_directions(joints_BFJ3), target)


def _canonical(joints_BFJ3: FloatArray, skeleton: Skeleton) -> FloatArray:
    """Put the lowest joint on y = 0, the first root over the origin, and turn the first frame to Z+."""
    shift_B113 = joints_BFJ3[:, :1, :1].copy()
    shift_B113[..., 1] = joints_BFJ3[..., 1].min(axis=(1, 2))[:, None, None]
    turn_B14 = _own_heading(joints_BFJ3[:, :1], skeleton)
    return qrot(turn_B14[:, :, None], joints_BFJ3 - shift_B113)


def _own_heading(joints_BFJ3: FloatArray, skeleton: Skeleton) -> FloatArray:
    """Return the rotation [B, F, 4] from each frame's heading to Z+."""
    right_hip, left_hip, right_shoulder, left_shoulder = (joints_BFJ3[:, :, j] for j in skeleton.facing)
    return qbetween(_forward(right_hip - left_hip + right_shoulder - left_shoulder), np.array([0.0, 0.0, 1.0]))


def _official_heading(joints_BFJ3: FloatArray, skeleton: Skeleton) -> FloatArray:
    """Return the rotation [B, F, 4] from the smoothed heading to Z+, as the official IK computes it."""
    right_hip, left_hip, right_shoulder, left_shoulder = (joints_BFJ3[:, :, j] for j in skeleton.facing)
    # The hips' and shoulders' terms have opposite signs in the official code: see the module's docstring.
    forward_BF3 = _forward(left_hip - right_hip + right_shoulder - left_shoulder)
    heading_BF4 = qbetween(_smooth(forward_BF3), np.array([0.0, 0.0, 1.0]))
    heading_BF4[:, 0] = (1.0, 0.0, 0.0, 0.0)
    return heading_BF4


def _forward(across_3: FloatArray) -> FloatArray:
    """Return up x across / |across|: horizontal, shorter than 1 (so it weighs less) where the body tilts."""
    across = across_3 / np.sqrt((across_3 * across_3).sum(-1, keepdims=True))
    return np.stack([across[..., 2], np.zeros_like(across[..., 0]), -across[..., 0]], axis=-1)


@lru_cache(maxsize=4)
def _gaussian(sigma_frames: float) -> FloatArray:
    """Return the odd-length normalised window that scipy's gaussian_filter1d uses (truncated at 4 sigma)."""
    radius = int(4.0 * sigma_frames + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_frames) ** 2)
    normalised: FloatArray = weights / weights.sum()
    return normalised


def _smooth(x_BF3: FloatArray) -> FloatArray:
    """Gaussian-filter over frames, edges repeated (scipy's gaussian_filter1d, mode nearest, sigma 20)."""
    weights = _gaussian(_SMOOTHING_FRAMES)
    radius = len(weights) // 2
    padded = np.pad(x_BF3, ((0, 0), (radius, radius), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=1) @ weights
