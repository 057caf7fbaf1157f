"""What can be seen to be wrong with a job before anything starts, and which weights its numbers rest on.

Reads configurations and tokenizers; builds no network.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rl_motion.algorithms import ALGORITHMS, refuse_unmet, refuse_unread
from rl_motion.config import Job, RewardConfig, UserError, nearest
from rl_motion.data.names import SPLIT
from rl_motion.models.zoo import DENOISERS, RETRIEVAL, CheckpointConfig, broken, locate, text_encoder_of
from rl_motion.policies.of_job import check_policy
from rl_motion.prompts.pool import MAX_FRAMES
from rl_motion.protocols import Need
from rl_motion.rewards import CHECKPOINTS
from rl_motion.rewards.calibration import PROMPTS, refuse_other
from rl_motion.rewards.combine import check_names
from rl_motion.rewards.kind import forms, reads
from rl_motion.rewards.of_job import kinds, read_files
from rl_motion.runtime import store_uri
from rl_motion.runtime.build import build_algorithm, build_pool
from rl_motion.runtime.prompt_sources import Source
from rl_motion.tracking.mlflow_tracker import check_uri
from rl_motion.types import MotionForm, Prompt

T = TypeVar("T")
TOO_LONG = "of more frames than the model or a reward reads (rl-motion prompts build --max-frames)"
TOO_MANY = "of more tokens than the encoder reads"
UNKNOWN = "without a word that the encoder knows"
"""Why a prompt is set aside."""


def check_parts(job: Job) -> None:
    """Refuse a model, adapter, policy, reward, algorithm or tracking that cannot work, or not with the others.

    Raises:
        UserError: names what to change.
    """
    check_uri(job.tracking.mlflow_uri)
    store_uri.check_uri(job.runtime.commits_uri)
    path = locate(job.model.name, DENOISERS)
    config = _config(path)
    gives = check_policy(job.model.name, config, job.policy)
    groups = getattr(DENOISERS[config.kind][0], "adapter_targets", {})
    if not job.adapter.targets or not groups.keys() >= set(job.adapter.targets):
        raise UserError(
            f"adapter.targets: got {list(job.adapter.targets)}; want at least one, all of them among {sorted(groups)}, "
            f"which the networks of kind {config.kind!r} have; correct it in the job"
        )
    differentiable = _check_rewards(job, gives.form)
    offered: frozenset[Need] = gives.offers | {"reward_gradient"} if differentiable else gives.offers
    name = job.algorithm.name
    if name not in ALGORITHMS:
        raise UserError(
            f"algorithm.name: got {name[:60]!r}; want one of {sorted(ALGORITHMS)}; "
            f"{nearest(name, ALGORITHMS, 'correct it in the job')}"
        )
    algorithm = build_algorithm(job)
    refuse_unmet(name, algorithm.needs, offered)
    refuse_unread(job.algorithm, algorithm.reads)


def check_prompts(checkpoints: Sequence[Path], prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that are too long, as motion or as text, for a checkpoint that reads them.

    Raises:
        UserError: names the first such prompt and the limit.
    """
    for path in checkpoints:
        frames, one_length = _max_frames(path), _reads_one_length(path)
        for prompt in prompts:
            if one_length and prompt.length != prompts[0].length:
                raise UserError(
                    f"got prompts of {prompts[0].length} and of {prompt.length} frames; want one length, as "
                    f"{path.name} sees padded frames; give all the same or choose a model with mask_frames"
                )
            if prompt.length > frames:
                raise UserError(
                    f"got {prompt.length} frames for {prompt.text[:60]!r}; want at most {frames}, which is what "
                    f"{path.name} reads; shorten it"
                )
        encoder = text_encoder_of(path, _config(path))
        found = _read_by(path, [prompt.text for prompt in prompts])
        for text, tokens in found.long.items():
            raise UserError(
                f"got a prompt of {tokens} tokens ({text[:60]!r}...); want at most {found.limit}, which is what "
                f"{encoder.name} reads; shorten it or split it into several prompts"
            )


def readable(
    checkpoints: Sequence[Path], source: Source, name: str, key: str = "prompts.sources"
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts whose texts the encoders of all these checkpoints read whole, in order, and why others are set aside.

    Of a pool or a data set, which know nothing of the job's model, prompts of more frames than a checkpoint reads are
    set aside too.

    Args:
        checkpoints: that read prompts.
        source: whose prompts.
        name: of the source.
        key: of the job, which has it.

    Returns:
        The prompts, and how many are set aside, by reason.

    Raises:
        UserError: none can be read.
    """
    kept, reasons = source.prompts, Counter[str]()
    for path in checkpoints:
        encoder, frames = text_encoder_of(path, _config(path)), _max_frames(path) if source.any_length else MAX_FRAMES
        found = _read_by(path, [prompt.text for prompt in kept])
        why = {
            prompt.id: TOO_LONG if prompt.length > frames else TOO_MANY if prompt.text in found.long else UNKNOWN
            for prompt in kept
            if prompt.length > frames or prompt.text in found.long or prompt.text in found.unknown
        }
        kept = [prompt for prompt in kept if prompt.id not in why]
        reasons.update(why.values())
        if not kept:
            raise UserError(
                f"{key}: got {len(source.prompts)} prompts in {name!r}, of which none can be read "
                f"({', '.join(f'{count}: {reason}' for reason, count in reasons.items())}); want at most {found.limit} "
                f"tokens, at most {frames} frames and a word that {encoder.name} knows; shorten them, or choose others"
            )
    return kept, dict(reasons)


def examined(job: Job, split: str) -> list[Prompt]:
    """The prompts of a split that the job's model and rewards read whole, for evaluation: of the embedded world, or of
    the data set that the job is evaluated on.

    Raises:
        UserError: that is none of them.
    """
    from rl_motion.data.worlds import prompts
    from rl_motion.evaluation.bench import dataset_prompts

    own = SPLIT.fullmatch(split) or job.evaluation.data is None
    kept = prompts(split, frame_rate(job)) if own else dataset_prompts(job, split, frame_rate(job))
    for path in checkpoints(job).values():
        frames = _max_frames(path)
        found = _read_by(path, [prompt.text for prompt in kept])
        kept = [prompt for prompt in kept if prompt.length <= frames and prompt.text not in found.long]
        if _reads_one_length(path):
            [(usual, _)] = Counter(prompt.length for prompt in kept).most_common(1) or [(0, 0)]
            kept = [prompt for prompt in kept if prompt.length == usual]
        if not kept:
            raise UserError(
                f"evaluation: got no prompt of {split} with at most {found.limit} tokens and {frames} frames, which is "
                f"what {path.name} reads; want one at least; choose another model or reward"
            )
    return kept


def frame_rate(job: Job) -> float:
    """Frames per second of the job's model, in which the lengths of prompts count."""
    return _config(locate(job.model.name, DENOISERS)).fps


def checkpoints(job: Job) -> dict[str, Path]:
    """The directories of every checkpoint that a job's numbers rest on, by what it is there for.

    Raises:
        UserError: one is missing.
    """
    found = {f"reward.{r.name}": _reward_checkpoint(r) for r in job.rewards if r.name in CHECKPOINTS}
    return {"model": locate(job.model.name, DENOISERS), **found}


def directories(job: Job) -> dict[str, Path]:
    """Those checkpoints and their text encoders, by what they are there for."""
    found: dict[str, Path] = {}
    for role, path in checkpoints(job).items():
        found |= {role: path, f"{role}.text_encoder": text_encoder_of(path, _config(path))}
    return found


def weights_sha256(job: Job) -> dict[str, str]:
    """SHA-256 of those checkpoints and of their text encoders, model cards left out."""
    return {role: _digest(path) for role, path in directories(job).items()}


def _check_rewards(job: Job, gives: MotionForm) -> bool:
    """Refuse rewards that cannot be found, do not read what the model gives, or have nothing to compare.

    Returns:
        Whether all of them are differentiable.
    """
    files = read_files(job)
    known = kinds(files)
    check_names(job.rewards, known)
    native = True
    for reward in job.rewards:
        name, kind = reward.name, known[reward.name]
        if reward.model is not None and name not in CHECKPOINTS:
            raise UserError(
                f"rewards: got model={reward.model!r} for {name!r}, which reads no weights; want it with "
                f"{' or '.join(sorted(CHECKPOINTS))} alone; leave it out"
            )
        accepts = kind.accepts
        if name in CHECKPOINTS:
            read = _config(_reward_checkpoint(reward))
            same = (read.representation, read.fps) == (gives.representation, frame_rate(job))
            accepts, native = reads(read.representation), native and same
        if gives not in accepts:
            raise UserError(
                f"rewards: got {name!r}, which reads {forms(accepts)}; want one that reads what model "
                f"{job.model.name!r} gives, {gives}; choose another reward or another model"
            )
        if known[name].contrasts and job.train.prompts_per_unit < 2:
            raise UserError(
                f"rewards: got {name!r} with train.prompts_per_unit={job.train.prompts_per_unit}; want at least 2, as "
                "it compares a unit's prompts; raise it, or choose 'tmr'"
            )
        for key, count in _examined(job).items():
            if known[name].contrasts and count % job.train.prompts_per_unit == 1:
                raise UserError(
                    f"rewards: got {name!r} with evaluation.{key}={count} in units of {job.train.prompts_per_unit} "
                    "(train.prompts_per_unit), which leaves one alone; want none, as it compares a unit's prompts; "
                    "change one of them"
                )
    if files.calibration is not None:
        inputs = weights_sha256(job) | files.plugins_sha256 | {PROMPTS: build_pool(job).sha256}
        refuse_other(files.calibration, job, inputs)
    # What was converted has left the graph.
    return native and all(known[reward.name].differentiable for reward in job.rewards)


def _reward_checkpoint(reward: RewardConfig) -> Path:
    return locate(reward.model or CHECKPOINTS[reward.name], RETRIEVAL)


def _examined(job: Job) -> dict[str, int]:
    """How many prompts evaluation takes, and validation where there is any, by key of `evaluation`."""
    counts = {"prompts": job.evaluation.prompts}
    if job.evaluation.validate_every is not None:
        counts["validation_prompts"] = job.evaluation.validation_prompts
    return counts


def _config(path: Path) -> CheckpointConfig:
    try:
        return CheckpointConfig.model_validate_json((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise broken(path, error) from error


def _max_frames(path: Path) -> int:
    if _config(path).kind in DENOISERS:
        return _of_shape(path, lambda shape: int(shape.max_frames))
    return _of_shape(path, lambda shape: int(shape.max_len) - 2)  # less the two distribution tokens


def _reads_one_length(path: Path) -> bool:
    """Whether padding would reach a motion's own frames: the network sees it, and has no canvas of its own."""
    config = _config(path)
    if config.kind not in DENOISERS:
        return False
    face = DENOISERS[config.kind][2]
    return _of_shape(path, lambda shape: not shape.mask_frames and face.canvas_of(shape) is None)


def _of_shape(path: Path, ask: Callable[[Any], T]) -> T:
    config = _config(path)
    try:
        kind = DENOISERS[config.kind] if config.kind in DENOISERS else RETRIEVAL[config.kind]
        return ask(kind[1](**config.network))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise broken(path, error) from error


class _Reading(NamedTuple):
    """What a checkpoint's encoder makes of texts: the tokens that it reads, how many those have that have more and are
    not cut, and the texts of which it knows no word."""

    limit: int
    long: dict[str, int]
    unknown: set[str]


def _read_by(path: Path, texts: Sequence[str]) -> _Reading:
    config = _config(path)
    limit, tokens, unknown = _tokens(text_encoder_of(path, config), tuple(dict.fromkeys(texts)))
    return _Reading(
        limit,
        {text: count for text, count in tokens.items() if count > limit and config.text_cut is None},
        unknown,
    )


@lru_cache(maxsize=8)
def _tokens(encoder: Path, texts: tuple[str, ...]) -> tuple[int, dict[str, int], set[str]]:
    """What an encoder reads at most, how many tokens these texts have, and those of which it knows no word.

    Kept, as model and rewards often share an encoder, and as a job is checked before its pool is built again.
    """
    from transformers import AutoConfig, AutoTokenizer

    local: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(encoder, **local)
        whole: Any = AutoConfig.from_pretrained(encoder, **local)
        limit = int(min(tokenizer.model_max_length, whole.get_text_config().max_position_embeddings))
    except Exception as error:  # tokenizers raises nothing narrower
        raise broken(encoder, error) from error
    found = dict(zip(texts, tokenizer(list(texts), verbose=False)["input_ids"], strict=True))
    known = _known(tokenizer, {token for ids in found.values() for token in ids})
    counts = {text: len(ids) for text, ids in found.items()}
    return limit, counts, {text for text, ids in found.items() if known.isdisjoint(ids)}


def _known(tokenizer: Any, tokens: Collection[int]) -> set[int]:
    """Those that stand for a word, or a part of one: none that is special (the unknown word is) or mere punctuation."""
    special = set(tokenizer.all_special_ids)
    words = [token for token in tokens if token not in special]
    texts = tokenizer.convert_ids_to_tokens(words)
    return {token for token, text in zip(words, texts, strict=True) if any(map(str.isalnum, text))}


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix != ".md" and not path.name.startswith("."):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
