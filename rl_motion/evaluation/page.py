"""report.html: figures first, then the moving skeletons, in one file that works offline.

The motion viewer makes the page; what is known in numbers goes between its heading and its motions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rl_motion.evaluation.charts import class_bars, curve_svg, curves
from rl_motion.evaluation.evaluate import ADAPTER_ON, BASE, TUNED, Shown
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.selection import SPLITS
from rl_motion.motion.viewer import Panel, Row, motion_page
from rl_motion.types import Metrics

Report = Mapping[str, Any]

ARM_LABELS = {BASE: "base", TUNED: "tuned", ADAPTER_ON: "tuned, adapter on in the last call too"}


def render(report: Report, shown: Sequence[Shown], *, metrics: Sequence[Metrics]) -> str:
    """The whole page as HTML text.

    Args:
        report: the content of report.json.
        shown: the prompts whose motions move on the page.
        metrics: the rows of metrics.jsonl, for the learning curves; may be empty.
    """
    rows = [
        Row(
            item.prompt.text,
            [
                Panel(ARM_LABELS.get(arm, arm), joints_FJ3, item.success_by_arm[arm])
                for arm, joints_FJ3 in item.joints_by_arm.items()
            ],
        )
        for item in shown
    ]
    page = motion_page("Before and after post-training", rows, notes=_lead(report))
    body = "\n".join(
        [
            _card("Success and reward", _headline(report), _warnings(report)),
            _card("Learning", _learning(metrics)),
            *(
                _card(f"Success per action, {split.replace('_', ' ')}", class_bars(classes))
                for split, classes in report["classes"].items()
                if classes
            ),
            _card("Sentinels and diversity", _sentinels(report)),
            _card("How to read this", _notes(report)),
            '<h2 class="motions">Motions: base beside tuned, same prompt, same noise</h2>',
        ]
    )
    return _insert(_insert(page, "</style>", STYLE), "</header>", body, after=True)


def _insert(page: str, mark: str, text: str, *, after: bool = False) -> str:
    """Put text before (or after) the first `mark`; foreign text is escaped and cannot contain one."""
    before, found, rest = page.partition(mark)
    if not found:
        raise ValueError(f"got a motion page without {mark}; want one; adapt evaluation/page.py to the viewer")
    return f"{before}{found}<div class='report'>{text}</div>{rest}" if after else f"{before}{text}{found}{rest}"


def _card(title: str, *parts: str) -> str:
    inner = "".join(parts)
    return f'<article class="card"><h2>{escape(title)}</h2>{inner}</article>' if inner else ""


def _lead(report: Report) -> str:
    gain = report["difference"]["held_out"]["oracle_success"]
    if gain is None:
        return f"Whether motions fulfil their prompts was not judged: {report['not_judged']['oracle_success']}."
    base, tuned = (report[arm]["held_out"]["oracle_success"]["value"] for arm in (BASE, TUNED))
    return (
        f"Held-out prompts that the motion fulfils: {number(base, percent=True)} % before, "
        f"{number(tuned, percent=True)} % after; difference "
        f"{number(gain['value'], percent=True, sign=True)} points, "
        f"95 % interval {interval(gain, percent=True, sign=True)} over {gain['n']} pairs of motions."
    )


def _headline(report: Report) -> str:
    arms = [arm for arm in (BASE, TUNED, ADAPTER_ON) if arm in report]
    head = "".join(f"<th>{escape(ARM_LABELS[arm])}</th>" for arm in arms)
    lines = []
    for metric, percent in (("oracle_success", True), ("reward", False)):
        if metric in report["not_judged"]:
            continue
        for split in SPLITS:
            cells = "".join(_estimate(report[arm][split][metric], percent=percent) for arm in arms)
            gain = report["difference"][split][metric]
            name = f"{split.replace('_', ' ')}: {'success, %' if percent else 'reward'}"
            lines.append(
                f"<tr><th>{name}</th>{cells}{_estimate(gain, percent=percent, sign=True)}<td>{gain['n']}</td></tr>"
            )
    return (
        f"<table><thead><tr><th></th>{head}<th>tuned - base</th><th>motions</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _estimate(estimate: Mapping[str, Any], *, percent: bool = False, sign: bool = False) -> str:
    return (
        f"<td><b>{number(estimate['value'], percent=percent, sign=sign)}</b> "
        f"<small>{interval(estimate, percent=percent, sign=sign)}</small></td>"
    )


def _warnings(report: Report) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in report["warnings"])
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""


def _learning(metrics: Sequence[Metrics]) -> str:
    charts = "".join(curve_svg(name, points) for name, points in curves(metrics).items())
    return f'<div class="curves">{charts}</div>' if charts else ""


def _sentinels(report: Report) -> str:
    lines = []
    for split in SPLITS:
        named = {**report["sentinels"][split], "diversity": report["diversity"][split]}
        for name, value in named.items():
            if value is None:
                continue
            ratio = value["ratio"]
            cell = "<td>-</td>" if ratio is None else _estimate(ratio)
            state = {True: "within", False: "outside", None: ""}[value.get("within")]
            lines.append(
                f"<tr><th>{split.replace('_', ' ')}: {name.replace('_', ' ')}</th>"
                f"<td>{value['base']:.4g}</td>"
                f"<td>{value['tuned']:.4g}</td>{cell}<td class='{state}'>{state}</td></tr>"
            )
    limit = report["sentinels"]["held_out"]["jerk"]["limit"]
    return (
        "<table><thead><tr><th></th><th>base</th><th>tuned</th><th>tuned / base</th>"
        f"<th>limit {limit:g} x</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _notes(report: Report) -> str:
    examined = report["evaluation"]
    counts = ", ".join(f"{count} for {split.replace('_', ' ')}" for split, count in examined["prompts"].items())
    facts = [
        f"prompts: {counts}; {examined['samples_per_prompt']} motions each under every arm",
        f"one training seed ({report['seed']}) and one evaluation seed ({examined['seed']}): the intervals "
        "say how sure the figures are for other prompts, not for other training runs",
        "the motions below are the first sample of the first prompts drawn, one action after the other; "
        "none was picked",
        *report["conventions"],
        f"adapter sha256 {report['adapter_sha256']}; trained in {report['wall_s']:.0f} s",
    ]
    return f'<ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts)}</ul>'


STYLE = """
.report{max-width:78rem;margin:0 auto;padding:0 1.25rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.9rem;margin:1.1rem 0;
padding:1rem 1.1rem;overflow-x:auto}
.report table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem}
.report th,.report td{padding:.38rem .7rem;border-bottom:1px solid var(--line);text-align:right;
white-space:nowrap}
.report tbody tr:last-child>*{border-bottom:0}
.report th{font-weight:500}
.report thead th{color:var(--dim)}
.report th:first-child{text-align:left}
.report small{color:var(--dim);font-size:.85em;margin-left:.3rem}
.warnings{color:var(--bad);margin:.8rem 0 0;padding-left:1.2rem}
.facts{color:var(--dim);margin:0;padding-left:1.2rem;max-width:95ch}
.curves{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));color:var(--right)}
.curves figcaption{color:var(--ink)}
.curves svg{display:block;width:100%;background:var(--stage);border-radius:.6rem}
.classes td:nth-child(2){width:45%;min-width:8rem}
.share{display:block;width:100%;height:.42rem;margin:.14rem 0;border-radius:99px}
.share .track{fill:var(--stage)}
.share .base{fill:var(--dim)}
.share .tuned{fill:var(--right)}
.within{color:var(--good)}
.outside{color:var(--bad);font-weight:600}
h2.motions{margin:1.8rem 0 .2rem}
"""
