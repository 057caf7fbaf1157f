"""Transformer blocks written with explicit operations, and the sinusoidal positional encoding.

`nn.TransformerEncoder` takes another kernel without gradients than with them, and the two differ by about
1e-6: enough to break the identity "log-prob at rollout == log-prob at replay" on which policy gradients rest.
Everything here therefore has one code path: linear, layer norm and torch's fused attention, whose forward kernel is the
same with and without gradient. The parameter names are
those of `nn.TransformerEncoderLayer` (post-norm and pre-norm) and `nn.TransformerDecoderLayer` (post-norm), exact
gelu, so official checkpoints load with `strict=True`.

Legend: B batch, L sequence, M memory sequence, C channels, H heads, N positions that are seen, of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """Shape of one transformer layer.

    Attributes:
        width: channels C of the residual stream; a multiple of `num_heads`.
        ff_size: hidden channels of the feed-forward part.
        num_heads: attention heads H.
        dropout: probability of dropping an activation; active in `train()` only.
    """

    width: int
    ff_size: int
    num_heads: int
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a width that the heads cannot share.

        Raises:
            ValueError: `width` is not a multiple of `num_heads`, or is odd (sine and cosine come in pairs).
        """
        if self.num_heads < 1 or self.width % self.num_heads or self.width % 2:
            raise ValueError(
                f"got width {self.width} with {self.num_heads} heads; want an even width that is a multiple "
                "of the number of heads; change latent_dim or num_heads"
            )


def sinusoidal_table(max_len: int, width: int) -> Tensor:
    """Sinusoidal positions [max_len, width] in float32: sine in even, cosine in odd channels.

    Source: arXiv:1706.03762 section 3.5.
    """
    position_L1 = torch.arange(max_len, dtype=torch.float32).unsqueeze(1)
    frequency_C = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    table_LC = torch.zeros(max_len, width)
    table_LC[:, 0::2] = torch.sin(position_L1 * frequency_C)
    table_LC[:, 1::2] = torch.cos(position_L1 * frequency_C)
    return table_LC


def valid_mask(length_B: Tensor, size: int) -> Tensor:
    """Boolean [B, size], True where the position lies before the length of its row."""
    return torch.arange(size, device=length_B.device).unsqueeze(0) < length_B.unsqueeze(1)


_PADDED_BELOW = 128
"""Positions of a run, on average: with fewer, many small attentions cost more than one over padding."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the positions of a batch that are seen lie: one after the other in [N, C], row by row, nothing between.

    Linear layers, norms and activations then compute nothing for padding. Attention goes run by run, a run being
    neighbouring rows of one length: the samples of a prompt are.

    Attributes:
        valid_BL: what is seen; at least one position of each row.
        place_N: the positions' places in [B * L]; None where all are seen.
        runs: rows and length of each run, in order.
    """

    valid_BL: Tensor
    place_N: Tensor | None
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, valid_BL: Tensor) -> Packed:
        """Reads the mask, which waits for a GPU: once a trajectory."""
        length_B = valid_BL.sum(dim=1).tolist()
        runs = tuple((len(list(rows)), length) for length, rows in groupby(length_B))
        whole = runs == (valid_BL.shape,)
        return cls(valid_BL, None if whole else valid_BL.flatten().nonzero().squeeze(1), runs)

    @classmethod
    def whole(cls, rows: int, length: int, device: torch.device) -> Packed:
        """Everything is seen."""
        return cls(torch.ones(rows, length, dtype=torch.bool, device=device), None, ((rows, length),))

    @property
    def padded(self) -> bool:
        """Whether attention is cheaper over padding."""
        return len(self.runs) > 1 and sum(rows * length for rows, length in self.runs) < _PADDED_BELOW * len(self.runs)

    def pack(self, x_BLC: Tensor) -> Tensor:
        """[N, C]."""
        x_NC = x_BLC.flatten(0, 1)
        return x_NC if self.place_N is None else x_NC[self.place_N]

    def unpack(self, x_NC: Tensor) -> Tensor:
        """[B, L, C], zero where nothing is seen."""
        rows, size = self.valid_BL.shape
        if self.place_N is None:
            whole: Tensor = x_NC.unflatten(0, (rows, size))
            return whole
        padded = x_NC.new_zeros(rows * size, x_NC.shape[-1]).index_put((self.place_N,), x_NC)
        placed: Tensor = padded.unflatten(0, (rows, size))
        return placed


def check_statistics(mean_D: Tensor, std_D: Tensor, features: int) -> None:
    """Refuse normalisation statistics that cannot belong to a model of `features` features.

    Raises:
        ValueError: wrong shapes, a deviation that is not positive, or what is no finite number.
    """
    want = (features,)
    refuse_not_finite({"mean": mean_D, "std": std_D})
    if tuple(mean_D.shape) != want or tuple(std_D.shape) != want or not bool((std_D > 0).all()):
        raise ValueError(
            f"got mean {tuple(mean_D.shape)} and std {tuple(std_D.shape)} (smallest {float(std_D.min()):g}); "
            f"want {want}, positive deviations; pass the statistics that this model was trained with"
        )


def refuse_not_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no floating-point numbers, infinite or NaN: everything after them would be, too.

    Raises:
        ValueError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"got {name}, {tensor.dtype}, with NaN, infinities or whole numbers; want finite weights; copy it again"
            )


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """A network's last layer, left out of autocast: its rounding would go into every log-prob as it is."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        output: Tensor = layer(x)
        return output
    with torch.autocast(x.device.type, enabled=False):
        output = layer(x.float())
    return output


class PositionalEncoding(nn.Module):
    """Adds sinusoidal positions to a sequence, then dropout.

    The table is computed, never stored: official checkpoints hold it in various sizes, so an entry `pe` of
    any size is accepted and ignored when a state dict is loaded.
    """

    pe: Tensor

    def __init__(self, width: int, *, dropout: float, max_len: int) -> None:
        """Build the table [max_len, width]."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("pe", sinusoidal_table(max_len, width), persistent=False)
        self.register_load_state_dict_pre_hook(drop_stored_table)  # type: ignore[no-untyped-call]

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Return x + pe[:L], the shape of `x_BLC`.

        Raises:
            ValueError: the sequence is longer than the table.
        """
        if x_BLC.shape[1] > self.pe.shape[0]:
            raise ValueError(
                f"got a sequence of {x_BLC.shape[1]} positions (frames and prefix tokens); want at most "
                f"{self.pe.shape[0]}; shorten the motion or raise pos_embed_max_len"
            )
        output: Tensor = self.dropout(x_BLC + self.pe[: x_BLC.shape[1]])
        return output


class TimestepEmbedder(nn.Module):
    """Linear, SiLU, Linear on the position table's row t; shares the table with the sequence (MDM's)."""

    def __init__(self, width: int, sequence_pos_encoder: PositionalEncoding) -> None:
        """Build the two layers around the table of `sequence_pos_encoder`."""
        super().__init__()
        self.sequence_pos_encoder = sequence_pos_encoder
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """Return [B, C] for integer timesteps, below the size of the table."""
        output: Tensor = self.time_embed(self.sequence_pos_encoder.pe[t_B])
        return output


class Attention(nn.Module):
    """Multi-head attention with packed projections, arXiv:1706.03762 section 3.2.

    `in_proj` (queries, keys, values stacked) and `out_proj` are ordinary `nn.Linear` modules, so LoRA wraps
    them like any other; un-adapted, `state_dict()` and `load_state_dict()` use the names of
    `nn.MultiheadAttention`: `in_proj_weight`, `in_proj_bias`.
    """

    def __init__(self, config: LayerConfig) -> None:
        """Initialise as `nn.MultiheadAttention` does: Xavier-uniform `in_proj`, zero biases."""
        super().__init__()
        self.num_heads = config.num_heads
        self.in_proj = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)
        self.register_state_dict_post_hook(_to_official_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_official_names)  # type: ignore[no-untyped-call]

    def forward(
        self,
        x: Tensor,
        key_valid: Tensor | Packed | None = None,
        memory_BMC: Tensor | None = None,
        query: Packed | None = None,
    ) -> Tensor:
        """Attend from `x` to `memory_BMC` (to itself where None).

        Args:
            x: queries [B, L, C], or [N, C] where they are packed.
            key_valid: boolean [B, M], False where a key must not be seen; None sees all. Each row needs one True. Of
                packed positions, which attend to themselves, how they are packed.
            memory_BMC: keys and values.
            query: how `x` is packed, where it attends to a memory.

        Returns:
            Of the shape of `x`. Masked keys get weight exactly 0: their (finite) content cannot change a bit.
        """
        if isinstance(key_valid, Packed):
            return self._mix(self._packed(self._projected(x), key_valid))
        if query is not None:
            return query.pack(self(query.unpack(x), key_valid, memory_BMC))
        own, key, value = self._projected(x).chunk(3, dim=-1)
        if memory_BMC is not None:
            _, key, value = self._projected(memory_BMC).chunk(3, dim=-1)
        return self._mix(self._attend(own, key, value, key_valid))

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values; on CPUs in float32: attention is no faster there in bfloat16, and rounds worse."""
        stacked: Tensor = self.in_proj(x)
        return stacked.float() if stacked.is_cpu and stacked.dtype == torch.bfloat16 else stacked

    def _packed(self, projected_NC: Tensor, packed: Packed) -> Tensor:
        """Attention of each row's positions to one another."""
        if packed.padded:
            own, key, value = packed.unpack(projected_NC).chunk(3, dim=-1)
            return packed.pack(self._attend(own, key, value, packed.valid_BL))
        parts = projected_NC.split([rows * length for rows, length in packed.runs])
        mixed = []
        for part, shape in zip(parts, packed.runs, strict=True):
            own, key, value = part.unflatten(0, shape).chunk(3, dim=-1)
            mixed.append(self._attend(own, key, value, None).flatten(0, 1))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _attend(self, query_BLC: Tensor, key_BMC: Tensor, value_BMC: Tensor, key_valid_BM: Tensor | None) -> Tensor:
        query, key, value = (self._split(part) for part in (query_BLC, key_BMC, value_BMC))
        seen = None if key_valid_BM is None else key_valid_BM[:, None, None, :]
        dropped = self.dropout.p if self.training else 0.0
        with torch.autocast("cpu", enabled=False) if query.is_cpu else nullcontext():
            mixed_BHLC = functional.scaled_dot_product_attention(query, key, value, seen, dropped)
        return mixed_BHLC.transpose(1, 2).flatten(2)

    def _mix(self, mixed: Tensor) -> Tensor:
        # A contiguous input keeps nn.Linear on one kernel: on strided ones its choice depends on gradients.
        output: Tensor = self.out_proj(mixed.contiguous())
        return output

    def _split(self, x_BLC: Tensor) -> Tensor:
        x_BHLC: Tensor = x_BLC.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return x_BHLC


class EncoderLayer(nn.Module):
    """Post-norm encoder layer: attention, add, norm; linear, gelu, linear, add, norm."""

    def __init__(self, config: LayerConfig) -> None:
        """Build one layer."""
        super().__init__()
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.width, config.ff_size)
        self.linear2 = nn.Linear(config.ff_size, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, valid_BL: Tensor | Packed | None = None) -> Tensor:
        """Return [B, L, C]; `valid_BL` is False on positions that nobody may attend to. Packed: [N, C], from [N, C]."""
        x_BLC = self.norm1(x_BLC + self.dropout(self.self_attn(x_BLC, valid_BL)))
        hidden = self.dropout(functional.gelu(self.linear1(x_BLC)))
        output: Tensor = self.norm2(x_BLC + self.dropout(self.linear2(hidden)))
        return output


class PreNormEncoderLayer(EncoderLayer):
    """Pre-norm encoder layer (`norm_first=True`): norm, attention, add; norm, linear, gelu, linear, add."""

    def forward(self, x_BLC: Tensor, valid_BL: Tensor | Packed | None = None) -> Tensor:
        """Return [B, L, C]; `valid_BL` is False on positions that nobody may attend to. Packed: [N, C], from [N, C]."""
        x_BLC = x_BLC + self.dropout(self.self_attn(self.norm1(x_BLC), valid_BL))
        hidden = self.dropout(functional.gelu(self.linear1(self.norm2(x_BLC))))
        output: Tensor = x_BLC + self.dropout(self.linear2(hidden))
        return output


class DecoderLayer(nn.Module):
    """Post-norm decoder layer: self-attention, attention to a memory, feed-forward; each adds and norms."""

    def __init__(self, config: LayerConfig) -> None:
        """Build one layer."""
        super().__init__()
        self.self_attn = Attention(config)
        self.multihead_attn = Attention(config)
        self.linear1 = nn.Linear(config.width, config.ff_size)
        self.linear2 = nn.Linear(config.ff_size, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.norm3 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BLC: Tensor,
        memory_BMC: Tensor,
        valid_BL: Tensor | Packed | None = None,
        memory_valid_BM: Tensor | None = None,
    ) -> Tensor:
        """Return [B, L, C]; the masks are False on positions that nobody may attend to, of x and of the memory.

        Packed: [N, C], from [N, C].
        """
        packed = valid_BL if isinstance(valid_BL, Packed) else None
        x_BLC = self.norm1(x_BLC + self.dropout(self.self_attn(x_BLC, valid_BL)))
        x_BLC = self.norm2(x_BLC + self.dropout(self.multihead_attn(x_BLC, memory_valid_BM, memory_BMC, packed)))
        hidden = self.dropout(functional.gelu(self.linear1(x_BLC)))
        output: Tensor = self.norm3(x_BLC + self.dropout(self.linear2(hidden)))
        return output


class Encoder(nn.Module):
    """A stack of encoder layers under the official name `layers`, without a final norm."""

    def __init__(self, config: LayerConfig, num_layers: int, layer: type[EncoderLayer] = EncoderLayer) -> None:
        """Build `num_layers` layers of that class."""
        super().__init__()
        self.layers = nn.ModuleList(layer(config) for _ in range(num_layers))

    def forward(self, x_BLC: Tensor, valid_BL: Tensor | Packed | None = None) -> Tensor:
        """Return [B, L, C]; `valid_BL` is False on positions that nobody may attend to. Packed: [N, C], from [N, C]."""
        for layer in self.layers:
            x_BLC = layer(x_BLC, valid_BL)
        return x_BLC


class Decoder(nn.Module):
    """A stack of `DecoderLayer` under the official name `layers`, without a final norm."""

    def __init__(self, config: LayerConfig, num_layers: int) -> None:
        """Build `num_layers` layers."""
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(num_layers))

    def forward(
        self,
        x_BLC: Tensor,
        memory_BMC: Tensor,
        valid_BL: Tensor | Packed | None = None,
        memory_valid_BM: Tensor | None = None,
    ) -> Tensor:
        """Return [B, L, C]; the masks are False on positions that nobody may attend to, of x and of the memory."""
        for layer in self.layers:
            x_BLC = layer(x_BLC, memory_BMC, valid_BL, memory_valid_BM)
        return x_BLC


# The hooks are module-level functions so that models pickle and deep-copy. Under LoRA the linear's entries
# are called `in_proj.base_layer.weight`, which neither hook touches.


def _to_official_names(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    for part in ("weight", "bias"):
        if f"{prefix}in_proj.{part}" in state:
            state[f"{prefix}in_proj_{part}"] = state.pop(f"{prefix}in_proj.{part}")


def _from_official_names(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    for part in ("weight", "bias"):
        if f"{prefix}in_proj_{part}" in state:
            state[f"{prefix}in_proj.{part}"] = state.pop(f"{prefix}in_proj_{part}")


def drop_stored_table(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    """Load hook of modules whose table `pe` is computed: what a checkpoint holds of it is ignored."""
    state.pop(f"{prefix}pe", None)
