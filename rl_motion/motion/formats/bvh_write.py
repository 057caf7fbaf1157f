"""Rotations -> a BVH file (NumPy).

Metres, Y up, facing Z+: Blender's importer with its own settings (Y up, -Z forward, scale 1) shows a person of natural
size who faces the front view. Programs that take a unit for a centimetre (Maya, MotionBuilder, Unreal) import with a
scale of 100. The hips' OFFSET is zero and their position channels are their place, so that it does not matter whether
a reader adds the two. The rest pose, all channels zero, is a T-pose.

Angles are degrees, in the order Y X Z: a body's heading, which goes all the way round, is the outermost. They go on
from frame to frame without jumps of 360 degrees, because programs draw curves through them.
Shape legend: F frames, N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rl_motion.motion.inverse import NODE_CHILDREN, NODE_NAMES, Rotations
from rl_motion.motion.rotations import FloatArray, quaternion_to_matrix

_ROTATIONS = "Yrotation Xrotation Zrotation"


def bvh_text(rotations: Rotations) -> str:
    """The content of a BVH file, ASCII; positions to a micrometre, angles to a millionth of a degree."""
    angles_FN3 = _continued(yxz_degrees(rotations.local_FN4))
    leaves = [node for node, children in enumerate(NODE_CHILDREN) if not children]
    angles_FN3[:, leaves] = 0.0  # they turn nothing: no dust
    values_FC = np.concatenate([rotations.root_F3, angles_FN3.reshape(len(angles_FN3), -1)], axis=1)
    values_FC = np.round(values_FC, 6) + 0.0  # no -0.000000
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in values_FC)
    hierarchy = "\n".join(_node(rotations, 0, 0))
    return f"HIERARCHY\n{hierarchy}\nMOTION\nFrames: {len(values_FC)}\nFrame Time: {1 / rotations.fps:.8f}\n{rows}\n"


def yxz_degrees(turns_4: FloatArray) -> FloatArray:
    """Angles [..., 3] about Y, X and Z of quaternions [..., 4] = Ry Rx Rz; the angle about X within 90 degrees."""
    m = quaternion_to_matrix(turns_4)
    x = np.arcsin(np.clip(-m[..., 1, 2], -1.0, 1.0))
    y, z = np.arctan2(m[..., 0, 2], m[..., 2, 2]), np.arctan2(m[..., 1, 0], m[..., 1, 1])
    # With X at 90 degrees Y and Z turn about one axis: Y takes it all.
    locked = np.hypot(m[..., 0, 2], m[..., 2, 2]) < 1e-7
    y = np.where(locked, np.arctan2(-m[..., 2, 0], m[..., 0, 0]), y)
    z = np.where(locked, 0.0, z)
    degrees: FloatArray = np.degrees(np.stack([y, x, z], axis=-1))
    return degrees


def _continued(angles_FN3: FloatArray) -> FloatArray:
    """The same rotations by the angles that are nearest to those of the frame before."""
    angles = angles_FN3.copy()
    for frame in range(1, len(angles)):
        before = angles[frame - 1]
        # Ry Rx Rz = Ry(180 + y) Rx(180 - x) Rz(180 + z).
        ways = np.stack([angles[frame], angles[frame] * np.array([1.0, -1.0, 1.0]) + 180.0])
        ways -= 360.0 * np.round((ways - before) / 360.0)
        far_WN = np.abs(ways - before).sum(-1)
        angles[frame] = np.where((far_WN[0] <= far_WN[1])[:, None], ways[0], ways[1])
    return angles


def _node(rotations: Rotations, node: int, depth: int) -> Iterator[str]:
    tab, inside = "\t" * depth, "\t" * (depth + 1)
    yield f"{tab}{'JOINT' if depth else 'ROOT'} {NODE_NAMES[node]}"
    yield f"{tab}{{"
    yield f"{inside}OFFSET {_numbers(rotations.offsets_N3[node])}"
    if depth:
        yield f"{inside}CHANNELS 3 {_ROTATIONS}"
    else:
        yield f"{inside}CHANNELS 6 Xposition Yposition Zposition {_ROTATIONS}"
    for child in NODE_CHILDREN[node]:
        yield from _node(rotations, child, depth + 1)
    if node in rotations.tips:
        yield f"{inside}End Site"
        yield f"{inside}{{"
        yield f"{inside}\tOFFSET {_numbers(rotations.tips[node])}"
        yield f"{inside}}}"
    yield f"{tab}}}"


def _numbers(values: FloatArray) -> str:
    return " ".join(f"{value:.6f}" for value in np.round(values, 6) + 0.0)
