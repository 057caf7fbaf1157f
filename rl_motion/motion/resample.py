"""Joints at another frame rate (NumPy)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_motion.motion.rotations import FloatArray

# A frame that falls this near to a recorded one is that one: rounding must not cost the last frame.
_SAME_FRAME = 1e-6


def resampled_frames(frames: NDArray[np.int64] | int, fps_from: float, fps_to: float) -> NDArray[np.int64]:
    """How many frames `resample` gives for so many: those that fall between the first and the last, both included."""
    last = np.floor((np.asarray(frames) - 1) * (fps_to / fps_from) + _SAME_FRAME)
    count: NDArray[np.int64] = last.astype(np.int64) + 1
    return count


def resample(joints_FJ3: FloatArray, fps_from: float, fps_to: float) -> FloatArray:
    """Return joints [..., F', J, 3] at `fps_to`, by straight lines in time between the frames of [..., F, J, 3].

    The first frame is kept; nothing is extrapolated, so the end is up to one new frame earlier than the old one.

    Straight lines bend at the old frames alone. At a higher rate the velocity jumps there, and jerk and acceleration
    are artefacts: take them at the rate that motion was made at. At a lower rate jerk is what the coarser frames show;
    nothing is filtered first, so movement faster than half the new rate folds. Bones that turn between two frames come
    out shorter (by 1 - cos(angle / 2) at most), which a uniform skeleton undoes.

    Raises:
        ValueError: no frame, or a rate that is not positive.
    """
    frames = joints_FJ3.shape[-3]
    if frames < 1 or not (0 < fps_from < np.inf and 0 < fps_to < np.inf):
        raise ValueError(f"got {frames} frames, {fps_from} -> {fps_to} fps; want a frame or more, rates above 0")
    at_F = np.arange(int(resampled_frames(frames, fps_from, fps_to))) * (fps_from / fps_to)
    nearest_F = np.rint(at_F)
    at_F = np.where(np.abs(at_F - nearest_F) < _SAME_FRAME, nearest_F, at_F)
    before_F = np.floor(at_F).astype(np.int64)
    after_F = np.minimum(before_F + 1, frames - 1)
    share_F11 = (at_F - before_F)[:, None, None].astype(joints_FJ3.dtype)
    start = joints_FJ3[..., before_F, :, :]
    between: FloatArray = start + share_F11 * (joints_FJ3[..., after_F, :, :] - start)
    return between
