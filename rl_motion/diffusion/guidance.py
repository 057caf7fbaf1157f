"""Classifier-free guidance (arXiv:2207.12598): uncond + w (cond - uncond)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Condition = TypeVar("Condition")


def guided(
    predict: Callable[[Condition], Tensor],
    condition: Condition,
    null_condition: Callable[[], Condition],
    scale: float,
) -> Tensor:
    """The guided prediction, in whatever the network predicts (x0, eps and v give the same sample).

    Args:
        predict: the network as a function of its condition alone.
        condition: of the conditional half; opaque.
        null_condition: makes the condition of the unconditional half; not called where it is not needed.
        scale: w; 1 is the conditional prediction itself, in one network call.
    """
    if scale == 1.0:
        return predict(condition)
    unconditional = predict(null_condition())
    return unconditional + scale * (predict(condition) - unconditional)
