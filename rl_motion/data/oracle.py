"""The oracle: does this motion do what this caption says? Rules on joints, nothing from the generator.

It reads the caption's own words, measures the motion (22 joints, metres, Y up) and compares. It is the judge
of the embedded world and never a reward. Thresholds were fixed before any packaged model was trained.
Legend: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rl_motion.data.oracle_measures import Array, Bumps, Measures, bumps, measure
from rl_motion.data.oracle_reading import Reading, read
from rl_motion.motion.sentinels import bone_drift_B, jerk_B

MAX_BONE_DRIFT = 0.10
"""Mean relative deviation of bone lengths."""
MAX_JERK = 900.0
"""Mean over joints and frames, m/s^3."""
_ARM = {"left": (16, 18, 20), "right": (17, 19, 21)}
_LEG = {"left": (1, 4, 7), "right": (2, 5, 8)}
_OTHER = {"left": "right", "right": "left"}
Check = Callable[[Measures, Reading], dict[str, bool]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`success`: does what the caption says and stays in the sentinels' band; `reasons`: what fails."""

    success: bool
    claim: bool
    in_band: bool
    reasons: tuple[str, ...]


def _period(speed: str, seconds: float) -> bool:
    return {"": True, "slow": seconds > 0.58, "fast": seconds < 0.395}[speed]


def _counted(found: Bumps, reading: Reading, width: float = 0.5) -> dict[str, bool]:
    """Whether it happens, as often and as fast as said.

    `width`: share of a period that a full swing stays above half its height.
    """
    checks = {"happens": found.count > 0, "speed": _period(reading.speed, found.width_s / width)}
    if reading.count:
        checks["count"] = found.count == reading.count
    return checks


def _stays(m: Measures, shift: float = 0.4) -> dict[str, bool]:
    return {
        "stays": m.shift < shift,
        "faces ahead": float(np.abs(np.degrees(m.yaw_F - m.yaw_F[0])).max()) < 45,
    }


def _arm_low(m: Measures, side: str) -> bool:
    shoulder, _, wrist = _ARM[side]
    return float((m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1]).max()) < -0.05


def _feet_down(m: Measures) -> bool:
    return float(m.joints_FJ3[:, [7, 8], 1].max()) < 0.3


def _upright(m: Measures) -> bool:
    return float(m.drop_F.max()) < 0.15 and float(m.trunk_F.max()) < 35


def _best_side(
    m: Measures, reading: Reading, check: Callable[[Measures, Reading, str], dict[str, bool]]
) -> dict[str, bool]:
    """The named side's checks; where no side is named, those of the side that passes more."""
    if reading.side:
        return check(m, reading, reading.side)
    return max((check(m, reading, side) for side in ("left", "right")), key=lambda checks: sum(checks.values()))


def _wave_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    shoulder, elbow, wrist = _ARM[side]
    own, out = m.own_FJ3, 1.0 if side == "left" else -1.0
    raised = own[:, wrist, 1] > own[:, elbow, 1] + 0.08
    lateral = out * (own[:, wrist, 0] - own[:, elbow, 0])
    # Raising and lowering the hand sweep it outward too: only what lies between two inward moments is waving.
    inward = np.flatnonzero(raised & (lateral < 0.02))
    found = bumps(lateral[inward[0] : inward[-1] + 1] if len(inward) else lateral[:0], 0.06, 0.02, m.fps)
    arm = own[:, elbow, 1] > own[:, shoulder, 1] - 0.2
    return {
        **_counted(found, reading), **_stays(m), "other arm down": _arm_low(m, _OTHER[side]),
        "hand up": bool(raised.any() and arm[raised].mean() > 0.7), "feet down": _feet_down(m),
        "upright": _upright(m),
    }  # fmt: skip


def _kick_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    ankle, other = _LEG[side][2], _LEG[_OTHER[side]][2]
    found = bumps(m.own_FJ3[:, ankle, 2], 0.38, 0.3, m.fps)
    straight = m.bend(_LEG[side])
    return {
        **_counted(found, reading), **_stays(m),
        "other foot down": float(m.joints_FJ3[:, other, 1].max()) < 0.25,
        "leg straight": all(straight[p] > 140 for p in found.peaks),
        "arms down": _arm_low(m, "left") and _arm_low(m, "right"),
        "foot up": all(m.joints_FJ3[p, ankle, 1] > 0.25 for p in found.peaks),
        "stands": float(m.drop_F.max()) < 0.15,
    }  # fmt: skip


def _punch_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    shoulder, _, wrist = _ARM[side]
    other_shoulder, _, other_wrist = _ARM[_OTHER[side]]
    own = m.own_FJ3
    found = bumps(own[:, wrist, 2] - own[:, shoulder, 2], 0.36, 0.28, m.fps)
    level = own[:, wrist, 1] - own[:, shoulder, 1]
    return {
        **_counted(found, reading, 0.575), **_stays(m),
        "at shoulder height": all(-0.25 < level[p] < 0.3 for p in found.peaks),
        "not overhead": float(level.max()) < 0.35, "feet down": _feet_down(m), "upright": _upright(m),
        "other arm rests": float((own[:, other_wrist, 2] - own[:, other_shoulder, 2]).max()) < 0.36
        and _arm_low(m, _OTHER[side]),
    }  # fmt: skip


def _knee_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    hip, knee, ankle = _LEG[side]
    found = bumps(m.joints_FJ3[:, knee, 1] - m.joints_FJ3[:, hip, 1], -0.19, -0.25, m.fps)
    other = _LEG[_OTHER[side]]
    return {
        **_counted(found, reading, 0.41), **_stays(m),
        "other foot down": float(m.joints_FJ3[:, other[2], 1].max()) < 0.25,
        "knee bent": all(m.bend(_LEG[side])[p] < 140 for p in found.peaks),
        "arms down": _arm_low(m, "left") and _arm_low(m, "right"),
        "shin hangs": all(m.own_FJ3[p, ankle, 2] < 0.45 for p in found.peaks),
        "stands": float(m.drop_F.max()) < 0.15,
    }  # fmt: skip


def _overhead(m: Measures, side: str) -> tuple[Bumps, bool]:
    shoulder, _, wrist = _ARM[side]
    found = bumps(m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1], 0.12, 0.02, m.fps)
    straight = m.bend(_ARM[side])
    level = m.own_FJ3[:, wrist, 1] - m.own_FJ3[:, shoulder, 1]
    return found, bool(found.peaks) and all(straight[p] > 130 and level[p] > 0.25 for p in found.peaks)


def _raise_side(m: Measures, reading: Reading, side: str) -> dict[str, bool]:
    found, stretched = _overhead(m, side)
    return {
        **_counted(found, reading), **_stays(m), "arm stretched": stretched,
        "other arm down": _arm_low(m, _OTHER[side]),
        "feet down": _feet_down(m), "upright": _upright(m),
    }  # fmt: skip


def _both_arms(m: Measures, reading: Reading) -> dict[str, bool]:
    (left, left_ok), (right, right_ok) = _overhead(m, "left"), _overhead(m, "right")
    spread = float(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]).max())
    return {
        **_counted(left, reading), **_stays(m),
        "both arms": left_ok and right_ok and left.count == right.count,
        "legs together": spread < 0.5, "feet down": _feet_down(m), "upright": _upright(m),
    }  # fmt: skip


def _jack(m: Measures, reading: Reading) -> dict[str, bool]:
    (left, left_ok), (right, right_ok) = _overhead(m, "left"), _overhead(m, "right")
    legs = bumps(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]), 0.5, 0.42, m.fps)
    return {
        **_counted(left, reading), **_stays(m),
        "both arms": left_ok and right_ok and left.count == right.count,
        "legs apart": legs.count == left.count,
    }  # fmt: skip


def _jump(m: Measures, reading: Reading) -> dict[str, bool]:
    lowest = m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
    found = bumps(lowest - np.percentile(lowest, 5), 0.09, 0.05, m.fps)
    ahead = float(m.root_F3[-1, 2] - m.root_F3[0, 2])
    apart = float(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]).max())
    return {
        **_counted(found, reading),
        "direction": ahead > 0.22 * max(found.count, 1) if reading.side == "forward" else abs(ahead) < 0.22,
        "feet together": apart < 0.45,
        "legs level": float(np.abs(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2]).max()) < 0.3,
        "faces ahead": abs(m.turned) < 45,
    }  # fmt: skip


def _squat(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        **_counted(bumps(m.drop_F, 0.16, 0.09, m.fps), reading, 0.37), **_stays(m),
        "stands again": float(m.drop_F[-1]) < 0.22,
        "arms": not any(_overhead(m, side)[1] for side in ("left", "right")),
        "grounded": float(m.joints_FJ3[:, [7, 8], 1].min(1).max()) < 0.16,
        "trunk": float(m.trunk_F.max()) < 60,
    }  # fmt: skip


def _bow(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        **_counted(bumps(m.trunk_F, 28, 16, m.fps), reading), **_stays(m),
        "stands": float(m.drop_F.max()) < 0.15, "feet down": _feet_down(m),
    }  # fmt: skip


def _sit(m: Measures, reading: Reading) -> dict[str, bool]:
    drop = m.root_F3[:3, 1].mean() - m.root_F3[:, 1]
    return {
        "sits": float(drop[-3:].mean()) > 0.15, "depth": _depth(reading.extent, float(drop[-3:].mean())),
        "stays low": float(drop.max() - drop[-1]) < 0.08, "trunk": float(m.trunk_F.max()) < 45,
        "speed": _duration(drop, reading.speed, m.fps, 0.5), "faces ahead": abs(m.turned) < 45,
    }  # fmt: skip


def _depth(extent: str, drop: float) -> bool:
    return {"": True, "high": drop < 0.27, "low": drop > 0.41}[extent]


def _duration(progress_F: Array, speed: str, fps: float, rise: float = 0.608) -> bool:
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


def _turning(m: Measures, reading: Reading, low: float, high: float) -> dict[str, bool]:
    sign = {"left": 1, "counterclockwise": 1, "right": -1, "clockwise": -1}.get(reading.side, np.sign(m.turned))
    return {
        "direction": np.sign(m.turned) == sign, "angle": low < abs(m.turned) < high,
        "in place": m.spread < 0.25,
        "speed": _duration(m.yaw_F, reading.speed, m.fps), "upright": _upright(m), "feet down": _feet_down(m),
        "arms": not any(_overhead(m, side)[1] for side in ("left", "right")),
    }  # fmt: skip


def _turn(m: Measures, reading: Reading) -> dict[str, bool]:
    return _turning(m, reading, 55, 130)


def _spin(m: Measures, reading: Reading) -> dict[str, bool]:
    return _turning(m, reading, *{"half": (140.0, 230.0), "full": (280.0, 440.0), "": (140.0, 440.0)}[reading.extent])


def _pace(speed: str, value: float, slow: float, fast: float) -> bool:
    return {"": True, "slow": value < slow, "fast": value > fast}[speed]


def _circle(m: Measures, reading: Reading) -> dict[str, bool]:
    sign = {"counterclockwise": 1, "clockwise": -1}.get(reading.side, np.sign(m.turned))
    radius = m.path / max(abs(np.radians(m.turned)), 1e-6)
    size = {"": 0.2 < radius < 1.5, "small": 0.2 < radius < 0.48, "large": 0.76 < radius < 1.5}[reading.extent]
    return {
        "direction": np.sign(m.turned) == sign, "turns": abs(m.turned) > 30, "size": size,
        "walks": 0.25 < m.forward_mps < 2.0,
        "speed": _pace(reading.speed, m.forward_mps, 0.73, 1.27), "upright": _upright(m),
    }  # fmt: skip


def _walk(m: Measures, reading: Reading) -> dict[str, bool]:
    speed = m.forward_mps * (-1 if reading.side == "backward" else 1)
    return {
        "direction": speed > 0.25, "straight": abs(m.turned) < 30,
        "speed": _pace(reading.speed, speed, 0.73, 1.27),
        "not running": speed < 1.88, "along": abs(m.root_F3[-1, 2]) > abs(m.root_F3[-1, 0]),
        "upright": _upright(m),
        "steps": float(np.ptp(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2])) > 0.15,
        "never airborne": float(m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1).max()) < 0.12,
    }  # fmt: skip


def _run(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        "speed": m.forward_mps > 1.88 and _pace(reading.speed, m.forward_mps, 2.5, 3.1),
        "straight": abs(m.turned) < 30,
        "steps": float(np.ptp(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2])) > 0.4,
    }  # fmt: skip


def _sidestep(m: Measures, reading: Reading) -> dict[str, bool]:
    x, z = m.root_F3[-1, 0] - m.root_F3[0, 0], m.root_F3[-1, 2] - m.root_F3[0, 2]
    late = m.root_F3[len(m.root_F3) // 5 :, 0]
    speed = abs(float(late[-1] - late[0])) / (len(late) - 1) * m.fps
    return {
        "direction": x > 0 if reading.side == "left" else x < 0,
        "sideways": abs(x) > 0.25 and abs(z) < 0.5 * abs(x),
        "speed": _pace(reading.speed, speed, 0.46, 0.8), "faces ahead": abs(m.turned) < 30,
        "upright": _upright(m),
    }  # fmt: skip


def _gaze(m: Measures, gaze: str) -> bool:
    """The head's lean ahead of the upper spine's, in the middle of the clip."""

    def lean_F(above: int, below: int) -> Array:
        bone = m.own_FJ3[:, above] - m.own_FJ3[:, below]
        return np.degrees(np.arctan2(bone[:, 2], bone[:, 1]))

    bent = float(np.median(lean_F(15, 12) - lean_F(12, 9)))
    return {"": True, "down": bent > 18, "up": bent < -15}[gaze]


CHECKS: dict[str, Check] = {
    "walk": _walk, "run": _run, "jump": _jump, "squat": _squat, "bow": _bow, "jack": _jack,
    "sidestep": _sidestep,
    "turn": _turn, "sit": _sit, "arms": _both_arms, "circle": _circle, "spin": _spin,
    "wave": lambda m, r: _best_side(m, r, _wave_side), "kick": lambda m, r: _best_side(m, r, _kick_side),
    "punch": lambda m, r: _best_side(m, r, _punch_side), "knee": lambda m, r: _best_side(m, r, _knee_side),
    "raise": lambda m, r: _best_side(m, r, _raise_side),
}  # fmt: skip


def in_band(joints_FJ3: Array) -> bool:
    """Whether bone lengths and jerk stay in the sentinels' calibrated band."""
    joints = torch.as_tensor(np.asarray(joints_FJ3), dtype=torch.float64)[None]
    length = torch.tensor([joints.shape[1]])
    return bool(bone_drift_B(joints, length) < MAX_BONE_DRIFT) and bool(jerk_B(joints, length) < MAX_JERK)


def check(caption: str, joints_FJ3: Array, fps: float = 20.0) -> Verdict:
    """Judge joints [F, 22, 3] (metres, Y up) against the caption. Non-finite motion fails."""
    joints = np.asarray(joints_FJ3, dtype=float)
    if not np.isfinite(joints).all():
        return Verdict(False, False, False, ("not finite",))
    reading = read(caption)
    measures = measure(joints, fps)
    checks = CHECKS[reading.action](measures, reading) | {"gaze": _gaze(measures, reading.gaze)}
    failed = tuple(name for name, ok in checks.items() if not ok)
    band = in_band(joints)
    return Verdict(not failed and band, not failed, band, failed if band else (*failed, "outside the sentinels' band"))
