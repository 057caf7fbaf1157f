"""The four normalisations are types: a motion normalised by one is refused by whoever reads another."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from rl_motion.config import UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.evaluator import Evaluator, Vocabulary
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.guo_published import POS, GloveVocabulary, PublishedEvaluator
from rl_motion.models.zoo import load_denoiser, load_tmr
from rl_motion.motion.convert import converted
from rl_motion.motion.joints import motion_joints
from rl_motion.rewards import REWARDS
from rl_motion.types import Motions, Normalisation, Prompt, Representation

GOT_WANT_DO = r"(?s)^got .*; want .*; \w+ .*"
KINDS = [kind for kind in Normalisation if kind is not Normalisation.NONE]
WIDTH = 263


def space(kind):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    mean_D, std_D = torch.randn(WIDTH, generator=generator), 0.5 + torch.rand(WIDTH, generator=generator)
    return MotionSpace(mean_D, std_D, normalisation=kind)


def motions(normalisation=Normalisation.NONE):
    torch.manual_seed(0)
    features_BFD = torch.randn(2, 24, WIDTH)
    features_BFD[1, 17:] = 0
    return Motions(features_BFD, torch.tensor([24, 17]), 20.0, Representation.HUMANML3D_263, normalisation)


def evaluator(published):
    torch.manual_seed(0)
    shape = GuoConfig(movement_latent=8, motion_hidden=8, text_hidden=8, coembedding=4, word_size=8, max_frames=24)
    words = ["unk", "sos", "eos", "walk"]
    cls, vocabulary = (PublishedEvaluator, GloveVocabulary(words)) if published else (Evaluator, Vocabulary(words))
    guo = Guo(replace(shape, pos_size=len(vocabulary.pos)))
    return cls(guo, vocabulary, torch.randn(4, 8), space(Normalisation.EVALUATOR)).eval().requires_grad_(False)


READERS = {
    "tmr": lambda given: load_tmr().embed_motions(given),
    "tmr as a reward": lambda given: REWARDS["tmr"].load()(
        given, [Prompt(name, "a person walks", 24) for name in "ab"]
    ),
    "evaluator": lambda given: evaluator(published=False).embed_motions(given),
    "published evaluator": lambda given: evaluator(published=True).embed_motions(given),
    "other representation": lambda given: converted(given, Representation.KIT_251, 12.5),
    "joints": motion_joints,
}
"""All of them read motion that is not normalised, and normalise it by statistics of their own."""


def test_the_four_are_told_apart():
    assert {kind.value for kind in KINDS} == {"dataset", "stablemofusion", "guo-evaluator", "tmr"}
    assert len(POS) == 15


@pytest.mark.parametrize(("given", "reader"), [*product(KINDS, KINDS)], ids=str)
def test_statistics_un_normalise_what_they_normalised_and_nothing_else(given, reader):
    raw = motions()
    by_given = space(given).normalised(raw)
    assert by_given.normalisation is given
    if given is not reader:
        with pytest.raises(UserError, match=GOT_WANT_DO) as caught:
            space(reader).restored(by_given)
        assert f"normalised by {given}" in str(caught.value)
        assert f"normalised by {reader}" in str(caught.value)
        # The way from one to another is by way of motion that is not normalised, and this is what a mix-up would do.
        there = space(reader).normalised(space(given).restored(by_given))
        assert there.normalisation is reader
        assert (there.features_BFD - by_given.features_BFD).abs().max() > 0.1
        return
    back = space(reader).restored(by_given)
    assert back.normalisation is Normalisation.NONE
    torch.testing.assert_close(back.features_BFD, raw.features_BFD)
    assert not by_given.features_BFD[1, 17:].any()
    assert not back.features_BFD[1, 17:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_normalised_is_not_un_normalised_and_nothing_is_normalised_twice(kind):
    with pytest.raises(UserError, match="got motion as humanml3d-263 un-normalised; want"):
        space(kind).restored(motions())
    with pytest.raises(UserError, match=GOT_WANT_DO):
        space(kind).normalised(space(kind).normalised(motions()))
    with pytest.raises(UserError, match="got motion as kit-251"):
        space(kind).normalised(replace(motions(), representation=Representation.KIT_251))


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_each_of_the_four(reader):
    read = READERS[reader]
    read(motions())  # control
    for kind in KINDS:
        with pytest.raises(UserError, match="normalised") as caught:
            read(space(kind).normalised(motions()))
        assert kind in str(caught.value)


def test_what_a_denoiser_decodes_is_not_normalised_whatever_it_was_trained_with():
    model = load_denoiser("mdm-embedded")
    assert model.normalisation is Normalisation.DATASET
    x_BFD, length_B = torch.randn(2, 24, WIDTH), torch.tensor([24, 17])
    want = model.decode(x_BFD, length_B)
    for kind in KINDS:
        model.normalisation = kind
        found = model.decode(x_BFD, length_B)
        assert found.normalisation is Normalisation.NONE
        assert torch.equal(found.features_BFD, want.features_BFD)
        assert not found.features_BFD[1, 17:].any()
