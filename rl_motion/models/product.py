"""Products of frozen weights, by the quicker of the two libraries that torch brings for CPUs.

`nn.functional.linear` gives float32 to MKL, which on processors that are not Intel's was found to reach two thirds of
what oneDNN does, half of it where a result is a few columns wide. Both are in the same wheel; `torch.compile` calls
oneDNN by the operator below. What was measured: docs/adr/0012-products.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _onednn() -> Any:
    """oneDNN's product, or None where this torch has none; the operator is torch's own, not a promise to others."""
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _onednn()
_PRECISIONS = (torch.float32, torch.bfloat16)


def product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, [..., I] -> [..., O], without a graph: for use within an `autograd.Function`, or where none is wanted.

    Which library computes it depends on device and precision alone, so rollout and replay have the same bits. Matrices
    may be transposed views.
    """
    if _ONEDNN is None or x.device.type != "cpu" or x.dtype not in _PRECISIONS:
        return functional.linear(x, weight_OI, bias_O)
    with torch.no_grad():
        result: Tensor = _ONEDNN(x, weight_OI, bias_O, "none", [], "")
    return result
