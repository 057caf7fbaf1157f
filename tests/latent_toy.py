"""A latent model in miniature, as MLD is one: a motion is one latent of 16 numbers, whatever its length.

Encoder and decoder, a network that predicts the noise in a latent, and a whole run's means around the real policy,
learner and algorithms. Module-level functions, so that Ray workers can import them.

Legend: B rows, F frames, D features of a frame, K waves, C = K * D numbers of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_motion.config import AdapterConfig, Job, PolicyConfig, ScheduleConfig
from rl_motion.diffusion import alphas_cumprod
from rl_motion.learner import Learner
from rl_motion.models.adapter import attach_lora, save_adapter
from rl_motion.policies import DiffusionPolicy
from rl_motion.policies.of_job import decode
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.protocols import PredictionType
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Decoder, Scorer, Training, Workshop, build_algorithm
from rl_motion.runtime.frontend import Means
from rl_motion.types import Motions, Normalisation, Representation, Scored, Unit
from tests import fakes
from tests.toy_policy import ToyNetwork

WAVES, FEATURES = 4, 4
LATENT = WAVES * FEATURES


class LatentNetwork(nn.Module):
    """The noise in a latent, from a guess at the clean one that LoRA can change."""

    adapter_targets = ToyNetwork.adapter_targets

    def __init__(self, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.clean = ToyNetwork(LATENT, dropout=0.0, timesteps=schedule.timesteps)
        self.register_buffer("bar_T", torch.from_numpy(alphas_cumprod(schedule)).float())

    def forward(self, x_B1C: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        bar_B11 = self.bar_T[t_B][:, None, None]
        return (x_B1C - bar_B11.sqrt() * self.clean(x_B1C, t_B, condition_B)) / (1.0 - bar_B11).sqrt()


class LatentDenoiser:
    """A `Denoiser` whose latents are not frames; a text's condition is its number of characters / 100."""

    representation = Representation.HUMANML3D_263
    prediction_type: PredictionType = "epsilon"
    features = LATENT
    max_frames = 12
    mask_frames = False
    canvas: int | None = 1

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.schedule = ScheduleConfig(betas="linear", timesteps=1000)
        self.network: nn.Module = LatentNetwork(self.schedule).to(dtype)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([len(text) / 100.0 for text in texts])

    def null_condition(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def both(self, condition: Tensor) -> Tensor:
        return torch.cat([condition, torch.zeros_like(condition)])

    def prepare(self, condition: Tensor, length_B: Tensor, frames: int) -> Tensor:
        return condition

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Tensor, length_B: Tensor) -> Tensor:
        output: Tensor = self.network(x_BFD, t_B, condition)
        return output

    def encode(self, motions: Motions) -> Tensor:
        """The latent [B, 1, C] whose motion comes nearest: what the decoder undoes."""
        found = []
        for features_FD, length in zip(motions.features_BFD, motions.length_B.tolist(), strict=True):
            waves_FK = _waves(torch.tensor([length]), length).to(features_FD)[0]
            found.append(torch.linalg.lstsq(waves_FK, torch.atanh(features_FD[:length] / 1.5)).solution.reshape(1, -1))
        return torch.stack(found)

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        waves_BFK = _waves(length_B, int(length_B.max())).to(x_BFD)
        features_BFD = 1.5 * torch.tanh(waves_BFK @ x_BFD.reshape(-1, WAVES, FEATURES))
        valid_BF1 = (torch.arange(features_BFD.shape[1]) < length_B[:, None])[:, :, None]
        return Motions(features_BFD * valid_BF1, length_B, 20.0, self.representation, Normalisation.NONE)


def _waves(length_B: Tensor, frames: int) -> Tensor:
    """Cosines [B, F, K] over each row's own length."""
    phase_BF = (torch.arange(frames) + 0.5) / length_B[:, None]
    return torch.cos(torch.pi * phase_BF[:, :, None] * torch.arange(WAVES))


def near_B(motions: Motions, unit: Unit, noise_level_B: Tensor | None = None) -> Tensor:
    """Minus the mean squared distance to 0.8 over a motion's frames, on the graph [B]; an `Objective`."""
    valid_BF = torch.arange(motions.features_BFD.shape[1]) < motions.length_B[:, None]
    error_BF = (motions.features_BFD - 0.8).square().mean(dim=2) * valid_BF
    return -error_BF.sum(dim=1) / motions.length_B


def latent_policy(config: PolicyConfig, *, dtype: torch.dtype = torch.float32) -> DiffusionPolicy:
    """With an adapter away from zero."""
    denoiser = LatentDenoiser(dtype)
    attach_lora(denoiser.network, AdapterConfig(rank=1, alpha=1, targets=("mlp",)))
    made = DiffusionPolicy(denoiser, config, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    made.load_adapter_state(
        {n: 0.2 * torch.randn(t.shape, generator=generator, dtype=dtype) for n, t in made.adapter_state().items()}
    )
    return made


def policy(job: Job) -> DiffusionPolicy:
    return latent_policy(job.policy)


def decoder(job: Job) -> Decoder:
    denoiser = LatentDenoiser()
    return lambda trajectory: decode(denoiser, trajectory)


def rewards(job: Job) -> Scorer:
    def score(motions: Motions, unit: Unit) -> Scored:
        value_B = near_B(motions, unit)
        return Scored(unit.index, {"near": value_B}, value_B)

    return score


def training(job: Job, files: RewardFiles | None = None) -> Training:
    made = policy(job)
    learner = Learner(made, build_algorithm(job, files), job.train)

    def save(folder: Path) -> None:
        with learner.published():
            save_adapter(made._denoiser.network, folder, base_model_name=job.model.name)

    return Training(made, learner, save, made.constants)


def pool(job: Job) -> PromptPool:
    prompts = [make_prompt(f"a person does thing number {number}", 4 + number) for number in range(8)]
    return PromptPool({"toy": prompts}, {"toy": 1.0}, job.train.seed)


WORKSHOP = Workshop(
    check=fakes.check,
    policy=policy,
    decoder=decoder,
    rewards=rewards,
    training=training,
    pool=pool,
    weights=fakes.weights,
    text_readers=fakes.text_readers,
)
MEANS = Means(WORKSHOP, fakes.evaluate)


def latent_job(iterations: int = 3, **runtime: object) -> Job:
    """Units of two prompts, so of two lengths."""
    base = fakes.toy_job(iterations=iterations, **runtime)
    changes = {
        "policy": base.policy.model_copy(update={"steps": 5, "guidance_scale": 2.0}),
        "train": base.train.model_copy(update={"prompts_per_unit": 2, "units_per_step": 2}),
    }
    return base.model_copy(update=changes)
