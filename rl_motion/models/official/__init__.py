"""Checkpoints as their authors lay them out: recognised, described, and converted to the project's own form once.

One file per layout. Each reads what its authors' code writes, with names and shapes from their own published tables;
`reading.py` is how: nothing foreign is unpickled.
"""

from __future__ import annotations

from pathlib import Path

from rl_motion.config import UserError
from rl_motion.models.official import guo, mdm, mdm_smpl, own, stablemofusion, tmr
from rl_motion.models.official.layout import Inspection, Layout, Sources

__all__ = ["LAYOUTS", "Inspection", "Layout", "Sources", "layout_of"]

LAYOUTS: tuple[Layout, ...] = (
    own.CHECKPOINT,
    own.ADAPTER,
    stablemofusion.LAYOUT,
    mdm.LAYOUT,
    mdm_smpl.LAYOUT,
    tmr.LAYOUT,
    guo.LAYOUT,
)
"""Layouts, asked in this order: the project's own, then the official ones. A new one is a file and a line here."""


def layout_of(path: Path) -> Layout:
    """The layout that a path has.

    Raises:
        UserError: there is nothing at the path, or it is none of them.
    """
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise UserError(
            f"got {str(path)[:200]!r}, which does not exist; want a checkpoint's folder or file; give its path"
        )
    found = next((layout for layout in LAYOUTS if layout.recognise(path)), None)
    if found is None:
        raise UserError(
            f"got {path}, which is no checkpoint that is known; want a folder with "
            f"{'; or '.join(layout.files for layout in LAYOUTS)}; give that, laid out as its authors publish it"
        )
    return found
