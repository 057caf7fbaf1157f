"""Arrays of joints are read in SMPL's order, without unpickling anything."""

import io
import pickle

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.motion.formats.joint_arrays import JOINT_COUNTS, read_joint_array
from rl_motion.motion.skeleton import JOINT_NAMES
from tests.motion_formats import walk


def padded(count):
    more = np.repeat(walk()[:, -1:], count - 22, axis=1)
    return np.concatenate([walk(), more], axis=1).astype(np.float32)


@pytest.mark.parametrize("count", JOINT_COUNTS)
def test_the_first_22_are_the_body(tmp_path, count):
    np.save(tmp_path / "a.npy", padded(count))
    got = read_joint_array(tmp_path / "a.npy")
    assert got.names == JOINT_NAMES
    assert got.fps is None
    np.testing.assert_array_equal(got.positions_FJ3, walk().astype(np.float32))


@pytest.mark.parametrize("name", ["fps", "mocap_framerate", "mocap_frame_rate"])
def test_an_npz_tells_its_rate(tmp_path, name):
    np.savez(tmp_path / "a.npz", joints=padded(22), **{name: np.array(120.0)})
    assert read_joint_array(tmp_path / "a.npz").fps == 120


def test_the_array_is_joints_or_the_only_one(tmp_path):
    np.savez(tmp_path / "a.npz", trans=walk()[:, 0], xyz=padded(24))
    np.testing.assert_array_equal(read_joint_array(tmp_path / "a.npz").positions_FJ3, walk().astype(np.float32))
    np.savez_compressed(tmp_path / "a.npz", joints=padded(22), other=padded(24) + 1)
    np.testing.assert_array_equal(read_joint_array(tmp_path / "a.npz").positions_FJ3, walk().astype(np.float32))
    np.savez(tmp_path / "a.npz", one=padded(22), other=padded(24))
    with pytest.raises(UserError, match="want one array 'joints'"):
        read_joint_array(tmp_path / "a.npz")


def test_poses_without_a_body_model_are_told_apart(tmp_path):
    np.savez(tmp_path / "a.npz", poses=np.zeros((10, 156)), trans=np.zeros((10, 3)), mocap_framerate=120)
    with pytest.raises(UserError, match="poses are rotations"):
        read_joint_array(tmp_path / "a.npz")


def test_features_are_told_apart(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((40, 263), np.float32))
    with pytest.raises(UserError, match="import their folder as humanml3d"):
        read_joint_array(tmp_path / "a.npy")


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "b.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npz", joints=np.array([Evil()], dtype=object))
    for name in ("a.npy", "b.npy", "c.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            read_joint_array(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 22, 3)})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue() + bytes(1000))
    with pytest.raises(UserError, match="cannot be read"):
        read_joint_array(tmp_path / "a.npy")
