"""Classifier-free guidance (arXiv:2207.12598): uncond + w (cond - uncond)."""

from __future__ import annotations

from torch import Tensor


def guided(prediction_2BFD: Tensor, scale: float) -> Tensor:
    """The guided prediction [B, F, D], in whatever the network predicts (x0, eps and v give the same sample).

    Args:
        prediction_2BFD: of one network call, the B conditional rows and then the B unconditional ones.
        scale: w; with 1 there is nothing to guide, and no call for the unconditional rows is needed.
    """
    conditional, unconditional = prediction_2BFD.chunk(2)
    return unconditional + scale * (conditional - unconditional)
