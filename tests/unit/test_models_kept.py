"""What is made of weights is made once, and anew when they change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rl_motion.models.adapter import forget_folded
from rl_motion.models.kept import FrozenConv1d, Kept


def pair(*, frozen: bool) -> tuple[FrozenConv1d, nn.Conv1d, Tensor]:
    torch.manual_seed(0)
    ours, torchs = FrozenConv1d(6, 8, 5, 2, 2), nn.Conv1d(6, 8, 5, 2, 2)
    torchs.load_state_dict(ours.state_dict())
    return ours.requires_grad_(not frozen), torchs.requires_grad_(not frozen), torch.randn(2, 6, 20)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("lower", [True, False], ids=["bfloat16", "float32"])
def test_a_frozen_convolution_is_torchs_to_the_bit_and_so_is_its_gradient(frozen: bool, lower: bool) -> None:
    ours, torchs, x = pair(frozen=frozen)
    found = []
    for layer in (ours, torchs):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            output = layer(given)
        wanted = [given] if frozen else [given, *layer.parameters()]
        found.append([output, *torch.autograd.grad(output.float().square().sum(), wanted)])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
    assert found[0][0].dtype == (torch.bfloat16 if lower else torch.float32)
    assert (ours._kept is not None) == (frozen and lower)


def test_weights_are_rounded_once_and_again_when_they_are_written_to() -> None:
    ours, _, x = pair(frozen=True)

    def called() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output: Tensor = ours(x)
        return output

    first, kept = called(), ours._kept._made
    assert torch.equal(called(), first) and ours._kept._made is kept
    ours.weight.mul_(2.0)
    assert not torch.equal(called(), first)
    before = called()
    ours.weight.data.view(-1)[0] += 10.0  # which autograd does not see
    assert torch.equal(called(), before)
    forget_folded(ours)
    assert not torch.equal(called(), before)


def test_a_copy_makes_its_own() -> None:
    kept, weight = Kept(), torch.ones(3)
    made = kept.get([weight], torch.float64, lambda: 2.0 * weight)
    assert made.dtype == torch.float64 and kept.get([weight], torch.float64, lambda: weight) is made
    assert kept.get([weight], torch.float32, lambda: weight) is weight
    assert copy.deepcopy(kept)._made is None
