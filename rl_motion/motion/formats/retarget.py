"""A recording of any skeleton -> the 22 joints in metres, Y up (NumPy).

What the file has is taken as it is; what it lacks is placed between its neighbours and said. Proportions stay the
body's own: features give every clip the same bones (`features.uniform_joints`).
Shape legend: F frames, J joints (22).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.motion.features import FPS
from rl_motion.motion.formats.axes import guess_frame, leg_length
from rl_motion.motion.formats.names import NEEDED, Convention, match_names
from rl_motion.motion.formats.recording import Recording, finite_frames, forward_kinematics, shown
from rl_motion.motion.resample import resample
from rl_motion.motion.rotations import FloatArray, qbetween, qrot
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, JOINT_NAMES, PARENTS, STANDING_OFFSETS_J3

_SAME_PLACE = 0.01
"""Joints nearer than this, in legs, are one."""
_ODD = 3.0
"""A bone so many times longer or shorter than it should be was matched wrongly."""
MOST_FPS = 1000.0
_INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}
_TRUNK = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
_SIDES = ("left", "right")
_LENGTHS_J = np.linalg.norm(HUMANML3D_OFFSETS_J3, axis=-1)


@dataclass(frozen=True, eq=False)
class Body:
    """The 22 joints of a recording.

    Attributes:
        joints_FJ3: metres, Y up; float64. Frames that the file has as NaN or infinite are NaN.
        fps: frames per second.
        guessed: what was assumed, a sentence each.
        wrong: what is odd, a sentence each.
    """

    joints_FJ3: FloatArray
    fps: float
    guessed: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


def to_body(recording: Recording, names: Convention | None = None, assumed_fps: float = FPS) -> Body:
    """Find the 22 joints, place the missing ones, and turn units and axes to ours.

    Args:
        recording: as a reader gives it.
        names: a map of one's own, tried first.
        assumed_fps: frames per second of a file that does not tell.

    Raises:
        UnknownJointsError: no map fits.
        UserError: no frame is finite, or joints coincide that must not.
    """
    match = match_names(recording, names)
    finite_F = finite_frames(recording.positions_FJ3[:, list(match.joints.values())])
    if not finite_F.any():
        raise UserError("got NaN or infinite numbers in every frame; want finite ones; export the file again")
    with np.errstate(invalid="ignore", over="ignore"):
        placed = _Placed(recording, match.joints, finite_F)
        joints_FJ3 = placed.all_joints()
        rest_J3 = _rest(recording, match.joints)
        frame = guess_frame(joints_FJ3[finite_F], rest_J3, "left_foot" in placed.found and "right_foot" in placed.found)
        joints_FJ3 = frame.apply(joints_FJ3)
    joints_FJ3[~finite_F] = np.nan
    fps = assumed_fps if recording.fps is None else recording.fps
    rate = () if recording.fps is not None else (f"{fps:g} frames per second: the file does not tell",)
    if fps > MOST_FPS:
        raise UserError(f"got {fps:g} frames per second; want at most {MOST_FPS:g}; mend the frame time")
    slow = (f"only {fps:g} frames per second: straight lines between them",) if fps < FPS else ()
    return Body(
        joints_FJ3,
        fps,
        (f"joint names of {match.says}", *match.notes, *recording.notes, *placed.notes, *frame.says, *rate),
        (*frame.wrong, *_odd_bones(joints_FJ3[finite_F]), *slow),
    )


def to_20_fps(body: Body) -> FloatArray:
    """Return a finite body's joints [F', 22, 3] at 20 fps: floor at y = 0, first root over the origin, facing +Z.

    Raises:
        UserError: a bone of length zero.
    """
    joints_FJ3 = resample(body.joints_FJ3, body.fps, float(FPS))
    lengths_FJ = HUMANML3D.bone_lengths(joints_FJ3)
    if not (lengths_FJ > 1e-6).all():
        joint = JOINT_NAMES[int(np.argmax((lengths_FJ <= 1e-6).any(axis=0))) + 1]
        raise UserError(f"got {joint} where its parent is; want bones with a length; name other joints with --names")
    return face_forward(joints_FJ3)


def face_forward(joints_FJ3: FloatArray) -> FloatArray:
    """Put the lowest joint on y = 0, the first root over the origin, and turn the first frame to +Z."""
    shift_3 = joints_FJ3[0, 0].copy()
    shift_3[1] = joints_FJ3[..., 1].min()
    right_hip, left_hip, right_shoulder, left_shoulder = (joints_FJ3[0, joint] for joint in HUMANML3D.facing)
    across_3 = right_hip - left_hip + right_shoulder - left_shoulder
    forward_3 = np.array([across_3[2], 0.0, -across_3[0]])
    if np.linalg.norm(forward_3) < 1e-9:
        turned_FJ3: FloatArray = joints_FJ3 - shift_3
        return turned_FJ3
    return qrot(qbetween(forward_3, np.array([0.0, 0.0, 1.0])), joints_FJ3 - shift_3)


class _Placed:
    """The 22 joints in the file's units and axes: those found, and the rest between them."""

    def __init__(self, recording: Recording, joints: Mapping[str, int], finite_F: NDArray[np.bool_]) -> None:
        self._recording = recording
        self._finite_F = finite_F
        self.found = dict(joints)
        self.notes: list[str] = []
        self._at = {joint: recording.positions_FJ3[:, index] for joint, index in joints.items()}
        legs = [
            self._apart(f"{side}_{a}", f"{side}_{b}")
            for side in _SIDES
            for a, b in (("hip", "knee"), ("knee", "ankle"))
        ]
        self._leg = sum(legs) / 2
        if not 0 < self._leg < np.inf:
            raise UserError("got legs of no length; want a body; name other joints with --names")
        self._scale = self._leg / (_LENGTHS_J[4] + _LENGTHS_J[7])

    def all_joints(self) -> FloatArray:
        """Return [F, 22, 3]."""
        self._drop_coinciding()
        self._trunk()
        self._drop_collars_in_the_trunk()
        for side in _SIDES:
            if f"{side}_collar" not in self._at:
                self._collar(side)
        for side in _SIDES:
            if f"{side}_foot" not in self._at:
                self._foot(side)
        return np.stack([self._at[joint] for joint in JOINT_NAMES], axis=1)

    def _apart(self, one: str, other: str) -> float:
        return self._median(self._at[one] - self._at[other])

    def _median(self, vector_F3: FloatArray) -> float:
        return float(np.median(np.linalg.norm(vector_F3[self._finite_F], axis=-1)))

    def _drop_coinciding(self) -> None:
        """Forget joints that are where their parent is: their bone would have no direction."""
        for joint in self._known():
            parent = JOINT_NAMES[PARENTS[_INDEX[joint]]]
            if parent not in self._at or not self._near(joint, self._at[parent]):
                continue
            if joint.endswith("shoulder"):
                del self._at[parent], self.found[parent]  # a collar of no length
                continue
            if joint in NEEDED:
                raise UserError(
                    f"got {shown(self._recording.names[self.found[joint]])} as {joint} where {parent} is; want bones "
                    "with a length; name other joints with --names"
                )
            del self._at[joint], self.found[joint]

    def _drop_collars_in_the_trunk(self) -> None:
        """Forget collars that begin where the spine goes on, as CMU's do."""
        for joint in self._known():
            if joint.endswith("collar"):
                above = [self._recording.positions_FJ3[:, index] for index in self._ancestors(self.found[joint])]
                if any(self._near(joint, place_F3) for place_F3 in (*above, *(self._at[name] for name in _TRUNK))):
                    del self._at[joint], self.found[joint]

    def _known(self) -> list[str]:
        """The joints but the pelvis that the file has, parents first."""
        return [joint for joint in JOINT_NAMES[1:] if joint in self.found]

    def _near(self, joint: str, place_F3: FloatArray) -> bool:
        return self._median(self._at[joint] - place_F3) < _SAME_PLACE * self._leg

    def _ancestors(self, index: int) -> list[int]:
        """The joints above one, up to the root; none where the file has no hierarchy."""
        found = []
        while self._recording.parents and (index := self._recording.parents[index]) >= 0:
            found.append(index)
        return found

    def _trunk(self) -> None:
        """Place what is missing between pelvis and head along the file's own spine."""
        known = [joint for joint in _TRUNK if joint in self._at]
        if known[-1] not in {"neck", "head"}:
            raise UserError("got neck and head where the spine is; want one that is above it; name it with --names")
        for lower, upper in pairwise(known):
            missing = _TRUNK[_TRUNK.index(lower) + 1 : _TRUNK.index(upper)]
            if missing:
                self._between(lower, missing, upper)
        if "head" not in self._at:
            along_F3 = self._at["neck"] - self._at["spine3"]
            size_F1 = np.maximum(np.linalg.norm(along_F3, axis=-1, keepdims=True), 1e-12)
            self._at["head"] = self._at["neck"] + along_F3 / size_F1 * (_LENGTHS_J[_INDEX["head"]] * self._scale)
            self.notes.append("no head: placed beyond the neck")

    def _between(self, lower: str, missing: Sequence[str], upper: str) -> None:
        path = self._path(lower, upper)
        if len(path) - 2 == len(missing):
            self._at.update(zip(missing, path[1:-1], strict=True))
            return
        along = np.cumsum([0.0, *(self._median(after - before) for before, after in pairwise(path))])
        chain = [*missing, upper]
        shares = np.cumsum([_LENGTHS_J[_INDEX[joint]] for joint in chain])[:-1] / sum(
            _LENGTHS_J[_INDEX[joint]] for joint in chain
        )
        for joint, share in zip(missing, shares, strict=True):
            at = share * along[-1]
            segment = min(int(np.searchsorted(along, at, side="right")) - 1, len(path) - 2)
            within = (at - along[segment]) / max(along[segment + 1] - along[segment], 1e-12)
            self._at[joint] = path[segment] + within * (path[segment + 1] - path[segment])
        has = f"{len(path) - 2} joints" if len(path) != 3 else "1 joint"
        self.notes.append(f"{', '.join(missing)}: placed between {lower} and {upper}, where the file has {has}")

    def _path(self, lower: str, upper: str) -> list[FloatArray]:
        """The places of both and of the file's joints between them that are places of their own."""
        between = self._ancestors(self.found[upper])
        stop = self.found[lower]
        inner = between[: between.index(stop)][::-1] if stop in between else []
        path = [self._at[lower]]
        for index in inner:
            place_F3 = self._recording.positions_FJ3[:, index]
            if all(self._median(place_F3 - other) >= _SAME_PLACE * self._leg for other in (path[-1], self._at[upper])):
                path.append(place_F3)
        return [*path, self._at[upper]]

    def _collar(self, side: str) -> None:
        """Where a collar stands between spine3, neck and shoulder in a person who stands."""
        at = _standing()
        spine3, neck, shoulder, collar = (
            at[_INDEX[name]] for name in ("spine3", "neck", f"{side}_shoulder", f"{side}_collar")
        )
        basis = np.stack([shoulder - spine3, neck - spine3], axis=1)
        out, up = np.linalg.lstsq(basis, collar - spine3, rcond=None)[0]
        low_F3 = self._at["spine3"]
        self._at[f"{side}_collar"] = (
            low_F3 + out * (self._at[f"{side}_shoulder"] - low_F3) + up * (self._at["neck"] - low_F3)
        )
        self.notes.append(f"no {side} collar: placed between spine3, neck and shoulder")

    def _foot(self, side: str) -> None:
        """Toes before the ankle, where the body faces."""
        ankle_F3 = self._at[f"{side}_ankle"]
        shin_F3 = _unit(self._at[f"{side}_knee"] - ankle_F3)
        across_F3 = self._at["left_hip"] - self._at["right_hip"]
        front_F3: FloatArray = np.cross(across_F3, self._at["neck"] - self._at["pelvis"])
        forward_F3 = _unit(front_F3 - (front_F3 * shin_F3).sum(-1, keepdims=True) * shin_F3)
        length = _LENGTHS_J[_INDEX[f"{side}_foot"]] * self._scale
        self._at[f"{side}_foot"] = ankle_F3 + length * _unit(0.93 * forward_F3 - 0.35 * shin_F3)
        self.notes.append(f"no {side} toes: placed before the ankle")


def _unit(vector_F3: FloatArray) -> FloatArray:
    unit: FloatArray = vector_F3 / np.maximum(np.linalg.norm(vector_F3, axis=-1, keepdims=True), 1e-12)
    return unit


def _standing() -> FloatArray:
    """The joints [22, 3] of a person who stands."""
    at = np.zeros((len(JOINT_NAMES), 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        at[joint] = at[parent] + STANDING_OFFSETS_J3[joint]
    return at


def _rest(recording: Recording, joints: Mapping[str, int]) -> FloatArray | None:
    """The found joints [22, 3] of the skeleton at rest, the others where the pelvis is; None where there is none."""
    if recording.offsets_J3 is None:
        return None
    eye = np.broadcast_to(np.eye(3), (1, len(recording.names), 3, 3))
    all_J3 = forward_kinematics(recording.parents, recording.offsets_J3[None], eye)[0]
    neck = joints.get("neck", joints.get("head", 0))
    found = [joints.get(joint, neck if joint == "neck" else joints["pelvis"]) for joint in JOINT_NAMES]
    rest_J3: FloatArray = all_J3[found]
    return rest_J3


def _odd_bones(joints_FJ3: FloatArray) -> list[str]:
    """Bones whose length is out of all proportion to the legs'."""
    ratios_J = np.median(HUMANML3D.bone_lengths(joints_FJ3), axis=0) / _LENGTHS_J[1:]
    ratios_J = ratios_J * (_LENGTHS_J[4] + _LENGTHS_J[7]) / leg_length(joints_FJ3)
    odd = [(JOINT_NAMES[bone + 1], ratio) for bone, ratio in enumerate(ratios_J) if not 1 / _ODD < ratio < _ODD]
    return [
        f"the bone to {joint} is {ratio:.2g} times as long as usual: is it matched rightly?" for joint, ratio in odd
    ]
