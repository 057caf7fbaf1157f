"""MDM, the transformer motion diffusion model (arXiv:2209.14916), and its face towards policies.

Parameter names are those of the official `trans_enc` and `trans_dec` checkpoints (GuyTevet/motion-diffusion-model), for
any width. Differs from the official class: tensors are [B, F, D] (official: [B, D, 1, F]); text is never dropped inside
`forward`, so a caller that forgot `eval()` cannot change the condition; attention has one path with and without
gradients (`rl_motion.models.layers`). A decoder's memory has time added to it: the official `emb_policy` `add`, its
default.

Legend: B batch, F frames, D features, C text or latent channels, L prefix token and frames, M text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, check_text_width
from rl_motion.models.layers import (
    Decoder,
    Encoder,
    LayerConfig,
    Packed,
    PositionalEncoding,
    TimestepEmbedder,
    in_float32,
    valid_mask,
)
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.models.text import Form
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
        text_dim: channels of the text embedding (512 CLIP, 768 DistilBERT).
        mask_frames: whether frames beyond the length are hidden from attention (old official checkpoints:
            no).
        pos_embed_max_len: size of the position table, which also embeds time: above the frames and at least
            the number of timesteps.
        dropout: active in `train()` only.
        arch: `trans_enc`: one token in front of the frames carries time plus text. `trans_dec`: the frames attend to
            the text, to each of whose tokens time is added.
        text_tokens: whether the text is the tokens of its encoder (official: `text_encoder_type: bert`, DistilBERT's,
            padding hidden), for `trans_dec` alone; else its pooled embedding (`clip`), which is one token.
        emb_trans_dec: whether a `trans_dec` has a token of time in front of its frames too; a `trans_enc` does not look
            at it.
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
    arch: Literal["trans_enc", "trans_dec"] = "trans_enc"
    text_tokens: bool = False
    emb_trans_dec: bool = False

    def __post_init__(self) -> None:
        """Refuse what no official class is.

        Raises:
            ValueError: another `arch`, or tokens of a text for a `trans_enc`.
        """
        if self.arch not in ("trans_enc", "trans_dec"):
            raise ValueError(
                f"got arch {str(self.arch)[:60]!r}; want trans_enc or trans_dec; correct the configuration"
            )
        if self.text_tokens and self.arch != "trans_dec":
            raise ValueError(
                f"got text_tokens with arch {self.arch!r}, which has one token of text; want trans_dec; correct "
                "config.json"
            )

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the frames."""
        return int(self.arch == "trans_enc" or self.emb_trans_dec)

    @property
    def max_frames(self) -> int:
        """The longest motion: the position table, less the prefix token."""
        return self.pos_embed_max_len - self.prefix_tokens


@dataclass(frozen=True, slots=True)
class Given:
    """What the calls of a trajectory share.

    Attributes:
        text_BMC: the text as `embed_text` gives it, of which time makes a memory; one token where it is pooled.
        text_valid_BM: False on tokens that nobody sees; None: all are seen.
        packed: prefix and frames that are seen.
    """

    text_BMC: Tensor
    text_valid_BM: Tensor | None
    packed: Packed


class MDM(nn.Module):
    """The denoising network: (x_t, t, text) -> x_0 or what else it was trained to predict."""

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
        if config.arch == "trans_enc":
            self.seqTransEncoder = Encoder(layer, config.num_layers)
        else:
            self.seqTransDecoder = Decoder(layer, config.num_layers)
        self.embed_timestep = TimestepEmbedder(width, self.sequence_pos_encoder)
        self.embed_text = nn.Linear(config.text_dim, width)
        self.output_process = _Named("poseFinal", nn.Linear(width, config.features))

    def forward(self, x_BFD: Tensor, t_B: Tensor, text: Tensor | TextTokens | Given | None, length_B: Tensor) -> Tensor:
        """Predict the clean motion, or what else the network was trained to.

        Args:
            x_BFD: noisy normalised features.
            t_B: integer timesteps, below `pos_embed_max_len`.
            text: pooled embeddings [B, C]; with `text_tokens`, tokens, at least one per row. Rows of zeros, or None for
                the whole batch, are the null condition (the bias of `embed_text` remains, as in the official code).
                Or what `prepare` made of them, of the lengths and of the frames.
            length_B: valid frames per row; without `mask_frames` they are not looked at.

        Returns:
            The prediction [B, F, D]; values beyond the length mean nothing (0 where frames are masked).

        Raises:
            ValueError: the frames do not fit the position table, or the features are not those of the model.
        """
        if x_BFD.shape[-1] != self.config.features:
            raise ValueError(
                f"got {x_BFD.shape[-1]} features per frame; want {self.config.features}; "
                "choose a model of the data's representation"
            )
        given = text if isinstance(text, Given) else self.prepare(text, length_B, x_BFD.shape[1])
        time_BC, frames_BFC = self.embed_timestep(t_B), self.input_process(x_BFD.contiguous())
        memory_BMC = given.text_BMC + time_BC.unsqueeze(1)
        prefix_BPC = memory_BMC if self.config.arch == "trans_enc" else time_BC.unsqueeze(1)
        sequence_BLC = torch.cat([prefix_BPC[:, : self.config.prefix_tokens], frames_BFC], dim=1)
        sequence_NC = given.packed.pack(self.sequence_pos_encoder(sequence_BLC))
        if self.config.arch == "trans_enc":
            hidden_NC = self.seqTransEncoder(sequence_NC, given.packed)
        else:
            hidden_NC = self.seqTransDecoder(sequence_NC, memory_BMC, given.packed, given.text_valid_BM)
        output_BLD = given.packed.unpack(in_float32(self.output_process, hidden_NC))
        return output_BLD[:, self.config.prefix_tokens :]

    def prepare(self, text: Tensor | TextTokens | None, length_B: Tensor, frames: int) -> Given:
        """What neither the motion nor the time changes, for calls on `frames` frames; `text` as in `forward`."""
        valid_BM = None
        if isinstance(text, TextTokens):
            text_BMC = self.embed_text(text.tokens_BMC.contiguous())
            valid_BM = valid_mask(text.length_B, text_BMC.shape[1])
        else:
            weight = self.embed_text.weight
            pooled_BC = weight.new_zeros(len(length_B), self.config.text_dim) if text is None else text
            text_BMC = self.embed_text(pooled_BC).unsqueeze(1)
        prefix = self.config.prefix_tokens
        if self.config.mask_frames:
            return Given(text_BMC, valid_BM, Packed.of(valid_mask(length_B + prefix, frames + prefix)))
        return Given(text_BMC, valid_BM, Packed.whole(len(length_B), frames + prefix, length_B.device))


class TextConditioner(Protocol):
    """What `MDMDenoiser` needs of a text encoder (`rl_motion.models.text.TextEncoder` is one)."""

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """One embedding per text, [B, C]."""
        ...

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states [B, M, C], finite, and lengths [B]; asked for where the network reads tokens."""
        ...


class MDMDenoiser(MotionDenoiser):
    """MDM as a `Denoiser` (rl_motion.protocols); its conditions are [B, text_dim], or `TextTokens` for one of tokens.

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
        self._text_tokens = network.config.text_tokens
        self._text_encoder = text_encoder

    @classmethod
    def reads_text(cls, shape: MDMConfig) -> Form:
        """Tokens, or a pooled embedding."""
        return "tokens" if shape.text_tokens else "pooled"

    def encode_text(self, texts: Sequence[str]) -> Tensor | TextTokens:
        """Pooled embeddings [B, text_dim], or tokens [B, M, text_dim], on the model's device.

        Raises:
            ValueError: the text encoder's width is not the network's `text_dim`.
        """
        if not self._text_tokens:
            return check_text_width(self._text_encoder.pooled(texts), self._text_dim).to(self.mean_D)
        tokens_BMC, length_B = self._text_encoder.tokens(texts)
        tokens_BMC = check_text_width(tokens_BMC, self._text_dim).to(self.mean_D)
        return TextTokens(tokens_BMC, length_B.to(self.mean_D.device))

    def null_condition(self, batch: int) -> Tensor | TextTokens:
        """The unconditional rows: zeros *before* `embed_text`, as the official sampler, [batch, text_dim].

        Of tokens one is enough. The official sampler has as many as the row's text; all of them become the same key and
        the same value, and attention over equal values is that value, however many there are.
        """
        zeros_BC = self.mean_D.new_zeros(batch, self._text_dim)
        if not self._text_tokens:
            return zeros_BC
        return TextTokens(zeros_BC.unsqueeze(1), torch.ones(batch, dtype=torch.int64, device=zeros_BC.device))

    def condition_rows(self, condition: Tensor | TextTokens, row_B: Tensor, kept_B: Tensor) -> Tensor | TextTokens:
        """Texts in a given order, the null condition where `kept_B` is False; no more tokens than the longest has."""
        if not isinstance(condition, TextTokens):
            rows_BC: Tensor = super().condition_rows(condition, row_B, kept_B)
            return rows_BC
        length_B = torch.where(kept_B, condition.length_B[row_B], torch.ones_like(row_B))
        tokens_BMC = condition.tokens_BMC[row_B, : int(length_B.max())]
        return TextTokens(torch.where(kept_B.view(-1, 1, 1), tokens_BMC, torch.zeros_like(tokens_BMC)), length_B)


class _Named(nn.Module):
    """One linear layer under the extra level of naming that the official checkpoints have."""

    def __init__(self, name: str, linear: nn.Linear) -> None:
        super().__init__()
        self._name = name
        self.add_module(name, linear)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = getattr(self, self._name)(x)
        return output
