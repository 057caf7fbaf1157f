"""The embedded world's mover: parametric articulated motion for every claim, 22 joints at 20 fps.

Facing +Z, left is +X, Y is up; joint angles in radians; the rest pose stands with hanging arms.
Legend: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rl_motion.data.grammar import Claim
from rl_motion.motion.skeleton import STANDING_OFFSETS_J3, fk_local

FPS = 20.0
Array = NDArray[np.float64]
HIP, KNEE, ANKLE = {"left": 1, "right": 2}, {"left": 4, "right": 5}, {"left": 7, "right": 8}
SHOULDER, ELBOW = {"left": 16, "right": 17}, {"left": 18, "right": 19}
OUT = {"left": 1.0, "right": -1.0}
SPINE, NECK = (3, 6, 9), 12
PERIOD = {"slow": 0.72, "": 0.46}
"""Seconds of one repetition."""
TURN_SECONDS = {"slow": 1.55, "": 1.08, "fast": 0.62}
SIT_SECONDS = {"slow": 1.64, "": 1.05, "fast": 0.55}
WALK_MPS = {"slow": 0.5, "": 1.0, "fast": 1.55}
RUN_MPS = {"slow": 2.2, "": 2.8, "fast": 3.4}
SIDESTEP_MPS = {"slow": 0.32, "": 0.6, "fast": 1.0}


@dataclass
class Pose:
    """A motion while it is authored: angles about X, Y and Z per joint, root path, height above the floor."""

    t_F: Array
    rng: np.random.Generator
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


def _turn(pose: Pose, side: str, radians: float, speed: str) -> None:
    sign = 1.0 if side in ("left", "counterclockwise") else -1.0
    seconds = pose.vary(TURN_SECONDS[speed], 0.05)
    progress = pose.ramp(pose.start(), seconds)
    pose.yaw_F += sign * radians * progress
    steps = np.sin(2 * np.pi * pose.t_F / 0.5) * np.gradient(progress, pose.t_F) * seconds / 1.5
    for leg, phase in (("left", 1.0), ("right", -1.0)):
        lift = np.maximum(phase * steps, 0)
        pose.add(HIP[leg], 0, -0.3 * lift)
        pose.add(KNEE[leg], 0, 0.6 * lift)


def _gait(pose: Pose, speed_F: Array, cycle: float, lift: float, arms: float) -> None:
    """Legs and arms for a signed forward speed [m/s]; `cycle` seconds per two steps."""
    phase = 2 * np.pi * pose.t_F / cycle + pose.rng.choice([0.0, np.pi])
    swing = np.arcsin(np.clip(speed_F * cycle / 4 / 0.85, -0.8, 0.8))
    strength = np.clip(np.abs(speed_F), 0, 1)
    for leg, shift in (("left", 0.0), ("right", np.pi)):
        moving = np.cos(phase + shift)
        pose.add(HIP[leg], 0, -swing * np.sin(phase + shift) - 0.5 * lift * strength * np.maximum(moving, 0))
        pose.add(KNEE[leg], 0, (0.12 + lift * np.maximum(moving, 0)) * strength)
        pose.add(SHOULDER[leg], 0, arms * swing * np.sin(phase + shift))
        pose.add(ELBOW[leg], 0, -0.25 * strength)


def _travel(pose: Pose, speed: float) -> Array:
    """Speed over time with a short start, and the root path along the current heading."""
    speed_F = speed * pose.ramp(-0.1, 0.3)
    pose.x_F += np.cumsum(speed_F * np.sin(pose.yaw_F)) / FPS
    pose.z_F += np.cumsum(speed_F * np.cos(pose.yaw_F)) / FPS
    return speed_F


def _walk(pose: Pose, claim: Claim) -> None:
    speed = pose.vary(WALK_MPS[claim.speed], 0.1) * (-1 if claim.side == "backward" else 1)
    _gait(
        pose,
        _travel(pose, speed),
        pose.vary({"slow": 1.2, "": 1.0, "fast": 0.8}[claim.speed], 0.05),
        0.5,
        0.8,
    )


def _run(pose: Pose, claim: Claim) -> None:
    speed_F = _travel(pose, pose.vary(RUN_MPS[claim.speed], 0.04))
    cycle = pose.vary(0.6, 0.05)
    _gait(pose, speed_F, cycle, 1.3, 1.2)
    pose.air_F += 0.05 * np.abs(np.sin(2 * np.pi * pose.t_F / cycle))
    for side in ("left", "right"):
        pose.add(ELBOW[side], 0, -1.1)
    pose.add(SPINE[0], 0, 0.15)


def _circle(pose: Pose, claim: Claim) -> None:
    speed = pose.vary(WALK_MPS[claim.speed], 0.08)
    radius = pose.vary({"small": 0.36, "": 0.6, "large": 1.0}[claim.extent], 0.1)
    sign = 1.0 if (claim.side or pose.rng.choice(["clockwise", "counterclockwise"])) == "counterclockwise" else -1.0
    pose.yaw_F += sign * np.cumsum(speed / radius * pose.ramp(-0.1, 0.3)) / FPS
    _gait(
        pose,
        _travel(pose, speed),
        pose.vary({"slow": 1.2, "": 1.0, "fast": 0.8}[claim.speed], 0.05),
        0.5,
        0.8,
    )


def _spin(pose: Pose, claim: Claim) -> None:
    side = claim.side or str(pose.rng.choice(["clockwise", "counterclockwise"]))
    _turn(pose, side, pose.vary(np.pi if claim.extent == "half" else 2 * np.pi, 0.06), claim.speed)
    for arm in ("left", "right"):
        pose.add(SHOULDER[arm], 2, OUT[arm] * 0.35)


def _quarter_turn(pose: Pose, claim: Claim) -> None:
    _turn(pose, claim.side, pose.vary(np.pi / 2, 0.1), claim.speed)


def _sidestep(pose: Pose, claim: Claim) -> None:
    sign = OUT[claim.side]
    speed_F = pose.vary(SIDESTEP_MPS[claim.speed], 0.07) * pose.ramp(-0.1, 0.3)
    pose.x_F += sign * np.cumsum(speed_F) / FPS
    cycle = pose.vary({"slow": 0.9, "": 0.7, "fast": 0.6}[claim.speed], 0.05)
    phase = 2 * np.pi * pose.t_F / cycle
    spread = np.clip(speed_F * cycle / 4 / 0.85, 0, 0.3)
    for leg, lead in (("left", sign), ("right", -sign)):
        pose.add(HIP[leg], 2, OUT[leg] * spread * (1 - np.cos(phase)))
        lift = np.maximum(lead * np.sin(phase), 0) * np.clip(speed_F * 2, 0, 1)
        pose.add(HIP[leg], 0, -0.25 * lift)
        pose.add(KNEE[leg], 0, 0.5 * lift)


def _jump(pose: Pose, claim: Claim) -> None:
    start, period, height = pose.start(), pose.vary(0.55, 0.05), pose.vary(0.24, 0.15)
    u = np.clip((pose.t_F - start) / period, 0, claim.count)
    cycle = u - np.floor(np.minimum(u, claim.count - 1e-9))
    flight = np.clip((cycle - 0.35) / 0.6, 0, 1)
    pose.air_F += height * np.sin(np.pi * flight)
    crouch = np.sin(np.pi * np.clip(cycle / 0.4, 0, 1)) ** 2
    for leg in ("left", "right"):
        pose.add(HIP[leg], 0, -0.7 * crouch)
        pose.add(KNEE[leg], 0, 1.3 * crouch)
        pose.add(SHOULDER[leg], 0, 0.5 * crouch - 0.7 * np.sin(np.pi * flight))
    if claim.side == "forward":
        reach = pose.vary(0.4, 0.1)
        pose.z_F += reach * (np.floor(np.minimum(u, claim.count - 1e-9)) + flight)


def _squat(pose: Pose, claim: Claim) -> None:
    depth = pose.vary(1.15, 0.1) * pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    for leg in ("left", "right"):
        pose.add(HIP[leg], 0, -depth)
        pose.add(KNEE[leg], 0, 1.9 * depth)
        pose.add(SHOULDER[leg], 0, -0.8 * depth)
    pose.add(SPINE[0], 0, 0.3 * depth)


def _bow(pose: Pose, claim: Claim) -> None:
    bend = pose.vary(1.15, 0.1) * pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    for joint in SPINE:
        pose.add(joint, 0, bend / 3)


def _jack(pose: Pose, claim: Claim) -> None:
    period = pose.vary({"slow": 0.75, "": 0.52}[claim.speed], 0.05)
    open_ = pose.bumps(pose.start(), period, claim.count)
    lift = pose.vary(2.7, 0.05)
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 2, OUT[side] * lift * open_)
        pose.add(HIP[side], 2, OUT[side] * 0.42 * open_)
    pose.air_F += 0.16 * open_ * (1 - open_)


def _sit(pose: Pose, claim: Claim) -> None:
    depth = {"high": 1.12, "": 1.45, "low": 1.9}[claim.extent]
    down = pose.vary(depth, 0.05) * pose.ramp(pose.start(), pose.vary(SIT_SECONDS[claim.speed], 0.05))
    for leg in ("left", "right"):
        pose.add(HIP[leg], 0, -down)
        pose.add(KNEE[leg], 0, 1.03 * down)
        pose.add(SHOULDER[leg], 0, -0.35 * down)
    pose.add(SPINE[0], 0, 0.12 * down)
    pose.z_F -= 0.25 * down / 1.45


def _arms(pose: Pose, claim: Claim) -> None:
    up = pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    lift, outward = pose.vary(2.75, 0.05), pose.rng.random() < 0.5
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 2 if outward else 0, (OUT[side] if outward else -1.0) * lift * up)


def _limb(pose: Pose, claim: Claim) -> tuple[str, Array]:
    """The side that acts and its repetitions."""
    side = claim.side or str(pose.rng.choice(["left", "right"]))
    return side, pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)


def _wave(pose: Pose, claim: Claim) -> None:
    side = claim.side or str(pose.rng.choice(["left", "right"]))
    start, period = 0.6 * pose.start(), pose.vary(PERIOD[claim.speed], 0.05)
    swing = pose.bumps(start + 0.24, period, claim.count)
    end = start + 0.37 + period * claim.count
    up = pose.ramp(start - 0.05, 0.28) * (1 - pose.ramp(end, 0.3))
    pose.add(SHOULDER[side], 2, OUT[side] * pose.vary(1.35, 0.05) * up)
    # From 25 degrees inside the vertical to 45 degrees outside and back, once per wave.
    pose.add(ELBOW[side], 2, OUT[side] * (np.pi - 1.35 + 0.45 - pose.vary(1.25, 0.06) * swing) * up)


def _kick(pose: Pose, claim: Claim) -> None:
    side, kick = _limb(pose, claim)
    pose.add(HIP[side], 0, -pose.vary(1.3, 0.08) * kick)
    pose.add(KNEE[side], 0, 0.9 * np.sqrt(kick) * (1 - kick))
    pose.add(SPINE[0], 0, -0.15 * kick)


def _punch(pose: Pose, claim: Claim) -> None:
    side, reach = _limb(pose, claim)
    guard = pose.ramp(-0.3, 0.3)
    pose.add(SHOULDER[side], 0, (0.5 - pose.vary(1.95, 0.05) * reach) * guard)
    pose.add(ELBOW[side], 0, (-1.75 + 1.6 * reach) * guard)


def _knee(pose: Pose, claim: Claim) -> None:
    side, lift = _limb(pose, claim)
    angle = pose.vary(1.5, 0.08) * lift
    pose.add(HIP[side], 0, -angle)
    pose.add(KNEE[side], 0, 1.1 * angle)


def _raise(pose: Pose, claim: Claim) -> None:
    side, up = _limb(pose, claim)
    lift, outward = pose.vary(2.75, 0.05), pose.rng.random() < 0.5
    pose.add(SHOULDER[side], 2 if outward else 0, (OUT[side] if outward else -1.0) * lift * up)


ACTIONS: dict[str, Callable[[Pose, Claim], None]] = {
    "walk": _walk, "run": _run, "jump": _jump, "squat": _squat, "bow": _bow, "jack": _jack,
    "sidestep": _sidestep, "turn": _quarter_turn, "sit": _sit, "arms": _arms, "wave": _wave, "kick": _kick,
    "punch": _punch, "knee": _knee, "raise": _raise, "circle": _circle, "spin": _spin,
}  # fmt: skip


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


def perform(claim: Claim, frames: int, rng: np.random.Generator) -> Array:
    """Joints [F, 22, 3] in metres of one motion that does what the claim says.

    Style, timing and what the claim leaves open vary with `rng`.
    """
    pose = Pose(np.arange(frames) / FPS, rng)
    ACTIONS[claim.action](pose, claim)
    pose.add(NECK, 0, {"": 0.0, "down": 0.65, "up": -0.65}[claim.gaze] * pose.vary(1.0, 0.12))
    # A person is never quite symmetric nor quite still.
    pose.angle_FJ3 += rng.normal(0, 0.03, (1, 22, 3))
    drift = np.sin(2 * np.pi * (pose.t_F[:, None, None] * rng.uniform(0.3, 0.8, (1, 22, 3)) + rng.random((1, 22, 3))))
    pose.angle_FJ3 += 0.02 * drift
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 2, OUT[side] * pose.vary(0.15, 0.5))
        pose.add(ELBOW[side], 0, -pose.vary(0.2, 0.5))
    pose.angle_FJ3[:, 0, 1] += pose.yaw_F
    root_F3 = np.stack([pose.x_F, np.zeros(frames), pose.z_F], -1)
    joints_FJ3 = np.asarray(
        fk_local(root_F3, _rotations(pose.angle_FJ3), np.asarray(STANDING_OFFSETS_J3, float)), float
    )
    floor_F = joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
    joints_FJ3[..., 1] += (pose.air_F - floor_F)[:, None]
    return joints_FJ3
