"""A one-frame, few-parameter denoiser with a real LoRA adapter, for exact tests of policies and learners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl_motion.config import AdapterConfig, PolicyConfig, ScheduleConfig
from rl_motion.models.adapter import attach_lora
from rl_motion.policies import DiffusionPolicy
from rl_motion.protocols import PredictionType
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Trajectory, Unit


class ToyNetwork(nn.Module):
    """tanh of a linear layer over the frame, the time, and the condition; frames do not see one another."""

    adapter_targets = {"mlp": ("inner",)}  # noqa: RUF012

    def __init__(self, features: int, dropout: float, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.inner = nn.Linear(features + 2, features)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # far from saturation, so that a latent's changes reach the final sample
            rest = torch.tensor([[0.3, 0.2]]).expand(features, 2)
            self.inner.weight.copy_(torch.cat([0.7 * torch.eye(features), rest], dim=1))
            self.inner.bias.fill_(0.1)

    def forward(self, x_BFD: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        rest_B2 = torch.stack([t_B.to(x_BFD) / self.timesteps, condition_B.to(x_BFD)], dim=1)
        rest_BF2 = rest_B2[:, None].expand(-1, x_BFD.shape[1], -1)
        return 1.5 * torch.tanh(self.inner(self.dropout(torch.cat([x_BFD, rest_BF2], dim=2))))


class ToyDenoiser:
    """A `Denoiser`; a text's condition is its number of characters / 10, the null condition 0."""

    representation = Representation.HUMANML3D_263
    max_frames = 196
    mask_frames = True
    canvas: int | None = None

    def __init__(
        self,
        *,
        features: int = 1,
        prediction_type: PredictionType = "sample",
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
    ) -> None:
        self.features = features
        self.prediction_type: PredictionType = prediction_type
        self.schedule = schedule
        self.calls = 0
        self.network: nn.Module = ToyNetwork(features, dropout, schedule.timesteps).to(dtype)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([len(text) / 10.0 for text in texts])

    def null_condition(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def both(self, condition: Tensor) -> Tensor:
        return torch.cat([condition, torch.zeros_like(condition)])

    def prepare(self, condition: Tensor, length_B: Tensor, frames: int) -> Tensor:
        return condition

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Tensor, length_B: Tensor) -> Tensor:
        self.calls += 1
        output: Tensor = self.network(x_BFD, t_B, condition)
        return output

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        return Motions(x_BFD, length_B, 20.0, self.representation, Normalisation.NONE)


def toy_policy(
    config: PolicyConfig, *, dtype: torch.dtype = torch.float32, adapter_scale: float = 0.5, **options: object
) -> tuple[DiffusionPolicy, ToyDenoiser]:
    """A toy's policy, its adapter already away from zero by `adapter_scale`."""
    denoiser = ToyDenoiser(dtype=dtype, **options)  # type: ignore[arg-type]
    attach_lora(denoiser.network, AdapterConfig(rank=1, alpha=1, targets=("mlp",)))
    policy = DiffusionPolicy(denoiser, config, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: adapter_scale * torch.randn(tensor.shape, generator=generator, dtype=dtype)
        for name, tensor in policy.adapter_state().items()
    }
    policy.load_adapter_state(state)
    return policy, denoiser


def toy_unit(*, prompts: int = 3, samples: int = 4, index: int = 0, iteration: int = 0, frames: int = 5) -> Unit:
    """Prompts of different texts and of lengths frames, frames - 1, ..."""
    made = tuple(Prompt(id=f"p{index}-{p}", text="x" * (p + 1), length=max(1, frames - p)) for p in range(prompts))
    return Unit(seed=0, iteration=iteration, index=index, prompts=made, samples_per_prompt=samples)


def toy_reward(trajectory: Trajectory) -> Tensor:
    """Minus the mean squared distance to 0.8 over valid frames, [B]."""
    x0_BFD = trajectory.sample.double()
    valid_BF = torch.arange(x0_BFD.shape[1]) < trajectory.length_B[:, None]
    error_BF = (x0_BFD - 0.8).square().mean(dim=2) * valid_BF
    return -error_BF.sum(dim=1) / trajectory.length_B
