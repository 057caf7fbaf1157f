"""Small inline SVG charts: learning curves and before/after bars; nothing from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rl_motion.evaluation.format import number
from rl_motion.tracking.jsonl import ITERATION
from rl_motion.types import Metrics

CURVES = re.compile(r"reward/total|policy/(kl|clip_fraction)|validation/\w+")
"""Metrics worth a curve, by full name."""

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


def curve_svg(name: str, points: Sequence[Point]) -> str:
    """One metric over iterations, with its range and its last value."""
    width, height, pad = 300.0, 110.0, 8.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    span_x = (max(xs) - min(xs)) or 1.0
    span_y = (max(ys) - min(ys)) or 1.0
    path = " ".join(
        f"{pad + (x - min(xs)) / span_x * (width - 2 * pad):.1f},"
        f"{height - pad - (y - min(ys)) / span_y * (height - 2 * pad):.1f}"
        for x, y in points
    )
    return (
        f'<figure class="curve"><figcaption>{escape(name)} <b>{ys[-1]:.4g}</b></figcaption>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(name)} over iterations">'
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.6"/></svg>'
        f"<small>{min(ys):.4g} to {max(ys):.4g}, iterations {min(xs):.0f} to {max(xs):.0f}</small></figure>"
    )


def class_bars(classes: Mapping[str, Mapping[str, Any]]) -> str:
    """Success per action: a bar for the base and one for tuned, their values and the number of motions."""
    rows = "".join(
        f"<tr><th>{escape(name or 'no group')}</th>"
        f"<td>{_bar(value['base'], 'base')}{_bar(value['tuned'], 'tuned')}</td>"
        f"<td>{number(value['base'], percent=True)}</td><td>{number(value['tuned'], percent=True)}</td>"
        f"<td>{value['n']} / {value['prompts']}</td></tr>"
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
