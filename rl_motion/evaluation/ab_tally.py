"""What people preferred, with intervals that do not flatter.

The share is that of the second arm among decided votes (no difference decides nothing). Two intervals: Wilson's
(1927), which takes every vote for a draw of its own, and a bootstrap that draws people and prompts anew, each with
replacement, as votes of one person or on one prompt resemble one another (the pigeonhole bootstrap: Owen 2007, Annals
of Applied Statistics 1). A preference is claimed where both exclude one half. One person alone shows nothing of others:
of fewer than two who decided there is neither a bootstrap nor a claim. The sign test is over prompts: each
counts once, for the arm that more people preferred on it.

Legend: R raters, P prompts, N resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.ab import QUESTIONS, Answers, Key, Question, votes_of
from rl_motion.evaluation.format import number
from rl_motion.evaluation.markdown import cell
from rl_motion.evaluation.statistics import LEVEL, RESAMPLES

CONVENTIONS = (
    "share: of decided votes; Wilson's 95 % interval takes every vote for a draw of its own, the bootstrap "
    f"({RESAMPLES} resamples) draws people and prompts anew; a preference is claimed where both exclude 50 %, and "
    "never of fewer than two people who decided: one person alone shows nothing of others",
    "sign test: over prompts, each for the arm that more people preferred on it; two-sided, ties left out",
    "again: answers to the repeated pair, its sides exchanged, that chose the same motion; it counts for nothing else",
)

Ends = tuple[float, float]
_SEED = 0
"""Of the bootstrap: the same answers give the same interval."""


@dataclass(frozen=True, slots=True)
class Count:
    """Votes on one question, of one rater or of all.

    share: of `second` among the decided; None where nobody decided. wilson, bootstrap: its intervals, the latter None
    where one prompt alone was decided, or by one person alone. prompts_for, prompts_against: by majority; sign_p: the
    two-sided sign test.
    """

    second: int
    first: int
    same: int
    share: float | None
    wilson: Ends | None
    bootstrap: Ends | None
    prompts_for: int
    prompts_against: int
    sign_p: float
    words: str


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The repeated pair: how often an answer was the same motion again, of how often both were given."""

    same_again: int
    of: int


@dataclass(frozen=True, slots=True)
class Result:
    """One question: overall, by rater, and how steady everybody was."""

    overall: Count
    raters: Mapping[str, Count]
    steady: Mapping[str, Steadiness]


def tally(answers: Sequence[Answers], key: Key) -> dict[str, Result]:
    """The result of every question, by its name; the repeated pair counts for steadiness alone."""
    questions: tuple[Question, ...] = ("realism", "adherence")
    return {question: _result(votes_of(answers, key, question), key) for question in questions}


def _result(votes: Mapping[str, Mapping[str, int | None]], key: Key) -> Result:
    pairs = [pair.id for pair in key.pairs if pair.repeats is None]
    votes_RP = np.array([[_or_nan(of[pair]) for pair in pairs] for of in votes.values()])
    again = [(pair.repeats, pair.id) for pair in key.pairs if pair.repeats is not None]
    return Result(
        count(votes_RP, key),
        {rater: count(votes_RP[row : row + 1], key) for row, rater in enumerate(votes)},
        {rater: _steady([(of[before], of[after]) for before, after in again]) for rater, of in votes.items()},
    )


def _or_nan(vote: int | None) -> float:
    return np.nan if vote is None else float(vote)


def _steady(pairs: Sequence[tuple[int | None, int | None]]) -> Steadiness:
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    return Steadiness(sum(before == after for before, after in both), len(both))


def count(votes_RP: NDArray[np.float64], key: Key) -> Count:
    """Votes of some raters (1 second, -1 first, 0 no difference, NaN none) in figures."""
    second, first, same = (int((votes_RP == vote).sum()) for vote in (1, -1, 0))
    decided = second + first
    wilson = wilson_interval(second, decided) if decided else None
    bootstrap = pigeonhole_interval(votes_RP) if decided else None
    majority_P = np.nansum(votes_RP, axis=0)
    for_, against = int((majority_P > 0).sum()), int((majority_P < 0).sum())
    return Count(
        second,
        first,
        same,
        second / decided if decided else None,
        wilson,
        bootstrap,
        for_,
        against,
        sign_test(for_, against),
        _words(second / decided > 0.5 if decided else None, [wilson, bootstrap], votes_RP, key),
    )


def _words(for_second: bool | None, intervals: Sequence[Ends | None], votes_RP: NDArray[np.float64], key: Key) -> str:
    """for_second: whether most of the decided votes are; None where there is none."""
    told_RP = ~np.isnan(votes_RP)
    raters, prompts = int(told_RP.any(axis=1).sum()), int(told_RP.any(axis=0).sum())
    over = f"{prompts} prompts and {raters} {'people' if raters != 1 else 'person'}"
    if for_second is None:
        return f"nobody saw a difference ({over})" if told_RP.any() else "nobody answered"
    if any(ends is None or ends[0] <= 0.5 <= ends[1] for ends in intervals):
        return f"no preference that {over} can show"
    deciders = int(_decided(votes_RP).any(axis=1).sum())
    return f"{key.second if for_second else key.first} is preferred, over {deciders} people and {prompts} prompts"


def _decided(votes_RP: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a vote is for an arm, else 0."""
    return np.abs(np.nan_to_num(votes_RP))


def wilson_interval(successes: int, trials: int) -> Ends:
    """Wilson's score interval of a share (Wilson 1927), without continuity correction."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, n = successes / trials, trials
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def pigeonhole_interval(votes_RP: NDArray[np.float64]) -> Ends | None:
    """The percentile interval of the share when raters and prompts are drawn anew.

    None where fewer than two raters, or prompts, decided: of one alone nothing varies.
    """
    decided_RP = _decided(votes_RP)
    if min(decided_RP.any(axis=side).sum() for side in (0, 1)) < 2:
        return None
    rng = np.random.default_rng(_SEED)
    times_NR, times_NP = (
        rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(float) for size in votes_RP.shape
    )
    below_N = ((times_NR @ decided_RP) * times_NP).sum(axis=1)
    above_N = ((times_NR @ (votes_RP == 1).astype(float)) * times_NP).sum(axis=1)
    # A resample in which nobody decided says nothing about the share.
    low, high = np.quantile(above_N[below_N > 0] / below_N[below_N > 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def sign_test(for_: int, against: int) -> float:
    """The exact two-sided p of a fair coin: ties are left out; 1 where there is nothing else."""
    n, most = for_ + against, max(for_, against)
    tail: int = sum(comb(n, k) for k in range(most, n + 1))
    return min(1.0, float(2 * tail / 2**n))


def as_json(results: Mapping[str, Result], key: Key) -> dict[str, Any]:
    """For machines."""
    return {
        "page": key.page,
        "first": key.first,
        "second": key.second,
        "pairs": sum(pair.repeats is None for pair in key.pairs),
        "questions": {name: asdict(result) for name, result in results.items()},
    }


def as_markdown(results: Mapping[str, Result], key: Key) -> str:
    """A table for every question, and how to read them."""
    head = [cell(key.second), cell(key.first), "no difference", "share, %", "Wilson", "bootstrap", "sign test", "again"]
    lines = [f"# {cell(key.second)} against {cell(key.first)}"]
    for question, result in results.items():
        steady = result.steady.values()
        total = Steadiness(sum(one.same_again for one in steady), sum(one.of for one in steady))
        lines += ["", f"## {question}: {result.overall.words}", "", QUESTIONS[question], ""]
        lines += [f"| {' | '.join(['', *head])} |", "| --- |" + " ---: |" * len(head)]
        lines += [_row("all", result.overall, total)]
        lines += [_row(cell(rater), one, result.steady[rater]) for rater, one in result.raters.items()]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in CONVENTIONS)]) + "\n"


def _row(name: str, found: Count, steady: Steadiness) -> str:
    share = "-" if found.share is None else number(found.share, percent=True)
    sign = f"{found.prompts_for} : {found.prompts_against}, p {found.sign_p:.3f}"
    counts = [found.second, found.first, found.same, share, _ends(found.wilson), _ends(found.bootstrap), sign]
    return f"| {' | '.join(map(str, [name, *counts, f'{steady.same_again} of {steady.of}']))} |"


def _ends(ends: Ends | None) -> str:
    return "-" if ends is None else f"[{', '.join(number(end, percent=True) for end in ends)}]"
