"""One atomic commit per iteration: what a run needs to go on bit for bit.

A commit is a folder, written under another name, synced and renamed, so that it is there as a whole or not
at all. Its manifest carries the hash of every file; what does not match is passed over for the commit before.

    commits/00000012/manifest.json  learner.safetensors  adapter/adapter_config.json
    adapter/adapter_model.safetensors
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rl_motion.config import RunFault
from rl_motion.tracking.files import sync_folder, write_synced
from rl_motion.types import Metrics

LEARNER_FILE = "learner.safetensors"
ADAPTER_FILES = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
FILES = frozenset({LEARNER_FILE, *ADAPTER_FILES})
"""What a commit holds, by path within it: any other name in a manifest may point out of the run's folder."""
_MANIFEST, _TEMPORARY = "manifest.json", ".writing-"
_log = logging.getLogger(__name__)


class Manifest(BaseModel):
    """What a commit says about itself.

    `iteration` counts finished iterations and is at once the cursor into the prompt pool and the adapter's
    version. `adapter_sha256` is that of the learner's adapter, which is not the published one where the job asks for an
    average. `weights_sha256` are the frozen weights by role. `job` holds what the numbers depend on (see `identity`
    in run.py); `metrics` is the last row of metrics.jsonl.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    iteration: int
    adapter_sha256: str
    pool_sha256: str
    weights_sha256: dict[str, str]
    job: dict[str, Any]
    threads: int
    cpu_capability: str
    torch: str
    run_id: str
    mlflow_run_id: str | None
    wall_s: float
    metrics: Metrics | None
    files: dict[str, str] = {}
    """SHA-256 by path within the commit; filled in by `write`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit read back and verified."""

    manifest: Manifest
    files: Mapping[str, bytes]


class Commits:
    """The folder `commits/` of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Keep the last `keep` commits."""
        self._folder = folder
        self._keep = keep

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Commit atomically, then drop what is older than the last `keep`.

        Raises:
            OSError: no room, or no right to write; there is a whole commit or nothing of it.
            ValueError: `files` are not exactly `FILES`.
        """
        _refuse_other_files(files)
        target = self._folder / f"{manifest.iteration:08d}"
        temporary = self._folder / f"{_TEMPORARY}{target.name}"
        for stale in (*self._folder.glob(f"{_TEMPORARY}*"), target):
            if stale.is_dir():
                shutil.rmtree(stale)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        text = manifest.model_copy(update={"files": hashes}).model_dump_json(indent=1)
        try:
            for name, content in {**files, _MANIFEST: text.encode()}.items():
                write_synced(temporary / name, content)
            for folder in sorted({(temporary / name).parent for name in files} | {temporary}):
                sync_folder(folder)
            temporary.rename(target)
        except BaseException:  # Ctrl-C too; on a full disk its room is what the adapter needs
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self._folder)
        for old in self._numbered()[: -self._keep]:
            shutil.rmtree(old)

    def has(self, iteration: int) -> bool:
        """Whether there is a commit after so many iterations."""
        return (self._folder / f"{iteration:08d}").is_dir()

    def newest(self) -> Commit | None:
        """The newest commit that is whole; warns about those that are not.

        Raises:
            RunFault: the disk does not answer, which says nothing about the commit.
        """
        for folder in reversed(self._numbered()):
            try:
                return _read(folder)
            except (FileNotFoundError, ValueError) as error:
                _log.warning("commit %s is damaged (%s); going back to the one before", folder, error)
            except OSError as error:
                raise RunFault(
                    f"commit {folder}: got {error.strerror or error}; want a readable folder; look at the disk and "
                    "resume the run"
                ) from error
        return None

    def drop_after(self, iteration: int) -> None:
        """Remove commits beyond this one: a run that goes on from it will write them anew."""
        for folder in self._numbered():
            if int(folder.name) > iteration:
                shutil.rmtree(folder)

    def _numbered(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir() and path.name.isdecimal())


def _read(folder: Path) -> Commit:
    """Raises OSError or ValueError where anything is missing, unknown, or differs from its hash."""
    try:
        manifest = Manifest.model_validate(json.loads((folder / _MANIFEST).read_bytes()))
    except ValidationError as error:
        raise ValueError(f"{_MANIFEST} has {error.error_count()} wrong fields") from None
    _refuse_other_files(manifest.files)
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise ValueError(f"{name} differs from its hash")
    return Commit(manifest, files)


def _refuse_other_files(names: Collection[str]) -> None:
    if set(names) != FILES:
        raise ValueError(f"got the files {sorted(names)}; want exactly {sorted(FILES)}")
