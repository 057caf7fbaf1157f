"""Frechet distance between two clouds of motion embeddings (Heusel et al. 2017, arXiv:1706.08500 eq. 6).

Equal to `calculate_frechet_distance` of Guo et al. 2022. Differs: tr (S1 S2)^1/2 is the nuclear norm of S1^1/2 S2^1/2,
whose roots come from eigen-decompositions. It is real and finite for any two covariances, so that nothing needs to be
added to their diagonals and no imaginary part dropped.

Legend: N motions, C channels of an embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

CONVENTION = (
    "fid: squared Frechet distance between Gaussians fitted to the evaluator's embeddings of real and of generated "
    "motion (mean in float32, covariance in float64, ddof 1); it falls with N, so only figures of one N compare, and "
    "only beside their floor: real against other real motion of that N"
)


def fid(real_NC: Floats, made_NC: Floats) -> float:
    """The Frechet distance between the Gaussians of two clouds, zero for the same cloud.

    Raises:
        ValueError: a cloud of fewer than two rows, of another width, or with values that are not finite.
    """
    for cloud_NC in (real_NC, made_NC):
        if cloud_NC.ndim != 2 or len(cloud_NC) < 2 or not np.isfinite(cloud_NC).all():
            raise ValueError(
                f"got embeddings of shape {cloud_NC.shape}, or some that are not finite; want finite [N, C] with N of "
                "at least 2; embed more motions"
            )
    if real_NC.shape[1] != made_NC.shape[1]:
        raise ValueError(
            f"got embeddings of {real_NC.shape[1]} and of {made_NC.shape[1]} channels; want those of one evaluator; "
            "embed both with it"
        )
    offset_C = _mean_C(real_NC) - _mean_C(made_NC)
    real_CC, made_CC = _covariance_CC(real_NC), _covariance_CC(made_NC)
    overlap = np.linalg.svd(_root_CC(real_CC) @ _root_CC(made_CC), compute_uv=False).sum()
    return float(offset_C @ offset_C + np.trace(real_CC) + np.trace(made_CC) - 2 * overlap)


def _mean_C(cloud_NC: Floats) -> NDArray[np.float64]:
    mean_C: NDArray[np.float64] = cloud_NC.astype(np.float32).mean(axis=0).astype(np.float64)
    return mean_C


def _covariance_CC(cloud_NC: Floats) -> NDArray[np.float64]:
    return np.atleast_2d(np.cov(cloud_NC.astype(np.float64), rowvar=False))


def _root_CC(covariance_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root; rounding makes tiny eigenvalues negative, which are zero."""
    value_C, vector_CC = np.linalg.eigh(covariance_CC)
    root_CC: NDArray[np.float64] = (vector_CC * np.sqrt(value_C.clip(min=0))) @ vector_CC.T
    return root_CC
