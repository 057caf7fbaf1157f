"""Sentinels: what betrays a motion that games a reward (torch, pure functions).

They tell a degenerate motion from a natural one, whatever the text. Each returns one number per motion, is
differentiable almost everywhere, and looks at valid frames only; a motion too short to measure gets 0. `measures` has
all that joints tell, `measures_of` also what features tell beyond joints: they say most things twice, and whoever
games a reward that reads features can make the two disagree without a joint moving.

What several motions tell together (diversity), and which numbers are natural, is `rl_motion/evaluation/sentinels.py`.

Shape legend: B batch, F frames, J joints (22), D features. Metres, Y up, floor at y = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from rl_motion.motion.features import FPS, JOINTS_J, ROOT_YAW, ROT6D, VEL
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3
from rl_motion.types import Motions, Representation

_BONE_LENGTHS_M = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1)
ANKLE_JOINTS = (7, 8)
HIGH_FREQUENCY_HZ = 5.0
"""From here up: feet that step have their energy below, feet that tremble above. Below the Nyquist frequency of 12.5
frames a second (6.25 Hz) as of 20 (10 Hz)."""
_LEAST_FRAMES = 10
"""A spectrum of fewer frames says nothing."""

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
    drift_BFJ = (_bones(joints_BFJ3).norm(dim=-1) / reference - 1.0).abs()
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


def bone_wobble_B(joints_BFJ3: Tensor, length_B: Tensor) -> Tensor:
    """Return how much bones change their length over time: std / mean, the mean over bones. Needs no reference.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion.
    """
    valid_BF1 = _first_frames(length_B, joints_BFJ3.shape[1])[..., None]
    count_B1 = valid_BF1.sum(1).clamp(min=1)
    lengths_BFJ = _bones(joints_BFJ3).norm(dim=-1).where(valid_BF1, 0.0)
    mean_BJ = lengths_BFJ.sum(1) / count_B1
    square_BJ = (lengths_BFJ - mean_BJ[:, None]).square().where(valid_BF1, 0.0).sum(1) / count_B1
    # Not clamped at 0 but just above: the root's slope there is infinite.
    wobble_BJ: Tensor = square_BJ.clamp(min=1e-12).sqrt() / mean_BJ.clamp(min=0.01)
    return wobble_BJ.mean(-1)


def body_size_B(joints_BFJ3: Tensor, length_B: Tensor) -> Tensor:
    """Return the summed length of all bones in metres, the mean over valid frames.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion.
    """
    size_BF = _bones(joints_BFJ3).norm(dim=-1).sum(-1)
    return _mean_over_frames(size_BF, _first_frames(length_B, joints_BFJ3.shape[1]))


def energy_B(joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the root mean square speed of all joints in m/s: 0 of a frozen pose.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 2 give 0.
        fps: frames per second.
    """
    square_BF = (joints_BFJ3.diff(dim=1) * fps).square().sum(-1).mean(-1)
    return _mean_over_frames(square_BF, _first_frames(length_B - 1, square_BF.shape[1])).sqrt()


def travel_B(joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the mean horizontal speed of the root in m/s.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 2 give 0.
        fps: frames per second.
    """
    speed_BF = joints_BFJ3[:, :, 0, [0, 2]].diff(dim=1).norm(dim=-1) * fps
    return _mean_over_frames(speed_BF, _first_frames(length_B - 1, speed_BF.shape[1]))


def root_jolt_B(joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the largest acceleration of the root in m/s^2: a place that jumps is one frame that a mean hides.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 3 give 0.
        fps: frames per second.
    """
    acceleration_BF = joints_BFJ3[:, :, 0].diff(n=2, dim=1).norm(dim=-1) * fps**2
    valid_BF = _first_frames(length_B - 2, acceleration_BF.shape[1])
    return pad(acceleration_BF.where(valid_BF, 0.0), (0, 1)).amax(dim=1)


def ankle_tremor_B(joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the ankles' acceleration from 5 Hz up, root mean square in m/s^2 over both: the root of its energy there.

    Each motion's second finite difference goes through a Hann window of its own length and the Fourier transform; by
    Parseval's theorem the sum over frequencies, divided by the window's energy, is the mean square.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 10 give 0.
        fps: frames per second.
    """
    found_B = joints_BFJ3.new_zeros(len(joints_BFJ3))
    acceleration_BFA3 = joints_BFJ3[:, :, list(ANKLE_JOINTS)].diff(n=2, dim=1) * fps**2
    for length in sorted(set(length_B.tolist())):
        if length < _LEAST_FRAMES:
            continue
        rows = (length_B == length).nonzero().flatten()
        window_F = torch.hann_window(length - 2, dtype=found_B.dtype, device=found_B.device)
        part = acceleration_BFA3[rows, : length - 2] * window_F[:, None, None]
        power = torch.fft.rfft(part, dim=1).abs().square().sum(dim=(2, 3)) / len(ANKLE_JOINTS)
        frequency = torch.fft.rfftfreq(length - 2, 1.0 / fps, dtype=found_B.dtype, device=found_B.device)
        # Of a real signal every frequency but Nyquist's (and 0) stands for two.
        weight = torch.where(frequency < fps / 2, 2.0, 1.0).where(frequency >= HIGH_FREQUENCY_HZ, 0.0)
        energy = (power * weight).sum(1) / ((length - 2) * window_F.square().sum())
        found_B = found_B.index_put((rows,), energy.sqrt())
    return found_B


def ankle_shake_B(joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the median jerk of the ankles in m/s^3, over frames and both: trembling that is there all the time.

    Steps and kicks are a few frames of a motion, which decide `ankle_tremor` and leave a median alone.

    Args:
        joints_BFJ3: positions in metres.
        length_B: valid frames of each motion; those below 4 give 0.
        fps: frames per second.
    """
    third_BFA = joints_BFJ3[:, :, list(ANKLE_JOINTS)].diff(n=3, dim=1).norm(dim=-1) * fps**3
    return _median(third_BFA, length_B - 3)


def velocity_gap_B(features_BFD: Tensor, joints_BFJ3: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return how far the features' own velocities are from those of the joints, in m/s: the mean over joints.

    Args:
        features_BFD: HumanML3D's, un-normalised.
        joints_BFJ3: recovered from them.
        length_B: valid frames of each motion; those below 2 give 0.
        fps: frames per second.
    """
    told_BFJ3 = features_BFD[..., VEL].unflatten(-1, (JOINTS_J, 3)) @ _headings(features_BFD)
    gap_BF = (told_BFJ3[:, :-1] - joints_BFJ3.diff(dim=1)).norm(dim=-1).mean(-1) * fps
    return _mean_over_frames(gap_BF, _first_frames(length_B - 1, gap_BF.shape[1]))


def rotation_gap_B(features_BFD: Tensor, joints_BFJ3: Tensor, length_B: Tensor) -> Tensor:
    """Return how far apart the unit vectors along the bones are, of the features' rotations and of the joints.

    About the angle in radians; the mean over bones and valid frames. Lengths of bones do not count.

    Args:
        features_BFD: HumanML3D's, un-normalised.
        joints_BFJ3: recovered from them.
        length_B: valid frames of each motion.
    """
    turns = [_headings(features_BFD)]
    local = _matrices(features_BFD[..., ROT6D].unflatten(-1, (JOINTS_J - 1, 6)))
    for joint in range(1, JOINTS_J):
        turns.append(turns[HUMANML3D.rotation_parents[joint]] @ local[..., joint - 1, :, :])
    axes_J31 = torch.tensor(HUMANML3D.raw_offsets_J3[1:, :, None]).to(local)
    told_BFJ3 = (torch.stack(turns[1:], dim=-3) @ axes_J31).squeeze(-1)
    gap_BF = (told_BFJ3 - normalize(_bones(joints_BFJ3), dim=-1)).norm(dim=-1).mean(-1)
    return _mean_over_frames(gap_BF, _first_frames(length_B, joints_BFJ3.shape[1]))


def rotation_tremor_B(features_BFD: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return how the features' rotations tremble, in 1/s^2: the median second difference over columns and frames.

    The median: a model's few large mistakes do not hide what trembles a little everywhere.

    Args:
        features_BFD: HumanML3D's, un-normalised.
        length_B: valid frames of each motion; those below 3 give 0.
        fps: frames per second.
    """
    return _median(features_BFD[..., ROT6D].diff(n=2, dim=1).abs(), length_B - 2) * fps**2


def velocity_tremor_B(features_BFD: Tensor, length_B: Tensor, fps: float = FPS) -> Tensor:
    """Return the same of the features' velocities, in m/s^3.

    Args:
        features_BFD: HumanML3D's, un-normalised.
        length_B: valid frames of each motion; those below 3 give 0.
        fps: frames per second.
    """
    return _median(features_BFD[..., VEL].diff(n=2, dim=1).abs(), length_B - 2) * fps**3


OF_JOINTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "bone_drift": lambda joints_BFJ3, length_B, _: bone_drift_B(joints_BFJ3, length_B),
    "bone_wobble": lambda joints_BFJ3, length_B, _: bone_wobble_B(joints_BFJ3, length_B),
    "body_size": lambda joints_BFJ3, length_B, _: body_size_B(joints_BFJ3, length_B),
    "jerk": jerk_B,
    "ankle_tremor": ankle_tremor_B,
    "ankle_shake": ankle_shake_B,
    "root_jolt": root_jolt_B,
    "energy": energy_B,
    "travel": travel_B,
    "foot_skate": foot_skate_B,
    "floating": lambda joints_BFJ3, length_B, _: floating_B(joints_BFJ3, length_B),
    "penetration": lambda joints_BFJ3, length_B, _: penetration_B(joints_BFJ3, length_B),
}
"""(joints [B, F, 22, 3] in metres, valid frames [B], frames per second) -> one number per motion, by name."""
OF_FEATURES = ("velocity_gap", "rotation_gap", "velocity_tremor", "rotation_tremor")
"""What `measures_of` adds, where the features are HumanML3D's."""


def measures(joints_BFJ3: Tensor, length_B: Tensor, fps: float) -> dict[str, Tensor]:
    """Every sentinel of joints [B], by name (`OF_JOINTS`).

    `bone_drift` is the distance from HumanML3D's skeleton: with other skeletons only its change says something, and
    `bone_wobble` and `body_size` need none.

    Args:
        joints_BFJ3: positions in metres, floor at y = 0.
        length_B: valid frames of each motion.
        fps: frames per second.
    """
    return {name: measure(joints_BFJ3, length_B, fps) for name, measure in OF_JOINTS.items()}


def measures_of(motions: Motions) -> dict[str, Tensor]:
    """Every sentinel of motions [B], by name: `measures` of their joints and, of HumanML3D's, `OF_FEATURES`.

    Raises:
        UserError: the features are normalised.
    """
    joints_BFJ3 = motion_joints(motions)
    length_B = motions.length_B.to(joints_BFJ3.device)
    found = measures(joints_BFJ3, length_B, motions.fps)
    if motions.representation is Representation.HUMANML3D_263:
        features_BFD = motions.features_BFD.to(joints_BFJ3)
        found["velocity_gap"] = velocity_gap_B(features_BFD, joints_BFJ3, length_B, motions.fps)
        found["rotation_gap"] = rotation_gap_B(features_BFD, joints_BFJ3, length_B)
        found["velocity_tremor"] = velocity_tremor_B(features_BFD, length_B, motions.fps)
        found["rotation_tremor"] = rotation_tremor_B(features_BFD, length_B, motions.fps)
    return found


def _median(value_BFC: Tensor, count_B: Tensor) -> Tensor:
    """Of the first so many frames of each row, [B]; 0 where there are none."""
    if not value_BFC.shape[1]:  # nanmedian refuses a tensor without frames
        return value_BFC.new_zeros(len(value_BFC))
    valid_BF1 = _first_frames(count_B, value_BFC.shape[1])[..., None]
    return value_BFC.where(valid_BF1, torch.nan).flatten(1).nanmedian(dim=1).values.nan_to_num(0.0)


def _bones(joints_BFJ3: Tensor) -> Tensor:
    return joints_BFJ3[..., 1:, :] - joints_BFJ3[..., HUMANML3D.parents[1:], :]


def _headings(features_BFD: Tensor) -> Tensor:
    """Matrices [B, F, 3, 3] that turn each frame's heading to Z+."""
    yaw_BF = pad(2.0 * features_BFD[:, :-1, ROOT_YAW], (1, 0)).cumsum(-1)
    cos, sin, zero, one = yaw_BF.cos(), yaw_BF.sin(), torch.zeros_like(yaw_BF), torch.ones_like(yaw_BF)
    turn_BF33: Tensor = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=-1).unflatten(-1, (3, 3))
    return turn_BF33


def _matrices(cont_6: Tensor) -> Tensor:
    """`rotations.cont6d_to_matrix` in torch: [..., 6] -> [..., 3, 3]."""
    x_3 = normalize(cont_6[..., :3], dim=-1)
    z_3 = normalize(torch.linalg.cross(x_3, cont_6[..., 3:]), dim=-1)
    return torch.stack([x_3, torch.linalg.cross(z_3, x_3), z_3], dim=-1)


def _first_frames(count_B: torch.Tensor, frames: int) -> torch.Tensor:
    return torch.arange(frames, device=count_B.device) < count_B[:, None]


def _mean_over_frames(value_BF: torch.Tensor, mask_BF: torch.Tensor) -> torch.Tensor:
    # where, not multiplication: padding may hold NaN.
    return value_BF.where(mask_BF, 0.0).sum(-1) / mask_BF.sum(-1).clamp(min=1)
