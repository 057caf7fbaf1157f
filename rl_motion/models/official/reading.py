"""Files of others, read without running anything of theirs.

torch's own reader of weights comes first (`weights_only=True`). What it refuses - a Lightning checkpoint holds
configurations, callbacks, loops - is read again by an unpickler that knows tensors alone: every other global of the
file becomes an inert stub, which takes whatever it is given and does nothing.
"""

from __future__ import annotations

import json
import pickle
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.tracking.files import read_whole

_MOST_JSON = 2**24
"""Bytes of a configuration; the official ones have a few kB."""
_MOST_NUMBERS = 2**32
"""Of one tensor: a file may claim any number of them and hold one."""
_TENSORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""What tensors are made of; torch adds its storages."""


class Stub:
    """What an unknown global of a pickle becomes: it takes anything, and does nothing."""

    def __init__(self, *_args: object, **_named: object) -> None:
        """Forget all of it."""

    def __setstate__(self, _state: object) -> None:
        """Forget the state."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Forget an entry."""

    def append(self, _value: object) -> None:
        """Forget an element."""

    def extend(self, _values: object) -> None:
        """Forget elements."""


# The one of Python: the other makes room for as many objects as a file says that it will remember.
_PythonUnpickler: Any = pickle._Unpickler


class _TensorsOnly(_PythonUnpickler):  # type: ignore[misc]
    """Tensors and plain containers; a Stub for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        return _TENSORS.get((module, name), Stub)


def read_torch(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU; large tensors stay on disk until they are read.

    Raises:
        UserError: it is no such file, is cut short, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise damaged(path, "a folder, a pipe or a device")  # a pipe would wait for ever
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, on how old or how new a file is
        return _read(path)


def _read(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 are no archives, and cannot be mapped
    if mapped:
        known = path.stat()
        if fault := _archive_fault(path, known.st_size, known.st_mtime_ns):
            raise damaged(path, fault)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:  # more than tensors
        if not mapped:
            raise damaged(path, "it is cut short, or no archive of torch") from None
    except Exception as error:  # torch has no narrower one: RuntimeError, EOFError, ValueError, OSError ...
        raise damaged(path, error) from error
    try:
        # `load` is for files before torch 1.6, which are not read this way; nothing here may be pickle's own.
        tensors_only: Any = types.SimpleNamespace(Unpickler=_TensorsOnly, load=_no_load, __name__=__name__)
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True, pickle_module=tensors_only)
    except Exception as error:
        raise damaged(path, error) from error


@lru_cache(maxsize=4)
def _archive_fault(path: Path, size: int, _mtime_ns: int) -> str:
    """What contradicts an archive's checksums, empty if nothing does: torch itself reads flipped bits as weights.

    Remembered, as a file is read more than once and may have gigabytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > size:
                return "its parts would take more room than the file has"
            bad = archive.testzip()
    except Exception as error:  # zipfile and zlib: what a damaged archive makes them raise, nobody lists
        return f"{type(error).__name__}: {error}"
    return f"{bad} in it has another checksum than it was written with" if bad is not None else ""


def _no_load(*_args: object, **_named: object) -> None:
    raise pickle.UnpicklingError("an old form of more than tensors")


def state_dict_of(path: Path, content: Any, *keys: str) -> dict[str, Tensor]:
    """The tensors by name under one of these keys of a file's content, whichever is there first; under "", itself.

    Raises:
        UserError: none of them is a mapping from names to tensors.
    """
    found = [content if not key else content.get(key) for key in keys if not key or isinstance(content, Mapping)]
    for candidate in found:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
            if len(tensors) == len(candidate):
                _refuse_odd(path, tensors)
                return tensors
    held = sorted(str(name)[:60] for name in content)[:6] if isinstance(content, Mapping) else type(content).__name__
    raise UserError(
        f"got {path}, which holds {held}; want tensors by name under {' or '.join(key or 'no key' for key in keys)}; "
        "give the model's own file"
    )


def _refuse_odd(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that no network is made of: sparse, quantized, without values, or larger than any memory.

    Raises:
        UserError: names the first one.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not plain or tensor.numel() > _MOST_NUMBERS or (tensor.is_floating_point() and tensor.itemsize < 2):
            form = f"{tensor.dtype}, {tensor.layout}, {tensor.device}, {tuple(tensor.shape)}"
            raise UserError(
                f"got {path} with {name[:100]} as {form}; want plain numbers of 16 bits or more; save the weights so"
            )


def dimension(tensors: Mapping[str, Tensor], name: str, axis: int, usual: int) -> int:
    """The size of a tensor along an axis; `usual` where there is no such tensor, or no such axis."""
    tensor = tensors.get(name)
    return usual if tensor is None or not -tensor.ndim <= axis < tensor.ndim else tensor.shape[axis]


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        UserError: it is none, or cannot be read.
    """
    try:
        content = json.loads(read_whole(path, _MOST_JSON).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, f"a {type(content).__name__}, no object")
    return content


def read_vector(path: Path) -> Tensor:
    """A vector of numbers [D] in float32, from .npy or from a .pt file that is a tensor.

    Raises:
        UserError: it is none, or cannot be read.
    """
    if path.suffix == ".npy":
        try:
            # Mapped: a header that claims more than the file has is found out before memory is taken for it.
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            values: Any = torch.from_numpy(np.array(stored, np.float32)) if isinstance(stored, np.ndarray) else stored
        except Exception as error:  # what a damaged header makes numpy raise, nobody lists
            raise damaged(path, error) from error
    else:
        values = read_torch(path)
    if isinstance(values, Tensor):
        _refuse_odd(path, {"its tensor": values})
    if not isinstance(values, Tensor) or values.ndim != 1 or not bool(torch.isfinite(values).all()):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise damaged(path, f"{shape}, or numbers that are not finite, where one finite number per feature is due")
    return values.float()


def damaged(path: Path, why: object) -> UserError:
    """What to say of a file that cannot be read, in one line."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    return UserError(
        f"got {path} that cannot be read ({' '.join(reason.split())[:200]}); want the file as its authors publish it; "
        "copy it again, and compare its size"
    )
