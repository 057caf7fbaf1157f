"""A web page with moving skeletons, in one file that works offline: people judge motions by looking at them.

Captions, labels and notes are foreign text: they enter the page escaped, as HTML text only, and a content
security policy lets nothing run but the page's own script. Shape legend: F frames, J joints (22).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from rl_motion.motion.features import FPS
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import JOINT_NAMES, LEFT_JOINTS, PARENTS, RIGHT_JOINTS
from rl_motion.motion.viewer_assets import SCRIPT, STYLE

_INT16_MAX = 32767


@dataclass(frozen=True, eq=False)
class Panel:
    """One moving skeleton.

    Attributes:
        label: where the motion comes from, such as `base` or `tuned`.
        joints_FJ3: positions in metres, Y up, floor at y = 0; shown to the millimetre.
        verdict: whether the motion does what the prompt says; None shows no verdict.
        fps: frames per second.
    """

    label: str
    joints_FJ3: FloatArray
    verdict: bool | None = None
    fps: float = FPS


@dataclass(frozen=True, eq=False)
class Row:
    """A prompt and the motions made for it, which play in step.

    `heading` stands above the card, `note` below the prompt; both are plain text.
    """

    prompt: str
    panels: Sequence[Panel]
    heading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Extras:
    """What a page has beside its motions: markup of our own, in which all foreign text is escaped already.

    Attributes:
        style: a style sheet, after the viewer's.
        top: between the heading and the motions.
        bottom: below the motions.
        data: JSON for `script`, which reads it from the element `extras`.
        script: runs after the viewer's, whose rows it finds in `rows`.
    """

    style: str = ""
    top: str = ""
    bottom: str = ""
    data: object = None
    script: str = ""


def motion_page(title: str, rows: Sequence[Row], notes: str = "", extras: Extras | None = None) -> str:
    """Return a self-contained HTML page; write it to a file or log it as an artifact.

    Args:
        title: heading of the page.
        rows: one card each.
        notes: plain text under the heading; line breaks are kept.
        extras: what else is on the page.

    Raises:
        ValueError: a panel's joints are not finite [F >= 1, 22, 3].
    """
    extras = extras or Extras()
    data = {
        "parents": PARENTS,
        "left": LEFT_JOINTS,
        "right": RIGHT_JOINTS,
        "head": JOINT_NAMES.index("head"),
        "rows": [[_pack(panel) for panel in row.panels] for row in rows],
    }
    scripts = [SCRIPT, extras.script] if extras.script else [SCRIPT]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return _PAGE.format(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}",
        title=escape(title),
        notes=f'<p class="notes">{escape(notes)}</p>' if notes else "",
        style=STYLE + extras.style,
        top=extras.top,
        bar="" if rows else " hidden",
        rows="\n".join(_row(row) for row in rows),
        bottom=extras.bottom,
        data=_json("motions", data) + ("" if extras.data is None else _json("extras", extras.data)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(name: str, data: object) -> str:
    # '<' can end the script element; JSON allows it to be written as an escape.
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{packed}</script>\n'


def _pack(panel: Panel) -> dict[str, str | int | float]:
    joints = np.asarray(panel.joints_FJ3)
    shape = joints.shape
    if len(shape) != 3 or shape[0] < 1 or shape[1:] != (len(PARENTS), 3) or not np.isfinite(joints).all():
        raise ValueError(
            f"panel {panel.label!r}: got joints {shape}, want finite [F >= 1, {len(PARENTS)}, 3] in metres; "
            "cut the padding off and drop NaN"
        )
    # Millimetres in 16 bits reach 32 m: what flies farther stops there, in view.
    millimetres = np.clip(np.rint(joints * 1000), -_INT16_MAX, _INT16_MAX).astype("<i2")
    return {"fps": panel.fps, "frames": shape[0], "joints": base64.b64encode(millimetres.tobytes()).decode()}


def _row(row: Row) -> str:
    panels = "\n".join(_figure(panel, row.prompt) for panel in row.panels)
    prompt = escape(row.prompt)
    heading = f'<h2 class="motions">{escape(row.heading)}</h2>\n' if row.heading else ""
    note = f'<p class="note">{escape(row.note)}</p>\n' if row.note else ""
    return f"""{heading}<section aria-label="{prompt}"><h2>{prompt}</h2>
{note}<div class="panels">
{panels}
</div>
<div class="controls"><button type="button">Play</button>
<input type="range" min="0" value="0" step="1" aria-label="Frame"><output></output></div></section>"""


def _figure(panel: Panel, prompt: str) -> str:
    verdict = ""
    if panel.verdict is not None:
        kind, words = ("yes", "✓ does what it says") if panel.verdict else ("no", "✗ does not")
        verdict = f'<span class="verdict {kind}">{words}</span>'
    label = escape(panel.label)
    return f"""<figure><figcaption><span>{label}</span>{verdict}</figcaption>
<canvas tabindex="0" role="img" aria-label="{label}: {escape(prompt)}. Arrows turn it."></canvas>
</figure>"""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1>{notes}</header>
{top}
<div class="bar"{bar}><div><button type="button" id="all">Play all</button>
<label>Speed <select id="speed"><option value="0.25">0.25×</option><option value="0.5">0.5×</option>
<option value="1" selected>1×</option><option value="2">2×</option></select></label>
<label>View <select id="view"><option value="0.6,0.22">Three-quarter</option>
<option value="0,0.1">Front</option><option value="1.5708,0.1">Left side</option>
<option value="3.1416,0.1">Back</option><option value="0,1.5">Above</option></select></label>
<span class="legend"><span><i style="background:var(--left)"></i>left limbs</span>
<span><i style="background:var(--right)"></i>right limbs</span>
<span><i style="background:var(--trail)"></i>path on the ground</span></span></div></div>
<main>
{rows}
<footer{bar}>Drag a figure, or focus it and use the arrow keys, to turn the view; Space plays and pauses.
Grid lines are 0.5 m apart.</footer></main>
{bottom}
{data}{scripts}</body></html>
"""
