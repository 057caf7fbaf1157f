"""Rule rewards against hand-made motion whose faults are known in metres and metres per second."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_motion.config import RunFault, UserError
from rl_motion.motion.features import JOINTS, ROOT_HEIGHT, ROOT_VEL, features_to_joints
from rl_motion.motion.sentinels import foot_skate_B
from rl_motion.motion.skeleton import STANDING_OFFSETS_J3, fk_local
from rl_motion.protocols import Reward
from rl_motion.rewards import REWARDS
from rl_motion.rewards.combine import Term, refuse_non_finite, score
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit

FRAMES, FPS = 12, 20.0
RULES = ("foot_skate", "float", "jerk", "penetration")
HEIGHTS = [ROOT_HEIGHT, *range(JOINTS.start + 1, JOINTS.stop, 3)]


def standing(frames=FRAMES):
    """A person who stands still, the lowest joint on the floor: features [1, F, 263]."""
    joints = fk_local(np.zeros((1, 3)), np.broadcast_to(np.eye(3), (1, 22, 3, 3)), STANDING_OFFSETS_J3)[0]
    joints[:, 1] -= joints[:, 1].min()
    features = torch.zeros(1, frames, 263, dtype=torch.float64)
    features[..., ROOT_HEIGHT] = float(joints[0, 1])
    features[..., JOINTS] = torch.from_numpy(joints[1:] - joints[0] * [1, 0, 1]).flatten()
    return features


def raised(metres):
    features = standing()
    features[..., HEIGHTS] += metres
    return features


def moving(path_F):
    """The whole body along x, by position in metres in each frame."""
    features = standing(len(path_F))
    features[0, :-1, ROOT_VEL.start] = path_F.diff()
    return features


def sliding(speed_mps):
    return moving(speed_mps * torch.arange(FRAMES).double() / FPS)


def trembling(metres):
    return moving(metres * torch.tensor([1.0, -1.0]).double().repeat(FRAMES // 2))


def motions(features, *lengths):
    length_B = torch.tensor(lengths or (features.shape[1],) * len(features))
    return Motions(features, length_B, FPS, Representation.HUMANML3D_263, Normalisation.NONE)


def reward(name, clip):
    return REWARDS[name]()(clip, [Prompt("p", "walks", FRAMES)] * len(clip.features_BFD))


@pytest.mark.parametrize("name", RULES)
def test_a_person_who_stands_still_breaks_no_rule(name):
    assert isinstance(REWARDS[name](), Reward)
    assert reward(name, motions(standing())).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("name", "features", "want"),
    [
        ("foot_skate", sliding(0.5), -0.5),
        ("foot_skate", sliding(0.5) + raised(0.2) - standing(), 0.0),
        ("float", raised(0.25), -0.2),
        ("float", raised(0.04), 0.0),
        ("float", raised(-0.3), 0.0),
        ("penetration", raised(-0.105), -0.1),
        ("penetration", raised(-0.004), 0.0),
        ("penetration", raised(0.3), 0.0),
        ("jerk", trembling(0.01), -8 * 0.01 * FPS**3),
        ("jerk", sliding(2.0), 0.0),
    ],
)
def test_a_fault_costs_what_it_measures(name, features, want):
    assert reward(name, motions(features)).item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_rows_are_independent_and_padding_does_not_count(name):
    faulty = torch.cat([sliding(0.5), raised(0.25), raised(-0.105), trembling(0.01)])
    whole = reward(name, motions(faulty))
    assert torch.allclose(torch.cat([reward(name, motions(row[None])) for row in faulty]), whole, rtol=1e-12)
    for padding in (0.0, torch.nan):
        padded = torch.cat([faulty, torch.full((4, 5, 263), padding).double()], dim=1)
        assert torch.allclose(reward(name, motions(padded, *[FRAMES] * 4)), whole)
    # Negative control: frames that count change the value.
    assert not torch.allclose(reward(name, motions(padded.nan_to_num(), *[FRAMES + 5] * 4)), whole)


@pytest.mark.parametrize("name", RULES)
def test_the_gradient_that_is_promised_arrives(name):
    features = torch.cat([sliding(0.5), raised(0.25), raised(-0.105), trembling(0.01)]).requires_grad_()
    reward(name, motions(features)).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_motion_has_no_finite_reward(name):
    """Negative control: the measure alone would call a body without a height a body that does not skate."""
    features = sliding(0.5)
    features[0, 5, HEIGHTS] = torch.nan
    assert foot_skate_B(features_to_joints(features), torch.tensor([FRAMES]), FPS).isfinite()
    unit = Unit(seed=0, iteration=0, index=0, prompts=(Prompt("p", "walks", FRAMES),), samples_per_prompt=1)
    scored = score([Term(name, 1.0, REWARDS[name]())], motions(features), unit)
    assert not scored.total_B.isfinite().any()
    with pytest.raises(RunFault, match=name):
        refuse_non_finite(scored, unit)


@pytest.mark.parametrize("name", RULES)
def test_normalised_features_are_refused(name):
    with pytest.raises(UserError, match=f"normalised by dataset; reward '{name}' wants humanml3d-263 un-normalised"):
        reward(name, replace(motions(standing()), normalisation=Normalisation.DATASET))
