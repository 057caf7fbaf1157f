"""What the layouts of denoisers share: data sets, whether weights fit a network, and writing the project's checkpoint.

Legend: D features of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.layers import refuse_not_finite
from rl_motion.models.official.layout import Inspection
from rl_motion.models.official.reading import read_vector
from rl_motion.models.zoo import DENOISERS, CheckpointConfig, network_shape, save_checkpoint
from rl_motion.protocols import PredictionType
from rl_motion.types import Normalisation, Representation

_CONTACTS = slice(-4, None)
"""Columns of 263 and of 251 features that say whether a foot stands: 0 or 1."""
_BIASED = (slice(0, 4), _CONTACTS)
"""Columns whose deviation Guo et al.'s code divides by `feat_bias`: the root's and the contacts'."""
_MEAN_NAMES, _STD_NAMES = ("Mean.npy", "mean.npy", "mean.pt"), ("Std.npy", "std.npy", "std.pt")


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a data set's motion looks like."""

    title: str
    representation: Representation
    features: int
    fps: float

    def __str__(self) -> str:
        """For the page of facts."""
        return f"{self.title}: {self.features} features a frame ({self.representation}), {self.fps:g} frames per second"


TITLES: dict[PredictionType, str] = {
    "sample": "x0 (sample)",
    "epsilon": "noise (epsilon)",
    "v_prediction": "v_prediction",
}
"""What is predicted, for the page of facts."""
HUMANML3D = DataSet("HumanML3D", Representation.HUMANML3D_263, 263, 20.0)
KIT_ML = DataSet("KIT-ML", Representation.KIT_251, 251, 12.5)


@dataclass(frozen=True, slots=True)
class Found:
    """A denoiser as its files describe it.

    Attributes:
        what: the model, and which of a file's weights, in one line.
        kind: of `rl_motion.models.zoo.DENOISERS`.
        shape: the network's configuration.
        schedule, prediction_type, data: what the network was trained with.
        text_cut: tokens, special ones included, to which the official code cuts a longer text; None: to none.
        weights: the file of the tensors, for messages.
        tensors: of the network under official names, without what is known to be left out.
        facts, notes, options: for `Inspection`.
    """

    what: str
    kind: str
    shape: Any
    schedule: ScheduleConfig
    prediction_type: PredictionType
    data: DataSet
    text_cut: int | None
    weights: Path
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--text-encoder",)

    def inspection(self) -> Inspection:
        """What it is, and what is missing and extra.

        Raises:
            UserError: a shape differs from the options', numbers are not finite, or no such network can be built.
        """
        network = self._network()
        want = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        self._refuse_unfit(want)
        return Inspection(
            self.what,
            self.facts,
            sum(parameter.numel() for parameter in network.parameters()),
            tuple(sorted(want.keys() - self.tensors.keys())),
            tuple(sorted(self.tensors.keys() - want.keys())),
            self.notes,
            self.options,
        )

    def write(self, folder: Path, space: MotionSpace, text_encoder: str) -> None:
        """Write the project's own checkpoint, in float32.

        Raises:
            UserError: tensors are missing or extra, or what `inspection` refuses.
        """
        refuse_incomplete(self.weights, self.inspection())
        network = self._network()
        network.load_state_dict({name: tensor.float() for name, tensor in self.tensors.items()}, assign=True)
        config = CheckpointConfig(
            kind=self.kind,
            network=network_shape(network),
            text_encoder=text_encoder,
            text_cut=self.text_cut,
            schedule=self.schedule,
            prediction_type=self.prediction_type,
            fps=space.fps,
            representation=space.representation,
            normalisation=space.normalisation,
        )
        save_checkpoint(folder, network, config, space)

    def _network(self) -> nn.Module:
        """The network without memory for its weights."""
        network_class = DENOISERS[self.kind][0]
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                network: nn.Module = network_class(self.shape)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            raise UserError(
                f"got options beside {self.weights} that make no network ({' '.join(str(error).split())}); want those "
                "that it was trained with; copy both files from one download"
            ) from error
        return network

    def _refuse_unfit(self, want: Mapping[str, tuple[int, ...]]) -> None:
        for name, tensor in self.tensors.items():
            if tuple(tensor.shape) != want.get(name, tuple(tensor.shape)):
                raise UserError(
                    f"got {name} of shape {tuple(tensor.shape)} in {self.weights}; want {want[name]}, as the options "
                    "beside it say; copy both files from one download"
                )
        finite_or_refused(self.weights, {name: tensor for name, tensor in self.tensors.items() if name in want})


def refuse_incomplete(path: Path, inspection: Inspection) -> None:
    """Refuse weights that lack a tensor, or have one that nobody reads: they are of another model.

    Raises:
        UserError: names the first few.
    """
    if inspection.missing or inspection.extra:
        raise UserError(
            f"got {path} with {_some(inspection.missing)} missing and {_some(inspection.extra)} unknown; want exactly "
            f"those of {inspection.what.split(',')[0]}; see all with `rl-motion model inspect`"
        )


def finite_or_refused(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors with NaN or infinities; raises UserError."""
    try:
        refuse_not_finite(tensors)
    except ValueError as error:
        raise UserError(f"{error} ({path})") from error


def read_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation [D] of a folder: Mean.npy and Std.npy, as data sets have them, or mean and std (.npy, .pt).

    Raises:
        UserError: they are not there, or cannot be read.
    """
    return _one_of(folder, _MEAN_NAMES), _one_of(folder, _STD_NAMES)


def data_set_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a data set itself: what MDM was trained with, and what others scale.

    Raises:
        UserError: they are not there, or are scaled as StableMoFusion's or the evaluator's are.
    """
    mean_D, std_D = read_statistics(folder)
    scale = feet_scale(mean_D, std_D)
    if scale is not None and not close_to(scale, 1.0):
        raise UserError(
            f"got --stats {folder}, whose foot contacts deviate as if divided by {scale:.2g} (5: StableMoFusion's "
            "meta/, 25: the evaluator's); want the data set's own Mean.npy and Std.npy; give the data set's folder"
        )
    return mean_D, std_D


def space_of(
    folder: Path, mean_D: Tensor, std_D: Tensor, data: DataSet, normalisation: Normalisation = Normalisation.DATASET
) -> MotionSpace:
    """The feature space of these statistics.

    Raises:
        UserError: they are not as wide as the data, or a deviation is not positive.
    """
    refuse_other_statistics(folder, mean_D, std_D, data.features)
    return MotionSpace(mean_D, std_D, data.fps, data.representation, normalisation=normalisation)


def refuse_other_statistics(folder: Path, mean_D: Tensor, std_D: Tensor, width: int) -> None:
    """Refuse a mean and a deviation of another width, or deviations that are not positive; raises UserError."""
    if {tuple(mean_D.shape), tuple(std_D.shape)} != {(width,)}:
        raise UserError(
            f"got mean {tuple(mean_D.shape)} and std {tuple(std_D.shape)} in {folder}; want ({width},) of both; give "
            "the statistics that this model's data were normalised with"
        )
    if not bool((std_D > 0).all()):
        raise UserError(
            f"got a deviation of {float(std_D.min()):g} in {folder}; want positive ones; copy the statistics again"
        )


def feet_scale(mean_D: Tensor, std_D: Tensor) -> float | None:
    """By what the foot contacts' deviation was divided: 1 in data sets, 5 in StableMoFusion, 25 in Guo's evaluator.

    A contact is 0 or 1, so its deviation follows from its mean: sqrt(mean (1 - mean)). None where the means are no
    shares, or nearly 0 or 1, and say nothing; and where the deviation is 0, which is refused elsewhere.
    """
    share = mean_D[_CONTACTS].double()
    if not bool(((share > 0.002) & (share < 0.998)).all()):
        return None
    true = float((share * (1 - share)).mean().sqrt())
    stored = float(std_D[_CONTACTS].double().mean())
    scale = true / stored if stored > 0 else math.inf
    return scale if math.isfinite(scale) else None


def close_to(scale: float | None, known: float) -> bool:
    """Whether a scale of `feet_scale` may be that one: known scales are a factor of 5 apart, samples differ less."""
    return scale is None or known / 1.6 < scale < known * 1.6


def biased(std_D: Tensor, feat_bias: float) -> Tensor:
    """A data set's deviation as Guo et al.'s training code scales it: the root's 4 and the contacts' divided."""
    scaled_D = std_D.clone()
    for columns in _BIASED:
        scaled_D[columns] /= feat_bias
    return scaled_D


def _one_of(folder: Path, names: tuple[str, ...]) -> Tensor:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f"got {folder} without {' or '.join(names)}; want the mean and deviation that the model's data were "
            "normalised with; give their folder (of HumanML3D and KIT-ML, the data set's own)"
        )
    return read_vector(path)


def _some(names: tuple[str, ...]) -> str:
    """How many tensors, and the first two by name."""
    shown = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
    return f"{len(names)} tensors ({shown})" if names else "none"
