"""The convolutional U-Net of StableMoFusion (arXiv:2405.05691) with adaptive group norm and cross-attention.

Parameter names are those of the official class `CondUnet1D`. Group norm acts within one frame, never over time.
Where frames are masked, every convolution reads zeros beyond a row's length, at each resolution: just what it reads
beyond the end of a motion of exactly that length, so neither the canvas nor the batch mates change a frame.

Legend: B batch, F frames, C channels, M text tokens, E text channels, H heads, R rows with text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.models.kept import FrozenConv1d
from rl_motion.models.layers import drop_stored_table, sinusoidal_table, valid_mask

GROUPS = 8
"""Groups of every group norm and heads of every cross-attention: channels are a multiple of it."""
_KERNEL = 5
_TIMESTEPS = 5000


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Shape of the U-Net.

    Attributes:
        features: channels of the motion, in and out.
        channels: of each level, from full resolution down; every level halves the frames.
        time_dim: channels of the time embedding.
        text_dim: channels E of the text tokens.
        linear_attention: softmax over channels and over tokens (arXiv:1812.01243), else over tokens alone.
        dropout: active in `train()` only.
    """

    features: int
    channels: tuple[int, ...]
    time_dim: int
    text_dim: int
    linear_attention: bool
    dropout: float


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded text: tokens_BME, and valid_BM, False on tokens that nobody sees.

    A row without a valid token skips cross-attention: that is this model's unconditional prediction.
    """

    tokens_BME: Tensor
    valid_BM: Tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """What one block attends to, of the batch's first R rows; the other rows skip cross-attention.

    key: what queries meet. Linear attention: keys and values are one matrix for each head, key_RHCC alone.
    value_RHMC: the values of full attention. valid_RM: tokens that are seen.
    """

    key: Tensor
    value_RHMC: Tensor | None
    valid_RM: Tensor


class CrossAttention(nn.Module):
    """Attention of frames to text tokens, in one of the two forms of the official code.

    Linear: softmax of queries over a head's channels, of keys over tokens, and no factor 1 / sqrt(d); full: softmax
    over tokens of the scaled product. There is no output projection.
    """

    def __init__(self, channels: int, config: UNetConfig) -> None:
        """Build one layer for `channels` channels of motion."""
        super().__init__()
        self.linear_attention = config.linear_attention
        self.norm = nn.LayerNorm(channels)
        self.text_norm = nn.LayerNorm(config.text_dim)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(config.text_dim, channels)
        self.value = nn.Linear(config.text_dim, channels)
        self.dropout = nn.Dropout(config.dropout)

    def remember(self, text: Text) -> Memory:
        """What the text alone decides: with the same text and weights, once for any number of calls."""
        text_RME = self.text_norm(text.tokens_BME)
        key_RHMC, value_RHMC = self._split(self.key(text_RME)), self._split(self.value(text_RME))
        if not self.linear_attention:
            return Memory(key_RHMC, value_RHMC, text.valid_BM)
        hidden_R1M1 = ~text.valid_BM[:, None, :, None]
        weight_RHMC = key_RHMC.masked_fill(hidden_R1M1, _lowest(key_RHMC)).softmax(dim=-2)
        return Memory(torch.matmul(weight_RHMC.transpose(-2, -1), value_RHMC), None, text.valid_BM)

    def forward(self, x_RFC: Tensor, memory: Memory) -> Tensor:
        """What the text adds to each frame, [R, F, C]; exactly 0 in rows without a valid token."""
        query_RHFC = self._split(self.query(self.norm(x_RFC)))
        if memory.value_RHMC is None:
            mixed_RHFC = torch.matmul(query_RHFC.softmax(dim=-1), self.dropout(memory.key))
        else:
            score_RHFM = torch.matmul(query_RHFC, memory.key.transpose(-2, -1)) * (query_RHFC.shape[-1] ** -0.5)
            score_RHFM = score_RHFM.masked_fill(~memory.valid_RM[:, None, None, :], _lowest(score_RHFM))
            mixed_RHFC = torch.matmul(self.dropout(score_RHFM.softmax(dim=-1)), memory.value_RHMC)
        mixed_RFC = mixed_RHFC.transpose(1, 2).flatten(2)
        return torch.where(memory.valid_RM.any(dim=1)[:, None, None], mixed_RFC, torch.zeros_like(mixed_RFC))

    @staticmethod
    def _split(x_BLC: Tensor) -> Tensor:
        x_BHLC: Tensor = x_BLC.unflatten(-1, (GROUPS, -1)).transpose(1, 2)
        return x_BHLC


class Block(nn.Module):
    """A residual convolution block, then cross-attention added to it."""

    def __init__(self, channels_in: int, channels: int, config: UNetConfig) -> None:
        """Build one block."""
        super().__init__()
        self.conv1d = _ResidualBlock(channels_in, channels, config)
        self.cross_attn = _AttentionLevel(CrossAttention(channels, config))

    def forward(self, x_BCF: Tensor, time_BC: Tensor, memory: Memory | None, valid_BF: Tensor | None) -> Tensor:
        """Return [B, C, F]; `valid_BF` is False on frames that nobody may see (None: all are seen)."""
        x_BCF = self.conv1d(x_BCF, time_BC, valid_BF)
        if memory is None:
            return x_BCF
        rows = len(memory.valid_RM)
        # Contiguous: on strided input the kernel of a linear layer would depend on gradients.
        mixed_RFC = self.cross_attn(x_BCF[:rows].transpose(1, 2).contiguous(), memory)
        output_RCF: Tensor = x_BCF[:rows] + mixed_RFC.transpose(1, 2)
        return output_RCF if rows == len(x_BCF) else torch.cat([output_RCF, x_BCF[rows:]])


class UNet(nn.Module):
    """Two blocks per level on the way down, two in the middle, two per level on the way up, with skips."""

    def __init__(self, config: UNetConfig) -> None:
        """Build the network; its last convolution starts at zero, so it first predicts zeros.

        Raises:
            ValueError: there are no levels, or their channels do not suit group norm and heads.
        """
        super().__init__()
        _check_channels(config)
        time, channels = config.time_dim, config.channels
        self.time_mlp = nn.Sequential(
            _TimestepTable(time), nn.Linear(time, 4 * time), nn.Mish(), nn.Linear(4 * time, time)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        below = config.features
        for width in channels:
            first, second = Block(below, width, config), Block(width, width, config)
            self.downs.append(nn.ModuleList([first, second, _Resampling(FrozenConv1d(width, width, 3, 2, 1))]))
            below = width
        self.mid_block1, self.mid_block2 = Block(below, below, config), Block(below, below, config)
        for width in reversed(channels):
            up = _Resampling(nn.ConvTranspose1d(below, width, 4, 2, 1))
            first, second = Block(2 * width, width, config), Block(width, width, config)
            self.ups.append(nn.ModuleList([up, first, second]))
            below = width
        self.final_conv = nn.Conv1d(below, config.features, 1)
        for parameter in self.final_conv.parameters():
            nn.init.zeros_(parameter)

    def remember(self, text: Text) -> tuple[Memory, ...]:
        """What each block attends to, in the order of the blocks."""
        return tuple(block.cross_attn.cross_attention.remember(text) for block in self._blocks())

    def _blocks(self) -> Iterator[Block]:
        """In the order in which the motion goes through them."""
        for module in (*self.downs.modules(), self.mid_block1, self.mid_block2, *self.ups.modules()):
            if isinstance(module, Block):
                yield module

    def forward(self, x_BCF: Tensor, t_B: Tensor, memories: Sequence[Memory] | None, length_B: Tensor | None) -> Tensor:
        """Predict the clean motion, or what else the network was trained to.

        Args:
            x_BCF: noisy motion; F is a multiple of 2 ** levels.
            t_B: integer timesteps below 5000.
            memories: what each block attends to; None skips every cross-attention.
            length_B: frames to see of each row; None: all.

        Returns:
            [B, C, F].
        """
        time_BC = self.time_mlp(t_B)
        memory = repeat(None) if memories is None else iter(memories)
        frames = x_BCF.shape[-1]
        levels = range(len(self.downs) + 1)
        # A frame at level l exists where its first fine frame does: ceil(length / 2 ** l) of them.
        valid = [None if length_B is None else valid_mask(-(-length_B // 2**n), frames // 2**n) for n in levels]
        skips = []
        for level, parts in enumerate(self.downs):
            first, second, down = cast("nn.ModuleList", parts)
            x_BCF = second(first(x_BCF, time_BC, next(memory), valid[level]), time_BC, next(memory), valid[level])
            skips.append(x_BCF)
            x_BCF = down(_masked(x_BCF, valid[level]))
        x_BCF = self.mid_block1(x_BCF, time_BC, next(memory), valid[-1])
        x_BCF = self.mid_block2(x_BCF, time_BC, next(memory), valid[-1])
        for level, parts in zip(reversed(levels[:-1]), self.ups, strict=True):
            up, first, second = cast("nn.ModuleList", parts)
            x_BCF = torch.cat([up(_masked(x_BCF, valid[level + 1])), skips.pop()], dim=1)
            x_BCF = second(first(x_BCF, time_BC, next(memory), valid[level]), time_BC, next(memory), valid[level])
        output_BCF: Tensor = self.final_conv(x_BCF)
        return output_BCF


class _ResidualBlock(nn.Module):
    """Convolution, norm, time's scale and shift (AdaGN), Mish; convolution, norm, Mish; and the input added."""

    def __init__(self, channels_in: int, channels: int, config: UNetConfig) -> None:
        super().__init__()
        last, modulation = _ConvNorm("norm", channels, channels), nn.Linear(config.time_dim, 2 * channels)
        self.blocks = nn.ModuleList([_ConvNorm("group_norm", channels_in, channels), last])
        self.time_mlp = nn.Sequential(nn.Mish(), modulation)
        self.dropout = nn.Dropout(config.dropout)
        same = channels_in == channels
        self.residual_conv: nn.Module = nn.Identity() if same else FrozenConv1d(channels_in, channels, 1)
        for parameter in (*last.block.parameters(), *modulation.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x_BCF: Tensor, time_BC: Tensor, valid_BF: Tensor | None) -> Tensor:
        scale_BC1, shift_BC1 = self.time_mlp(time_BC).unsqueeze(-1).chunk(2, dim=1)
        hidden_BCF = self.blocks[0](x_BCF, valid_BF)
        hidden_BCF = functional.mish(torch.addcmul(shift_BC1, hidden_BCF, 1 + scale_BC1))
        hidden_BCF = functional.mish(self.blocks[1](hidden_BCF, valid_BF))
        output: Tensor = self.dropout(hidden_BCF) + self.residual_conv(x_BCF)
        return output


class _ConvNorm(nn.Module):
    """A convolution over valid frames and a group norm within each; the norm's name differs between the two uses."""

    def __init__(self, norm_name: str, channels_in: int, channels: int) -> None:
        super().__init__()
        self._norm_name = norm_name
        self.block = FrozenConv1d(channels_in, channels, _KERNEL, padding=_KERNEL // 2)
        self.add_module(norm_name, nn.GroupNorm(GROUPS, channels))

    def forward(self, x_BCF: Tensor, valid_BF: Tensor | None) -> Tensor:
        hidden_BFC = self.block(_masked(x_BCF, valid_BF)).transpose(1, 2)
        normed = getattr(self, self._norm_name)(hidden_BFC.flatten(0, 1))
        output: Tensor = normed.unflatten(0, hidden_BFC.shape[:2]).transpose(1, 2).contiguous()
        return output


class _Resampling(nn.Module):
    """A convolution that halves or doubles the frames, under the official extra level of naming."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x_BCF: Tensor) -> Tensor:
        output: Tensor = self.conv(x_BCF)
        return output


class _AttentionLevel(nn.Module):
    """Cross-attention under the official extra level of naming."""

    def __init__(self, cross_attention: CrossAttention) -> None:
        super().__init__()
        self.cross_attention = cross_attention

    def forward(self, x_RFC: Tensor, memory: Memory) -> Tensor:
        output: Tensor = self.cross_attention(x_RFC, memory)
        return output


class _TimestepTable(nn.Module):
    """Row t of the sinusoidal table; the table is computed, never stored."""

    pe: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoidal_table(_TIMESTEPS, width), persistent=False)
        self.register_load_state_dict_pre_hook(drop_stored_table)  # type: ignore[no-untyped-call]

    def forward(self, t_B: Tensor) -> Tensor:
        return self.pe[t_B]


def _lowest(x: Tensor) -> float:
    """A finite minimum, not -inf: rows without a token stay finite, and so do their gradients."""
    return torch.finfo(x.dtype).min


def _masked(x_BCF: Tensor, valid_BF: Tensor | None) -> Tensor:
    return x_BCF if valid_BF is None else x_BCF.masked_fill(~valid_BF[:, None, :], 0.0)


def _check_channels(config: UNetConfig) -> None:
    if not config.channels or any(width < GROUPS or width % GROUPS for width in config.channels):
        raise ValueError(
            f"got channels {config.channels} by level; want at least one level, each a multiple of {GROUPS} (groups "
            "of the norms, heads of the attention); change base_dim or dim_mults"
        )
