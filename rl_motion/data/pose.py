"""The body of the embedded worlds' mover: joint angles and a root path over time, turned into 22 joints.

Facing +Z, left is +X, Y is up; joint angles in radians; the rest pose stands with hanging arms.
Legend: F frames, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rl_motion.motion.skeleton import STANDING_OFFSETS_J3, fk_local

Array = NDArray[np.float64]
HIP, KNEE, ANKLE = {"left": 1, "right": 2}, {"left": 4, "right": 5}, {"left": 7, "right": 8}
SHOULDER, ELBOW = {"left": 16, "right": 17}, {"left": 18, "right": 19}
OUT = {"left": 1.0, "right": -1.0}
SPINE, NECK = (3, 6, 9), 12


@dataclass(frozen=True, eq=False, slots=True)
class Body:
    """Who moves: the rest pose's offsets [22, 3] in metres (`fk_local`), and how many frames a second are taken."""

    offsets_J3: Array
    fps: float


FIRST_BODY = Body(np.asarray(STANDING_OFFSETS_J3, float), 20.0)
"""The first dialect's: HumanML3D's bone lengths at its rate."""


@dataclass
class Pose:
    """A motion while it is authored: angles about X, Y and Z per joint, root path, height above the floor."""

    t_F: Array
    rng: np.random.Generator
    body: Body
    angle_FJ3: Array = field(init=False)
    x_F: Array = field(init=False)
    z_F: Array = field(init=False)
    yaw_F: Array = field(init=False)
    air_F: Array = field(init=False)

    def __post_init__(self) -> None:
        """Start still, standing at the origin."""
        frames = len(self.t_F)
        self.angle_FJ3 = np.zeros((frames, 22, 3))
        self.x_F, self.z_F, self.yaw_F, self.air_F = (np.zeros(frames) for _ in range(4))

    def add(self, joint: int, axis: int, value: Array | float) -> None:
        """Add an angle about an axis (0 X, 1 Y, 2 Z) to a joint."""
        self.angle_FJ3[:, joint, axis] += value

    def set(self, joint: int, angles: tuple[float, float, float]) -> None:
        """Hold a joint at these angles about X, Y and Z, whatever was added before."""
        self.angle_FJ3[:, joint] = angles

    def vary(self, centre: float, spread: float) -> float:
        """`centre` up to a relative uniform spread."""
        return float(centre * (1 + spread * self.rng.uniform(-1, 1)))

    def start(self) -> float:
        """Seconds before the action begins."""
        return float(self.rng.uniform(0.05, 0.15))

    def ramp(self, start: float, seconds: float) -> Array:
        """0 to 1, smoothly, from `start` on."""
        u = np.clip((self.t_F - start) / seconds, 0, 1)
        return u * u * (3 - 2 * u)

    def bumps(self, start: float, period: float, count: int) -> Array:
        """`count` repetitions of 0 -> 1 -> 0, each `period` seconds long."""
        u = np.clip((self.t_F - start) / period, 0, count)
        return np.sin(np.pi * u) ** 2

    def joints(self) -> Array:
        """Joints [F, 22, 3] in metres, the lowest foot on the floor but for `air_F`."""
        angle_FJ3 = self.angle_FJ3.copy()
        angle_FJ3[:, 0, 1] += self.yaw_F
        root_F3 = np.stack([self.x_F, np.zeros(len(self.t_F)), self.z_F], -1)
        joints_FJ3 = np.asarray(fk_local(root_F3, _rotations(angle_FJ3), self.body.offsets_J3), float)
        floor_F = joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
        joints_FJ3[..., 1] += (self.air_F - floor_F)[:, None]
        return joints_FJ3


def _rotations(angle_FJ3: Array) -> Array:
    """Intrinsic Y, X, Z rotations [F, J, 3, 3]."""
    cx, cy, cz = (np.cos(angle_FJ3[..., a]) for a in range(3))
    sx, sy, sz = (np.sin(angle_FJ3[..., a]) for a in range(3))
    rows = [
        [cy * cz + sy * sx * sz, -cy * sz + sy * sx * cz, sy * cx],
        [cx * sz, cx * cz, -sx],
        [-sy * cz + cy * sx * sz, sy * sz + cy * sx * cz, cy * cx],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)
