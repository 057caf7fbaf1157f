"""A small folder as HumanML3D's authors lay theirs out, and ways to damage it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IDS: Mapping[str, Sequence[str]] = {
    "train": ["000001", "M000001", "000002", "M000002", "000003", "000004"],
    "val": ["000005"],
    "test": ["000006", "M000006"],
}
LINE = "a person walks forward.#a/DET person/NOUN walk/VERB forward/ADV#0.0#0.0\n"


def motion(name: str, frames: int = 50, width: int = 263) -> NDArray[np.float32]:
    """The motion of an id, the same each time."""
    seed = int(name.removeprefix("M")) * 2 + name.startswith("M")
    return np.random.default_rng(seed).normal(size=(frames, width)).astype(np.float32)


def lay(folder: Path, width: int = 263, frames: int = 50) -> Path:
    """Write the folder: every motion of so many frames, with one caption of the whole."""
    (folder / "new_joint_vecs").mkdir(parents=True)
    (folder / "texts").mkdir()
    for split, names in IDS.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            np.save(folder / "new_joint_vecs" / f"{name}.npy", motion(name, frames, width))
            (folder / "texts" / f"{name}.txt").write_text(LINE)
    np.save(folder / "Mean.npy", np.linspace(-1, 1, width, dtype=np.float32))
    np.save(folder / "Std.npy", np.linspace(1, 2, width, dtype=np.float32))
    return folder
