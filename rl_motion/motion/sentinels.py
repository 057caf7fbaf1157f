"""Sentinels: what betrays a motion that games a reward, measured on joints alone (torch, pure functions).

They tell a degenerate motion from a natural one, whatever the text. Each returns one number per motion, is
differentiable almost everywhere, and looks at valid frames only; a motion too short to measure gets 0.

Shape legend: B batch, F frames, J joints (22). Metres, Y up, floor at y = 0.
"""

from __future__ import annotations

import numpy as np
import torch

from rl_motion.motion.features import FPS
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3

_BONE_LENGTHS_M = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1)

TOE_JOINTS = (10, 11)
TOE_HEIGHT_M = 0.05
"""A toe below this height is taken to stand on the floor."""
PENETRATION_M = 0.005
"""A joint this far below the floor is still on it."""


def bone_drift_B(joints_BFJ3: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """Return mean |length / reference - 1| over bones and valid frames (reference: HumanML3D's skeleton).

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion, at most F.
    """
    reference = torch.tensor(_BONE_LENGTHS_M).to(joints_BFJ3)
    bones = joints_BFJ3[:, :, 1:] - joints_BFJ3[:, :, HUMANML3D.parents[1:]]
    drift_BFJ = (bones.norm(dim=-1) / reference - 1.0).abs()
    return _mean_over_frames(drift_BFJ.mean(-1), _first_frames(length_B, joints_BFJ3.shape[1]))


def jerk_B(joints_BFJ3: torch.Tensor, length_B: torch.Tensor, fps: float = FPS) -> torch.Tensor:
    """Return the mean norm of the third finite difference x fps^3, in m/s^3, over joints and valid frames.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 4 give 0.
        fps: frames per second.
    """
    third_BFJ3 = joints_BFJ3.diff(n=3, dim=1) * fps**3
    valid_BF = _first_frames(length_B - 3, third_BFJ3.shape[1])
    return _mean_over_frames(third_BFJ3.norm(dim=-1).mean(-1), valid_BF)


def foot_skate_B(joints_BFJ3: torch.Tensor, length_B: torch.Tensor, fps: float = FPS) -> torch.Tensor:
    """Return the mean horizontal speed in m/s of toes while they are below 5 cm in two successive frames.

    Args:
        joints_BFJ3: positions in metres, floor at y = 0.
        length_B: valid frames of each motion.
        fps: frames per second.
    """
    toes_BFT3 = joints_BFJ3[:, :, list(TOE_JOINTS)]
    speed_BFT = toes_BFT3[..., [0, 2]].diff(dim=1).norm(dim=-1) * fps
    low_BFT = toes_BFT3[..., 1] < TOE_HEIGHT_M
    standing_BFT = low_BFT[:, 1:] & low_BFT[:, :-1]
    standing_BFT = standing_BFT & _first_frames(length_B - 1, speed_BFT.shape[1])[..., None]
    return _mean_over_frames(speed_BFT.flatten(1), standing_BFT.flatten(1))


def floating_B(joints_BFJ3: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """Return how far the lowest joint is above 5 cm, in metres, the mean over valid frames; jumps count too.

    Args:
        joints_BFJ3: positions in metres, floor at y = 0.
        length_B: valid frames of each motion.
    """
    above_BF = joints_BFJ3[..., 1].amin(dim=-1) - TOE_HEIGHT_M
    return _mean_over_frames(above_BF.clamp(min=0), _first_frames(length_B, joints_BFJ3.shape[1]))


def penetration_B(joints_BFJ3: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
    """Return how far the lowest joint is below -5 mm, in metres, the mean over valid frames.

    Args:
        joints_BFJ3: positions in metres, floor at y = 0.
        length_B: valid frames of each motion.
    """
    below_BF = -joints_BFJ3[..., 1].amin(dim=-1) - PENETRATION_M
    return _mean_over_frames(below_BF.clamp(min=0), _first_frames(length_B, joints_BFJ3.shape[1]))


def _first_frames(count_B: torch.Tensor, frames: int) -> torch.Tensor:
    return torch.arange(frames, device=count_B.device) < count_B[:, None]


def _mean_over_frames(value_BF: torch.Tensor, mask_BF: torch.Tensor) -> torch.Tensor:
    # where, not multiplication: padding may hold NaN.
    return value_BF.where(mask_BF, 0.0).sum(-1) / mask_BF.sum(-1).clamp(min=1)
