"""From a job to what does its work: plain functions, so that workers make their own where they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rl_motion.config import Job, UserError
from rl_motion.learner.rounds import Rounds
from rl_motion.prompts.curricula import Curriculum
from rl_motion.prompts.pool import PromptPool
from rl_motion.protocols import Algorithm, MotionPolicy
from rl_motion.types import AdapterState, Experience, Metrics, Motions, Prompt, Scored, Trajectory, Unit

if TYPE_CHECKING:
    from peft import PeftModel

    from rl_motion.evaluation.guarantees import Seen
    from rl_motion.evaluation.sentinels import Bands
    from rl_motion.models.text import Form, TextEncoder
    from rl_motion.rewards.of_job import RewardFiles

Decoder = Callable[[Trajectory], Motions]
"""A trajectory's final motion, un-normalised."""
Scorer = Callable[[Motions, Unit], Scored]
"""Every reward of a unit's motions, and their weighted sum, on the CPU."""


class LearnerLike(Protocol):
    """What the runtime asks of a learner."""

    @property
    def skipped(self) -> Sequence[str]:
        """Of the last update, a line for every optimiser step that was skipped."""

    def rounds(self, units: Sequence[Unit], own: Sequence[Experience], behaviour: AdapterState | None = None) -> Rounds:
        """One update from an iteration's units, of which it computes its own; audits before its first.

        `behaviour`: the adapter that they were sampled with, where it is an older one.
        """

    def state_dict_tensors(self) -> dict[str, Tensor]:
        """Everything the next step depends on, adapter included, as flat tensors."""

    def load_state_dict_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace it, strictly."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a learner worker holds: the policy, who changes it, and how its adapter is written."""

    policy: MotionPolicy
    learner: LearnerLike
    save_adapter: Callable[[Path], None]
    """Writes the adapter to publish, which is not the policy's own where the learner averages."""
    constants: Metrics = field(default_factory=dict)
    """What every iteration's metrics say of the policy beside what the learner returns."""


def build_policy(job: Job) -> MotionPolicy:
    """The job's model with a fresh adapter, as a policy."""
    return _adapted(job)[0]


def build_decoder(job: Job) -> Decoder:
    """Only what turns latents into motion: reward workers need neither adapter nor peft."""
    from rl_motion.models.device import device
    from rl_motion.models.zoo import load_denoiser
    from rl_motion.policies.of_job import decode

    return partial(decode, load_denoiser(job.model.name).to(device()))


def build_rewards(job: Job, files: RewardFiles | None = None) -> Scorer:
    """The job's rewards as one call; `files` is what they read from the working directory (None: read it here)."""
    from rl_motion.rewards.combine import score
    from rl_motion.rewards.of_job import job_terms

    terms = job_terms(job, files)

    def scored(motions: Motions, unit: Unit) -> Scored:
        found = score(terms, motions, unit)
        return replace(found, rewards=_on_cpu(found.rewards), total_B=found.total_B.cpu())

    return scored


def build_algorithm(job: Job, files: RewardFiles | None = None) -> Algorithm:
    """The job's algorithm; rewards are made where it first asks for them, from `files` as in `build_rewards`.

    Where it draws a module's first weights it draws the same in every process: torch's generator starts from
    `train.seed`, and goes on afterwards as if nothing had been drawn.
    """
    from rl_motion.algorithms import ALGORITHMS
    from rl_motion.rewards.combine import score
    from rl_motion.rewards.of_job import job_terms

    terms = cache(lambda: job_terms(job, files))

    def objective(motions: Motions, unit: Unit, noise_level_B: Tensor | None = None) -> Tensor:
        return score(terms(), motions, unit, noise_level_B).total_B

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.train.seed)
        return ALGORITHMS[job.algorithm.name](job.algorithm, objective)


def build_training(job: Job, files: RewardFiles | None = None) -> Training:
    """A policy and the learner around it; `files` for an algorithm that differentiates rewards."""
    from rl_motion.learner.learner import Learner
    from rl_motion.models.adapter import save_adapter

    policy, peft_model = _adapted(job)
    learner = Learner(policy, build_algorithm(job, files), job.train)

    def save(folder: Path) -> None:
        with learner.published():
            save_adapter(peft_model, folder, base_model_name=job.model.name)

    return Training(policy, learner, save, policy.constants)


def build_pool(job: Job) -> PromptPool:
    """The job's prompts: of pools and of the embedded world what is there for training, and text files.

    What the encoders do not read, and of pools what the model does not, is set aside, and counted in the pool.

    Raises:
        UserError: a source is none, or is not for training, or nothing of it can be read.
    """
    from rl_motion.runtime import checks
    from rl_motion.runtime.prompt_sources import read_source

    readers = [*checks.checkpoints(job).values()]
    sources, set_aside = {}, {}
    difficulty: dict[str, float] = {}
    for name in job.prompts.sources:
        given = read_source(name, "train", job.prompts.default_length, checks.frame_rate(job))
        sources[name], set_aside[name] = checks.readable(readers, given, name)
        difficulty |= {prompt.id: given.rows[prompt.id].difficulty for prompt in given.prompts if given.rows}
    curriculum = Curriculum(job.prompts, difficulty)
    pool = PromptPool(sources, job.prompts.sources, job.train.seed, curriculum, set_aside)
    pool.check(job.train)
    return pool


def build_validation(job: Job) -> dict[str, list[Prompt]]:
    """The prompts that the job validates with, source by source: of pools and of the embedded world what is there for
    validation, and text files.

    Those that the model or a reward does not read whole are left out.

    Raises:
        UserError: a source is none, or is not for validation, or nothing of it fits.
    """
    from rl_motion.data.names import SPLIT
    from rl_motion.runtime import checks
    from rl_motion.runtime.prompt_sources import read_source

    readers = [*checks.checkpoints(job).values()]
    found = {}
    for name in job.prompts.validation:
        given = read_source(name, "val", job.prompts.default_length, checks.frame_rate(job))
        if SPLIT.fullmatch(name):
            found[name] = checks.examined(job, name)
        else:
            found[name], _ = checks.readable(readers, given, name, "prompts.validation")
            checks.check_prompts(readers, found[name])
    return found


def seen_by(job: Job) -> Seen:
    """The prompts that the job reads, of which none may be held out.

    Raises:
        UserError: as `build_pool` and `build_validation`.
    """
    validation = build_validation(job) if job.evaluation.validate_every is not None else {}
    return _seen(job, build_pool(job), validation)


def _seen(job: Job, pool: PromptPool, validation: Mapping[str, Sequence[Prompt]]) -> Seen:
    from rl_motion.data.names import SPLIT
    from rl_motion.evaluation.guarantees import Seen

    named = [*((name, pool.sources[name]) for name in job.prompts.sources), *validation.items()]
    apart = frozenset(prompt.id for name, prompts in named if SPLIT.fullmatch(name) for prompt in prompts)
    return Seen(pool.prompts, [prompt for prompts in validation.values() for prompt in prompts], apart)


def check_job(job: Job) -> None:
    """Refuse what can be seen to be wrong without starting anything.

    Raises:
        UserError: a part of the job cannot work, or a prompt does not fit what reads it.
    """
    from rl_motion.evaluation.bench import judge_sha256
    from rl_motion.evaluation.guarantees import refuse_goal, unseen
    from rl_motion.models.device import stays_on_cpu
    from rl_motion.runtime import checks
    from rl_motion.runtime.validate import validation_units

    stays_on_cpu()  # refuses another word in its variable
    checks.check_parts(job)
    pool = build_pool(job)
    checks.check_prompts([*checks.checkpoints(job).values()], pool.prompts)
    validation = {}
    if job.evaluation.validate_every is not None:
        validation = build_validation(job)
        validation_units(job, validation, pool)
        if find_bands(job) is None and job.sentinels.pause:
            raise UserError(
                f"sentinels.pause: got bands {job.sentinels.bands!r} of another frame rate than {job.model.name!r} has "
                f"({checks.frame_rate(job):g} fps), by which nothing is judged; want bands of its rate; set "
                "sentinels.bands, or leave pause out"
            )
    seen = _seen(job, pool, validation)
    for name, split in job.evaluation.examined.items():
        examined = checks.examined(job, split)
        if (judge := judge_sha256(job, split)) is not None:
            refuse_goal(judge, job)
        if name != "train":
            unseen(examined, split, seen, None)


def measure_sentinels(motions: Motions, unit: Unit) -> dict[str, Tensor]:
    """Every sentinel [B] of a unit's motions, by name, on the CPU."""
    from rl_motion.evaluation.sentinels import of_unit

    return _on_cpu(of_unit(motions, unit.samples_per_prompt))


def find_bands(job: Job) -> Bands | None:
    """Where the sentinels of honest runs stay; None where the job has no bands, or those of another frame rate.

    Raises:
        UserError: the bands that the job names are not there.
    """
    from rl_motion.evaluation.sentinels import bands_at
    from rl_motion.runtime import checks

    return bands_at(job.sentinels.bands, checks.frame_rate(job))


def find_weights(job: Job) -> dict[str, str]:
    """SHA-256 of the frozen weights that the job's numbers rest on, by role."""
    from rl_motion.runtime import checks

    return checks.weights_sha256(job)


def find_text_readers(job: Job) -> list[tuple[TextEncoder, Form]]:
    """What reads prompts for the job's checkpoints and keeps on disk what it says of them."""
    from rl_motion.models.zoo import text_reader
    from rl_motion.runtime import checks

    found = [text_reader(path) for path in dict.fromkeys(checks.checkpoints(job).values())]
    return [reader for reader in found if reader is not None]


class BuildRewards(Protocol):
    """Makes a job's rewards. Asked for `files` only where the job names plugins or a calibration."""

    def __call__(self, job: Job, files: RewardFiles | None = None) -> Scorer:
        """The job's rewards as one call."""


class BuildTraining(Protocol):
    """Makes what a learner worker holds. Asked for `files` as `BuildRewards` is."""

    def __call__(self, job: Job, files: RewardFiles | None = None) -> Training:
        """The policy and the learner around it."""


@dataclass(frozen=True)
class Workshop:
    """How a run's parts are made. Module-level functions only: it travels to Ray workers by reference."""

    check: Callable[[Job], None] = check_job
    policy: Callable[[Job], MotionPolicy] = build_policy
    decoder: Callable[[Job], Decoder] = build_decoder
    rewards: BuildRewards = build_rewards
    training: BuildTraining = build_training
    pool: Callable[[Job], PromptPool] = build_pool
    validation: Callable[[Job], Mapping[str, Sequence[Prompt]]] = build_validation
    weights: Callable[[Job], dict[str, str]] = find_weights
    sentinels: Callable[[Motions, Unit], Mapping[str, Tensor]] = measure_sentinels
    bands: Callable[[Job], Bands | None] = find_bands
    text_readers: Callable[[Job], Sequence[tuple[TextEncoder, Form]]] = find_text_readers

    def carrying(self, files: RewardFiles) -> Workshop:
        """The same, where workers find what the rewards read from the working directory in what reaches them."""
        if not files.sha256:
            return self
        return replace(self, rewards=partial(self.rewards, files=files), training=partial(self.training, files=files))


def _adapted(job: Job) -> tuple[MotionPolicy, PeftModel]:
    from rl_motion.models.adapter import attach_lora
    from rl_motion.models.device import device
    from rl_motion.models.zoo import load_denoiser
    from rl_motion.policies.of_job import make_policy

    denoiser = load_denoiser(job.model.name)
    peft_model = attach_lora(denoiser.network, job.adapter, seed=job.train.seed)
    denoiser.to(device())  # with the adapter, whose first weights are drawn on the CPU
    return make_policy(denoiser, job.policy, replay_rows=job.train.replay_rows), peft_model


def _on_cpu(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value_B.cpu() for name, value_B in columns.items()}
