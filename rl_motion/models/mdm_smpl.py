"""MDM-SMPL, the denoiser of STMC (arXiv:2401.08559), and its face towards policies.

Parameter names are those of the official checkpoints (nv-tlabs/stmc, Lightning `state_dict`, prefix `denoiser.`
stripped), for any width. The rest of such a file is the checkpoint's: `motion_normalizer` and `text_normalizer` give
mean and std of motion and text, to whose std the official code adds 1e-12 (one entry of the root's rotation is
always 0, and so is its deviation); the schedule is `cosine` with 100 steps.

Differs from the official class: attention has one path with and without gradients (`rl_motion.models.layers`). And the
official ancestral sampler adds noise times the posterior *variance* where DDPM has its square root; the policy's own
sampler takes nothing of it but the network and the schedule.

Legend: B batch, F frames, D features, M text tokens, C text or latent channels, L prefix tokens and frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, check_text_width
from rl_motion.models.layers import (
    Encoder,
    LayerConfig,
    Packed,
    PositionalEncoding,
    PreNormEncoderLayer,
    TimestepEmbedder,
    check_statistics,
    in_float32,
    valid_mask,
)
from rl_motion.models.mdm import TextConditioner
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.protocols import PredictionType


@dataclass(frozen=True, slots=True)
class MDMSMPLConfig:
    """Architecture of an `MDMSMPL`; the defaults are the official model.

    Attributes:
        features: features per frame D (205, `rl_motion.motion.smplrifke`).
        latent_dim: channels of the residual stream.
        ff_size: hidden channels of the feed-forward parts.
        num_layers: encoder layers.
        num_heads: attention heads.
        num_registers: learned tokens that say nothing, for the layers to keep notes in.
        text_dim: channels of the text embedding.
        pos_embed_max_len: size of the position table, which also embeds time: at least the number of timesteps,
            and the prefix tokens and frames.
        dropout: active in `train()` only.
    """

    mask_frames: ClassVar[bool] = True
    """Frames beyond the length are hidden from attention, always."""
    features: int = 205
    latent_dim: int = 512
    ff_size: int = 2048
    num_layers: int = 8
    num_heads: int = 8
    num_registers: int = 2
    text_dim: int = 512
    pos_embed_max_len: int = 5000
    dropout: float = 0.1

    @property
    def max_frames(self) -> int:
        """The longest motion: the position table, less time, one text token and the registers."""
        return self.pos_embed_max_len - 2 - self.num_registers


@dataclass(frozen=True, slots=True)
class Given:
    """What the calls of a trajectory share: text and registers, tokens_BPC, and which positions are seen."""

    tokens_BPC: Tensor
    packed: Packed


class MDMSMPL(nn.Module):
    """The denoising network: (x_t, t, text) -> x_0, a pre-norm encoder of [time, text, registers, frames].

    One run of positions covers the whole sequence, so a frame's position depends on the number of text tokens.
    """

    adapter_targets: ClassVar[dict[str, tuple[str, ...]]] = {
        "attention": ("in_proj", "out_proj"),
        "mlp": ("linear1", "linear2"),
        "condition": ("tx_embedding.0", "tx_embedding.2"),
    }

    def __init__(self, config: MDMSMPLConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        width = config.latent_dim
        layer = LayerConfig(width, config.ff_size, config.num_heads, config.dropout)
        self.tx_embedding = nn.Sequential(
            nn.Linear(config.text_dim, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )
        self.skel_embedding = nn.Linear(config.features, width)
        # The official class has no such parameter where there are no registers.
        self.registers = nn.Parameter(torch.randn(config.num_registers, width)) if config.num_registers else None
        self.sequence_pos_encoding = PositionalEncoding(width, dropout=config.dropout, max_len=config.pos_embed_max_len)
        self.timestep_encoder = TimestepEmbedder(width, self.sequence_pos_encoding)
        self.seqTransEncoder = Encoder(layer, config.num_layers, PreNormEncoderLayer)
        self.to_skel_layer = nn.Linear(width, config.features)

    def forward(self, x_BFD: Tensor, t_B: Tensor, text: TextTokens | Given, length_B: Tensor) -> Tensor:
        """Predict the clean motion.

        Args:
            x_BFD: noisy normalised features.
            t_B: integer timesteps, below `pos_embed_max_len`.
            text: normalised embeddings; one token, the pooled embedding, with the official weights. Or what `prepare`
                made of them, of the lengths and of the frames.
            length_B: valid frames per row.

        Returns:
            x0 [B, F, D], 0 beyond the length.

        Raises:
            ValueError: the sequence does not fit the position table, or the features are not those of the model.
        """
        if x_BFD.shape[-1] != self.config.features:
            raise ValueError(
                f"got {x_BFD.shape[-1]} features per frame; want {self.config.features}; "
                "choose a model of the data's representation"
            )
        given = text if isinstance(text, Given) else self.prepare(text, length_B, x_BFD.shape[1])
        frames_BFC = self.skel_embedding(x_BFD.contiguous())
        sequence_BLC = torch.cat([self.timestep_encoder(t_B).unsqueeze(1), given.tokens_BPC, frames_BFC], dim=1)
        hidden_NC = self.seqTransEncoder(given.packed.pack(self.sequence_pos_encoding(sequence_BLC)), given.packed)
        output_BLD = given.packed.unpack(in_float32(self.to_skel_layer, hidden_NC))
        return output_BLD[:, -x_BFD.shape[1] :]

    def prepare(self, text: TextTokens, length_B: Tensor, frames: int) -> Given:
        """What neither the motion nor the time changes, for calls on `frames` frames."""
        tokens = [self.tx_embedding(text.tokens_BMC)]
        if self.registers is not None:
            tokens.append(self.registers.expand(len(length_B), -1, -1).to(tokens[0]))
        return Given(torch.cat(tokens, dim=1), Packed.of(self._valid(text, length_B, frames)))

    def _valid(self, text: TextTokens, length_B: Tensor, frames: int) -> Tensor:
        """[B, L]: time and registers always, text and frames up to their lengths."""
        text_BM = valid_mask(text.length_B, text.tokens_BMC.shape[1])
        always_B1 = torch.ones_like(text_BM[:, :1])
        registers_BR = always_B1.expand(-1, self.config.num_registers)
        return torch.cat([always_B1, text_BM, registers_BR, valid_mask(length_B, frames)], dim=1)


class MDMSMPLDenoiser(MotionDenoiser):
    """MDMSMPL as a `Denoiser` (rl_motion.protocols); its conditions are `TextTokens` of one token.

    Padding is masked: log-probs cover a row's own frames. The text encoder is no submodule: it is neither trained nor
    saved with the model.
    """

    normalises_text: ClassVar[bool] = True
    text_mean_C: Tensor
    text_std_C: Tensor

    def __init__(
        self,
        network: MDMSMPL,
        schedule: ScheduleConfig,
        *,
        space: MotionSpace,
        text_encoder: TextConditioner,
        prediction_type: PredictionType = "sample",
    ) -> None:
        """Combine a network with its schedule, its spaces of motion and text, its text encoder and what it predicts.

        Raises:
            ValueError: the statistics are not [features] and, of the text, [text_dim], or a deviation is not positive.
        """
        super().__init__(network, schedule, space, prediction_type)
        assert space.text is not None
        check_statistics(space.text.mean_C, space.text.std_C, network.config.text_dim)
        self.register_buffer("text_mean_C", space.text.mean_C.detach().clone())
        self.register_buffer("text_std_C", space.text.std_C.detach().clone())
        self._text_encoder = text_encoder

    def encode_text(self, texts: Sequence[str]) -> TextTokens:
        """Normalised pooled embeddings [B, 1, text_dim] on the model's device.

        Raises:
            ValueError: the text encoder's width is not the network's `text_dim`.
        """
        pooled_BC = check_text_width(self._text_encoder.pooled(texts), len(self.text_mean_C)).to(self.text_mean_C)
        tokens_B1C = ((pooled_BC - self.text_mean_C) / self.text_std_C).unsqueeze(1)
        return TextTokens(tokens_B1C, torch.ones(len(texts), dtype=torch.int64, device=tokens_B1C.device))

    def null_condition(self, batch: int) -> TextTokens:
        """The empty text, encoded and normalised as any other: what the model was trained with."""
        return self.encode_text([""] * batch)

    def condition_rows(self, condition: TextTokens, row_B: Tensor, kept_B: Tensor) -> TextTokens:
        """Texts in a given order, the empty one where `kept_B` is False."""
        null_11C = self.null_condition(1).tokens_BMC
        tokens_BMC = torch.where(kept_B.view(-1, 1, 1), condition.tokens_BMC[row_B], null_11C)
        return TextTokens(tokens_BMC, condition.length_B[row_B])
