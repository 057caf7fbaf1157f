"""LoRA adapters (arXiv:2106.09685) through peft: the only weights that train, travel and are saved.

Attaching works in place: the network's linear layers are wrapped, so whoever holds the network sees the
adapter. Adapters are never merged into the base, which merging back and forth would change for good; how they are
computed is `rl_motion.models.lora`.

Which layers a job's targets (`attention`, `mlp`, `condition`) mean is for each network to say, in its
attribute
`adapter_targets`. Tensor names are those of peft's own files without their `base_model.model.` prefix, for
example `seqTransEncoder.layers.0.linear1.lora_A.weight` [rank, in] and `...lora_B.weight` [out, rank].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rl_motion.config import AdapterConfig
from rl_motion.models.layers import refuse_not_finite

if TYPE_CHECKING:
    from peft import PeftModel

_PEFT_PREFIX = "base_model.model."
_ADAPTER_NAME = "default"
_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class _Lora:
    """What peft is told. `targets`: last components of layer names."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


def attach_lora(network: nn.Module, config: AdapterConfig, *, seed: int = 0) -> PeftModel:
    """Wrap the target layers of `network` in place and freeze everything else.

    Args:
        network: declares `adapter_targets`, a mapping from `attention`, `mlp`, `condition` to the last
            components of the names of its linear layers.
        config: rank, alpha and targets.
        seed: of the A matrices; the B matrices start at zero, so the adapted network starts as the base.

    Returns:
        The peft model around `network`; `network` itself is adapted too and may go on being used.

    Raises:
        ValueError: a target names no linear layer, or `network` is adapted already.
    """
    groups: Mapping[str, tuple[str, ...]] = getattr(network, "adapter_targets", {})
    unknown = sorted(set(config.targets) - groups.keys())
    if unknown or not config.targets:
        raise ValueError(
            f"got adapter targets {unknown}; want at least one of {sorted(groups)}, which is what "
            f"{type(network).__name__}.adapter_targets declares; change adapter.targets or declare them there"
        )
    names = tuple(name for target in config.targets for name in groups[target])
    return _attach(network, _Lora(config.rank, config.alpha, names), seed)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the adapter: LoRA tensors on the CPU by sorted name.

    Args:
        model: an adapted network, or the peft model around it; both give the same names.

    Raises:
        ValueError: `model` carries no adapter.
    """
    return {name: parameter.detach().cpu().clone() for name, parameter in _own_parameters(model).items()}


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Overwrite the adapter in place, strictly; on an error nothing was written.

    Raises:
        ValueError: names are missing or unknown, or a shape differs, or `model` carries no adapter.
    """
    own = _own_parameters(model)
    _refuse_mismatch({name: tuple(tensor.shape) for name, tensor in own.items()}, state)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def adapter_checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over sorted names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_adapter(model: PeftModel, directory: str | Path, *, base_model_name: str) -> None:
    """Write the adapter in peft's own format: adapter_config.json and adapter_model.safetensors.

    Args:
        model: what `attach_lora` or `load_adapter` returned.
        directory: created where absent.
        base_model_name: what the adapter belongs to; written to the configuration.
    """
    from safetensors.torch import save

    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[_ADAPTER_NAME].to_dict()
    # peft keeps targets in a set; sorted, the same adapter gives the same file in every process.
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    config |= {"base_model_name_or_path": base_model_name, "inference_mode": True}
    (path / _CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {f"{_PEFT_PREFIX}{name}": tensor for name, tensor in adapter_state(model).items()}
    # Not save_file: it has an error of its own for a full disk.
    (path / _WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))


def load_adapter(network: nn.Module, directory: str | Path) -> PeftModel:
    """Attach a saved adapter to an un-adapted network, in place; on an error the network is unchanged.

    Returns:
        The peft model around `network`, with the saved weights, trainable.

    Raises:
        FileNotFoundError: the directory holds no adapter.
        ValueError: a file is broken, or the adapter belongs to another architecture, width or rank, or
            `network` is adapted already.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(directory)
    lora = _read_config(path)
    try:
        stored = load_file(path / _WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(
            f"got {str(path / _WEIGHTS_FILE)!r}, which is no safetensors file ({error}); want the weights of an "
            "adapter; copy them again"
        ) from None
    tensors = {name.removeprefix(_PEFT_PREFIX): tensor for name, tensor in stored.items()}
    _refuse_bad_targets(network, lora)
    _refuse_mismatch(_expected_shapes(network, lora), tensors)
    refuse_not_finite(tensors)
    model = _attach(network, lora, seed=0)
    load_adapter_state(model, tensors)
    return model


def base_model_of(directory: str | Path) -> str | None:
    """The model that a saved adapter was trained on; None where its configuration does not say.

    Raises:
        FileNotFoundError: the directory holds no adapter.
        ValueError: its configuration cannot be read.
    """
    name = _read_json(Path(directory)).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Within the context the network computes exactly what the base computes.

    On leaving, everything is as before, trainability included; contexts nest.

    Raises:
        ValueError: `model` carries no adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    parameters = _own_parameters(model).values()
    trainable = [parameter.requires_grad for parameter in parameters]
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    were_disabled = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer, was_disabled in zip(layers, were_disabled, strict=True):
            layer.enable_adapters(not was_disabled)
        # peft switches trainability together with the adapter: put back what the caller had chosen.
        for parameter, flag in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(flag)


def forget_folded(network: nn.Module) -> None:
    """Let no layer of `network` go on with what it made of weights before (`rl_motion.models.kept`).

    Layers see what autograd sees written. A write through `.data`, as many averages of weights make, it does not see.
    """
    for module in network.modules():
        forget = getattr(module, "forget", None)
        if callable(forget):
            forget()


def _attach(network: nn.Module, lora: _Lora, seed: int) -> PeftModel:
    from peft import LoraConfig, PeftModel

    from rl_motion.models.lora import FoldedLinear

    _refuse_bad_targets(network, lora)
    alpha: Any = lora.alpha  # peft declares an integer and only ever divides it by the rank
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets))
    config._register_custom_module({nn.Linear: FoldedLinear})
    with torch.random.fork_rng(devices=[]):
        model = PeftModel(network, config, adapter_name=_ADAPTER_NAME)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in _own_parameters(network).items():
            if name.endswith("lora_A.weight"):
                bound = parameter.shape[1] ** -0.5  # peft's default: Kaiming uniform with a = sqrt(5)
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
            else:
                parameter.zero_()
    return model


def _read_json(directory: Path) -> dict[str, Any]:
    for name in (_CONFIG_FILE, _WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"got adapter directory {str(directory)!r} without {name}; want {_CONFIG_FILE} and "
                f"{_WEIGHTS_FILE}; give the adapter/ folder of a run"
            )
    try:
        stored = json.loads((directory / _CONFIG_FILE).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"got {str(directory / _CONFIG_FILE)!r}, which is not JSON ({error}); want peft's configuration; copy it "
            "again"
        ) from None
    if not isinstance(stored, dict):
        raise ValueError(f"got a {type(stored).__name__} in {_CONFIG_FILE}; want peft's configuration; copy it again")
    return stored


def _read_config(directory: Path) -> _Lora:
    stored = _read_json(directory)
    rank, alpha = stored.get("r"), stored.get("lora_alpha")
    kind, targets = stored.get("peft_type"), stored.get("target_modules")
    if kind != "LORA" or not isinstance(targets, list):
        raise ValueError(
            f"got a {kind} adapter with targets {targets!r} in {str(directory)!r}; want LORA with a list of layer "
            "names; export it as plain LoRA"
        )
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(
            f"got r={rank!r} and lora_alpha={alpha!r} in {str(directory / _CONFIG_FILE)!r}; want a rank of at least "
            "1 and a number; copy the file again"
        )
    return _Lora(rank, alpha, tuple(map(str, targets)))


def _lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    found = {
        name.removeprefix(_PEFT_PREFIX).replace(f".{_ADAPTER_NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    return dict(sorted(found.items()))


def _own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    parameters = _lora_parameters(model)
    if not parameters:
        raise ValueError(
            "got a model without adapter; want one with LoRA layers; call attach_lora on its network first"
        )
    return parameters


def _target_layers(network: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers that peft will wrap, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and any(name == t or name.endswith(f".{t}") for t in targets)
    }


def _refuse_bad_targets(network: nn.Module, lora: _Lora) -> None:
    if _lora_parameters(network):
        raise ValueError(
            "got a network that carries an adapter already; want a plain one; "
            "attach once, then replace the weights with load_adapter_state"
        )
    unmatched = [target for target in lora.targets if not _target_layers(network, (target,))]
    if unmatched:
        linear = (name for name, layer in network.named_modules() if isinstance(layer, nn.Linear))
        raise ValueError(
            f"got adapter targets {unmatched} that name no linear layer of {type(network).__name__}; "
            f"want some of {sorted({name.rsplit('.', 1)[-1] for name in linear})}; "
            "use the adapter's own model"
        )


def _expected_shapes(network: nn.Module, lora: _Lora) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in _target_layers(network, lora.targets).items():
        shapes[f"{name}.lora_A.weight"] = (lora.rank, layer.in_features)
        shapes[f"{name}.lora_B.weight"] = (layer.out_features, lora.rank)
    return shapes


def _refuse_mismatch(want: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(want.keys() - state.keys()), sorted(state.keys() - want.keys())
    if missing or unknown:
        raise ValueError(
            f"got an adapter with {len(missing)} tensors missing {missing[:3]} and {len(unknown)} unknown "
            f"{unknown[:3]}; want exactly the {len(want)} tensors of this model's adapter; "
            "use the model and the targets that it was trained with"
        )
    wrong = [name for name in sorted(want) if tuple(state[name].shape) != want[name]]
    if wrong:
        raise ValueError(
            f"got {wrong[0]} of shape {tuple(state[wrong[0]].shape)} ({len(wrong)} tensors differ); "
            f"want {want[wrong[0]]}; the adapter was trained on a model of another width or with another "
            "rank; load it on its own base model, with its own rank"
        )
