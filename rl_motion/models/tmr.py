"""TMR, the text-motion retrieval model (arXiv:2305.00976): ACTOR-style encoders and decoder, and a scorer.

Parameter names are those of the official Lightning checkpoint (`motion_encoder.`, `text_encoder.`,
`motion_decoder.`). Features given to `TMR` are normalised with TMR's own statistics; `TMRScorer` owns those
and takes un-normalised features.

Legend: B batch, F frames, D features, L text tokens, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.models.layers import (
    Decoder,
    Encoder,
    LayerConfig,
    PositionalEncoding,
    check_statistics,
    valid_mask,
)
from rl_motion.models.losses import Gaussian


@dataclass(frozen=True, slots=True)
class TMRConfig:
    """Architecture of a `TMR`; the defaults are the official HumanML3D model with DistilBERT tokens.

    Attributes:
        features: features per frame D.
        text_dim: channels of one text token.
        latent_dim: channels of the latent space and of the residual streams.
        ff_size: hidden channels of the feed-forward parts.
        num_layers: layers of each encoder and of the decoder.
        num_heads: attention heads.
        dropout: active in `train()` only.
        max_len: size of the position table; above the longest motion or text by two.
        decoder: whether the motion decoder is there, which retrieval does not need.
    """

    features: int = 263
    text_dim: int = 768
    latent_dim: int = 256
    ff_size: int = 1024
    num_layers: int = 6
    num_heads: int = 4
    dropout: float = 0.1
    max_len: int = 5000
    decoder: bool = True


class ActorEncoder(nn.Module):
    """ACTOR-style VAE encoder (arXiv:2104.05670): two learned tokens in front become mu and logvar."""

    def __init__(self, features: int, config: TMRConfig) -> None:
        """Build an encoder of sequences with `features` channels."""
        super().__init__()
        width = config.latent_dim
        layer = LayerConfig(width, config.ff_size, config.num_heads, config.dropout)
        self.projection = nn.Linear(features, width)
        self.tokens = nn.Parameter(torch.randn(2, width))
        self.sequence_pos_encoding = PositionalEncoding(width, dropout=config.dropout, max_len=config.max_len)
        self.seqTransEncoder = Encoder(layer, config.num_layers)

    def forward(self, x_BLD: Tensor, length_B: Tensor) -> Gaussian:
        """Encode [B, L, D] to Gaussians [B, C]; content beyond `length_B` [B] is not seen."""
        tokens_B2C = self.tokens.unsqueeze(0).expand(len(x_BLD), -1, -1)
        sequence_BLC = torch.cat([tokens_B2C, self.projection(x_BLD.contiguous())], dim=1)
        sequence_BLC = self.sequence_pos_encoding(sequence_BLC)
        valid_BL = valid_mask(length_B + 2, sequence_BLC.shape[1])
        output_BLC = self.seqTransEncoder(sequence_BLC, valid_BL)
        return Gaussian(output_BLC[:, 0], output_BLC[:, 1])


class ActorDecoder(nn.Module):
    """ACTOR-style decoder: positions query one latent token."""

    def __init__(self, features: int, config: TMRConfig) -> None:
        """Build a decoder to sequences with `features` channels."""
        super().__init__()
        width = config.latent_dim
        layer = LayerConfig(width, config.ff_size, config.num_heads, config.dropout)
        self.sequence_pos_encoding = PositionalEncoding(width, dropout=config.dropout, max_len=config.max_len)
        self.seqTransDecoder = Decoder(layer, config.num_layers)
        self.final_layer = nn.Linear(width, features)

    def forward(self, z_BC: Tensor, length_B: Tensor, frames: int) -> Tensor:
        """Decode latents to [B, frames, D], exactly 0 beyond the length."""
        valid_BF = valid_mask(length_B, frames)
        query_BFC = self.sequence_pos_encoding(z_BC.new_zeros(len(z_BC), frames, z_BC.shape[-1]))
        output_BFD = self.final_layer(self.seqTransDecoder(query_BFC, z_BC.unsqueeze(1), valid_BF))
        return torch.where(valid_BF.unsqueeze(-1), output_BFD, torch.zeros_like(output_BFD))


class TMR(nn.Module):
    """Motion and text encoders to one latent space, and a motion decoder for pretraining."""

    def __init__(self, config: TMRConfig) -> None:
        """Build the three networks with random weights."""
        super().__init__()
        self.config = config
        self.motion_encoder = ActorEncoder(config.features, config)
        self.text_encoder = ActorEncoder(config.text_dim, config)
        if config.decoder:
            self.motion_decoder = ActorDecoder(config.features, config)

    def encode_motion(self, features_BFD: Tensor, length_B: Tensor) -> Gaussian:
        """Encode *normalised* features; `mu_BC` is the embedding that retrieval uses."""
        gaussian: Gaussian = self.motion_encoder(features_BFD, length_B)
        return gaussian

    def encode_text(self, tokens_BLC: Tensor, length_B: Tensor) -> Gaussian:
        """Encode the token features of a language model; `mu_BC` is the embedding that retrieval uses."""
        gaussian: Gaussian = self.text_encoder(tokens_BLC, length_B)
        return gaussian

    def decode(self, z_BC: Tensor, length_B: Tensor, frames: int) -> Tensor:
        """Decode latents to normalised features [B, frames, D], exactly 0 beyond the length."""
        features_BFD: Tensor = self.motion_decoder(z_BC, length_B, frames)
        return features_BFD


class TMRScorer(nn.Module):
    """Unit embeddings of motions and texts; owns the normalisation, so features come in un-normalised.

    Their product is the cosine; the official retrieval score is `cosine / 2 + 0.5`. Differentiable with respect to
    the features.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, tmr: TMR, *, mean_D: Tensor, std_D: Tensor) -> None:
        """Combine a model with the statistics it was trained on, both [features].

        Raises:
            ValueError: wrong shapes or a deviation that is not positive.
        """
        super().__init__()
        check_statistics(mean_D, std_D, tmr.config.features)
        self.tmr = tmr
        self.register_buffer("mean_D", mean_D.detach().clone())
        self.register_buffer("std_D", std_D.detach().clone())

    def embed_motion(self, features_BFD: Tensor, length_B: Tensor) -> Tensor:
        """Unit embeddings [B, C] of un-normalised features."""
        normalised_BFD = (features_BFD - self.mean_D) / self.std_D
        return functional.normalize(self.tmr.encode_motion(normalised_BFD, length_B).mu_BC, dim=-1)

    def embed_text(self, tokens_BLC: Tensor, length_B: Tensor) -> Tensor:
        """Unit embeddings [B, C] of token features."""
        return functional.normalize(self.tmr.encode_text(tokens_BLC, length_B).mu_BC, dim=-1)
