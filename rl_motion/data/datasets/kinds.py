"""The kinds of folders and files that `rl-motion data import` reads. A new one is a line in `KINDS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rl_motion.config import UserError
from rl_motion.config.errors import nearest
from rl_motion.data.datasets import humanml3d, motion_files
from rl_motion.data.datasets.sources import Kind

KINDS: Mapping[str, Kind] = {
    "humanml3d": Kind("a folder as HumanML3D or KIT-ML has it", humanml3d.recognise, humanml3d.read),
    **motion_files.KINDS,
}
"""By name; the first that recognises a path reads it."""


def kind_of(path: Path, name: str | None = None) -> str:
    """The kind of what lies there: the one of that name, or, without one, the first that recognises it.

    Raises:
        UserError: there is nothing there, no such kind, or none recognises it.
    """
    if not path.exists():
        raise UserError(f"got {path}, which is not there; want a folder or a file of motion; check the path")
    if name is not None and name not in KINDS:
        raise UserError(
            f"got --kind {name[:60]!r}; want one of {', '.join(KINDS)}; {nearest(name, KINDS, 'choose one of these')}"
        )
    if name is None:
        _refuse_parent(path)
    found = name or next((one for one, kind in KINDS.items() if kind.recognise(path)), None)
    if found is None:
        known = "; ".join(f"{one}: {kind.says}" for one, kind in KINDS.items())
        raise UserError(f"got {path}, of no kind that is known; want one of these ({known}); check the path")
    return found


def _refuse_parent(path: Path) -> None:
    """Refuse a folder with a HumanML3D folder in it: its features would pass for arrays of joints, all of them bad.

    Raises:
        UserError: names the folder that is meant.
    """
    if humanml3d.recognise(path) or not path.is_dir():
        return
    below = sorted(one for one in path.iterdir() if one.is_dir() and humanml3d.recognise(one))
    if below:
        raise UserError(
            f"got {path}, in which {below[0].name} is a folder as HumanML3D or KIT-ML has it; want one data set; give "
            f"{below[0]}, or --kind for other files in {path}"
        )
