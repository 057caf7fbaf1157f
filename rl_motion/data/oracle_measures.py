"""What the oracle measures of a motion: signals of 22 joints over time and their repetitions.

Legend: F frames, J joints. Metres, Y up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measures:
    """Signals of one motion, smoothed; lateral is the person's left at frame 0."""

    joints_FJ3: Array
    own_FJ3: Array
    """Joints relative to the pelvis, turned into the person's current facing (X left, Z ahead)."""
    yaw_F: Array
    root_F3: Array
    fps: float
    forward_mps: float
    """Mean speed along the current facing over the middle of the clip."""
    still_height: float
    """Pelvis height of the standing person: the 80th percentile."""

    def bend(self, chain: tuple[int, int, int]) -> Array:
        """Angle [degrees] at the middle joint, 180 is straight."""
        a, b, c = (self.joints_FJ3[:, j] for j in chain)
        u, v = a - b, c - b
        cos = (u * v).sum(-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1) + 1e-9)
        angle_F: Array = np.degrees(np.arccos(np.clip(cos, -1, 1)))
        return angle_F

    @property
    def path(self) -> float:
        """Metres travelled by the pelvis on the ground."""
        return float(np.linalg.norm(np.diff(self.root_F3[:, [0, 2]], axis=0), axis=-1).sum())

    @property
    def shift(self) -> float:
        """Metres between the first and the last place."""
        return float(np.linalg.norm((self.root_F3[-1] - self.root_F3[0])[[0, 2]]))

    @property
    def spread(self) -> float:
        """Metres of the pelvis from its mean place on the ground, at most."""
        ground = self.root_F3[:, [0, 2]]
        return float(np.linalg.norm(ground - ground.mean(0), axis=-1).max())

    @property
    def turned(self) -> float:
        """Net yaw in degrees, positive to the left."""
        return float(np.degrees(self.yaw_F[-1] - self.yaw_F[0]))

    @property
    def drop_F(self) -> Array:
        """Pelvis below its standing height, metres."""
        return self.still_height - self.root_F3[:, 1]

    @property
    def trunk_F(self) -> Array:
        """Degrees the trunk leans ahead of the vertical."""
        neck = self.own_FJ3[:, 12]
        return np.degrees(np.arctan2(neck[:, 2], neck[:, 1]))


def measure(joints_FJ3: Array, fps: float) -> Measures:
    """Smooth the joints with (1, 2, 1) / 4 and derive the signals."""
    padded = np.pad(np.asarray(joints_FJ3, float), ((1, 1), (0, 0), (0, 0)), mode="edge")
    joints = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    across = joints[:, 1] - joints[:, 2] + joints[:, 16] - joints[:, 17]
    yaw = np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    local = joints - joints[:, :1]
    own = np.stack(
        [local[..., 0] * cos - local[..., 2] * sin, local[..., 1], local[..., 0] * sin + local[..., 2] * cos],
        -1,
    )
    c0, s0 = np.cos(yaw[0]), np.sin(yaw[0])
    root = joints[:, 0] - joints[:1, 0] * [1, 0, 1]
    root = np.stack([root[:, 0] * c0 - root[:, 2] * s0, root[:, 1], root[:, 0] * s0 + root[:, 2] * c0], -1)
    step = np.diff(root[:, [0, 2]], axis=0) * fps
    heading = (yaw[:-1] + yaw[1:]) / 2 - yaw[0]
    ahead = step[:, 0] * np.sin(heading) + step[:, 1] * np.cos(heading)
    middle = slice(len(ahead) // 5, None)
    return Measures(joints, own, yaw, root, fps, float(ahead[middle].mean()), float(np.percentile(root[:, 1], 80)))


@dataclass(frozen=True, slots=True)
class Bumps:
    """Repetitions of a signal: their number, mean seconds above half height, and the frames of the peaks."""

    count: int
    width_s: float
    peaks: tuple[int, ...]


def bumps(signal_F: Array, high: float, low: float, fps: float) -> Bumps:
    """Count excursions that start below `low`, pass `high` and come back below `low` (or the clip ends)."""
    peaks: list[int] = []
    widths: list[float] = []
    start: int | None = None
    rested = False
    for frame in range(len(signal_F) + 1):
        value = signal_F[frame] if frame < len(signal_F) else -np.inf
        # What is held from the first frame on, as a statue holds it, is no repetition.
        rested = rested or value < low
        if start is None and rested and value > high:
            start = frame
        elif start is not None and value < low:
            peak = start + int(np.argmax(signal_F[start:frame]))
            peaks.append(peak)
            widths.append(_half_width(signal_F, peak, fps))
            start = None
    return Bumps(len(peaks), float(np.mean(widths)) if widths else 0.0, tuple(peaks))


def _half_width(signal_F: Array, peak: int, fps: float) -> float:
    base = float(np.percentile(signal_F, 5))
    half = (float(signal_F[peak]) + base) / 2

    def reach(direction: int) -> float:
        frame = peak
        while 0 <= frame + direction < len(signal_F) and signal_F[frame + direction] > half:
            frame += direction
        after = frame + direction
        if not 0 <= after < len(signal_F):
            return abs(frame - peak)
        span = signal_F[frame] - signal_F[after]
        return float(abs(frame - peak) + (signal_F[frame] - half) / max(span, 1e-9))

    return (reach(1) + reach(-1)) / fps
