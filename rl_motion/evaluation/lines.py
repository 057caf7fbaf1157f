"""What reports say of a metric, as lines of a table: base, tuned and the change, with its interval in words.

Of one run the intervals are its own, over prompts (or over replications, for the field's metrics). Of several runs
of one job they are Student's over runs, and every run's own stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from rl_motion.evaluation.over_runs import student_mean
from rl_motion.evaluation.selection import SPLITS
from rl_motion.evaluation.statistics import Estimate

Report = Mapping[str, Any]


class Metric(NamedTuple):
    """How a metric is written and read. `better`: 1 where more is better, -1 where less is, 0 where neither is."""

    name: str
    label: str
    better: Literal[1, -1, 0]
    percent: bool = False
    field: bool = False
    """One of the field's, measured by the evaluator: it lies in `field`, and its interval is over replications."""


METRICS = (
    Metric("oracle_success", "success, %", 1, percent=True),
    Metric("reward", "reward", 1),
    Metric("fid", "FID", -1, field=True),
    Metric("r_precision_1", "R-precision 1, %", 1, percent=True, field=True),
    Metric("r_precision_2", "R-precision 2, %", 1, percent=True, field=True),
    Metric("r_precision_3", "R-precision 3, %", 1, percent=True, field=True),
    Metric("multimodal_distance", "MM distance", -1, field=True),
    Metric("diversity", "diversity", 0, field=True),
    Metric("multimodality", "multimodality", 0, field=True),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One metric on one split.

    within: the change of every run with its own interval. real: real motion in the place of the model's (of FID: the
    floor).
    adapter_on: the tuned policy with the adapter on in its last call too, where that was measured.
    words: what the change's interval says.
    """

    split: str
    metric: Metric
    base: Estimate
    tuned: Estimate
    change: Estimate
    within: tuple[Estimate, ...]
    real: Estimate | None
    adapter_on: Estimate | None
    words: str


def lines_of(reports: Sequence[Report]) -> list[Line]:
    """Every metric that all of these reports have on a split, split by split.

    Args:
        reports: of one run, or of several runs of one job.

    Raises:
        ValueError: a number of theirs is none.
    """
    found = (_line(reports, split, metric) for split in SPLITS for metric in METRICS)
    return [line for line in found if line is not None]


def splits_of(report: Report) -> list[str]:
    """The splits that a report has, in their order."""
    return [split for split in SPLITS if split in report["base"]]


def not_measured(reports: Sequence[Report]) -> list[str]:
    """What is missing of the field's metrics, and why."""
    found = [
        f"{split.replace('_', ' ')}: {name.replace('_', ' ')} was not measured: {why}"
        for report in reports
        for split, of in report.get("field", {}).items()
        for name, why in of.get("not_measured", {}).items()
    ]
    return list(dict.fromkeys(found))


def conventions_of(reports: Sequence[Report]) -> list[str]:
    """What the numbers mean, in words, each sentence once."""
    return list(dict.fromkeys(sentence for report in reports for sentence in report["conventions"]))


def _line(reports: Sequence[Report], split: str, metric: Metric) -> Line | None:
    base, tuned, change = (_of(reports, arm, split, metric) for arm in ("base", "tuned", "difference"))
    if base is None or tuned is None or change is None:
        return None
    real = _of(reports, "real", split, metric) if metric.field else None
    beside = _of(reports, "adapter_on", split, metric)
    total = together(change)
    return Line(
        split,
        metric,
        _possible(together(base), metric),
        _possible(together(tuned), metric),
        total,
        tuple(change),
        None if real is None else real[0],
        None if beside is None else _possible(together(beside), metric),
        _words(reports, split, metric, total, change),
    )


def _words(reports: Sequence[Report], split: str, metric: Metric, total: Estimate, change: Sequence[Estimate]) -> str:
    """Of one run, what its interval says; of several, what theirs says and in how many the prompts say nothing."""
    examined = reports[0]["evaluation"]
    over_samples = metric.field and metric.name != "multimodality"
    counted = (
        f"{examined['samples_per_prompt']} replications" if over_samples else f"{examined['prompts'][split]} prompts"
    )
    if total is change[0]:
        words = in_words(total, metric.better, counted)
        # What replications show holds for these prompts, not for others.
        return f"{words} over {counted} of these prompts" if over_samples and not contains(total, 0.0) else words
    words = in_words(total, metric.better, f"{len(reports)} runs")
    open_ = sum(contains(one, 0.0) for one in change)
    if contains(total, 0.0) or not open_:
        return words
    return f"{words}; within {open_} of {len(change)} runs no difference that {counted} can show"


def contains(estimate: Estimate, value: float) -> bool:
    """Whether the interval holds the value; what has no interval excludes nothing."""
    return estimate.low is None or estimate.high is None or estimate.low <= value <= estimate.high


def in_words(change: Estimate, better: int, over: str) -> str:
    """What a change's interval allows to be said; `over` is what the interval is over, such as `128 prompts`."""
    if change.low is None or change.high is None:
        return f"no interval from {over}"
    if contains(change, 0.0):
        return f"no difference that {over} can show"
    if not better:
        return "higher" if change.value > 0 else "lower"
    return "better" if better * change.value > 0 else "worse"


def together(estimates: Sequence[Estimate]) -> Estimate:
    """Over runs; where all say the same, as of a base that they share, the first with its own interval: that of no
    width, which Student's would be, is no certainty."""
    same = all(math.isclose(one.value, estimates[0].value, rel_tol=1e-12) for one in estimates)
    return estimates[0] if same else student_mean([one.value for one in estimates])


def _possible(estimate: Estimate, metric: Metric) -> Estimate:
    """Student's interval of a share may reach beyond what a share can be."""
    if not metric.percent or estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def _of(reports: Sequence[Report], arm: str, split: str, metric: Metric) -> list[Estimate] | None:
    """A metric in every report; None where one has none."""
    path = ("field", split, arm, metric.name) if metric.field else (arm, split, metric.name)
    found = [read_estimate(report, path) for report in reports]
    whole = [one for one in found if one is not None]
    return whole if len(whole) == len(found) else None


def read_estimate(report: Report, path: Sequence[str]) -> Estimate | None:
    """What a report has at this place; None where it has nothing.

    Raises:
        ValueError: it is no estimate.
    """
    tree: Any = report
    for name in path:
        if tree is not None and not isinstance(tree, Mapping):
            break
        tree = tree.get(name) if tree is not None else None
    if tree is None:
        return None
    ends: list[Any] = [tree.get(name) for name in ("value", "low", "high")] if isinstance(tree, Mapping) else [None]
    if not _is_number(ends[0]) or not all(end is None or _is_number(end) for end in ends[1:]):
        raise ValueError(f"{'.'.join(path)} without a finite `value`, or with ends that are no numbers")
    n = tree.get("n")
    value, low, high = ends
    return Estimate(value, low, high, n if isinstance(n, int) else 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
