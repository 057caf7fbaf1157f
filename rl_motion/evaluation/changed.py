"""Which prompts changed most, and how they look: the paired change of every prompt, from what an evaluation kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rl_motion.evaluation.evaluate import BASE, TUNED
from rl_motion.evaluation.format import number
from rl_motion.motion.rotations import FloatArray


class Measured(NamedTuple):
    """One motion as an evaluation measured it."""

    split: str
    arm: str
    prompt_id: str
    text: str
    group: str
    sample: int
    oracle_success: float | None
    reward: float


@dataclass(frozen=True, eq=False)
class Kept:
    """What an evaluation left behind. joints: [F, J, 3] in metres of the first sample, by (split, arm, prompt id)."""

    rows: Sequence[Measured]
    joints: Mapping[tuple[str, str, str], FloatArray]
    fps: Mapping[str, float]
    """By split."""


@dataclass(frozen=True, slots=True)
class Change:
    """A prompt's mean change, tuned - base, over samples and runs; `success` is None where it was not judged."""

    prompt_id: str
    text: str
    success: float | None
    reward: float
    samples: int

    @property
    def order(self) -> tuple[float, float, str]:
        """Success first, the reward where that is the same, the id where all is."""
        return self.success or 0.0, self.reward, self.prompt_id

    @property
    def words(self) -> str:
        """Its figures."""
        success = "" if self.success is None else f"success {number(self.success, percent=True, sign=True)} points, "
        return (
            f"{success}reward {number(self.reward, sign=True)}; tuned - base, mean of {self.samples} pairs of motions"
        )


def changes(runs: Sequence[Kept], split: str) -> list[Change]:
    """Every prompt of a split that all runs have, what gained most first.

    Args:
        runs: of one job: same prompts, same noise.
        split: one of the report's.
    """
    by_prompt: dict[str, list[tuple[Measured, Measured]]] = {}
    for run in runs:
        arms = {(row.arm, row.prompt_id, row.sample): row for row in run.rows if row.split == split}
        for (arm, prompt_id, sample), before in arms.items():
            after = arms.get((TUNED, prompt_id, sample))
            if arm == BASE and after is not None:
                by_prompt.setdefault(prompt_id, []).append((before, after))
    return sorted((_change(pairs) for pairs in by_prompt.values()), key=lambda one: one.order, reverse=True)


def ends(found: Sequence[Change], most: int) -> tuple[list[Change], list[Change]]:
    """The best and the worst prompts, at most so many each and none twice; the worst first among the worst."""
    number_ = min(most, len(found) // 2) if len(found) > 1 else len(found)
    return list(found[:number_]), list(reversed(found[number_:]))[:number_]


def _change(pairs: Sequence[tuple[Measured, Measured]]) -> Change:
    success = [
        after.oracle_success - before.oracle_success
        for before, after in pairs
        if before.oracle_success is not None and after.oracle_success is not None
    ]
    return Change(
        pairs[0][0].prompt_id,
        pairs[0][0].text,
        sum(success) / len(success) if len(success) == len(pairs) else None,
        sum(after.reward - before.reward for before, after in pairs) / len(pairs),
        len(pairs),
    )
