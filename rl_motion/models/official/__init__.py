"""Checkpoints as their authors lay them out: recognised, described, and converted to the project's own form once.

One file per layout. Each reads what its authors' code writes, with names and shapes from their own published tables;
`reading.py` is how: nothing foreign is unpickled.
"""

from __future__ import annotations

from pathlib import Path

from rl_motion.models.official.layout import Inspection, Layout, Sources

__all__ = ["LAYOUTS", "Inspection", "Layout", "Sources", "layout_of"]

LAYOUTS: dict[str, Layout] = {}
"""Official layouts by name, asked in this order. A new one is a file and a line here."""


def layout_of(path: Path) -> str | None:
    """The name of the layout that a path has; None where it is none of them."""
    return next((name for name, layout in LAYOUTS.items() if layout.recognise(path)), None)
