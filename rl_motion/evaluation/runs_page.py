"""The page of `rl-motion report`: one or several runs, in one file that works offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from rl_motion.evaluation.cards import (
    STYLE,
    agreement,
    card,
    figures,
    items,
    lines_table,
    sentinels,
    split_name,
    table,
    warnings,
)
from rl_motion.evaluation.changed import Change, Kept, changes, ends
from rl_motion.evaluation.charts import class_bars, curve_charts
from rl_motion.evaluation.evaluate import BASE, TUNED
from rl_motion.evaluation.format import number
from rl_motion.evaluation.kept import trained_texts
from rl_motion.evaluation.lines import Report, conventions_of, not_measured
from rl_motion.evaluation.markdown import held_out_metrics, markdown
from rl_motion.evaluation.summary import FinishedRun, JobRow, as_json, damaged, summarise
from rl_motion.motion.viewer import Extras, Panel, Row, motion_page

HELD_OUT = "held_out"
SHOWN = 4
"""Prompts with the largest gain, and as many with the largest loss, of one job; of several jobs half as many each."""
_PANELS = 5
"""Runs of one job whose motions stand side by side."""
_DAMAGE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)
"""What a value of another type, or none, comes to where it is read."""


@dataclass(frozen=True, slots=True)
class Written:
    """A report in all its forms. `lead` is the verdict, a line a job; `figures` are for machines."""

    page: str
    table: str
    lead: str
    figures: dict[str, Any]


def written(
    runs: Sequence[FinishedRun],
    rests_on: Mapping[str, Mapping[str, str]],
    kept: Mapping[str, Kept],
    lacks: Sequence[str],
) -> Written:
    """Put runs together and write down what they say.

    Args:
        runs: to report.
        rests_on: see `summarise`.
        kept: see `runs_page`, as `lacks`.
        lacks: what could not be shown.

    Raises:
        UserError: two runs are copies, or a report.json holds something else than a run writes. Reports are files that
            anybody may have edited, and too deep to check part by part: what cannot be shown is damaged.
    """
    try:
        return _written(runs, rests_on, kept, lacks)
    except _DAMAGE as error:
        found = next((group for group in (*([run] for run in runs), runs) if not _sound(group)), None)
        if found is None:
            raise
        first, *others = found
        beside = f" beside those of {', '.join(run.name for run in others)}" if others else ""
        words = " ".join(str(error).split())[:100]
        raise damaged(
            first.folder / "report.json", f"parts that cannot be shown{beside} ({type(error).__name__}: {words})"
        ) from error


def _sound(runs: Sequence[FinishedRun]) -> bool:
    """Whether the reports can be shown, without motions and curves: what is wrong with these is no report's fault."""
    try:
        _written([replace(run, rows=()) for run in runs], {}, {}, ())
    except _DAMAGE:
        return False
    return True


def _written(
    runs: Sequence[FinishedRun],
    rests_on: Mapping[str, Mapping[str, str]],
    kept: Mapping[str, Kept],
    lacks: Sequence[str],
) -> Written:
    rows = summarise(runs, rests_on)
    title = f"Report: {', '.join(row.label for row in rows)}"
    return Written(runs_page(rows, kept, lacks, title), markdown(rows, title), lead(rows), as_json(rows))


def runs_page(rows: Sequence[JobRow], kept: Mapping[str, Kept], lacks: Sequence[str], title: str) -> str:
    """The whole page as HTML text.

    Args:
        rows: what to report.
        kept: by run, what its evaluation kept; runs whose evaluation kept nothing are not in it.
        lacks: what could not be shown, and why, in words.
        title: of the page.
    """
    runs = [run for row in rows for run in row.runs]
    reports = [run.report for run in runs]
    cards = [
        card("Held-out prompts, job by job", _beside(rows)) if len(rows) > 1 else "",
        *(part for row in rows for part in _job(row)),
        card("Learning", curve_charts({run.name: run.rows for run in runs})),
        card("What was held out, and how", items(list(_held_out(rows, kept)))),
        card(
            "How to read this",
            items([*lacks, *not_measured(reports), *_reading(rows), *conventions_of(reports)]),
        ),
    ]
    extras = Extras(style=STYLE, top=f'<div class="report">{"".join(cards)}</div>')
    return motion_page(title, [one for row in rows for one in _motions(row, rows, kept)], lead(rows), extras)


def lead(rows: Sequence[JobRow]) -> str:
    """The verdict on held-out prompts, a sentence a job."""
    return "\n".join(sentence for row in rows if (sentence := _verdict(row)))


def _verdict(row: JobRow) -> str:
    line = row.line(HELD_OUT, "oracle_success") or row.line(HELD_OUT, "reward")
    if line is None:
        return ""
    percent = line.metric.percent
    what, unit = ("success, %", " points") if percent else (line.metric.label, "")
    before, after = (number(one.value, percent=percent) for one in (line.base, line.tuned))
    gain = number(line.change.value, percent=percent, sign=True)
    low, high = line.change.low, line.change.high
    interval = (
        ""
        if low is None or high is None
        else f" [{number(low, percent=percent, sign=True)}, {number(high, percent=percent, sign=True)}]"
    )
    return f"{row.label}: held-out {what}: {before} before, {after} after, {gain}{unit}{interval}: {line.words}."


def _beside(rows: Sequence[JobRow]) -> str:
    metrics = held_out_metrics(rows)
    body = []
    for row in rows:
        cells = []
        for name in metrics:
            line = row.line(HELD_OUT, name)
            if line is None:
                cells.append("<td>-</td>")
                continue
            percent = line.metric.percent
            before, after = (number(one.value, percent=percent) for one in (line.base, line.tuned))
            change = figures(line.change.as_dict(), percent=percent, sign=True)
            cells.append(f"<td>{before} → {after}<br>{change}<br><small>{escape(line.words)}</small></td>")
        body.append([escape(row.label), *cells])
    return table(["base → tuned, change", *metrics.values()], body)


def _job(row: JobRow) -> Iterator[str]:
    warned = [
        f"{run.name}: {text}" if len(row.runs) > 1 else text for run in row.runs for text in run.report["warnings"]
    ]
    yield card(f"Before and after: {row.label}", lines_table(row.lines), warnings(warned))
    if len(row.runs) > 1:
        yield card(f"Run by run: {row.label}", _run_by_run(row))
    classes = _classes(row.reports)
    yield card(f"Success per action, held out: {row.label}", class_bars(classes) if classes else "")
    yield card(f"Sentinels and diversity: {row.label}", sentinels(row.reports))
    yield card(f"Do the judges agree? Held out: {row.label}", agreement(row.reports, HELD_OUT))


def _run_by_run(row: JobRow) -> str:
    shown = [line for line in row.lines if line.split in (HELD_OUT, "original") and not line.metric.field]
    head = ["run", "seed", *(f"{split_name(line.split)}: {line.metric.label}" for line in shown), "trained", "adapter"]
    body = []
    for place, run in enumerate(row.runs):
        changed = [
            f"<td>{figures(line.within[place].as_dict(), percent=line.metric.percent, sign=True)}</td>"
            for line in shown
        ]
        known = [f"<td>{run.seed}</td>", *changed, f"<td>{run.report['wall_s']:.0f} s</td>"]
        body.append([escape(run.name), *known, f"<td>{escape(str(run.report['adapter_sha256'])[:8])}</td>"])
    return table(head, body)


def _classes(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """Success per action on held-out prompts, mean over runs; of prompts and motions that they share."""
    found = [report["classes"][HELD_OUT] for report in reports]
    return {
        name: {
            **{arm: sum(one[name][arm] for one in found) / len(found) for arm in (BASE, TUNED)},
            "n": found[0][name]["n"],
            "prompts": found[0][name]["prompts"],
        }
        for name in found[0]
        if all(name in one for one in found)
    }


def _held_out(rows: Sequence[JobRow], kept: Mapping[str, Kept]) -> Iterator[str]:
    yield "splits of an embedded world share no combination of action, side, count, speed and style, however worded"
    for row in rows:
        job, examined = row.runs[0].job, row.runs[0].report["evaluation"]
        sources = ", ".join(job.prompts.sources)
        validation = ", ".join(job.prompts.validation) if job.evaluation.validate_every else "nothing"
        counts = ", ".join(
            f"{split_name(name)} = {split}, {examined['prompts'][name]} prompts"
            for name, split in job.evaluation.examined.items()
            if name in examined["prompts"]
        )
        yield f"{row.label}: trained on the captions of {sources}, without motion; validated on {validation}"
        yield (
            f"{row.label}: evaluated on {counts}; {examined['samples_per_prompt']} motions each, the same for base and "
            f"tuned but for the adapter; noise of seed {examined['seed']}"
        )
        rewards = ", ".join(f"{name} (weight {weight:g})" for name, weight in examined["rewards"].items())
        yield f"{row.label}: rewarded by {rewards}"
        shared = [_shared(run.folder, kept[run.name]) for run in row.runs if run.name in kept]
        yield from dict.fromkeys(f"{row.label}: {sentence}" for sentence in shared if sentence)


def _shared(folder: Path, kept: Kept) -> str:
    """How many of the held-out texts the run could have trained on; nothing where it kept no list of these."""
    trained = trained_texts(folder)
    held = {row.text for row in kept.rows if row.split == HELD_OUT}
    if trained is None or not held:
        return ""
    both = len(held & trained) or "none"
    return f"of the {len(held)} held-out texts, {both} among the {len(trained)} that it could train on"


def _reading(rows: Sequence[JobRow]) -> Iterator[str]:
    several = any(len(row.runs) > 1 for row in rows)
    yield "a change whose 95 % interval contains zero is called no difference, whatever its value"
    if several:
        yield (
            "of several runs of one job, mean and Student's 95 % interval over the runs, for other training seeds; "
            "in the pictures the thin lines are the runs with their intervals over prompts, the thick one is the mean"
        )
    else:
        yield "intervals are over prompts, or replications of the field's metrics, and not over training seeds"
    yield (
        f"the motions below were picked: of the held-out prompts, up to {SHOWN} of a job that gained most and as many "
        "that lost most, by success and then by reward; every motion is its prompt's first sample"
    )


def _motions(row: JobRow, rows: Sequence[JobRow], kept: Mapping[str, Kept]) -> Iterator[Row]:
    runs = [(run.name, kept[run.name]) for run in row.runs if run.name in kept]
    found = changes([one for _, one in runs], HELD_OUT)
    groups = zip(("gained", "lost"), ends(found, SHOWN if len(rows) == 1 else max(1, SHOWN // 2)), strict=True)
    for word, chosen in groups:
        for place, change in enumerate(chosen):
            heading = "" if place else f"{row.label}: held-out prompts that {word} most"
            yield Row(change.text, _panels(change, runs), heading, change.words)


def _panels(change: Change, runs: Sequence[tuple[str, Kept]]) -> list[Panel]:
    """The base once, as it is the same in all runs of a job, and every run's own."""
    several = len(runs) > 1
    wanted = [("base", BASE, runs[0][1])]
    wanted += [(f"tuned, {name}" if several else "tuned", TUNED, one) for name, one in runs[:_PANELS]]
    return [
        Panel(label, one.joints[HELD_OUT, arm, change.prompt_id], _verdict_of(one, arm, change), one.fps[HELD_OUT])
        for label, arm, one in wanted
        if (HELD_OUT, arm, change.prompt_id) in one.joints
    ]


def _verdict_of(kept: Kept, arm: str, change: Change) -> bool | None:
    """On the sample that is shown."""
    found = (
        row.oracle_success
        for row in kept.rows
        if (row.split, row.arm, row.prompt_id, row.sample) == (HELD_OUT, arm, change.prompt_id, 0)
    )
    success = next(found, None)
    return None if success is None else bool(success)
