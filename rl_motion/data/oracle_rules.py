"""Small rules that the oracle's checks share: repetitions, standing still, arms and feet at rest, styles.

Legend: F frames, J joints. Metres, Y up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rl_motion.data.oracle_measures import Array, Bumps, Measures, bumps
from rl_motion.data.oracle_reading import Reading

ARM = {"left": (16, 18, 20), "right": (17, 19, 21)}
LEG = {"left": (1, 4, 7), "right": (2, 5, 8)}
OTHER = {"left": "right", "right": "left"}
LOW_PELVIS = 0.86
"""Metres; a standing pelvis is higher."""
Check = Callable[[Measures, Reading], dict[str, bool]]


def period(speed: str, seconds: float) -> bool:
    """Whether one repetition is as fast as said."""
    return {"": True, "slow": seconds > 0.58, "fast": seconds < 0.395}[speed]


def counted(found: Bumps, reading: Reading, width: float = 0.5) -> dict[str, bool]:
    """Whether it happens, as often and as fast as said.

    `width`: share of a period that a full swing stays above half its height.
    """
    checks = {"happens": found.count > 0, "speed": period(reading.speed, found.width_s / width)}
    if reading.count:
        checks["count"] = found.count == reading.count
    return checks


def stays(m: Measures, shift: float = 0.4) -> dict[str, bool]:
    """Whether the body keeps its place and its facing."""
    return {
        "stays": m.shift < shift and m.spread < 0.3,
        "faces ahead": float(np.abs(np.degrees(m.yaw_F - m.yaw_F[0])).max()) < 45,
    }


def arm_low(m: Measures, side: str) -> bool:
    """Whether a hand stays below its shoulder."""
    shoulder, _, wrist = ARM[side]
    return float((m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1]).max()) < -0.05


def feet_down(m: Measures) -> bool:
    """Whether both feet stay near the floor."""
    return float(m.joints_FJ3[:, [7, 8], 1].max()) < 0.3


def upright(m: Measures) -> bool:
    """Whether the body neither sinks nor bends."""
    return float(m.drop_F.max()) < 0.15 and float(m.trunk_F.max()) < 35


def best_side(
    m: Measures, reading: Reading, check: Callable[[Measures, Reading, str], dict[str, bool]]
) -> dict[str, bool]:
    """The named side's checks; where no side is named, those of the side that passes more."""
    if reading.side:
        return check(m, reading, reading.side)
    return max((check(m, reading, side) for side in ("left", "right")), key=lambda checks: sum(checks.values()))


def overhead(m: Measures, side: str) -> tuple[Bumps, bool]:
    """How often a hand goes over its shoulder, and whether the arm is stretched then."""
    shoulder, _, wrist = ARM[side]
    found = bumps(m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1], 0.12, 0.02, m.fps)
    straight = m.bend(ARM[side])
    level = m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1]
    return found, bool(found.peaks) and all(straight[p] > 130 and level[p] > 0.25 for p in found.peaks)


def duration(progress_F: Array, speed: str, fps: float, rise: float = 0.608) -> bool:
    """Whether a monotonous change took its time.

    That is its 10-90 % time over `rise`, the share of a smooth step's duration that this takes.
    """
    u = (progress_F - progress_F[0]) / (progress_F[-1] - progress_F[0] + 1e-9)
    first = int(np.argmax(u > 0.1))
    last = int(np.argmax(u > 0.9))

    def cross(frame: int, level: float) -> float:
        return frame - (u[frame] - level) / max(u[frame] - u[frame - 1], 1e-9) if frame else 0.0

    seconds = (cross(last, 0.9) - cross(first, 0.1)) / fps / rise
    return {"": True, "slow": seconds > 1.28, "fast": seconds < 0.84}[speed]


def pace(speed: str, value: float, slow: float, fast: float) -> bool:
    """Whether a speed is below or above its bound, as said."""
    return {"": True, "slow": value < slow, "fast": value > fast}[speed]


def arms_rest(m: Measures, reading: Reading) -> bool:
    """Whether both hands stay below the shoulders, where no style says what the arms do."""
    return reading.style in ("wings", "hips") or (arm_low(m, "left") and arm_low(m, "right"))


def gaze(m: Measures, said: str) -> bool:
    """The head's lean ahead of the upper spine's, in the middle of the clip."""

    def lean_F(above: int, below: int) -> Array:
        bone = m.own_FJ3[:, above] - m.own_FJ3[:, below]
        return np.degrees(np.arctan2(bone[:, 2], bone[:, 1]))

    bent = float(np.median(lean_F(15, 12) - lean_F(12, 9)))
    return {"": True, "down": bent > 18, "up": bent < -15}[said]


def knees_bent(m: Measures) -> bool:
    """Whether the pelvis is low because the knees are bent, over most of the clip."""
    low = float(np.median(m.joints_FJ3[:, 0, 1])) < LOW_PELVIS
    return low and all(float(np.median(m.bend(leg))) < 145 for leg in LEG.values())


def on_floor(m: Measures) -> bool:
    """Whether the lowest foot comes down to the floor and never far below it."""
    lowest_F = m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
    return -0.06 < float(lowest_F.min()) < 0.06


def style(m: Measures, said: str) -> bool:
    """Arms spread, hands on the hips or knees bent, over most of the clip; lateral is along the shoulders."""
    if not said:
        return True
    if said == "bent":
        return knees_bent(m)
    line_F3 = m.joints_FJ3[:, 16] - m.joints_FJ3[:, 17]
    line_F3 = line_F3 / (np.linalg.norm(line_F3, axis=-1, keepdims=True) + 1e-9)

    def outward(side: str, joint: int, of: int) -> float:
        sign = 1.0 if side == "left" else -1.0
        return sign * float(np.median(((m.joints_FJ3[:, joint] - m.joints_FJ3[:, of]) * line_F3).sum(-1)))

    for side, (shoulder, elbow, wrist) in ARM.items():
        held = {
            "wings": outward(side, wrist, shoulder) > 0.36,
            "hips": outward(side, elbow, shoulder) > 0.14 and outward(side, wrist, elbow) < -0.07,
        }
        if not held[said]:
            return False
    return True
