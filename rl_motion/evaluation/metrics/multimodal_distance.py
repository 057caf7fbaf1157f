"""Multimodal distance, the official code's matching score: how far a motion is from its text (Guo et al. 2022).

Legend: N rows (text n belongs to motion n), C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

CONVENTION = (
    "multimodal_distance: mean Euclidean distance between the embeddings of a motion and of its text; lower fits better"
)


def multimodal_distance(text_NC: Floats, motion_NC: Floats) -> float:
    """The mean of `distances_N`."""
    return float(distances_N(text_NC, motion_NC).mean())


def distances_N(text_NC: Floats, motion_NC: Floats) -> NDArray[np.float64]:
    """Euclidean distance between text n and motion n."""
    apart_NC = text_NC.astype(np.float64) - motion_NC.astype(np.float64)
    return np.asarray(np.linalg.norm(apart_NC, axis=-1))
