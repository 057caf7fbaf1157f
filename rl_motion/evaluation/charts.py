"""Small inline SVG charts: learning curves, intervals and before/after bars; nothing from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rl_motion.evaluation.format import number
from rl_motion.evaluation.statistics import Estimate
from rl_motion.tracking.jsonl import ITERATION
from rl_motion.types import Metrics

CURVES = re.compile(r"reward/total|policy/(kl|clip_fraction)|validation/\w+")
"""Metrics worth a curve, by full name."""
COLOURS = 8
"""Runs beyond so many repeat the first ones' colours."""

Point = tuple[float, float]


def curves(rows: Sequence[Metrics]) -> dict[str, list[Point]]:
    """(iteration, value) by metric, for the metrics that `CURVES` names and that have two finite values.

    Args:
        rows: of metrics.jsonl, each with its `iteration`.
    """
    series: dict[str, list[Point]] = {}
    for row in rows:
        for name, value in row.items():
            if CURVES.fullmatch(name) and math.isfinite(value):
                series.setdefault(name, []).append((row[ITERATION], value))
    return {name: series[name] for name in sorted(series) if len(series[name]) > 1}


def curve_charts(rows_by_run: Mapping[str, Sequence[Metrics]]) -> str:
    """A chart for every metric with all runs in it, and which colour is whose; nothing where no run has a curve.

    Args:
        rows_by_run: rows of metrics.jsonl by the run's name.
    """
    by_run = {name: curves(rows) for name, rows in rows_by_run.items()}
    metrics = sorted({metric for found in by_run.values() for metric in found})
    # An interval's ends are drawn as a band around what they belong to.
    ends = {f"{metric}{end}" for metric in metrics for end in ("_low", "_high")}
    charts = "".join(_chart(metric, by_run) for metric in metrics if metric not in ends)
    if not charts:
        return ""
    keys = "".join(
        f'<span class="s{place % COLOURS}"><i></i>{escape(name)}</span>' for place, name in enumerate(by_run)
    )
    legend = f'<p class="runs">{keys}</p>' if len(by_run) > 1 else ""
    return f'{legend}<div class="curves">{charts}</div>'


def _chart(metric: str, by_run: Mapping[str, Mapping[str, list[Point]]]) -> str:
    width, height, pad = 300.0, 120.0, 8.0
    drawn = [
        (place, found[metric], found.get(f"{metric}_low", []), found.get(f"{metric}_high", []))
        for place, found in enumerate(by_run.values())
        if metric in found
    ]
    xs = [x for _, points, _, _ in drawn for x, _ in points]
    ys = [y for _, *lines in drawn for line in lines for _, y in line]
    x_range, y_range = (min(xs), max(xs)), (min(ys), max(ys))

    def path(points: Sequence[Point]) -> str:
        return " ".join(
            f"{pad + (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1) * (width - 2 * pad):.1f},"
            f"{height - pad - (y - y_range[0]) / ((y_range[1] - y_range[0]) or 1) * (height - 2 * pad):.1f}"
            for x, y in points
        )

    shapes = [
        f'<polygon class="s{place % COLOURS}" points="{path([*low, *reversed(high)])}"/>'
        for place, _, low, high in drawn
        if low and high
    ]
    shapes += [f'<polyline class="s{place % COLOURS}" points="{path(points)}"/>' for place, points, _, _ in drawn]
    last = "" if len(drawn) > 1 else f" <b>{drawn[0][1][-1][1]:.4g}</b>"
    return (
        f'<figure class="curve"><figcaption>{escape(metric)}{last}</figcaption>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(metric)} over iterations">'
        f"{''.join(shapes)}</svg>"
        f"<small>{y_range[0]:.4g} to {y_range[1]:.4g}, iterations {x_range[0]:.0f} to {x_range[1]:.0f}</small></figure>"
    )


def intervals_svg(runs: Sequence[Estimate], mean: Estimate | None) -> str:
    """Changes with their intervals, one line a run and the mean over runs below them, around zero in the middle."""
    lines = [*((one, "run") for one in runs), *([(mean, "mean")] if mean else [])]
    reach = max(abs(v) for one, _ in lines for v in (one.value, one.low, one.high) if v is not None) or 1.0
    height = 7 * len(lines) + 3

    def at(value: float) -> float:
        return 60 + 56 * value / reach

    shapes = [f'<line class="zero" x1="60" x2="60" y1="0" y2="{height}"/>']
    for row, (one, kind) in enumerate(lines):
        y = 7 * row + 5
        if one.low is not None and one.high is not None:
            shapes.append(f'<line class="{kind}" x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{y}" y2="{y}"/>')
        shapes.append(f'<circle class="{kind}" cx="{at(one.value):.1f}" cy="{y}" r="2.2"/>')
    return f'<svg class="forest" viewBox="0 0 120 {height}" aria-hidden="true">{"".join(shapes)}</svg>'


def class_bars(classes: Mapping[str, Mapping[str, Any]]) -> str:
    """Success per action: a bar for the base and one for tuned, their values and the number of motions."""
    rows = "".join(
        f"<tr><th>{escape(name or 'no group')}</th>"
        f"<td>{_bar(value['base'], 'base')}{_bar(value['tuned'], 'tuned')}</td>"
        f"<td>{number(value['base'], percent=True)}</td><td>{number(value['tuned'], percent=True)}</td>"
        f"<td>{escape(str(value['n']))} / {escape(str(value['prompts']))}</td></tr>"
        for name, value in classes.items()
    )
    return (
        '<table class="classes"><thead><tr><th>action</th><th></th><th>base %</th><th>tuned %</th>'
        f"<th>motions / prompts</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _bar(share: float, arm: str) -> str:
    track = '<rect class="track" width="100" height="6"/>'
    filled = f'<rect class="{arm}" width="{100 * share:.1f}" height="6"/>'
    shape = 'class="share" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"'
    return f"<svg {shape}>{track}{filled}</svg>"
