"""What an evaluation keeps beside its report: read back as it was, or refused as broken."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_motion.config import UserError
from rl_motion.evaluation.evaluate import Motion, Record
from rl_motion.evaluation.stored import FOLDER, MOTIONS, RECORDS, files_of, read_motions, read_records
from rl_motion.tracking.files import write_together
from rl_motion.types import Prompt


def record(arm="base", **changes):
    given = {
        "split": "held_out",
        "arm": arm,
        "prompt": Prompt("p1", "a person walks, <b>'slowly'</b>", 38, "walk"),
        "sample": 1,
        "oracle_success": 1.0,
        "reward": 0.1 + 0.2,
        "diversity": 0.25,
        "sentinels": {"jerk": 10.0, "foot_skate": 0.0},
        "rewards": {"tmr": 0.5},
        "distance": 1.5,
    }
    return Record(**(given | changes))


def motion(split="held_out", prompt="p1", frames=5, seed=0):
    rng = np.random.default_rng(seed)
    joints = {arm: rng.normal(size=(frames, 22, 3)).astype(np.float32) for arm in ("base", "tuned")}
    return Motion(split, prompt, 12.5, joints)


@pytest.fixture
def run(tmp_path):
    records = [record(), record("tuned", oracle_success=None, diversity=None, distance=None, sentinels={"jerk": 2.0})]
    motions = [motion(), motion(prompt="p2", frames=8, seed=1), motion("original", "p3", seed=2)]
    write_together(files_of(tmp_path, records, motions))
    return tmp_path, records, motions


def test_records_and_motions_are_read_back_as_they_were(run):
    folder, records, motions = run
    assert read_records(folder) == records
    read = read_motions(folder)
    assert [(m.split, m.prompt_id, m.fps) for m in read] == [(m.split, m.prompt_id, m.fps) for m in motions]
    for got, want in zip(read, motions, strict=True):
        assert got.joints_by_arm.keys() == want.joints_by_arm.keys()
        for arm, joints in want.joints_by_arm.items():
            np.testing.assert_array_equal(got.joints_by_arm[arm], joints)
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == [MOTIONS, RECORDS]


def test_an_evaluation_without_motions_can_be_kept(tmp_path):
    write_together(files_of(tmp_path, [], []))
    assert (read_records(tmp_path), read_motions(tmp_path)) == ([], [])


def test_a_run_that_was_not_evaluated_says_what_to_do(tmp_path):
    for read in (read_records, read_motions):
        with pytest.raises(UserError, match=r"cannot be read.*want.*evaluate the run again"):
            read(tmp_path)


def arrays_of(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def npz(arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def parquet(table):
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def overwritten(path, start, count):
    content = path.read_bytes()
    return content[:start] + b"\xff" * count + content[start + count :]


SPOILT = {
    "cut off": (RECORDS, lambda path: path.read_bytes()[:-40]),
    "no parquet": (RECORDS, lambda path: b"split,arm\n"),
    "a column is missing": (RECORDS, lambda path: parquet(pq.read_table(path).drop_columns(["text"]))),
    "a column of another type": (
        RECORDS,
        lambda path: parquet(
            pq.read_table(path).drop_columns(["sample"]).append_column("sample", pa.array(["1", "2"]))
        ),
    ),
    "a sentinel that is a word": (
        RECORDS,
        lambda path: parquet(pq.read_table(path).append_column("sentinel/x", pa.array(["much", "more"]))),
    ),
    "motions cut off": (MOTIONS, lambda path: path.read_bytes()[:-400]),
    "a page of the table that is overwritten": (RECORDS, lambda path: overwritten(path, 4, 200)),
    "an array that is overwritten": (MOTIONS, lambda path: overwritten(path, path.stat().st_size // 2, 20)),
    "no zip": (MOTIONS, lambda path: b"joints"),
    "a pickle": (MOTIONS, lambda path: npz(arrays_of(path) | {"splits": np.array([{"a": 1}], dtype=object)})),
    "an array is missing": (MOTIONS, lambda path: npz({k: v for k, v in arrays_of(path).items() if "fps" not in k})),
    "fewer lengths": (MOTIONS, lambda path: npz(arrays_of(path) | {"held_out/length": np.array([5])})),
    "a length beyond the frames": (MOTIONS, lambda path: npz(arrays_of(path) | {"held_out/length": np.array([5, 9])})),
    "lengths that are no numbers": (
        MOTIONS,
        lambda path: npz(arrays_of(path) | {"held_out/length": np.array([1.5, 2.5])}),
    ),
    "not finite": (
        MOTIONS,
        lambda path: npz(arrays_of(path) | {"held_out/joints/base": np.full((2, 8, 22, 3), np.nan, np.float32)}),
    ),
    "no joints": (MOTIONS, lambda path: npz(arrays_of(path) | {"held_out/joints/base": np.zeros((2, 8), np.float32)})),
}


@pytest.mark.parametrize("case", SPOILT)
def test_broken_files_are_refused(run, case):
    name, spoil = SPOILT[case]
    path = run[0] / FOLDER / name
    path.write_bytes(spoil(path))
    read = read_records if name == RECORDS else read_motions
    with pytest.raises(UserError, match=r"got .*(want|no file of an evaluation).*evaluate the run again"):
        read(run[0])
    # The other file is as it was.
    assert (read_motions if name == RECORDS else read_records)(run[0])
