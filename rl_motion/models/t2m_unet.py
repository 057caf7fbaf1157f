"""StableMoFusion's denoiser `T2MUnet` (arXiv:2405.05691), and its face towards policies.

Parameter names are those of the official checkpoints (h-y1heng/StableMoFusion, `checkpoint["model_ema"]` without
`clip_model.*`), for any width. Differs from the official class: text is never dropped inside `forward`, so a caller
that forgot `eval()` cannot change the condition; what CLIP says of a text comes in from outside, and only the
trainable layers behind it belong to the network; attention has one path with and without gradients.

Legend: B batch, F frames, D features, M text tokens, C channels of the text encoder, E text channels of the U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, check_text_width
from rl_motion.models.layers import Encoder, LayerConfig, valid_mask
from rl_motion.models.t2m_unet_layers import Memory, Text, UNet, UNetConfig
from rl_motion.models.text import Form
from rl_motion.protocols import PredictionType
from rl_motion.types import Motions

_FRAMES_MULTIPLE = 16
"""To which the official code pads frames, whatever the number of levels: visible padding is part of the function.
Where frames are masked it is none, and they are padded to what the levels need."""


@dataclass(frozen=True, slots=True)
class T2MUnetConfig:
    """Architecture of a `T2MUnet`; the defaults are the official HumanML3D model (299.0 M parameters).

    Attributes:
        features: features per frame D (263 HumanML3D, 251 KIT).
        base_dim: channels of the U-Net before multiplication.
        dim_mults: one level each, its channels `base_dim` times this; every level halves the frames.
        time_dim: channels of the time embedding.
        text_dim: channels C of the text encoder's tokens.
        text_latent_dim: channels E that the U-Net attends to.
        text_ff_size: hidden channels of the text layers' feed-forward parts.
        text_num_heads: attention heads of the text layers.
        num_text_layers: text layers between the text encoder and the U-Net.
        linear_attention: linear cross-attention (official: `no_eff=False`); else full.
        mask_frames: whether frames beyond the length are hidden. False, official weights: the network sees its
            whole canvas of `max_frames`, noise beyond the length included, so sampling and log-probs cover the
            canvas. True, weights trained so: a motion is computed as if alone, and log-probs cover its length.
        mask_tokens: whether a text's padding is hidden. False, official weights: all of the text encoder's
            token positions are seen (77, CLIP's). True, weights trained so: a text's own tokens alone.
        max_frames: the longest motion, and the canvas where frames are not masked.
        dropout: active in `train()` only.
    """

    features: int = 263
    base_dim: int = 512
    dim_mults: tuple[int, ...] = (2, 2, 2, 2)
    time_dim: int = 512
    text_dim: int = 512
    text_latent_dim: int = 256
    text_ff_size: int = 2048
    text_num_heads: int = 4
    num_text_layers: int = 4
    linear_attention: bool = True
    mask_frames: bool = False
    mask_tokens: bool = False
    max_frames: int = 196
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """A list of multipliers, as JSON has it, becomes a tuple."""
        object.__setattr__(self, "dim_mults", tuple(self.dim_mults))


@dataclass(frozen=True, slots=True)
class TextTokens:
    """What a text encoder says: tokens_BMC (finite), and how many of them each row may see, length_B.

    A row of length 0 is unconditional: it skips cross-attention.
    """

    tokens_BMC: Tensor
    length_B: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.length_B)


Memories = tuple[Memory, ...]
"""What a `T2MUnet` makes of texts."""


class T2MUnet(nn.Module):
    """The denoising network: (x_t, t, text) -> x_0 or what else it was trained to predict.

    Text comes in by cross-attention from every block of a U-Net.

    LoRA reaches its linear layers: `attention` is the cross-attention, `mlp` the time embedding and the scales and
    shifts that it gives every block (AdaGN), `condition` the text layers. Convolutions stay frozen.
    """

    adapter_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": ("query", "key", "value"),
        "mlp": ("time_mlp.1", "time_mlp.3"),
        "condition": ("embed_text", "in_proj", "out_proj", "linear1", "linear2"),
    }

    def __init__(self, config: T2MUnetConfig) -> None:
        """Build the network with random weights; the last convolution starts at zero, as the official one does.

        Raises:
            ValueError: widths that group norm or attention heads cannot share.
        """
        super().__init__()
        self.config = config
        width = config.text_latent_dim
        layer = LayerConfig(width, config.text_ff_size, config.text_num_heads, config.dropout)
        self.embed_text = nn.Linear(config.text_dim, width)
        self.textTransEncoder = Encoder(layer, config.num_text_layers)
        self.text_ln = nn.LayerNorm(width)
        channels = tuple(config.base_dim * factor for factor in config.dim_mults)
        self.unet = UNet(
            UNetConfig(config.features, channels, config.time_dim, width, config.linear_attention, config.dropout)
        )
        self._multiple = max(1 if config.mask_frames else _FRAMES_MULTIPLE, 2 ** len(channels))

    def forward(self, x_BFD: Tensor, t_B: Tensor, text: TextTokens | Memories | None, length_B: Tensor) -> Tensor:
        """Predict the clean motion, or what else the network was trained to.

        Args:
            x_BFD: noisy normalised features. Where frames are not masked, they are padded with zeros to a multiple of
                16, and the result depends on F (official weights want F = `max_frames`).
            t_B: integer timesteps, below 5000.
            text: tokens of the text encoder, or what `prepare` made of them, for the first rows: the others have the
                null condition, which skips cross-attention, in the official code too (no vector stands in for the
                text). None: no row has text.
            length_B: valid frames per row; without `mask_frames` they are not looked at.

        Returns:
            The prediction [B, F, D]; with `mask_frames`, values beyond the length are meaningless but finite.

        Raises:
            ValueError: more than `max_frames` frames, or the features are not those of the model.
        """
        if x_BFD.shape[-1] != self.config.features:
            raise ValueError(
                f"got {x_BFD.shape[-1]} features per frame; want {self.config.features}; "
                "choose a model of the data's representation"
            )
        frames = x_BFD.shape[1]
        if frames > self.config.max_frames:
            raise ValueError(
                f"got {frames} frames; want at most {self.config.max_frames}; shorten the motion or raise max_frames"
            )
        x_BDF = functional.pad(x_BFD.transpose(1, 2), (0, -frames % self._multiple))
        memories = self.prepare(text) if isinstance(text, TextTokens) else text
        output_BDF = self.unet(x_BDF, t_B, memories, length_B if self.config.mask_frames else None)
        output_BFD: Tensor = output_BDF[:, :, :frames].transpose(1, 2).contiguous()
        return output_BFD

    def prepare(
        self, text: TextTokens | None, length_B: Tensor | None = None, frames: int | None = None
    ) -> Memories | None:
        """What neither the motion nor the time changes: the text layers, and what every block attends to."""
        return None if text is None else self.unet.remember(self.encode(text))

    def encode(self, text: TextTokens) -> Text:
        """The text as the U-Net attends to it, [B, M, E]: projection, post-norm layers, norm; no positions."""
        tokens = text.tokens_BMC.shape[1]
        # The layers need one token to attend to; what a row of length 0 makes of it, nobody reads.
        valid_BM = valid_mask(text.length_B.clamp(min=1), tokens)
        hidden_BME = self.textTransEncoder(self.embed_text(text.tokens_BMC), valid_BM)
        return Text(self.text_ln(hidden_BME), valid_mask(text.length_B, tokens))


class TokenConditioner(Protocol):
    """What `T2MUnetDenoiser` needs of a text encoder (`rl_motion.models.text.TextEncoder` is one)."""

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, M, C] and lengths [B]."""
        ...

    def padded_tokens(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states [B, M, C] of texts padded to the encoder's maximum, padding included."""
        ...


class T2MUnetDenoiser(MotionDenoiser):
    """T2MUnet as a `Denoiser` (rl_motion.protocols); its conditions are `TextTokens`, None the null condition.

    The text layers belong to the network, so an adapter on them learns; the text encoder is no
    submodule: it is neither trained nor saved with the model. The canvas is fixed where padding is visible: the
    official sampler's canvas is the longest of a batch, which makes a motion depend on who else is in it.
    """

    def __init__(
        self,
        network: T2MUnet,
        schedule: ScheduleConfig,
        *,
        space: MotionSpace,
        text_encoder: TokenConditioner,
        prediction_type: PredictionType = "sample",
    ) -> None:
        """Combine a network with its noise schedule, its feature space, its text encoder and what it predicts.

        Raises:
            ValueError: the statistics are not [features], or a deviation is not positive.
        """
        super().__init__(network, schedule, space, prediction_type)
        self._text_dim = network.config.text_dim
        self._mask_tokens = network.config.mask_tokens
        self._text_encoder = text_encoder

    @classmethod
    def canvas_of(cls, shape: T2MUnetConfig) -> int | None:
        """`max_frames` where padding is visible, None where frames are masked."""
        return None if shape.mask_frames else shape.max_frames

    @classmethod
    def reads_text(cls, shape: T2MUnetConfig) -> Form:
        """A text's own tokens, or those of its padding too."""
        return "tokens" if shape.mask_tokens else "padded_tokens"

    def encode_text(self, texts: Sequence[str]) -> TextTokens:
        """Tokens [B, M, text_dim] of the frozen text encoder, on the model's device.

        Raises:
            ValueError: the text encoder's width is not the network's `text_dim`.
        """
        if self._mask_tokens:
            tokens_BMC, length_B = self._text_encoder.tokens(texts)
        else:
            tokens_BMC = self._text_encoder.padded_tokens(texts)
            length_B = torch.full((len(texts),), tokens_BMC.shape[1])
        tokens_BMC = check_text_width(tokens_BMC, self._text_dim).to(self.mean_D)
        return TextTokens(tokens_BMC, length_B.to(self.mean_D.device))

    def null_condition(self, batch: int) -> None:
        """No text: the unconditional half skips cross-attention."""
        return None

    def both(self, condition: TextTokens) -> TextTokens:
        """The texts themselves: rows beyond them have none."""
        return condition

    def condition_rows(self, condition: TextTokens, row_B: Tensor, kept_B: Tensor) -> TextTokens:
        """Texts in a given order, of length 0 where `kept_B` is False; no more tokens than the longest kept one has."""
        length_B = condition.length_B[row_B] * kept_B
        longest = max(int(length_B.max()), 1)
        return TextTokens(condition.tokens_BMC[row_B, :longest], length_B)

    def decode(self, x_BFD: Tensor, length_B: Tensor) -> Motions:
        """Un-normalised features of the frames up to the longest row, exactly 0 beyond the length; differentiable."""
        return super().decode(x_BFD[:, : int(length_B.max())], length_B)
