"""Sentinels against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_motion.data.embedded import clips
from rl_motion.evaluation.sentinels import of_unit
from rl_motion.motion.features import JOINTS, ROT6D, VEL
from rl_motion.motion.sentinels import (
    OF_FEATURES,
    OF_JOINTS,
    ankle_shake_B,
    ankle_tremor_B,
    body_size_B,
    bone_drift_B,
    bone_wobble_B,
    energy_B,
    foot_skate_B,
    jerk_B,
    measures,
    measures_of,
    root_jolt_B,
    travel_B,
)
from rl_motion.motion.skeleton import STANDING_OFFSETS_J3, fk_local
from rl_motion.types import Motions, Normalisation, Representation

FPS = 20.0
GAPS = ("velocity_gap", "rotation_gap")


def standing(frames=10):
    root = np.tile([0.0, 0.95, 0.0], (frames, 1))
    joints = fk_local(root, np.broadcast_to(np.eye(3), (frames, 22, 3, 3)), STANDING_OFFSETS_J3)
    joints[..., 1] -= joints[..., 1].min()
    return torch.from_numpy(joints)[None]


def length(*frames):
    return torch.tensor(frames)


def test_bone_drift_is_the_relative_change_of_length():
    joints = torch.cat([standing(), 1.1 * standing(), 0.8 * standing()])
    assert torch.allclose(bone_drift_B(joints, length(10, 10, 10)), torch.tensor([0.0, 0.1, 0.2]).double())


def test_jerk_of_a_cubic_is_its_third_derivative():
    t = torch.arange(10).double() / FPS
    path = torch.stack([0.5 * t**3, 2.0 * t**2, t], dim=-1)
    joints = standing() + path[None, :, None]
    assert torch.allclose(jerk_B(joints, length(10)), torch.tensor([3.0]).double())
    quadratic = standing() + path[None, :, None] * torch.tensor([0.0, 1.0, 1.0])
    assert jerk_B(quadratic, length(10)).item() < 1e-9


def test_skate_is_the_speed_of_feet_on_the_floor_only():
    t = torch.arange(10).double() / FPS
    slide = torch.stack([0.3 * t, torch.zeros(10).double(), 0.4 * t], dim=-1)[None, :, None]
    sliding = standing() + slide
    flying = sliding + torch.tensor([0.0, 0.2, 0.0])
    joints = torch.cat([standing(), sliding, flying])
    assert torch.allclose(foot_skate_B(joints, length(10, 10, 10)), torch.tensor([0.0, 0.5, 0.0]).double())
    one_foot = sliding.clone()
    one_foot[:, :, 10, 1] += 0.2
    one_foot[:, :, 11] = standing()[:, :, 11]
    assert foot_skate_B(one_foot, length(10)).item() == 0.0


def test_padding_does_not_count_even_as_nan_and_short_motions_give_zero():
    growing = torch.linspace(0.005, 0.02, 10).double()[:, None, None]
    noisy = standing() + growing * torch.randn(1, 10, 22, 3, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.cat([noisy, torch.full((1, 5, 22, 3), torch.nan).double()], dim=1)
    there, cut = measures(noisy, length(10), FPS), measures(noisy, length(4), FPS)
    for name, found in measures(padded, length(10), FPS).items():
        assert torch.allclose(found, there[name]), name
        # The lowest joint of this one is never 5 cm up.
        assert name == "floating" or not torch.allclose(cut[name], there[name]), name
    assert all(found.item() < 1e-3 for found in measures(noisy, length(0), FPS).values())
    assert jerk_B(noisy, length(3)).item() == 0.0
    assert foot_skate_B(noisy, length(1)).item() == 0.0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_tensors_of_few_frames_have_every_sentinel(frames):
    """The tensor itself is that short: no difference is left to take a median of."""
    real = motions(2)
    short = replace(real, features_BFD=real.features_BFD[:, :frames], length_B=length(frames, frames))
    found = of_unit(short, 1)
    assert all(value.isfinite().all() for value in found.values())
    wanted = {"ankle_shake", "jerk"} | ({"velocity_tremor", "rotation_tremor"} if frames < 3 else set())
    assert all((found[name] == 0.0).all() for name in wanted)


def test_speeds_are_those_of_a_body_that_is_pushed_and_jolts_are_the_largest():
    t = torch.arange(10).double() / FPS
    path = torch.stack([0.3 * t, 0.1 * t, 0.4 * t], dim=-1)
    joints = standing() + path[None, :, None]
    assert torch.allclose(travel_B(joints, length(10), FPS), torch.tensor([0.5]).double())
    assert torch.allclose(energy_B(joints, length(10), FPS), torch.tensor([0.26]).double().sqrt())
    assert energy_B(standing(), length(10), FPS).item() == 0.0
    assert root_jolt_B(joints, length(10), FPS).item() < 1e-9
    jumped = joints.clone()
    jumped[:, 5:, :, 0] += 0.25
    assert torch.allclose(root_jolt_B(jumped, length(10), FPS), torch.tensor([0.25 * FPS**2]).double())
    assert root_jolt_B(jumped, length(5), FPS).item() < 1e-9


def test_size_and_wobble_need_no_reference():
    scaled = torch.cat([standing(), 1.25 * standing()])
    assert torch.allclose(body_size_B(scaled, length(10, 10))[1], 1.25 * body_size_B(standing(), length(10))[0])
    assert (bone_wobble_B(scaled, length(10, 10)) < 1e-5).all()
    breathing = standing() * torch.tensor([0.9, 1.1] * 5).double()[:, None, None]
    assert torch.allclose(bone_wobble_B(breathing, length(10)), torch.tensor([0.1]).double())


@pytest.mark.parametrize("fps", [20.0, 12.5])
def test_tremor_is_the_acceleration_of_a_wave_above_five_hertz_and_no_slower_one(fps):
    def waved(hertz, frames=80):
        t = torch.arange(frames).double() / fps
        joints = standing(frames)
        joints[:, :, [7, 8], 2] += 0.02 * torch.sin(2 * torch.pi * hertz * t)[None, :, None]
        return ankle_tremor_B(joints, length(frames), fps)

    # What the second finite difference makes of a wave, root mean square.
    peak = 0.02 * (2 * np.sin(np.pi * 6.0 / fps) * fps) ** 2
    assert waved(6.0).item() == pytest.approx(peak / np.sqrt(2), rel=0.02)
    assert waved(2.0).item() < 0.01 * peak


def test_tremor_counts_both_ankles_and_rows_apart():
    """White noise of every length: the share of its energy above 5 Hz is known, and rows do not mix."""
    generator = torch.Generator().manual_seed(0)
    joints = standing(400).repeat(2, 1, 1, 1)
    joints[:, :, [7, 8]] += 0.01 * torch.randn(2, 400, 2, 3, generator=generator).double()
    both = ankle_tremor_B(joints, length(400, 300), FPS)
    hertz = torch.linspace(5.0, 10.0, 1001).double()
    density = (2 * torch.sin(torch.pi * hertz / FPS) * FPS) ** 4 / 10.0
    want = (3 * 0.01**2 * torch.trapezoid(density, hertz)).sqrt()
    assert both.tolist() == pytest.approx([want.item()] * 2, rel=0.1)
    assert torch.allclose(both[1:], ankle_tremor_B(joints[1:, :300], length(300), FPS))


def test_shaking_is_the_median_jerk_of_the_ankles_and_a_kick_does_not_count():
    t = torch.arange(40).double() / FPS
    joints = standing(40)
    joints[:, :, [7, 8]] += (torch.stack([0.5 * t**3, 2.0 * t**2, t], dim=-1))[None, :, None]
    assert ankle_shake_B(joints, length(40), FPS).item() == pytest.approx(3.0)
    joints[:, 20, 7] += 0.5
    assert ankle_shake_B(joints, length(40), FPS).item() == pytest.approx(3.0)


def motions(number=8):
    real = clips("source/train", number, seed=77)
    features, frames = torch.from_numpy(real.features_NFD), torch.from_numpy(real.length_N)
    return Motions(features, frames, FPS, Representation.HUMANML3D_263, Normalisation.NONE)


def test_features_of_real_motion_agree_with_their_joints_and_disturbed_ones_do_not():
    real = motions()
    assert list(measures_of(real)) == [*OF_JOINTS, *OF_FEATURES]
    assert all((measures_of(real)[name] < 1e-4).all() for name in GAPS)
    joints = {name: measures_of(real)[name] for name in OF_JOINTS}
    for columns, name in ((VEL, "velocity_gap"), (ROT6D, "rotation_gap")):
        features = real.features_BFD.clone()
        features[..., columns] += 0.01
        found = measures_of(replace(real, features_BFD=features))
        assert (found[name] > 1e-3).all()
        assert all(torch.equal(found[other], joints[other]) for other in joints), "no joint moved"
    moved = real.features_BFD.clone()
    moved[:, ::2, JOINTS] += 0.01
    found = measures_of(replace(real, features_BFD=moved))
    assert all((found[name] > 1e-3).all() for name in GAPS)


def test_features_that_tremble_a_little_everywhere_are_seen_beside_a_few_large_mistakes():
    t = torch.arange(40).double() / FPS
    features = torch.zeros(2, 40, 263).double()
    features[..., ROT6D] = (0.5 * 3.0 * t**2)[:, None]
    features[..., VEL] = (0.5 * 4.0 * t**2 / FPS)[:, None]
    features[1, 7] = 100.0
    given = Motions(features, length(40, 40), FPS, Representation.HUMANML3D_263, Normalisation.NONE)
    found = measures_of(given)
    assert found["rotation_tremor"].tolist() == pytest.approx([3.0, 3.0])
    assert found["velocity_tremor"].tolist() == pytest.approx([4.0, 4.0])
    padded = torch.cat([features, torch.full((2, 5, 263), torch.nan).double()], dim=1)
    again = measures_of(replace(given, features_BFD=padded))
    assert all(torch.allclose(again[name], found[name]) for name in OF_FEATURES)
    assert measures_of(replace(given, length_B=length(2, 2)))["rotation_tremor"].tolist() == [0.0, 0.0]


def test_a_velocity_that_points_elsewhere_is_a_gap():
    real = motions()
    features = real.features_BFD.clone()
    features[..., VEL] *= -1.0
    speed = measures_of(real)["energy"]
    assert (measures_of(replace(real, features_BFD=features))["velocity_gap"] > 0.5 * speed).all()
