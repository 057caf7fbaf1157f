"""The oracle's checks of where the body goes: walks, runs, circles, turns, jumps, marches, seats.

Legend: F frames, J joints. Metres, degrees, seconds.
"""

from __future__ import annotations

import numpy as np

from rl_motion.data.oracle_measures import Measures, bumps
from rl_motion.data.oracle_reading import Reading
from rl_motion.data.oracle_rules import (
    LOW_PELVIS,
    Check,
    counted,
    duration,
    feet_down,
    knees_bent,
    overhead,
    pace,
    stays,
    upright,
)


def _jump(m: Measures, reading: Reading) -> dict[str, bool]:
    lowest = m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
    found = bumps(lowest - np.percentile(lowest, 5), 0.09, 0.05, m.fps)
    ahead = float(m.root_F3[-1, 2] - m.root_F3[0, 2])
    apart = float(np.abs(m.own_FJ3[:, 7, 0] - m.own_FJ3[:, 8, 0]).max())
    return {
        **counted(found, reading),
        "direction": ahead > 0.22 * max(found.count, 1) if reading.side == "forward" else abs(ahead) < 0.22,
        "feet together": apart < 0.45,
        "legs level": float(np.abs(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2]).max()) < 0.3,
        "faces ahead": abs(m.turned) < 45,
    }  # fmt: skip


def _sit(m: Measures, reading: Reading) -> dict[str, bool]:
    drop = m.root_F3[:3, 1].mean() - m.root_F3[:, 1]
    return {
        "sits": float(drop[-3:].mean()) > 0.15, "depth": _depth(reading.extent, float(drop[-3:].mean())),
        "stays low": float(drop.max() - drop[-1]) < 0.08, "trunk": float(m.trunk_F.max()) < 45,
        "speed": duration(drop, reading.speed, m.fps, 0.5), "faces ahead": abs(m.turned) < 45,
    }  # fmt: skip


def _depth(extent: str, drop: float) -> bool:
    return {"": True, "high": drop < 0.27, "low": drop > 0.41}[extent]


def _turning(m: Measures, reading: Reading, low: float, high: float) -> dict[str, bool]:
    sign = {"left": 1, "counterclockwise": 1, "right": -1, "clockwise": -1}.get(reading.side, np.sign(m.turned))
    return {
        "direction": np.sign(m.turned) == sign, "angle": low < abs(m.turned) < high,
        "in place": m.spread < 0.25,
        "speed": duration(m.yaw_F, reading.speed, m.fps), "upright": upright(m), "feet down": feet_down(m),
        "arms": not any(overhead(m, side)[1] for side in ("left", "right")),
    }  # fmt: skip


def _turn(m: Measures, reading: Reading) -> dict[str, bool]:
    return _turning(m, reading, 55, 130)


def _spin(m: Measures, reading: Reading) -> dict[str, bool]:
    return _turning(m, reading, *{"half": (140.0, 230.0), "full": (280.0, 440.0), "": (140.0, 440.0)}[reading.extent])


def _circle(m: Measures, reading: Reading) -> dict[str, bool]:
    sign = {"counterclockwise": 1, "clockwise": -1}.get(reading.side, np.sign(m.turned))
    radius = m.path / max(abs(np.radians(m.turned)), 1e-6)
    size = {"": 0.2 < radius < 1.5, "small": 0.2 < radius < 0.48, "large": 0.76 < radius < 1.5}[reading.extent]
    return {
        "direction": np.sign(m.turned) == sign, "turns": abs(m.turned) > 30, "size": size,
        "walks": 0.25 < m.forward_mps < 2.0,
        "speed": pace(reading.speed, m.forward_mps, 0.73, 1.27), "upright": upright(m),
    }  # fmt: skip


def _walk(m: Measures, reading: Reading) -> dict[str, bool]:
    speed = m.forward_mps * (-1 if reading.side == "backward" else 1)
    return {
        "direction": speed > 0.25, "straight": abs(m.turned) < 30,
        "speed": pace(reading.speed, speed, 0.73, 1.27),
        "not running": speed < 1.88, "along": abs(m.root_F3[-1, 2]) > abs(m.root_F3[-1, 0]),
        "upright": upright(m),
        "tall": not _low(m),
        "steps": float(np.ptp(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2])) > 0.15,
        "never airborne": float(m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1).max()) < 0.12,
    }  # fmt: skip


def _run(m: Measures, reading: Reading) -> dict[str, bool]:
    return {
        "speed": m.forward_mps > 1.88 and pace(reading.speed, m.forward_mps, 2.5, 3.1),
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
        "speed": pace(reading.speed, speed, 0.46, 0.8), "faces ahead": abs(m.turned) < 30,
        "upright": upright(m),
    }  # fmt: skip


def _low(m: Measures) -> bool:
    return float(np.median(m.joints_FJ3[:, 0, 1])) < LOW_PELVIS


def _sneak(m: Measures, reading: Reading) -> dict[str, bool]:
    speed = m.forward_mps * (-1 if reading.side == "backward" else 1)
    return {
        "low": knees_bent(m), "direction": speed > 0.15, "straight": abs(m.turned) < 30,
        "speed": pace(reading.speed, speed, 0.56, 9.0), "not running": speed < 1.5,
        "along": abs(m.root_F3[-1, 2]) > abs(m.root_F3[-1, 0]), "trunk": float(m.trunk_F.max()) < 35,
        "steps": float(np.ptp(m.own_FJ3[:, 7, 2] - m.own_FJ3[:, 8, 2])) > 0.1,
        "never airborne": float(m.joints_FJ3[:, [7, 8, 10, 11], 1].min(1).max()) < 0.12,
    }  # fmt: skip


def _march(m: Measures, reading: Reading) -> dict[str, bool]:
    lift = [m.joints_FJ3[:, knee, 1] - m.joints_FJ3[:, hip, 1] for hip, knee in ((1, 4), (2, 5))]
    left, right = (bumps(signal, -0.25, -0.32, m.fps) for signal in lift)
    other_low = all(lift[1 - leg][p] < -0.3 for leg, found in enumerate((left, right)) for p in found.peaks)
    steps = np.diff(sorted(left.peaks + right.peaks)) / m.fps
    seconds = float(steps.mean()) if len(steps) else 0.0
    return {
        "both knees": left.count > 0 and right.count > 0 and abs(left.count - right.count) <= 1, **stays(m),
        "speed": {"": True, "slow": seconds > 0.555, "fast": 0 < seconds < 0.395}[reading.speed],
        "in turn": other_low, "stands": float(m.drop_F.max()) < 0.15,
        "trunk": float(m.trunk_F.max()) < 35,
    }  # fmt: skip


TRAVEL: dict[str, Check] = {
    "walk": _walk, "run": _run, "jump": _jump, "sidestep": _sidestep, "turn": _turn, "sit": _sit, "circle": _circle,
    "spin": _spin, "sneak": _sneak, "march": _march,
}  # fmt: skip
