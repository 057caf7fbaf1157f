"""The oracle: does this motion do what this caption says? Rules on joints, nothing from the generator.

It reads the caption's own words, measures the motion (22 joints, metres, Y up) and compares. It is the judge
of the embedded world and never a reward. What changed in it after the packaged models had been trained stands in
docs/log.md; it moved no success rate on validation captions but that of twists.
Legend: F frames, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rl_motion.data.oracle_gestures import GESTURES
from rl_motion.data.oracle_measures import Array, measure
from rl_motion.data.oracle_reading import Reading, read
from rl_motion.data.oracle_rules import Check, gaze, on_floor, style
from rl_motion.data.oracle_travel import TRAVEL
from rl_motion.motion.sentinels import bone_drift_B, jerk_B

MAX_BONE_DRIFT = 0.10
"""Mean relative deviation of bone lengths."""
MAX_JERK = 900.0
"""Mean over joints and frames, m/s^3."""
CHECKS: dict[str, Check] = GESTURES | TRAVEL


@dataclass(frozen=True, slots=True)
class Verdict:
    """`success`: does what the caption says and stays in the sentinels' band; `reasons`: what fails."""

    success: bool
    claim: bool
    in_band: bool
    reasons: tuple[str, ...]


def in_band(joints_FJ3: Array) -> bool:
    """Whether bone lengths and jerk stay in the sentinels' calibrated band."""
    joints = torch.as_tensor(np.asarray(joints_FJ3), dtype=torch.float64)[None]
    length = torch.tensor([joints.shape[1]])
    return bool(bone_drift_B(joints, length) < MAX_BONE_DRIFT) and bool(jerk_B(joints, length) < MAX_JERK)


def check(caption: str, joints_FJ3: Array, fps: float = 20.0) -> Verdict:
    """Judge joints [F, 22, 3] (metres, Y up) against the caption. Non-finite motion fails."""
    return judge(read(caption), joints_FJ3, fps)


def judge(reading: Reading, joints_FJ3: Array, fps: float) -> Verdict:
    """Judge joints [F, 22, 3] (metres, Y up) against what a caption says, whoever read it."""
    joints = np.asarray(joints_FJ3, dtype=float)
    if not np.isfinite(joints).all():
        return Verdict(False, False, False, ("not finite",))
    measures = measure(joints, fps)
    checks = CHECKS[reading.action](measures, reading)
    checks |= {
        "gaze": gaze(measures, reading.gaze),
        "style": style(measures, reading.style),
        "on the floor": on_floor(measures),
    }
    failed = tuple(name for name, ok in checks.items() if not ok)
    band = in_band(joints)
    return Verdict(not failed and band, not failed, band, failed if band else (*failed, "outside the sentinels' band"))
