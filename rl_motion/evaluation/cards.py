"""The parts of a report's pages: cards of figures, as HTML text in which everything foreign is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rl_motion.evaluation.charts import intervals_svg
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.lines import Line, Report, read_estimate, splits_of, together
from rl_motion.evaluation.statistics import Estimate


def card(title: str, *parts: str) -> str:
    """A titled card; nothing where there is nothing in it."""
    inner = "".join(parts)
    return f'<article class="card"><h2>{escape(title)}</h2>{inner}</article>' if inner else ""


def items(sentences: Sequence[str], kind: str = "facts") -> str:
    """A list of sentences."""
    found = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{found}</ul>' if found else ""


def warnings(sentences: Sequence[str]) -> str:
    """The same, for what went wrong."""
    return items(sentences, 'warnings" aria-label="Warnings')


def split_name(split: str) -> str:
    """As people read it."""
    return split.replace("_", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are markup, the first of a row its heading."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr><th>{first}</th>{''.join(rest)}</tr>" for first, *rest in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def lines_table(lines: Sequence[Line]) -> str:
    """Base beside tuned with the change, its interval as a picture, and what it says in words."""
    rows = []
    for line in lines:
        percent = line.metric.percent
        real = "" if line.real is None else f"<br><small>{real_label(line)} {_both(line.real, percent)}</small>"
        on = line.adapter_on
        beside = "" if on is None else f"<br><small>adapter on to the end: {number(on.value, percent=percent)}</small>"
        over_runs = line.change if line.change is not line.within[0] else None
        rows.append(
            [
                f"{escape(split_name(line.split))}: {escape(line.metric.label)}{real}",
                f"<td>{_both(line.base, percent)}</td>",
                f"<td>{_both(line.tuned, percent)}{beside}</td>",
                f"<td>{_both(line.change, percent, sign=True)}</td>",
                f"<td>{intervals_svg(line.within, over_runs)}</td>",
                f'<td class="words {_state(line.words)}">{escape(line.words)}</td>',
            ]
        )
    return table(["", "base", "tuned", "tuned - base", "", "in words"], rows) if rows else ""


def real_label(line: Line) -> str:
    """What real motion is called beside a metric."""
    return "floor" if line.metric.name == "fid" else "real motion"


def _state(words: str) -> str:
    return {"better": "within", "worse": "outside"}.get(words.split(maxsplit=1)[0].rstrip(";"), "")


def _both(estimate: Estimate, percent: bool, *, sign: bool = False) -> str:
    return figures(estimate.as_dict(), percent=percent, sign=sign)


def figures(estimate: Mapping[str, Any], *, percent: bool = False, sign: bool = False) -> str:
    """A value and its interval."""
    return (
        f"<b>{number(estimate['value'], percent=percent, sign=sign)}</b> "
        f"<small>{interval(estimate, percent=percent, sign=sign)}</small>"
    )


def sentinels(reports: Sequence[Report]) -> str:
    """Every sentinel on every split against the base's value; of several runs the means, and how many are outside."""
    rows = []
    for split in splits_of(reports[0]):
        names = dict.fromkeys(name for report in reports for name in report["sentinels"][split])
        for name in (*names, "diversity"):
            found = [_compared(report, split, name) for report in reports]
            known = [one for one in found if one is not None]
            if not known:
                continue
            ratios = [one["ratio"] for one in known]
            cell = figures(ratios[0]) if len(ratios) == 1 and ratios[0] else _span(ratios)
            label = "diversity within a prompt, m" if name == "diversity" else name.replace("_", " ")
            outside = [one.get("within") for one in known].count(False)
            judged = any(one.get("within") is not None for one in known)
            state = f"outside{f' in {outside} of {len(known)}' if len(known) > 1 else ''}" if outside else "within"
            honest = f" <small>[{known[0]['low']:.2f}, {known[0]['high']:.2f}]</small>" if judged else ""
            rows.append(
                [
                    f"{escape(split_name(split))}: {escape(label)}",
                    f"<td>{_mean(known, 'base'):.4g}</td>",
                    f"<td>{_mean(known, 'tuned'):.4g}</td>",
                    f"<td>{cell}</td>",
                    f'<td class="{"outside" if outside else "within"}">{state + honest if judged else ""}</td>',
                ]
            )
    return table(["", "base", "tuned", "tuned / base", "honest runs"], rows)


def agreement(reports: Sequence[Report], split: str) -> str:
    """How well the evaluator and the rewards know what the oracle accepts, and each other beyond that; over runs, where
    there are several."""
    rows = []
    for arm in ("base", "tuned"):
        for judge in _at(reports[0], split, arm):
            found = [
                [read_estimate(report, ("agreement", split, arm, judge, key)) for report in reports] for key in _AGREE
            ]
            whole = [[one for one in of if one is not None] for of in found]
            cells = [_both(together(of), False) if len(of) == len(reports) else "-" for of in whole]
            rows.append([f"{escape(arm)}: {escape(judge)}", *(f"<td>{cell}</td>" for cell in cells)])
    return table(["", *_AGREE.values()], rows) if rows else ""


_AGREE = {
    "auc": "AUC for the oracle's verdict",
    "within_success": "evaluator and it, within successes",
    "within_failure": "within failures",
}


def _at(report: Report, split: str, arm: str) -> Mapping[str, Any]:
    found = report.get("agreement", {}).get(split, {}).get(arm, {})
    return found if isinstance(found, Mapping) else {}


def _compared(report: Report, split: str, name: str) -> Mapping[str, Any] | None:
    found = report["diversity"][split] if name == "diversity" else report["sentinels"][split].get(name)
    return found if isinstance(found, Mapping) and "ratio" in found else None


def _mean(found: Sequence[Mapping[str, Any]], arm: str) -> float:
    return float(sum(one[arm] for one in found)) / len(found)


def _span(ratios: Sequence[Mapping[str, Any] | None]) -> str:
    values = [ratio["value"] for ratio in ratios if ratio]
    return f"{min(values):.3f} to {max(values):.3f}" if values else "-"


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
.report th:first-child,.report td.words{text-align:left}
.report td.words{white-space:normal;min-width:12rem}
.report table:has(td.words) thead th:last-child{text-align:left}
.report small{color:var(--dim);font-size:.85em;margin-left:.3rem}
.report br+small,.report br+small small{margin-left:0;font-size:.85em}
.report small b{font-weight:500}
.warnings{color:var(--bad);margin:.8rem 0 0;padding-left:1.2rem}
.facts{color:var(--dim);margin:.8rem 0 0;padding-left:1.2rem;max-width:95ch;overflow-wrap:anywhere}
.curves{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}
.curves svg{display:block;width:100%;background:var(--stage);border-radius:.6rem}
.curves polyline{fill:none;stroke:var(--of);stroke-width:1.6;vector-effect:non-scaling-stroke}
.curves polygon{fill:var(--of);opacity:.14}
.runs{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:0 0 .8rem;color:var(--dim);font-size:.9rem}
.runs i{display:inline-block;width:1.1rem;height:.25rem;border-radius:9px;margin-right:.4rem;background:var(--of);
vertical-align:middle}
.s0{--of:var(--right)}.s1{--of:var(--left)}.s2{--of:var(--trail)}.s3{--of:var(--good)}
.s4{--of:#c2257f}.s5{--of:#a07b00}.s6{--of:#0d8f9c}.s7{--of:var(--dim)}
.forest{display:block;width:7.5rem}
.forest line{stroke-width:1.1;vector-effect:non-scaling-stroke}
.forest .zero{stroke:var(--dim);opacity:.55}
.forest .run{stroke:var(--dim);fill:var(--dim)}
.forest .mean{stroke:var(--right);fill:var(--right)}
.forest line.mean{stroke-width:2.2}
.classes td:nth-child(2){width:45%;min-width:8rem}
.share{display:block;width:100%;height:.42rem;margin:.14rem 0;border-radius:99px}
.share .track{fill:var(--stage)}
.share .base{fill:var(--dim)}
.share .tuned{fill:var(--right)}
.within{color:var(--good)}
.outside{color:var(--bad);font-weight:600}
"""
