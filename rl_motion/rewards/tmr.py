"""Text-motion similarity under a frozen TMR (Petrovich et al. 2023, arXiv:2305.00976), the paper's reward.

Legend: B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor

from rl_motion.rewards.kind import HUMANML3D_UNNORMALISED, reads, refuse_misread
from rl_motion.types import Motions, Prompt, Representation


class Similarity(Protocol):
    """What this reward asks of a retrieval model."""

    representation: Representation

    def similarity(self, motions: Motions, texts: Sequence[str]) -> Tensor:
        """Cosine [B] in [-1, 1] between each motion and its row's text."""


class TMRReward:
    """The plain cosine between the embeddings of a motion and of its prompt, in [-1, 1].

    The model is frozen; gradients reach the motions where they are on the graph.
    """

    accepts = HUMANML3D_UNNORMALISED
    differentiable = True
    checkpoint = "tmr-embedded"

    def __init__(self, model: Similarity) -> None:
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
        """Cosine [B] of each motion with its row's prompt. This TMR saw clean motion only: `noise_level_B` is
        refused.

        Raises:
            UserError: another representation, normalised features, noisy motions, or rows that do not match
                prompts.
        """
        refuse_misread("tmr", motions, prompts, noise_level_B, self.accepts)
        return self._model.similarity(motions, [prompt.text for prompt in prompts])
