"""BVH as written: read back by the reader of other programs' files, and through features and back."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from rl_motion.data.actions import perform
from rl_motion.data.embedded import splits
from rl_motion.motion.features import features_to_joints, joints_to_features
from rl_motion.motion.formats import bvh_write
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.bvh_write import bvh_text, yxz_degrees
from rl_motion.motion.formats.retarget import face_forward, to_body
from rl_motion.motion.inverse import NODE_NAMES, Rotations, bone_lengths, solve
from rl_motion.motion.kit import LONG_LEGGED_OFFSETS_J3
from rl_motion.motion.rotations import qmul, quaternion_to_matrix
from rl_motion.motion.skeleton import HUMANML3D

CLAIMS = {claim.action: claim for part in ("source/train", "target/train") for claim in splits()[part]}
ACTIONS = ["walk", "jump", "squat", "spin", "wave", "kick", "circle"]
LONG_J = np.linalg.norm(LONG_LEGGED_OFFSETS_J3[1:], axis=-1)


def motion(action, frames=40, seed=3):
    return np.asarray(perform(CLAIMS[action], frames, np.random.default_rng(seed)), float)


def written(rotations, folder):
    path = folder / "motion.bvh"
    path.write_text(bvh_text(rotations), encoding="ascii")
    return path


def about(axis, radians):
    """Quaternions that turn about x, y or z."""
    half = np.asarray(radians) / 2
    q = np.zeros((*half.shape, 4))
    q[..., 0], q[..., 1 + axis] = np.cos(half), np.sin(half)
    return q


def columns(text, name):
    """The channels of one joint, a row a frame."""
    names, joint = [], ""
    for line in text.splitlines():
        words = line.split()
        if words[0] in {"ROOT", "JOINT"}:
            joint = words[1]
        if words[0] == "CHANNELS":
            names += [(joint, word) for word in words[2:]]
    rows = [[float(word) for word in line.split()] for line in text.partition("Frame Time:")[2].splitlines()[1:]]
    return np.array(rows)[:, [joint == name for joint, _ in names]]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("lengths_J", [None, LONG_J], ids=["own", "given"])
def test_a_reader_of_any_bvh_finds_the_joints(action, lengths_J, tmp_path):
    rotations = solve(motion(action), 20.0, lengths_J)
    recording = read_bvh(written(rotations, tmp_path))
    assert recording.fps == 20.0
    index = [recording.names.index(name) for name in NODE_NAMES]
    np.testing.assert_allclose(recording.positions_FJ3[:, index], rotations.nodes()[0], atol=2e-5)
    body = to_body(recording)
    np.testing.assert_allclose(body.joints_FJ3, rotations.joints(), atol=2e-5)
    assert not body.wrong
    if lengths_J is not None:
        np.testing.assert_allclose(bone_lengths(body.joints_FJ3), LONG_J, atol=1e-5)


def round_trip(joints_FJ3, folder):
    """BVH -> features -> BVH with the first one's proportions: mean distance of the joints, metres."""
    before = to_body(read_bvh(written(solve(joints_FJ3, 20.0), folder))).joints_FJ3
    features = joints_to_features(before, own_heading=True)
    decoded = features_to_joints(torch.from_numpy(features)).numpy()
    again = solve(decoded, 20.0, bone_lengths(before))
    after = to_body(read_bvh(written(again, folder))).joints_FJ3
    return np.linalg.norm(face_forward(after) - face_forward(before[:-1]), axis=-1).mean()


@pytest.mark.parametrize("action", ACTIONS)
def test_bvh_to_features_to_bvh_keeps_the_joints(action, tmp_path):
    joints = motion(action)
    assert round_trip(joints, tmp_path) < 1e-3
    # Another body than the features' own.
    assert round_trip(solve(joints, 20.0, LONG_J).joints(), tmp_path) < 1e-3


def test_the_round_trip_would_notice_another_body(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.bone_lengths", lambda joints: np.full(21, 0.2))
    assert round_trip(motion("walk"), tmp_path) > 0.01


def test_real_motion_goes_to_features_and_back(shared_dir, tmp_path):
    folder = shared_dir / "data/cmu22"
    if not folder.is_dir():
        pytest.skip("the recordings are not here")
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    with np.load(folder / "joints.npz", allow_pickle=False) as arrays:
        joints, offsets = arrays["joints"], arrays["offsets"]
    errors = [
        round_trip(joints[offsets[n] : offsets[n + 1]].astype(float), tmp_path)
        for n, row in enumerate(rows)
        if not row["flags"] and n % 40 == 0
    ]
    assert len(errors) > 5
    assert max(errors) < 0.01


def test_angles_give_the_rotations_also_where_two_axes_coincide():
    rng = np.random.default_rng(0)
    some = rng.normal(size=(200, 4))
    some /= np.linalg.norm(some, axis=-1, keepdims=True)
    locked = qmul(about(1, np.linspace(-3, 3, 9)), about(0, np.array([np.pi / 2, -np.pi / 2] * 4 + [np.pi / 2])))
    for turns in (some, locked):
        y, x, z = np.moveaxis(np.radians(yxz_degrees(turns)), -1, 0)
        again = qmul(qmul(about(1, y), about(0, x)), about(2, z))
        np.testing.assert_allclose(quaternion_to_matrix(again), quaternion_to_matrix(turns), atol=1e-7)


def rolling(frames=120):
    """A body that turns three times and rolls over its head once: heading and pitch pass every angle."""
    local = np.zeros((frames, len(NODE_NAMES), 4))
    local[..., 0] = 1
    yaw, pitch = np.linspace(0, 6 * np.pi, frames), np.linspace(0, 2 * np.pi, frames)
    local[:, 0] = qmul(about(1, yaw), about(0, pitch + 0.01))
    return Rotations(solve(motion("walk"), 20.0).offsets_N3, np.zeros((frames, 3)), local, 20.0)


def test_angles_go_on_without_jumps(monkeypatch):
    assert np.abs(np.diff(columns(bvh_text(rolling()), "Hips")[:, 3:], axis=0)).max() < 30
    monkeypatch.setattr(bvh_write, "_continued", lambda angles: angles.copy())
    assert np.abs(np.diff(columns(bvh_text(rolling()), "Hips")[:, 3:], axis=0)).max() > 150


def test_the_file_is_as_blender_reads_it():
    rotations = solve(motion("walk"), 12.5)
    text = bvh_text(rotations)
    assert text.startswith("HIERARCHY\nROOT Hips\n{\n\tOFFSET 0.000000 0.000000 0.000000\n\tCHANNELS 6 Xposition")
    assert "\nMOTION\nFrames: 40\nFrame Time: 0.08000000\n" in text
    assert text.isascii()
    assert "-0.000000" not in text
    assert "nan" not in text.lower()
    np.testing.assert_allclose(columns(text, "Hips")[:, :3], rotations.root_F3, atol=1e-6)
    assert 0.7 < columns(text, "Hips")[0, 1] < 1.1  # metres, Y up
    assert len(re.findall(r"End Site", text)) == 5
    lengths = HUMANML3D.bone_lengths(rotations.joints())[0]
    assert lengths[3] == pytest.approx(0.39, abs=0.01)
