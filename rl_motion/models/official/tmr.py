"""TMR as its authors publish it (Mathux/TMR, MIT; arXiv:2305.00976).

    models/tmr_humanml3d_guoh3dfeats/config.json             what the training was told
    models/tmr_humanml3d_guoh3dfeats/last_weights/{motion_encoder,text_encoder,motion_decoder}.pt
    stats/{humanml3d,kitml}/guoh3dfeats/{mean,std}.pt        beside models/, in the repository

The model trained on KIT-ML reads HumanML3D's 263 features at 20 fps too: its authors made these of KIT's recordings.
Statistics are TMR's own, one deviation per column. The decoder is of use to training alone, and may be left out.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from rl_motion.config import UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.official.denoisers import HUMANML3D, DataSet, read_statistics
from rl_motion.models.official.judges import Judge, own_space, without_weights
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.options import Settings, mentions_json, read_settings
from rl_motion.models.official.reading import read_torch, state_dict_of
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint
from rl_motion.types import Normalisation

_ENCODERS, _DECODER = ("motion_encoder", "text_encoder"), "motion_decoder"
_DATA = {"humanml3d": "HumanML3D", "kitml": "KIT-ML"}
"""Folders of the official statistics, and what they are of."""
_FAMILIES = {"distilbert": "distilbert"}
"""Text encoders by the beginning of their hub's name -> `model_type` of their config.json."""
_MOST_WIDTH, _MOST_LAYERS = 16_384, 100


def _recognise(path: Path) -> bool:
    folder = _folder(path)
    return mentions_json(folder / "config.json", "model.motion_encoder.nfeats", "model.text_encoder.nfeats")


def _inspect(path: Path) -> Inspection:
    return _read(_folder(path)).inspection()


def _convert(path: Path, folder: Path, sources: Sources) -> None:
    own = _folder(path)
    config = read_settings(own / "config.json")
    name = sources.text_encoder_name(_text_encoder(config))
    _refuse_other_family(config, sources.text_encoder)
    network = _read(own).filled()
    space = _space(own, config, sources.stats)
    settings = CheckpointConfig(
        kind="tmr",
        network=network_shape(network),
        text_encoder=name,
        fps=space.fps,
        representation=space.representation,
        normalisation=space.normalisation,
        own_heading=False,
    )
    save_checkpoint(folder, network, settings, space)


LAYOUT = Layout("config.json and last_weights/ (TMR)", _recognise, _inspect, _convert)


def _folder(path: Path) -> Path:
    """The checkpoint's folder, from it, from config.json, from last_weights/ or from a file of weights."""
    if path.suffix == ".pt":
        return path.parent.parent
    return path.parent if path.name in ("config.json", "last_weights") else path


def _read(folder: Path) -> Judge[TMR]:
    config, weights = read_settings(folder / "config.json"), folder / "last_weights"
    decodes = (weights / f"{_DECODER}.pt").is_file()
    tensors: dict[str, Tensor] = {}
    for part in (*_ENCODERS, *([_DECODER] if decodes else [])):
        path = weights / f"{part}.pt"
        if not path.is_file():
            raise UserError(
                f"got {folder} without last_weights/{part}.pt; want it beside the others; copy the folder whole, or "
                "run the official extract.py on its logs/checkpoints/last.ckpt"
            )
        state = state_dict_of(path, read_torch(path), "")
        tensors |= {f"{part}.{name}": tensor for name, tensor in state.items()}
    shape = _shape(config, decodes)
    network = without_weights(config.path, lambda: TMR(shape))
    facts = {
        "network": f"ACTOR encoders of motion and text: {shape.num_layers} layers of {shape.latent_dim} channels, "
        f"{shape.ff_size} hidden, {shape.num_heads} heads; the mean of the Gaussian is the embedding",
        "decoder": "there; retrieval does not need it" if decodes else "not there; retrieval does not need it",
        "data set": str(_data(config)),
        "normalisation": f"{Normalisation.TMR}: TMR's own mean.pt and std.pt, a deviation per column; "
        "it reads motion that is not normalised",
        "score": "the cosine; the official score is cosine / 2 + 0.5",
        "frames": "padding is masked",
        "text encoder": f"{_text_encoder(config)}, the last hidden states of all tokens, [CLS] and [SEP] included",
        "licence": "MIT (code)",
    }
    options = ("--text-encoder",) if _own_stats(folder, config) else ("--text-encoder", "--stats")
    return Judge(weights, network, tensors, "TMR, text-motion retrieval", facts, options)


def _shape(config: Settings, decodes: bool) -> TMRConfig:
    """From config.json, whose parts must have one width.

    Raises:
        UserError: they have several, or are of a variant that is not built here.
    """
    parts = [*_ENCODERS, *([_DECODER] if decodes else [])]
    shapes = {
        tuple(_whole(config, f"model.{part}.{name}") for name in ("latent_dim", "ff_size", "num_layers", "num_heads"))
        for part in parts
    }
    variants = {config.value(f"model.{part}.activation", str) for part in parts}
    plain = all(config.value(f"model.{part}.vae", bool) for part in _ENCODERS) and variants == {"gelu"}
    if len(shapes) != 1 or not plain:
        raise UserError(
            f"got encoders and decoder of several widths, without a variance, or not with gelu in {config.path}; want "
            "TMR as published; no other is built here"
        )
    latent_dim, ff_size, num_layers, num_heads = shapes.pop()
    if num_layers > _MOST_LAYERS:
        raise UserError(f"got {num_layers} layers in {config.path}; want at most {_MOST_LAYERS}; download it again")
    return TMRConfig(
        features=_data(config).features,
        text_dim=_whole(config, "model.text_encoder.nfeats"),
        latent_dim=latent_dim,
        ff_size=ff_size,
        num_layers=num_layers,
        num_heads=num_heads,
        decoder=decodes,
    )


def _whole(config: Settings, name: str) -> int:
    value = config.value(name, int)
    if not 0 < value <= _MOST_WIDTH:
        raise UserError(
            f"got {name} {value} in {config.path}; want 1 to {_MOST_WIDTH}; take the file from the weights' download"
        )
    return value


def _data(config: Settings) -> DataSet:
    """What the model was trained on: HumanML3D's features, of whichever recordings.

    Raises:
        UserError: another width.
    """
    features, fps = _whole(config, "model.motion_encoder.nfeats"), config.value("data.motion_loader.fps", float, 20.0)
    if features != HUMANML3D.features or not 0 < fps < 1000:
        raise UserError(
            f"got {features} features at {fps:g} fps in {config.path}; want HumanML3D's {HUMANML3D.features} "
            "(guoh3dfeats), as in the published models; no other is read here"
        )
    title = _DATA.get(_data_folder(config), "HumanML3D or its like")
    made = title if title == HUMANML3D.title else f"{title}, as HumanML3D's features"
    return DataSet(made, HUMANML3D.representation, features, fps)


def _data_folder(config: Settings) -> str:
    """`humanml3d` or `kitml`, from where the training had its statistics: stats/humanml3d/guoh3dfeats."""
    parts = Path(config.value("data.motion_loader.normalizer.base_dir", str, "")).parts
    return next((part for part in parts if part in _DATA), "")


def _own_stats(folder: Path, config: Settings) -> Path | None:
    """The folder of the official repository where a checkpoint's statistics are, if it is in its place there."""
    name = _data_folder(config)
    found = folder.absolute().parent.parent / "stats" / name / "guoh3dfeats"
    return found if name and (found / "mean.pt").is_file() else None


def _space(folder: Path, config: Settings, stats: Path | None) -> MotionSpace:
    found = stats or _own_stats(folder, config)
    if found is None:
        raise UserError(
            f"got {folder} without TMR's statistics beside it; want stats/{_data_folder(config) or 'humanml3d'}/"
            "guoh3dfeats of TMR's repository, with mean.pt and std.pt; add --stats DIR"
        )
    mean_D, std_D = read_statistics(found)
    return own_space(found, mean_D, std_D, _data(config), Normalisation.TMR)


def _text_encoder(config: Settings) -> str:
    return config.value("data.text_to_token_emb.modelname", str, "distilbert-base-uncased")


def _refuse_other_family(config: Settings, directory: Path | None) -> None:
    """Refuse a text encoder that is another model of the same width: it would load, and mean nothing.

    Raises:
        UserError: it is one.
    """
    name = _text_encoder(config)
    wanted = next((kind for beginning, kind in _FAMILIES.items() if name.startswith(beginning)), None)
    if directory is None or wanted is None:
        return
    given = read_settings(directory / "config.json").value("model_type", str, "")
    if given != wanted:
        raise UserError(
            f"got --text-encoder {directory}, a {given[:60] or 'model of no type'}; want {name}, with which this TMR "
            "was trained; give its Hugging Face directory"
        )
