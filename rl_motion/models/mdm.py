"""MDM, the transformer-encoder motion diffusion model (arXiv:2209.14916), and its face towards policies.

Parameter names are those of the official `trans_enc` checkpoints, for any width. Differs from the official
class: tensors are [B, F, D] (official: [B, D, 1, F]); text is never dropped inside `forward`, so a caller
that forgot `eval()` cannot change the condition; attention has one path with and without gradients
(`rl_motion.models.layers`).

Legend: B batch, F frames, D features, C text or latent channels, L prefix token and frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, check_text_width
from rl_motion.models.layers import Encoder, LayerConfig, PositionalEncoding, TimestepEmbedder, valid_mask
from rl_motion.protocols import PredictionType


@dataclass(frozen=True, slots=True)
class MDMConfig:
    """Architecture of an `MDM`; the defaults are the official HumanML3D model (17.9 M parameters).

    Attributes:
        features: features per frame D (263 HumanML3D, 251 KIT).
        latent_dim: channels of the residual stream.
        ff_size: hidden channels of the feed-forward parts.
        num_layers: encoder layers.
        num_heads: attention heads.
        text_dim: channels of the pooled text embedding.
        mask_frames: whether frames beyond the length are hidden from attention (old official checkpoints:
            no).
        pos_embed_max_len: size of the position table, which also embeds time: above the frames and at least
            the number of timesteps.
        dropout: active in `train()` only.
    """

    features: int = 263
    latent_dim: int = 512
    ff_size: int = 1024
    num_layers: int = 8
    num_heads: int = 4
    text_dim: int = 512
    mask_frames: bool = False
    pos_embed_max_len: int = 5000
    dropout: float = 0.1

    @property
    def max_frames(self) -> int:
        """The longest motion: the position table, less the prefix token."""
        return self.pos_embed_max_len - 1


class MDM(nn.Module):
    """The denoising network: (x_t, t, text) -> x_0 or what else it was trained to predict.

    One prefix token carries time plus text.
    """

    adapter_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": ("in_proj", "out_proj"),
        "mlp": ("linear1", "linear2"),
        "condition": ("embed_text",),
    }

    def __init__(self, config: MDMConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        width = config.latent_dim
        layer = LayerConfig(width, config.ff_size, config.num_heads, config.dropout)
        self.input_process = _Named("poseEmbedding", nn.Linear(config.features, width))
        self.sequence_pos_encoder = PositionalEncoding(width, dropout=config.dropout, max_len=config.pos_embed_max_len)
        self.seqTransEncoder = Encoder(layer, config.num_layers)
        self.embed_timestep = TimestepEmbedder(width, self.sequence_pos_encoder)
        self.embed_text = nn.Linear(config.text_dim, width)
        self.output_process = _Named("poseFinal", nn.Linear(width, config.features))

    def forward(self, x_BFD: Tensor, t_B: Tensor, text_BC: Tensor | None, length_B: Tensor) -> Tensor:
        """Predict the clean motion, or what else the network was trained to.

        Args:
            x_BFD: noisy normalised features.
            t_B: integer timesteps, below `pos_embed_max_len`.
            text_BC: pooled text embeddings; a row of zeros, or None for the whole batch, is the null
                condition (the bias of `embed_text` remains, as in the official code).
            length_B: valid frames per row; without `mask_frames` they are not looked at.

        Returns:
            The prediction [B, F, D]; values beyond the length are meaningless but finite.

        Raises:
            ValueError: the frames do not fit the position table, or the features are not those of the model.
        """
        if x_BFD.shape[-1] != self.config.features:
            raise ValueError(
                f"got {x_BFD.shape[-1]} features per frame; want {self.config.features}; "
                "choose a model of the data's representation"
            )
        if text_BC is None:
            text_BC = x_BFD.new_zeros(x_BFD.shape[0], self.config.text_dim)
        prefix_B1C = (self.embed_text(text_BC) + self.embed_timestep(t_B)).unsqueeze(1)
        sequence_BLC = torch.cat([prefix_B1C, self.input_process(x_BFD.contiguous())], dim=1)
        sequence_BLC = self.sequence_pos_encoder(sequence_BLC)
        valid_BL = valid_mask(length_B + 1, sequence_BLC.shape[1]) if self.config.mask_frames else None
        hidden_BLC = self.seqTransEncoder(sequence_BLC, valid_BL)
        output_BFD: Tensor = self.output_process(hidden_BLC[:, 1:].contiguous())
        return output_BFD


class TextConditioner(Protocol):
    """What `MDMDenoiser` needs of a text encoder (`rl_motion.models.text.TextEncoder` is one)."""

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """One embedding per text, [B, C]."""
        ...


class MDMDenoiser(MotionDenoiser):
    """MDM as a `Denoiser` (rl_motion.protocols); its conditions are [B, text_dim].

    The text encoder is no submodule: it is neither trained nor saved with the model.
    """

    def __init__(
        self,
        network: MDM,
        schedule: ScheduleConfig,
        *,
        space: MotionSpace,
        text_encoder: TextConditioner,
        prediction_type: PredictionType = "sample",
    ) -> None:
        """Combine a network with its noise schedule, its feature space, its text encoder and what it predicts.

        Raises:
            ValueError: the statistics are not [features], or a deviation is not positive.
        """
        super().__init__(network, schedule, space, prediction_type)
        self._text_dim = network.config.text_dim
        self._text_encoder = text_encoder

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Pooled embeddings [B, text_dim] on the model's device.

        Raises:
            ValueError: the text encoder's width is not the network's `text_dim`.
        """
        return check_text_width(self._text_encoder.pooled(texts), self._text_dim).to(self.mean_D)

    def null_condition(self, batch: int) -> Tensor:
        """The unconditional rows: zeros [batch, text_dim] *before* `embed_text`, as the official sampler."""
        return self.mean_D.new_zeros(batch, self._text_dim)


class _Named(nn.Module):
    """One linear layer under the extra level of naming that the official checkpoints have."""

    def __init__(self, name: str, linear: nn.Linear) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, linear)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = getattr(self, self._name)(x)
        return output
