"""HumanML3D features against the official code's own output, and what must break when a step is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rl_motion.motion import features as module
from rl_motion.motion.features import (
    CONTACT_THRESHOLD,
    FEET,
    JOINTS,
    ROOT_HEIGHT,
    ROOT_VEL,
    ROOT_YAW,
    ROT6D,
    VEL,
    features_to_joints,
    joints_to_features,
    joints_to_features_batch,
)
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, STANDING_OFFSETS_J3, fk_local

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = load_file(ROOT / "tests/golden/humanml3d_features.safetensors")
FULL = ROOT.parent / "shared/parity/humanml3d_process_file.safetensors"
GOLDEN = load_file(FULL) if FULL.exists() else SHIPPED
CLIPS = sorted(key.removeprefix("in/joints_") for key in GOLDEN if key.startswith("in/joints_"))
CLIP = "cmu_005_15_0000"
ATOL_FEATURES, ATOL_RECOVER = 2e-4, 2e-5


def same(got, clip):
    """Whether features equal the official ones; contacts on the threshold's very edge do not count."""
    want = GOLDEN[f"out/feats_{clip}"]
    continuous = np.abs(got - want)[:, : FEET.start].max() <= ATOL_FEATURES
    squared = (want[:, VEL].reshape(-1, 22, 3)[:, [7, 10, 8, 11]].astype(np.float64) ** 2).sum(-1)
    clear = np.abs(squared - CONTACT_THRESHOLD) > 1e-5
    return bool(continuous and (got[:, FEET] == want[:, FEET])[clear].all())


def circle(frames=90, degrees=400.0):
    """A stiff body that walks round a circle of 1 m."""
    angle = np.radians(np.linspace(0.0, degrees, frames))
    rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    cos, sin = np.cos(angle), np.sin(angle)
    rotations[:, 0, 0, 0], rotations[:, 0, 0, 2], rotations[:, 0, 2, 0], rotations[:, 0, 2, 2] = (
        cos,
        sin,
        -sin,
        cos,
    )
    root = np.stack([1 - cos, np.full(frames, 0.95), sin], axis=-1)
    return fk_local(root, rotations, STANDING_OFFSETS_J3)


@pytest.mark.parametrize("clip", CLIPS)
def test_official_features(clip):
    got = joints_to_features(GOLDEN[f"in/joints_{clip}"])
    assert got.dtype == np.float32
    assert same(got, clip)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_official_recovery(clip, dtype):
    got = features_to_joints(torch.from_numpy(GOLDEN[f"out/feats_{clip}"]).to(dtype))
    assert got.dtype == dtype
    assert np.abs(got.numpy() - GOLDEN[f"out/recover_{clip}"]).max() <= ATOL_RECOVER


def test_shipped_numbers_are_the_official_constants():
    assert np.array_equal(HUMANML3D_OFFSETS_J3.astype(np.float32), GOLDEN["in/tgt_offsets"])
    for key, value in SHIPPED.items():
        assert np.array_equal(value, GOLDEN[key])


def test_layout_covers_263_channels_once():
    slices = [slice(ROOT_YAW, 1), ROOT_VEL, slice(ROOT_HEIGHT, 4), JOINTS, ROT6D, VEL, FEET]
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(263))


def test_swapped_hips_and_shoulders_are_noticed(monkeypatch):
    right_hip, left_hip, right_shoulder, left_shoulder = HUMANML3D.facing
    swapped = type(HUMANML3D)(
        HUMANML3D.chains, HUMANML3D.raw_offsets_J3, (left_hip, right_hip, left_shoulder, right_shoulder)
    )
    monkeypatch.setattr(module, "LAYOUT", replace(module.LAYOUT, skeleton=swapped))
    assert not same(joints_to_features(GOLDEN[f"in/joints_{CLIP}"]), CLIP)


@pytest.mark.parametrize("step", ["_uniform", "_canonical", "_smooth"])
def test_every_step_is_noticed_when_left_out(monkeypatch, step):
    monkeypatch.setattr(module, step, lambda joints, *_: joints)
    assert not same(joints_to_features(GOLDEN[f"in/joints_{CLIP}"]), CLIP)


def test_floor_step_is_noticed_when_left_out(monkeypatch):
    canonical = module._canonical
    raised = np.array([0.0, 0.01, 0.0])
    monkeypatch.setattr(module, "_canonical", lambda joints, skeleton: canonical(joints, skeleton) + raised)
    assert not same(joints_to_features(GOLDEN[f"in/joints_{CLIP}"]), CLIP)


def test_contacts_are_noticed_when_swapped(monkeypatch):
    monkeypatch.setattr(module, "LAYOUT", replace(module.LAYOUT, contact_joints=(8, 11, 7, 10)))
    assert not same(joints_to_features(GOLDEN[f"in/joints_{CLIP}"]), CLIP)


def test_place_heading_and_size_of_the_recording_do_not_matter():
    joints = GOLDEN[f"in/joints_{CLIP}"].astype(np.float64)
    turn = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [-0.8, 0.0, 0.6]])
    moved = 1.3 * joints @ turn.T + np.array([5.0, -2.0, 3.0])
    assert np.abs(joints_to_features(moved) - joints_to_features(joints))[:, : FEET.start].max() < 1e-5


def test_batch_equals_single_clips():
    clips = np.stack([GOLDEN[f"in/joints_{clip}"][:41] for clip in CLIPS])
    batch = joints_to_features_batch(clips)
    assert batch.shape == (len(CLIPS), 40, 263)
    assert np.array_equal(batch, np.stack([joints_to_features(clip) for clip in clips]))


def test_the_bodys_own_heading_recovers_a_full_turn_and_the_official_sign_does_not():
    uniform = module._uniform(circle()[None], HUMANML3D_OFFSETS_J3, module.LAYOUT)
    joints = module._canonical(uniform, HUMANML3D)[0, :-1]
    error = {}
    for own in (True, False):
        rows = joints_to_features(circle(), own_heading=own)
        error[own] = np.abs(features_to_joints(torch.from_numpy(rows).double()).numpy() - joints).max()
    assert error[True] < 1e-5
    assert error[False] > 0.05  # the quirk that published data has


def test_the_bodys_own_heading_is_a_steady_turn_and_the_official_one_jumps():
    yaw = {own: joints_to_features(circle(), own_heading=own)[:, ROOT_YAW] for own in (True, False)}
    assert np.ptp(yaw[True]) < 0.02 * abs(yaw[True].mean())
    assert np.ptp(yaw[False]) > abs(yaw[True].mean())


def test_a_first_frame_that_faces_backwards_gives_numbers():
    backwards = circle() * np.array([-1.0, 1.0, -1.0])
    assert np.abs(joints_to_features(backwards) - joints_to_features(circle()))[:, : FEET.start].max() < 1e-5


def test_recovery_is_batched_and_differentiable():
    rows = torch.from_numpy(GOLDEN[f"out/feats_{CLIP}"][:12]).double()
    batch = torch.stack([rows, rows * 0.5]).reshape(2, 1, 12, 263)
    assert torch.equal(features_to_joints(batch)[0, 0], features_to_joints(rows))
    probe = rows[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(features_to_joints, (probe,))
    assert features_to_joints(rows.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (np.zeros((10, 21, 3)), "want \\[B"),
        (np.zeros((1, 22, 3)), "F >= 2"),
        (np.full((10, 22, 3), np.nan), "NaN"),
        (np.zeros((10, 22, 3)), "length zero"),
    ],
)
def test_bad_joints_are_refused(joints, words):
    with pytest.raises(ValueError, match=words):
        joints_to_features(joints)


def test_latents_are_refused():
    with pytest.raises(ValueError, match="263"):
        features_to_joints(torch.zeros(2, 7, 256))
