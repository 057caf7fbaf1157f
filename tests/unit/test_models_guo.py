"""The evaluator: words, statistics, canvas and order, what it refuses, and its training on tiny data."""

from dataclasses import replace

import pytest
import torch

from rl_motion.config import UserError
from rl_motion.data.embedded import clips
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.evaluator import POS, Evaluator, Vocabulary
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.pretraining import Recipe
from rl_motion.models.pretraining_evaluator import (
    ROOT_WEIGHT,
    Captioned,
    euclidean_loss,
    evaluator_statistics,
    train_evaluator,
    unfinished,
)
from rl_motion.motion import features, kit
from rl_motion.motion.convert import converted
from rl_motion.prompts.vocabulary import CLOSED
from rl_motion.types import Motions, Normalisation, Representation

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ["a person walks", "a figure kicks with the left leg", "someone jumps up"]
TINY = GuoConfig(movement_latent=12, motion_hidden=10, text_hidden=8, coembedding=6, word_size=8, max_frames=24)
GOT_WANT_DO = r"(?s)^got .*; want .*; \w+ .*"


def evaluator(width=263, fps=20.0, representation=Representation.HUMANML3D_263, **shape):
    torch.manual_seed(3)
    guo = Guo(replace(TINY, features=width, pos_size=len(POS), **shape))
    vocabulary = Vocabulary.of(TEXTS)
    space = MotionSpace(torch.randn(width), torch.rand(width) + 0.5, fps, representation)
    model = Evaluator(guo, vocabulary, torch.randn(len(vocabulary.words), TINY.word_size), space)
    return model.eval().requires_grad_(False)


def motions(**changes):
    torch.manual_seed(0)
    given = {
        "features_BFD": torch.randn(4, 22, 263), "length_B": torch.tensor([13, 22, 8, 17]), "fps": 20.0,
        "representation": Representation.HUMANML3D_263, "normalisation": Normalisation.NONE,
    }  # fmt: skip
    return Motions(**(given | changes))


def rows(given, index):
    return replace(given, features_BFD=given.features_BFD[index], length_B=given.length_B[index])


def close(got, want):
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


def test_points_come_in_the_order_given_and_depend_on_their_own_motion_alone():
    """Whatever the lengths, the batch mates, the padding and what it holds."""
    model, given = evaluator(), motions()
    together = model.embed_motions(given)
    assert together.shape == (4, 6)
    mixed = torch.tensor([2, 0, 3, 1])
    close(model.embed_motions(rows(given, mixed)), together[mixed])
    for row, length in enumerate(given.length_B.tolist()):
        one = rows(given, slice(row, row + 1))
        close(model.embed_motions(one)[0], together[row])
        close(model.embed_motions(replace(one, features_BFD=one.features_BFD[:, :length]))[0], together[row])
    assert torch.cdist(together, together)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3  # control: rows differ


def test_the_padding_would_enter_the_convolutions_without_a_canvas():
    """Negative control of the canvas: the bare networks give another point for the same motion, padded or not."""
    model, one = evaluator(), rows(motions(), slice(3, 4))
    canvas_BFD = model.normalised(one.features_BFD, one.length_B)
    assert canvas_BFD.shape == (1, TINY.max_frames, 263)
    assert not canvas_BFD[0, 17:].any()
    bare = model.guo.encode_motion(canvas_BFD[:, :16], torch.tensor([16]))
    assert (bare - model.guo.encode_motion(canvas_BFD[:, :20], torch.tensor([16]))).abs().max() > 1e-4


def test_many_motions_are_read_a_few_at_a_time_with_the_same_result(monkeypatch):
    model, given = evaluator(), motions()
    want = model.embed_motions(given)
    monkeypatch.setattr("rl_motion.models.evaluator._ROWS", 3)
    close(model.embed_motions(given), want)


def test_normalisation_is_the_evaluators_own():
    model, given = evaluator(), motions()
    with pytest.raises(UserError, match=GOT_WANT_DO):
        model.embed_motions(replace(given, normalisation=Normalisation.DATASET))
    scaled = replace(given, features_BFD=(given.features_BFD - model.mean_D) / model.std_D)
    assert (model.embed_motions(scaled) - model.embed_motions(given)).abs().max() > 1e-2  # control: scale matters


def test_the_contacts_are_not_seen():
    model, given = evaluator(), motions()
    other = given.features_BFD.clone()
    other[..., -4:] += 3
    close(model.embed_motions(replace(given, features_BFD=other)), model.embed_motions(given))
    other[..., -5:] += 3
    assert (model.embed_motions(replace(given, features_BFD=other)) - model.embed_motions(given)).abs().max() > 1e-3


def test_other_motion_is_converted():
    model, real = evaluator(251, 12.5, Representation.KIT_251, max_frames=28), clips("target/val", 3, seed=7)
    given = motions(features_BFD=torch.from_numpy(real.features_NFD), length_B=torch.from_numpy(real.length_N))
    want = model.embed_motions(converted(given, Representation.KIT_251, 12.5))
    assert torch.equal(model.embed_motions(given), want)
    first = evaluator(max_frames=64)
    slow = replace(given, fps=12.5)
    assert (first.embed_motions(slow) - first.embed_motions(given)).abs().max() > 1e-3  # its own frame rate
    close(first.embed_motions(slow), first.embed_motions(converted(slow, Representation.HUMANML3D_263, 20.0)))


@pytest.mark.parametrize(
    "changes",
    [
        {"length_B": torch.tensor([3, 22, 8, 17])},
        {"features_BFD": torch.zeros(4, 30, 263), "length_B": torch.tensor([30, 22, 8, 17])},
        {"features_BFD": torch.full((4, 22, 263), torch.nan)},
        {"features_BFD": torch.zeros(4, 22, 251)},
    ],
    ids=["short", "long", "nan", "width"],
)
def test_motion_that_it_cannot_read_is_refused(changes):
    with pytest.raises(UserError, match=GOT_WANT_DO):
        evaluator().embed_motions(motions(**changes))


def test_what_lies_beyond_the_length_may_be_anything():
    model, given = evaluator(), motions()
    soiled = given.features_BFD.clone()
    soiled[0, 13:] = torch.nan
    close(model.embed_motions(replace(given, features_BFD=soiled)), model.embed_motions(given))


def test_no_gradient_leaves_an_evaluator():
    given = motions()
    given.features_BFD.requires_grad_()
    assert not evaluator().embed_motions(given).requires_grad


def test_texts_come_in_the_order_given_and_alone_alike():
    model = evaluator()
    together = model.embed_texts(TEXTS)
    assert together.shape == (3, 6)
    for row, text in enumerate(TEXTS):
        close(model.embed_texts([text])[0], together[row])
    close(model.embed_texts(TEXTS[::-1]), together.flip(0))
    assert torch.cdist(together, together)[~torch.eye(3, dtype=torch.bool)].min() > 1e-3


def test_words_count_as_lemmas_with_their_part_of_speech_and_unknown_ones_share_a_vector():
    model = evaluator()

    def same(one, other):
        a, b = model.embed_texts([one, other])
        return bool((a - b).abs().max() < 1e-5)

    assert same("a person walks", "A person walks!")
    assert same("a person walks", "a person walked")
    assert same("a zebra walks", "a lantern walks")
    assert not same("a zebra walks", "a person walks")
    assert not same("a person walks", "walks a person")
    assert not same("the person walks to the left", "the person walks with the left leg")
    assert model.embed_texts([""]).isfinite().all()
    for wrong in ([], "a person walks"):
        with pytest.raises(ValueError, match=GOT_WANT_DO):
            model.embed_texts(wrong)


def test_every_tag_has_a_column_but_for_interjections():
    assert set(CLOSED.values()) - {"INTJ"} <= set(POS)
    assert Vocabulary.of(["hello"]).read(["hello"])[1].tolist() == [[POS.index("OTHER")] * 3]


def test_a_vocabulary_must_begin_with_its_marks_and_repeat_nothing():
    words = list(Vocabulary.of(TEXTS).words)
    assert Vocabulary(words).read(["walks"])[0].tolist() == [[1, words.index("walk"), 2]]
    for wrong in (words[1:], [*words, words[5]], []):
        with pytest.raises(ValueError, match=GOT_WANT_DO):
            Vocabulary(wrong)


@pytest.mark.parametrize("layout", [features.LAYOUT, kit.LAYOUT], ids=lambda layout: str(layout.features_D))
def test_statistics_are_of_valid_frames_shared_by_group_and_heavier_for_the_root(layout):
    generator = torch.Generator().manual_seed(1)
    x_NFD = 2 + 3 * torch.randn(50, 9, layout.features_D, generator=generator)
    x_NFD[:, 6:] = 1e6  # beyond the length
    number_N = torch.zeros(50, dtype=torch.long)
    part = Captioned(x_NFD, torch.full((50,), 6), number_N, number_N)
    halves = [Captioned(x_NFD[i], part.length_N[i], number_N[i], number_N[i]) for i in (slice(0, 20), slice(20, 50))]
    mean_D, std_D = evaluator_statistics(halves)
    valid_XD = x_NFD[:, :6].reshape(-1, layout.features_D).double()
    torch.testing.assert_close(mean_D, valid_XD.mean(0).float())
    torch.testing.assert_close(std_D[3], valid_XD.std(0)[3].float() / ROOT_WEIGHT)
    assert (std_D[:4] < 1).all()
    for group in (slice(1, 3), layout.joints, layout.rot6d, layout.vel, layout.feet):
        assert std_D[group].unique().numel() == 1
        torch.testing.assert_close(std_D[group].mean() * (ROOT_WEIGHT if group.start < 4 else 1),
                                   valid_XD.std(0)[group].mean().float())  # fmt: skip
    with pytest.raises(ValueError, match=GOT_WANT_DO):
        evaluator_statistics([Captioned(x_NFD[..., :205], part.length_N, number_N, number_N)])


def test_the_loss_is_the_closed_form():
    """Two pairs on a line: log-softmax of -d^2, by text with one more motion, by motion without."""
    text, motion = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.5], [2.0], [1.0]])
    by_text = -torch.log_softmax(-torch.tensor([[0.25, 4.0, 1.0], [2.25, 0.0, 1.0]]), 1)[[0, 1], [0, 1]].mean()
    by_motion = -torch.log_softmax(-torch.tensor([[0.25, 2.25], [4.0, 0.0]]), 1)[[0, 1], [0, 1]].mean()
    never = torch.zeros(2, 2, dtype=torch.bool)
    torch.testing.assert_close(euclidean_loss(text, motion, never), (by_text + by_motion) / 2)
    assert euclidean_loss(text, motion, ~never) < euclidean_loss(text, motion, never)  # the pair is no negative
    torch.testing.assert_close(euclidean_loss(text, motion[:2], ~never), torch.tensor(0.0))


@pytest.mark.parametrize("layout", [features.LAYOUT, kit.LAYOUT], ids=lambda layout: str(layout.features_D))
def test_unfinished_motion_stops_or_shrinks_within_its_own_length(layout):
    generator = torch.Generator().manual_seed(2)
    length_B, rest_D = torch.tensor([20, 20, 10, 10]), torch.full((layout.features_D,), 7.0)
    x_BFD = torch.randn(4, 24, layout.features_D, generator=generator)
    x_BFD *= (torch.arange(24)[None] < length_B[:, None])[..., None]
    made = unfinished(x_BFD, length_B, rest_D, generator)
    position, motion = slice(3, layout.vel.start), slice(layout.vel.start, None)
    for row, length in ((0, 20), (2, 10)):
        stop = int((made[row, :length, motion] == 7).all(-1).float().argmax())
        assert length / 5 <= stop <= 2 * length / 3 + 1
        assert torch.equal(made[row, :stop], x_BFD[row, :stop])
        assert (made[row, stop:length, position] == x_BFD[row, stop - 1, position]).all()
        assert (made[row, stop:length, :3] == 7).all()
    for row, length in ((1, 20), (3, 10)):
        share = (made[row, 1:length] - x_BFD[row, 0]) / (x_BFD[row, 1:length] - x_BFD[row, 0])
        assert 0.33 < share.median() < 0.67
        assert torch.equal(made[row, 0], x_BFD[row, 0])
    assert not made[:2, 20:].any()
    assert not made[2:, 10:].any()


CAPTIONS = ["a person walks", "a person kicks", "a person jumps", "a person waves", "a person sits", "a person turns"]


def parts(width):
    """Motion that its caption tells: one centre each, swinging."""
    generator = torch.Generator().manual_seed(5)
    caption_N = torch.arange(36) % 6
    centre_UD = torch.randn(6, width, generator=generator)
    x_NFD = centre_UD[caption_N][:, None] * torch.linspace(0, 2, 16).sin()[None, :, None]
    x_NFD = x_NFD + 0.1 * torch.randn(36, 1, width, generator=generator)
    length_N = torch.tensor([16, 14, 12]).repeat(12)
    x_NFD *= (torch.arange(16)[None] < length_N[:, None])[..., None]
    return [Captioned(x_NFD, length_N, caption_N, caption_N)]


def trained(width, steps, seed=0, data=None):
    representation = Representation.HUMANML3D_263 if width == 263 else Representation.KIT_251
    losses = []
    model = train_evaluator(
        data or parts(width), CAPTIONS, TINY, Recipe(steps=steps, batch=6, learning_rate=1e-2, warmup=5, seed=seed),
        lambda step, loss: losses.append(loss), fps=20.0, representation=representation,
    )  # fmt: skip
    return model, losses


def found(model, data):
    """Share of motions whose own caption is the nearest."""
    fps, representation = model.fps, model.representation
    given = Motions(data.features_NFD, data.length_N, fps, representation, Normalisation.NONE)
    distance_NU = torch.cdist(model.embed_motions(given), model.embed_texts(CAPTIONS))
    return (distance_NU.argmin(1) == data.caption_N).float().mean().item()


@pytest.mark.parametrize("width", [263, 251])
def test_training_brings_motions_to_their_captions(width):
    model, losses = trained(width, 120)
    assert len(losses) == 120
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert found(model, parts(width)[0]) > 0.9
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())


def test_the_seed_decides_the_training_and_the_callers_random_stream_is_left_alone():
    state = torch.random.get_rng_state()
    one, other, third = trained(263, 3)[1], trained(263, 3)[1], trained(263, 3, seed=1)[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == other
    assert one != third


def test_captions_that_belong_to_other_motion_are_not_learnt():
    """Negative control: where the caption tells nothing about the motion, there is nothing to learn."""
    given = parts(263)[0]
    shuffled_N = given.caption_N[torch.randperm(36, generator=torch.Generator().manual_seed(0))]
    shuffled = replace(given, caption_N=shuffled_N)
    assert found(trained(263, 120, data=[shuffled])[0], shuffled) < 0.7


def test_no_batch_holds_two_motions_of_one_meaning(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "rl_motion.models.pretraining_evaluator.euclidean_loss",
        lambda text, motion, same: seen.append(same.sum().item()) or euclidean_loss(text, motion, same),
    )
    trained(263, 4)
    assert seen == [6, 6, 6, 6]
