"""One atomic commit per iteration: what a run needs to go on bit for bit.

    commits/00000012/manifest.json  learner.safetensors  ledger.json  adapter/adapter_config.json
    adapter/adapter_model.safetensors  behaviour/00000011.safetensors

On this machine's disk a commit is a folder, written under another name, synced and renamed, so that it is there as a
whole or not at all (store.py has the commits that go elsewhere). Its manifest carries the hash of every file; what
does not match is passed over for the commit before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rl_motion.config import RunFault
from rl_motion.models.device import CPU
from rl_motion.tracking.files import sync_folder, write_synced
from rl_motion.types import Metrics

LEARNER_FILE = "learner.safetensors"
LEDGER_FILE = "ledger.json"
ADAPTER_FILES = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
MANIFEST = "manifest.json"
_TEMPORARY = ".writing-"
_log = logging.getLogger(__name__)


class Best(BaseModel):
    """The iteration with the best validation reward so far; of equals, the first.

    `measured` holds the settings that the reward was measured with, `prompts_sha256` its prompts: rewards measured in
    another way do not compare. `low` and `high` are None where one prompt has no interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    iteration: int
    reward: float
    low: float | None
    high: float | None
    measured: dict[str, str]
    prompts_sha256: str


class Manifest(BaseModel):
    """What a commit says about itself.

    `iteration` counts finished iterations and is at once the cursor into the prompt pool and the adapter's
    version. `adapter_sha256` is that of the learner's adapter, which is not the published one where the job asks for an
    average. `weights_sha256` are the frozen weights by role. `job` holds all settings (see resuming.py; in format 1
    those that the numbers depend on); `metrics` is the last row of metrics.jsonl. `behaviour`: SHA-256, by version, of
    the older adapters that units in flight were sampled with. `best.iteration` is the commit's own where it is best.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = 2
    """1, before there was a ledger: no `ledger.json`, no older adapters."""
    iteration: int
    adapter_sha256: str
    pool_sha256: str
    weights_sha256: dict[str, str]
    job: dict[str, Any]
    threads: int
    cpu_capability: str
    torch: str
    device: str = CPU
    """Where the learner's networks were: `cpu`, as in manifests from before it was known, or a GPU by name."""
    run_id: str
    mlflow_run_id: str | None
    wall_s: float
    metrics: Metrics | None
    behaviour: dict[int, str] = {}
    best: Best | None = None
    files: dict[str, str] = {}
    """SHA-256 by path within the commit; filled in by `seal`."""

    @property
    def holds(self) -> frozenset[str]:
        """The paths of its files: any other name in a manifest may point out of the run's folder."""
        ledger = [LEDGER_FILE] if self.format > 1 else []
        return frozenset({LEARNER_FILE, *ADAPTER_FILES, *ledger, *map(behaviour_file, self.behaviour)})


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit read back and verified."""

    manifest: Manifest
    files: Mapping[str, bytes]


def behaviour_file(version: int) -> str:
    """Where a commit holds the older adapter of this version."""
    return f"behaviour/{version:08d}.safetensors"


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """The manifest's file, with the hashes of these.

    Raises:
        ValueError: they are not exactly those that the manifest's commit holds.
    """
    _refuse_other_files(manifest, files)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return manifest.model_copy(update={"files": hashes}).model_dump_json(indent=1).encode()


def unseal(read: Callable[[str], bytes]) -> Commit:
    """The commit whose files `read` gives, by path within it.

    Raises:
        ValueError: something is unknown or differs from its hash.
        Whatever `read` raises, FileNotFoundError where a file is missing.
    """
    manifest = parse(read(MANIFEST))
    _refuse_other_files(manifest, manifest.files)
    files = {name: read(name) for name in sorted(manifest.files)}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise ValueError(f"{name} differs from its hash")
    return Commit(manifest, files)


def parse(content: bytes) -> Manifest:
    """A manifest's file, its commit's files unread; raises ValueError."""
    try:
        return Manifest.model_validate(json.loads(content))
    except ValidationError as error:
        raise ValueError(f"{MANIFEST} has {error.error_count()} wrong fields") from None


def surplus(iterations: Collection[int], keep: int, best: Best | None) -> set[int]:
    """Commits that are not among the last `keep` and not the best."""
    spared = {best.iteration} if best else set()
    return set(sorted(iterations)[:-keep]) - spared


class Commits:
    """The folder `commits/` of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Keep the last `keep` commits, and the best."""
        self._folder = folder
        self._keep = keep

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Commit atomically, then drop what is neither among the last `keep` nor the best.

        Raises:
            OSError: no room, or no right to write; there is a whole commit or nothing of it.
            ValueError: `files` are not exactly what the manifest says.
        """
        text = seal(manifest, files)
        target = self._path(manifest.iteration)
        temporary = self._folder / f"{_TEMPORARY}{target.name}"
        for stale in (*self._folder.glob(f"{_TEMPORARY}*"), target):
            if stale.is_dir():
                shutil.rmtree(stale)
        try:
            for name, content in {**files, MANIFEST: text}.items():
                write_synced(temporary / name, content)
            for folder in sorted({(temporary / name).parent for name in files} | {temporary}):
                sync_folder(folder)
            temporary.rename(target)
        except BaseException:  # Ctrl-C too; on a full disk its room is what the adapter needs
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self._folder)
        for old in surplus(self.iterations(), self._keep, manifest.best):
            shutil.rmtree(self._path(old))

    def newest(self) -> Commit | None:
        """The newest commit that is whole; warns about those that are not.

        Raises:
            RunFault: the disk does not answer, which says nothing about the commit.
        """
        found = (self.read(iteration) for iteration in sorted(self.iterations(), reverse=True))
        return next((commit for commit in found if commit is not None), None)

    def read(self, iteration: int) -> Commit | None:
        """This commit; None, with a warning, where it is not there as a whole.

        Raises:
            RunFault: as `newest`.
        """
        folder = self._path(iteration)
        try:
            return unseal(lambda name: (folder / name).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            _log.warning("commit %s is damaged (%s); going back to the one before", folder, error)
            return None
        except OSError as error:
            raise RunFault(
                f"commit {folder}: got {error.strerror or error}; want a readable folder; look at the disk and "
                "resume the run"
            ) from error

    def drop_after(self, iteration: int) -> None:
        """Remove commits beyond this one: a run that goes on from it will write them anew."""
        for later in self.iterations():
            if later > iteration:
                shutil.rmtree(self._path(later))

    def iterations(self) -> list[int]:
        """Of all commits that are there, whole or damaged."""
        return [int(path.name) for path in self._folder.glob("[0-9]*") if path.is_dir() and path.name.isdecimal()]

    def _path(self, iteration: int) -> Path:
        return self._folder / f"{iteration:08d}"


def _refuse_other_files(manifest: Manifest, names: Collection[str]) -> None:
    if set(names) != manifest.holds:
        raise ValueError(f"got the files {sorted(names)}; want exactly {sorted(manifest.holds)}")
