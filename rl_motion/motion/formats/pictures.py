"""One HTML page with a still picture of every imported file's skeleton: wrong axes are seen at once.

The page is one file, has no script, and works offline. Names and notes are foreign text: they enter escaped.
Shape legend: F frames, J joints (22). Metres, Y up, facing +Z.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS

_FRAMES = 3
"""Of each view: the first, the middle, the last."""
_VIEWS = (0, 2)
"""Axis that goes to the right. In front of a body its left is on the right; seen from its right, it looks right."""
_WIDE, _HIGH, _PIXELS = 1.5, 2.2, 100.0
"""Of a figure, metres, and pixels of a metre."""
_HEAD = JOINT_NAMES.index("head")


@dataclass(frozen=True, slots=True)
class Picture:
    """What the page shows of a file.

    svg: `skeleton_svg`, or empty. names: a map of joint names to complete, where none fitted.
    """

    file: str
    svg: str
    wrong: tuple[str, ...]
    guessed: tuple[str, ...]
    left_out: str
    captions: tuple[str, ...] = ()
    names: str = ""


def skeleton_svg(joints_FJ3: FloatArray) -> str:
    """Return an SVG of the body in three frames, from the front and from its right, floor and feet below.

    Args:
        joints_FJ3: finite.
    """
    frames = sorted({0, len(joints_FJ3) // 2, len(joints_FJ3) - 1})
    floor = float(joints_FJ3[..., 1].min())
    parts = []
    for view, across in enumerate(_VIEWS):
        for column, frame in enumerate(frames):
            body_J3 = joints_FJ3[frame]
            left = (view * _FRAMES + column + 0.5) * _WIDE + (0.4 if view else 0.0)
            x_J = np.clip(body_J3[:, across] - body_J3[0, across], -_WIDE, _WIDE) + left
            y_J = _HIGH - np.clip(body_J3[:, 1] - floor, -0.1, _HIGH + 1.0)
            parts.append(_figure(x_J * _PIXELS, y_J * _PIXELS))
    width = (2 * _FRAMES * _WIDE + 0.4) * _PIXELS
    high = _HIGH * _PIXELS
    return (
        f'<svg viewBox="0 -20 {width:.0f} {high + 40:.0f}" role="img" aria-label="front and side">'
        f'<path class="f" d="M0 {high:.0f}H{_FRAMES * _WIDE * _PIXELS:.0f}M{(_FRAMES * _WIDE + 0.4) * _PIXELS:.0f} '
        f'{high:.0f}H{width:.0f}"/>{"".join(parts)}</svg>'
    )


def _figure(x_J: FloatArray, y_J: FloatArray) -> str:
    """Three paths: the middle, left and right limbs; a circle for the head."""
    strokes = {"m": "", "l": "", "r": ""}
    for joint, parent in enumerate(PARENTS[1:], start=1):
        side = JOINT_NAMES[joint][0] if JOINT_NAMES[joint].startswith(("left_", "right_")) else "m"
        strokes[side] += f"M{x_J[parent]:.0f} {y_J[parent]:.0f}L{x_J[joint]:.0f} {y_J[joint]:.0f}"
    lines = "".join(f'<path class="{side}" d="{path}"/>' for side, path in strokes.items())
    return f'{lines}<circle class="m" cx="{x_J[_HEAD]:.0f}" cy="{y_J[_HEAD]:.0f}" r="7"/>'


def page(title: str, pictures: Iterable[Picture]) -> str:
    """Return the page: what is wrong first, then the rest, in the order given."""
    cards = list(pictures)
    odd = [card for card in cards if card.left_out or card.wrong]
    fine = [card for card in cards if not (card.left_out or card.wrong)]
    left_out = sum(bool(card.left_out) for card in cards)
    summary = f"{len(cards)} files, {left_out} left out, {len(odd) - left_out} more with something odd."
    return _PAGE.format(title=escape(title), summary=summary, cards="\n".join(map(_card, [*odd, *fine])))


def _card(card: Picture) -> str:
    kind = "out" if card.left_out else "odd" if card.wrong else "fine"
    told = [f'<p class="why">left out: {escape(card.left_out)}</p>'] if card.left_out else []
    told += _list("wrong", card.wrong) + _list("guessed", card.guessed) + _list("captions", card.captions)
    if card.names:
        told.append(
            "<details><summary>A map of names to complete, for --names</summary>"
            f"<pre>{escape(card.names)}</pre></details>"
        )
    return f'<section class="{kind}"><h2>{escape(card.file)}</h2>{card.svg}{"".join(told)}</section>'


def _list(name: str, lines: Sequence[str]) -> list[str]:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f'<ul class="{name}">{items}</ul>'] if items else []


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root{{color-scheme:light dark;--l:#c2410c;--r:#1d4ed8;--m:#57534e;--line:#a8a29e}}
@media (prefers-color-scheme:dark){{:root{{--l:#fb923c;--r:#60a5fa;--m:#d6d3d1;--line:#57534e}}}}
body{{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem}}
section{{border:1px solid var(--line);border-left-width:6px;border-radius:6px;padding:.6rem 1rem;margin:1rem 0;
content-visibility:auto;contain-intrinsic-size:auto 300px}}
.out{{border-left-color:#dc2626}}.odd{{border-left-color:#d97706}}.fine{{border-left-color:#16a34a}}
h2{{font-size:1rem;margin:.2rem 0;overflow-wrap:anywhere}}svg{{width:100%;max-height:240px}}
path,circle{{fill:none;stroke-width:4;stroke-linecap:round}}.l{{stroke:var(--l)}}.r{{stroke:var(--r)}}
.m{{stroke:var(--m)}}.f{{stroke:var(--line);stroke-width:1}}ul{{margin:.2rem 0;padding-left:1.2rem}}
.guessed,.captions{{opacity:.75}}.why,.wrong{{font-weight:600}}pre{{overflow:auto}}
</style></head><body><h1>{title}</h1>
<p>{summary} Each body in its first, middle and last frame, from the front and from its right, as it was read:
<b style="color:var(--l)">left limbs</b>, <b style="color:var(--r)">right limbs</b>. It should stand on the line, look
at you in the first frame and to the right in the fourth. Where it lies or stands on its head without reason, axes were
guessed wrongly; where left and right are swapped, names were.</p>
{cards}
</body></html>
"""
