"""MDM as its authors publish it (GuyTevet/motion-diffusion-model, MIT; arXiv:2209.14916).

    save/<name>/args.json
    save/<name>/model000475000.pt    a state dict, or {model, model_avg} of a training with --use_ema

The text encoder is not in the file; two tables of positions are, in sizes that vary, and are computed here. Statistics
are not in the folder either: the model's data were normalised with the data set's own Mean.npy and Std.npy. Of
`args.json`, old checkpoints lack what is newer than they are; what is missing has the value that the code had before.

The average comes first where there is one, as in the official sampler after a training with --use_ema. The number of
heads (4) is fixed in the official code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models.mdm import MDMConfig
from rl_motion.models.official.denoisers import (
    HUMANML3D,
    KIT_ML,
    TITLES,
    Found,
    data_set_statistics,
    space_of,
)
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.options import Settings, mentions_json, read_settings
from rl_motion.models.official.reading import dimension, read_torch, state_dict_of

_FILE = re.compile(r"model(\d{1,12})\.pt")
_MARKS = ("layers", "latent_dim", "diffusion_steps")
"""Keys of args.json since the first release."""
_DATA = {"humanml": HUMANML3D, "kit": KIT_ML}
_TABLES = ("sequence_pos_encoder.pe", "embed_timestep.sequence_pos_encoder.pe")
_STACKS = {"trans_enc": "seqTransEncoder", "trans_dec": "seqTransDecoder"}
_ARCHS: dict[str, Literal["trans_enc", "trans_dec"]] = {"trans_enc": "trans_enc", "trans_dec": "trans_dec"}
_TEXTS = {"clip": "CLIP ViT-B/32", "bert": "DistilBERT (distilbert-base-uncased)"}
_BETAS: dict[str, Literal["cosine", "linear"]] = {"cosine": "cosine", "linear": "linear"}
_HEADS, _TEXT_CUT = 4, 22
_MOST_WIDTH, _MOST_LAYERS, _MOST_STEPS = 16_384, 100, 100_000
_OTHER = {
    "context_len": "the completion of prefixes (DiP)",
    "multi_target_cond": "targets for joints",
    "unconstrained": "motion without text",
}
"""Options of args.json that make another model, with what they make."""


def _recognise(path: Path) -> bool:
    return mentions_json(_folder(path) / "args.json", *_MARKS)


def _inspect(path: Path) -> Inspection:
    return _found(path).inspection()


def _convert(path: Path, folder: Path, sources: Sources) -> None:
    found = _found(path)
    text_encoder = sources.text_encoder_name(found.facts["text encoder"].split(",", maxsplit=1)[0])
    if sources.stats is None:
        raise UserError(
            f"got no statistics for {path}, which has none of its own; want Mean.npy and Std.npy of "
            f"{found.data.title}; add --stats DIR, the data set's folder"
        )
    mean_D, std_D = data_set_statistics(sources.stats)
    space = space_of(sources.stats, mean_D, std_D, found.data)
    found.write(folder, space, text_encoder)


LAYOUT = Layout("args.json and model*.pt (MDM)", _recognise, _inspect, _convert)


def _folder(path: Path) -> Path:
    return path.parent if path.suffix in (".pt", ".json") else path


def _newest(path: Path) -> Path:
    """The file of weights: the path itself, or the folder's with the most iterations."""
    if path.suffix == ".pt":
        return path
    folder = _folder(path)
    found = {int(match[1]): file for file in folder.iterdir() if (match := _FILE.fullmatch(file.name))}
    if not found:
        raise UserError(
            f"got {folder} with args.json and without model*.pt; want the weights beside it; copy the folder whole"
        )
    return found[max(found)]


def _found(path: Path) -> Found:
    weights, args = _newest(path), read_settings(_folder(path) / "args.json")
    _refuse_other_models(args)
    data, text = args.choice("dataset", _DATA), args.choice("text_encoder_type", _TEXTS, "clip")
    content = read_torch(weights)
    averaged = isinstance(content, Mapping) and "model_avg" in content
    state = state_dict_of(weights, content, *(("model_avg",) if averaged else ("model", "")))
    tensors = {n: t for n, t in state.items() if n not in _TABLES and not n.startswith("clip_model.")}
    shape = _shape(args, data.features, tensors)
    schedule = _schedule(args)
    which = "averaged weights" if averaged else "weights as trained"
    guided = args.value("cond_mask_prob", float, 0.1) > 0
    facts = {
        "network": f"{shape.arch}: {shape.num_layers} layers of {shape.latent_dim} channels, {shape.ff_size} hidden, "
        f"{_HEADS} heads" + (", a token of time before the frames" if shape.emb_trans_dec else ""),
        "weights": f"{weights.name}, {'model_avg, the average' if averaged else 'without an average'}",
        "data set": str(data),
        "normalisation": "the data set's own Mean.npy and Std.npy, which are not in this folder (--stats)",
        "frames": "padding is masked" if shape.mask_frames else "padding is seen (an old checkpoint: no mask_frames)",
        "schedule": f"{schedule.betas} betas, {schedule.timesteps} timesteps",
        "predicts": TITLES["sample"],
        "official sampler": f"ancestral, all {schedule.timesteps} steps, "
        + ("guidance 2.5; unconditional: a zero vector before embed_text" if guided else "no guidance"),
        "text encoder": f"{text}, "
        + ("all token states" if shape.text_tokens else "pooled; captions cut to 20 tokens, start and end beside them"),
        "licence": "MIT (code)",
    }
    return Found(
        what=f"MDM, {which}",
        kind="mdm",
        shape=shape,
        schedule=schedule,
        prediction_type="sample",
        data=data,
        text_cut=None if shape.text_tokens else _TEXT_CUT,
        weights=weights,
        tensors=tensors,
        facts=facts,
        options=("--text-encoder", "--stats"),
    )


def _refuse_other_models(args: Settings) -> None:
    """Refuse what is trained with the same code and is another model; raises UserError."""
    other = [meaning for name, meaning in _OTHER.items() if args.content.get(name)]
    if args.content.get("emb_policy", "add") != "add":
        other.append("time as a token of its own in the memory")
    arch = args.value("arch", str)
    if arch == "gru":
        other.append("a GRU")
    if arch == "trans_enc" and args.value("text_encoder_type", str, "clip") == "bert":
        other.append("a trans_enc on DistilBERT")
    if other:
        raise UserError(
            f"got {args.path} with {' and '.join(other)}; want text to motion with trans_enc or trans_dec, time added "
            "to the text; use another checkpoint"
        )


def _shape(args: Settings, features: int, tensors: Mapping[str, Tensor]) -> MDMConfig:
    """From args.json; hidden channels and the text's width, which the official code fixes, from the weights."""
    arch = args.choice("arch", _ARCHS)
    return MDMConfig(
        features=features,
        latent_dim=args.whole("latent_dim", _MOST_WIDTH),
        ff_size=dimension(tensors, f"{_STACKS[arch]}.layers.0.linear1.weight", 0, MDMConfig().ff_size),
        num_layers=args.whole("layers", _MOST_LAYERS),
        num_heads=_HEADS,
        text_dim=dimension(tensors, "embed_text.weight", -1, MDMConfig().text_dim),
        mask_frames=args.value("mask_frames", bool, False),
        pos_embed_max_len=args.whole("pos_embed_max_len", _MOST_STEPS, 5000),
        arch=arch,
        text_tokens=args.value("text_encoder_type", str, "clip") == "bert",
        emb_trans_dec=arch == "trans_dec" and args.value("emb_trans_dec", bool, False),
    )


def _schedule(args: Settings) -> ScheduleConfig:
    """Official linear betas stretch with the number of timesteps; ours are those of 1000.

    Raises:
        UserError: linear betas of another number.
    """
    betas, steps = args.choice("noise_schedule", _BETAS, "cosine"), args.whole("diffusion_steps", _MOST_STEPS)
    if betas == "linear" and steps != 1000:
        raise UserError(
            f"got {betas} betas of {steps} timesteps in {args.path}; want cosine betas, or linear ones of 1000; use "
            "another checkpoint"
        )
    return ScheduleConfig(betas=betas, timesteps=steps)
