"""What frozen text encoders say of texts, kept on disk: a text is encoded once, by whichever process comes first.

An entry is a file `<folder>/<encoder>/<two digits>/<key>.sealed`: the SHA-256 of key and content, then the content,
which is safetensors. The key is the SHA-256 of everything that decides the content's bits: the files of the encoder's
directory, how it is called, the text, and what decides rounding (versions, processor, threads). So a cache changes no
number, and a damaged entry is none. Entries appear whole, by renaming; two processes that miss the same one both
compute it and write the same. Nothing here waits for anybody.

Small encoders are left alone (`worth_keeping`): they load at once and keep what they said in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.tracking.files import read_whole

FOLDER, BOUND = "RL_MOTION_TEXT_CACHE", "RL_MOTION_TEXT_CACHE_GB"
"""Environment variables: an absolute folder or `off`; and how large it may become."""
WORTH_BYTES = 16 * 2**20
"""Weights that are worth it. Below, a text takes a millisecond or two, once per process, and loading as long as
hashing: nothing beside sampling a motion, and no reason for thousands of files. CLIP and DistilBERT have 250 MB."""
DEFAULT_BOUND_GB = 8.0
_FORMAT = 1
"""To be raised with every change of code that changes what an entry means."""
_MOST = 64 * 2**20
"""Bytes of an entry: one of CLIP's padded texts has 158 kB."""
_FRESH_S = 24 * 3600.0
"""An entry that was used within this time is not marked as used again."""
_ABANDONED_S = 3600.0
"""A half-written file of this age has lost its writer."""
_NOT_READ = (".md", ".bin", ".h5", ".msgpack", ".onnx", ".pb", ".ot", ".pt", ".pth", ".ckpt")
"""Endings of files in a model's directory that nothing is read from: texts about it, and weights in other forms."""
_NAME = re.compile(r"[0-9a-f]{64}\.sealed(\.[0-9a-f]{32}\.partial)?")
_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where entries are kept: `RL_MOTION_TEXT_CACHE`, else below `XDG_CACHE_HOME` or ~/.cache; None: nowhere.

    Raises:
        UserError: a folder that is no absolute path, so that every process would have its own.
    """
    given = os.environ.get(FOLDER, "").strip()
    if given.casefold() == "off":
        return None
    if given:
        folder = Path(given).expanduser()
        if not folder.is_absolute():
            raise UserError(f"got {FOLDER}={given[:200]!r}; want an absolute folder, or off; correct or unset it")
        return folder
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # as its specification has it
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "rl_motion" / "text-features"


def cache_bound() -> int:
    """Bytes that the folder may come to: `RL_MOTION_TEXT_CACHE_GB`, else 8 GB.

    Raises:
        UserError: no positive number.
    """
    given = os.environ.get(BOUND, "").strip() or str(DEFAULT_BOUND_GB)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise UserError(f"got {BOUND}={given[:60]!r}; want a positive number of GB; correct or unset it")
    return int(gigabytes * 1e9)


def worth_keeping(directory: Path) -> bool:
    """Whether there is a cache, and an encoder's weights are so large that it pays.

    Raises:
        UserError: as `cache_folder`.
    """
    sizes = (path.stat().st_size for path in directory.glob("*.safetensors") if path.is_file())
    return cache_folder() is not None and sum(sizes) >= WORTH_BYTES


def open_cache(directory: Path, call: Mapping[str, object]) -> TextCache | None:
    """The cache of an encoder; None where it is off or does not pay.

    Args:
        directory: of the encoder.
        call: how it is called, beside what its own files say; JSON.

    Raises:
        UserError: as `cache_folder` and `cache_bound`.
    """
    folder = cache_folder()
    if folder is None or not worth_keeping(directory):
        return None
    return TextCache(folder, encoder_sha256(directory), call, cache_bound())


class TextCache:
    """Entries of one encoder, called in one way. Any number of processes may use the same folder."""

    def __init__(self, folder: Path, encoder_sha256: str, call: Mapping[str, object], bound: int) -> None:
        """Cheap: nothing is read or made before it is needed.

        Args:
            folder: of all entries.
            encoder_sha256: of the encoder's files.
            call: how it is called.
            bound: bytes that the folder may come to.
        """
        self.encoder_sha256 = encoder_sha256
        self._folder = folder
        self._call = dict(call)
        self._bound = bound
        self._unlooked = bound  # look at what is there before the first entry
        self._written = 0
        self._writes = True

    def get(self, text: str, form: str) -> dict[str, Tensor] | None:
        """The tensors kept for a text in that form; None where there are none, or none that can be trusted."""
        key = self._key(text, form)
        path = self._path(key)
        try:
            content = read_whole(path, _MOST)
        except OSError:
            return None
        if content[:32] != _seal(key, content[32:]):
            _log.warning("the cached features %s are damaged; the text is encoded anew", path)
            return None
        with suppress(OSError):  # the folder may be another user's
            if time.time() - path.stat().st_mtime > _FRESH_S:
                os.utime(path)
        return load(content[32:])

    def put(self, text: str, form: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what was computed. Where that cannot be done, a run goes on without: it is said once."""
        if not self._writes:
            return
        key = self._key(text, form)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        try:
            self._write(self._path(key), _seal(key, content) + content)
        except OSError as error:
            self._writes = False
            _log.warning(
                "text features cannot be kept in %s (%s), so they are computed again each time; make room and the "
                "right to write there, or set %s",
                self._folder,
                error.strerror or error,
                FOLDER,
            )

    def _write(self, path: Path, content: bytes) -> None:
        before, self._written = self._written, self._written + len(content)
        if before <= self._bound < self._written:
            _log.warning(
                "more text features than the %.3g GB of their cache: some are computed again and again; raise %s",
                self._bound / 1e9,
                BOUND,
            )
        self._unlooked += len(content)
        if self._unlooked >= self._bound // 20:
            self._unlooked = len(content)
            make_room(self._folder, self._bound - self._bound // 20)  # enough until it is looked at again
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            # Not synced: what a power cut leaves half-written is damaged, and damaged entries are computed anew.
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:  # Ctrl-C too
            with suppress(OSError):
                partial.unlink()
            raise

    def _key(self, text: str, form: str) -> str:
        parts = [_FORMAT, self.encoder_sha256, self._call, form, _circumstances(), text]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / self.encoder_sha256[:16] / key[:2] / f"{key}.sealed"


class Recent:
    """The entries last used, in memory."""

    def __init__(self, bound: int = 256 * 2**20) -> None:
        """Holds up to `bound` bytes, and always the last entry."""
        self._bound = bound
        self._bytes = 0
        self._held: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()

    def get(self, text: str, form: str) -> dict[str, Tensor] | None:
        """The tensors of a text in that form, if they are still there."""
        found = self._held.get((text, form))
        if found is not None:
            self._held.move_to_end((text, form))
        return found

    def put(self, text: str, form: str, tensors: dict[str, Tensor]) -> None:
        """Hold them; those that were not used for longest make room."""
        self._bytes += _size(tensors) - _size(self._held.pop((text, form), {}))
        self._held[text, form] = tensors
        while self._bytes > self._bound and len(self._held) > 1:
            self._bytes -= _size(self._held.popitem(last=False)[1])


def make_room(folder: Path, bound: int) -> None:
    """Remove the entries that were not used for longest, until nine tenths of the bound are left, where it is passed.

    Only what is named as entries are is touched. Others may write and remove meanwhile.
    """
    found = sorted(_entries(folder))
    total = sum(size for _, size, _ in found)
    if total <= bound:
        return
    for _, size, path in found:
        if total <= 0.9 * bound:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When it was last used, bytes and path of every entry; what a writer left half-written long ago is removed."""
    for path in folder.glob("*/*/*"):
        if not _NAME.fullmatch(path.name):
            continue
        with suppress(OSError):
            status = path.stat()
            if not path.name.endswith(".partial"):
                yield status.st_mtime, status.st_size, path
            elif time.time() - status.st_mtime > _ABANDONED_S:
                path.unlink()


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _circumstances() -> list[object]:
    """What decides rounding, beside the weights and the text: equal ones give equal bits."""
    autocast = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "off"
    return [_machine(), torch.get_num_threads(), autocast]


@cache
def _machine() -> list[str]:
    """Libraries and processor: kernels are chosen by its abilities."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers")]
    processor = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        about = ("model name", "flags", "CPU implementer", "CPU part", "Features")
        processor += [line for line in first.splitlines() if line.startswith(about)]
    return [*libraries, *processor]


_hashed: dict[tuple[object, ...], str] = {}


def encoder_sha256(directory: Path) -> str:
    """SHA-256 of all files that a tokenizer or a model may be read from, once per process and state of the files."""
    files = [
        path
        for path in sorted(directory.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NOT_READ
    ]
    state = tuple((str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if state not in _hashed:
        digest = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        _hashed[state] = digest.hexdigest()
    return _hashed[state]
