"""What every motion denoiser shares: its feature space, and the face of a network towards policies.

Legend: B batch, F frames, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig
from rl_motion.models.layers import check_statistics, valid_mask
from rl_motion.protocols import PredictionType
from rl_motion.types import Motions, Normalisation, Representation


@dataclass(frozen=True, slots=True)
class MotionSpace:
    """The feature space a model was trained in.

    Attributes:
        mean_D: per-feature mean that the model's data were normalised with.
        std_D: per-feature deviation, positive. Conventions differ (data set, "meta", evaluator):
            take the model's own.
        fps: frames per second.
        representation: what the features mean.
    """

    mean_D: Tensor
    std_D: Tensor
    fps: float = 20.0
    representation: Representation = Representation.HUMANML3D_263


class MotionDenoiser(nn.Module, ABC):
    """A network that predicts x0 as a `Denoiser` (rl_motion.protocols); a subclass says how texts condition it.

    `network` is what LoRA attaches to: `network(x_BFD, t_B, condition, length_B)`, its `config` with `features`,
    `max_frames` and `mask_frames`. The statistics are buffers here, not of the network.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, network: nn.Module, schedule: ScheduleConfig, space: MotionSpace) -> None:
        """Combine a network with its noise schedule and its feature space.

        Raises:
            ValueError: the statistics are not [features], or a deviation is not positive.
        """
        super().__init__()
        config: Any = network.config
        check_statistics(space.mean_D, space.std_D, config.features)
        self.prediction_type: PredictionType = "sample"
        self.schedule = schedule
        self.representation = space.representation
        self.network = network
        self.features: int = config.features
        self.fps = space.fps
        self.mask_frames: bool = config.mask_frames
        self.max_frames: int = config.max_frames
        self.canvas: int | None = None
        self.register_buffer("mean_D", space.mean_D.detach().clone())
        self.register_buffer("std_D", space.std_D.detach().clone())

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Any:
        """The condition of these texts, one row each, on the model's device."""

    @abstractmethod
    def null_condition(self, batch: int) -> Any:
        """The condition of the unconditional half of guidance."""

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Any, length_B: Tensor) -> Tensor:
        """Predict x0 [B, F, D] (normalised) from the noisy motion and a condition of this model's own form."""
        x0_BFD: Tensor = self.network(x_BFD, t_B, condition, length_B)
        return x0_BFD

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """Un-normalised features, exactly 0 beyond the length; differentiable."""
        valid_BF1 = valid_mask(length_B, x_BFD.shape[1]).unsqueeze(-1)
        features_BFD = x_BFD * self.std_D + self.mean_D
        features_BFD = torch.where(valid_BF1, features_BFD, torch.zeros_like(features_BFD))
        return Motions(features_BFD, length_B, self.fps, self.representation, Normalisation.NONE)


def check_text_width(condition: Tensor, text_dim: int) -> Tensor:
    """The text embeddings themselves, if they are as wide as the network reads.

    Raises:
        ValueError: they are not.
    """
    if condition.shape[-1] != text_dim:
        raise ValueError(
            f"got text embeddings of {condition.shape[-1]} channels; want {text_dim}; "
            "use the text encoder that the model was trained with"
        )
    return condition
