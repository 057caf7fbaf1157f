"""report.html: figures first, then the moving skeletons, in one file that works offline.

The motion viewer makes the page; what is known in numbers goes between its heading and its motions.
"""

from __future__ import annotations

from collections.abc import Sequence

from rl_motion.evaluation.cards import STYLE, agreement, card, items, lines_table, sentinels, split_name, warnings
from rl_motion.evaluation.charts import class_bars, curve_charts
from rl_motion.evaluation.evaluate import BASE, TUNED, Shown
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.lines import Report, lines_of, not_measured
from rl_motion.motion.viewer import Extras, Panel, Row, motion_page
from rl_motion.types import Metrics


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
                Panel(arm, joints_FJ3, item.success_by_arm[arm], item.fps)
                for arm, joints_FJ3 in item.joints_by_arm.items()
            ],
            heading="" if place else "Motions: base beside tuned, same prompt, same noise",
        )
        for place, item in enumerate(shown)
    ]
    cards = [
        card("Before and after", lines_table(lines_of([report])), warnings(report["warnings"])),
        card("Learning", curve_charts({"": metrics})),
        *(
            card(f"Success per action, {split_name(split)}", class_bars(classes))
            for split, classes in report["classes"].items()
            if classes
        ),
        card("Sentinels and diversity", sentinels([report])),
        card("Do the judges agree? Held out", agreement([report], "held_out")),
        card("How to read this", items(_notes(report))),
    ]
    extras = Extras(style=STYLE, top=f'<div class="report">{"".join(cards)}</div>')
    return motion_page("Before and after post-training", rows, _lead(report), extras)


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


def _notes(report: Report) -> list[str]:
    examined = report["evaluation"]
    counts = ", ".join(f"{count} for {split_name(split)}" for split, count in examined["prompts"].items())
    return [
        f"prompts: {counts}; {examined['samples_per_prompt']} motions each under every arm",
        f"one training seed ({report['seed']}) and one evaluation seed ({examined['seed']}): the intervals "
        "say how sure the figures are for other prompts, not for other training runs",
        "the motions below are the first sample of the first prompts drawn, one action after the other; "
        "none was picked",
        *not_measured([report]),
        *report["conventions"],
        f"adapter sha256 {report['adapter_sha256']}; trained in {report['wall_s']:.0f} s",
    ]
