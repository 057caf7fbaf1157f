"""The project's own forms, for `rl-motion model inspect`: a checkpoint's directory, and a LoRA adapter of peft's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from rl_motion.config import UserError
from rl_motion.models.adapter import base_model_of
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.options import mentions_json, read_settings
from rl_motion.models.official.reading import damaged, read_json
from rl_motion.models.zoo import DENOISERS, EVALUATORS, RETRIEVAL, CheckpointConfig, EvaluatorConfig, text_encoder_of

_STATISTICS = {"mean_D", "std_D", "text_mean_C", "text_std_C"}


def _is_checkpoint(path: Path) -> bool:
    return mentions_json(path / "config.json", "kind", "network") and (path / "model.safetensors").is_file()


def _inspect_checkpoint(path: Path) -> Inspection:
    """Which kind, of what motion; raises UserError."""
    content, file = read_json(path / "config.json"), path / "model.safetensors"
    kind = str(content.get("kind"))
    kinds = {**DENOISERS, **RETRIEVAL, **EVALUATORS}
    if kind not in kinds:
        raise UserError(
            f"got a {kind[:60]!r} checkpoint in {path}; want {', '.join(kinds)}; correct its "
            "config.json, or use a newer rl-motion"
        )
    model: Any = EvaluatorConfig if kind in EVALUATORS else CheckpointConfig
    try:
        config = model.model_validate(content)
    except ValidationError as error:
        raise damaged(path / "config.json", error) from error
    shapes = _shapes(file)
    parameters = sum(size for name, size in shapes.items() if name not in _STATISTICS)
    parts = [f"{config.representation} at {config.fps:g} frames per second"]
    if kind not in EVALUATORS:
        if config.schedule is not None:
            parts.append(f"{config.schedule.betas} betas, {config.schedule.timesteps} timesteps")
            parts.append(f"predicts {config.prediction_type}")
        parts.append(f"text encoder {config.text_encoder}{'' if _beside(path, config) else ', which is not beside it'}")
    what = f"rl-motion {kind} checkpoint: {', '.join(parts)}; {parameters / 1e6:.1f} M parameters"
    return Inspection(what, {}, parameters)


def _beside(path: Path, config: CheckpointConfig) -> bool:
    """Whether the text encoder's directory is where it belongs."""
    try:
        text_encoder_of(path, config)
    except (UserError, OSError, ValueError):  # the last two: a name that no file can have
        return False
    return True


def _is_adapter(path: Path) -> bool:
    return mentions_json(path / "adapter_config.json", "peft_type")


def _inspect_adapter(path: Path) -> Inspection:
    """Rank, layers and base; raises UserError."""
    settings = read_settings(path / "adapter_config.json")
    shapes = _shapes(path / "adapter_model.safetensors")
    targets = settings.content.get("target_modules")
    layers = ", ".join(sorted(map(str, targets))) if isinstance(targets, list) else "unknown"
    base, parameters = base_model_of(path), sum(shapes.values())
    what = (
        f"{settings.value('peft_type', str)} adapter of peft: rank {settings.value('r', int)}, alpha "
        f"{settings.value('lora_alpha', float):g}, on {layers}; {parameters / 1e3:.1f} k parameters; trained on "
        f"{base or 'a base that it does not name'}"
    )
    return Inspection(what, {}, parameters)


def _shapes(path: Path) -> dict[str, int]:
    """Numbers in each tensor of a safetensors file, without reading them; raises UserError."""
    sizes = {}
    try:
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                size = 1
                for dimension in stored.get_slice(name).get_shape():
                    size *= dimension
                sizes[name] = size
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
    return sizes


def _nothing_to_convert(path: Path, _folder: Path, _sources: Sources) -> NoReturn:
    raise UserError(
        f"got {path}, which is in the project's own form already; want an official checkpoint; use it as it is"
    )


CHECKPOINT = Layout(
    "config.json and model.safetensors (rl-motion's own)", _is_checkpoint, _inspect_checkpoint, _nothing_to_convert
)
ADAPTER = Layout(
    "adapter_config.json and adapter_model.safetensors (a LoRA adapter)",
    _is_adapter,
    _inspect_adapter,
    _nothing_to_convert,
)
