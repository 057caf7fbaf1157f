"""The report as Markdown: the figures of the page, for a pull request or a log."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rl_motion.evaluation.cards import real_label
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.lines import Line, conventions_of, not_measured
from rl_motion.evaluation.statistics import Estimate
from rl_motion.evaluation.summary import JobRow

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&])")


def cell(text: str) -> str:
    """Foreign text as one cell of a table: it starts no markup and no line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def markdown(rows: Sequence[JobRow], title: str) -> str:
    """All tables: the jobs beside one another, then every job's own, then what the numbers mean."""
    parts = [f"# {cell(title)}"]
    if len(rows) > 1:
        parts.append(_beside(rows))
    for row in rows:
        parts.append(f"## {cell(row.label)}\n\n{_own(row.lines)}")
        if len(row.runs) > 1:
            parts.append(_run_by_run(row))
        warned = [f"- {cell(run.name)}: {cell(text)}" for run in row.runs for text in run.report["warnings"]]
        parts += ["\n".join(["**Warnings**", "", *warned])] if warned else []
    reports = [report for row in rows for report in row.reports]
    meant = [f"- {cell(sentence)}" for sentence in (*not_measured(reports), *conventions_of(reports))]
    return "\n\n".join([*parts, "\n".join(["## Conventions", "", *meant])]) + "\n"


def estimate(one: Estimate, *, percent: bool, sign: bool = False) -> str:
    """A value with its interval."""
    ends = interval(one.as_dict(), percent=percent, sign=sign)
    return f"{number(one.value, percent=percent, sign=sign)}{'' if ends == '-' else f' {ends}'}"


def change(line: Line) -> str:
    """From base to tuned, with the change."""
    percent = line.metric.percent
    before, after = (number(one.value, percent=percent) for one in (line.base, line.tuned))
    return f"{before} → {after}, {estimate(line.change, percent=percent, sign=True)}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def held_out_metrics(rows: Sequence[JobRow]) -> dict[str, str]:
    """Label by name of every metric that some job has on held-out prompts."""
    return {line.metric.name: line.metric.label for row in rows for line in row.lines if line.split == "held_out"}


def _beside(rows: Sequence[JobRow]) -> str:
    metrics = held_out_metrics(rows)
    body = [
        [cell(row.label), *("-" if (line := row.line("held_out", name)) is None else change(line) for name in metrics)]
        for row in rows
    ]
    return "Held-out prompts, base → tuned, change [95 %]:\n\n" + _table(["job", *metrics.values()], body)


def _own(lines: Sequence[Line]) -> str:
    body = []
    for line in lines:
        percent = line.metric.percent
        real = "" if line.real is None else f" ({real_label(line)} {estimate(line.real, percent=percent)})"
        body.append(
            [
                f"{line.split.replace('_', ' ')}: {line.metric.label}{real}",
                estimate(line.base, percent=percent),
                estimate(line.tuned, percent=percent),
                estimate(line.change, percent=percent, sign=True),
                cell(line.words),
            ]
        )
    return _table(["", "base [95 %]", "tuned [95 %]", "tuned - base [95 %]", "in words"], body)


def _run_by_run(row: JobRow) -> str:
    shown = [line for line in row.lines if line.split in ("held_out", "original") and not line.metric.field]
    head = ["run", "seed", *(f"{line.split.replace('_', ' ')}: {line.metric.label}" for line in shown)]
    body = [
        [
            cell(run.name),
            str(run.seed),
            *(estimate(line.within[place], percent=line.metric.percent, sign=True) for line in shown),
        ]
        for place, run in enumerate(row.runs)
    ]
    return f"Change in every run, intervals over its prompts:\n\n{_table(head, body)}"
