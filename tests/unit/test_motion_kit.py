"""KIT-ML's features against the official code's own output, and what must break when a constant is another.

The official numbers are of 21-joint stand-ins made of CMU recordings, in metres: KIT-ML's own are not public.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rl_motion.motion import features, kit
from rl_motion.motion.features import ROOT_HEIGHT, ROOT_VEL, ROOT_YAW, extract_features, recover_all_joints
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.kit import KIT, KIT_OFFSETS_J3, LAYOUT, LONG_LEGGED_OFFSETS_J3, from_kit_joints, to_kit_joints
from rl_motion.motion.rotations import qbetween, qinv, qmul, qrot, quaternion_to_cont6d
from rl_motion.motion.skeleton import HUMANML3D, HUMANML3D_OFFSETS_J3, JOINT_NAMES, STANDING_OFFSETS_J3, fk_local
from rl_motion.types import Motions, Normalisation, Representation

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = load_file(ROOT / "tests/golden/kit_features.safetensors")
FULL = ROOT.parent / "shared/parity/kit_process_file_synthetic21.safetensors"
GOLDEN = load_file(FULL) if FULL.exists() else SHIPPED
CLIPS = sorted(key.removeprefix("in/joints_") for key in GOLDEN if key.startswith("in/joints_"))
CLIP = "cmu_035_10_0000"
OFFSETS_M = GOLDEN["in/tgt_offsets"].astype(np.float64)
HUMANML3D_GOLDEN = load_file(ROOT / "tests/golden/humanml3d_features.safetensors")
HUMANML3D_CLIPS = sorted(k.removeprefix("in/joints_") for k in HUMANML3D_GOLDEN if k.startswith("in/joints_"))
ATOL_FEATURES, ATOL_RECOVER = 1e-4, 2e-5


def official(layout=LAYOUT, clip=CLIP):
    return extract_features(layout, GOLDEN[f"in/joints_{clip}"][None], OFFSETS_M, own_heading=False)[0]


def same(got, clip=CLIP):
    want = GOLDEN[f"out/feats_{clip}"]
    continuous = np.abs(got - want)[:, : LAYOUT.feet.start].max() <= ATOL_FEATURES
    return bool(continuous and (got[:, LAYOUT.feet] == want[:, LAYOUT.feet]).all())


def body(frames=40, turn=0.0, speed=0.03):
    """A stiff standing body [F, 22, 3] in metres that is carried along, and turns by `turn` radians per frame."""
    angle = turn * np.arange(frames)
    rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    cos, sin = np.cos(angle), np.sin(angle)
    rotations[:, 0] = np.stack([cos, 0 * cos, sin, 0 * cos, 0 * cos + 1, 0 * cos, -sin, 0 * cos, cos], -1).reshape(
        frames, 3, 3
    )
    steps = speed * np.stack([sin, 0 * sin, cos], axis=-1)
    return fk_local(np.cumsum(steps, axis=0) + np.array([0.0, 0.95, 0.0]), rotations, STANDING_OFFSETS_J3)


# --- the official numbers ------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS)
def test_official_features(clip):
    got = kit.joints_to_features(GOLDEN[f"in/joints_{clip}"], OFFSETS_M)
    assert got.dtype == np.float32
    assert same(got, clip)
    assert np.array_equal(got, official(clip=clip))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_official_recovery(clip, dtype):
    want = GOLDEN[f"out/recover_{clip}"]
    got = kit.features_to_joints(torch.from_numpy(GOLDEN[f"out/feats_{clip}"]).to(dtype))
    assert got.dtype == dtype
    assert np.abs(got.numpy()[: len(want)] - want).max() <= ATOL_RECOVER


def test_shipped_numbers_are_the_official_ones():
    for key, value in SHIPPED.items():
        assert np.array_equal(value, GOLDEN[key][: len(value)])


def test_the_default_skeleton_is_a_body_in_millimetres():
    standing = fk_local(np.zeros((1, 3)), np.broadcast_to(np.eye(3), (1, 22, 3, 3)), LONG_LEGGED_OFFSETS_J3)[0]
    lengths_mm = 1000 * KIT.bone_lengths(to_kit_joints(standing))
    assert np.abs(np.linalg.norm(KIT_OFFSETS_J3[1:], axis=-1) - lengths_mm).max() < 1e-6
    assert 750 < lengths_mm[[16, 17]].sum() < 1000  # a leg
    assert np.array_equal(np.sign(KIT_OFFSETS_J3), KIT.raw_offsets_J3)


def test_layout_covers_251_channels_once():
    slices = [slice(ROOT_YAW, 1), ROOT_VEL, slice(ROOT_HEIGHT, 4), LAYOUT.joints, LAYOUT.rot6d, LAYOUT.vel, LAYOUT.feet]
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(251))
    assert (LAYOUT.joints_J, LAYOUT.features_D) == (21, 251)
    assert sorted({joint for chain in KIT.chains for joint in chain}) == list(range(21))


@pytest.mark.parametrize(
    "other",
    [
        replace(LAYOUT, skeleton=replace(KIT, facing=(16, 11, 8, 5))),
        replace(LAYOUT, skeleton=replace(KIT, chains=(*KIT.chains[:3], (2, 5, 6, 7), (2, 8, 9, 10)))),
        replace(LAYOUT, skeleton=replace(KIT, raw_offsets_J3=np.roll(KIT.raw_offsets_J3, 1, axis=-1))),
        replace(LAYOUT, contact_threshold=0.002),
    ],
    ids=["facing", "chains", "axes", "threshold"],
)
def test_every_constant_is_noticed_when_it_is_another(other):
    assert same(official())
    assert not same(official(other))


def test_contacts_are_left_ankle_and_toe_then_right_in_the_features_unit():
    """The official numbers are in contact throughout, so here each foot joint in turn moves 0.3 mm, the others 0.2."""
    still_J3 = to_kit_joints(body(1)[0])
    for channel, joint in enumerate((19, 20, 14, 15)):
        joints = np.stack([still_J3, still_J3])
        joints[1, :, 0] += 0.0002
        joints[1, joint, 0] += 0.0001
        own_bones_mm = 1000 * KIT.raw_offsets_J3 * np.append(0.0, KIT.bone_lengths(still_J3))[:, None]
        row = kit.joints_to_features(joints, own_bones_mm)[0]
        assert row[LAYOUT.feet].tolist() == [0.0 if c == channel else 1.0 for c in range(4)]


def test_the_left_leg_sets_the_scale_of_the_path():
    """The stand-ins have the target's legs, so here one leg in turn has both its bones twice as long."""
    joints = to_kit_joints(body())
    directions, lengths = KIT.bone_directions(joints), KIT.bone_lengths(joints[0])
    path = {}
    for longer in ((17, 18), (12, 13), (6, 7)):
        stretched = lengths.copy()
        stretched[[joint - 1 for joint in longer]] *= 2
        there = KIT.from_directions(joints[:, 0], directions, stretched)
        path[longer] = kit.joints_to_features(there, own_heading=True)[:, ROOT_VEL]
    assert np.allclose(2 * path[17, 18], path[12, 13], rtol=1e-4)
    assert np.array_equal(path[12, 13], path[6, 7])


def test_features_come_in_the_unit_of_the_target_skeleton():
    joints = GOLDEN[f"in/joints_{CLIP}"].astype(np.float64)
    metres, millimetres = kit.joints_to_features(joints, OFFSETS_M), kit.joints_to_features(joints, 1000 * OFFSETS_M)
    lengths = np.r_[1:4, LAYOUT.joints, LAYOUT.vel]
    assert np.abs(millimetres[:, lengths] - 1000 * metres[:, lengths]).max() < 1e-3
    assert np.abs(millimetres[:, LAYOUT.rot6d] - metres[:, LAYOUT.rot6d]).max() < 1e-5
    assert np.abs(kit.joints_to_features(1000 * joints, OFFSETS_M) - metres).max() < 1e-5
    assert np.array_equal(kit.joints_to_features(joints, KIT_OFFSETS_J3), kit.joints_to_features(joints))


def test_the_bodys_own_heading_is_a_steady_turn_and_the_official_one_jumps():
    circle = to_kit_joints(body(90, turn=np.radians(4.5)))
    yaw = {own: kit.joints_to_features(circle, own_heading=own)[:, ROOT_YAW] for own in (True, False)}
    assert np.ptp(yaw[True]) < 1e-5
    assert abs(yaw[True].mean()) == pytest.approx(np.radians(4.5) / 2, rel=1e-4)
    assert np.ptp(yaw[False]) > abs(yaw[True].mean())


def test_batch_equals_single_clips():
    clips = np.stack([to_kit_joints(HUMANML3D_GOLDEN[f"in/joints_{clip}"][:31]) for clip in HUMANML3D_CLIPS])
    batch = kit.joints_to_features_batch(clips, own_heading=True)
    assert batch.shape == (len(HUMANML3D_CLIPS), 30, 251)
    assert np.array_equal(batch, np.stack([kit.joints_to_features(clip, own_heading=True) for clip in clips]))


def test_recovery_is_differentiable_and_other_widths_are_refused():
    rows = torch.from_numpy(GOLDEN[f"out/feats_{CLIP}"][:4]).double().requires_grad_()
    assert torch.autograd.gradcheck(kit.features_to_joints, (rows,))
    with pytest.raises(ValueError, match=r"got \(2, 7, 263\), want \[..., F, 251\].*decode"):
        kit.features_to_joints(torch.zeros(2, 7, 263))
    with pytest.raises(ValueError, match=r"want \[B, F >= 2, 21, 3\] \(one clip: \[F, 21, 3\]\)"):
        kit.joints_to_features(np.zeros((10, 22, 3)))


# --- HumanML3D is what it was ------------------------------------------------------------


def written_out(joints, own_heading):
    """HumanML3D's features with its numbers in place: the same operations, before a layout held them."""
    target = np.sqrt((HUMANML3D_OFFSETS_J3[1:] ** 2).sum(-1))
    joints = joints[None].astype(np.float64)
    root = (
        joints[:, :, 0]
        * (target[[4, 7]].sum() / HUMANML3D.bone_lengths(joints[:, 0])[:, [4, 7]].sum(-1))[:, None, None]
    )
    joints = HUMANML3D.from_directions(root, HUMANML3D.bone_directions(joints), target)
    shift = joints[:, :1, :1].copy()
    shift[..., 1] = joints[..., 1].min(axis=(1, 2))[:, None, None]
    ahead = np.array([0.0, 0.0, 1.0])

    def own(x):
        return qbetween(features._forward(x[:, :, 2] - x[:, :, 1] + x[:, :, 17] - x[:, :, 16]), ahead)

    joints = qrot(own(joints[:, :1])[:, :, None], joints - shift)
    if own_heading:
        heading = own(joints)
    else:
        across = joints[:, :, 1] - joints[:, :, 2] + joints[:, :, 17] - joints[:, :, 16]
        heading = qbetween(features._smooth(features._forward(across)), ahead)
        heading[:, 0] = (1.0, 0.0, 0.0, 0.0)
    step = joints[:, 1:] - joints[:, :-1]
    yaw = qmul(heading[:, 1:], qinv(heading[:, :-1]))
    if own_heading:
        yaw = np.where(yaw[..., :1] < 0, -yaw, yaw)
    local = joints[:, :-1, 1:] - joints[:, :-1, :1] * np.array([1.0, 0.0, 1.0])
    out = np.empty((len(step[0]), 263), np.float32)
    out[:, 0] = np.arcsin(np.clip(yaw[0, :, 2], -1.0, 1.0))
    out[:, 1:3] = qrot(heading[:, 1:], step[:, :, 0])[0][:, [0, 2]]
    out[:, 3] = joints[0, :-1, 0, 1]
    out[:, 4:67] = qrot(heading[:, :-1, None], local).reshape(len(out), -1)
    rotations = HUMANML3D.inverse_kinematics(joints, heading)[0, :-1, 1:]
    out[:, 67:193] = quaternion_to_cont6d(rotations).reshape(len(out), -1)
    out[:, 193:259] = qrot(heading[:, :-1, None], step).reshape(len(out), -1)
    feet = step[0][:, (7, 10, 8, 11)]
    out[:, 259:] = (feet * feet).sum(-1) < 0.002
    return out


@pytest.mark.parametrize("own_heading", [True, False])
def test_humanml3ds_features_have_the_bits_that_they_had(own_heading, monkeypatch):
    for clip in HUMANML3D_CLIPS:
        joints = HUMANML3D_GOLDEN[f"in/joints_{clip}"]
        want = written_out(joints, own_heading)
        assert np.array_equal(features.joints_to_features(joints, own_heading=own_heading), want)
    monkeypatch.setattr(features, "LAYOUT", replace(features.LAYOUT, leg_joints=(4, 7)))
    assert not np.array_equal(features.joints_to_features(joints, own_heading=own_heading), want)


# --- the last frame ------------------------------------------------------------


@pytest.mark.parametrize("own_heading", [True, False])
@pytest.mark.parametrize("layout", [features.LAYOUT, LAYOUT], ids=["humanml3d", "kit"])
def test_the_last_rows_velocities_lead_to_the_frame_that_features_drop(layout, own_heading):
    """L rows of a longer clip give L + 1 frames: frame L is the one that the longer clip's own recovery has there."""
    joints, offsets_J3 = HUMANML3D_GOLDEN[f"in/joints_{HUMANML3D_CLIPS[0]}"][None], HUMANML3D_OFFSETS_J3
    if layout is LAYOUT:
        joints, offsets_J3 = to_kit_joints(joints), OFFSETS_M
    rows = torch.from_numpy(extract_features(layout, joints, offsets_J3, own_heading=own_heading)).double()
    true_FJ3 = features.recover_joints(layout, rows)[0]
    lengths = torch.tensor([20, 33, 50])
    batch = rows.expand(3, -1, -1)[:, :50].clone()
    every = recover_all_joints(layout, batch, lengths)
    assert every.shape == (3, 51, layout.joints_J, 3)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(every[row, :length], features.recover_joints(layout, batch)[row, :length])
        assert (every[row, length] - true_FJ3[length]).abs().max() < 2e-5
    moved = (true_FJ3[lengths] - true_FJ3[lengths - 1]).abs().amax(dim=(1, 2))
    assert (moved > 0.01).all()  # a frame that were only repeated would be noticed


@pytest.mark.parametrize("length", [0, 6])
def test_lengths_outside_the_canvas_are_refused(length):
    with pytest.raises(ValueError, match=rf"got \[{length}\], want each in 1..5"):
        recover_all_joints(LAYOUT, torch.zeros(1, 5, 251), torch.tensor([length]))


# --- 22 joints and 21 ------------------------------------------------------------

SHARED = {
    0: "pelvis", 1: "spine2", 2: "spine3", 3: "neck", 4: "head", 5: "right_shoulder", 6: "right_elbow",
    7: "right_wrist", 8: "left_shoulder", 9: "left_elbow", 10: "left_wrist", 11: "right_hip",
    12: "right_knee", 13: "right_ankle",
    15: "right_foot", 16: "left_hip", 17: "left_knee", 18: "left_ankle", 20: "left_foot",
}  # fmt: skip


def test_joints_keep_their_names_and_sides():
    joints = HUMANML3D_GOLDEN[f"in/joints_{HUMANML3D_CLIPS[0]}"].astype(np.float64)
    there = to_kit_joints(joints)
    for index, name in SHARED.items():
        assert np.array_equal(there[:, index], joints[:, JOINT_NAMES.index(name)])
    assert np.array_equal(there[:, 14], (there[:, 13] + there[:, 15]) / 2)
    assert np.array_equal(there[:, 19], (there[:, 18] + there[:, 20]) / 2)
    back = from_kit_joints(there)
    by_name = {name: back[:, i] for i, name in enumerate(JOINT_NAMES)}
    for name in SHARED.values():
        assert np.array_equal(by_name[name], joints[:, JOINT_NAMES.index(name)])
    assert np.array_equal(by_name["spine1"], (by_name["pelvis"] + by_name["spine2"]) / 2)
    for side in ("left", "right"):
        assert np.array_equal(by_name[f"{side}_collar"], (by_name["spine3"] + by_name[f"{side}_shoulder"]) / 2)
    assert np.array_equal(to_kit_joints(back), there)


def test_what_kit_lacks_is_placed_where_it_is_in_people():
    """Within 6 cm on average in CMU recordings."""
    for clip in HUMANML3D_CLIPS:
        joints = HUMANML3D_GOLDEN[f"out/recover_{clip}"].astype(np.float64)
        error_J = np.linalg.norm(from_kit_joints(to_kit_joints(joints)) - joints, axis=-1).mean(axis=0)
        assert {JOINT_NAMES[j] for j in np.flatnonzero(error_J)} == {"spine1", "left_collar", "right_collar"}
        assert error_J.max() < 0.06


def test_wrong_numbers_of_joints_are_refused():
    with pytest.raises(ValueError, match=r"got \(5, 21, 3\), want \[..., 22, 3\]"):
        to_kit_joints(np.zeros((5, 21, 3)))
    with pytest.raises(ValueError, match=r"got \(5, 22, 3\), want \[..., 21, 3\]"):
        from_kit_joints(torch.zeros(5, 22, 3))


def test_all_readers_of_joints_see_22_of_them_in_metres():
    joints = to_kit_joints(body(30))
    own_bones_mm = 1000 * KIT.raw_offsets_J3 * np.append(0.0, KIT.bone_lengths(joints[0]))[:, None]
    rows = torch.from_numpy(kit.joints_to_features(joints, own_bones_mm)).requires_grad_()
    motions = Motions(rows[None], torch.tensor([29]), kit.FPS, Representation.KIT_251, Normalisation.NONE)
    got = motion_joints(motions)
    got.sum().backward()
    assert rows.grad.abs().sum() > 0
    got = got.detach()
    want = torch.from_numpy(from_kit_joints(joints)[:-1]).float()
    assert got.shape == (1, 29, 22, 3)
    assert (torch.cdist(got[0], got[0]) - torch.cdist(want, want)).abs().max() < 1e-3
    assert abs(float(got[..., 1].min())) < 1e-5
    assert float(got[0, -1, 0, 2]) == pytest.approx(28 * 0.03, abs=1e-3)  # ahead
    assert float(got[0, 0, JOINT_NAMES.index("left_wrist"), 0]) > 0.1
