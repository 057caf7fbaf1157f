"""What an evaluation left in a run's folder, as reports read it: measured motions, their joints, trained prompts."""

from __future__ import annotations

from pathlib import Path

from rl_motion.config import UserError
from rl_motion.evaluation.changed import Kept, Measured
from rl_motion.evaluation.stored import FOLDER, MOTIONS, RECORDS, read_motions, read_records
from rl_motion.motion.skeleton import JOINT_NAMES


def read_kept(folder: Path) -> Kept | None:
    """What the run's evaluation kept; None where it was made before evaluations kept anything.

    Raises:
        UserError: a file is missing or broken.
    """
    if not any((folder / FOLDER / name).exists() for name in (RECORDS, MOTIONS)):
        return None
    rows = [
        Measured(
            record.split,
            record.arm,
            record.prompt.id,
            record.prompt.text,
            record.prompt.group,
            record.sample,
            record.oracle_success,
            record.reward,
        )
        for record in read_records(folder)
    ]
    motions = read_motions(folder)
    shapes = {joints.shape[1] for motion in motions for joints in motion.joints_by_arm.values()}
    if not shapes <= {len(JOINT_NAMES)}:
        raise UserError(
            f"got {folder / FOLDER / MOTIONS} with {max(shapes)} joints; want {len(JOINT_NAMES)}; make it anew with "
            f"`rl-motion resume {folder}`, which evaluates the run again"
        )
    return Kept(
        rows,
        {
            (motion.split, arm, motion.prompt_id): joints_FJ3
            for motion in motions
            for arm, joints_FJ3 in motion.joints_by_arm.items()
        },
        {motion.split: motion.fps for motion in motions},
    )


def trained_texts(folder: Path) -> set[str] | None:
    """The texts of the prompts that a run could train on; None where it kept no table of them that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder / "prompts" / "ledger.parquet", columns=["text"])
        return {str(text) for text in table.column("text").to_pylist() if text is not None}
    except (OSError, KeyError, pa.ArrowException):
        return None
