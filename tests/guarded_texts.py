"""A run whose workers may not encode a text: what they need of it has to be in the cache beside the model.

Module-level functions only, so that Ray workers can import them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rl_motion.config import Job
from rl_motion.models.text import TextEncoder
from rl_motion.models.text_cache import FOLDER
from rl_motion.protocols import MotionPolicy
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Decoder, Training, Workshop, build_decoder, build_policy, build_training
from rl_motion.runtime.frontend import Means
from tests import fakes


def cache_of(job: Job) -> Path:
    return Path(job.model.name).parent / "cache"


def guard(job: Job) -> Job:
    """From now on this process neither loads an encoder's weights nor encodes a text."""

    def refuse(self: TextEncoder) -> Any:
        raise AssertionError(f"a worker loads the weights of {self.directory.name}")

    os.environ[FOLDER] = str(cache_of(job))
    TextEncoder._model = property(refuse)  # type: ignore[assignment]
    return job


def policy(job: Job) -> MotionPolicy:
    return build_policy(guard(job))


def decoder(job: Job) -> Decoder:
    return build_decoder(guard(job))


def training(job: Job, files: RewardFiles | None = None) -> Training:
    return build_training(guard(job), files)


WORKSHOP = Workshop(
    check=fakes.check,
    policy=policy,
    decoder=decoder,
    rewards=fakes.rewards,
    training=training,
    pool=fakes.pool,
    weights=fakes.weights,
)
MEANS = Means(WORKSHOP, fakes.evaluate)
EMPTY = Means(Workshop(**{**vars(WORKSHOP), "text_readers": fakes.text_readers}), fakes.evaluate)
"""Nobody fills the cache."""
