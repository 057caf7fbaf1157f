"""BVH is read as it says: forward kinematics in closed form, any order of channels, and clear errors."""

from itertools import permutations

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.recording import axis_rotation, forward_kinematics
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS
from tests.motion_formats import placed_bvh, rotation, turned_bvh, walk

ARM = """HIERARCHY
ROOT Hips
{{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition {root}
  JOINT Arm
  {{
    OFFSET 0 2 0
    CHANNELS 3 {arm}
    End Site
    {{
      OFFSET 3 0 0
    }}
  }}
}}
MOTION
Frames: {frames}
Frame Time: {seconds}
{rows}
"""


def arm(rows, order="Zrotation Xrotation Yrotation", seconds="0.05", frames=None):
    rows = [rows] if isinstance(rows, str) else rows
    return ARM.format(root=order, arm=order, frames=frames or len(rows), seconds=seconds, rows="\n".join(rows))


def read(tmp_path, text, name="a.bvh"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_bvh(path)


def test_a_turned_arm_is_where_it_must_be(tmp_path):
    got = read(tmp_path, arm(["0 0 0 0 0 0 0 0 0", "10 20 30 0 0 0 90 0 0", "0 0 0 90 0 0 0 0 90"]))
    assert got.names == ("Hips", "Arm", "Arm_end")
    assert got.parents == (-1, 0, 1)
    assert got.ends == {2}
    assert got.fps == 20
    want = [
        [[0, 0, 0], [0, 2, 0], [3, 2, 0]],
        [[10, 20, 30], [10, 22, 30], [10, 25, 30]],  # the arm turned up
        [[0, 0, 0], [-2, 0, 0], [-2, 0, -3]],  # the body on its left side, the arm turned back about its own Y
    ]
    np.testing.assert_allclose(got.positions_FJ3, want, atol=1e-12)
    np.testing.assert_array_equal(got.offsets_J3, [[0, 0, 0], [0, 2, 0], [3, 0, 0]])


@pytest.mark.parametrize("order", ["".join(p) for p in permutations("XYZ")] + ["ZY", "X", "YXY"[:2]])
def test_channels_are_applied_in_their_order(tmp_path, order):
    angles = dict(zip("XYZ", (20.0, -50.0, 110.0), strict=True))
    channels = " ".join(f"{axis}rotation" for axis in order)
    values = " ".join(str(angles[axis]) for axis in order)
    text = arm(f"1 2 3 {values} {values}", channels)
    text = text.replace(
        f"6 Xposition Yposition Zposition {channels}", f"{3 + len(order)} Xposition Yposition Zposition {channels}"
    )
    got = read(tmp_path, text.replace(f"CHANNELS 3 {channels}", f"CHANNELS {len(order)} {channels}"))
    turn = np.linalg.multi_dot([np.eye(3), np.eye(3), *(rotation(axis, angles[axis]) for axis in order)])
    np.testing.assert_allclose(got.rotations_FJ33[0, :2], [turn, turn], atol=1e-12)
    hand = np.array([1, 2, 3]) + turn @ [0, 2, 0] + turn @ turn @ [3, 0, 0]
    np.testing.assert_allclose(got.positions_FJ3[0, 2], hand, atol=1e-12)


def test_matrices_turn_as_those_written_out():
    for index, axis in enumerate("XYZ"):
        np.testing.assert_allclose(axis_rotation(index, np.radians([37.0]))[0], rotation(axis, 37.0), atol=1e-15)


@pytest.mark.parametrize("order", ["ZXY", "YXZ", "XYZ", "ZYX"])
def test_a_walk_comes_back(tmp_path, order):
    got = read(tmp_path, turned_bvh(walk(), order))
    at = [got.names.index(name) for name in JOINT_NAMES]
    np.testing.assert_allclose(got.positions_FJ3[:, at], walk(), atol=1e-5)


def test_positions_of_every_joint_take_the_place_of_offsets(tmp_path):
    got = read(tmp_path, placed_bvh(JOINT_NAMES, PARENTS, walk()))
    at = [got.names.index(name) for name in JOINT_NAMES]
    np.testing.assert_allclose(got.positions_FJ3[:, at], walk(), atol=1e-6)
    assert got.notes == ()


def test_positions_that_turn_far_from_their_offsets_still_take_their_place(tmp_path):
    """A handstand: every bone is twice its length away from where it was in frame 0."""
    flipped = np.concatenate([walk()[:2], walk()[2:] * [1.0, -1.0, -1.0]])
    got = read(tmp_path, placed_bvh(JOINT_NAMES, PARENTS, flipped))
    at = [got.names.index(name) for name in JOINT_NAMES]
    np.testing.assert_allclose(got.positions_FJ3[:, at], flipped, atol=1e-6)


def test_positions_near_zero_are_added_to_offsets(tmp_path):
    text = arm(["0 0 0 0 0 0 0 0 0.1 0 0 0", "0 0 0 0 0 0 0 0 -0.1 0 0 0"], "Zrotation Xrotation Yrotation").replace(
        "CHANNELS 3", "CHANNELS 6 Xposition Yposition Zposition"
    )
    got = read(tmp_path, text)
    np.testing.assert_allclose(got.positions_FJ3[:, 1], [[0, 2, 0.1], [0, 2, -0.1]])
    assert "added" in got.notes[0]


PLAIN = arm("1 2 3 40 50 60 70 80 90")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("  ", "\t"),
        "\ufeff" + PLAIN,
        PLAIN.replace("OFFSET", "offset").replace("JOINT", "Joint").replace("HIERARCHY", "Hierarchy"),
        PLAIN.replace("{", "{ # open").replace("MOTION", "// numbers follow\nMOTION"),
        PLAIN.replace("Frames: 1", "Frames:1").replace("Frame Time: 0.05", "Frame Time : 5e-2"),
        PLAIN.replace("1 2 3 40 50 60 70 80 90", "1.0e0 +2 3. 4E1 50 60\t70 80 90   \n\n"),
        PLAIN.replace("40 50 60 ", "40\n50 60\n"),
        PLAIN.replace("\n{", " {").replace("\n  {", " {").replace("\n    {", " {"),
        PLAIN.replace("OFFSET 3 0 0\n", "OFFSET\n3\n0 0\n"),
    ],
    ids=["crlf", "cr", "tabs", "bom", "case", "comments", "colons", "numbers", "wrapped", "braces", "lines"],
)  # fmt: skip
def test_what_is_written_otherwise_means_the_same(tmp_path, text):
    want, got = read(tmp_path, PLAIN, "b.bvh"), read(tmp_path, text)
    assert (got.names, got.parents, got.fps) == (want.names, want.parents, want.fps)
    np.testing.assert_array_equal(got.positions_FJ3, want.positions_FJ3)


def test_names_may_have_blanks(tmp_path):
    assert read(tmp_path, PLAIN.replace("JOINT Arm", "JOINT Left  Upper Arm")).names[1] == "Left Upper Arm"


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [("0.0083333", 120), (".008333", 120), ("0.0333333", 30), ("0.016667", 60), ("0.033367", 29.97), ("0.05", 20)],
)
def test_a_rounded_frame_time_is_a_whole_rate(tmp_path, seconds, fps):
    assert read(tmp_path, arm("0 0 0 0 0 0 0 0 0", seconds=seconds)).fps == pytest.approx(fps, abs=1e-3)


def test_a_huge_number_of_frames_in_the_header_takes_no_memory(tmp_path):
    with pytest.raises(UserError, match="Frames: 99999999999"):
        read(tmp_path, arm("0 0 0 0 0 0 0 0 0", frames=99_999_999_999))


def test_nan_is_read_as_such(tmp_path):
    got = read(tmp_path, arm(["0 0 0 0 0 0 0 0 0", "0 0 0 nan 0 0 0 0 0", "0 0 0 inf 0 0 0 0 0"]))
    assert np.isfinite(got.positions_FJ3[0]).all()
    assert not np.isfinite(got.positions_FJ3[1:, 1]).all(axis=-1).any()


def test_kinematics_in_parts_are_those_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    rotations = np.linalg.qr(rng.normal(size=(50, 22, 3, 3)))[0]
    offsets = rng.normal(size=(1, 22, 3))
    want = forward_kinematics(PARENTS, offsets, rotations)
    monkeypatch.setattr("rl_motion.motion.formats.recording._FRAMES_AT_ONCE", 7)
    np.testing.assert_array_equal(forward_kinematics(PARENTS, offsets, rotations), want)
    np.testing.assert_array_equal(forward_kinematics(PARENTS, np.repeat(offsets, 50, axis=0), rotations), want)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN.replace("MOTION", "ROOT Second\n{\n}\nMOTION"), "a second ROOT, 'Second'"),
        (arm(["0 0 0 0 0 0 0 0 0", "1 2"]), r"Frames: 2, but 11 numbers \(line 20 has 2"),
        (arm(["0 0 0 0 0 0 0 0 0"], frames=2), "Frames: 2, but 9 numbers, 1 frames"),
        (arm("0 0 0 0,5 0 0 0 0 0"), "decimal points"),
        (arm("0 0 0 1_0 0 0 0 0 0"), "'1_0'"),
        (PLAIN.replace("JOINT Arm", "JOINT Hips"), "two joints with the name 'Hips', the second in line 6"),
        (PLAIN.replace("CHANNELS 3", "CHANNELS 4"), "'End' among the 4 channels"),
        (PLAIN.replace("CHANNELS 3", "CHANNELS 2"), "'Yrotation' in 'Arm'"),
    ],
)
def test_errors_name_the_place(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as raised:
        read(tmp_path, text)
    assert "a.bvh, line" in str(raised.value)
    assert "; want " in str(raised.value)
    assert "\n" not in str(raised.value)
