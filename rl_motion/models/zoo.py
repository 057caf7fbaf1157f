"""The small weights that ship in the package, and the project's own checkpoint form that they and users' models share.

A checkpoint is a directory: `config.json` (kind, network shape, schedule, what it predicts, fps, representation, text
encoder), `model.safetensors` (the network under its official names, `mean_D`, `std_D`, and `text_mean_C`, `text_std_C`
where text embeddings are normalised) and `README.md`, its model card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from rl_motion.config import ScheduleConfig, UserError, nearest
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, TextStatistics
from rl_motion.models.device import device_of
from rl_motion.models.evaluator import Evaluator, Vocabulary
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.guo_published import GloveVocabulary, PublishedEvaluator
from rl_motion.models.layers import refuse_not_finite
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.mdm_smpl import MDMSMPL, MDMSMPLConfig, MDMSMPLDenoiser
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, T2MUnetDenoiser
from rl_motion.models.text import Form, TextEncoder
from rl_motion.models.text_cache import worth_keeping
from rl_motion.models.tmr import TMR, TMRConfig, TMRScorer
from rl_motion.motion.convert import converted, convertible
from rl_motion.protocols import PredictionType
from rl_motion.types import Motions, Normalisation, Representation

ZOO = Path(__file__).resolve().parent.parent / "zoo"
DENOISERS: dict[str, tuple[type[Any], type[Any], type[Any]]] = {
    "mdm": (MDM, MDMConfig, MDMDenoiser),
    "mdm_smpl": (MDMSMPL, MDMSMPLConfig, MDMSMPLDenoiser),
    "t2m_unet": (T2MUnet, T2MUnetConfig, T2MUnetDenoiser),
}
"""Motion models by kind: the network, its shape, and its face towards policies. A new one is a line here."""
RETRIEVAL: dict[str, tuple[type[TMR], type[TMRConfig]]] = {"tmr": (TMR, TMRConfig)}
"""Retrieval models by kind: the network and its shape."""
EVALUATORS: dict[str, tuple[type[Guo], type[GuoConfig]]] = {"guo": (Guo, GuoConfig)}
"""Evaluators by kind: the network and its shape. They judge, and no reward reads them."""
PROTOCOLS: dict[str, tuple[type[Evaluator], type[Vocabulary]]] = {
    "project": (Evaluator, Vocabulary),
    "guo": (PublishedEvaluator, GloveVocabulary),
}
"""What evaluators' captions and motion go through first: the project's own words, or what Guo et al.'s code does."""

N = TypeVar("N", bound=nn.Module)


class CheckpointConfig(BaseModel):
    """`config.json` of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    network: dict[str, Any]
    text_encoder: str
    """A directory beside the checkpoint's."""
    text_cut: Annotated[int, Field(ge=3)] | None = None
    """Tokens, special ones included, to which a longer text is cut, as the model's official code does; None: it is
    refused. Written where there is one, so that files from before it was known stay as they are."""
    schedule: ScheduleConfig | None = None
    prediction_type: PredictionType = "sample"
    """Of a denoiser; written where it is not x0, so that files from before it was known stay as they are."""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    representation: Representation = Representation.HUMANML3D_263
    normalisation: Normalisation = Normalisation.DATASET
    """Whose convention the statistics are."""
    own_heading: bool = True
    """Of a retrieval model: whether the features that it was trained on take the body's own heading (ADR 3), as motion
    that has to be converted for it then does. Published features do not."""


class EvaluatorConfig(BaseModel):
    """`config.json` of an evaluator. It reads texts itself: its words are in `words.json`, beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    network: dict[str, Any]
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    representation: Representation
    protocol: Literal["project", "guo"] = "project"
    """Of `PROTOCOLS`."""


def names(kinds: Collection[str]) -> list[str]:
    """Names of the packaged checkpoints of some kinds."""
    configs = sorted(ZOO.glob("*/config.json"))
    return [p.parent.name for p in configs if json.loads(p.read_text(encoding="utf-8")).get("kind") in kinds]


def locate(name_or_dir: str | Path, kinds: Collection[str]) -> Path:
    """The directory of a packaged name or of a path.

    Raises:
        UserError: neither.
    """
    given = str(name_or_dir)
    known = names(kinds)
    path = ZOO / given if given in known else Path(given)
    try:
        found = (path / "config.json").is_file()
    except OSError:  # a name that no file can have
        found = False
    if not found:
        raise UserError(
            f"got the {' or '.join(kinds)} checkpoint {given[:200]!r}, which is neither packaged nor a directory with "
            f"a config.json; want one of {', '.join(known) or '(none packaged)'} or a path; "
            f"{nearest(given, known, 'check the spelling')}"
        )
    return path


def save_checkpoint(
    directory: Path, network: nn.Module, config: CheckpointConfig, space: MotionSpace, *, half: bool = False
) -> None:
    """Write a checkpoint directory (without its model card).

    `half`: its weights are rounded to float16, its statistics are not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = network.state_dict().items()
    tensors = {f"network.{k}": (v.half() if half else v).detach().contiguous().clone() for k, v in weights}
    tensors |= {"mean_D": space.mean_D, "std_D": space.std_D}
    if space.text is not None:
        tensors |= {"text_mean_C": space.text.mean_C, "text_std_C": space.text.std_C}
    save_file(tensors, directory / "model.safetensors")
    left_out = _defaults(config, "prediction_type", "text_cut", "normalisation", "own_heading")
    text = config.model_dump_json(indent=2, exclude=left_out)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")


def _defaults(config: BaseModel, *fields: str) -> set[str]:
    """Those of the fields that have their default: left out, so that files of older releases stay as they are."""
    model = type(config)
    return {name for name in fields if getattr(config, name) == model.model_fields[name].default}


def network_shape(network: nn.Module) -> dict[str, Any]:
    """The `network` entry of a checkpoint's configuration."""
    shape: dict[str, Any] = asdict(network.config)  # type: ignore[call-overload]
    return shape


def load_denoiser(name_or_dir: str | Path) -> MotionDenoiser:
    """A denoiser in eval mode with its text encoder, schedule and statistics.

    Raises:
        UserError: no such checkpoint, a broken file, or weights that do not fit their configuration.
    """
    path = locate(name_or_dir, DENOISERS)
    config, tensors, space = _read(path, DENOISERS)
    network_class, shape_class, denoiser_class = DENOISERS[config.kind]
    network = _network(path, tensors, lambda: network_class(shape_class(**config.network)))
    if config.schedule is None:
        raise UserError(f"got {path / 'config.json'} without a schedule; want one; copy it from the model's training")
    text_encoder = _text_encoder(path, config)
    try:
        denoiser: MotionDenoiser = denoiser_class(
            network, config.schedule, space=space, text_encoder=text_encoder, prediction_type=config.prediction_type
        )
    except ValueError as error:
        raise broken(path, error) from error
    denoiser.eval().requires_grad_(False)
    with torch.no_grad():
        _try_out(path, lambda: _last_timestep(denoiser))
    return denoiser


def _last_timestep(denoiser: MotionDenoiser) -> None:
    """Predict where a table of timesteps would end first, for a text of one word."""
    condition, frames = denoiser.encode_text(["a"]), denoiser.canvas or 1
    x_1FD, t_1 = torch.zeros(1, frames, denoiser.features), torch.tensor([denoiser.schedule.timesteps - 1])
    denoiser.predict(x_1FD, t_1, condition, torch.tensor([frames]))


class RetrievalModel:
    """A retrieval model with its text encoder: similarity of motions and texts."""

    def __init__(self, scorer: TMRScorer, text_encoder: TextEncoder, config: CheckpointConfig) -> None:
        """Combine both; `config` says what motion it reads."""
        self.scorer = scorer
        self.representation = config.representation
        self.fps = config.fps
        self._own_heading = config.own_heading
        self._text_encoder = text_encoder

    def to(self, device: torch.device) -> Self:
        """The scorer goes there; texts are encoded on the CPU. Motions follow the scorer, and so do embeddings."""
        self.scorer.to(device)
        return self

    def similarity(self, motions: Motions, texts: Sequence[str]) -> Tensor:
        """Cosine [B] in [-1, 1] between motion i (un-normalised) and text i; differentiable in the features.

        Raises:
            UserError: another representation, or normalised features.
        """
        return (self.embed_motions(motions) * self.embed_texts(texts)).sum(dim=-1)

    def embed_motions(self, motions: Motions) -> Tensor:
        """Unit embeddings [B, C] of un-normalised motions; of another representation by way of joints, off the graph.

        Raises:
            UserError: a representation that cannot be converted, or normalised features.
        """
        motions = readable_motions(motions, self.representation, self.fps, own_heading=self._own_heading)
        motions = motions.to(device_of(self.scorer))
        return self.scorer.embed_motion(motions.features_BFD, motions.length_B)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [B, C] of texts."""
        tokens_BLC, length_B = self._text_encoder.tokens(texts)
        device = device_of(self.scorer)
        return self.scorer.embed_text(tokens_BLC.to(device), length_B.to(device))


def readable_motions(
    motions: Motions, representation: Representation, fps: float, *, own_heading: bool = True
) -> Motions:
    """The motions as a model reads them; `own_heading` is the model's, for motion that has to be converted.

    Raises:
        UserError: a representation that cannot be converted to that one, or normalised features.
    """
    if not convertible(motions.representation, representation) or motions.normalisation != Normalisation.NONE:
        raise UserError(
            f"got motion as {motions.representation} normalised by {motions.normalisation}; want "
            f"{representation} normalised by {Normalisation.NONE}; decode it first"
        )
    return converted(motions, representation, fps, own_heading=own_heading)


def load_tmr(name_or_dir: str | Path = "tmr-embedded") -> RetrievalModel:
    """A retrieval model in eval mode.

    Raises:
        UserError: no such checkpoint, a broken file, or weights that do not fit their configuration.
    """
    path = locate(name_or_dir, RETRIEVAL)
    config, tensors, space = _read(path, RETRIEVAL)
    network_class, shape_class = RETRIEVAL[config.kind]
    network = _network(path, tensors, lambda: network_class(shape_class(**config.network)))
    try:
        scorer = TMRScorer(network, mean_D=space.mean_D, std_D=space.std_D).eval().requires_grad_(False)
    except ValueError as error:
        raise broken(path, error) from error
    model = RetrievalModel(scorer, _text_encoder(path, config), config)
    _try_out(path, lambda: model.embed_texts(["a"]))
    return model


def save_evaluator(directory: Path, evaluator: Evaluator, *, half: bool = True) -> None:
    """Write an evaluator's directory (without its model card).

    `half`: its weights and words are rounded to float16, its statistics are not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = {f"network.{k}": v for k, v in evaluator.guo.state_dict().items()}
    weights["words_VW"] = evaluator.vectors.weight
    tensors = {name: tensor.half() if half else tensor for name, tensor in weights.items()}
    tensors |= {"mean_D": evaluator.mean_D, "std_D": evaluator.std_D}
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, directory / "model.safetensors")
    config = EvaluatorConfig(
        kind="guo",
        network=network_shape(evaluator.guo),
        fps=evaluator.fps,
        representation=evaluator.representation,
        protocol="guo" if isinstance(evaluator, PublishedEvaluator) else "project",
    )
    text = config.model_dump_json(indent=2, exclude=_defaults(config, "protocol"))
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    (directory / "words.json").write_text(json.dumps(evaluator.vocabulary.words) + "\n", encoding="utf-8")


def load_evaluator(name_or_dir: str | Path) -> Evaluator:
    """An evaluator in eval mode, its weights in float32.

    Raises:
        UserError: no such checkpoint, a broken file, or weights or words that do not fit their configuration.
    """
    path = locate(name_or_dir, EVALUATORS)
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("kind")
        if kind not in EVALUATORS:
            raise UserError(
                f"got a {kind} checkpoint in {path}; want {' or '.join(EVALUATORS)}; check which model goes where"
            )
        config = EvaluatorConfig.model_validate_json((path / "config.json").read_text(encoding="utf-8"))
        evaluator_class, vocabulary_class = PROTOCOLS[config.protocol]
        vocabulary = vocabulary_class(json.loads((path / "words.json").read_text(encoding="utf-8")))
        content = (path / "model.safetensors").read_bytes()
        tensors = load(content)
        refuse_not_finite(tensors)
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        space = MotionSpace(tensors.pop("mean_D"), tensors.pop("std_D"), config.fps, config.representation)
        words_VW = tensors.pop("words_VW")
    except (OSError, SafetensorError, ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(path, error) from error
    weights = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    network_class, shape_class = EVALUATORS[config.kind]
    guo = _network(path, weights, lambda: network_class(shape_class(**config.network)))
    try:
        evaluator = evaluator_class(guo, vocabulary, words_VW, space)
    except ValueError as error:
        raise broken(path, error) from error
    evaluator.sha256 = hashlib.sha256(content).hexdigest()
    evaluator.eval().requires_grad_(False)
    _try_out(path, lambda: evaluator.embed_texts(["a"]))
    return evaluator


def text_encoder_of(path: Path, config: CheckpointConfig) -> Path:
    """The directory of a checkpoint's text encoder, beside its own.

    Raises:
        UserError: the name leads elsewhere, or nothing is there.
    """
    name = config.text_encoder
    directory = path.parent / name
    if name in ("", ".", "..") or Path(name).name != name or not (directory / "config.json").is_file():
        raise UserError(
            f"got text_encoder {name[:200]!r} in {path / 'config.json'}; want the name of a directory beside the "
            "checkpoint's, with a config.json; move it there"
        )
    return directory


def text_reader(path: Path) -> tuple[TextEncoder, Form] | None:
    """What reads texts for the checkpoint in that directory; None where nothing of what it says is kept on disk.

    Raises:
        UserError: a configuration or a text encoder that does not load.
    """
    try:
        config = CheckpointConfig.model_validate_json((path / "config.json").read_text(encoding="utf-8"))
        form: Form = "tokens"  # retrieval models
        if config.kind in DENOISERS:
            _, shape_class, denoiser_class = DENOISERS[config.kind]
            form = denoiser_class.reads_text(shape_class(**config.network))
    except (OSError, ValueError, TypeError, ArithmeticError) as error:
        raise broken(path, error) from error
    return (_text_encoder(path, config), form) if worth_keeping(text_encoder_of(path, config)) else None


def _text_encoder(path: Path, config: CheckpointConfig) -> TextEncoder:
    directory = text_encoder_of(path, config)
    try:
        encoder = TextEncoder(directory, cut=config.text_cut)
        encoder.pooled(["a"])  # weights that are loaded when they are needed are needed now, or were read before
    except UserError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise broken(directory, error) from error
    return encoder


def _try_out(path: Path, encode: Callable[[], object]) -> None:
    """What shows on the first call: a text encoder of another width, a schedule longer than the table of timesteps."""
    try:
        encode()
    except (RuntimeError, ValueError, IndexError) as error:
        raise broken(path, error) from error


def _read(path: Path, kinds: Collection[str]) -> tuple[CheckpointConfig, dict[str, Tensor], MotionSpace]:
    """Configuration, network tensors and feature space of a checkpoint of one of these kinds."""
    try:
        config = CheckpointConfig.model_validate_json((path / "config.json").read_text(encoding="utf-8"))
        if config.kind not in kinds:
            raise UserError(
                f"got a {config.kind} checkpoint in {path}; want {' or '.join(kinds)}; check which model goes where"
            )
        tensors = load_file(path / "model.safetensors")
        refuse_not_finite(tensors)
        mean_D, std_D, text = tensors.pop("mean_D"), tensors.pop("std_D"), None
        if "text_mean_C" in tensors:
            text = TextStatistics(tensors.pop("text_mean_C"), tensors.pop("text_std_C"))
        space = MotionSpace(mean_D, std_D, config.fps, config.representation, text, config.normalisation)
        if {space.mean_D.dtype, space.std_D.dtype} != {torch.float32}:
            raise ValueError(f"got mean {space.mean_D.dtype} and std {space.std_D.dtype}; want float32; convert them")
    except (OSError, SafetensorError, ValidationError, ValueError, TypeError, KeyError) as error:
        raise broken(path, error) from error
    return config, {name.removeprefix("network."): tensor for name, tensor in tensors.items()}, space


def _network(path: Path, tensors: dict[str, Tensor], build: Callable[[], N]) -> N:
    try:
        # The weights come from the file: the caller's random stream is left alone.
        with torch.random.fork_rng(devices=[]):
            network = build()
        network.load_state_dict(tensors)
    except (TypeError, RuntimeError, ValueError, ArithmeticError, AssertionError) as error:
        raise broken(path, error) from error
    return network


def broken(path: Path, error: Exception) -> UserError:
    """What to say of a checkpoint or a text encoder that does not load."""
    return UserError(
        f"got {path} that does not load ({type(error).__name__}: {' '.join(str(error).split())[:300]}); want a "
        "checkpoint as save_checkpoint and save_pretrained write it; copy it again"
    )
