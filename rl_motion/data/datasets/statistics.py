"""Mean and deviation of a data set's features: counted as clips pass by, kept as safetensors.

Legend: F frames, D features of a frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.data.datasets.clips import SHAPES, Statistics
from rl_motion.motion import features, kit
from rl_motion.types import Representation

LEAST_STD = 1e-3
"""Of a computed deviation: a feature that never changes must not be divided by zero."""
_LAYOUTS = {Representation.HUMANML3D_263: features.LAYOUT, Representation.KIT_251: kit.LAYOUT}


class RunningStatistics:
    """Of the frames so far, in float64 and constant memory (Chan, Golub and LeVeque 1979, eq. 2.1)."""

    def __init__(self, features_D: int) -> None:
        """Nothing yet."""
        self.frames = 0
        self._mean_D = np.zeros(features_D)
        self._squares_D = np.zeros(features_D)

    def add(self, features_FD: NDArray[np.float32]) -> None:
        """Count the frames of a clip."""
        x_FD = features_FD.astype(np.float64)
        mean_D = x_FD.mean(0)
        delta_D, frames = mean_D - self._mean_D, self.frames + len(x_FD)
        self._squares_D += ((x_FD - mean_D) ** 2).sum(0) + delta_D**2 * (self.frames * len(x_FD) / frames)
        self._mean_D += delta_D * (len(x_FD) / frames)
        self.frames = frames

    def result(self, representation: Representation) -> Statistics:
        """By HumanML3D's convention (`cal_mean_variance.py`): the features of a group share one deviation, its mean.

        Features of SMPL-RIFKE have their own each, as in nv-tlabs/stmc.
        """
        std_D = np.sqrt(self._squares_D / max(self.frames - 1, 1))
        if (layout := _LAYOUTS.get(representation)) is not None:
            root = (slice(0, 1), slice(1, 3), slice(3, 4))
            for group in (*root, layout.joints, layout.rot6d, layout.vel, layout.feet):
                std_D[group] = std_D[group].mean()
        return Statistics(self._mean_D.astype(np.float32), np.maximum(std_D, LEAST_STD).astype(np.float32))


def statistics_fault(statistics: Statistics, features_D: int) -> str:
    """Why nothing can be normalised with these; empty if it can."""
    for name, array in (("mean", statistics.mean_D), ("std", statistics.std_D)):
        if array.shape != (features_D,) or array.dtype != np.float32:
            return f"{name} is {array.dtype} {list(array.shape)}, not float32 [{features_D}]"
        if not np.isfinite(array).all():
            return f"{name} has NaN or infinite values"
    return "" if (statistics.std_D > 0).all() else "std has values that are not positive"


def statistics_bytes(statistics: Statistics) -> bytes:
    """As a safetensors file with `mean` and `std`."""
    from safetensors.numpy import save

    return save({"mean": statistics.mean_D, "std": statistics.std_D})


def read_statistics(path: Path, representation: Representation) -> Statistics:
    """From that file.

    Raises:
        UserError: it cannot be read, or is of no such representation.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    want_D = SHAPES[representation].features_D
    try:
        arrays = load_file(path)
        statistics = Statistics(arrays["mean"], arrays["std"])
        fault = statistics_fault(statistics, want_D)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        fault = f"it cannot be read: {str(error)[:200]}"
    if fault:
        raise UserError(
            f"got {path}, which is no use ({fault}); want mean and std of {want_D} features; import the data again"
        )
    return statistics
