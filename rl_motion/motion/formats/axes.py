"""Units and axes of a recording, guessed from the body in it: files rarely tell (NumPy).

A guess is said, with what it rests on: `Frame.says` and `Frame.wrong` go into the report of the file.
Shape legend: F frames, J joints (22, HumanML3D's), any units and axes until `apply`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import HUMANML3D_OFFSETS_J3, JOINT_NAMES

UNITS: Mapping[str, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "CMU (inch / 0.45)": 0.0254 / 0.45}
"""Metres of each unit that is looked for."""
_UP: Mapping[str, FloatArray] = {
    "Y": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]]),
    "Z": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]]),
    "-Y": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1.0]]),
    "-Z": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0.0]]),
}
"""The rotation to Y up, for each axis that may point up."""
_PRIOR = {"Y": 0.1, "Z": 0.05, "-Y": -0.3, "-Z": -0.3}
_AT_REST = 0.4
"""What it counts that a skeleton stands along an axis at rest: more than a body that lies, less than one that walks."""
_SURE = 0.3
_LEG_M = float(np.linalg.norm(HUMANML3D_OFFSETS_J3[[4, 7]], axis=-1).sum())
_HEIGHT_OF_LEG = 1.70 / _LEG_M
_HEIGHTS_M = (1.0, 2.4)
"""Of a person, from a small child to beyond the tallest: outside, the unit is none of those known."""
_BACKWARDS = -0.3

_INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}
_HIPS, _KNEES, _ANKLES, _TOES = (
    [_INDEX[f"left_{part}"], _INDEX[f"right_{part}"]] for part in ("hip", "knee", "ankle", "foot")
)


@dataclass(frozen=True, eq=False)
class Frame:
    """How to get from a file's frame of reference to ours.

    Attributes:
        scale: metres per unit.
        turn_33: to Y up; a reflection where the file is left-handed.
        says: what was guessed, a sentence each.
        wrong: what is odd about it, a sentence each.
    """

    scale: float
    turn_33: FloatArray
    says: tuple[str, ...]
    wrong: tuple[str, ...]

    def apply(self, joints_FJ3: FloatArray) -> FloatArray:
        """Return the joints in metres, Y up, right-handed."""
        moved: FloatArray = (joints_FJ3 @ self.turn_33.T) * self.scale
        return moved


def guess_frame(joints_FJ3: FloatArray, rest_J3: FloatArray | None, feet_known: bool) -> Frame:
    """Guess units, up axis and handedness.

    Args:
        joints_FJ3: the 22 joints, all finite.
        rest_J3: the skeleton at rest, where the file has one; then its up axis is not upside down.
        feet_known: whether the toes are the file's own, and so tell front from back.
    """
    scale, unit_says, unit_wrong = _unit(leg_length(joints_FJ3))
    turn_33, up_says, up_wrong = _up(joints_FJ3, rest_J3)
    says, wrong = [*unit_says, *up_says], [*unit_wrong, *up_wrong]
    if feet_known and _backwards(joints_FJ3 @ turn_33.T):
        turn_33 = np.diag([-1.0, 1.0, 1.0]) @ turn_33
        wrong.append("toes point backwards: axes are left-handed, or left and right are swapped; mirrored")
    return Frame(scale, turn_33, tuple(says), tuple(wrong))


def leg_length(joints_FJ3: FloatArray) -> float:
    """Thigh and shin, the mean of both sides, the median over frames, in the joints' unit."""
    thigh = np.linalg.norm(joints_FJ3[:, _KNEES] - joints_FJ3[:, _HIPS], axis=-1)
    shin = np.linalg.norm(joints_FJ3[:, _ANKLES] - joints_FJ3[:, _KNEES], axis=-1)
    return float(np.median((thigh + shin).mean(axis=-1)))


def _unit(leg: float) -> tuple[float, list[str], list[str]]:
    """Metres per unit: the unit that makes the legs most like a person's."""
    name = min(UNITS, key=lambda unit: abs(np.log(leg * UNITS[unit] / _LEG_M)))
    height_m = leg * UNITS[name] * _HEIGHT_OF_LEG
    if _HEIGHTS_M[0] <= height_m <= _HEIGHTS_M[1]:
        return UNITS[name], [f"unit {name}: the body is about {height_m:.2f} m tall"], []
    says = f"the legs are {leg:.4g} long: no unit makes that a person; scaled to {_LEG_M:.2f} m"
    return _LEG_M / leg, [], [says]


def _up(joints_FJ3: FloatArray, rest_J3: FloatArray | None) -> tuple[FloatArray, list[str], list[str]]:
    """The axis along which heads are over feet and the lowest joint stays where it is: the floor."""
    scores = {}
    candidates = [axis for axis in _UP if rest_J3 is None or not axis.startswith("-")]
    for axis in candidates:
        up_3 = _UP[axis][1]
        score = float((_upright(joints_FJ3) @ up_3).mean()) - _floor_spread(joints_FJ3 @ up_3, leg_length(joints_FJ3))
        if rest_J3 is not None and float((_upright(rest_J3[None]) @ up_3)[0]) > 0.7:
            score += _AT_REST
        scores[axis] = score + _PRIOR[axis]
    first, second, *_ = sorted(scores, key=lambda axis: -scores[axis])
    wrong = []
    if scores[first] - scores[second] < _SURE:
        wrong.append(f"up axis {first} is unsure, it may be {second}: the body hardly stands; look at the picture")
    if first.startswith("-"):
        wrong.append(f"axis {first[1:]} points down; turned over")
    return _UP[first], [f"up axis {first}: so the head is over the feet"], wrong


def _upright(joints_FJ3: FloatArray) -> FloatArray:
    """Unit vector [F, 3] from the ankles by way of the hips to the neck."""
    neck, hips = joints_FJ3[:, _INDEX["neck"]], joints_FJ3[:, _HIPS].mean(axis=1)
    along = (neck - hips) + (hips - joints_FJ3[:, _ANKLES].mean(axis=1))
    unit: FloatArray = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-12)
    return unit


def _floor_spread(heights_FJ: FloatArray, leg: float) -> float:
    """How much the lowest joint moves along an axis, in legs; 1 at most."""
    low, high = np.percentile(heights_FJ.min(axis=1), [10, 90])
    return min(1.0, float(high - low) / leg)


def _backwards(joints_FJ3: FloatArray) -> bool:
    """Whether the toes point away from where the body faces by its left and right (Y up)."""
    across_F3 = joints_FJ3[:, _HIPS[0]] - joints_FJ3[:, _HIPS[1]]
    trunk_F3 = joints_FJ3[:, _INDEX["neck"]] - joints_FJ3[:, _INDEX["pelvis"]]
    forward_F3 = np.cross(across_F3, trunk_F3)
    toes_F3 = (joints_FJ3[:, _TOES] - joints_FJ3[:, _ANKLES]).mean(axis=1)
    size_F = np.linalg.norm(forward_F3, axis=-1) * np.linalg.norm(toes_F3, axis=-1)
    return bool(np.median((forward_F3 * toes_F3).sum(-1) / np.maximum(size_F, 1e-12)) < _BACKWARDS)
