"""Faults of recorded motion: mended where that is safe, said always, and a reason to leave a clip out where it is not.

What is looked for, in this order, at the file's own frame rate:

* frames that are not finite: cut at the ends, bridged by straight lines inside where they are few;
* a T-pose at the start or the end, for calibration: cut;
* spikes, joints that leave for a frame or two and come back: bridged where they are few;
* jumps of the whole body from one frame to the next: the motion is in pieces and cannot be used;
* motion that does not move.

What is only said: feet that hover or slide, bones that change their length.
Shape legend: F frames, J joints (22). Metres, Y up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rl_motion.motion.formats.recording import finite_frames
from rl_motion.motion.formats.retarget import Body
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import HUMANML3D, JOINT_NAMES

LONGEST_GAP_S = 0.2
"""Of frames that are not finite or spikes: what a straight line may bridge."""
MOST_BRIDGED = 0.1
"""Of all frames, bridged."""
T_POSE_DEGREES = 25.0
"""Of every arm's bone from straight to the side. Calibrations of the CMU database have 2 to 21."""
T_POSE_STILL_M = 0.3
"""Range of every joint meanwhile, seen from the pelvis."""
LONGEST_T_POSE_S = 5.0
"""Who stands so for longer does it on purpose."""
JUMP_MPS = 15.0
"""Of the pelvis: sprinters run 12 m/s."""
_JUMP_M, _SPIKE_M = 0.1, 0.06
SPIKE_MPS2 = 300.0
"""Acceleration, over frames, that no joint has: boxers and dancers of the CMU database have up to 200."""
STATIC_M = 0.025
"""Range of every joint in a clip that shows no motion."""
HOVER_M, SKATE_MPS, WOBBLE = 0.12, 0.6, 0.1
_LOW_M = 0.06

_INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}
_FEET = [_INDEX[name] for name in ("left_ankle", "right_ankle", "left_foot", "right_foot")]
_ARMS = [(_INDEX[f"{side}_{a}"], _INDEX[f"{side}_{b}"], sign) for side, sign in (("left", 1.0), ("right", -1.0))
         for a, b in (("shoulder", "elbow"), ("elbow", "wrist"))]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Mended:
    """body: what is left of it, finite. left_out: why it cannot be used, in words that files share; empty if it can."""

    body: Body
    left_out: str = ""


@np.errstate(over="ignore", invalid="ignore")  # places beyond all measure are jumps, and told as such
def mend(body: Body) -> Mended:
    """Look for faults, mend what can be mended."""
    wrong = list(body.wrong)

    def end(left_out: str = "") -> Mended:
        return Mended(replace(body, joints_FJ3=joints_FJ3, wrong=tuple(wrong)), left_out)

    joints_FJ3, said, left_out = _finite(body.joints_FJ3, body.fps)
    wrong += said
    if left_out:
        return end(left_out)
    start = _t_pose_frames(joints_FJ3, body.fps)
    last = _t_pose_frames(joints_FJ3[::-1], body.fps)
    for where, count in (("start", start), ("end", last)):
        if count:
            wrong.append(f"T-pose at the {where}: {count} frames cut")
    joints_FJ3 = joints_FJ3[start : len(joints_FJ3) - last]
    joints_FJ3, said, left_out = _without_spikes(joints_FJ3, body.fps)
    wrong += said
    if left_out:
        return end(left_out)
    if jumps := _jumps(joints_FJ3, body.fps):
        wrong.append(f"the body jumps {len(jumps)} times, first before frame {start + jumps[0]}")
        return end("jumps of the whole body")
    if len(joints_FJ3) > 1 and np.ptp(joints_FJ3, axis=0).max() < STATIC_M:
        return end("static")
    wrong += _feet(joints_FJ3, body.fps)
    wrong += _wobble(joints_FJ3)
    return end()


def _finite(joints_FJ3: FloatArray, fps: float) -> tuple[FloatArray, list[str], str]:
    """The joints without what is not finite, what is said of it, and why that could not be."""
    finite_F = finite_frames(joints_FJ3)
    bad = int((~finite_F).sum())
    if not bad:
        return joints_FJ3, [], ""
    first = int(np.argmin(finite_F))
    said = [f"{bad} of {len(finite_F)} frames are NaN or infinite, first frame {first}"]
    good = np.flatnonzero(finite_F)
    if not len(good):
        return joints_FJ3, said, "NaN or infinite"
    inside = slice(int(good[0]), int(good[-1]) + 1)
    kept_F = finite_F[inside]
    if not _bridgeable(~kept_F, fps):
        return np.nan_to_num(joints_FJ3[good]), said, "NaN or infinite"
    return _bridged(joints_FJ3[inside], ~kept_F), said, ""


def _bridgeable(bad_F: NDArray[np.bool_], fps: float) -> bool:
    longest = run = 0
    for bad in bad_F.tolist():
        run = run + 1 if bad else 0
        longest = max(longest, run)
    return longest <= max(2, LONGEST_GAP_S * fps) and bad_F.mean() <= MOST_BRIDGED


def _bridged(joints_FJ3: FloatArray, bad_F: NDArray[np.bool_]) -> FloatArray:
    """Straight lines in time over the bad frames; held at the ends."""
    if not bad_F.any():
        return joints_FJ3
    good = np.flatnonzero(~bad_F)
    bad = np.flatnonzero(bad_F)
    after = np.searchsorted(good, bad).clip(0, len(good) - 1)
    before = np.maximum(np.searchsorted(good, bad) - 1, 0)
    span = np.maximum(good[after] - good[before], 1)
    share = ((bad - good[before]) / span).clip(0.0, 1.0)[:, None, None]
    mended = joints_FJ3.copy()
    mended[bad] = joints_FJ3[good[before]] + share * (joints_FJ3[good[after]] - joints_FJ3[good[before]])
    return mended


def _t_pose_frames(joints_FJ3: FloatArray, fps: float) -> int:
    """How many frames from the start stand still with both arms straight to the sides.

    0 if so many, or all of them, that it is meant; and if the body moves so, as a dancer does who turns.
    """
    across_F3 = joints_FJ3[:, _INDEX["left_shoulder"]] - joints_FJ3[:, _INDEX["right_shoulder"]]
    across_F3 = across_F3 * np.array([1.0, 0.0, 1.0])
    least = np.cos(np.radians(T_POSE_DEGREES))
    so_F = np.ones(len(joints_FJ3), dtype=bool)
    for start, end, sign in _ARMS:
        bone_F3 = joints_FJ3[:, end] - joints_FJ3[:, start]
        size_F = np.linalg.norm(bone_F3, axis=-1) * np.linalg.norm(across_F3, axis=-1)
        so_F &= sign * (bone_F3 * across_F3).sum(-1) >= least * np.maximum(size_F, 1e-12)
    count = 0 if so_F.all() else int(np.argmin(so_F))
    local_FJ3 = (joints_FJ3 - joints_FJ3[:, :1])[:count]
    still = count > 0 and float(np.ptp(local_FJ3, axis=0).max()) < T_POSE_STILL_M
    return count if still and count <= LONGEST_T_POSE_S * fps else 0


def _without_spikes(joints_FJ3: FloatArray, fps: float) -> tuple[FloatArray, list[str], str]:
    spike_F = _spikes(joints_FJ3, fps)
    if not spike_F.any():
        return joints_FJ3, [], ""
    said = [f"spikes in {int(spike_F.sum())} of {len(spike_F)} frames, first frame {int(np.argmax(spike_F))}"]
    if _bridgeable(spike_F, fps):
        mended = _bridged(joints_FJ3, spike_F)
        if not _spikes(mended, fps).any():
            return mended, [f"{said[0]}; bridged"], ""
    return joints_FJ3, said, "spikes"


def _spikes(joints_FJ3: FloatArray, fps: float) -> NDArray[np.bool_]:
    """Frames in which a joint, seen from the pelvis, is far from the middle of the frames around it.

    Of a frame before, with and after a spike all three are bent: the middle one is bent the most, and is marked.
    """
    local_FJ3 = joints_FJ3 - joints_FJ3[:, :1]
    spike_F = np.zeros(len(joints_FJ3), dtype=bool)
    for width in (1, 2):
        if len(joints_FJ3) <= 2 * width:
            continue
        middle = (local_FJ3[: -2 * width] + local_FJ3[2 * width :]) / 2
        away_FJ = np.linalg.norm(local_FJ3[width:-width] - middle, axis=-1)
        limit = _SPIKE_M + SPIKE_MPS2 * (width / fps) ** 2 / 2
        apart_FJ = np.linalg.norm(local_FJ3[: -2 * width] - local_FJ3[2 * width :], axis=-1)
        spike_F[width:-width] |= ((away_FJ > limit) & (away_FJ > apart_FJ)).any(axis=-1)
    return spike_F


def _jumps(joints_FJ3: FloatArray, fps: float) -> list[int]:
    """Frames before which the pelvis, or the whole body around it, is elsewhere at once."""
    step_F = np.linalg.norm(np.diff(joints_FJ3[:, 0], axis=0), axis=-1)
    pose_FJ = np.linalg.norm(np.diff(joints_FJ3 - joints_FJ3[:, :1], axis=0), axis=-1)
    jump_F = (step_F > _JUMP_M + JUMP_MPS / fps) | (np.median(pose_FJ, axis=-1) > _JUMP_M + JUMP_MPS / fps)
    return [int(frame) + 1 for frame in np.flatnonzero(jump_F)]


def _feet(joints_FJ3: FloatArray, fps: float) -> list[str]:
    """What is odd about the feet: the lowest of them hovers most of the time, or slides while it stands."""
    feet_FJ3 = joints_FJ3[:, _FEET]
    floor = joints_FJ3[..., 1].min()
    said = []
    hover = float(np.median(feet_FJ3[..., 1].min(axis=1)) - floor)
    if hover > HOVER_M:
        said.append(f"feet: the lower one is {hover:.2f} m above the lowest point most of the time")
    speed_FJ = np.linalg.norm(np.diff(feet_FJ3[..., [0, 2]], axis=0), axis=-1) * fps
    low_FJ = feet_FJ3[:-1, :, 1] < floor + _LOW_M
    standing_F = low_FJ.any(axis=1)
    if standing_F.sum() > 10:
        slowest_F = np.where(low_FJ, speed_FJ, np.inf).min(axis=1)[standing_F]
        if (skate := float(np.median(slowest_F))) > SKATE_MPS:
            said.append(f"feet: the one that stands slides, mostly at {skate:.1f} m/s")
    return said


def _wobble(joints_FJ3: FloatArray) -> list[str]:
    lengths_FJ = HUMANML3D.bone_lengths(joints_FJ3)
    wobble_J = lengths_FJ.std(axis=0) / np.maximum(lengths_FJ.mean(axis=0), 1e-9)
    worst = int(np.argmax(wobble_J))
    if wobble_J[worst] <= WOBBLE:
        return []
    return [f"the bone to {JOINT_NAMES[worst + 1]} changes its length by {wobble_J[worst]:.0%}"]
