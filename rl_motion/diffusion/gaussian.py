"""Log-density and divergence of isotropic Gaussian transitions, reduced per row in float64.

The elements keep the dtype of the latent, their sum does not: a sum of 50 000 float32 terms near 1 is exact
to a few 1e-3 only, as large as a clip range.

Legend: B rows, F frames, D features. Latents and means are zero beyond a row's length, so padding adds
    nothing to a sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_prob(x_BFD: Tensor, mean_BFD: Tensor, std: float, elements_B: Tensor) -> Tensor:
    """Sum over valid elements of log N(x; mean, std^2), [B] float64.

    Args:
        x_BFD: the latents drawn, as stored.
        mean_BFD: of the transition.
        std: of the transition, positive.
        elements_B: valid elements of each row (length * D), float64.
    """
    z_BFD = (x_BFD - mean_BFD) / std
    square_B = z_BFD.square().sum(dim=(1, 2), dtype=torch.float64)
    return -0.5 * square_B - elements_B * (math.log(std) + 0.5 * math.log(2.0 * math.pi))


def kl_divergence(mean_BSFD: Tensor, reference_BSFD: Tensor, std_S: Tensor) -> Tensor:
    """Exact KL of transitions with equal std, (mean - reference)^2 / (2 std^2) summed over elements,
    [B, S] float64."""
    distance_BSFD = mean_BSFD - reference_BSFD
    return 0.5 * distance_BSFD.square().sum(dim=(2, 3), dtype=torch.float64) / std_S.double().square()
