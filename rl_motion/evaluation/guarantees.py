"""What an evaluation refuses, so that its figures mean something: a judge that was the goal, prompts that were read.

An evaluator whose weights a reward reads measures how well its own taste was met. A held-out prompt that training or
validation reads is none: not in the same words, and not as the same combination in other words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_motion.config import Job, UserError
from rl_motion.models.zoo import RETRIEVAL, locate
from rl_motion.rewards import CHECKPOINTS
from rl_motion.rewards.of_job import read_files
from rl_motion.types import Prompt

Combination = Callable[[str], Hashable]
"""What a text asks for, whatever its wording; raises ValueError where it cannot tell."""
WEIGHTS = "model.safetensors"
_JUDGES = re.compile(rb"evaluator|\bguo\b|rl_motion\.evaluation", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Seen:
    """The prompts that a job reads: those it trains with, and those by which it chooses a checkpoint.

    apart: ids of those that come from the embedded worlds' own train and val splits, which share no combination with a
    test split (and are in the words of another dialect, which this one's reading would misread).
    """

    trained: Sequence[Prompt] = ()
    validated: Sequence[Prompt] = ()
    apart: frozenset[str] = frozenset()


def refuse_goal(evaluator_sha256: str, job: Job) -> None:
    """Refuse an evaluator that one of the job's rewards reads.

    Of a plugin only its source can be looked at: one that speaks of evaluators is refused, whichever it means. What it
    imports from elsewhere is not looked at.

    Raises:
        UserError: names the reward.
    """
    weights = {reward.name: reward.model or CHECKPOINTS.get(reward.name) for reward in job.rewards}
    found = {name: weights_sha256(locate(model, RETRIEVAL)) for name, model in weights.items() if model is not None}
    goals = [name for name, sha256 in found.items() if sha256 == evaluator_sha256]
    goals += [name for name, source in read_files(job).plugins.items() if _JUDGES.search(source)]
    if goals:
        raise UserError(
            f"evaluation: got an evaluator that reward {goals[0]!r} reads too (sha256 {evaluator_sha256[:12]}); want "
            "one that was never optimised, as a reward judges its own goal too well; choose another reward or another "
            "evaluator"
        )


def weights_sha256(checkpoint: Path) -> str:
    """Hash of a checkpoint's weights, as an evaluator's `sha256` is of its own."""
    return hashlib.sha256((checkpoint / WEIGHTS).read_bytes()).hexdigest()


def unseen(prompts: Sequence[Prompt], split: str, seen: Seen, combination: Combination | None) -> list[Prompt]:
    """The prompts of a split that are new to the job, in order.

    Of `SOMETHING/val`, where settings are chosen, those that are not trained with; of any other split those that are
    not validated with either.

    Left out are combinations that training reads in other words. A text counts as such where it has no word that the
    split's prompts lack, so that a caption of real motion with more to it is not taken for one of its words.

    Raises:
        UserError: a prompt is read in the same words, or none is left.
    """
    read = [*seen.trained, *(() if split.endswith("/val") else seen.validated)]
    ids, texts = {prompt.id for prompt in read}, {_plain(prompt.text) for prompt in read}
    leaked = [prompt for prompt in prompts if prompt.id in ids or _plain(prompt.text) in texts]
    if leaked:
        raise UserError(
            f"evaluation: got {len(leaked)} prompts of {split} that the job reads too, such as {leaked[0].text[:60]!r}"
            "; want prompts that neither training nor validation has read, as figures of others say nothing of new "
            "ones; take them out of prompts.sources and prompts.validation"
        )
    foreign = {_plain(prompt.text) for prompt in read if prompt.id not in seen.apart}
    known = set() if combination is None else _combinations(foreign, prompts, combination)
    fresh = [prompt for prompt in prompts if not known or _asks(prompt.text, combination) not in known]
    if not fresh:
        raise UserError(
            f"evaluation: got no prompt of {split} whose combination training does not read in other words; want one "
            "at least; take such captions out of prompts.sources (rl-motion prompts build --exclude)"
        )
    return fresh


def _combinations(texts: set[str], prompts: Sequence[Prompt], combination: Combination) -> set[Hashable]:
    """What these texts ask for, of those that are in the words of the prompts."""
    words = {word for prompt in prompts for word in _plain(prompt.text).split()}
    found = {_asks(text, combination) for text in texts if words.issuperset(text.split())}
    return found - {None}


def _asks(text: str, combination: Combination | None) -> Hashable:
    try:
        return None if combination is None else combination(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Its words alone: no comma makes another prompt of it."""
    return " ".join(re.findall(r"\w+", text.casefold()))
