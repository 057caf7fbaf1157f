"""MDM-SMPL as its authors publish it (nv-tlabs/stmc, non-commercial; arXiv:2401.08559).

    mdm-smpl_clip_smplrifke_humanml3d/config.json               the training's configuration, resolved
    mdm-smpl_clip_smplrifke_humanml3d/logs/checkpoints/last.ckpt a Lightning checkpoint
    mdm-smpl_clip_smplrifke_humanml3d/{motion_stats,text_stats}/{mean,std}.pt

`state_dict` holds the network under `denoiser.`, and the means and deviations under `motion_normalizer.` and
`text_normalizer.`: the official loader reads the folders first and the checkpoint over them, so the checkpoint's count.
To a deviation 1e-12 is added. Tables of the schedule are computed; where a file has them, they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.diffusion.schedule import alphas_cumprod
from rl_motion.models.denoiser import MotionSpace, TextStatistics
from rl_motion.models.mdm_smpl import MDMSMPLConfig
from rl_motion.models.official.denoisers import (
    TITLES,
    DataSet,
    Found,
    finite_or_refused,
    read_statistics,
    refuse_other_statistics,
    space_of,
)
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.options import Settings, mentions_json, read_settings
from rl_motion.models.official.reading import read_torch, state_dict_of
from rl_motion.protocols import PredictionType
from rl_motion.types import Representation

_DENOISER = "diffusion.denoiser"
_PREFIX, _KINDS = "denoiser.", ("motion", "text")
_STD_EPS = 1e-12
_PREDICTIONS: dict[str, PredictionType] = {"x": "sample", "eps": "epsilon"}
_BETAS: dict[str, Literal["cosine"]] = {"src.model.schedule.cosine.CosineBetaSchedule": "cosine"}
_TARGETS = {"src.model.mdm_smpl.TransformerDenoiser": "TransformerDenoiser"}
_FEATURES, _TOKENS = 205, 77
_MOST_WIDTH, _MOST_LAYERS, _MOST_STEPS = 16_384, 100, 100_000
_CLIP, _CLIP_NAMES = "CLIP ViT-B/32", ("ViT-B/32", "clip")
_CUMULATIVE = "alphas_cumprod"


def _recognise(path: Path) -> bool:
    return mentions_json(_parts(path)[0] / "config.json", _DENOISER, "diffusion.motion_normalizer")


def _inspect(path: Path) -> Inspection:
    return _found(path)[0].inspection()


def _convert(path: Path, folder: Path, sources: Sources) -> None:
    text_encoder = sources.text_encoder_name(_CLIP)
    found, state = _found(path)
    space = _space(_parts(path)[0], found, state)
    found.write(folder, space, text_encoder)


LAYOUT = Layout(
    "config.json, motion_stats/, text_stats/ and logs/checkpoints/last.ckpt (MDM-SMPL)", _recognise, _inspect, _convert
)


def _parts(path: Path) -> tuple[Path, Path]:
    """The run's folder and its checkpoint, from either of them or from config.json."""
    if path.suffix == ".ckpt":
        return path.parent.parent.parent, path
    folder = path.parent if path.name == "config.json" else path
    return folder, folder / "logs" / "checkpoints" / "last.ckpt"


def _found(path: Path) -> tuple[Found, Mapping[str, Tensor]]:
    """The model, and the whole `state_dict` of its checkpoint."""
    folder, weights = _parts(path)
    config = read_settings(folder / "config.json")
    _refuse_other_texts(config)
    state = state_dict_of(weights, read_torch(weights), "state_dict")
    schedule = _schedule(config, weights, state)
    shape = _shape(config)
    data = DataSet("HumanML3D on SMPL", Representation.SMPLRIFKE_205, _FEATURES, _fps(config))
    prediction = config.choice("diffusion.prediction", _PREDICTIONS, "x")
    ours = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    known = (_PREFIX, *(f"{kind}_normalizer." for kind in _KINDS))
    extra = {n: t for n, t in state.items() if not n.startswith(known) and not _is_table(t, schedule)}
    lacking = [k for k in _KINDS if not _stored(state, k) and not (folder / f"{k}_stats" / "std.pt").is_file()]
    facts = {
        "network": f"pre-norm transformer: {shape.num_layers} layers of {shape.latent_dim} channels, {shape.ff_size} "
        f"hidden, {shape.num_heads} heads, {shape.num_registers} registers",
        "weights": f"as trained, {weights.name}",
        "data set": str(data),
        "normalisation": "its own mean and std of motion and of text embeddings, from the checkpoint",
        "frames": "padding is masked",
        "schedule": f"{schedule.betas} betas, {schedule.timesteps} timesteps",
        "predicts": TITLES[prediction],
        "official sampler": f"ancestral, all {schedule.timesteps} steps, guidance 2.5; unconditional: the empty text",
        "text encoder": f"{_CLIP}, pooled, normalised",
        "licence": "non-commercial (NVIDIA)",
    }
    found = Found(
        what="MDM-SMPL, weights as trained",
        kind="mdm_smpl",
        shape=shape,
        schedule=schedule,
        prediction_type=prediction,
        data=data,
        text_cut=_TOKENS,
        weights=weights,
        tensors=ours | extra,
        facts=facts,
        notes=tuple(f"There are no statistics of {kind}, in the checkpoint or beside it." for kind in lacking),
    )
    return found, state


def _refuse_other_texts(config: Settings) -> None:
    """Refuse a network that reads the tokens of another language model; raises UserError."""
    name = config.value("data.text_encoder.modelname", str, _CLIP_NAMES[0])
    if name not in _CLIP_NAMES:
        raise UserError(
            f"got text encoder {name[:100]!r} in {config.path}; want {_CLIP_NAMES[0]}, whose pooled embedding is one "
            "token; use another checkpoint"
        )


def _fps(config: Settings) -> float:
    fps = config.value("data.motion_loader.fps", float, 20.0)
    if not 0.1 < fps < 1000:
        raise UserError(f"got {fps:g} frames per second in {config.path}; want 20, mostly; copy the file again")
    return fps


def _shape(config: Settings) -> MDMSMPLConfig:
    config.choice(f"{_DENOISER}._target_", _TARGETS)
    whole = {
        ours: config.whole(
            f"{_DENOISER}.{theirs}",
            _MOST_LAYERS if ours == "num_layers" else _MOST_WIDTH,
            least=0 if ours == "num_registers" else 1,
        )
        for ours, theirs in {
            "features": "nfeats",
            "latent_dim": "latent_dim",
            "ff_size": "ff_size",
            "num_layers": "num_layers",
            "num_heads": "num_heads",
            "num_registers": "nb_registers",
            "text_dim": "tx_dim",
        }.items()
    }
    return MDMSMPLConfig(**whole)


def _schedule(config: Settings, weights: Path, state: Mapping[str, Tensor]) -> ScheduleConfig:
    """From the configuration, compared with the checkpoint's own table where it has one; raises UserError."""
    betas = config.choice("diffusion.schedule._target_", _BETAS)
    steps, offset = config.whole("diffusion.timesteps", _MOST_STEPS), config.value("diffusion.schedule.s", float, 0.008)
    if offset != 0.008:
        raise UserError(
            f"got {steps} timesteps and s {offset:g} in {config.path}; want a cosine schedule with s 0.008; use "
            "another checkpoint"
        )
    schedule = ScheduleConfig(betas=betas, timesteps=steps)
    stored = state.get(_CUMULATIVE)
    want = torch.from_numpy(alphas_cumprod(schedule))
    if stored is not None and (stored.shape != want.shape or not torch.allclose(stored.double(), want, atol=1e-5)):
        raise UserError(
            f"got {weights}, whose {_CUMULATIVE} are not those of {betas} betas with {steps} timesteps; want the "
            f"schedule of {config.path}; copy both files from one download"
        )
    return schedule


def _is_table(tensor: Tensor, schedule: ScheduleConfig) -> bool:
    """Whether it may be one of the schedule's tables, which official buffers are."""
    return tuple(tensor.shape) == (schedule.timesteps,)


def _space(folder: Path, found: Found, state: Mapping[str, Tensor]) -> MotionSpace:
    """Means and deviations of the checkpoint, of the folders where it has none.

    Raises:
        UserError: they are nowhere, or do not fit.
    """
    (mean_D, std_D), (mean_C, std_C) = (_statistics(folder, found.weights, state, kind) for kind in _KINDS)
    space = space_of(folder / "motion_stats", mean_D, std_D + _STD_EPS, found.data)
    refuse_other_statistics(folder / "text_stats", mean_C, std_C + _STD_EPS, found.shape.text_dim)
    text = TextStatistics(mean_C, std_C + _STD_EPS)
    return MotionSpace(space.mean_D, space.std_D, space.fps, space.representation, text)


def _statistics(folder: Path, weights: Path, state: Mapping[str, Tensor], kind: str) -> tuple[Tensor, Tensor]:
    stored = _stored(state, kind)
    if stored:
        finite_or_refused(weights, stored)
        return stored["mean"].float(), stored["std"].float()
    return read_statistics(folder / f"{kind}_stats")


def _stored(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """`mean` and `std` of one normaliser; nothing where the checkpoint does not have both."""
    names = {part: f"{kind}_normalizer.{part}" for part in ("mean", "std")}
    return {part: state[name] for part, name in names.items()} if state.keys() >= set(names.values()) else {}
