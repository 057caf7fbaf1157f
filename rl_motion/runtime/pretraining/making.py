"""What a pretraining job trains, on what, and what is left of it: the same losses as the packaged weights have.

Of the data set the splits `train` and `val` are read, and no other: no motion, no caption, no statistics.
Legend: D features of a frame, C channels of a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from rl_motion.config import PretrainJob, RunFault, UserError, nearest
from rl_motion.config.pretrain import TINY
from rl_motion.data.datasets.dataset import ClipView, Dataset
from rl_motion.data.datasets.windows import Windows, refuse_empty, train_statistics
from rl_motion.models.denoiser import MotionSpace, TextStatistics
from rl_motion.models.device import device
from rl_motion.models.evaluator import POS
from rl_motion.models.fitting import Fit, Loss, Recipe, Witness
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.pretraining import (
    MotionText,
    TokenTexts,
    denoiser_loss,
    layout_of,
    refuse_untrainable,
    retrieval_loss,
    train_text_encoder,
)
from rl_motion.models.pretraining_evaluator import (
    ROOT_WEIGHT,
    Captioned,
    evaluator_loss,
    new_evaluator,
    settle,
    unfinished,
)
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import DENOISERS, CheckpointConfig, network_shape, save_checkpoint, save_evaluator
from rl_motion.types import Representation

TEXT = "text"
"""The text encoder's folder, beside the checkpoint's."""
MAX_TOKENS = 96
"""Of a caption that a `tiny` text encoder reads."""
_VAL_BATCHES = 8
_BROKEN = (TypeError, RuntimeError, ValueError, ArithmeticError, AssertionError)
"""What a network's class raises for a shape that is none."""


@dataclass(frozen=True, slots=True)
class Material:
    """The data as one network sees it. val: None where the data set has no such split, or nothing in it is read."""

    dataset: Dataset
    train: Windows
    val: Windows | None
    space: MotionSpace


@dataclass(frozen=True, slots=True)
class Making:
    """A network that is ready to train.

    model: all of whose parameters train. loss: on `train`. val_loss: on `val`, where there is one. save: writes the
    checkpoint with the average of the weights that it is given.
    """

    model: nn.Module
    loss: Loss
    val_loss: Loss | None
    save: Callable[[Path, nn.Module], None]

    def validate(self, fit: Fit) -> float | None:
        """Mean loss of the average on some batches of `val`, the same ones every time."""
        if self.val_loss is None:
            return None
        generator = torch.Generator().manual_seed(fit.recipe.seed)
        with fit.averaged():
            return sum(self.val_loss(n, generator).item() for n in range(_VAL_BATCHES)) / _VAL_BATCHES


def recipe_of(job: PretrainJob) -> Recipe:
    """Of the network."""
    given = job.train
    return Recipe(given.steps, given.batch, given.learning_rate, given.weight_decay, given.warmup, given.seed)


def make_text(job: PretrainJob, clips: ClipView, folder: Path, witness: Witness) -> None:
    """A `tiny` text encoder: masked words and paraphrases of the captions, whose words are its vocabulary."""
    wordings = [[caption.text for caption in clips.captions(index)] for index in range(len(clips))]
    create_tiny_bert([text for texts in wordings for text in texts], folder, TinyBertConfig(max_tokens=MAX_TOKENS))
    reads = TextEncoder(folder).reads
    kept = [[text for text in texts if reads(text)] for texts in wordings]
    if not any(kept):
        raise UserError(
            f"got {clips.dataset.directory}, whose split 'train' has no caption of at most {MAX_TOKENS} tokens; want "
            "captioned motion; import the data with its captions"
        )
    recipe = Recipe(steps=job.text.steps, batch=job.train.batch, warmup=job.train.warmup, seed=job.train.seed)
    train_text_encoder(folder, [texts for texts in kept if texts], recipe, witness)


def check_network(job: PretrainJob, dataset: Dataset) -> None:
    """Refuse a shape that is none before anything is trained: the network is built without memory.

    Raises:
        UserError: names what to change.
    """
    encoder = Widths(token_dim=8, pooled_dim=8, max_tokens=MAX_TOKENS)
    network_class, shape = _network_of(job, dataset.features_D, None if job.kind == "evaluator" else encoder)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network_class(shape)
    except _BROKEN as error:
        raise _no_network(error) from error


def material_of(job: PretrainJob, dataset: Dataset, encoder: TextEncoder | None) -> Material:
    """The data of a job; raises UserError where there is nothing to train on."""
    reads = (lambda text: True) if encoder is None else encoder.reads
    train = Windows(dataset.split("train"), job.data.frames, reads)
    refuse_empty(train, dataset, "train")
    val = Windows(dataset.split("val"), job.data.frames, reads) if "val" in dataset.info.splits else None
    found = train_statistics(dataset)
    mean_D, std_D = torch.tensor(found.mean_D), torch.tensor(found.std_D)
    space = MotionSpace(mean_D, std_D, dataset.info.fps, dataset.info.representation)
    return Material(dataset, train, val if val is not None and len(val) else None, space)


def make_network(job: PretrainJob, data: Material, encoder: TextEncoder | None) -> Making:
    """The job's network, its first weights drawn by the seed.

    Raises:
        UserError: a shape that is none, or data that it cannot be trained on.
    """
    torch.manual_seed(job.train.seed)
    if encoder is None:
        return _evaluator(job, data)
    return (_denoiser if job.kind == "denoiser" else _retrieval)(job, data, encoder)


def _denoiser(job: PretrainJob, data: Material, encoder: TextEncoder) -> Making:
    kind, diffusion = job.network_kind, job.diffusion
    denoiser_class = DENOISERS[kind][2]
    network_class, shape = _network_of(job, len(data.space.mean_D), encoder)
    space = data.space
    if denoiser_class.normalises_text:
        space = replace(space, text=_text_statistics(encoder.pooled(data.train.captions)))
    try:
        network = network_class(shape)
        model = denoiser_class(
            network, diffusion.schedule, space=space, text_encoder=encoder, prediction_type=diffusion.prediction_type
        ).to(device())
        refuse_untrainable(model)
    except _BROKEN as error:
        raise _no_network(error) from error

    def loss_on(windows: Windows) -> Loss:
        return denoiser_loss(
            model, _motion(windows, data.space), windows.captions, job.train.batch, diffusion.condition_dropout
        )

    def save(folder: Path, average: nn.Module) -> None:
        network.load_state_dict(average.state_dict())
        config = CheckpointConfig(
            kind=kind, network=network_shape(network), text_encoder=TEXT, schedule=diffusion.schedule,
            prediction_type=diffusion.prediction_type, fps=space.fps, representation=space.representation,
        )  # fmt: skip
        save_checkpoint(folder, network.cpu(), config, space)

    return Making(network, loss_on(data.train), None if data.val is None else loss_on(data.val), save)


def _retrieval(job: PretrainJob, data: Material, encoder: TextEncoder) -> Making:
    _refuse_alone(data)
    space, layout = data.space, _layout(data)
    _, shape = _network_of(job, len(space.mean_D), encoder)
    try:
        model = TMR(shape).to(device())
    except _BROKEN as error:
        raise _no_network(error) from error
    rest_D = -space.mean_D / space.std_D
    rest_D[layout.feet] += 1 / space.std_D[layout.feet]  # a body at rest stands on its feet

    def loss_on(windows: Windows) -> Loss:
        tokens_ULC, length_U = encoder.tokens(windows.captions)
        texts = TokenTexts(tokens_ULC.to(device()), length_U.to(device()))
        parts = [(_motion(windows, space), windows.meaning_N)]
        return retrieval_loss(
            model, parts, texts, rest_D, job.train.batch, unfinished=unfinished, same_captions=True
        )  # fmt: skip

    def save(folder: Path, average: nn.Module) -> None:
        model.load_state_dict(average.state_dict())
        # Published features do not take the body's own heading, those of motion files do.
        own = data.dataset.info.kind != "humanml3d"
        config = CheckpointConfig(
            kind="tmr", network=network_shape(model), text_encoder=TEXT, fps=space.fps,
            representation=space.representation, own_heading=own,
        )  # fmt: skip
        save_checkpoint(folder, model.cpu(), config, space)

    return Making(model, loss_on(data.train), _contrasted(data.val, loss_on), save)


def _evaluator(job: PretrainJob, data: Material) -> Making:
    _refuse_alone(data)
    _layout(data)
    std_D = data.space.std_D.clone()
    std_D[:4] /= ROOT_WEIGHT
    space = replace(data.space, std_D=std_D)
    _, shape = _network_of(job, len(std_D), None)
    try:
        model = new_evaluator(data.train.captions, shape, space).to(device())
    except _BROKEN as error:
        raise _no_network(error) from error

    def loss_on(windows: Windows) -> Loss:
        part = Captioned(windows.rows(), windows.length_N, windows.caption_N, windows.meaning_N)
        return evaluator_loss(model, [part], windows.captions, job.train.batch)

    def save(folder: Path, average: nn.Module) -> None:
        settle(model, average)
        save_evaluator(folder, model.cpu())

    return Making(model, loss_on(data.train), _contrasted(data.val, loss_on), save)


@dataclass(frozen=True, slots=True)
class Widths:
    """What a network's shape takes from its text encoder."""

    token_dim: int
    pooled_dim: int
    max_tokens: int


def _network_of(job: PretrainJob, features: int, encoder: Widths | TextEncoder | None) -> tuple[type[Any], Any]:
    """The class of a job's network and its shape: what the job gives, and what the data and the texts decide."""
    kind, frames, given = job.network_kind, job.data.frames, job.network.shape
    if encoder is None:
        fixed: dict[str, Any] = {"features": features, "max_frames": frames, "pos_size": len(POS)}
        return Guo, shape_of(GuoConfig, given, fixed)
    if kind == "tmr":
        fixed = {"features": features, "text_dim": encoder.token_dim, "decoder": False}
        return TMR, shape_of(TMRConfig, given, fixed | {"max_len": max(frames, encoder.max_tokens) + 2})
    tokens = kind == "t2m_unet" or bool(given.get("text_tokens", False))
    fixed = {"features": features, "text_dim": encoder.token_dim if tokens else encoder.pooled_dim}
    if kind == "t2m_unet":
        fixed |= {"mask_frames": True, "mask_tokens": True, "max_frames": frames}
    else:
        prefix = 2 + (_whole(given.get("num_registers", 2)) if kind == "mdm_smpl" else 0)
        fixed |= {"pos_embed_max_len": max(job.diffusion.schedule.timesteps, frames + prefix)}
        fixed |= {"mask_frames": True} if kind == "mdm" else {}
    network_class, shape_class, _ = DENOISERS[kind]
    return network_class, shape_of(shape_class, given, fixed)


def shape_of(shape_class: type[Any], given: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
    """A network's shape of what the job gives and what the data decides.

    Raises:
        UserError: an unknown name, or a value of another type.
    """
    known = sorted({field.name for field in fields(shape_class)} - fixed.keys())
    for name in given:
        if name not in known:
            why = ", as the data decides it" if name in fixed else ""
            raise UserError(
                f"network.shape: got {str(name)[:60]!r}; want some of {', '.join(known)}{why}; "
                f"{nearest(name, known, 'leave it out')}"
            )
    try:
        return TypeAdapter(shape_class).validate_json(json.dumps({**given, **fixed}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"network.shape.{where}: got {str(first['input'])[:60]!r}; want another value ({message[:200]}); correct it"
        ) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"network.shape: got a value that is no number or name ({error}); correct it") from None


def text_folder(job: PretrainJob) -> Path | None:
    """The text encoder that the job gives; None: a tiny one, or none.

    Raises:
        UserError: there is none.
    """
    if job.kind == "evaluator" or job.text.encoder == TINY:
        return None
    folder = Path(job.text.encoder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"text.encoder: got {job.text.encoder[:200]!r}, which has no config.json; want {TINY} or a Hugging Face "
            "directory (config.json, model.safetensors, tokenizer files); check the path"
        )
    return folder


def _motion(windows: Windows, space: MotionSpace) -> MotionText:
    return MotionText(windows.rows(space.mean_D, space.std_D), windows.length_N, windows.caption_N)


def _contrasted(val: Windows | None, loss_on: Callable[[Windows], Loss]) -> Loss | None:
    """A contrast wants two recordings at least."""
    return None if val is None or len(val.meaning_N.unique()) < 2 else loss_on(val)


def _refuse_alone(data: Material) -> None:
    found = len(data.train.meaning_N.unique())
    if found < 2:
        raise UserError(
            f"got {data.dataset.directory} with {found} recording in train; want two at least, as this network learns "
            "from their contrast; import more motion"
        )


def _layout(data: Material) -> Any:
    try:
        return layout_of(len(data.space.mean_D))
    except ValueError:
        wanted = f"{Representation.HUMANML3D_263} or {Representation.KIT_251}"
        raise UserError(
            f"got {data.dataset.directory} of {data.space.representation}; want {wanted}, whose groups of features "
            "this network's training knows; import such data"
        ) from None


def _text_statistics(pooled_UC: Tensor) -> TextStatistics:
    """Of the train captions' embeddings."""
    std_C = pooled_UC.std(0, unbiased=False) if len(pooled_UC) > 1 else torch.ones(pooled_UC.shape[1])
    return TextStatistics(pooled_UC.mean(0), std_C.clamp_min(1e-3))


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _no_network(error: BaseException) -> UserError:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"network: got a network that cannot be trained so ({said}); want another shape; correct the job")


def refuse_not_finite(loss: float, step: int) -> None:
    """End a training that went astray.

    Raises:
        RunFault: says after which step.
    """
    if not math.isfinite(loss):
        raise RunFault(
            f"got a loss of {loss} at step {step}; want a finite one; lower train.learning_rate and start under "
            "another name"
        )
