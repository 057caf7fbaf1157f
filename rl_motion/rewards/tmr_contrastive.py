"""The contrastive form of the TMR reward: does a motion fit its own prompt better than the unit's others?

A plain cosine also rises for motion that fits every prompt a little. Here the cosine is set against those of the
same motion with the unit's other prompts, as TMR's own InfoNCE does from motion to text (arXiv:2305.00976 eq. (2),
temperature 0.1). Two differences: the other prompts are all taken as negatives, paraphrases included, and the log of
their number is added, so that 0 is what a motion gets that fits all prompts alike.

The value depends on the unit that a motion was sampled in. A unit is the same on every backend and with any
number of workers, so the value is too.

Legend: B rows, P different texts of the unit, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from rl_motion.rewards.kind import HUMANML3D_UNNORMALISED, reads, refuse_misread
from rl_motion.types import Motions, Prompt, Representation

TEMPERATURE = 0.1


class Embedding(Protocol):
    """What this reward asks of a retrieval model."""

    representation: Representation

    def embed_motions(self, motions: Motions) -> Tensor:
        """Unit embeddings [B, C]."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [B, C]."""


class ContrastiveTMRReward:
    """log softmax over the unit's P texts of cosine / 0.1, at the motion's own text, plus log P, in nats.

    At most log P; 0 for a motion that fits all of them alike, and always 0 where the unit has one text.
    The model is frozen; gradients reach the motions where they are on the graph.
    """

    accepts = HUMANML3D_UNNORMALISED
    differentiable = True
    checkpoint = "tmr-embedded"

    def __init__(self, model: Embedding) -> None:
        """Reward with this retrieval model."""
        self._model = model
        self.accepts = reads(model.representation)

    @classmethod
    def load(cls, checkpoint: str = checkpoint) -> Self:
        """The reward with a TMR of the zoo or of a directory; only the worker that scores loads it."""
        from rl_motion.models.device import device
        from rl_motion.models.zoo import load_tmr

        return cls(load_tmr(checkpoint).to(device()))

    def __call__(self, motions: Motions, prompts: Sequence[Prompt], noise_level_B: Tensor | None = None) -> Tensor:
        """Reward [B] in nats; `prompts` are those of the whole unit, row by row.

        Raises:
            UserError: another form, noisy motions, or rows that do not match prompts.
        """
        refuse_misread("tmr_contrastive", motions, prompts, noise_level_B, self.accepts)
        texts = list(dict.fromkeys(prompt.text for prompt in prompts))
        cosine_BP = self._model.embed_motions(motions) @ self._model.embed_texts(texts).T
        own_B = torch.tensor([texts.index(prompt.text) for prompt in prompts], device=cosine_BP.device)
        log_share_BP = torch.log_softmax(cosine_BP / TEMPERATURE, dim=1)
        return log_share_BP.gather(1, own_B[:, None]).squeeze(1) + math.log(len(texts))
