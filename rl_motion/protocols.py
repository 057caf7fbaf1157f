"""The seams, nothing else: what a model, a policy, a reward and an algorithm must offer.

Legend: B rows, S stochastic steps (a diffusion's transitions, a sequence's tokens), F frames, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from rl_motion.config import ScheduleConfig
from rl_motion.types import (
    AdapterState,
    Experience,
    Metrics,
    MotionForm,
    Motions,
    Prompt,
    Representation,
    Trajectory,
    Unit,
)

PredictionType = Literal["epsilon", "sample", "v_prediction"]
"""What a network predicts, in diffusers' names: the noise, x0, or v = alpha noise - sigma x0 (arXiv:2202.00512)."""

Need = Literal["snr", "denoising", "reward_gradient"]
"""What an algorithm may need beside log-probs: `Replay.gain_S`, a `DenoisingPolicy`, rewards that keep the graph."""


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion network with its text encoder, its schedule and its way back to motion."""

    prediction_type: PredictionType
    schedule: ScheduleConfig
    representation: Representation
    features: int
    """D of the latent that `predict` reads and writes; D of `decode`'s motion may be another."""
    max_frames: int
    """The longest motion that it makes."""
    mask_frames: bool
    """Whether frames beyond the length are hidden from the network; if not, a unit has one length or a canvas."""
    canvas: int | None
    """Frames of every latent, all of them seen and scored whatever a row's length: the longest motion of a model that
    sees padding, or the tokens of a latent that is no sequence of frames (MLD: 1 x 256). None: a latent has a motion's
    frames, as many as a unit's longest row, of which a row's length is scored."""
    network: nn.Module
    """What the adapter attaches to."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Condition for these texts, one row each; opaque to the policy."""

    def null_condition(self, batch: int) -> Any:
        """Condition of the unconditional half of classifier-free guidance."""

    def both(self, condition: Any) -> Any:
        """Condition of twice the rows: these, then as many unconditional ones. Guidance is one call for both halves."""

    def prepare(self, condition: Any, length_B: Tensor, frames: int) -> Any:
        """What `predict` reads of a condition for latents of `frames` frames, whatever their values and the timestep.

        Asked for once a trajectory and state of the adapter, with gradient where it has any: text layers, keys and
        values, what is masked. Where there is nothing of the kind, the condition itself.
        """

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Any, length_B: Tensor) -> Tensor:
        """The network's raw prediction [B, F, D] (see prediction_type) at integer timesteps t_B.

        condition: as `encode_text`, `null_condition` or `both` gave it, or as `prepare` made it of that.
        `length_B`: frames of each row's motion, here as everywhere.
        """

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """Un-normalised motion features of a clean latent; differentiable."""


class Replay(Protocol):
    """A trajectory's steps under some parameters; what their distributions are is the policy's own affair."""

    @property
    def log_prob_BS(self) -> Tensor:
        """Log-probs of what was drawn, float64, 0 where nothing was; with gradient."""

    @property
    def gain_S(self) -> Tensor | None:
        """How many stds each step's mean moves per unit of the network's raw prediction (x0, noise or v).

        For x0 that is k_t, the square root of the SNR gained. None: the steps have no such scale, so there is nothing
        to balance.
        """

    def kl(self, reference: Self) -> Tensor:
        """Exact KL [B, S] of each step's distribution to the reference's, given the same states before it.

        Reduced as the log-probs are, float64, 0 where nothing was drawn; with gradient.
        """

    def gradient_norm(self, loss: Tensor) -> Tensor:
        """Norm [S] of the loss's gradient with respect to what the network predicted at each step.

        The raw prediction: x0, noise, v or logits. Costs no backward pass through the network and keeps the graph.
        """


@runtime_checkable
class MotionPolicy(Protocol):
    """A model seen as a stochastic policy: samples trajectories and scores them again with gradient."""

    schedule_hash: str
    offers: frozenset[Need]
    """What an algorithm may need and this policy has."""

    @property
    def constants(self) -> Metrics:
        """What every iteration's metrics say of the policy; mostly nothing."""

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        """Sample the unit, without gradient."""

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> Replay:
        """Score the trajectory's steps under the current parameters; `adapter=False`: the reference's.

        `first`: only that many, in the order they were drawn (a diffusion's noisiest); S is then that number.
        """

    def decode(self, trajectory: Trajectory) -> Motions:
        """The trajectory's final motion, un-normalised."""

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's own trainable parameters, by sorted name (what the learner optimises)."""

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter."""

    def load_adapter_state(self, state: AdapterState) -> None:
        """Replace the adapter, strictly."""


@dataclass(frozen=True, slots=True)
class Denoising:
    """A unit on its way from noise to motion under the parameters of the moment, for methods that differentiate it.

    Gradient flows through everything that has it: detach where it must not. Noise is that of the unit's rollout.

    noise_BFD: where it starts. sigma: noise scale of the S + 1 latents, alpha^2 + sigma^2 = 1.
    step: (k, latent, x0 predicted one step before, None at the first) -> (x0 predicted at the latent, next latent).
    reference: (k, latent) -> x0 that the reference (adapter off) predicts there; without gradient.
    elements_B: scored elements of each row's latent, float64; a predicted x0 is zero elsewhere.
    finish: the last latent -> the final sample, as `Trajectory.sample`.
    decode: a predicted x0 or the final sample -> un-normalised motion.
    """

    noise_BFD: Tensor
    sigma: tuple[float, ...]
    step: Callable[[int, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    reference: Callable[[int, Tensor], Tensor]
    elements_B: Tensor
    finish: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Motions]


@runtime_checkable
class DenoisingPolicy(MotionPolicy, Protocol):
    """A policy that offers `denoising`."""

    def denoising(self, unit: Unit) -> Denoising:
        """The unit, about to be denoised; encodes its texts once."""


@runtime_checkable
class Reward(Protocol):
    """Scores motions against their prompts, higher is better."""

    accepts: frozenset[MotionForm]
    """A job whose model decodes to another form is refused before anything starts."""
    differentiable: bool

    def __call__(self, motions: Motions, prompts: Sequence[Prompt], noise_level_B: Tensor | None = None) -> Tensor:
        """Reward [B] of each motion for its row's prompt; `motions` are in a form that it accepts."""


class Objective(Protocol):
    """The job's weighted sum of rewards, on the graph where motions and rewards are; made on first use."""

    def __call__(self, motions: Motions, unit: Unit, noise_level_B: Tensor | None = None) -> Tensor:
        """Total reward [B] of a unit's motions; `noise_level_B` reaches every reward as it is."""


@runtime_checkable
class Algorithm(Protocol):
    """A loss over experience. It never logs and never touches Ray or the optimiser."""

    needs: frozenset[Need]
    """A job whose policy or rewards do not offer these is refused before anything starts."""
    reads: frozenset[str]
    """The settings, keys of `AlgorithmConfig`, that change what it does: a job that sets another one is refused."""
    inner_epochs: int
    state: dict[str, Tensor]
    """What it carries from one iteration to the next, by name; the learner commits and restores it. Mostly empty."""
    parameters: dict[str, nn.Parameter]
    """Of modules of its own (a critic), by name; the learner trains and commits them with the adapter. Mostly empty."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        """One unit's pass: a loss for every optimiser step, and what to record about it.

        A loss is a mean over the unit's rows (scalar, with gradient), by which units are weighed: over steps it is a
        sum divided by a constant, S mostly, not by what the unit happened to draw. Between two losses the learner
        steps, so that what follows a `yield` meets the new parameters. Most algorithms yield once. Units that share
        optimiser steps go through them together: all yield equally often. A metric that a loss has no value for is
        left out.
        """

    def adapt(self, metrics: Metrics) -> None:
        """After every iteration, with its mean metrics: bring `state` up to date.

        Steps that were skipped, as something in them was not finite, do not count in the means; what only they recorded
        is left out. Not called where all were skipped.
        """
