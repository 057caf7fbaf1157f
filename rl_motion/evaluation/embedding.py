"""Motions under the evaluator of their split's world, gathered for the field's metrics.

Legend: B rows of a unit (prompt-major), P prompts, R samples of each, C channels of an embedding, N real motions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_motion.evaluation.metrics import RealEmbeddings, field_metrics
from rl_motion.evaluation.metrics.multimodal_distance import distances_N
from rl_motion.types import Motions, Prompt, Unit

Floats = NDArray[np.floating]


class MotionEvaluator(Protocol):
    """A frozen judge that is never a reward: motions and texts to one Euclidean space, in the order given."""

    sha256: str
    """Of its weights."""

    def embed_motions(self, motions: Motions) -> Tensor:
        """Embeddings [B, C] of un-normalised motions; converts what it can read by way of joints."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [B, C]."""


@dataclass(frozen=True, slots=True)
class Real:
    """Real motion of a split with its captions, and the action of each, as the prompts' `group` names it."""

    motions: Motions
    texts: Sequence[str]
    groups: Sequence[str]


@dataclass(slots=True)
class Embedded:
    """One split: its prompts, and unit by unit the motions of every arm."""

    evaluator: MotionEvaluator
    prompts: Sequence[Prompt]
    samples_per_prompt: int
    real: RealEmbeddings | None
    motions: dict[str, list[Floats]] = field(default_factory=dict)
    """arm -> of each unit [B, C]."""
    texts: dict[str, Floats] = field(default_factory=dict)
    """prompt id -> [C]."""

    def add(self, arm: str, motions: Motions, unit: Unit) -> list[float]:
        """Embed the unit's motions; returns each one's distance to its own text."""
        if new := [prompt for prompt in unit.prompts if prompt.id not in self.texts]:
            rows = array(self.evaluator.embed_texts([prompt.text for prompt in new]))
            self.texts |= {prompt.id: row for prompt, row in zip(new, rows, strict=True)}
        motion_BC = array(self.evaluator.embed_motions(motions))
        self.motions.setdefault(arm, []).append(motion_BC)
        text_BC = np.stack([self.texts[prompt.id] for prompt in unit.row_prompts])
        found: list[float] = distances_N(text_BC, motion_BC).tolist()
        return found

    def metrics(self, seed: int) -> dict[str, Any]:
        """`field_metrics` of all arms."""
        samples = self.samples_per_prompt
        arms = {
            arm: np.concatenate(parts).reshape(len(self.prompts), samples, -1).swapaxes(0, 1)
            for arm, parts in self.motions.items()
        }
        text_PC = np.stack([self.texts[prompt.id] for prompt in self.prompts])
        return field_metrics(arms, text_PC, [prompt.group for prompt in self.prompts], self.real, seed=seed)


def embed_real(evaluator: MotionEvaluator, real: Real) -> RealEmbeddings:
    """Real motion and its captions under the evaluator."""
    with torch.no_grad():
        motion_NC, text_NC = evaluator.embed_motions(real.motions), evaluator.embed_texts(real.texts)
    return RealEmbeddings(array(motion_NC), array(text_NC), real.groups)


def array(embedded: Tensor) -> Floats:
    """As NumPy on the CPU, float32."""
    found: Floats = embedded.detach().float().cpu().numpy()
    return found
