"""From a job to its rewards: what its working directory holds of them, what they are, and the terms of the sum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rl_motion.config import Job
from rl_motion.rewards import REWARDS
from rl_motion.rewards.calibration import Calibration, read_calibration
from rl_motion.rewards.combine import Term, build_terms
from rl_motion.rewards.kind import Kind
from rl_motion.rewards.plugins import is_plugin, load_kind, read_source


@dataclass(frozen=True, slots=True)
class RewardFiles:
    """What a job's rewards read from its working directory: it travels to workers, which may have no such files.

    `plugins`: source by the reward's name.
    """

    plugins: Mapping[str, bytes] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes by role, for a run to compare when it is resumed."""
        return self.plugins_sha256 | ({"calibration": self.calibration.sha256} if self.calibration else {})

    @property
    def plugins_sha256(self) -> dict[str, str]:
        """Those of the plugins alone: what a calibration compares."""
        return {f"reward.{name}": hashlib.sha256(source).hexdigest() for name, source in self.plugins.items()}


def read_files(job: Job) -> RewardFiles:
    """Read them, relative to where this process runs.

    Raises:
        UserError: a plugin or the calibration is missing, lies elsewhere or is broken.
    """
    names = [reward.name for reward in job.rewards if is_plugin(reward.name)]
    plugins = {name: read_source(name, Path.cwd()) for name in names}
    return RewardFiles(plugins, read_calibration(Path(job.calibration)) if job.calibration is not None else None)


def kinds(files: RewardFiles) -> dict[str, Kind]:
    """Every reward that the job may name: the package's and the files'; raises UserError (see `load_kind`)."""
    return REWARDS | {name: load_kind(name, source) for name, source in files.plugins.items()}


def job_terms(job: Job, files: RewardFiles | None = None) -> tuple[Term, ...]:
    """The job's rewards, made, with their weights.

    Args:
        job: resolved.
        files: what its working directory holds; None: read it here.

    Raises:
        UserError: a name, a plugin or the calibration is wrong.
    """
    files = files or read_files(job)
    return build_terms(job.rewards, kinds(files), files.calibration.rewards if files.calibration else None)
