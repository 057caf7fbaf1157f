"""What a run says for itself: report.json, the table on the terminal, report.html.

Every interval is a 95 % bootstrap over prompts; every difference is paired (same prompt, same noise).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rl_motion.config import Job
from rl_motion.evaluation import agreement, stored
from rl_motion.evaluation.evaluate import (
    ADAPTER_ON,
    BASE,
    TUNED,
    Bench,
    Evaluation,
    Record,
    embedded_bench,
    evaluate,
)
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.metrics import CONVENTIONS as FIELD
from rl_motion.evaluation.page import render
from rl_motion.evaluation.selection import SPLITS
from rl_motion.evaluation.sentinels import FLOORS, Alarm, Statistics, judge
from rl_motion.evaluation.statistics import RESAMPLES, bootstrap_mean, paired_difference, paired_ratio
from rl_motion.protocols import MotionPolicy
from rl_motion.tracking.files import write_atomic, write_together
from rl_motion.tracking.jsonl import JsonlTracker

Report = dict[str, Any]
HEADLINES = ("oracle_success", "reward")
FORGETTING = -0.02
"""A drop of `original` beyond two points is forgetting, and is said."""

CONVENTIONS = [
    "oracle_success: share of motions that do what the caption says, by rules on the joints, and stay in the "
    "band of real motion; never a reward in the default jobs",
    "reward: the job's weighted sum of rewards, of clean motions",
    f"intervals: 95 % percentile bootstrap over prompts ({RESAMPLES} resamples); null where fewer than two "
    "prompts speak",
    "another wording of the same action is another prompt",
    "difference: tuned minus base, paired: same prompt and same noise",
    "ratio: mean of tuned over mean of base",
    "tuned is the policy as it was trained; adapter_on, if any, has the adapter on in the last call too",
    "held_out is what neither the model nor post-training has seen, original what must not be forgotten, train that "
    "whose captions post-training reads (evaluation.splits says which splits); prompts are spread evenly over the "
    "actions",
    "diversity: mean distance in metres between two samples of one prompt, joints centred on the root",
    "sentinels: never optimised; within is the range of ratios that honest evaluations of so many prompts have, 5 % of "
    "false alarms shared among all of them, on every split and at every look anew (docs/sentinels.md)",
    *FIELD,
    agreement.CONVENTION,
]


def evaluate_run(
    job: Job,
    run_dir: Path,
    policies: Mapping[str, MotionPolicy],
    *,
    wall_s: float,
    bench: Bench | None = None,
) -> Report:
    """Measure the arms, write `report.json`, `report.html` and `evaluation/` into the run's folder, return the report.

    Args:
        job: the resolved job.
        run_dir: the run's folder; its metrics.jsonl, where there is one, gives the learning curve.
        policies: `base` and `tuned` (see `evaluate`).
        wall_s: seconds that the training took.
        bench: what to measure with; the embedded world by default.
    """
    evaluation = evaluate(job, policies, bench or embedded_bench(job))
    report = build_report(evaluation, job, wall_s=wall_s)
    page = render(report, evaluation.shown, metrics=JsonlTracker(run_dir / "metrics.jsonl").rows())
    write_together(stored.files_of(run_dir, evaluation.records, evaluation.motions))
    write_atomic(run_dir / "report.json", (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    write_atomic(run_dir / "report.html", page.encode())
    return report


def build_report(evaluation: Evaluation, job: Job, *, wall_s: float) -> Report:
    """The content of report.json."""
    seed = job.evaluation.seed
    report: Report = {arm: _arm(evaluation, arm, seed) for arm in evaluation.arms}
    report["difference"] = _difference(evaluation, TUNED, seed)
    if ADAPTER_ON in evaluation.arms:
        report["difference_adapter_on"] = _difference(evaluation, ADAPTER_ON, seed)
    examined = _examined(evaluation)
    alarms = {split: _alarms(evaluation, split) for split in examined}
    report |= {
        "classes": {split: _classes(evaluation, split) for split in examined},
        "sentinels": {split: _sentinels(evaluation, split, alarms[split], seed) for split in examined},
        "diversity": {split: _sentinel(evaluation, split, "diversity", alarms[split], seed) for split in examined},
        "alarms": {split: [alarm.as_dict() for alarm in found] for split, found in alarms.items()},
        "field": {split: embedded.metrics(seed) for split, embedded in evaluation.embedded.items()},
        "agreement": {
            split: {arm: agreement.agreement(evaluation.of(split, arm), seed=seed) for arm in evaluation.arms}
            for split in examined
        },
        "evaluation": {
            "splits": evaluation.splits,
            "prompts": {split: len({r.prompt.id for r in evaluation.of(split, BASE)}) for split in examined},
            "samples_per_prompt": job.evaluation.samples_per_prompt,
            "seed": seed,
            "rewards": {reward.name: reward.weight for reward in job.rewards},
        },
        "not_judged": evaluation.not_judged,
        "conventions": CONVENTIONS,
        "adapter_sha256": evaluation.adapter_sha256[TUNED],
        "seed": job.train.seed,
        "wall_s": wall_s,
    }
    report["warnings"] = evaluation.warnings + _warnings(report, evaluation)
    report["warnings"] += [f"{split}: {alarm}" for split, found in alarms.items() for alarm in found]
    return report


def before_after_table(report: Report) -> Table:
    """Base beside tuned with the paired difference and its interval, for the terminal."""
    table = Table(title="Before and after (95 % intervals over prompts)")
    for name in ("", "base", "tuned", "change", "interval", "n"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for metric in HEADLINES:
        for split in report["difference"]:
            percent = metric == "oracle_success"
            difference = report["difference"][split][metric]
            if difference is None:
                continue
            table.add_row(
                f"{split} {metric.replace('_', ' ')}",
                number(report[BASE][split][metric]["value"], percent=percent),
                number(report[TUNED][split][metric]["value"], percent=percent),
                number(difference["value"], percent=percent, sign=True),
                interval(difference, percent=percent, sign=True),
                str(difference["n"]),
            )
        table.add_section()
    if report["not_judged"]:
        table.caption = "\n".join(f"{name} was not judged: {why}" for name, why in report["not_judged"].items())
    return table


def _examined(evaluation: Evaluation) -> list[str]:
    """The splits that were measured, in the report's order: a data set of one's own has nothing not to forget."""
    return [split for split in SPLITS if split in (evaluation.splits or SPLITS)]


def _column(records: Sequence[Record], metric: str) -> list[Any]:
    return [record.value(metric) for record in records]


def _ids(records: Sequence[Record]) -> list[str]:
    return [record.prompt.id for record in records]


def _arm(evaluation: Evaluation, arm: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in _examined(evaluation):
        records = evaluation.of(split, arm)
        columns = {metric: _column(records, metric) for metric in HEADLINES}
        found[split] = {
            metric: None if None in column else bootstrap_mean(column, _ids(records), seed=seed).as_dict()
            for metric, column in columns.items()
        }
    return found


def _difference(evaluation: Evaluation, arm: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in _examined(evaluation):
        before, after = evaluation.of(split, BASE), evaluation.of(split, arm)
        columns = {metric: (_column(before, metric), _column(after, metric)) for metric in HEADLINES}
        found[split] = {
            metric: None if None in base + tuned else paired_difference(base, tuned, _ids(before), seed=seed).as_dict()
            for metric, (base, tuned) in columns.items()
        }
    return found


def _compare(evaluation: Evaluation, split: str, metric: str, seed: int) -> dict[str, Any] | None:
    """{base, tuned, ratio} of a metric that is not negative, over the motions that have it; None where none has."""
    before, after = evaluation.of(split, BASE), evaluation.of(split, TUNED)
    measured = [
        (one, other, record.prompt.id)
        for one, other, record in zip(_column(before, metric), _column(after, metric), before, strict=True)
        if one is not None and other is not None
    ]
    if not measured:
        return None
    base, tuned, ids = (list(column) for column in zip(*measured, strict=True))
    ratio = paired_ratio(base, tuned, ids, seed=seed)
    return {
        "base": sum(base) / len(base),
        "tuned": sum(tuned) / len(tuned),
        "ratio": None if ratio is None else ratio.as_dict(),
    }


def _sentinels(
    evaluation: Evaluation, split: str, alarms: Sequence[Alarm], seed: int
) -> dict[str, dict[str, Any] | None]:
    """Every sentinel by name but diversity, which stands by itself; None: not measured."""
    return {name: _sentinel(evaluation, split, name, alarms, seed) for name in FLOORS if name != "diversity"}


def _sentinel(
    evaluation: Evaluation, split: str, name: str, alarms: Sequence[Alarm], seed: int
) -> dict[str, Any] | None:
    """{base, tuned, ratio}, and where it has a band: the ratios that honest runs have, and whether it stays in it."""
    found = _compare(evaluation, split, name, seed)
    if found is not None and evaluation.bands is not None and name in evaluation.bands.bands:
        low, high = evaluation.bands.at(name, _prompts(evaluation.of(split, BASE)))
        found |= {"low": low, "high": high, "within": name not in {alarm.name for alarm in alarms}}
    return found


def _alarms(evaluation: Evaluation, split: str) -> list[Alarm]:
    if evaluation.bands is None:
        return []
    tuned, base = (_statistics(evaluation.of(split, arm)) for arm in (TUNED, BASE))
    return judge(tuned, base, evaluation.bands)


def _statistics(records: Sequence[Record]) -> Statistics:
    columns = {name: [v for record in records if (v := record.value(name)) is not None] for name in FLOORS}
    return Statistics({name: sum(c) / len(c) for name, c in columns.items() if c}, _prompts(records))


def _prompts(records: Sequence[Record]) -> int:
    return len({record.prompt.id for record in records})


def _classes(evaluation: Evaluation, split: str) -> dict[str, Any]:
    """Success per action: {base, tuned, n, prompts}, by name; none where success was not judged."""
    before, after = evaluation.of(split, BASE), evaluation.of(split, TUNED)
    base, tuned = _column(before, "oracle_success"), _column(after, "oracle_success")
    if None in base + tuned:
        return {}
    classes = {}
    for group in sorted({record.prompt.group for record in before}):
        rows = [index for index, record in enumerate(before) if record.prompt.group == group]
        classes[group] = {
            "base": sum(base[row] for row in rows) / len(rows),
            "tuned": sum(tuned[row] for row in rows) / len(rows),
            "n": len(rows),
            "prompts": len({before[row].prompt.id for row in rows}),
        }
    return classes


def _warnings(report: Report, evaluation: Evaluation) -> list[str]:
    found = [] if evaluation.bands else ["sentinels were not judged: no bands of this frame rate (sentinels.bands)"]
    found += [f"{name} was not judged: {why}" for name, why in evaluation.not_judged.items()]
    if evaluation.adapter_sha256[BASE] == evaluation.adapter_sha256[TUNED]:
        found.append("base and tuned have the same adapter: nothing was trained")
    forgotten = report["difference"].get("original", {}).get("oracle_success")
    if forgotten is not None and forgotten["value"] < FORGETTING:
        found.append(
            f"original: success changed by {number(forgotten['value'], percent=True, sign=True)} points "
            f"{interval(forgotten, percent=True, sign=True)}: the model forgets"
        )
    return found
