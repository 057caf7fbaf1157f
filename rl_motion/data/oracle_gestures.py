"""The oracle's checks of what arms, legs and trunk do in one place. Thresholds are on joints, metres and degrees.

Legend: F frames, J joints.
"""

from __future__ import annotations

import numpy as np

from rl_motion.data.oracle_measures import Array, Measures, bumps
from rl_motion.data.oracle_reading import Reading
from rl_motion.data.oracle_rules import (
    ARM,
    LEG,
    OTHER,
    Check,
    arm_low,
    arms_rest,
    best_side,
    counted,
    feet_down,
    overhead,
    stays,
    upright,
)


def _wave_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    shoulder, elbow, wrist = ARM[side]
    own, out = m.own_FJ3, 1.0 if side == "left" else -1.0
    raised = own[:, wrist, 1] > own[:, elbow, 1] + 0.08
    lateral = out * (own[:, wrist, 0] - own[:, elbow, 0])
    # Raising and lowering the hand sweep it outward too: only what lies between two inward moments is waving.
    inward = np.flatnonzero(raised & (lateral < 0.02))
    found = bumps(lateral[inward[0] : inward[-1] + 1] if len(inward) else lateral[:0], 0.06, 0.02, m.fps)
    arm = own[:, elbow, 1] > own[:, shoulder, 1] - 0.2
    return {
        **counted(found, reading), **stays(m), "other arm down": arm_low(m, OTHER[side]),
        "hand up": bool(raised.any() and arm[raised].mean() > 0.7), "feet down": feet_down(m),
        "upright": upright(m),
    }  # fmt: skip


def _kick_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    ankle, other = LEG[side][2], LEG[OTHER[side]][2]
    found = bumps(m.own_FJ3[:, ankle, 2], 0.38, 0.3, m.fps)
    straight = m.bend(LEG[side])
    return {
        **counted(found, reading), **stays(m),
        "other foot down": float(m.joints_FJ3[:, other, 1].max()) < 0.25,
        "leg straight": all(straight[p] > 140 for p in found.peaks),
        "arms down": arms_rest(m, reading),
        "foot up": all(m.joints_FJ3[p, ankle, 1] > 0.25 for p in found.peaks),
        "stands": float(m.drop_F.max()) < 0.15,
    }  # fmt: skip


def _punch_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    shoulder, _, wrist = ARM[side]
    other_shoulder, _, other_wrist = ARM[OTHER[side]]
    own = m.own_FJ3
    found = bumps(own[:, wrist, 2] - own[:, shoulder, 2], 0.36, 0.28, m.fps)
    level = own[:, wrist, 1] - own[:, shoulder, 1]
    return {
        **counted(found, reading, 0.575), **stays(m),
        "at shoulder height": all(-0.25 < level[p] < 0.3 for p in found.peaks),
        "not overhead": float(level.max()) < 0.35, "feet down": feet_down(m), "upright": upright(m),
        "other arm rests": float((own[:, other_wrist, 2] - own[:, other_shoulder, 2]).max()) < 0.36
        and arm_low(m, OTHER[side]),
    }  # fmt: skip


def _knee_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    hip, knee, ankle = LEG[side]
    found = bumps(m.joints_FJ3[:, knee, 1] - m.joints_FJ3[:, hip, 1], -0.19, -0.25, m.fps)
    other = LEG[OTHER[side]]
    return {
        **counted(found, reading, 0.41), **stays(m),
        "other foot down": float(m.joints_FJ3[:, other[2], 1].max()) < 0.25,
        "knee bent": all(m.bend(LEG[side])[p] < 140 for p in found.peaks),
        "arms down": arms_rest(m, reading),
        "shin hangs": all(m.own_FJ3[p, ankle, 2] < 0.45 for p in found.peaks),
        "stands": float(m.drop_F.max()) < 0.15,
    }  # fmt: skip


def _raise_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    found, stretched = overhead(m, side)
    return {
        **counted(found, reading), **stays(m), "arm stretched": stretched,
        "other arm down": arm_low(m, OTHER[side]),
        "feet down": feet_down(m), "upright": upright(m),
    }  # fmt: skip


def _both_arms(m: Measures, reading: Reading) -> dict[str, bool]:
    (left, left_ok), (right, right_ok) = overhead(m, "left"), overhead(m, "right")
    spread = float(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]).max())
    return {
        **counted(left, reading), **stays(m),
        "both arms": left_ok and right_ok and left.count == right.count,
        "legs together": spread < 0.5, "feet down": feet_down(m), "upright": upright(m),
    }  # fmt: skip


def _jack(m: Measures, reading: Reading) -> dict[str, bool]:
    (left, left_ok), (right, right_ok) = overhead(m, "left"), overhead(m, "right")
    legs = bumps(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]), 0.5, 0.42, m.fps)
    return {
        **counted(left, reading), **stays(m),
        "both arms": left_ok and right_ok and left.count == right.count,
        "legs apart": legs.count == left.count,
    }  # fmt: skip


def _squat(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        **counted(bumps(m.drop_F, 0.16, 0.09, m.fps), reading, 0.37), **stays(m),
        "stands again": float(m.drop_F[-1]) < 0.22,
        "arms": not any(overhead(m, side)[1] for side in ("left", "right")),
        "grounded": float(m.joints_FJ3[:, [7, 8], 1].min(1).max()) < 0.16,
        "trunk": float(m.trunk_F.max()) < 60,
    }  # fmt: skip


def _bow(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        **counted(bumps(m.trunk_F, 28, 16, m.fps), reading), **stays(m),
        "stands": float(m.drop_F.max()) < 0.15, "feet down": feet_down(m),
    }  # fmt: skip


def _clap(m: Measures, reading: Reading) -> dict[str, bool]:
    left, right = m.own_FJ3[:, 20], m.own_FJ3[:, 21]
    found = bumps(-np.linalg.norm(left - right, axis=-1), -0.25, -0.4, m.fps)
    return {
        **counted(found, reading), **stays(m), "feet down": _feet_flat(m), "upright": upright(m),
        "both hands move": min(float(np.ptp(left[:, 0])), float(np.ptp(right[:, 0]))) > 0.12,
        "hands ahead": all(min(left[p, 2], right[p, 2]) > 0.15 for p in found.peaks),
    }  # fmt: skip


def _reach(m: Measures, reading: Reading) -> dict[str, bool]:
    ahead = [m.own_FJ3[:, wrist, 2] - m.own_FJ3[:, shoulder, 2] for shoulder, _, wrist in ARM.values()]
    level = [m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1] for shoulder, _, wrist in ARM.values()]
    left, right = (bumps(signal, 0.3, 0.24, m.fps) for signal in ahead)
    return {
        **counted(left, reading, 0.63), **stays(m), "feet down": _feet_flat(m), "upright": upright(m),
        "both arms": left.count == right.count,
        "at shoulder height": all(-0.25 < signal[p] < 0.25 for signal in level for p in left.peaks),
        "not overhead": float(max(signal.max() for signal in level)) < 0.3,
        "hands apart": float(np.linalg.norm(m.own_FJ3[:, 20] - m.own_FJ3[:, 21], axis=-1).min()) > 0.15,
    }  # fmt: skip


def _feet_flat(m: Measures) -> bool:
    return float(m.joints_FJ3[:, [7, 8], 1].max()) < 0.2


def _lean(m: Measures, reading: Reading) -> dict[str, bool]:
    sign = 1.0 if reading.side == "left" else -1.0
    lean_F = sign * np.degrees(np.arctan2(m.own_FJ3[:, 12, 0], m.own_FJ3[:, 12, 1]))
    return {
        **counted(bumps(lean_F, 16, 12, m.fps), reading), **stays(m), "feet down": _feet_flat(m),
        "upright": upright(m), "one side": float(lean_F.min()) > -12,
        "legs stand": float(np.abs(m.own_FJ3[:, [7, 8], 0].mean(1)).max()) < 0.15,
    }  # fmt: skip


def _twist(m: Measures, reading: Reading) -> dict[str, bool]:
    sign = 1.0 if reading.side == "left" else -1.0
    hips_F, shoulders_F = (_facing_F(m.own_FJ3[:, a] - m.own_FJ3[:, b]) for a, b in ((1, 2), (16, 17)))
    angle_F = sign * (shoulders_F - hips_F)
    # The shoulders are meant to turn; it is the hips that face ahead.
    ahead_F = np.degrees(m.yaw_F) + hips_F
    chest_F = sign * (np.degrees(m.yaw_F) + shoulders_F)
    found = bumps(angle_F, 22, 14, m.fps)
    return {
        **counted(found, reading), **stays(m), "feet down": _feet_flat(m),
        "upright": upright(m), "one side": float(angle_F.min()) > -15,
        "chest turns": all(chest_F[p] - chest_F[0] > 15 for p in found.peaks),
        "faces ahead": float(np.abs(ahead_F - ahead_F[0]).max()) < 45,
    }  # fmt: skip


def _facing_F(across_F3: Array) -> Array:
    """Degrees to the left that a line across the body, from its right to its left, faces in the body's own frame."""
    return np.degrees(np.arctan2(-across_F3[:, 2], across_F3[:, 0]))


def _lunge_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    front, back = m.own_FJ3[:, LEG[side][2], 2], m.own_FJ3[:, LEG[OTHER[side]][2], 2]
    found = bumps(front - back, 0.4, 0.3, m.fps)
    return {
        **counted(found, reading, 0.55), **stays(m), "feet down": feet_down(m),
        "sinks": all(m.drop_F[p] > 0.06 for p in found.peaks),
        "knee ahead": all(m.own_FJ3[p, LEG[side][1], 2] > 0.15 for p in found.peaks),
        "trunk": float(m.trunk_F.max()) < 35, "arms down": arms_rest(m, reading),
    }  # fmt: skip


def _heel_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    hip, knee, ankle = LEG[side]
    found = bumps(m.joints_FJ3[:, ankle, 1], 0.3, 0.22, m.fps)
    return {
        **counted(found, reading, 0.43), **stays(m), "upright": upright(m), "arms down": arms_rest(m, reading),
        "other foot down": float(m.joints_FJ3[:, LEG[OTHER[side]][2], 1].max()) < 0.2,
        "behind": all(m.own_FJ3[p, ankle, 2] < -0.18 for p in found.peaks),
        "thigh hangs": all(m.own_FJ3[p, knee, 1] - m.own_FJ3[p, hip, 1] < -0.3 for p in found.peaks),
    }  # fmt: skip


GESTURES: dict[str, Check] = {
    "squat": _squat, "bow": _bow, "jack": _jack, "arms": _both_arms, "clap": _clap, "reach": _reach, "lean": _lean,
    "twist": _twist,
    "wave": lambda m, r: best_side(m, r, _wave_side), "kick": lambda m, r: best_side(m, r, _kick_side),
    "punch": lambda m, r: best_side(m, r, _punch_side), "knee": lambda m, r: best_side(m, r, _knee_side),
    "raise": lambda m, r: best_side(m, r, _raise_side), "lunge": lambda m, r: best_side(m, r, _lunge_side),
    "heel": lambda m, r: best_side(m, r, _heel_side),
}  # fmt: skip
