"""SMPL-RIFKE's way back to joints: against the official code's numbers, and against a forward function of this file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rl_motion.config import UserError
from rl_motion.motion import smplrifke
from rl_motion.motion.features import joints_to_features
from rl_motion.motion.joints import TO_JOINTS, motion_joints
from rl_motion.motion.sentinels import foot_skate_B, jerk_B
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS, STANDING_OFFSETS_J3
from rl_motion.motion.smplrifke import FEATURES_D, JOINTS, ROOT_HEIGHT, ROOT_VEL, ROOT_YAW, smplrifke_to_joints
from rl_motion.types import Motions, Normalisation, Representation

ROOT = Path(__file__).resolve().parents[2]
# Made by the official code: SMPL-like motion with random bodies, and features with noise, as a network gives them.
GOLDEN = load_file(ROOT / "tests/golden/smplrifke_features.safetensors")
clips = pytest.mark.parametrize("clip", ["walk", "spin"])


def y_up(joints_FJ3):
    """SMPL's Z-up in this package's axes; without the hands."""
    x, y, z = joints_FJ3[..., :22, :].unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


@clips
@pytest.mark.parametrize("kind", ["", "noisy_"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_joints_equal_the_official_ones(clip, kind, dtype, atol):
    got = smplrifke_to_joints(GOLDEN[f"{clip}/{kind}features"].to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got, y_up(GOLDEN[f"{clip}/{kind}joints"]).to(dtype), atol=atol, rtol=0)


def start(joints_FJ3, yaw):
    """World joints, Z up, seen from the first frame: the root over the origin, heading 0, the lowest joint at 0."""
    ground = torch.complex(joints_FJ3[..., 0], joints_FJ3[..., 1])
    ground = (ground - ground[0, 0]) * np.exp(-1j * yaw)
    return torch.stack([ground.real, ground.imag, joints_FJ3[..., 2] - joints_FJ3[..., 2].min()], dim=-1)


@clips
def test_the_motion_itself_comes_back(clip):
    """The official features of a known motion: where it went and how it turned, up to its first place and heading."""
    world = GOLDEN[f"{clip}/world_joints"]
    got = smplrifke_to_joints(GOLDEN[f"{clip}/features"])
    yaw = {"walk": 0.0, "spin": 2.5}[clip]  # the headings that the clips start with
    torch.testing.assert_close(got, y_up(start(world, yaw)), atol=1e-10, rtol=0)


# --- a forward function of our own ------------------------------------------------------------


def body():
    """A standing figure, Z up, its left along X: 24 joints [24, 3], hands beyond the wrists."""
    where = np.zeros((24, 3))
    for joint in range(1, 22):
        where[joint] = where[PARENTS[joint]] + STANDING_OFFSETS_J3[joint]
    where[22:] = where[20:22] - np.array([0.0, 0.08, 0.0])
    return np.stack([where[:, 0], -where[:, 2], where[:, 1]], axis=-1)


def walk(frames=40, turn=0.12, speed=0.06):
    """(features, joints [F, 22, 3] Y up): a figure that walks along a circle, forwards, bobbing; complex arithmetic."""
    frame = np.arange(frames)
    heading = turn * frame + 0.4 * np.sin(frame / 6)  # more than once around
    left = np.exp(1j * heading)
    ahead = -1j * left  # left is ahead turned by a quarter to the left
    root = np.concatenate([[0], np.cumsum(speed * ahead[:-1])])
    shape = body()
    flat = (shape[:, 0] + 1j * shape[:, 1])[None] * left[:, None]
    bob = 0.03 * np.sin(frame / 2)
    height = shape[None, :, 2] + bob[:, None]
    floor = height.min()
    features = np.random.default_rng(0).normal(size=(frames, FEATURES_D))  # rotations are not read
    features[:, ROOT_HEIGHT] = height[:, 0] - floor
    steps = np.append(np.diff(root), 7 + 7j) * left.conj()  # the last row's is never used
    features[:, ROOT_VEL] = np.stack([steps.real, steps.imag], axis=-1)
    features[:, ROOT_YAW] = np.append(np.diff(heading), 7.0)
    local = np.stack([*np.broadcast_arrays(shape[:, 0], shape[:, 1]), shape[:, 2] - shape[0, 2]], axis=-1)
    features[:, JOINTS] = local[1:].reshape(-1)
    place = flat + root[:, None]
    joints = np.stack([place.real, height - floor, -place.imag], axis=-1)[:, :22]
    return torch.from_numpy(features), torch.from_numpy(joints)


def test_a_walk_along_a_circle_comes_back():
    features, joints = walk()
    torch.testing.assert_close(smplrifke_to_joints(features), joints, atol=1e-12, rtol=0)
    batch = torch.stack([features, features.flip(0)])[None]
    assert torch.equal(smplrifke_to_joints(batch)[0, 0], smplrifke_to_joints(features))


def _velocity_in_the_world(features, joints):
    step = joints[1:, 0] - joints[:-1, 0]
    features[:-1, ROOT_VEL] = torch.stack([step[:, 0], -step[:, 2]], dim=-1)


BREAKS = {
    "half the yaw, as HumanML3D has it": lambda features, _: features[:, ROOT_YAW].mul_(2.0),
    "yaw of the step before": lambda features, _: features[:, ROOT_YAW].copy_(features[:, ROOT_YAW].roll(1)),
    "the other turn": lambda features, _: features[:, ROOT_YAW].neg_(),
    "heights above the floor, as HumanML3D has them": lambda features, _: features[:, JOINTS][:, 2::3].add_(
        features[:, ROOT_HEIGHT, None]
    ),
    "velocity in the world's frame": _velocity_in_the_world,
}


@pytest.mark.parametrize("how", BREAKS)
def test_another_convention_is_another_motion(how):
    """Negative control of the above."""
    features, joints = walk()
    BREAKS[how](features, joints)
    assert (smplrifke_to_joints(features) - joints).abs().max() > 0.05


def test_frame_0_stands_over_the_origin_on_the_floor_and_faces_ahead():
    features, _ = walk()
    first = smplrifke_to_joints(features)[0]
    hip, toe, ankle = (first[JOINT_NAMES.index(name)] for name in ("left_hip", "left_foot", "left_ankle"))
    assert first[0, [0, 2]].abs().max() == 0.0
    assert hip[0] > 0.05
    assert toe[2] - ankle[2] > 0.05
    assert 0.0 <= float(smplrifke_to_joints(features)[..., 1].min()) < 0.01


def test_the_axes_agree_with_humanml3ds():
    """The same walk through both representations, whose headings differ a little where hips are not symmetric."""
    features, joints = walk(turn=0.15)
    rows = joints_to_features(joints.numpy(), own_heading=True)
    through = TO_JOINTS[Representation.HUMANML3D_263](torch.from_numpy(rows))
    torch.testing.assert_close(through, smplrifke_to_joints(features)[:-1].float(), atol=0.02, rtol=0)


def test_gradients_types_and_widths():
    features, _ = walk(frames=4)
    assert torch.autograd.gradcheck(smplrifke_to_joints, (features.requires_grad_(),))
    assert smplrifke_to_joints(features.detach().bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"got \(2, 7, 263\), want \[..., F, 205\].*decode"):
        smplrifke_to_joints(torch.zeros(2, 7, 263))
    slices = [smplrifke.ROT6D.start, smplrifke.ROT6D.stop, JOINTS.start, JOINTS.stop]
    assert slices == [4, 4 + 22 * 6, 136, 136 + 23 * 3]


# --- what reads joints ------------------------------------------------------------


def motions(features, representation=Representation.SMPLRIFKE_205, normalisation=Normalisation.NONE):
    return Motions(features[None], torch.tensor([len(features)]), 20.0, representation, normalisation)


def test_every_representation_has_its_way_to_joints():
    assert TO_JOINTS.keys() == set(Representation)
    features, joints = walk()
    torch.testing.assert_close(motion_joints(motions(features))[0], joints, atol=1e-12, rtol=0)
    standing = torch.zeros(5, 263)
    assert motion_joints(motions(standing, Representation.HUMANML3D_263)).shape == (1, 5, 22, 3)
    with pytest.raises(
        UserError, match=r"got motion as smplrifke-205 normalised by dataset; want it un-normalised; pass"
    ):
        motion_joints(motions(features, normalisation=Normalisation.DATASET))


def test_sentinels_read_the_joints():
    """A figure that is carried along skates at its own speed; one that stands still does neither."""
    carried, still = (walk(turn=0.0, speed=speed)[0] for speed in (0.06, 0.0))
    still[:, ROOT_YAW] = 0.0
    length_B = torch.tensor([40])
    speed_mps = foot_skate_B(motion_joints(motions(carried)), length_B)
    assert 0.06 * 20 * 0.5 < float(speed_mps) < 0.06 * 20 * 2
    assert float(foot_skate_B(motion_joints(motions(still)), length_B)) == pytest.approx(0.0, abs=1e-9)
    assert jerk_B(motion_joints(motions(carried)), length_B) > jerk_B(motion_joints(motions(still)), length_B)
