"""LoRA at the price of the layer alone: peft's numbers and gradients, the same bits with and without gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from rl_motion.config import AdapterConfig
from rl_motion.models.adapter import adapter_disabled, attach_lora, forget_folded
from rl_motion.models.lora import FoldedLinear


class One(nn.Module):
    """A linear layer in front of an adapted one, so that a gradient passes through."""

    adapter_targets = {"mlp": ("second",)}  # noqa: RUF012

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(7, 24, dtype=dtype), nn.Linear(24, 40, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def ours(dtype: torch.dtype = torch.float32) -> One:
    network = One(dtype)
    attach_lora(network, AdapterConfig(rank=3, alpha=6.0, targets=("mlp",)))
    with torch.no_grad():
        network.second.lora_B.default.weight.normal_(std=0.1)
    assert type(network.second) is FoldedLinear
    return network


def pefts(network: One, dtype: torch.dtype) -> One:
    """The same weights in peft's own layer."""
    other = One(dtype)
    PeftModel(other, LoraConfig(r=3, lora_alpha=6, target_modules=["second"]))
    other.load_state_dict(network.state_dict())
    return other


def rows(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 11, 7, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_numbers_and_gradients_are_pefts() -> None:
    mine = ours(torch.float64)
    theirs = pefts(mine, torch.float64)
    found = []
    for network in (mine, theirs):
        x = rows(torch.float64).requires_grad_()
        y = network(x)
        lora = network.second.lora_A.default.weight, network.second.lora_B.default.weight
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *lora])))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lower", [False, True], ids=["float32", "bfloat16"])
def test_the_same_bits_with_and_without_gradient(lower: bool) -> None:
    network, x = ours(), rows()
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        with torch.no_grad():
            without = network(x)
        assert torch.equal(network(x), without)
        assert without.dtype == (torch.bfloat16 if lower else torch.float32)


def test_gradients_in_bfloat16_are_as_good_as_pefts() -> None:
    mine = ours()
    with torch.no_grad():
        mine.second.lora_B.default.weight.mul_(20.0)  # so that what passes through the adapter counts

    def gradients(network: One, lower: bool) -> Tensor:
        x = rows().to(next(network.parameters()).dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = network(x)
        lora = network.second.lora_A.default.weight, network.second.lora_B.default.weight
        found = torch.autograd.grad(y.to(x.dtype).square().mean(), [x, *lora])
        assert {part.dtype for part in found} == {x.dtype}
        return torch.cat([(part / part.norm()).double().flatten() for part in found])

    plain = pefts(mine, torch.float32)
    exact = gradients(copy.deepcopy(plain).double(), lower=False)
    off = [float((gradients(network, lower=True) - exact).norm()) for network in (mine, plain)]
    assert off[0] < min(1.2 * off[1], 0.02)


@pytest.mark.parametrize("lower", [False, True], ids=["float32", "bfloat16"])
def test_a_disabled_adapter_lets_the_gradient_through_and_gets_none(lower: bool) -> None:
    network, x = ours(), rows().requires_grad_()
    with adapter_disabled(network), torch.autocast("cpu", torch.bfloat16, enabled=lower):
        y = network(x)
    y.float().sum().backward()
    hidden = 1.0 - torch.tanh(network.first(x)).square()
    want = (hidden * network.second.base_layer.weight.sum(dim=0)) @ network.first.weight
    torch.testing.assert_close(x.grad, want, rtol=0.05 if lower else 1e-4, atol=0.05 if lower else 1e-5)
    assert network.second.lora_A.default.weight.grad is None


def test_weights_are_rounded_once_for_bfloat16() -> None:
    network, x = ours(), rows()
    with torch.autocast("cpu", torch.bfloat16):
        network(x)
        kept = network.second._kept._made
        network(x)
        with adapter_disabled(network):
            network(x)
        assert network.second._kept._made is kept and kept.dtype == torch.bfloat16
        with torch.no_grad():
            network.second.base_layer.weight.mul_(2.0)
        network(x)
        assert network.second._kept._made is not kept


def test_autocast_keeps_what_an_adapter_adds_that_is_smaller_than_the_weights_rounding() -> None:
    """Folded in bfloat16, most of it would be lost."""
    network, x = ours(), rows()
    with torch.no_grad():
        network.second.lora_B.default.weight.mul_(1e-4)
        hidden = torch.tanh(network.first(x))
        layer = network.second
        added = layer(hidden) - layer.base_layer(hidden)
        low = hidden.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            thin = nn.functional.linear(low, layer.lora_A.default.weight)
            zero = torch.zeros(low.shape[0] * low.shape[1], 40, dtype=torch.bfloat16)
            b_RO = layer.lora_B.default.weight.t()
            kept = torch.addmm(zero, thin.flatten(0, 1), b_RO, alpha=2.0).view_as(added)
        weight = layer.base_layer.weight
        folded = torch.addmm(weight, layer.lora_B.default.weight, layer.lora_A.default.weight, alpha=2.0)
        lost = (low @ folded.bfloat16().t() - low @ weight.bfloat16().t()).float()
    assert float((kept - added).norm() / added.norm()) < 0.02
    assert float((lost - added).norm() / added.norm()) > 0.2


def test_every_way_of_writing_weights_is_noticed() -> None:
    network, x = ours(), rows()
    layer = network.second
    seen = [network(x)]

    def differs() -> None:
        seen.append(network(x))
        assert not torch.equal(seen[-1], seen[-2])
        hidden = torch.tanh(network.first(x))
        part = nn.functional.linear(hidden, layer.lora_A.default.weight)
        want = layer.base_layer(hidden) + 2.0 * nn.functional.linear(part, layer.lora_B.default.weight)
        torch.testing.assert_close(seen[-1], want, rtol=1e-4, atol=1e-5)

    adam = torch.optim.Adam([layer.lora_A.default.weight, layer.lora_B.default.weight], lr=0.1)
    network(x).sum().backward()
    adam.step()
    differs()
    network.load_state_dict({name: 1.1 * tensor for name, tensor in network.state_dict().items()})
    differs()
    with torch.no_grad():
        layer.base_layer.weight.mul_(1.001)
    differs()
    layer.lora_B.default.weight.data = layer.lora_B.default.weight.data * 2.0
    differs()


def test_a_write_that_autograd_does_not_see_is_noticed_at_the_next_trajectory() -> None:
    network = ours()
    before = network(rows())
    network.second.lora_B.default.weight.data.view(-1)[0] += 1.0
    assert torch.equal(network(rows()), before)
    forget_folded(network)
    assert not torch.equal(network(rows()), before)


def test_the_base_is_never_written_and_stays_to_be_had() -> None:
    network, x = ours(), rows()
    before = copy.deepcopy(network.state_dict())
    with adapter_disabled(network):
        base = network(x)
    network(x).sum().backward()
    with adapter_disabled(network):
        assert torch.equal(network(x), base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.second.base_layer.weight.grad is None
