"""A linear layer with LoRA at the price of the layer alone.

peft computes x W^T + b and adds s (x A^T) B^T: two thin products and two more passes over the output. On one CPU core
that is an eighth of a layer 512 wide and more than half of one 96 wide. Here the product is with W + s B A, made in a
copy once for every state of the adapter (the base is never written to), and the backward pass is LoRA's own:

    dx = g (W + s B A),   dB = s g^T (x A^T),   dA = s (g B)^T x

so that no gradient of the frozen W is ever computed. In a lower precision the copy would round the adapter away against
the weights that it is added to; under autocast the two parts therefore stay apart, as in peft, joined in one pass, and
what is kept is W in that precision: autocast would round frozen weights anew at every call.

With and without gradient both compute alike: rollout and replay have the same bits. Imports peft: import it late.

Legend: N rows, I and O features in and out, R rank.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rl_motion.models.kept import Kept
from rl_motion.models.product import product


class FoldedLinear(Linear):
    """peft's LoRA layer around an `nn.Linear`, in its place; one adapter, plain LoRA, no dropout."""

    _kept: Kept | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., I] -> [..., O]."""
        base = cast("nn.Linear", self.base_layer)
        a_RI = b_OR = None
        scaling = 0.0
        if not self.disable_adapters:
            (name,) = self.active_adapters
            a_RI = cast("nn.Linear", self.lora_A[name]).weight
            b_OR = cast("nn.Linear", self.lora_B[name]).weight
            scaling = self.scaling[name]
        if self._kept is None:
            self._kept = Kept()
        apart = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        if apart:
            weight_OI = self._kept.get([base.weight], torch.get_autocast_dtype(x.device.type), lambda: base.weight)
        elif a_RI is None or b_OR is None:
            weight_OI = base.weight
        else:
            parts = base.weight, b_OR, a_RI
            weight_OI = self._kept.get(parts, base.weight.dtype, lambda: torch.addmm(*parts, alpha=scaling))
        output: Tensor = _Adapted.apply(x, weight_OI, base.bias, a_RI, b_OR, scaling, apart)  # type: ignore[no-untyped-call]
        return output

    def forget(self) -> None:
        """Make the copy anew at the next call, whatever was written to in between and how."""
        self._kept = None


class _Adapted(torch.autograd.Function):
    """x W^T + b with LoRA's gradient, which is none of W; A and B are already in W, or `apart` and added here.

    Computes in W's precision; without A and B, what the frozen layer alone does.
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor | None,
        b_OR: Tensor | None,
        scaling: float,
        apart: bool,
    ) -> Tensor:
        dtype = weight_OI.dtype
        x_low, bias_O = x.to(dtype), None if bias_O is None else bias_O.to(dtype)
        low_a_RI, low_b_OR = (None if part is None else part.to(dtype) for part in (a_RI, b_OR))
        ctx.save_for_backward(x_low, weight_OI, low_a_RI, low_b_OR)
        ctx.scaling, ctx.apart, ctx.dtype, ctx.own = scaling, apart, x.dtype, None if a_RI is None else a_RI.dtype
        y = product(x_low, weight_OI, bias_O)
        if apart and low_a_RI is not None and low_b_OR is not None:
            thin_NR = product(x_low.flatten(0, -2), low_a_RI)
            y.view(-1, y.shape[-1]).addmm_(thin_NR, low_b_OR.t(), alpha=scaling)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, a_RI, b_OR = ctx.saved_tensors
        x_NI, gradient_NO = x.flatten(0, -2), gradient.flatten(0, -2)
        wants_x, _, _, wants_a, wants_b, _, _ = ctx.needs_input_grad
        back_NR = product(gradient_NO, b_OR.t()) if b_OR is not None else gradient_NO[:, :0]
        to_x = to_a = to_b = None
        if wants_x:
            to_x_NI = product(gradient_NO, weight_OI.t())
            if ctx.apart and a_RI is not None:
                to_x_NI.addmm_(back_NR, a_RI, alpha=ctx.scaling)
            to_x = to_x_NI.view(x.shape).to(ctx.dtype)
        if wants_a:
            to_a = (product(back_NR.t(), x_NI.t()) * ctx.scaling).to(ctx.own)
        if wants_b:
            to_b = (product(product(x_NI, a_RI).t(), gradient_NO.t()) * ctx.scaling).t().to(ctx.own)
        return to_x, None, None, to_a, to_b, None, None
