"""Sentinels against closed forms."""

from __future__ import annotations

import numpy as np
import torch

from rl_motion.motion.sentinels import bone_drift_B, foot_skate_B, jerk_B
from rl_motion.motion.skeleton import STANDING_OFFSETS_J3, fk_local

FPS = 20.0


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
    noisy = standing() + 0.01 * torch.randn(1, 10, 22, 3, generator=torch.Generator().manual_seed(0)).double()
    padded = torch.cat([noisy, torch.full((1, 5, 22, 3), torch.nan).double()], dim=1)
    for sentinel in (bone_drift_B, jerk_B, foot_skate_B):
        assert torch.allclose(sentinel(padded, length(10)), sentinel(noisy, length(10)))
        assert not torch.allclose(sentinel(noisy, length(6)), sentinel(noisy, length(10)))
    assert jerk_B(noisy, length(3)).item() == 0.0
    assert foot_skate_B(noisy, length(1)).item() == 0.0
