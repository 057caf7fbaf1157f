"""Vocabularies that were pickled: plain containers, texts and numbers come out of them, and nothing is run.

Guo et al.'s `our_vab_words.pkl` is a list of words and `our_vab_idx.pkl` a dict from words to rows. A pickle is a
program: what it may name is the little that NumPy's numbers are made of, and everything else is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from rl_motion.models.official.reading import damaged
from rl_motion.tracking.files import read_whole

_MOST = 2**24
"""Bytes of a pickle; the official ones have 80 kB."""
_RECONSTRUCT, _SCALAR = (value.__reduce__()[0] for value in (np.zeros(0), np.float64(0)))
_FROM_BUFFER = np.zeros(0).__reduce_ex__(5)[0]
_NUMBERS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # before NumPy 2
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),  # how old protocols write bytes
}
"""What arrays and numbers are made of."""
_REMEMBERS = {"PUT", "BINPUT", "LONG_BINPUT"}


class _Plain(pickle.Unpickler):
    """Lists, dicts, tuples, texts, numbers and NumPy's arrays of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        found = _NUMBERS.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and a vocabulary has words and numbers alone")
        return found


def read_plain_pickle(path: Path) -> Any:
    """What a pickle holds, if that is lists, dicts, tuples, texts and numbers; nothing of it is run.

    Raises:
        UserError: it holds or names anything else, is cut short, or is larger than a vocabulary.
    """
    try:
        content = read_whole(path, _MOST)
        # The unpickler makes room for as many memories as the largest number that it reads.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _REMEMBERS and int(argument or 0) > len(content):
                raise pickle.UnpicklingError(f"it asks for room for {argument} objects")
        return _Plain(io.BytesIO(content)).load()
    except Exception as error:  # whatever a damaged program does: pickle promises no narrower one
        raise damaged(path, error) from error
