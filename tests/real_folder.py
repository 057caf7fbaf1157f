"""A small folder in the form that rl_motion/data/folder.py reads, made of the embedded world's motions."""

import json

import numpy as np

from rl_motion.data.actions import perform
from rl_motion.data.embedded import splits

KINDS = {"walk": "walk", "run": "circle", "sit": "squat", "jump": "jump", "dance": "spin"}
"""Category that a label names -> action that moves so."""


def rows_and_joints(trials=9, frames=(24, 45)):
    """A clip a trial for every category, and a second of every third trial: lines of the file, joints of each clip."""
    claims = {c.action: c for part in ("source/train", "target/train") for c in splits()[part]}
    rows, joints = [], []
    for kind, action in KINDS.items():
        for trial in range(trials):
            for clip in range(2 if trial % 3 == 0 else 1):
                number = len(rows)
                count = frames[0] + (7 * number) % (frames[1] - frames[0])
                moved = perform(claims[action], count, np.random.default_rng(number))
                joints.append(np.asarray(moved, np.float32) + np.float32([0.3, 0.2, -1.0]))
                said = [f"a person {kind}s in manner {trial} of take {clip}", f"someone {kind}s"]
                rows.append({
                    "name": f"{kind}_{trial}_{clip}", "trial": f"{kind}_{trial}", "captions": said, "cmu_desc": kind,
                    "flags": [],
                })  # fmt: skip
    return rows, joints


def write_folder(folder, rows, joints, /, **arrays):
    """Write both files; `arrays` replace what would be written."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "clips.jsonl").write_text(lines, encoding="utf-8")
    given = {
        "joints": np.concatenate(joints),
        "offsets": np.cumsum([0, *map(len, joints)]).astype(np.int32),
        "names": np.array([row["name"] for row in rows]),
        "fps": np.int64(20),
    } | arrays
    np.savez(folder / "joints.npz", **{name: array for name, array in given.items() if array is not None})
    return folder
