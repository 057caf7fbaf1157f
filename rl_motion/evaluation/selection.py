"""Which prompts are examined, and in which units: the same ones whoever asks, whatever the order of the pool.

The three names of a report have one meaning each, whichever splits a job has for them: `held_out`, by default
target/test, is what neither the model nor post-training has seen; `original`, source/test, what must not be forgotten;
`train`, target/train, that whose captions post-training draws from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from rl_motion.config import EvaluationConfig, Job, UserError
from rl_motion.types import Prompt, Unit

SPLITS: Mapping[str, str] = dict(EvaluationConfig().splits.items())
"""The names, and the splits that they stand for by default."""


def draw(prompts: Sequence[Prompt], count: int, *, seed: int) -> tuple[Prompt, ...]:
    """Up to `count` prompts, spread over the groups as evenly as their sizes allow.

    Groups take turns, in an order that depends on the seed, and each gives its prompts in an order that
    depends on the seed; so the first few prompts are of different groups.

    Raises:
        UserError: no prompts, or two of them share an id.
    """
    if not prompts:
        raise UserError("got no prompts to evaluate; want at least one; check the split")
    if len({prompt.id for prompt in prompts}) != len(prompts):
        raise UserError(f"got {len(prompts)} prompts that share ids; want unique ones; remove the duplicates")
    groups: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: _order(seed, prompt.id)):
        groups.setdefault(prompt.group, []).append(prompt)
    turns = zip_longest(*(groups[name] for name in sorted(groups, key=lambda name: _order(seed, name))))
    return tuple(prompt for prompt in chain.from_iterable(turns) if prompt is not None)[:count]


def make_units(job: Job, prompts: Sequence[Prompt]) -> tuple[Unit, ...]:
    """The prompts as units of the size that training uses; the last may be smaller."""
    size, examined = job.train.prompts_per_unit, job.evaluation
    return tuple(
        Unit(
            seed=examined.seed,
            iteration=0,
            index=start // size,
            prompts=tuple(prompts[start : start + size]),
            samples_per_prompt=examined.samples_per_prompt,
        )
        for start in range(0, len(prompts), size)
    )


def _order(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
