"""StableMoFusion as its authors publish it (h-y1heng/StableMoFusion, MIT; arXiv:2405.05691).

    t2m_condunet1d_batch64/opt.txt                key: value lines between dashed headers
    t2m_condunet1d_batch64/meta/{mean,std}.npy
    t2m_condunet1d_batch64/model/latest.tar       {opt_encoder, total_it, encoder[, model_ema]}

`model_ema` comes before `encoder`, as in the official loader; its names have no prefix, or `module.` with an
`n_averaged` beside them. Both hold CLIP's own weights (`clip_model.*`), for which there is the text encoder's directory
here, and a table of timesteps, which is computed. `meta/std.npy` is the data set's Std with the root's four columns and
the contacts' four divided by `feat_bias` (5): the model's data were normalised with it as it is.

`opt.txt` says nothing of the text layers, whose 4 heads are fixed in the official class, and nothing of the canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.official.denoisers import (
    HUMANML3D,
    KIT_ML,
    TITLES,
    Found,
    biased,
    close_to,
    data_set_statistics,
    feet_scale,
    read_statistics,
    space_of,
)
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.options import Options, mentions, read_options
from rl_motion.models.official.reading import damaged, dimension, read_torch, state_dict_of
from rl_motion.models.t2m_unet import T2MUnetConfig
from rl_motion.protocols import PredictionType
from rl_motion.types import Normalisation

_DATA = {"t2m": HUMANML3D, "humanml": HUMANML3D, "kit": KIT_ML}
_BETAS = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
"""diffusers' names for schedules -> ours."""
_PREDICTIONS: dict[str, PredictionType] = {name: name for name in get_args(PredictionType)}
_TEXT_HEADS = 4
_CANVAS, _TOKENS = 196, 77
_FEAT_BIAS = 5.0
_MOST_STEPS = 100_000
_CLIP, _CLIP_PREFIX = "CLIP ViT-B/32", "clip_model."
_TABLE = "unet.time_mlp.0.pe"
_CLIP_NORM = {
    "text_model.final_layer_norm.weight": "clip_model.ln_final.weight",
    "text_model.final_layer_norm.bias": "clip_model.ln_final.bias",
}
"""Hugging Face's name -> OpenAI's, of 2 x 512 numbers in which no two CLIPs are alike."""


def _recognise(path: Path) -> bool:
    return mentions(_parts(path)[0] / "opt.txt", "dim_mults")


def _inspect(path: Path) -> Inspection:
    return _found(path).inspection()


def _convert(path: Path, folder: Path, sources: Sources) -> None:
    text_encoder, found = sources.text_encoder_name(_CLIP), _found(path)
    space = _space(path, found, sources.stats)
    _refuse_other_clip(found.weights, sources)
    found.write(folder, space, text_encoder)


LAYOUT = Layout("opt.txt, meta/ and model/latest.tar (StableMoFusion)", _recognise, _inspect, _convert)


def _parts(path: Path) -> tuple[Path, Path]:
    """The checkpoint's folder and its file of weights, from either of them or from opt.txt."""
    if path.suffix == ".tar":
        return path.parent.parent, path
    folder = path.parent if path.name == "opt.txt" else path
    return folder, folder / "model" / "latest.tar"


def _found(path: Path) -> Found:
    folder, weights = _parts(path)
    options = read_options(folder / "opt.txt")
    if options.flag("no_adagn"):
        raise UserError(
            f"got no_adagn: True in {options.path}; want a network with AdaGN, as the published ones have; use "
            "another checkpoint"
        )
    data = options.choice("dataset_name", _DATA)
    betas, steps = options.choice("beta_schedule", _BETAS), options.whole("diffusion_steps", _MOST_STEPS)
    prediction = options.choice("prediction_type", _PREDICTIONS)
    content = read_torch(weights)
    tensors, averaged = _tensors(weights, content)
    shape, iterations = _shape(options, data.features, tensors), content.get("total_it")
    which = "averaged weights" if averaged else "weights as trained"
    guidance = "guidance 2.5, whose unconditional half skips cross-attention"
    guided = options.number("cond_mask_prob", 0.0) > 0
    facts = {
        "network": f"T2MUnet, levels of {', '.join(str(shape.base_dim * by) for by in shape.dim_mults)} channels, "
        f"time {shape.time_dim}, {'linear' if shape.linear_attention else 'full'} cross-attention",
        "text layers": f"{shape.num_text_layers}, of {shape.text_latent_dim} channels, {shape.text_ff_size} hidden",
        "weights": f"{'model_ema, the average' if averaged else 'encoder: there is no average'}; "
        f"{iterations if type(iterations) is int else 'unknown'} iterations",
        "data set": str(data),
        "normalisation": f"meta/std.npy as it is: the data set's, root and contacts divided by {_bias(options):g}",
        "frames": f"a canvas of {_CANVAS}: padding is seen, so the whole canvas is sampled and scored",
        "schedule": f"{betas} betas, {steps} timesteps",
        "predicts": TITLES[prediction],
        "official sampler": f"SDE-DPM-Solver++, Karras sigmas, 10 steps, {guidance if guided else 'no guidance'}",
        "text encoder": f"{_CLIP}, all {_TOKENS} token states, padding included",
        "licence": "MIT (code)",
    }
    return Found(
        what=f"StableMoFusion, {which}",
        kind="t2m_unet",
        shape=shape,
        schedule=ScheduleConfig.model_validate({"betas": betas, "timesteps": steps}),
        prediction_type=prediction,
        data=data,
        text_cut=_TOKENS,
        weights=weights,
        tensors=tensors,
        facts=facts,
        notes=_notes(folder, options),
        options=("--text-encoder",) if (folder / "meta").is_dir() else ("--text-encoder", "--stats"),
    )


def _tensors(weights: Path, content: object) -> tuple[dict[str, Tensor], bool]:
    """The network's tensors, and whether they are the averaged ones."""
    averaged = isinstance(content, Mapping) and "model_ema" in content
    state = state_dict_of(weights, content, "model_ema" if averaged else "encoder")
    state = {name.removeprefix("module."): tensor for name, tensor in state.items() if name != "n_averaged"}
    return {n: t for n, t in state.items() if not n.startswith(_CLIP_PREFIX) and n != _TABLE}, averaged


def _shape(options: Options, features: int, tensors: Mapping[str, Tensor]) -> T2MUnetConfig:
    """From opt.txt; what the official class fixes and forks may change, from the weights."""
    layers = {name.split(".")[2] for name in tensors if name.startswith("textTransEncoder.layers.")}
    usual = T2MUnetConfig()
    return T2MUnetConfig(
        features=features,
        base_dim=options.whole("base_dim"),
        dim_mults=options.wholes("dim_mults"),
        time_dim=options.whole("time_dim"),
        text_dim=dimension(tensors, "embed_text.weight", -1, usual.text_dim),
        text_latent_dim=options.whole("text_latent_dim"),
        text_ff_size=dimension(tensors, "textTransEncoder.layers.0.linear1.weight", 0, usual.text_ff_size),
        text_num_heads=_TEXT_HEADS,
        num_text_layers=len(layers) or usual.num_text_layers,
        linear_attention=not options.flag("no_eff"),
        max_frames=_CANVAS,
    )


def _bias(options: Options) -> float:
    bias = options.number("feat_bias", _FEAT_BIAS)
    if not 0.01 < bias < 1000:
        raise UserError(f"got feat_bias: {bias} in {options.path}; want a positive number, mostly 5; copy it again")
    return bias


def _meta(folder: Path) -> tuple[Tensor, Tensor] | None:
    """`meta/`, None where there is none."""
    return read_statistics(folder / "meta") if (folder / "meta").is_dir() else None


def _other_scale(meta: tuple[Tensor, Tensor], bias: float) -> str | None:
    """What is wrong with the deviations of the contacts in `meta/`, in words."""
    scale = feet_scale(*meta)
    if scale is None or close_to(scale, bias):
        return None
    whose = "the data set's own" if close_to(scale, 1.0) else "the evaluator's" if close_to(scale, 25.0) else "another"
    return (
        f"meta/std.npy looks like {whose}: its foot contacts deviate as if divided by {scale:.2g}, and feat_bias is "
        f"{bias:g}"
    )


def _notes(folder: Path, options: Options) -> tuple[str, ...]:
    meta = _meta(folder)
    if meta is None:
        return ("There is no meta/ folder: convert with --stats DIR, the data set's own Mean.npy and Std.npy.",)
    wrong = _other_scale(meta, _bias(options))
    return () if wrong is None else (f"{wrong[0].upper()}{wrong[1:]}.",)


def _space(path: Path, found: Found, stats: Path | None) -> MotionSpace:
    """`meta/` as it is; without one, from the data set's own statistics, scaled as the training scales them.

    Raises:
        UserError: neither is there, they are of another scale, or they contradict each other.
    """
    folder = _parts(path)[0]
    bias, meta = _bias(read_options(folder / "opt.txt")), _meta(folder)
    whose = Normalisation.DATASET if bias == 1.0 else Normalisation.STABLEMOFUSION
    given = None
    if stats is not None:
        mean_D, std_D = data_set_statistics(stats)
        given = (mean_D, biased(std_D, bias))
    if meta is None:
        if given is None or stats is None:
            raise UserError(
                f"got {folder} without meta/mean.npy and meta/std.npy; want them, or the data set's own Mean.npy and "
                "Std.npy; copy the folder whole, or add --stats DIR"
            )
        return space_of(stats, *given, found.data, whose)
    wrong = _other_scale(meta, bias)
    if wrong is not None:
        raise UserError(
            f"got {folder}, whose {wrong}; want the meta/ folder that the training wrote; copy it from the download"
        )
    space = space_of(folder / "meta", *meta, found.data, whose)
    if given is not None and not all(_alike(*pair) for pair in zip(meta, given, strict=True)):
        raise UserError(
            f"got {folder / 'meta'}, which is not --stats {stats} with root and contacts divided by {bias:g}; want "
            "both of one data set; leave --stats out to take meta/ as it is"
        )
    return space


def _alike(a_D: Tensor, b_D: Tensor) -> bool:
    return a_D.shape == b_D.shape and torch.allclose(a_D, b_D, rtol=1e-3, atol=1e-4)


def _refuse_other_clip(weights: Path, sources: Sources) -> None:
    """Refuse a text encoder that is not the CLIP whose weights the checkpoint carries; raises UserError."""
    if sources.text_encoder is None:
        return
    content = read_torch(weights)
    state = state_dict_of(weights, content, "model_ema", "encoder")
    own = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    file = sources.text_encoder / "model.safetensors"
    try:
        with safe_open(file, framework="pt") as stored:
            names = set(stored.keys())
            pairs = [(stored.get_tensor(h), own[o]) for h, o in _CLIP_NORM.items() if h in names and o in own]
    except (OSError, SafetensorError) as error:
        raise damaged(file, error) from error
    if any(a.shape != b.shape or not torch.allclose(a.float(), b.float(), atol=1e-2) for a, b in pairs):
        raise UserError(
            f"got --text-encoder {sources.text_encoder}, which is not the CLIP that {weights.name} carries; want "
            f"{_CLIP}; give its Hugging Face directory (openai/clip-vit-base-patch32)"
        )
