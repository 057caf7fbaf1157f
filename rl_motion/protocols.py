"""The seams, nothing else: what a model, a policy, a reward and an algorithm must offer.

Legend: B rows, S stochastic transitions, F frames, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

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


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion network with its text encoder, its schedule and its way back to motion."""

    prediction_type: PredictionType
    schedule: ScheduleConfig
    representation: Representation
    features: int
    """D of the latent that `predict` reads and writes."""
    mask_frames: bool
    """Whether frames beyond the length are hidden from the network; if not, a unit has one length or a canvas."""
    canvas: int | None
    """Frames of every latent, all of them seen and scored whatever a row's length; None: as many as a unit's longest
    row, of which a row's length is scored."""
    network: nn.Module
    """What the adapter attaches to."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Condition for these texts, one row each; opaque to the policy."""

    def null_condition(self, batch: int) -> Any:
        """Condition of the unconditional half of classifier-free guidance."""

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Any, length_B: Tensor) -> Tensor:
        """The network's raw prediction [B, F, D] (see prediction_type) at integer timesteps t_B."""

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """Un-normalised motion features; differentiable."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A trajectory's log-probs and each transition's mean and std under the current parameters.

    log_prob_BS [B, S], float64; mean_BSFD [B, S, F, D], zero beyond the scored frames (a row's length, or the whole
    canvas where the model has one); std_S [S], the same for every row.
    gain_S [S]: stds that the mean moves per unit of predicted x0 (k_t, the square root of the SNR gained).
    scale_B [B]: factor of a row's sum over elements (1 for `sum`, 1 / (scored frames * D) for `mean`).
    """

    log_prob_BS: Tensor
    mean_BSFD: Tensor
    std_S: Tensor
    gain_S: Tensor
    scale_B: Tensor


@runtime_checkable
class MotionPolicy(Protocol):
    """A model seen as a stochastic policy: samples trajectories and scores them again with gradient."""

    schedule_hash: str

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        """Sample the unit, without gradient."""

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> Replay:
        """Score the trajectory's transitions under the current parameters; `adapter=False`: the reference's.

        `first`: only that many, the noisiest; S is then that number.
        """

    def decode(self, trajectory: Trajectory) -> Motions:
        """The trajectory's final motion, un-normalised."""

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's own trainable parameters, by sorted name (what the learner optimises)."""

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter."""

    def load_adapter_state(self, state: AdapterState) -> None:
        """Replace the adapter, strictly."""


@runtime_checkable
class Reward(Protocol):
    """Scores motions against their prompts, higher is better."""

    accepts: frozenset[MotionForm]
    """A job whose model decodes to another form is refused before anything starts."""
    differentiable: bool

    def __call__(self, motions: Motions, prompts: Sequence[Prompt], noise_level_B: Tensor | None = None) -> Tensor:
        """Reward [B] of each motion for its row's prompt; `motions` are in a form that it accepts."""


@runtime_checkable
class Algorithm(Protocol):
    """A loss over experience. It never logs and never touches Ray."""

    needs: frozenset[str]
    inner_epochs: int
    state: dict[str, Tensor]
    """What it carries from one iteration to the next, by name; the learner commits and restores it. Mostly empty."""

    def loss(self, policy: MotionPolicy, batch: Experience) -> tuple[Tensor, Metrics]:
        """Mean loss over the rows of one unit (scalar, with gradient) and what to record about it."""

    def adapt(self, metrics: Metrics) -> None:
        """After every iteration, with its mean metrics: bring `state` up to date."""
