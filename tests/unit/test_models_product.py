"""Products by oneDNN: what `nn.Linear` computes, to float32's rounding, and by one library wherever it is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rl_motion.config import AdapterConfig
from rl_motion.models import product as module
from rl_motion.models.adapter import adapter_disabled, attach_lora
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.product import product

SHAPES = [((3, 7, 24), 40), ((1, 24), 5), ((300, 96), 288)]


def operands(shape: tuple[int, ...], out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, weight, bias = (torch.randn(s, generator=generator) for s in (shape, (out, shape[-1]), (out,)))
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_it_is_the_product(shape: tuple[int, ...], out: int, dtype: torch.dtype, close: float) -> None:
    x, weight, bias = operands(shape, out, dtype)
    exact = functional.linear(x.double(), weight.double(), bias.double())
    for got in (product(x, weight, bias), product(x, weight) + bias, product(x, weight.t().contiguous().t(), bias)):
        assert got.shape == exact.shape and got.dtype == dtype and got.is_contiguous()
        assert float((got.double() - exact).abs().max() / exact.abs().max()) < close
    # Negative control: the bound sees a row of weights that is left out.
    assert float((product(x, weight.roll(1, 0), bias).double() - exact).abs().max() / exact.abs().max()) > close


def test_both_matrices_may_be_transposed_views() -> None:
    x, weight, _ = operands((64, 24), 40, torch.float32)
    got = product(x.t(), weight[:, :1].repeat(1, 64))
    torch.testing.assert_close(got, x.t() @ weight[:, :1].repeat(1, 64).t(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(module._ONEDNN is None, reason="this torch has no oneDNN")
def test_it_is_onednns_where_there_is_one_and_torchs_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    onednn = module._ONEDNN

    def seen(*given: object) -> Tensor:
        asked.append(given)
        result: Tensor = onednn(*given)
        return result

    monkeypatch.setattr(module, "_ONEDNN", seen)
    x, weight, bias = operands((300, 96), 288, torch.float32)
    product(x, weight, bias)
    product(x.double(), weight.double(), bias.double())
    assert len(asked) == 1
    monkeypatch.setattr(module, "_ONEDNN", None)
    assert torch.equal(product(x, weight, bias), functional.linear(x, weight, bias))
    assert len(asked) == 1


@pytest.mark.parametrize("lower", [False, True], ids=["float32", "bfloat16"])
def test_a_fresh_adapter_and_none_have_the_same_bits_and_those_of_no_adapter_to_rounding(lower: bool) -> None:
    torch.manual_seed(0)
    network = MDM(MDMConfig(latent_dim=32, ff_size=64, num_layers=2, num_heads=2, text_dim=16)).eval()
    given = torch.randn(2, 12, 263), torch.tensor([3, 7]), torch.randn(2, 16), torch.tensor([12, 9])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=lower):
        without = network(*given)
        attach_lora(network, AdapterConfig(rank=2))
        fresh = network(*given)
        with adapter_disabled(network):
            assert torch.equal(network(*given), fresh)
    assert float((fresh - without).abs().max() / without.abs().max()) < (2e-2 if lower else 3e-6)
