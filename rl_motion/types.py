"""Frozen values that cross processes, from prompts to metrics.

Legend: B samples of a unit (prompts x samples per prompt, prompt-major), S stochastic steps (a diffusion's transitions,
a sequence's tokens), T = S + 1 states, F frames of the unit's canvas, D features of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

Metrics = dict[str, float]
"""Scalars by name, `stage/name`; whoever computes them returns them, only the loop records them."""

AdapterState = Mapping[str, Tensor]
"""LoRA tensors by sorted name: the only weights that train and travel."""


class Representation(StrEnum):
    """What the last axis of a motion tensor means."""

    HUMANML3D_263 = "humanml3d-263"
    SMPLRIFKE_205 = "smplrifke-205"
    KIT_251 = "kit-251"  # millimetres, as KIT-ML has them; the others are in metres


class Normalisation(StrEnum):
    """How the features are scaled. Four conventions coexist in the field; mixing them is the classic silent bug.

    Each has statistics of its own, so none becomes another by a factor: motion is un-normalised by those that it was
    normalised with (`MotionSpace.restored`), and whoever reads another convention starts from there.
    """

    NONE = "none"
    DATASET = "dataset"  # a data set's own Mean and Std
    STABLEMOFUSION = "stablemofusion"  # its meta/: the deviation of the root and of the contacts divided by 5
    EVALUATOR = "guo-evaluator"  # the Guo evaluator's: divided by 25
    TMR = "tmr"  # TMR's: of its training clips, a deviation for every column


class MotionForm(NamedTuple):
    """How to read a motion tensor: what a model's `decode` gives, and what a reward accepts."""

    representation: Representation
    normalisation: Normalisation

    def __str__(self) -> str:
        """In words, for messages."""
        scale = "un-normalised" if self.normalisation == Normalisation.NONE else f"normalised by {self.normalisation}"
        return f"{self.representation} {scale}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text-only prompt. `id` is a hash of its content; `group` names its action, for reports and oracles."""

    id: str
    text: str
    length: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class Motions:
    """Generated motions: features_BFD (zero beyond length), length_B (int64), frames per second.

    Stays on the autograd graph where it was made with gradient.
    """

    features_BFD: Tensor
    length_B: Tensor
    fps: float
    representation: Representation
    normalisation: Normalisation

    @property
    def form(self) -> MotionForm:
        """How to read the features."""
        return MotionForm(self.representation, self.normalisation)

    def to(self, device: torch.device | str) -> Motions:
        """The same on that device."""
        return replace(self, features_BFD=self.features_BFD.to(device), length_B=self.length_B.to(device))


@dataclass(frozen=True, slots=True)
class Unit:
    """A fixed-size piece of work: `samples_per_prompt` motions for each prompt.

    Its noise is keyed by (seed, iteration, prompt id, sample, step): who computes it, and when, changes nothing.
    """

    seed: int
    iteration: int
    index: int
    prompts: tuple[Prompt, ...]
    samples_per_prompt: int
    watched: bool = False
    """Whether who scores it measures its motions' sentinels too."""

    @property
    def batch(self) -> int:
        """B: rows of the unit, prompt-major (row = prompt * samples_per_prompt + sample)."""
        return len(self.prompts) * self.samples_per_prompt

    @property
    def row_prompts(self) -> tuple[Prompt, ...]:
        """The prompt of each row."""
        return tuple(p for p in self.prompts for _ in range(self.samples_per_prompt))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a rollout leaves behind for scoring and replay; knows its origin.

    What a state and a sample are is the policy's own affair: nobody else looks inside.

    states: [B, T, ...], as stored: where the rows start, then what each step drew. Latents [B, T, F, D] of a diffusion,
    from pure noise on; tokens [B, T] (int64) of a sequence, from its start token on.
    log_prob_BS: behaviour log-probs, 0 where nothing was drawn.
    drawn_BS: bool, which steps a row has: all of a diffusion's, a sequence's up to and with its end token. S is the
    same in every unit.
    sample: [B, ...], what the policy's model decodes: x0 [B, F, D], normalised motion or a model's own latent; tokens.
    length_B: frames of the motion that it decodes to.
    """

    unit: Unit
    states: Tensor
    log_prob_BS: Tensor
    drawn_BS: Tensor
    sample: Tensor
    length_B: Tensor
    policy_version: int
    adapter_sha256: str
    schedule_hash: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Rewards of one unit: each by name, unweighted, and their weighted sum, all [B]; sentinels of a watched one."""

    unit_index: int
    rewards: Mapping[str, Tensor]
    total_B: Tensor
    sentinels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experience:
    """What the learner reads for one unit: the trajectory, and of each row its advantage and its total reward [B].

    The reward itself is for algorithms with a critic, whose advantages are their own.
    """

    trajectory: Trajectory
    advantage_B: Tensor
    reward_B: Tensor


@dataclass(frozen=True, slots=True)
class UnitGradient:
    """What one unit adds to an optimiser step, computed from zero: who computes it changes nothing.

    gradient: of the loss times the unit's share of the step's rows, by name of the parameter, on the CPU; without the
    parameters that the loss does not use.
    loss: not multiplied by that share. metrics: what the algorithm recorded.
    unsound: what of the unit is not finite, in words; empty where all is. The step that it is part of is skipped.
    """

    unit: Unit
    loss: float
    gradient: Mapping[str, Tensor]
    metrics: Metrics
    unsound: str
