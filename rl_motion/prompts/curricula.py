"""Which of a source's prompts an iteration draws: one function per curriculum, a visible dict of them.

Every draw is without replacement and a function of its arguments: of (seed, source, iteration) and, for `signal`, of
what the ledger knew when the iteration was drawn.

Legend: N prompts of a source, in its order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_motion.config.schema import PromptsConfig
from rl_motion.types import Prompt

FLOOR = 0.1
"""Of a weight of `signal`, in means of the source: how often a prompt comes that teaches nothing."""
OPTIMISM = 2.0
"""What `signal` expects of a prompt that was never drawn, in means of the source."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Which one, with what it reads: `difficulty` is 0 to 1 by prompt id, where it is known."""

    settings: PromptsConfig = field(default_factory=PromptsConfig)
    difficulty: Mapping[str, float] = field(default_factory=dict)

    def draw(self, draw: Draw) -> list[Prompt]:
        """Prompts of a source, all different; in `difficulty` all of them have one."""
        return CURRICULA[self.settings.curriculum](self, draw)


@dataclass(frozen=True, slots=True)
class Draw:
    """What an iteration asks of a source.

    seed: of the job. source: its name. prompts: all of it. count: how many, `len(prompts)` at most. spread: the
    smoothed standard deviation of the rewards that one prompt's samples get, by prompt id; prompts that never taught
    are not in it.
    """

    seed: int
    source: str
    prompts: Sequence[Prompt]
    iteration: int
    count: int
    spread: Mapping[str, float]


def uniform(curriculum: Curriculum, draw: Draw) -> list[Prompt]:
    """Shuffled anew for each epoch, which is as many whole iterations as the source lasts; none comes twice in it."""
    epoch, turn = divmod(draw.iteration, len(draw.prompts) // draw.count)
    order = _random(f"{draw.seed}/{draw.source}/{epoch}", len(draw.prompts)).argsort()
    return [draw.prompts[i] for i in order[turn * draw.count : (turn + 1) * draw.count]]


def difficulty(curriculum: Curriculum, draw: Draw) -> list[Prompt]:
    """Easiest first: iteration i draws from the easiest s(i) N prompts, all of them equally likely.

    s(i) = start + (1 - start) min(1, i / iterations), with `curriculum_start` and `curriculum_iterations`; ties go to
    the earlier prompt. Once it is everything, as `uniform`.
    """
    start = curriculum.settings.curriculum_start
    grown = min(1.0, draw.iteration / curriculum.settings.curriculum_iterations)
    admitted = max(draw.count, math.ceil((start + (1 - start) * grown) * len(draw.prompts)))
    if admitted >= len(draw.prompts):
        return uniform(curriculum, draw)
    easiest_first = sorted(draw.prompts, key=lambda prompt: curriculum.difficulty[prompt.id])
    order = _random(f"{draw.seed}/{draw.source}/iteration {draw.iteration}", admitted).argsort()
    return [easiest_first[i] for i in order[: draw.count]]


def signal(curriculum: Curriculum, draw: Draw) -> list[Prompt]:
    """Prompts whose samples differ in reward come more often: what scores alike has no advantage, and teaches nothing.

    A prompt's weight is w = FLOOR + s / mean(s), s its `spread` and the mean over the source's prompts that have one;
    FLOOR + OPTIMISM where it never taught. The draw is the `count` smallest of -log(u) / w, u uniform and keyed by
    (seed, source, iteration, prompt) as noise is: weighted sampling without replacement (Efraimidis & Spirakis 2006,
    doi:10.1016/j.ipl.2005.11.003, algorithm A, in logarithms).
    """
    spread = [draw.spread.get(prompt.id) for prompt in draw.prompts]
    known = [s for s in spread if s is not None]
    mean = sum(known) / len(known) if known else 0.0
    weight_N = [FLOOR + (OPTIMISM if s is None else s / mean if mean > 0 else 0.0) for s in spread]
    key = f"{draw.seed}/{draw.source}/iteration {draw.iteration}"
    arrival_N = [-math.log(_unit(f"{key}/{p.id}")) / w for p, w in zip(draw.prompts, weight_N, strict=True)]
    return [draw.prompts[i] for i in sorted(range(len(arrival_N)), key=arrival_N.__getitem__)[: draw.count]]


CURRICULA: dict[str, Callable[[Curriculum, Draw], list[Prompt]]] = {
    "uniform": uniform,
    "difficulty": difficulty,
    "signal": signal,
}


def _random(key: str, count: int) -> np.ndarray:
    """Uniform numbers [count]. Philox: the one numpy generator whose stream is fixed by its key alone, everywhere."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big"))).random(count)


def _unit(key: str) -> float:
    """A uniform number strictly between 0 and 1."""
    return ((int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 11) + 0.5) * 2.0**-53
