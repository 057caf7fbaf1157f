"""A device that is not the CPU, on a machine that has none: real numbers that say they are elsewhere.

A tensor that is away holds its numbers in the CPU's memory and computes them with the CPU's kernels, so that results
are the CPU's to the bit. But it is on another device: an operation of tensors of two devices is refused as CUDA refuses
it, and NumPy does not read it. What works here neither mixes devices nor forgets one.

torch knows no device of that kind. It is called `meta`, the only one beside the CPU that torch lets one name, and run
backward on, without hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

AWAY = torch.device("meta")
_aten = torch.ops.aten
_CROSSING = {_aten._to_copy.default, _aten.copy_.default}
"""What takes tensors from one device to another."""
_OF_THE_CPU = {_aten._pack_padded_sequence.default: 1, _aten.index.Tensor: 1}
"""By operation the argument that may be on the CPU whatever the others are: lengths to pack, places to look up."""


class AwayTensor(Tensor):
    """Numbers in the CPU's memory that say they are elsewhere."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> AwayTensor:
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=AWAY
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor that is away to numpy; use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"away({self.held!r})"


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromData(TorchFunctionMode):
    """For `meta` torch reads no data: neither that of torch.tensor nor places to look up that are lists.

    And for want of a kernel it would take attention apart, which rounds otherwise than the CPU's own does.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is functional.scaled_dot_product_attention and isinstance(args[0], AwayTensor):
            query, key, value, seen, dropped = args
            mask = None if seen is None else torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, -torch.inf)
            return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, dropped, attn_mask=mask)[0]
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            listed = tuple(torch.tensor(place) if isinstance(place, list | tuple) else place for place in places)
            args = (args[0], listed, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[None]:
    """Within, networks are put on the device that is away, wherever `rl_motion` chooses one."""
    autocast = torch.autocast

    def known(device_type: str, **options: Any) -> Any:
        return nullcontext() if device_type == AWAY.type else autocast(device_type, **options)

    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.get_device_name", return_value="a GPU"),
        mock.patch("rl_motion.models.device._make_exact"),
        mock.patch("rl_motion.models.device._GPU", AWAY),
        mock.patch("torch.autocast", known),
        _Dispatch(),
        _FromData(),
    ):
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    device = kwargs.get("device")
    goes = torch.device(device) if device is not None else None
    if func not in _CROSSING:
        _refuse_mixed(func, args, kwargs)
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    away = goes == AWAY if goes is not None else any(isinstance(value, AwayTensor) for value in given)
    if func is _aten.copy_.default:
        away = isinstance(args[0], AwayTensor)
    held = {**kwargs, "device": torch.device("cpu")} if goes == AWAY else kwargs
    found = func(*tree_map(_held, args), **tree_map(_held, held))
    if away and func is _aten._pack_padded_sequence.default:
        return AwayTensor(found[0]), found[1]  # how many rows each step has is always on the CPU
    written = [argument for argument in func._schema.arguments if argument.alias_info and argument.alias_info.is_write]
    if written and written[0] is func._schema.arguments[0]:
        return args[0]
    return tree_map(lambda value: AwayTensor(value) if away and isinstance(value, Tensor) else value, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, AwayTensor) else value


def _refuse_mixed(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    free = _OF_THE_CPU.get(func)
    strict = [value for place, value in enumerate(args) if place != free]
    loose = [] if free is None else tree_flatten(args[free])[0]
    tensors = [value for value in tree_flatten((strict, kwargs))[0] if isinstance(value, Tensor)]
    # A number may be on the CPU: it is read and handed over.
    devices = {isinstance(value, AwayTensor) for value in tensors if value.ndim or isinstance(value, AwayTensor)}
    beyond = any(isinstance(value, AwayTensor) for value in loose) and True not in devices
    if len(devices) > 1 or beyond:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some away and some not")
