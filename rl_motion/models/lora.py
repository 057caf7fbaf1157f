"""A linear layer with LoRA at the price of the layer alone.

peft computes x W^T + b and adds s (x A^T) B^T: two thin products and two more passes over the output. On one CPU core
that is an eighth of a layer 512 wide and more than half of one 96 wide. Here the product is with W + s B A, made in a
copy once for every state of the adapter (the base is never written to), and the backward pass is LoRA's own:

    dx = g (W + s B A),   dB = s g^T (x A^T),   dA = s (g B)^T x

so that no gradient of the frozen W is ever computed. In a lower precision the copy would round the adapter away against
the weights that it is added to; under autocast the two parts therefore stay apart, as in peft, joined in one pass.

With and without gradient both compute alike: rollout and replay have the same bits. Imports peft: import it late.

Legend: N rows, I and O features in and out, R rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rl_motion.models.product import product

_State = tuple[tuple[int, int], ...]


class FoldedLinear(Linear):
    """peft's LoRA layer around an `nn.Linear`, in its place; one adapter, plain LoRA, no dropout."""

    _folded_OI: Tensor | None = None
    _of: _State = ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., I] -> [..., O]."""
        base = cast("nn.Linear", self.base_layer)
        lower = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        if self.disable_adapters:
            alone: Tensor = base(x) if lower else _Folded.apply(x, base.weight, base.bias, None, None, 1.0)  # type: ignore[no-untyped-call]
            return alone
        (name,) = self.active_adapters
        a_RI = cast("nn.Linear", self.lora_A[name]).weight
        b_OR = cast("nn.Linear", self.lora_B[name]).weight
        scaling = self.scaling[name]
        if lower:
            thin = functional.linear(x, a_RI)
            whole: Tensor = base(x)
            joined = torch.addmm(whole.flatten(0, -2), thin.flatten(0, -2), b_OR.t(), alpha=scaling)
            return joined.view(whole.shape)
        weight_OI = self._folded(base.weight, a_RI, b_OR, scaling)
        folded: Tensor = _Folded.apply(x, weight_OI, base.bias, a_RI, b_OR, scaling)  # type: ignore[no-untyped-call]
        return folded

    def forget(self) -> None:
        """Fold anew at the next call, whatever was written to in between and how."""
        self._folded_OI = None

    def _folded(self, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scaling: float) -> Tensor:
        """W + s B A, kept until one of the three is written to or replaced; `.data` hides that: see `forget`."""
        state = tuple((part.data_ptr(), part._version) for part in (weight_OI, a_RI, b_OR))
        if self._folded_OI is None or self._of != state:
            with torch.no_grad():
                self._folded_OI = torch.addmm(weight_OI, b_OR, a_RI, alpha=scaling)
            self._of = state
        return self._folded_OI


class _Folded(torch.autograd.Function):
    """x (W + s B A)^T + b, with LoRA's gradient; without A and B, of the frozen layer alone."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,
        x: Tensor,
        folded_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor | None,
        b_OR: Tensor | None,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(x, folded_OI, a_RI, b_OR)
        ctx.scaling = scaling
        return product(x, folded_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, folded_OI, a_RI, b_OR = ctx.saved_tensors
        x_NI, gradient_NO = x.flatten(0, -2), gradient.flatten(0, -2)
        wants_x, _, _, wants_a, wants_b, _ = ctx.needs_input_grad
        to_x = product(gradient, folded_OI.t()) if wants_x else None
        to_a = to_b = None
        if wants_a:
            thin_NR = product(gradient_NO, b_OR.t())
            to_a = product(thin_NR.t(), x_NI.t()) * ctx.scaling
        if wants_b:
            thin_NR = product(x_NI, a_RI)
            to_b = (product(thin_NR.t(), gradient_NO.t()) * ctx.scaling).t()
        return to_x, None, None, to_a, to_b, None
