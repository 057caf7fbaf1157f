"""The contrastive reward against closed forms, with embeddings that are given."""

import math

import pytest
import torch
from torch.nn import functional

from rl_motion.config import UserError
from rl_motion.protocols import Reward
from rl_motion.rewards import ContrastiveTMRReward, TMRReward
from rl_motion.types import Motions, Normalisation, Prompt, Representation

WALKS, JUMPS, BOWS = (Prompt(text[0], text, 4) for text in ("walks", "jumps", "bows"))
AXES = {"walks": 0, "jumps": 1, "bows": 2}


class FakeTMR:
    """Texts are axes, a motion is its first three features: cosines are what the test writes down."""

    representation = Representation.HUMANML3D_263

    def embed_motions(self, motions):
        return motions.features_BFD[:, 0, :3]

    def embed_texts(self, texts):
        return torch.eye(3)[[AXES[text] for text in texts]]

    def similarity(self, motions, texts):
        return (self.embed_motions(motions) * self.embed_texts(texts)).sum(-1)


def motions(*cosines):
    features = torch.zeros(len(cosines), 4, 263)
    features[:, 0, :3] = torch.tensor(cosines)
    lengths = torch.full((len(cosines),), 4)
    return Motions(features, lengths, 20.0, Representation.HUMANML3D_263, Normalisation.NONE)


def reward(clip, *prompts):
    return ContrastiveTMRReward(FakeTMR())(clip, prompts)


def test_it_is_the_cross_entropy_against_the_units_texts():
    cosines = ((0.9, 0.2, 0.1), (0.3, 0.4, -0.5), (0.0, 0.1, 0.7))
    want = -functional.cross_entropy(torch.tensor(cosines) / 0.1, torch.arange(3), reduction="none") + math.log(3)
    assert isinstance(ContrastiveTMRReward(FakeTMR()), Reward)
    assert torch.allclose(reward(motions(*cosines), WALKS, JUMPS, BOWS), want)


def test_a_motion_that_fits_every_prompt_gets_nothing_though_its_cosine_is_higher():
    clip = motions((0.9, 0.9, 0.9), (0.5, 0.1, 0.1), (0.1, 0.1, 0.1))
    prompts = (WALKS, WALKS, JUMPS)
    every, own, third = reward(clip, *prompts).tolist()
    assert every == pytest.approx(0, abs=1e-5)
    assert third == pytest.approx(0, abs=1e-5)
    assert 0.5 < own <= math.log(2)
    # Negative control: the plain cosine prefers the motion that fits everything.
    plain = TMRReward(FakeTMR())(clip, prompts)
    assert plain[0] > plain[1]


def test_a_motion_of_another_prompt_loses():
    assert reward(motions((0.1, 0.8, 0.1), (0.1, 0.8, 0.1)), WALKS, JUMPS)[0] < -5


def test_samples_of_a_prompt_and_its_other_lengths_are_not_its_rivals():
    clip = motions((0.5, 0.1, 0.0), (0.2, 0.4, 0.0), (0.5, 0.1, 0.0))
    longer = Prompt("w2", "walks", 9)
    assert torch.allclose(
        reward(clip, WALKS, JUMPS, longer)[:2], reward(motions((0.5, 0.1, 0), (0.2, 0.4, 0)), WALKS, JUMPS)
    )
    assert reward(clip, WALKS, WALKS, longer).tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_it_depends_on_the_unit_and_on_nothing_else():
    clip = motions((0.5, 0.1, 0.3), (0.2, 0.4, 0.0))
    assert torch.equal(reward(clip, WALKS, JUMPS), reward(clip, WALKS, JUMPS))
    assert not torch.equal(reward(clip, WALKS, JUMPS)[:1], reward(clip, WALKS, BOWS)[:1])


def test_it_keeps_the_graph():
    clip = motions((0.5, 0.1, 0.3), (0.2, 0.4, 0.0))
    clip.features_BFD.requires_grad_()
    reward(clip, WALKS, JUMPS).sum().backward()
    # Up with the own cosine, down with the rival's, nothing for a text that the unit does not have.
    assert (clip.features_BFD.grad[:, 0, :3].sign() == torch.tensor([[1, -1, 0], [-1, 1, 0]])).all()


def test_it_refuses_what_it_would_misread():
    with pytest.raises(UserError, match="one prompt per row"):
        reward(motions((1.0, 0.0, 0.0)), WALKS, JUMPS)


def test_the_packaged_model_tells_a_prompt_from_the_others():
    made = ContrastiveTMRReward.load()
    values = made(
        Motions(torch.zeros(2, 4, 263), torch.full((2,), 4), 20.0, Representation.HUMANML3D_263, Normalisation.NONE),
        (WALKS, JUMPS),
    )
    # One motion, two prompts: its shares of both add up to one.
    assert torch.exp(values - math.log(2)).sum().item() == pytest.approx(1, abs=1e-5)
