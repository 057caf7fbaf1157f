"""Quaternions and 6-D rotations on NumPy arrays, batched over any leading dimensions.

Conventions: quaternions are (w, x, y, z), Hamilton product, active rotations; a 6-D rotation is the first two
COLUMNS of the matrix, one after the other (HumanML3D's `cont6d`; Zhou et al. 2019, arXiv:1812.07035). The
functions compute in the dtype they are given; float64 is what the feature pipeline uses.

Suffix legend: 4 quaternion, 3 vector, 33 matrix, 6 six-dimensional rotation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

# Below this length (relative to the vectors' own) v0 + v1 is rounding noise: the two are opposite.
_OPPOSITE = 1e-7


def qmul(left_4: FloatArray, right_4: FloatArray) -> FloatArray:
    """Return the Hamilton product `left * right` [..., 4]: rotate by `right` first, then by `left`."""
    lw, lx, ly, lz = (left_4[..., i] for i in range(4))
    rw, rx, ry, rz = (right_4[..., i] for i in range(4))
    return np.stack(
        [
            lw * rw - lx * rx - ly * ry - lz * rz,
            lw * rx + lx * rw + ly * rz - lz * ry,
            lw * ry - lx * rz + ly * rw + lz * rx,
            lw * rz + lx * ry - ly * rx + lz * rw,
        ],
        axis=-1,
    )


def qinv(q_4: FloatArray) -> FloatArray:
    """Return the inverse [..., 4] of unit quaternions (their conjugate)."""
    return q_4 * np.array([1, -1, -1, -1], dtype=q_4.dtype)


def qrot(q_4: FloatArray, v_3: FloatArray) -> FloatArray:
    """Rotate vectors [..., 3] by unit quaternions [..., 4]; leading dimensions broadcast."""
    w, x, y, z = (q_4[..., i] for i in range(4))
    a, b, c = (v_3[..., i] for i in range(3))
    # t = 2 q x v, then v + w t + q x t: three cross products written out, several times faster than np.cross.
    t0, t1, t2 = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return np.stack([a + w * t0 + y * t2 - z * t1, b + w * t1 + z * t0 - x * t2, c + w * t2 + x * t1 - y * t0], axis=-1)


def qbetween(start_3: FloatArray, end_3: FloatArray) -> FloatArray:
    """Return the shortest rotation [..., 4] that takes the direction of `start_3` to that of `end_3`.

    Differs from HumanML3D's `qbetween`, which gives NaN for opposite vectors: here they turn by pi about an
    axis perpendicular to `start_3` (the vertical one where `start_3` is along z, so headings stay headings).
    """
    start, end = np.broadcast_arrays(start_3, end_3)
    s0, s1, s2 = (start[..., i] for i in range(3))
    e0, e1, e2 = (end[..., i] for i in range(3))
    size = np.sqrt((s0 * s0 + s1 * s1 + s2 * s2) * (e0 * e0 + e1 * e1 + e2 * e2))
    w = size + s0 * e0 + s1 * e1 + s2 * e2
    q = np.stack([w, s1 * e2 - s2 * e1, s2 * e0 - s0 * e2, s0 * e1 - s1 * e0], axis=-1)
    norm = np.sqrt((q * q).sum(-1, keepdims=True))
    opposite = norm[..., 0] <= _OPPOSITE * size
    if opposite.any():
        q[opposite, 0] = 0.0
        q[opposite, 1:] = _perpendicular(start[opposite])
        norm = np.sqrt((q * q).sum(-1, keepdims=True))
    unit: FloatArray = q / norm
    return unit


def _perpendicular(v_N3: FloatArray) -> FloatArray:
    """Return a vector [N, 3] perpendicular to each: along v x e_x, or v x e_y where v is along x."""
    along_x = np.abs(v_N3[:, 0]) > 0.9 * np.sqrt((v_N3 * v_N3).sum(-1))
    helper = np.where(along_x[:, None], np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    return np.cross(v_N3, helper).astype(v_N3.dtype)


def quaternion_to_matrix(q_4: FloatArray) -> FloatArray:
    """Return the rotation matrices [..., 3, 3] of quaternions [..., 4]; the norm is divided out."""
    w, x, y, z = (q_4[..., i] for i in range(4))
    s = 2.0 / (q_4 * q_4).sum(-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrix_33: FloatArray) -> FloatArray:
    """Return unit quaternions [..., 4] with w >= 0 of rotation matrices [..., 3, 3].

    Of four algebraic candidates the one with the largest own component is well conditioned (Shepperd 1978).
    """
    m = matrix_33
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = np.stack(
        [
            np.stack([1 + d0 + d1 + d2, a, b, c], axis=-1),
            np.stack([a, 1 + d0 - d1 - d2, xy, xz], axis=-1),
            np.stack([b, xy, 1 - d0 + d1 - d2, yz], axis=-1),
            np.stack([c, xz, yz, 1 - d0 - d1 + d2], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    q = np.where(q[..., :1] < 0, -q, q)
    unit: FloatArray = q / np.sqrt((q * q).sum(-1, keepdims=True))
    return unit


def matrix_to_cont6d(matrix_33: FloatArray) -> FloatArray:
    """Return the 6-D form [..., 6] of matrices [..., 3, 3]: first column, then second column."""
    return np.concatenate([matrix_33[..., 0], matrix_33[..., 1]], axis=-1)


def cont6d_to_matrix(cont_6: FloatArray) -> FloatArray:
    """Return rotation matrices [..., 3, 3] of any 6-D values by Gram-Schmidt, as HumanML3D orders it."""
    x = cont_6[..., :3] / np.sqrt((cont_6[..., :3] ** 2).sum(-1, keepdims=True))
    z = np.cross(x, cont_6[..., 3:])
    z = z / np.sqrt((z * z).sum(-1, keepdims=True))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def quaternion_to_cont6d(q_4: FloatArray) -> FloatArray:
    """Return the 6-D form [..., 6] of unit quaternions [..., 4], without building the third column."""
    w, x, y, z = (q_4[..., i] for i in range(4))
    columns = [
        1 - 2 * (y * y + z * z),
        2 * (x * y + z * w),
        2 * (x * z - y * w),
        2 * (x * y - z * w),
        1 - 2 * (x * x + z * z),
        2 * (y * z + x * w),
    ]
    return np.stack(columns, axis=-1)
