"""SMPL-RIFKE's 205 features per frame (STMC, arXiv:2401.08559): features -> joints (torch).

The layout is nv-tlabs/stmc's (`smplrifke_feats.py`); the code is this package's own. F frames of SMPL motion (20 fps,
metres, Z up) give F rows:

    0        height of the pelvis above the clip's lowest joint
    1-2      its velocity x, y to the next frame in the heading's frame, metres per frame
    3        the heading's change to the next frame, radians (the whole angle; HumanML3D has half of it)
    4-135    rotations of 22 SMPL joints, each the first two ROWS of its matrix (HumanML3D: columns), the pelvis's
             without the heading
    136-204  SMPL joints 1-23 relative to the pelvis, in all three axes, in the heading's frame

The heading is where the pelvis's x axis, the body's left, points on the ground. The last row's velocities are
extrapolated and not used. Joints 22 and 23 (the hands) have no place in the 22 joints of this package and are left out.

Shape legend: F frames, J joints (22), D features (205).
"""

from __future__ import annotations

import torch

FEATURES_D = 205
ROOT_HEIGHT = 0
ROOT_VEL = slice(1, 3)
ROOT_YAW = 3
ROT6D = slice(4, 136)
JOINTS = slice(136, 205)
_SHOWN_JOINTS = 21
"""Of the 23 joints beside the pelvis: all but the hands."""


def smplrifke_to_joints(features_FD: torch.Tensor) -> torch.Tensor:
    """Return joints [..., F, 22, 3] in metres from features [..., F, 205]; differentiable.

    As HumanML3D's: Y up, floor at y = 0, in frame 0 the pelvis over the origin and facing Z+ (the body's left is +X).
    SMPL's Z-up (x, y, z) becomes (x, z, -y). Computes in the input's dtype, at least in float32: heading and place are
    running sums, which bfloat16 and float16 cannot hold.

    Raises:
        ValueError: the last dimension is not 205.
    """
    if features_FD.shape[-1] != FEATURES_D:
        raise ValueError(
            f"features: got {tuple(features_FD.shape)}, want [..., F, {FEATURES_D}], denormalised; decode latents first"
        )
    x = features_FD if features_FD.dtype == torch.float64 else features_FD.float()
    # Row f holds the change from f to f + 1: shift by one, so that frame 0 is at the origin with heading 0.
    yaw_F = torch.nn.functional.pad(x[..., :-1, ROOT_YAW], (1, 0)).cumsum(-1)
    step_F2 = _turn(yaw_F, x[..., ROOT_VEL])[..., :-1, :]
    ground_F2 = torch.nn.functional.pad(step_F2, (0, 0, 1, 0)).cumsum(-2)

    others_FJ3 = x[..., JOINTS].unflatten(-1, (-1, 3))[..., :_SHOWN_JOINTS, :]
    local_FJ3 = torch.nn.functional.pad(others_FJ3, (0, 0, 1, 0))
    flat_FJ2 = _turn(yaw_F[..., None], local_FJ3[..., :2]) + ground_F2[..., None, :]
    height_FJ = local_FJ3[..., 2] + x[..., ROOT_HEIGHT, None]
    return torch.stack([flat_FJ2[..., 0], height_FJ, -flat_FJ2[..., 1]], dim=-1)


def _turn(yaw: torch.Tensor, xy_2: torch.Tensor) -> torch.Tensor:
    """Rotate (x, y) [..., 2] about Z by yaw: from the heading's frame to the world."""
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    x, y = xy_2[..., 0], xy_2[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
