"""A recording as a motion file has it: any skeleton, in the file's own units and axes (NumPy).

A local rotation of joint j turns everything BEYOND j, as in BVH and SMPL (`skeleton.fk_local`'s convention).
Shape legend: F frames, J joints of the file's skeleton, the ends of its last bones with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.motion.rotations import FloatArray
from rl_motion.tracking.files import read_whole

MAX_BYTES = 256 * 1024 * 1024
"""Of a file: ten minutes of 60 joints at 120 frames per second have less."""
MAX_JOINTS = 1000
"""Of a skeleton: hands and faces have hundreds."""
MAX_PLACES = 20_000_000
"""Joints times frames: three quarters of an hour of 60 joints at 120 frames per second. Each takes 120 bytes, and a
file may hold a number a frame for a thousand joints."""
_FRAMES_AT_ONCE = 4096
"""World rotations need not all be in memory."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a motion file holds.

    Attributes:
        names: of the joints, each once; a parent comes before its children.
        parents: index of each joint's parent, -1 for the one root; () where the file has positions alone.
        positions_FJ3: of every joint in the world, in the file's units and axes; frames may be NaN.
        fps: frames per second; None where the file does not say.
        offsets_J3: of each joint from its parent, in the parent's frame at rest; None where the file has none.
        rotations_FJ33: local rotations; None where the file has positions alone.
        ends: which joints are ends of bones (`End Site`), not joints of their own.
        notes: what the reader had to decide, a sentence each.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    positions_FJ3: FloatArray
    fps: float | None
    offsets_J3: FloatArray | None = None
    rotations_FJ33: FloatArray | None = None
    ends: frozenset[int] = frozenset()
    notes: tuple[str, ...] = field(default=())


def forward_kinematics(parents: Sequence[int], offsets_FJ3: FloatArray, rotations_FJ33: FloatArray) -> FloatArray:
    """Return the positions [F, J, 3] of any tree whose parents come before their children.

    Args:
        parents: -1 for a root, whose offset is its place in the world.
        offsets_FJ3: of each joint in its parent's frame, [F, J, 3] or [1, J, 3].
        rotations_FJ33: local rotations [F, J, 3, 3].
    """
    frames = len(rotations_FJ33)
    positions = np.empty(rotations_FJ33.shape[:-1], dtype=np.float64)
    for start in range(0, frames, _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        offsets = offsets_FJ3 if len(offsets_FJ3) == 1 else offsets_FJ3[part]
        world = np.array(rotations_FJ33[part])
        for joint, parent in enumerate(parents):
            positions[part, joint] = offsets[:, joint]
            if parent >= 0:
                moved_F31 = world[:, parent] @ offsets[:, joint, :, None]
                positions[part, joint] = positions[part, parent] + moved_F31[..., 0]
                world[:, joint] = world[:, parent] @ world[:, joint]
    return positions


def finite_frames(positions_FJ3: FloatArray) -> NDArray[np.bool_]:
    """Return which frames [F] have no NaN and no infinity."""
    return np.asarray(np.isfinite(positions_FJ3).reshape(len(positions_FJ3), -1).all(axis=1), dtype=np.bool_)


def axis_rotation(axis: int, radians_F: FloatArray) -> FloatArray:
    """Return matrices [F, 3, 3] that turn by these angles about x (0), y (1) or z (2), right-handed."""
    cos, sin = np.cos(radians_F), np.sin(radians_F)
    after, last = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(radians_F), 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., after, after] = matrix[..., last, last] = cos
    matrix[..., after, last], matrix[..., last, after] = -sin, sin
    return matrix


def read_text(path: Path) -> str:
    """The text of a motion file.

    Raises:
        UserError: it cannot be read, is too large, or is no UTF-8 text.
    """
    try:
        content = read_whole(path, MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"got {path}, which cannot be read ({error.strerror}); want a file of at most {MAX_BYTES >> 20} MiB that "
            "may be read; check it, or cut it into parts"
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"got {path}, which is not UTF-8 at byte {error.start}; want text in UTF-8; it is another kind of file, "
            "or damaged: export it again"
        ) from None
    if "\0" in text:
        raise UserError(f"got {path} with zero bytes in it; want text; it is another kind of file: export it again")
    return text


def refuse_too_large(path: Path, joints: int, frames: int) -> None:
    """Refuse what would take gigabytes once it is read.

    Raises:
        UserError: it has more than `MAX_PLACES`.
    """
    if joints * frames > MAX_PLACES:
        raise UserError(
            f"got {path} with {joints} joints in {frames} frames; want at most {MAX_PLACES // joints} frames with so "
            "many joints; cut it into parts, or export the body alone"
        )


def shown(text: object) -> str:
    """Foreign text in a message: quoted, without control characters, cut where it is long."""
    whole = str(text)
    return repr(whole if len(whole) <= 60 else whole[:57] + "...")
