"""Pretraining loops on tiny synthetic data: losses fall, seeds decide, and what each promises about its data."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.pretraining import (
    PATH_WEIGHT,
    MotionText,
    Recipe,
    TokenTexts,
    feature_statistics,
    half_done,
    train_denoiser,
    train_text_encoder,
    train_tmr,
    x0_loss,
)
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.types import Representation

pytestmark = pytest.mark.usefixtures("one_thread")
CLIPS, FRAMES, CAPTIONS = 12, 12, 4
SCHEDULE = ScheduleConfig(betas="cosine", timesteps=20)


def motion_text(padding=0.0):
    """Smooth motion, one per caption plus variation; `padding` fills what lies beyond the length."""
    generator = torch.Generator().manual_seed(5)
    caption_N = torch.arange(CLIPS) % CAPTIONS
    centre_UD = torch.randn(CAPTIONS, 263, generator=generator)
    swing_F = torch.linspace(0, 2, FRAMES).sin()
    features = centre_UD[caption_N][:, None] * swing_F[None, :, None]
    features = features + 0.1 * torch.randn(CLIPS, 1, 263, generator=generator)
    length_N = torch.tensor([FRAMES, FRAMES - 2, FRAMES - 3] * (CLIPS // 3))
    features[torch.arange(FRAMES)[None] >= length_N[:, None]] = padding
    return MotionText(features, length_N, caption_N)


class Pooled:
    """A text encoder that knows each caption by its number."""

    def pooled(self, texts):
        text_UC = torch.randn(CAPTIONS, 6, generator=torch.Generator().manual_seed(2))
        return text_UC[[int(t) for t in texts]]


def train_mdm(recipe, data=None, watch=None):
    torch.manual_seed(1)
    model = MDM(MDMConfig(
        latent_dim=16, ff_size=32, num_layers=1, num_heads=2, text_dim=6, mask_frames=True,
        pos_embed_max_len=32, dropout=0.0,
    ))  # fmt: skip
    losses = []

    def on_step(step, loss):
        assert step == len(losses)
        losses.append(loss)
        if watch:
            watch(model)

    space = MotionSpace(torch.zeros(263), torch.ones(263))
    denoiser = MDMDenoiser(model, SCHEDULE, space=space, text_encoder=Pooled())
    train_denoiser(denoiser, data or motion_text(), [str(n) for n in range(CAPTIONS)], recipe, on_step)
    return model, losses


def train_retrieval(recipe, parts=None):
    torch.manual_seed(1)
    model = TMR(TMRConfig(
        text_dim=6, latent_dim=16, ff_size=32, num_layers=1, num_heads=2, dropout=0.0, max_len=32,
    ))  # fmt: skip
    data = motion_text()
    tokens_ULC = torch.randn(CAPTIONS, 5, 6, generator=torch.Generator().manual_seed(2))
    texts = TokenTexts(tokens_ULC, torch.tensor([5, 4, 5, 3]))
    losses = []
    train_tmr(
        model, parts or [(data, data.caption_N)], texts, torch.zeros(263), recipe, lambda _, loss: losses.append(loss)
    )
    return model, losses


def train_words(recipe, directory):
    wordings = [
        [f"{who} {verb}" for who in ("a man", "someone", "the figure", "a woman") for verb in verbs]
        for verbs in (("walks", "strolls"), ("kicks",), ("waves", "greets"), ("sits down", "takes a seat"))
    ]
    create_tiny_bert([w for group in wordings for w in group], directory, TinyBertConfig(hidden=16, layers=1, heads=2))
    losses = []
    train_text_encoder(directory, wordings, recipe, lambda _, loss: losses.append(loss))
    return load_file(directory / "model.safetensors"), losses


def train(name, recipe, directory):
    if name == "text":
        return train_words(recipe, directory)
    model, losses = {"denoiser": train_mdm, "tmr": train_retrieval}[name](recipe)
    assert not model.training
    return model.state_dict(), losses


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


loops = pytest.mark.parametrize("name", ["denoiser", "tmr", "text"])


@loops
def test_the_loss_falls(name, tmp_path):
    recipe = Recipe(steps=60, batch=8, learning_rate=5e-3, warmup=5)
    _, losses = train(name, recipe, tmp_path)
    assert len(losses) == 60
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:5])


@loops
def test_without_learning_the_loss_does_not_fall(name, tmp_path):
    """Negative control of the one above."""
    _, losses = train(name, Recipe(steps=60, batch=8, learning_rate=0.0, weight_decay=0.0, warmup=5), tmp_path)
    assert np.mean(losses[-10:]) > 0.85 * np.mean(losses[:5])


@loops
def test_a_seed_decides_weights_and_losses_bit_for_bit(name, tmp_path):
    recipe = Recipe(steps=4, batch=8, warmup=1, seed=7)
    one, other = train(name, recipe, tmp_path / "a"), train(name, recipe, tmp_path / "b")
    assert one[1] == other[1]
    assert same(one[0], other[0])
    third = train(name, Recipe(steps=4, batch=8, warmup=1, seed=8), tmp_path / "c")
    assert third[1] != one[1]
    assert not same(one[0], third[0])


def test_a_trained_text_encoder_can_be_loaded_again_and_brings_paraphrases_together(tmp_path):
    train_words(Recipe(steps=60, batch=8, learning_rate=5e-3, warmup=5), tmp_path)
    pooled = TextEncoder(tmp_path).pooled(["a man walks", "the figure strolls", "a man kicks"])
    near, far = (torch.cosine_similarity(pooled[0], pooled[n], dim=0) for n in (1, 2))
    assert near > far


def test_the_denoiser_s_loss_weighs_features(monkeypatch):
    """A network that predicts 0: the loss of the first step is the weighted mean square of the valid motion."""
    data = motion_text()
    zero = lambda self, x_BFD, *_: x_BFD * 0 + sum(p.sum() for p in self.parameters()) * 0  # noqa: E731
    monkeypatch.setattr(MDM, "forward", zero)
    recipe = Recipe(steps=1, batch=64, learning_rate=0.0, warmup=1, seed=3)
    row_B = torch.randint(CLIPS, (64,), generator=torch.Generator().manual_seed(3))
    valid_BF = torch.arange(FRAMES)[None] < data.length_N[row_B][:, None]
    square_ND = data.features_NFD[row_B][valid_BF].square()
    weight_D = torch.ones(263)
    weight_D[:4], weight_D[4:67], weight_D[67:193], weight_D[259:] = 8.0, 2.0, 0.5, 0.5
    (loss,) = train_mdm(recipe, data)[1]
    path_BF3 = (data.features_NFD[row_B] * valid_BF[..., None])[..., :3].cumsum(1)
    path = PATH_WEIGHT * path_BF3[valid_BF].square().mean()
    assert loss == pytest.approx((square_ND * weight_D).mean().item() + path.item(), rel=1e-5)
    assert loss != pytest.approx(square_ND.mean().item(), rel=1e-2)  # negative control: unweighted


def test_the_denoiser_s_weights_stay_float32():
    model, _ = train_mdm(Recipe(steps=2, batch=8, warmup=1))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_text_encoder_learns_the_words_of_paraphrases_and_the_masked_ones(tmp_path, monkeypatch):
    """Both terms of the loss: where paraphrases share nothing to predict, or nothing is hidden, it is another one."""
    terms = []
    cross_entropy = torch.nn.functional.cross_entropy

    def watched(scores, target):
        terms.append((scores.detach(), target))
        return cross_entropy(scores, target)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    train_words(Recipe(steps=8, batch=16, warmup=1), tmp_path)
    masked, words = terms[::2], terms[1::2]
    assert len(masked) == len(words) == 8
    tokens = sum(len(target) for _, target in masked) / (8 * 16)
    assert 0.2 < tokens < 1.0  # 15 % of 2 to 5 words a caption
    special = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True).all_special_ids
    for scores_BV, target_BV in words:
        assert scores_BV.shape == target_BV.shape
        torch.testing.assert_close(target_BV.sum(1), torch.ones(16))  # a distribution over the other wording's words
        assert not target_BV[:, special].any()
        count_B = (target_BV > 0).sum(1)
        assert 2 <= int(count_B.min()) <= int(count_B.max()) <= 5
    for _, target in masked:
        assert not torch.isin(target, torch.tensor(special)).any()


def test_a_batch_that_hides_no_word_is_no_fault(tmp_path):
    """Every seventh batch of two short captions: the other words are learned all the same."""
    _, losses = train_words(Recipe(steps=20, batch=2, warmup=1), tmp_path)
    assert np.isfinite(losses).all()


def test_the_denoiser_keeps_the_moving_average_of_its_weights():
    steps = []
    model, _ = train_mdm(
        Recipe(steps=5, batch=8, learning_rate=1e-2, warmup=1),
        watch=lambda m: steps.append({k: v.clone() for k, v in m.named_parameters()}),
    )
    average = {k: v.detach().clone() for k, v in steps[0].items()}
    for weights in steps[1:]:
        average = {k: 0.999 * average[k] + 0.001 * weights[k].detach() for k in average}
    for name, kept in model.named_parameters():
        torch.testing.assert_close(kept.detach(), average[name], rtol=0, atol=1e-6)
    assert not same({k: v.detach() for k, v in model.named_parameters()}, {k: v.detach() for k, v in steps[-1].items()})


def test_frames_beyond_the_length_do_not_matter_to_the_denoiser():
    recipe = Recipe(steps=3, batch=8, warmup=1)
    assert train_mdm(recipe)[1] == train_mdm(recipe, motion_text(padding=50.0))[1]
    seen = motion_text()
    seen.features_NFD[:, 0] += 1  # negative control: frames within the length do
    assert train_mdm(recipe)[1] != train_mdm(recipe, seen)[1]


def test_a_tenth_of_the_texts_is_dropped(monkeypatch):
    dropped = []
    forward = MDM.forward

    def watched(self, x_BFD, t_B, text_BC, length_B):
        dropped.append((text_BC == 0).all(1).float().mean().item())
        return forward(self, x_BFD, t_B, text_BC, length_B)

    monkeypatch.setattr(MDM, "forward", watched)
    train_mdm(Recipe(steps=20, batch=64, warmup=1))
    assert 0.07 < np.mean(dropped) < 0.13


def test_a_retrieval_batch_holds_each_combination_once(monkeypatch):
    """Otherwise a caption's own motion would count as a negative. Batches take turns between the parts."""
    data, batches = motion_text(), []
    encode = TMR.encode_text

    def watched(self, tokens_BLC, length_B):
        batches.append(tokens_BLC.clone())
        return encode(self, tokens_BLC, length_B)

    monkeypatch.setattr(TMR, "encode_text", watched)
    first = MotionText(data.features_NFD[::2], data.length_N[::2], data.caption_N[::2])
    second = MotionText(data.features_NFD[1::2], data.length_N[1::2], data.caption_N[1::2])
    assert not {*first.caption_N.tolist()} & {*second.caption_N.tolist()}
    train_retrieval(Recipe(steps=6, batch=8, warmup=1), [(p, p.caption_N) for p in (first, second)])
    sets = [{row.sum().item() for row in batch} for batch in batches]
    assert [len(batch) for batch in batches] == [len(s) for s in sets] == [2] * 6
    assert sets[0] == sets[2] == sets[4]
    assert sets[1] == sets[3] == sets[5]
    assert not sets[0] & sets[1]


def test_half_done_freezes_even_rows_and_shrinks_odd_ones():
    generator = torch.Generator().manual_seed(3)
    x_BFD = torch.randn(40, 30, 263, generator=generator)
    rest_D = torch.linspace(-1, 1, 263)
    before = x_BFD.clone()
    made = half_done(x_BFD, rest_D, generator)
    assert torch.equal(x_BFD, before)
    assert made.shape == x_BFD.shape
    stops, shares = set(), set()
    pose = [*range(3, 193)]
    velocity = [*range(3), *range(193, 263)]
    for row, original in zip(made[::2], x_BFD[::2], strict=True):
        stop = int((row == original).all(1).sum()) - 1  # frames before and at the stop are untouched
        stops.add(stop)
        assert 30 // 5 <= stop < 2 * 30 // 3
        assert torch.equal(row[: stop + 1], original[: stop + 1])
        assert torch.equal(row[stop + 1 :, pose], original[stop, pose].expand(29 - stop, -1))
        assert torch.equal(row[stop + 1 :, velocity], rest_D[velocity].expand(29 - stop, -1))
    for row, original in zip(made[1::2], x_BFD[1::2], strict=True):
        share = ((row - row[:1])[1:] / (original - original[:1])[1:]).median()
        shares.add(round(share.item(), 3))
        assert 0.33 <= share <= 0.66
        torch.testing.assert_close(row, original[:1] + share * (original - original[:1]), rtol=0, atol=1e-4)
    assert min(len(stops), len(shares)) > 5


GROUPS = {"yaw": (0, 1), "velocity": (1, 3), "height": (3, 4), "joints": (4, 67), "rotations": (67, 193),
          "velocities": (193, 259), "contacts": (259, 263)}  # fmt: skip


def test_statistics_share_their_deviation_within_groups():
    generator = torch.Generator().manual_seed(4)
    features_NFD = torch.randn(30, 20, 263, generator=generator) * torch.linspace(0.5, 3, 263) + torch.arange(263)
    length_N = torch.randint(10, 21, (30,), generator=generator)
    valid_NF = torch.arange(20)[None] < length_N[:, None]
    mean_D, std_D = feature_statistics(features_NFD, length_N)
    assert mean_D.dtype == std_D.dtype == torch.float32
    rows = features_NFD[valid_NF].double()
    torch.testing.assert_close(mean_D.double(), rows.mean(0), rtol=1e-6, atol=1e-6)
    for name, (start, stop) in GROUPS.items():
        want = rows[:, start:stop].std(0).mean()
        torch.testing.assert_close(std_D[start:stop].double(), want.expand(stop - start), rtol=1e-6, atol=0, msg=name)
    assert len(std_D.unique()) == len(GROUPS)


def test_statistics_do_not_see_padding_and_survive_constant_features():
    features_NFD = torch.randn(6, 10, 263, generator=torch.Generator().manual_seed(4))
    features_NFD[..., 259:] = 1.0
    length_N = torch.tensor([10, 9, 8, 7, 6, 5])
    padded = features_NFD.clone()
    padded[torch.arange(10)[None] >= length_N[:, None]] = 1e6
    one, other = feature_statistics(features_NFD, length_N), feature_statistics(padded, length_N)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[1][259:], torch.full((4,), 1e-3))
    seen = features_NFD.clone()
    seen[0, 9] = 1e6  # negative control: a frame within the length counts
    assert not torch.equal(feature_statistics(seen, length_N)[0], one[0])


def test_the_loss_sees_a_path_that_drifts_and_nothing_beyond_the_length():
    """Errors of one size: those of the root that add up cost more than those that cancel; a joint's do not."""
    sign_F = torch.tensor([1.0, -1.0] * 6)
    valid_BF = torch.ones(1, 12, dtype=torch.bool)

    def loss(feature, error_F, valid=valid_BF):
        error_BFD = torch.zeros(1, 12, 263)
        error_BFD[0, :, feature] = error_F
        return x0_loss(error_BFD, valid).item()

    for feature in (0, 1, 2):
        assert loss(feature, sign_F.abs()) > 1.5 * loss(feature, sign_F)
    assert loss(4, sign_F.abs()) == loss(4, sign_F)
    assert loss(0, sign_F) == pytest.approx(8.0 / 263 + PATH_WEIGHT * 0.5 / 3)
    short_BF = torch.arange(12)[None] < 6
    late_F = torch.where(torch.arange(12) < 6, 0.0, 1.0)
    assert loss(0, late_F, short_BF) == 0 < loss(0, late_F)


@pytest.mark.parametrize("features", [205, 264])
def test_statistics_of_another_representation_are_refused(features):
    motion_BFD = torch.randn(2, 5, features, generator=torch.Generator().manual_seed(4))
    with pytest.raises(ValueError, match=rf"got {features} features; want one of \[251, 263\]"):
        feature_statistics(motion_BFD, torch.tensor([5, 5]))


def test_kits_features_have_groups_of_their_own():
    """251 features with 21 joints: the deviation is shared within a group, and the loss weighs each by its own."""
    motion_BFD = torch.randn(3, 9, 251, generator=torch.Generator().manual_seed(4)) * torch.arange(1, 252)
    _, std_D = feature_statistics(motion_BFD, torch.tensor([9, 9, 5]))
    groups = ((0, 1), (1, 3), (3, 4), (4, 64), (64, 184), (184, 247), (247, 251))
    assert len(std_D.unique()) == len(groups)
    for start, stop in groups:
        assert len(std_D[start:stop].unique()) == 1
    valid_BF = torch.ones(1, 2, dtype=torch.bool)
    for feature, weight in ((3, 8.0), (63, 2.0), (64, 0.5), (183, 0.5), (184, 1.0), (246, 1.0), (247, 0.5)):
        error_BFD = torch.zeros(1, 2, 251)
        error_BFD[..., feature] = 1.0
        assert x0_loss(error_BFD, valid_BF).item() == pytest.approx(weight / 251)


def test_x0_of_another_representation_is_not_weighed_by_humanml3d_s_slices():
    denoiser = SimpleNamespace(mask_frames=True, prediction_type="sample", representation=Representation.SMPLRIFKE_205)
    with pytest.raises(ValueError, match="got a network that predicts smplrifke-205 motion; want humanml3d-263"):
        train_denoiser(denoiser, motion_text(), [], Recipe(steps=1), lambda *_: None)
