"""HumanML3D and KIT-ML as their authors lay them out."""

from __future__ import annotations

from pathlib import Path

from rl_motion.config import UserError
from rl_motion.data.datasets.sources import Options, Source


def recognise(path: Path) -> bool:
    """Whether this looks like such a folder."""
    return (path / "new_joint_vecs").is_dir() or (path / "texts").is_dir()


def read(path: Path, options: Options) -> Source:
    """Not written yet."""
    raise UserError(f"got {path}; want a kind that can be read; this one is not written yet")
