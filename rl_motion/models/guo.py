"""Guo et al.'s text-to-motion evaluator (CVPR 2022): three encoders into one Euclidean space.

Parameter names are those of the official checkpoint (`movement_encoder.`, `text_encoder.`, `motion_encoder.`). The
networks take normalised motion; `rl_motion/models/evaluator.py` owns the statistics and reads texts.

Legend: B batch, F frames, D features, P movement segments of four frames, L words, W channels of a word vector,
K parts of speech, H hidden, C co-embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

CONTACTS = 4
"""Features at a frame's end that the movement encoder does not see: the feet's contacts."""
SEGMENT = 4
"""Frames of a movement segment: two convolutions of stride 2."""


@dataclass(frozen=True, slots=True)
class GuoConfig:
    """Architecture of a `Guo`; the defaults are the official HumanML3D model with GloVe words.

    Attributes:
        features: features per frame D, contacts included.
        movement_latent: channels of both convolutions and of a movement segment.
        motion_hidden: hidden channels of the motion's GRU, per direction.
        text_hidden: hidden channels of the text's GRU, per direction.
        coembedding: channels C of the common space.
        word_size: channels W of a word vector.
        pos_size: parts of speech K.
        max_frames: frames of the canvas that every motion is laid on: the convolutions see its padding.
        dropout: in the movement encoder; active in `train()` only.
    """

    features: int = 263
    movement_latent: int = 512
    motion_hidden: int = 1024
    text_hidden: int = 512
    coembedding: int = 512
    word_size: int = 300
    pos_size: int = 15
    max_frames: int = 196
    dropout: float = 0.2


class MovementEncoder(nn.Module):
    """Two strided convolutions: four frames become one movement segment. The official `MovementConvEncoder`."""

    def __init__(self, config: GuoConfig) -> None:
        """Build it with random weights."""
        super().__init__()
        width = config.movement_latent
        self.main = nn.Sequential(
            nn.Conv1d(config.features - CONTACTS, width, 4, 2, 1),
            nn.Dropout(config.dropout),
            nn.LeakyReLU(0.2),
            nn.Conv1d(width, width, 4, 2, 1),
            nn.Dropout(config.dropout),
            nn.LeakyReLU(0.2),
        )
        self.out_net = nn.Linear(width, width)

    def forward(self, features_BFD: Tensor) -> Tensor:
        """Movement [B, P, channels] of normalised features, their contacts dropped here."""
        movement_BPM: Tensor = self.out_net(self.main(features_BFD[..., :-CONTACTS].transpose(1, 2)).transpose(1, 2))
        return movement_BPM


class _BiGRU(nn.Module):
    """What the official text and motion encoders share: a bidirectional GRU from learned states, and its ends' MLP."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.input_emb = nn.Linear(inputs, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.output_net = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs)
        )
        self.hidden = nn.Parameter(torch.randn(2, 1, hidden))

    def _ends(self, inputs_BLX: Tensor, length_B: Tensor) -> Tensor:
        """Co-embeddings [B, C] in the order given, whatever the lengths; content beyond them is not seen."""
        embedded_BLH = self.input_emb(inputs_BLX)
        start_2BH = self.hidden.expand(-1, len(inputs_BLX), -1).contiguous()
        # The GRU has no bfloat16 form on CPUs, so it leaves autocast.
        with torch.autocast(embedded_BLH.device.type, enabled=False):
            packed = pack_padded_sequence(embedded_BLH.float(), length_B.cpu(), batch_first=True, enforce_sorted=False)
            _, end_2BH = self.gru(packed, start_2BH.float())
        embedding_BC: Tensor = self.output_net(torch.cat([end_2BH[0], end_2BH[1]], dim=-1))
        return embedding_BC


class TextEncoder(_BiGRU):
    """Words with their parts of speech to co-embeddings. The official `TextEncoderBiGRUCo`."""

    def __init__(self, config: GuoConfig) -> None:
        """Build it with random weights."""
        super().__init__(config.word_size, config.text_hidden, config.coembedding)
        self.pos_emb = nn.Linear(config.pos_size, config.word_size)

    def forward(self, words_BLW: Tensor, pos_BLK: Tensor, length_B: Tensor) -> Tensor:
        """Co-embeddings [B, C] of word vectors and one-hot parts of speech; `length_B` counts words."""
        return self._ends(words_BLW + self.pos_emb(pos_BLK), length_B)


class MotionEncoder(_BiGRU):
    """Movement segments to co-embeddings. The official `MotionEncoderBiGRUCo`."""

    def __init__(self, config: GuoConfig) -> None:
        """Build it with random weights."""
        super().__init__(config.movement_latent, config.motion_hidden, config.coembedding)

    def forward(self, movement_BPM: Tensor, length_B: Tensor) -> Tensor:
        """Co-embeddings [B, C]; `length_B` counts segments."""
        return self._ends(movement_BPM, length_B)


class Guo(nn.Module):
    """The three encoders of the official checkpoint."""

    def __init__(self, config: GuoConfig) -> None:
        """Build them with random weights."""
        super().__init__()
        self.config = config
        self.movement_encoder = MovementEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.motion_encoder = MotionEncoder(config)

    def encode_motion(self, features_BFD: Tensor, length_B: Tensor) -> Tensor:
        """Co-embeddings [B, C] of *normalised* features, zero beyond the length; whole segments count.

        Differs from the official wrapper, which returns rows by falling length: these are in the order given.
        """
        motion_BC: Tensor = self.motion_encoder(self.movement_encoder(features_BFD), length_B // SEGMENT)
        return motion_BC

    def encode_text(self, words_BLW: Tensor, pos_BLK: Tensor, length_B: Tensor) -> Tensor:
        """Co-embeddings [B, C] of word vectors and one-hot parts of speech, in the order given."""
        text_BC: Tensor = self.text_encoder(words_BLW, pos_BLK, length_B)
        return text_BC
