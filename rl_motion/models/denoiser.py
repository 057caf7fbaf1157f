"""What every motion denoiser shares: its feature space, and the face of a network towards policies.

Legend: B batch, F frames, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models.layers import check_statistics, valid_mask
from rl_motion.models.text import Form
from rl_motion.protocols import PredictionType
from rl_motion.types import MotionForm, Motions, Normalisation, Representation


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """What a model's text embeddings are normalised with: mean_C and std_C (positive)."""

    mean_C: Tensor
    std_C: Tensor


@dataclass(frozen=True, slots=True)
class MotionSpace:
    """The feature space a model was trained in.

    Attributes:
        mean_D: per-feature mean that the model's data were normalised with.
        std_D: per-feature deviation, positive. Conventions differ (data set, "meta", evaluator):
            take the model's own.
        fps: frames per second.
        representation: what the features mean.
        text: for models whose text embeddings were normalised too; None for the others.
        normalisation: whose convention the statistics are.
    """

    mean_D: Tensor
    std_D: Tensor
    fps: float = 20.0
    representation: Representation = Representation.HUMANML3D_263
    text: TextStatistics | None = None
    normalisation: Normalisation = Normalisation.DATASET

    def normalised(self, motions: Motions) -> Motions:
        """Un-normalised motion by these statistics, exactly 0 beyond the length.

        Raises:
            UserError: it is normalised already, or of another representation.
        """
        self._refuse_other(motions, Normalisation.NONE)
        return self._kept(motions, (motions.features_BFD - self.mean_D) / self.std_D, self.normalisation)

    def restored(self, motions: Motions) -> Motions:
        """Un-normalised motion of what these statistics normalised, exactly 0 beyond the length; differentiable.

        Raises:
            UserError: it is un-normalised, normalised by another convention, or of another representation.
        """
        self._refuse_other(motions, self.normalisation)
        return self._kept(motions, motions.features_BFD * self.std_D + self.mean_D, Normalisation.NONE)

    def _refuse_other(self, motions: Motions, wanted: Normalisation) -> None:
        want = MotionForm(self.representation, wanted)
        if motions.form != want:
            raise UserError(
                f"got motion as {motions.form}; want {want}; restore it with the statistics that it was normalised "
                "with, if any, and normalise it with the ones wanted"
            )

    @staticmethod
    def _kept(motions: Motions, features_BFD: Tensor, normalisation: Normalisation) -> Motions:
        valid_BF1 = valid_mask(motions.length_B, features_BFD.shape[1]).unsqueeze(-1)
        kept_BFD = torch.where(valid_BF1, features_BFD, torch.zeros_like(features_BFD))
        return replace(motions, features_BFD=kept_BFD, normalisation=normalisation)


class MotionDenoiser(nn.Module, ABC):
    """A network as a `Denoiser` (rl_motion.protocols); a subclass says how texts condition it.

    `network` is what LoRA attaches to: `network(x_BFD, t_B, condition, length_B)`, its `config` with `features`,
    `max_frames` and `mask_frames`. The statistics are buffers here, not of the network.
    """

    normalises_text: ClassVar[bool] = False
    """Whether text embeddings are normalised, so that the space must bring their statistics."""
    mean_D: Tensor
    std_D: Tensor

    def __init__(
        self,
        network: nn.Module,
        schedule: ScheduleConfig,
        space: MotionSpace,
        prediction_type: PredictionType = "sample",
    ) -> None:
        """Combine a network with its noise schedule, its feature space and what it was trained to predict.

        Raises:
            ValueError: the statistics are not [`motion_features`], or a deviation is not positive; or statistics of
                text are missing, or there where nobody reads them.
        """
        super().__init__()
        config: Any = network.config
        check_statistics(space.mean_D, space.std_D, self.motion_features(config))
        if (space.text is not None) != self.normalises_text:
            raise ValueError(
                f"got {'no' if space.text is None else 'a'} mean and std of text for {type(network).__name__}, whose "
                f"text embeddings are {'' if self.normalises_text else 'not '}normalised; want "
                f"{'those' if self.normalises_text else 'none'}; take the statistics that this model was trained with"
            )
        self.prediction_type: PredictionType = prediction_type
        self.schedule = schedule
        self.representation = space.representation
        self.normalisation = space.normalisation
        self.network = network
        self.features: int = config.features
        self.fps = space.fps
        self.mask_frames: bool = config.mask_frames
        self.max_frames: int = config.max_frames
        self.canvas = self.canvas_of(config)
        self.register_buffer("mean_D", space.mean_D.detach().clone())
        self.register_buffer("std_D", space.std_D.detach().clone())

    @classmethod
    def motion_features(cls, shape: Any) -> int:
        """Features D of a frame of the motion that `decode` gives; here the latents'."""
        return int(shape.features)

    @classmethod
    def canvas_of(cls, shape: Any) -> int | None:
        """Frames that a network of this shape always works on, whatever the motion's length; None: the motion's own."""
        return None

    @classmethod
    def reads_text(cls, shape: Any) -> Form:
        """What a network of this shape reads of a text: which of the text encoder's methods `encode_text` calls."""
        return "pooled"

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Any:
        """The condition of these texts, one row each, on the model's device."""

    @abstractmethod
    def null_condition(self, batch: int) -> Any:
        """The condition of the unconditional half of guidance."""

    def condition_rows(self, condition: Any, row_B: Tensor, kept_B: Tensor) -> Any:
        """Rows of a condition in a given order, the null condition where `kept_B` is False: a batch of pretraining.

        This one is for conditions that are a tensor, one row per text, and so is their null condition.
        """
        rows: Tensor = condition[row_B]
        kept = kept_B.view(-1, *[1] * (rows.ndim - 1))
        return torch.where(kept, rows, self.null_condition(len(row_B)))

    def both(self, condition: Any) -> Any:
        """The condition's rows, then as many of the null condition."""
        row_B = torch.arange(len(condition), device=self.mean_D.device)
        kept_2B = torch.arange(2, device=row_B.device).repeat_interleave(len(row_B)) == 0
        return self.condition_rows(condition, row_B.repeat(2), kept_2B)

    def prepare(self, condition: Any, length_B: Tensor, frames: int) -> Any:
        """What the network makes of them alone (`network.prepare`), where it makes anything."""
        prepare = getattr(self.network, "prepare", None)
        return condition if prepare is None else prepare(condition, length_B, frames)

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Any, length_B: Tensor) -> Tensor:
        """The network's prediction [B, F, D] (`prediction_type`, normalised) from a condition of its own form."""
        output_BFD: Tensor = self.network(x_BFD, t_B, condition, length_B)
        return output_BFD

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """Un-normalised features, exactly 0 beyond the length; differentiable."""
        space = MotionSpace(self.mean_D, self.std_D, self.fps, self.representation, normalisation=self.normalisation)
        return space.restored(Motions(x_BFD, length_B, self.fps, self.representation, self.normalisation))


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
