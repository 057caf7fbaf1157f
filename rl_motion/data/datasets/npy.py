"""NumPy files of strangers: nothing is unpickled, and no header makes anybody allocate what is not in the file.

Legend: F frames; the rest of a shape is the caller's.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from rl_motion.data.datasets.clips import MOST_FRAMES
from rl_motion.data.datasets.sources import BadFile

_MOST_HEADER = 10_000


class Header(NamedTuple):
    """What a file says of its array, and is large enough for."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]


def read_header(path: Path) -> Header:
    """Of a file of floats that holds just what its header claims.

    Raises:
        BadFile: it is none.
    """
    with _opened(path) as file:
        return _header(file)


def read_floats(path: Path, rest: tuple[int, ...]) -> NDArray[np.float32]:
    """An array [F, *rest], finite, in single precision whatever the file's; F is 1 to `MOST_FRAMES`.

    Raises:
        BadFile: it is none.
    """
    wanted = f"[frames{''.join(f', {size}' for size in rest)}]"
    with _opened(path) as file:
        header = _header(file)
        if header.shape[1:] != rest or not header.shape:
            raise BadFile("another shape", f"{list(header.shape)}, want {wanted}")
        if not 1 <= header.shape[0] <= MOST_FRAMES:
            raise BadFile("no frames" if not header.shape[0] else "too many frames", f"{header.shape[0]} frames")
        return _floats(file, header)


def read_vector(path: Path, size: int) -> NDArray[np.float32]:
    """An array [size], finite, in single precision.

    Raises:
        BadFile: it is none.
    """
    with _opened(path) as file:
        header = _header(file)
        if header.shape != (size,):
            raise BadFile("another shape", f"{list(header.shape)}, want [{size}]")
        return _floats(file, header)


def _opened(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait
            raise BadFile("no file", "a folder, a pipe or a device")
        return path.open("rb")
    except FileNotFoundError:
        raise BadFile("a missing file", "there is no such file") from None
    except OSError as error:
        raise BadFile("a file that cannot be read", error.strerror or str(error)) from None


def _header(file: BinaryIO) -> Header:
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():  # of headers that Python 2 wrote
            warnings.simplefilter("ignore")
            header = Header(*readers[npy_format.read_magic(file)](file, max_header_size=_MOST_HEADER))
    except Exception as error:  # what a damaged header makes numpy raise, nobody lists: tokenize.TokenError, too
        raise BadFile("no NumPy file", " ".join(str(error).split())[:200] or type(error).__name__) from None
    if header.dtype.hasobject:
        raise BadFile("an array of objects", "they could only be had by running what the file says; want floats")
    if header.dtype.kind != "f":
        raise BadFile("no floats", f"{header.dtype}")
    held = os.fstat(file.fileno()).st_size - file.tell()
    claimed = math.prod(header.shape) * header.dtype.itemsize
    whole = all(type(size) is int and size >= 0 for size in header.shape)  # NumPy takes True for a size, too
    if not whole or claimed != held:
        raise BadFile("not as long as its header says", f"{list(header.shape)} claimed, {held} bytes there")
    return header


def _floats(file: BinaryIO, header: Header) -> NDArray[np.float32]:
    try:
        flat = np.fromfile(file, header.dtype)
    except OSError as error:
        raise BadFile("a file that cannot be read", error.strerror or str(error)) from None
    with np.errstate(over="ignore", invalid="ignore"):  # beyond single precision: infinite, refused below
        array = flat.reshape(header.shape, order="F" if header.fortran_order else "C").astype(np.float32, order="C")
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise BadFile("NaN or infinite values", f"{bad} of {array.size} values")
    return array
