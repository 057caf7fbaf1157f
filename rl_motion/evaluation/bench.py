"""What the arms are examined with: where prompts come from, who judges, what rewards, and real motion beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from rl_motion.config import Job
from rl_motion.data import worlds
from rl_motion.evaluation.embedding import MotionEvaluator, Real
from rl_motion.evaluation.guarantees import Combination, Seen, weights_sha256
from rl_motion.evaluation.oracle_success import Judging
from rl_motion.evaluation.sentinels import Bands, bands_at
from rl_motion.models.device import device
from rl_motion.models.evaluator import Evaluator
from rl_motion.models.guo import GuoConfig
from rl_motion.models.zoo import DENOISERS, EVALUATORS, CheckpointConfig, EvaluatorConfig, load_evaluator, locate
from rl_motion.prompts.pool import MAX_FRAMES
from rl_motion.rewards.combine import Term
from rl_motion.rewards.of_job import job_terms
from rl_motion.types import Motions, Normalisation, Prompt

if TYPE_CHECKING:
    from rl_motion.data.datasets import Dataset

REAL_SEED = 40_000
"""Of the real motion that is compared with: no model and no evaluator was trained on it."""
REAL_PER_PROMPT = 3
"""For two halves; where an action's share of the combinations is small, the halves are somewhat smaller than the
prompts are many."""


@dataclass(frozen=True, slots=True)
class Bench:
    """By split: its prompts, who judges success, which evaluator embeds, and real motion for some of its prompts.

    judging: None for splits that nobody can judge.
    evaluator: None where there is none; without it the field's metrics are left out.
    real: motion to compare with, of the prompts' actions; None where there is none.
    combination: what a text asks for, whatever its wording; None: only ids and texts are compared.
    seen: what the job has read, of which nothing may be evaluated.
    bands: where the sentinels of honest runs stay; None: they are measured and not judged.
    """

    prompts: Callable[[str], Sequence[Prompt]]
    terms: Sequence[Term]
    judging: Callable[[str], Judging | None] = lambda split: None
    evaluator: Callable[[str], MotionEvaluator | None] = lambda split: None
    real: Callable[[str, Sequence[Prompt]], Real | None] = lambda split, prompts: None
    combination: Callable[[str], Combination | None] = lambda split: None
    seen: Seen = field(default_factory=Seen)
    bands: Bands | None = None


def embedded_bench(job: Job) -> Bench:
    """The embedded worlds: prompts, oracle, evaluators and real motion of each split's own; the job's own rewards."""
    config = CheckpointConfig.model_validate_json((locate(job.model.name, DENOISERS) / "config.json").read_text())
    return Bench(
        prompts=lambda split: worlds.prompts(split, config.fps),
        terms=job_terms(job),
        judging=judging_of,
        evaluator=cache(evaluator_of),
        real=real_of,
        combination=lambda split: worlds.world_of(split).read,
        bands=bands_at(job.sentinels.bands, config.fps),
    )


def bench_of(job: Job) -> Bench:
    """What the job is evaluated with: its data set, or the embedded worlds."""
    return embedded_bench(job) if job.evaluation.data is None else dataset_bench(job)


def dataset_bench(job: Job) -> Bench:
    """An imported data set: captions of its `test`, the real motion there, and an evaluator where the job names one.

    Nobody judges success: there are no rules for what people wrote.
    """
    from rl_motion.data.datasets import Dataset

    assert job.evaluation.data is not None
    config = CheckpointConfig.model_validate_json((locate(job.model.name, DENOISERS) / "config.json").read_text())
    judge = None if job.evaluation.evaluator is None else load_evaluator(job.evaluation.evaluator).to(device())
    dataset = Dataset.open(job.evaluation.data)
    return Bench(
        prompts=lambda split: dataset_prompts(job, split, config.fps),
        terms=job_terms(job),
        evaluator=lambda split: judge,
        real=lambda split, prompts: None if judge is None else real_windows(dataset, split, judge),
        bands=bands_at(job.sentinels.bands, config.fps),
    )


def dataset_prompts(job: Job, split: str, fps: float) -> list[Prompt]:
    """The prompts of a split of the job's data set, no longer than its evaluator reads."""
    from rl_motion.data.datasets.captions import examined_prompts

    assert job.evaluation.data is not None
    longest = float(MAX_FRAMES)
    if job.evaluation.evaluator is not None:
        content = (locate(job.evaluation.evaluator, EVALUATORS) / "config.json").read_text(encoding="utf-8")
        config = EvaluatorConfig.model_validate_json(content)
        longest = GuoConfig(**config.network).max_frames * fps / config.fps
    return examined_prompts(job.evaluation.data, split, fps, int(longest))


def real_windows(dataset: Dataset, split: str, judge: Evaluator) -> Real:
    """Captioned real motion of a split, every window once, with its first caption; all of one group, as the prompts
    of a data set are."""
    from rl_motion.data.datasets.windows import Windows

    windows = Windows(dataset.split(split), judge.guo.config.max_frames)
    kept = windows.one_each()
    return Real(
        Motions(
            windows.rows()[kept],
            windows.length_N[kept],
            dataset.info.fps,
            dataset.info.representation,
            Normalisation.NONE,
        ),
        [windows.captions[int(number)] for number in windows.caption_N[kept]],
        [""] * len(kept),
    )


def evaluator_of(split: str) -> MotionEvaluator:
    """The packaged one of the split's world."""
    return load_evaluator(worlds.world_of(split).evaluator).to(device())


def judge_sha256(job: Job, split: str) -> str | None:
    """Of the weights of the evaluator that judges a split for this job, which are not loaded; None: there is none."""
    if job.evaluation.data is None:
        return evaluator_sha256(split)
    return None if job.evaluation.evaluator is None else weights_sha256(locate(job.evaluation.evaluator, EVALUATORS))


def evaluator_sha256(split: str) -> str:
    """Of the weights of that evaluator, which are not loaded."""
    return weights_sha256(locate(worlds.world_of(split).evaluator, EVALUATORS))


def judging_of(split: str) -> Judging:
    """The oracle, for captions of the split's world and every body that it knows."""
    world = worlds.world_of(split)
    return Judging(lambda representation: partial(world.success, representation), worlds.JUDGED)


def real_of(split: str, prompts: Sequence[Prompt]) -> Real:
    """Captioned motion of the split's world, all combinations alike; the actions are the claims'."""
    world, (domain, part) = worlds.world_of(split), split.split("/")
    halves = [f"source/{part}", f"target/{part}"] if domain == "first" else [split]
    number = -(-REAL_PER_PROMPT * len(prompts) // len(halves))
    parts = [worlds.clips(half, number, REAL_SEED) for half in halves]
    features_NFD = np.concatenate([clips.features_NFD for clips in parts])
    length_N = np.concatenate([clips.length_N for clips in parts])
    return Real(
        Motions(
            torch.from_numpy(features_NFD),
            torch.from_numpy(length_N),
            world.fps,
            world.representation,
            Normalisation.NONE,
        ),
        [caption for clips in parts for caption in clips.captions],
        [claim.action for clips in parts for claim in clips.claims],
    )
