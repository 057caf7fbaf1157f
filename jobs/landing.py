"""Where should the last stochastic transition land? Networks that predict x0 beside networks that predict the noise.

    python jobs/landing.py                   # under three minutes on one core; docs/landing.md has its tables
    python jobs/landing.py --iterations 10   # a quick look

A toy, because no network of the zoo's width can predict the noise of 263 features. Data are eight numbers; a text
names one of two actions and a side, and the data's own side is a coin that the text says nothing about: the gap of the
embedded world. One small network a seed learns these data by predicting x0, one of the same size by predicting epsilon,
on the zoo's schedule. Then DDPO teaches each to mind the word, through the package's own policy, learner and algorithm,
with every transition learning, for each landing with and without the balance.

Legend: B rows, F = 1 frame, D features, A actions, S stochastic transitions.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from rl_motion.algorithms import DDPO, group_advantages
from rl_motion.config import AdapterConfig, AlgorithmConfig, PolicyConfig, ScheduleConfig, TrainConfig
from rl_motion.diffusion.schedule import alphas_cumprod
from rl_motion.learner import Learner
from rl_motion.models.adapter import attach_lora
from rl_motion.policies import DiffusionPolicy
from rl_motion.protocols import PredictionType
from rl_motion.types import Experience, Metrics, Motions, Normalisation, Prompt, Representation, Unit

SCHEDULE = ScheduleConfig(betas="linear", timesteps=1000)
ACTIONS, SIDES, FEATURES = ("wave", "kick"), ("left", "right"), 8
SPREAD = 0.2
"""Std of the data around their mode, in every feature; the modes themselves have about unit variance."""
NEAR = 1.5
"""A sample as far from its mode as this, in units of the data's own distance, is no success."""
LEARNING_RATE: dict[PredictionType, float] = {"sample": 1.2e-2, "epsilon": 2.4e-2}
"""The best by mean success over all variants on seed 100, which is not reported: of 3, 6 and 12e-3 for x0 (.71, .79 and
.83), of 6, 12 and 24e-3 for the noise (.50, .531 and .533)."""
LANDINGS: dict[str, dict[str, object]] = {
    "frozen, last timestep": {"last_step": "frozen"},
    "frozen, sigma 0.1": {"last_step": "frozen", "landing": 0.1},
    "frozen, sigma_min": {"last_step": "frozen", "landing": "sigma_min"},
    "stop, sigma 0.1": {"last_step": "stop", "landing": 0.1},
    "stop, sigma_min": {"last_step": "stop", "landing": "sigma_min"},
}
BALANCES = ("snr", "none")
COMMON = {"clip_range": 0.2, "inner_epochs": 2, "kl_weight": 0.05}
"""Of every variant's algorithm. Two passes, as the first cannot clip; without a KL networks of the noise drift away."""
PREDICTIONS: tuple[PredictionType, ...] = ("sample", "epsilon")


class World:
    """Two modes for each action, one for each side, far apart as left and right are; the same for every seed."""

    def __init__(self) -> None:
        """Draw the modes."""
        generator = torch.Generator().manual_seed(0)
        centre_A1D = torch.randn(len(ACTIONS), 1, FEATURES, generator=generator) * math.sqrt(0.5)
        offset_A1D = torch.randn(len(ACTIONS), 1, FEATURES, generator=generator) * math.sqrt(0.5)
        self.mode_A2D = centre_A1D + torch.tensor([-1.0, 1.0])[:, None] * offset_A1D

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Data [B, 1, D] with what is said of them [B, 4]: the action, and a word that the side does not heed."""
        action_B, coin_B, word_B = (torch.randint(n, (batch,), generator=generator) for n in (len(ACTIONS), 2, 2))
        noise_BD = torch.randn(batch, FEATURES, generator=generator)
        return (self.mode_A2D[action_B, coin_B] + SPREAD * noise_BD)[:, None], said(action_B, word_B)

    def judge(self, x_B1D: Tensor, condition_B4: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each row is nearer the side that its word names, and its distance to the nearer mode, both [B].

        1 is the data's own root mean square distance.
        """
        action_B, word_B = condition_B4[:, : len(ACTIONS)].argmax(dim=1), condition_B4[:, len(ACTIONS) :].argmax(dim=1)
        distance_B2 = (x_B1D - self.mode_A2D[action_B]).square().mean(dim=2).sqrt() / SPREAD
        return distance_B2.argmin(dim=1) == word_B, distance_B2.amin(dim=1)


def said(action_B: Tensor, word_B: Tensor) -> Tensor:
    """Action and word, one hot each, [B, 4]."""
    parts = (nn.functional.one_hot(action_B, len(ACTIONS)), nn.functional.one_hot(word_B, len(SIDES)))
    return torch.cat(parts, dim=1).float()


class Network(nn.Module):
    """Small and residual, eight times as wide as the data; the latent also reaches its last layer, as in a U-Net."""

    adapter_targets = {"mlp": ("enter", "one", "two", "leave")}  # noqa: RUF012

    def __init__(self, width: int = 8 * FEATURES, waves: int = 16) -> None:
        """Untrained; `waves` frequencies tell it the time."""
        super().__init__()
        self.register_buffer("frequency", torch.exp(torch.linspace(0.0, math.log(1000.0), waves)))
        self.enter = nn.Linear(FEATURES + len(ACTIONS) + len(SIDES) + 2 * waves, width)
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.leave = nn.Linear(width + FEATURES, FEATURES)

    def forward(self, x_B1D: Tensor, t_B: Tensor, condition_B4: Tensor) -> Tensor:
        """Its raw prediction [B, 1, D]."""
        phase_BW = t_B[:, None] / SCHEDULE.timesteps * self.frequency
        x_BD = x_B1D[:, 0]
        hidden_BW = self.enter(torch.cat([x_BD, condition_B4, phase_BW.sin(), phase_BW.cos()], dim=1))
        for layer in (self.one, self.two):
            hidden_BW = hidden_BW + layer(nn.functional.silu(hidden_BW))
        prediction: Tensor = self.leave(torch.cat([nn.functional.silu(hidden_BW), x_BD], dim=1))
        return prediction[:, None]


class ToyDenoiser:
    """The network as a `Denoiser` (rl_motion.protocols) of motions of one frame."""

    schedule = SCHEDULE
    representation = Representation.HUMANML3D_263
    features, max_frames, mask_frames, canvas = FEATURES, 1, True, None

    def __init__(self, network: nn.Module, prediction_type: PredictionType) -> None:
        """Around a trained network."""
        self.network, self.prediction_type = network, prediction_type

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Of "ACTION SIDE"."""
        words = [text.split() for text in texts]
        action_B, word_B = (
            torch.tensor([names.index(pair[place]) for pair in words]) for place, names in enumerate((ACTIONS, SIDES))
        )
        return said(action_B, word_B)

    def null_condition(self, batch: int) -> Tensor:
        """Nothing said."""
        return torch.zeros(batch, len(ACTIONS) + len(SIDES))

    def both(self, condition: Tensor) -> Tensor:
        """Said, and not said."""
        return torch.cat([condition, torch.zeros_like(condition)])

    def prepare(self, condition: Tensor, length_B: Tensor, frames: int) -> Tensor:
        """As it is."""
        return condition

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Tensor, length_B: Tensor) -> Tensor:
        """The network's raw prediction."""
        prediction: Tensor = self.network(x_BFD, t_B, condition)
        return prediction

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """The latent is the motion."""
        return Motions(x_BFD, length_B, 20.0, self.representation, Normalisation.NONE)


def pretrain(world: World, prediction_type: PredictionType, seed: int, steps: int) -> Network:
    """A network that predicts x0 or the noise of the world's data at any timestep; the loss is plain squared error."""
    torch.manual_seed(seed)
    network, generator = Network(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bar_T = torch.from_numpy(alphas_cumprod(SCHEDULE))
    for _ in range(steps):
        x0_B1D, condition_B4 = world.draw(512, generator)
        t_B = torch.randint(SCHEDULE.timesteps, (len(x0_B1D),), generator=generator)
        noise_B1D = torch.randn(x0_B1D.shape, generator=generator)
        alpha_B11, sigma_B11 = (part[t_B].sqrt().float()[:, None, None] for part in (bar_T, 1.0 - bar_T))
        target_B1D = x0_B1D if prediction_type == "sample" else noise_B1D
        prediction_B1D = network(alpha_B11 * x0_B1D + sigma_B11 * noise_B1D, t_B, condition_B4)
        loss = (prediction_B1D - target_B1D).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    return network


@dataclass(frozen=True, slots=True)
class Found:
    """Success of all fresh samples, and distance from the mode (1: the data's own) of those on the side asked for."""

    success: float
    distance: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the tables: names of LANDINGS and BALANCES."""

    landing: str
    balance: str


@dataclass(frozen=True, slots=True)
class Run:
    """One post-training: before, after a quarter of the iterations, after all; the algorithm's mean metrics."""

    base: Found
    quarter: Found
    tuned: Found
    metrics: Metrics


def unit_of(seed: int, iteration: int, samples: int) -> Unit:
    """Every action with both words."""
    texts = [f"{action} {side}" for action in ACTIONS for side in SIDES]
    return Unit(seed, iteration, 0, tuple(Prompt(text, text, 1) for text in texts), samples)


def measure(world: World, policy: DiffusionPolicy, seed: int) -> Found:
    """On 256 samples whose noise no training sees."""
    unit = unit_of(seed + 1_000_000, 0, 64)
    sample_B1D = policy.rollout(unit).sample
    right_B, distance_B = world.judge(sample_B1D, _condition(unit))
    return Found((right_B & (distance_B < NEAR)).float().mean().item(), distance_B[right_B].mean().item())


def post_train(  # noqa: PLR0913, PLR0917 - an experiment's settings
    world: World, base: Network, prediction_type: PredictionType, variant: Variant, seed: int, iterations: int
) -> Run:
    """DDPO with the reward: 1 on the side that the text names, less half of what a sample is farther than data are."""
    settings: dict[str, object] = {"log_prob": "sum", **LANDINGS[variant.landing]}
    network = copy.deepcopy(base)
    attach_lora(network, AdapterConfig(targets=("mlp",)), seed=seed)
    policy = DiffusionPolicy(ToyDenoiser(network, prediction_type), PolicyConfig.model_validate(settings))
    config = AlgorithmConfig.model_validate(COMMON | {"balance": variant.balance})
    learner = Learner(policy, DDPO(config), TrainConfig(learning_rate=LEARNING_RATE[prediction_type]))
    before, quarter, history = measure(world, policy, seed), None, []
    for iteration in range(iterations):
        unit = unit_of(seed, iteration, 16)
        trajectory = policy.rollout(unit)
        right_B, distance_B = world.judge(trajectory.sample, _condition(unit))
        reward_B = right_B.float() - 0.5 * (distance_B - 1.0).clamp_min(0.0)
        advantage_B = group_advantages(reward_B, unit.samples_per_prompt, config)
        history.append(learner.step([Experience(trajectory, advantage_B, reward_B)]))
        if iteration + 1 == math.ceil(iterations / 4):
            quarter = measure(world, policy, seed)
    assert quarter is not None
    mean = {name: fmean(metrics[name] for metrics in history) for name in history[0]}
    return Run(before, quarter, measure(world, policy, seed), mean | {"policy/kl": history[-1]["policy/kl"]})


def _condition(unit: Unit) -> Tensor:
    return ToyDenoiser(nn.Identity(), "sample").encode_text([prompt.text for prompt in unit.row_prompts])


def _of_steps(runs: Sequence[Run], metric: str) -> str:
    """A metric of each transition, the noisiest first, mean over seeds."""
    names = sorted(name for name in runs[0].metrics if name.startswith(f"policy/{metric}_s"))
    return " ".join(f"{fmean(run.metrics[name] for run in runs):.2f}".removeprefix("0") for name in names)


def _lines(prediction_type: PredictionType, table: dict[tuple[str, str], list[Run]]) -> Iterator[str]:
    """One prediction type's table."""
    columns = ("landing", "balance", "success before", "after a quarter", "after all [lowest, highest]")
    columns += ("distance before", "after", "gradient share of each transition", "clip fraction of each", "KL")
    yield f"\n{prediction_type}, learning rate {LEARNING_RATE[prediction_type]:g}:\n"
    yield f"| {' | '.join(columns)} |"
    yield "| --- " * len(columns) + "|"
    for (landing, balance), runs in table.items():
        before, quarter, tuned = ([getattr(run, when) for run in runs] for when in ("base", "quarter", "tuned"))
        ends = [100 * found.success for found in tuned]
        yield (
            f"| {landing} | {balance} | {100 * fmean(f.success for f in before):.0f} | "
            f"{100 * fmean(f.success for f in quarter):.0f} | {fmean(ends):.0f} [{min(ends):.0f}, {max(ends):.0f}] | "
            f"{fmean(f.distance for f in before):.2f} | {fmean(f.distance for f in tuned):.2f} | "
            f"{_of_steps(runs, 'gradient_share')} | {_of_steps(runs, 'clip_fraction')} | "
            f"{fmean(run.metrics['policy/kl'] for run in runs):.2g} |"
        )


def main(
    iterations: Annotated[int, typer.Option(min=1, help="Of every post-training.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Of every variant: 0, 1, ...; each trains a base of its own.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of a base's own training.")] = 3000,
) -> None:
    """Train the bases, post-train each for every landing and balance, print one table per prediction type."""
    torch.set_num_threads(1)
    world, variants = World(), [(landing, balance) for landing in LANDINGS for balance in BALANCES]
    for prediction_type in PREDICTIONS:
        table: dict[tuple[str, str], list[Run]] = {variant: [] for variant in variants}
        for seed in range(seeds):
            base = pretrain(world, prediction_type, seed, steps)
            for landing, balance in variants:
                started = time.perf_counter()
                run = post_train(world, base, prediction_type, Variant(landing, balance), seed, iterations)
                table[landing, balance].append(run)
                typer.echo(
                    f"{prediction_type}, seed {seed}, {landing}, balance {balance}: {100 * run.base.success:.0f} -> "
                    f"{100 * run.tuned.success:.0f} % in {time.perf_counter() - started:.1f} s",
                    err=True,
                )
        typer.echo("\n".join(_lines(prediction_type, table)))
    typer.echo(
        f"\nSuccess in %, means over {seeds} seeds; distance from the mode of samples on the right side, 1 being the "
        "data's; transitions from the noisiest on; clip fraction of both passes, the first of which clips nothing."
    )


if __name__ == "__main__":
    typer.run(main)
