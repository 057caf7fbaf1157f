"""The embedded worlds' mover: parametric articulated motion for every claim. Facing +Z, left is +X, Y is up.

One function per action sets joint angles and the root's path; a style is laid over the limbs that it leaves free.
Legend: F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rl_motion.data.grammar import Claim
from rl_motion.data.pose import ANKLE, ELBOW, FIRST_BODY, HIP, KNEE, NECK, OUT, SHOULDER, SPINE, Array, Body, Pose

PERIOD = {"slow": 0.72, "": 0.46}
"""Seconds of one repetition."""
TURN_SECONDS = {"slow": 1.55, "": 1.08, "fast": 0.62}
SIT_SECONDS = {"slow": 1.64, "": 1.05, "fast": 0.55}
WALK_MPS = {"slow": 0.5, "": 1.0, "fast": 1.55}
RUN_MPS = {"slow": 2.2, "": 2.8, "fast": 3.4}
SIDESTEP_MPS = {"slow": 0.32, "": 0.6, "fast": 1.0}
SNEAK_MPS = {"slow": 0.35, "": 0.8}
MARCH_SECONDS = {"slow": 1.3, "": 0.92, "fast": 0.66}
"""Of two steps."""


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
    pose.x_F += np.cumsum(speed_F * np.sin(pose.yaw_F)) / pose.body.fps
    pose.z_F += np.cumsum(speed_F * np.cos(pose.yaw_F)) / pose.body.fps
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
    pose.yaw_F += sign * np.cumsum(speed / radius * pose.ramp(-0.1, 0.3)) / pose.body.fps
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
    pose.x_F += sign * np.cumsum(speed_F) / pose.body.fps
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


def _clap(pose: Pose, claim: Claim) -> None:
    together = pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    forward, apart, inward = pose.vary(1.15, 0.06), pose.vary(0.5, 0.1), pose.vary(0.82, 0.04)
    ready = pose.ramp(-0.3, 0.3)
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 0, -forward * ready)
        pose.add(SHOULDER[side], 1, OUT[side] * (apart - (apart + inward - 0.3) * together) * ready)
        pose.add(ELBOW[side], 0, -0.35 * ready)


def _reach(pose: Pose, claim: Claim) -> None:
    out = pose.vary(1.5, 0.05) * pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 0, -out)


def _lean(pose: Pose, claim: Claim) -> None:
    lean = pose.vary(0.95, 0.06) * pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    for joint in SPINE:
        pose.add(joint, 2, -OUT[claim.side] * lean / 3)


def _twist(pose: Pose, claim: Claim) -> None:
    twist = pose.vary(0.85, 0.08) * pose.bumps(pose.start(), pose.vary(PERIOD[claim.speed], 0.05), claim.count)
    for joint in SPINE:
        pose.add(joint, 1, OUT[claim.side] * twist / 3)


def _march(pose: Pose, claim: Claim) -> None:
    cycle = pose.vary(MARCH_SECONDS[claim.speed], 0.05)
    phase = 2 * np.pi * pose.t_F / cycle + pose.rng.choice([0.0, np.pi])
    angle, ready = pose.vary(1.25, 0.08), pose.ramp(-0.1, 0.3)
    for leg, shift in (("left", 0.0), ("right", np.pi)):
        lift = angle * ready * np.maximum(np.sin(phase + shift), 0)
        pose.add(HIP[leg], 0, -lift)
        pose.add(KNEE[leg], 0, 1.2 * lift)
        pose.add(SHOULDER[leg], 0, 0.3 * ready * np.sin(phase + shift))


def _lunge(pose: Pose, claim: Claim) -> None:
    side, down = _limb(pose, claim)
    depth = pose.vary(1.25, 0.06) * down
    other = "right" if side == "left" else "left"
    pose.add(HIP[side], 0, -depth)
    pose.add(KNEE[side], 0, 1.1 * depth)
    pose.add(HIP[other], 0, 0.4 * depth)
    pose.add(KNEE[other], 0, 0.5 * depth)


def _heel(pose: Pose, claim: Claim) -> None:
    side, up = _limb(pose, claim)
    pose.add(KNEE[side], 0, pose.vary(1.95, 0.06) * up)
    pose.add(HIP[side], 0, 0.1 * up)


def _sneak(pose: Pose, claim: Claim) -> None:
    _bent(pose)
    speed = pose.vary(SNEAK_MPS[claim.speed], 0.08) * (-1 if claim.side == "backward" else 1)
    _gait(pose, _travel(pose, speed), pose.vary({"slow": 1.2, "": 1.0}[claim.speed], 0.05), 0.4, 0.3)


ACTIONS: dict[str, Callable[[Pose, Claim], None]] = {
    "walk": _walk, "run": _run, "jump": _jump, "squat": _squat, "bow": _bow, "jack": _jack,
    "sidestep": _sidestep, "turn": _quarter_turn, "sit": _sit, "arms": _arms, "wave": _wave, "kick": _kick,
    "punch": _punch, "knee": _knee, "raise": _raise, "circle": _circle, "spin": _spin,
    "clap": _clap, "reach": _reach, "lean": _lean, "twist": _twist, "march": _march, "lunge": _lunge, "heel": _heel,
    "sneak": _sneak,
}  # fmt: skip


def _wings(pose: Pose) -> None:
    """Both arms held out to the sides."""
    for side in ("left", "right"):
        pose.set(SHOULDER[side], (0.0, 0.0, OUT[side] * pose.vary(1.5, 0.06)))
        pose.set(ELBOW[side], (0.0, 0.0, 0.0))


def _hips(pose: Pose) -> None:
    """Hands on the hips, elbows out."""
    for side in ("left", "right"):
        pose.set(SHOULDER[side], (0.12, 0.0, OUT[side] * pose.vary(0.8, 0.06)))
        pose.set(ELBOW[side], (0.0, 0.0, -OUT[side] * pose.vary(1.65, 0.05)))


def _bent(pose: Pose) -> None:
    """Knees bent all the time; the ankles keep the feet flat."""
    bend = pose.vary(0.68, 0.06)
    for leg in ("left", "right"):
        pose.add(HIP[leg], 0, -bend)
        pose.add(KNEE[leg], 0, 2 * bend)
        pose.add(ANKLE[leg], 0, -bend)


STYLES: dict[str, Callable[[Pose], None]] = {"wings": _wings, "hips": _hips, "bent": _bent}


def perform(claim: Claim, frames: int, rng: np.random.Generator, body: Body = FIRST_BODY) -> Array:
    """Joints [F, 22, 3] in metres of one motion that does what the claim says.

    Timing, size and what the claim leaves open vary with `rng`.
    """
    pose = Pose(np.arange(frames) / body.fps, rng, body)
    ACTIONS[claim.action](pose, claim)
    if claim.style:
        STYLES[claim.style](pose)
    pose.add(NECK, 0, {"": 0.0, "down": 0.65, "up": -0.65}[claim.gaze] * pose.vary(1.0, 0.12))
    # A person is never quite symmetric nor quite still.
    pose.angle_FJ3 += rng.normal(0, 0.03, (1, 22, 3))
    drift = np.sin(2 * np.pi * (pose.t_F[:, None, None] * rng.uniform(0.3, 0.8, (1, 22, 3)) + rng.random((1, 22, 3))))
    pose.angle_FJ3 += 0.02 * drift
    for side in ("left", "right"):
        pose.add(SHOULDER[side], 2, OUT[side] * pose.vary(0.15, 0.5))
        pose.add(ELBOW[side], 0, -pose.vary(0.2, 0.5))
    return pose.joints()
