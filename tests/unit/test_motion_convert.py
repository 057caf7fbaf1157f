"""Motion in another representation and at another rate: what comes back, what is lost, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rl_motion.config import UserError
from rl_motion.data import embedded
from rl_motion.data.oracle import check
from rl_motion.motion import convert, features, kit
from rl_motion.motion.convert import converted, convertible
from rl_motion.motion.features import joints_to_features, recover_all_joints, recover_joints
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.resample import resample, resampled_frames
from rl_motion.motion.sentinels import jerk_B
from rl_motion.motion.skeleton import HUMANML3D_OFFSETS_J3, JOINT_NAMES
from rl_motion.motion.smplrifke import smplrifke_to_joints
from rl_motion.types import Motions, Normalisation, Representation

ROOT = Path(__file__).resolve().parents[2]
HUMANML3D, KIT, SMPLRIFKE = (
    Representation.HUMANML3D_263,
    Representation.KIT_251,
    Representation.SMPLRIFKE_205,
)
CMU = load_file(ROOT / "tests/golden/humanml3d_features.safetensors")
OFFICIAL_OFFSETS_J3 = load_file(ROOT / "tests/golden/kit_features.safetensors")["in/tgt_offsets"].double().numpy()
SMPL = load_file(ROOT / "tests/golden/smplrifke_features.safetensors")


def motions(rows, representation=HUMANML3D, fps=20.0, normalisation=Normalisation.NONE):
    """A list of features [F, D] as one batch, padded with zeros."""
    length_B = torch.tensor([len(row) for row in rows])
    canvas = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return Motions(canvas, length_B, fps, representation, normalisation)


@pytest.fixture(scope="module")
def cmu():
    """Official features of CMU recordings, smoothed headings and all."""
    return motions([CMU[key] for key in sorted(CMU) if key.startswith("out/feats_")])


@pytest.fixture(scope="module")
def world():
    """Captioned motions of the embedded world, and their captions."""
    clips = embedded.clips("source/train", 96)
    form = (20.0, HUMANML3D, Normalisation.NONE)
    return Motions(torch.from_numpy(clips.features_NFD), torch.from_numpy(clips.length_N), *form), clips.captions


def there_and_back(motion, rate=12.5):
    return converted(converted(motion, KIT, rate), HUMANML3D, 20.0)


def errors(motion, back):
    """Distances [N, 22] in metres between the joints of two motions, over the frames that both have."""
    one, two = motion_joints(motion), motion_joints(back)
    frames = min(one.shape[1], two.shape[1])
    both = torch.arange(frames) < torch.minimum(motion.length_B, back.length_B)[:, None]
    return (one[:, :frames] - two[:, :frames]).norm(dim=-1)[both]


# --- resampling ------------------------------------------------------------


def walk(frames=41, seed=0):
    return np.random.default_rng(seed).normal(size=(frames, 21, 3)).cumsum(axis=0)


@pytest.mark.parametrize(("fps_from", "fps_to"), [(20.0, 12.5), (12.5, 20.0), (20.0, 30.0), (30.0, 20.0), (20.0, 7.3)])
@pytest.mark.parametrize("frames", [1, 2, 26, 41])
def test_joints_between_frames_are_numpys_interpolation(fps_from, fps_to, frames):
    joints = walk(frames)
    got = resample(joints, fps_from, fps_to)
    assert len(got) == resampled_frames(frames, fps_from, fps_to)
    at = np.arange(len(got)) / fps_to
    assert at[-1] <= (frames - 1) / fps_from + 1e-9 < at[-1] + 1 / fps_to  # all of it, and nothing beyond
    for joint, axis in ((0, 0), (20, 2)):
        want = np.interp(at, np.arange(frames) / fps_from, joints[:, joint, axis])
        assert np.abs(got[:, joint, axis] - want).max() < 1e-9
    assert np.array_equal(got[0], joints[0])


def test_the_same_rate_and_frames_that_coincide_keep_their_bits():
    joints = walk()
    assert np.array_equal(resample(joints, 12.5, 12.5), joints)
    assert np.array_equal(resample(joints, 20.0, 12.5)[::5], joints[::8])
    assert np.array_equal(resample(resample(joints, 20.0, 60.0), 60.0, 20.0), joints)


def test_batches_are_single_clips_and_types_stay():
    clips = np.stack([walk(seed=seed) for seed in range(3)]).reshape(1, 3, 41, 21, 3)
    batch = resample(clips, 20.0, 12.5)
    assert batch.shape == (1, 3, 26, 21, 3)
    assert all(np.array_equal(batch[0, i], resample(clips[0, i], 20.0, 12.5)) for i in range(3))
    assert resample(clips.astype(np.float32), 20.0, 12.5).dtype == np.float32


def test_no_frame_is_lost_to_rounding():
    """Five frames at 12.5 fps last as long as eight at 20: counts are those of whole numbers."""
    frames = np.arange(1, 2000)
    assert np.array_equal(resampled_frames(frames, 20.0, 12.5), (frames - 1) * 5 // 8 + 1)
    assert np.array_equal(resampled_frames(frames, 12.5, 20.0), (frames - 1) * 8 // 5 + 1)
    assert np.array_equal(resampled_frames(frames, 20.0, 30.0), (frames - 1) * 3 // 2 + 1)


def test_a_higher_rate_makes_jerk_that_was_not_there():
    """Of a parabola, whose jerk is zero; the same at a lower rate still has none."""
    joints = np.zeros((41, 22, 3))
    joints[..., 0] = (np.arange(41)[:, None] / 20.0) ** 2

    def jerk(x, fps):
        return float(jerk_B(torch.from_numpy(x)[None], torch.tensor([len(x)]), fps))

    assert jerk(joints, 20.0) < 1e-6
    assert jerk(resample(joints, 20.0, 10.0), 10.0) < 1e-6
    assert jerk(resample(joints, 20.0, 30.0), 30.0) > 10.0


@pytest.mark.parametrize(
    ("fps_from", "fps_to"), [(0.0, 20.0), (20.0, -1.0), (20.0, float("nan")), (float("inf"), 20.0)]
)
def test_rates_that_are_none_are_refused(fps_from, fps_to):
    with pytest.raises(ValueError, match="want a frame or more, rates above 0"):
        resample(walk(), fps_from, fps_to)


# --- there and back ------------------------------------------------------------


def test_cmu_recordings_come_back(cmu):
    """Within 2 cm on average at their own rate, within 3 cm by way of 12.5 fps."""
    error = errors(cmu, there_and_back(cmu, 20.0))
    assert error.mean() < 0.02
    assert error.max() < 0.15
    error = errors(cmu, there_and_back(cmu))
    assert error.mean() < 0.03
    assert error.max() < 0.25


def test_the_embedded_world_comes_back(world):
    motion, _ = world
    error_J = errors(motion, there_and_back(motion, 20.0)).mean(dim=0)
    collars = [JOINT_NAMES.index(name) for name in ("left_collar", "right_collar")]
    arms = [j for j, name in enumerate(JOINT_NAMES) if name.split("_")[-1] in ("shoulder", "elbow", "wrist")]
    assert error_J[collars].max() < 0.045
    assert error_J[arms].max() < 0.015
    others = [j for j in range(22) if j not in {*collars, *arms, JOINT_NAMES.index("spine1")}]
    assert error_J[others].max() < 0.001
    assert errors(motion, there_and_back(motion)).mean() < 0.02


def test_the_oracle_still_sees_what_was_asked_for(world):
    motion, captions = world

    def success(of, captions=captions):
        joints = motion_joints(of).double().numpy()
        rows = zip(captions, joints, of.length_B.tolist(), strict=True)
        return np.mean([check(caption, one[:length], of.fps).success for caption, one, length in rows])

    assert success(motion) == 1.0
    assert success(there_and_back(motion, 20.0)) == 1.0
    assert success(there_and_back(motion)) > 0.9
    assert success(motion, captions[1:] + captions[:1]) < 0.3


@pytest.mark.parametrize("step", ["swapped sides", "no bones of the body", "last frame repeated"])
def test_every_step_is_noticed_when_it_is_another(step, world, monkeypatch):
    motion, _ = world
    right = errors(motion, there_and_back(motion, 20.0)).mean()
    if step == "swapped sides":
        swap = [*range(5), 8, 9, 10, 5, 6, 7, *range(16, 21), *range(11, 16)]
        forward = kit.to_kit_joints
        monkeypatch.setattr(kit, "to_kit_joints", lambda joints: forward(joints)[..., swap, :])
        assert errors(motion, there_and_back(motion, 20.0)).mean() > 5 * right
    elif step == "no bones of the body":
        there = converted(motion, KIT, 20.0, offsets_J3=1000 * OFFICIAL_OFFSETS_J3)  # a body of quite another build
        assert errors(motion, converted(there, HUMANML3D, 20.0)).mean() < 1.01 * right
        monkeypatch.setattr(convert, "uniform_joints", lambda layout, joints, offsets: joints)
        assert errors(motion, converted(there, HUMANML3D, 20.0)).mean() > 5 * right
    else:
        rows = motion.length_B - 1
        last = torch.arange(len(rows))
        before = converted(converted(motion, HUMANML3D, 40.0), HUMANML3D, 20.0).features_BFD[last, rows]
        assert (before - motion.features_BFD[last, rows])[:, :259].abs().max() < 1e-4
        recover = convert.recover_all_joints

        def repeated(layout, features_BFD, length_B):
            joints = recover(layout, features_BFD, length_B)
            joints[last, length_B] = joints[last, length_B - 1]
            return joints

        monkeypatch.setattr(convert, "recover_all_joints", repeated)
        after = converted(converted(motion, HUMANML3D, 40.0), HUMANML3D, 20.0).features_BFD[last, rows]
        assert (after - motion.features_BFD[last, rows])[:, :259].abs().max() > 1e-2


# --- what a conversion keeps and refuses ------------------------------------------------------------


def test_what_is_wanted_already_comes_back_as_it_is(world):
    motion, _ = world
    assert converted(motion, HUMANML3D, 20.0) is motion
    there = converted(motion, KIT, 12.5)
    assert converted(there, KIT, 12.5) is there
    assert (there.representation, there.fps, there.normalisation) == (KIT, 12.5, Normalisation.NONE)
    assert there.features_BFD.dtype == torch.float32


def test_motion_lasts_as_long_as_before_but_for_less_than_a_frame(world):
    motion, _ = world
    there = converted(motion, KIT, 12.5)
    assert there.features_BFD.shape == (96, 25, 251)
    assert there.length_B.dtype == torch.int64
    lost_s = motion.length_B / 20.0 - there.length_B / 12.5
    assert ((lost_s >= 0) & (lost_s < 1 / 12.5)).all()
    full = motion.length_B == 40
    assert (there.length_B[full] == 25).all()  # two seconds are two seconds
    assert (there_and_back(motion).length_B[full] == 40).all()
    beyond = torch.arange(25) >= there.length_B[:, None]
    assert beyond.any()
    assert not there.features_BFD[beyond].any()


def test_a_row_depends_on_itself_alone(world):
    motion, _ = world
    rows = [motion.features_BFD[i, :length] for i, length in ((0, 39), (2, 17), (4, 4))]
    junk = motions(rows)
    junk.features_BFD[1, 17:] = float("nan")
    together = converted(junk, KIT, 12.5)
    for i, row in enumerate(rows):
        alone = converted(motions([row]), KIT, 12.5)
        assert together.length_B[i] == alone.length_B[0]
        assert torch.equal(together.features_BFD[i, : alone.length_B[0]], alone.features_BFD[0])


@pytest.mark.parametrize("own_heading", [True, False])
def test_features_are_those_of_the_joints(world, own_heading):
    """The row's own joints in KIT's order, nothing held or padded: floor and heading do not see the canvas."""
    motion, _ = world
    row = int((motion.length_B == 38).nonzero()[0])
    got = converted(motion, KIT, 20.0, own_heading=own_heading)
    rows = motion.features_BFD[row : row + 1, :38].double()
    joints = recover_all_joints(features.LAYOUT, rows, torch.tensor([38]))[0].numpy()
    want = kit.joints_to_features(kit.to_kit_joints(joints), own_heading=own_heading)
    assert got.features_BFD.shape[1] == 40
    assert np.allclose(got.features_BFD[row, :38].numpy(), want, rtol=0, atol=0 if own_heading else 1e-3)


@pytest.mark.parametrize(("representation", "layout"), [(KIT, kit.LAYOUT), (HUMANML3D, features.LAYOUT)])
def test_every_row_gets_the_skeleton_that_was_asked_for(world, representation, layout):
    motion, _ = world
    given = motion if representation is KIT else converted(motion, KIT, 12.5)
    default = kit.KIT_OFFSETS_J3 if representation is KIT else HUMANML3D_OFFSETS_J3
    other = default * np.linspace(0.8, 1.3, len(default))[:, None]
    for offsets_J3, asked in ((default, {}), (other, {"offsets_J3": other})):
        got = converted(given, representation, 10.0, **asked)
        joints = recover_joints(layout, got.features_BFD.double()).numpy()[0, : got.length_B[0]]
        want = np.linalg.norm(offsets_J3[1:], axis=-1)
        assert np.abs(layout.skeleton.bone_lengths(joints) / want - 1).max() < 1e-3


def test_smpl_rifke_becomes_humanml3ds_features():
    rows = SMPL["walk/features"]
    got = converted(motions([rows, rows[:9]], SMPLRIFKE), HUMANML3D, 20.0)
    assert got.length_B.tolist() == [len(rows) - 1, 8]
    want = joints_to_features(smplrifke_to_joints(rows.double()).numpy(), own_heading=True)
    assert np.array_equal(got.features_BFD[0].numpy(), want)


def test_what_can_be_had_from_what():
    assert {(a, b) for a in Representation for b in Representation if not convertible(a, b)} == {
        (HUMANML3D, SMPLRIFKE),
        (KIT, SMPLRIFKE),
    }
    with pytest.raises(
        UserError,
        match="got humanml3d-263 motion, to become smplrifke-205 at 20 fps; want one of humanml3d-263, kit-251",
    ):
        converted(motions([torch.zeros(5, 263)]), SMPLRIFKE, 20.0)
    with pytest.raises(UserError, match="to become smplrifke-205 at 10 fps"):
        converted(motions([torch.zeros(5, 205)], SMPLRIFKE), SMPLRIFKE, 10.0)


def test_what_has_no_meaning_is_refused(world):
    motion, _ = world
    broken = replace(motion, features_BFD=motion.features_BFD.clone())
    broken.features_BFD[3, 5, 7] = float("inf")
    with pytest.raises(UserError, match="not finite in 1 of 96 rows, first in row 3"):
        converted(broken, KIT, 12.5)
    with pytest.raises(UserError, match="got motion as humanml3d-263 normalised by dataset; want it un-normalised"):
        converted(replace(motion, normalisation=Normalisation.DATASET), KIT, 12.5)
    with pytest.raises(UserError, match=r"got 1 rows of motion at 20 fps in row 1; want enough for two frames at 12.5"):
        converted(motions([motion.features_BFD[0, :9], motion.features_BFD[0, :1]]), KIT, 12.5)
    with pytest.raises(ValueError, match="length zero"):
        converted(motions([torch.zeros(5, 263)]), KIT, 12.5)


def test_a_step_of_training_hardly_waits_for_it(world, one_thread):
    """192 motions of 40 frames in half a second of one core at the very most."""
    motion, _ = world
    twice = replace(motion, features_BFD=motion.features_BFD.repeat(2, 1, 1), length_B=motion.length_B.repeat(2))
    spent = []
    for _ in range(3):
        start = time.process_time()
        there = converted(twice, KIT, 12.5)
        spent.append(time.process_time() - start)
    assert len(there.features_BFD) == 192
    assert min(spent) < 0.5
