"""What every reward shares: how a job comes to it, and what all of them refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rl_motion.config import UserError
from rl_motion.motion.convert import convertible
from rl_motion.protocols import Reward
from rl_motion.types import MotionForm, Motions, Normalisation, Prompt, Representation

HUMANML3D_UNNORMALISED = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
"""What every packaged rule accepts."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A reward that a job may name: what can be asked before it is made, and how to make it.

    `load` runs on the worker that scores; it takes the weights to read where the reward reads any, and nothing else.
    `checkpoint`: the packaged weights that it reads where the job names none.
    `accepts`: of a reward with weights, what the packaged ones read; others read what is theirs (`reads`).
    `differentiable`: motion that comes on the graph stays there.
    `contrasts`: it compares a motion's prompt with the others of the unit, so that a unit needs two.
    """

    load: Callable[..., Reward]
    accepts: frozenset[MotionForm]
    differentiable: bool
    checkpoint: str | None = None
    contrasts: bool = False

    def __call__(self, model: str | None = None) -> Reward:
        """Make it, with these weights or the packaged ones."""
        return self.load(model or self.checkpoint) if self.checkpoint else self.load()


def reads(representation: Representation) -> frozenset[MotionForm]:
    """What a reward accepts whose model reads this representation: that, and what can be converted to it."""
    return frozenset(
        MotionForm(given, Normalisation.NONE) for given in Representation if convertible(given, representation)
    )


def refuse_misread(
    name: str,
    motions: Motions,
    prompts: Sequence[Prompt],
    noise_level_B: Tensor | None,
    accepts: frozenset[MotionForm] = HUMANML3D_UNNORMALISED,
) -> None:
    """Refuse what a reward of clean un-normalised motion would misread.

    Raises:
        UserError: another form, noisy motions, or rows that do not match prompts.
    """
    if motions.form not in accepts:
        raise UserError(
            f"got motion as {motions.form}; reward {name!r} wants {forms(accepts)}; pass what the "
            "denoiser's `decode` returns, or choose a reward that accepts it"
        )
    if noise_level_B is not None:
        raise UserError(
            f"got motions with a noise level; reward {name!r} wants clean motions; score the decoded x0 instead"
        )
    if len(prompts) != motions.features_BFD.shape[0]:
        raise UserError(
            f"got {motions.features_BFD.shape[0]} motions and {len(prompts)} prompts; want one prompt "
            "per row; pass `unit.row_prompts`"
        )


def forms(accepted: frozenset[MotionForm]) -> str:
    """What a reward accepts, in words."""
    return " or ".join(sorted(map(str, accepted)))
