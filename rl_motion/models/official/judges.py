"""What the layouts of judges, TMR and the Guo evaluator, share: tensors that fit, and statistics of the right kind.

Legend: D features of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rl_motion.config import UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.official.denoisers import (
    DataSet,
    close_to,
    feet_scale,
    finite_or_refused,
    refuse_incomplete,
    space_of,
)
from rl_motion.models.official.layout import Inspection
from rl_motion.types import Normalisation

_SCALES = {1.0: Normalisation.DATASET, 5.0: Normalisation.STABLEMOFUSION, 25.0: Normalisation.EVALUATOR}
"""By what the deviation of the foot contacts is divided -> whose convention that is."""
_WHERE = {
    Normalisation.EVALUATOR: "the evaluator's own mean and std (Comp_v6_KLD01/meta or Comp_v6_KLD005/meta of its "
    "download, or t2m_mean.npy, kit_mean.npy ... of MDM's dataset/ folder)",
    Normalisation.TMR: "TMR's own mean.pt and std.pt (stats/humanml3d/guoh3dfeats or stats/kitml/guoh3dfeats of its "
    "repository)",
}

N = TypeVar("N", bound=nn.Module)


def without_weights(path: Path, build: Callable[[], N]) -> N:
    """A network without memory for its weights.

    Raises:
        UserError: its shape makes none; `path` is where the shape is from.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UserError(
            f"got {path}, whose widths make no network ({' '.join(str(error).split())}); want those of the published "
            "model; download it again"
        ) from error


@dataclass(frozen=True, slots=True)
class Judge(Generic[N]):
    """A judge as its files describe it.

    Attributes:
        weights: the file, or the folder, of the tensors, for messages.
        network: without memory for its weights until `filled`.
        tensors: under official names, without what is known to be left out.
        what, facts, options: for `Inspection`.
    """

    weights: Path
    network: N
    tensors: Mapping[str, Tensor]
    what: str
    facts: Mapping[str, str]
    options: tuple[str, ...]

    def inspection(self) -> Inspection:
        """What it is, and which tensors are missing and extra.

        Raises:
            UserError: a tensor has another shape than the network's, or is not finite.
        """
        want = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()}
        for name, tensor in self.tensors.items():
            if tuple(tensor.shape) != want.get(name, tuple(tensor.shape)):
                raise UserError(
                    f"got {name} of shape {tuple(tensor.shape)} in {self.weights}; want {want[name]}, which the other "
                    "widths ask for; take all files from one download"
                )
        finite_or_refused(self.weights, {name: tensor for name, tensor in self.tensors.items() if name in want})
        return Inspection(
            self.what,
            self.facts,
            sum(parameter.numel() for parameter in self.network.parameters()),
            tuple(sorted(want.keys() - self.tensors.keys())),
            tuple(sorted(self.tensors.keys() - want.keys())),
            options=self.options,
        )

    def filled(self) -> N:
        """The network with its weights, in float32.

        Raises:
            UserError: some are missing or extra, or what `inspection` refuses.
        """
        refuse_incomplete(self.weights, self.inspection())
        self.network.load_state_dict({name: tensor.float() for name, tensor in self.tensors.items()}, assign=True)
        return self.network


def own_space(folder: Path, mean_D: Tensor, std_D: Tensor, data: DataSet, kind: Normalisation) -> MotionSpace:
    """The feature space of a judge's own statistics.

    Raises:
        UserError: they are of another width, not positive, or of another of the field's four conventions.
    """
    space = space_of(folder, mean_D, std_D, data, kind)
    scale = feet_scale(mean_D, std_D)
    told = None if scale is None else told_by(scale, std_D)
    if scale is not None and told != kind:
        whose = f"the convention {told!s}" if told else f"no known convention (contacts divided by {scale:.3g})"
        raise UserError(f"got statistics of {whose} in {folder}; want {_WHERE[kind]}; add --stats DIR with these")
    return space


def told_by(scale: float, std_D: Tensor) -> Normalisation | None:
    """Whose convention statistics are: None where the scale of the contacts is nobody's.

    Args:
        scale: what the deviation of the foot contacts is divided by, from `feet_scale`.
        std_D: HumanML3D's or KIT's deviations. Data sets have one for all joints, TMR one for each.
    """
    joints = (len(std_D) + 1) // 12
    positions = std_D[4 : 4 + 3 * (joints - 1)]
    told = next((kind for known, kind in _SCALES.items() if close_to(scale, known)), None)
    shared = float(positions.max() - positions.min()) <= 1e-3 * float(positions.mean())
    return Normalisation.TMR if told == Normalisation.DATASET and not shared else told
