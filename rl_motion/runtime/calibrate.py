"""Measure a job's rewards on its base model's motions, in this process, before any training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch

from rl_motion.config import Job
from rl_motion.prompts.pool import PromptPool
from rl_motion.rewards.calibration import PROMPTS, Calibration, spreads
from rl_motion.rewards.combine import refuse_non_finite
from rl_motion.rewards.of_job import read_files
from rl_motion.runtime import frontend
from rl_motion.types import Unit


def calibrate(job: Job, motions: int) -> Calibration:
    """Sample as training will and score: the units of the first iterations, with the fresh adapter, which is the base.

    Args:
        job: its `calibration`, if any, is left aside.
        motions: at least so many, in whole units.

    Raises:
        UserError: a part of the job cannot work, or a reward does not vary.
        RunFault: a reward is not finite.
    """
    workshop = frontend.MEANS.workshop
    job = job.model_copy(update={"calibration": None})
    workshop.check(job)
    files = read_files(job)
    pool = frontend.pool_of(job)
    weights = workshop.weights(job) | files.sha256 | {PROMPTS: pool.sha256}
    torch.set_num_threads(job.runtime.threads)
    policy, decode = workshop.policy(job), workshop.decoder(job)
    score = workshop.carrying(files).rewards(job)
    values: dict[str, list[float]] = {}
    with torch.no_grad():
        for unit in _units(pool, job, motions):
            scored = refuse_non_finite(score(decode(policy.rollout(unit)), unit), unit)
            for name, reward_B in scored.rewards.items():
                values.setdefault(name, []).extend(reward_B.double().tolist())
    return Calibration(
        model=job.model.name,
        weights_sha256=weights,
        policy=job.policy,
        prompts_per_unit=job.train.prompts_per_unit,
        seed=job.train.seed,
        rewards=spreads(values),
    ).sealed()


def _units(pool: PromptPool, job: Job, motions: int) -> Iterator[Unit]:
    done = 0
    for iteration in count():
        for unit in pool.draw(iteration, job.train):
            if done >= motions:
                return
            yield unit
            done += unit.batch
