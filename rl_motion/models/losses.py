"""Losses of retrieval models: InfoNCE with filtered negatives, KL between diagonal Gaussians, reconstruction.

Source: TMR, arXiv:2305.00976 sections 3.2 and 3.3. Legend: B batch, N extra negatives, F frames, D features,
C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rl_motion.models.layers import valid_mask


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A batch of diagonal Gaussians: mean and log-variance, both [B, C]."""

    mu_BC: Tensor
    logvar_BC: Tensor


@dataclass(frozen=True, slots=True)
class Negatives:
    """What the contrastive loss knows about negatives besides the batch itself.

    Attributes:
        sentence_BC: unit sentence embeddings of the batch; pairs of texts closer than the threshold are no
            negatives.
        text_NC: latents of texts that fit no motion of the batch (for example the caption with left and right
            swapped).
        motion_NC: latents of motions that fit no text of the batch (for example mirrored or frozen motion).
    """

    sentence_BC: Tensor | None = None
    text_NC: Tensor | None = None
    motion_NC: Tensor | None = None


def similarity_matrix(text_BC: Tensor, motion_MC: Tensor) -> Tensor:
    """Cosine similarity [B, M], rows text, columns motion."""
    return functional.normalize(text_BC, dim=-1) @ functional.normalize(motion_MC, dim=-1).T


def info_nce(
    text_BC: Tensor,
    motion_BC: Tensor,
    *,
    temperature: float = 0.1,
    negatives: Negatives | None = None,
    threshold: float = 0.8,
) -> Tensor:
    """Symmetric InfoNCE over matching rows, arXiv:2305.00976 eq. (2), with false negatives filtered.

    Texts whose sentence similarity (mapped to [0, 1]) exceeds `threshold` leave each other's denominators.
    Extra motions join the denominator of every text, extra texts that of every motion; they are not filtered.

    Returns:
        A scalar: the mean of both directions' cross-entropies.
    """
    negatives = negatives or Negatives()
    logit_BB = similarity_matrix(text_BC, motion_BC) / temperature
    if negatives.sentence_BC is not None:
        near_BB = negatives.sentence_BC @ negatives.sentence_BC.T > 2 * threshold - 1
        near_BB.fill_diagonal_(False)
        logit_BB = logit_BB.masked_fill(near_BB, -torch.inf)
    by_text, by_motion = logit_BB, logit_BB.T
    if negatives.motion_NC is not None:
        by_text = torch.cat([by_text, similarity_matrix(text_BC, negatives.motion_NC) / temperature], dim=1)
    if negatives.text_NC is not None:
        by_motion = torch.cat([by_motion, similarity_matrix(motion_BC, negatives.text_NC) / temperature], dim=1)
    label_B = torch.arange(len(text_BC), device=text_BC.device)
    return (functional.cross_entropy(by_text, label_B) + functional.cross_entropy(by_motion, label_B)) / 2


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) of diagonal Gaussians in nats per element: the mean over B and C."""
    log_ratio = q.logvar_BC - p.logvar_BC
    distance = (p.mu_BC - q.mu_BC).pow(2) / p.logvar_BC.exp()
    return (0.5 * (log_ratio.exp() + distance - 1 - log_ratio)).mean()


def standard_normal_like(gaussian: Gaussian) -> Gaussian:
    """N(0, 1) of the same shape: the prior of the VAE."""
    return Gaussian(torch.zeros_like(gaussian.mu_BC), torch.zeros_like(gaussian.logvar_BC))


def reconstruction_loss(predicted_BFD: Tensor, target_BFD: Tensor, length_B: Tensor) -> Tensor:
    """Smooth L1 averaged over the valid frames.

    Differs from the official code, which averages over the padded canvas: there the weight of a clip depends
    on its batch mates.
    """
    valid_BF1 = valid_mask(length_B, predicted_BFD.shape[1]).unsqueeze(-1)
    error_BFD = functional.smooth_l1_loss(predicted_BFD, target_BFD, reduction="none")
    total = torch.where(valid_BF1, error_BFD, torch.zeros_like(error_BFD)).sum()
    return total / (valid_BF1.sum() * predicted_BFD.shape[-1])
