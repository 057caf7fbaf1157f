"""One pretraining for every denoiser kind and prediction type: it learns motion and text, and what it keeps works."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rl_motion.config import AdapterConfig, PolicyConfig, ScheduleConfig, UserError
from rl_motion.diffusion.schedule import alphas_cumprod
from rl_motion.models import pretraining
from rl_motion.models.adapter import attach_lora
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.pretraining import MotionText, Recipe, denoising_loss, denoising_target, train_denoiser, x0_loss
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, TextTokens
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import DENOISERS, CheckpointConfig, load_denoiser, network_shape, save_checkpoint
from rl_motion.policies import DiffusionPolicy, audit
from rl_motion.types import Prompt, Unit

pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES, FRAMES, CLIPS = 8, 12, 24
CAPTIONS = ["a man walks", "someone kicks twice with the left foot", "a figure waves"]
SCHEDULE = ScheduleConfig(betas="cosine", timesteps=20)
LAYOUT = SimpleNamespace(joints=slice(4, 8), rot6d=slice(8, 8), vel=slice(8, 8), feet=slice(8, 8))
"""Of features that are small enough to be learned in no time: a root and what hangs on it."""
SPACE = MotionSpace(torch.zeros(FEATURES), torch.ones(FEATURES))
SHAPES = {
    "mdm": MDMConfig(
        features=FEATURES, latent_dim=16, ff_size=32, num_layers=1, num_heads=2, text_dim=16, mask_frames=True,
        pos_embed_max_len=32, dropout=0.0,
    ),
    "t2m_unet": T2MUnetConfig(
        features=FEATURES, base_dim=16, dim_mults=(1,), time_dim=8, text_dim=16, text_latent_dim=8, text_ff_size=16,
        text_num_heads=2, num_text_layers=1, max_frames=16, mask_frames=True, mask_tokens=True, dropout=0.0,
    ),
}  # fmt: skip
KINDS_OF_PREDICTION = ("sample", "epsilon", "v_prediction")
kinds = pytest.mark.parametrize("kind", SHAPES)
predictions = pytest.mark.parametrize("predicts", KINDS_OF_PREDICTION)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(pretraining, "layout_of", lambda width: LAYOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(CAPTIONS, path / "text", TinyBertConfig(hidden=16, layers=1, heads=2))
    return path


def motion_text(padding=0.0):
    """One motion per caption, with a little variation; `padding` fills what lies beyond the length."""
    generator = torch.Generator().manual_seed(5)
    caption_N = torch.arange(CLIPS) % len(CAPTIONS)
    motion_UFD = torch.randn(len(CAPTIONS), 1, FEATURES, generator=generator).expand(-1, FRAMES, -1)
    features = motion_UFD[caption_N] + 0.1 * torch.randn(CLIPS, FRAMES, FEATURES, generator=generator)
    length_N = torch.tensor([FRAMES, FRAMES - 1, FRAMES - 3, FRAMES - 4] * (CLIPS // 4))
    features[torch.arange(FRAMES)[None] >= length_N[:, None]] = padding
    return MotionText(features, length_N, caption_N)


def untrained(kind, folder, predicts="sample", **changes):
    torch.manual_seed(1)
    network_class, shape_class, denoiser_class = DENOISERS[kind]
    shape = shape_class(**(dataclasses.asdict(SHAPES[kind]) | changes))
    return denoiser_class(
        network_class(shape), SCHEDULE, space=SPACE, text_encoder=TextEncoder(folder / "text"), prediction_type=predicts
    )


def train(denoiser, recipe, data=None):
    losses = []
    train_denoiser(denoiser, data or motion_text(), CAPTIONS, recipe, lambda _, loss: losses.append(loss))
    return losses


@kinds
@predictions
def test_the_loss_falls(kind, predicts, folder):
    denoiser = untrained(kind, folder, predicts)
    losses = train(denoiser, Recipe(steps=40, batch=8, learning_rate=1e-2, warmup=5))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    assert not denoiser.network.training
    still = train(untrained(kind, folder, predicts), Recipe(steps=40, batch=8, learning_rate=0.0, warmup=5))
    assert np.mean(still[-10:]) > 0.9 * np.mean(still[:5])  # negative control


@kinds
def test_frames_beyond_the_length_do_not_matter(kind, folder):
    recipe = Recipe(steps=3, batch=8, warmup=1)
    losses = train(untrained(kind, folder), recipe)
    assert losses == train(untrained(kind, folder), recipe, motion_text(padding=50.0))
    seen = motion_text()
    seen.features_NFD[:, 0] += 1  # negative control: frames within the length do
    assert losses != train(untrained(kind, folder), recipe, seen)


def test_noise_beyond_the_length_does_not_matter_to_any_prediction(folder, monkeypatch):
    """What the target holds there, noise included, is in no loss."""
    target = pretraining.denoising_target
    recipe = Recipe(steps=2, batch=8, warmup=1)

    def losses(disturbed_from, predicts):
        def disturbed(prediction_type, x0_BFD, noise_BFD, alpha_B11):
            out = target(prediction_type, x0_BFD, noise_BFD, alpha_B11).clone()
            out[:, disturbed_from:] += 7.0
            return out

        monkeypatch.setattr(pretraining, "denoising_target", disturbed)
        data = MotionText(motion_text().features_NFD, torch.full((CLIPS,), 8), motion_text().caption_N)
        return train(untrained("t2m_unet", folder, predicts), recipe, data)

    for predicts in KINDS_OF_PREDICTION:
        assert losses(8, predicts) == losses(FRAMES, predicts) != losses(7, predicts)


@pytest.mark.parametrize(("kind", "network"), [("mdm", MDM), ("t2m_unet", T2MUnet)])
def test_a_tenth_of_the_texts_is_dropped_as_the_model_s_null_condition_is(kind, network, folder, monkeypatch):
    dropped, denoiser, forward = [], untrained(kind, folder), network.forward

    def watched(self, x_BFD, t_B, text, length_B):
        null_B = text.length_B == 0 if isinstance(text, TextTokens) else (text == 0).all(1)
        dropped.append(null_B.float().mean().item())
        return forward(self, x_BFD, t_B, text, length_B)

    monkeypatch.setattr(network, "forward", watched)
    train(denoiser, Recipe(steps=20, batch=64, warmup=1))
    assert 0.07 < np.mean(dropped) < 0.13


@kinds
def test_rows_of_a_condition_say_what_each_says_alone(kind, folder):
    denoiser = untrained(kind, folder)
    train(denoiser, Recipe(steps=20, batch=8, learning_rate=1e-2, warmup=1))
    rows_B, kept_B = torch.tensor([2, 0, 1, 2]), torch.tensor([True, False, True, True])
    condition = denoiser.condition_rows(denoiser.encode_text(CAPTIONS), rows_B, kept_B)
    x_BFD, t_B, length_B = torch.randn(4, FRAMES, FEATURES), torch.tensor([3, 7, 7, 19]), torch.tensor([12, 12, 9, 10])
    with torch.no_grad():
        got_BFD = denoiser.predict(x_BFD, t_B, condition, length_B)
        for row, (caption, kept) in enumerate(zip(rows_B.tolist(), kept_B.tolist(), strict=True)):
            alone = denoiser.encode_text([CAPTIONS[caption]]) if kept else denoiser.null_condition(1)
            one = slice(row, row + 1)
            want_BFD = denoiser.predict(x_BFD[one], t_B[one], alone, length_B[one])
            torch.testing.assert_close(got_BFD[one], want_BFD, rtol=1e-4, atol=1e-5)
        other = denoiser.predict(x_BFD[1:2], t_B[1:2], denoiser.encode_text([CAPTIONS[0]]), length_B[1:2])
    assert float((got_BFD[1:2] - other).abs().max()) > 1e-3  # negative control: kept, the row says something else


def test_a_batch_carries_no_more_tokens_than_its_longest_text(folder):
    denoiser = untrained("t2m_unet", folder)
    condition = denoiser.encode_text(CAPTIONS)
    rows_B = torch.tensor([0, 1])
    assert denoiser.condition_rows(condition, rows_B, torch.tensor([True, True])).tokens_BMC.shape[1] == 9
    short = denoiser.condition_rows(condition, rows_B, torch.tensor([True, False]))
    assert short.tokens_BMC.shape[1] == 5 and short.length_B.tolist() == [5, 0]
    none = denoiser.condition_rows(condition, rows_B, torch.tensor([False, False]))
    assert none.tokens_BMC.shape[1] == 1 and none.length_B.tolist() == [0, 0]


@kinds
def test_a_network_that_sees_padding_is_refused(kind, folder):
    with pytest.raises(ValueError, match=r"got a network that sees padded frames; want mask_frames=True; train"):
        train(untrained(kind, folder, mask_frames=False), Recipe(steps=1))


def test_targets_are_those_that_the_solver_turns_back_into_x0():
    x0_BFD, noise_BFD = torch.randn(2, 4, 5, FEATURES, dtype=torch.float64).unbind()
    alpha_B11 = torch.from_numpy(alphas_cumprod(SCHEDULE))[[0, 5, 11, 18]].sqrt()[:, None, None]
    sigma_B11 = (1 - alpha_B11**2).sqrt()
    x_BFD = alpha_B11 * x0_BFD + sigma_B11 * noise_BFD
    said = {
        kind: denoising_target(kind, x0_BFD, noise_BFD, alpha_B11) for kind in ("sample", "epsilon", "v_prediction")
    }
    assert said["sample"] is x0_BFD
    torch.testing.assert_close((x_BFD - sigma_B11 * said["epsilon"]) / alpha_B11, x0_BFD, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha_B11 * x_BFD - sigma_B11 * said["v_prediction"], x0_BFD, rtol=1e-9, atol=1e-9)


def test_noise_and_v_weigh_the_error_of_x0_as_the_docstring_says():
    x0_BFD, wrong_BFD, noise_BFD = torch.randn(3, 1, 5, FEATURES, dtype=torch.float64).unbind()
    valid_BF = torch.arange(5)[None] < 4
    square = (wrong_BFD - x0_BFD)[valid_BF].square().mean().item()
    for alpha in (0.1, 0.6, 0.95):
        alpha_B11, sigma = torch.full((1, 1, 1), alpha, dtype=torch.float64), (1 - alpha**2) ** 0.5
        x_BFD = alpha * x0_BFD + sigma * noise_BFD
        # What a network says that takes `wrong` for x0: the noise that would then be in x.
        implied_BFD = (x_BFD - alpha * wrong_BFD) / sigma
        snr = alpha**2 / sigma**2
        for kind, weight in (("epsilon", snr), ("v_prediction", snr + 1)):
            right = denoising_target(kind, x0_BFD, noise_BFD, alpha_B11)
            error_BFD = denoising_target(kind, wrong_BFD, implied_BFD, alpha_B11) - right
            assert denoising_loss(kind, error_BFD, valid_BF).item() == pytest.approx(weight * square)
    error_BFD = wrong_BFD - x0_BFD
    assert denoising_loss("sample", error_BFD, valid_BF).item() == x0_loss(error_BFD, valid_BF).item()
    assert denoising_loss("sample", error_BFD, valid_BF).item() != pytest.approx(square)


@kinds
@predictions
def test_what_was_trained_is_kept_sampled_from_and_adapted(kind, predicts, folder):
    denoiser = untrained(kind, folder, predicts)
    train(denoiser, Recipe(steps=50, batch=8, learning_rate=1e-2, warmup=5))
    shape = network_shape(denoiser.network)
    config = CheckpointConfig(
        kind=kind, network=shape, text_encoder="text", schedule=SCHEDULE, prediction_type=predicts
    )  # fmt: skip
    save_checkpoint(folder / f"{kind}-{predicts}", denoiser.network, config, SPACE)
    written = json.loads((folder / f"{kind}-{predicts}" / "config.json").read_text())
    assert written.get("prediction_type", "not written") == ("not written" if predicts == "sample" else predicts)
    loaded = load_denoiser(folder / f"{kind}-{predicts}")
    assert loaded.prediction_type == predicts
    x_BFD, t_B, length_B = torch.randn(1, FRAMES, FEATURES), torch.tensor([19]), torch.tensor([FRAMES])
    text, null = loaded.encode_text([CAPTIONS[0]]), loaded.null_condition(1)
    with torch.no_grad():
        said = loaded.predict(x_BFD, t_B, text, length_B)
        assert torch.equal(said, denoiser.predict(x_BFD, t_B, text, length_B))
        assert float((said - loaded.predict(x_BFD, t_B, null, length_B)).abs().max()) > 1e-3  # text matters
    attach_lora(loaded.network, AdapterConfig())
    policy = DiffusionPolicy(loaded, PolicyConfig(steps=4, guidance_scale=2.5))
    prompt = Prompt("p", CAPTIONS[1], FRAMES)
    trajectory = policy.rollout(Unit(seed=0, iteration=0, index=0, prompts=(prompt,), samples_per_prompt=2))
    assert policy.decode(trajectory).features_BFD.isfinite().all()
    audit(policy, trajectory)


def test_an_unknown_prediction_type_is_explained(folder):
    denoiser = untrained("mdm", folder)
    config = CheckpointConfig(
        kind="mdm", network=network_shape(denoiser.network), text_encoder="text", schedule=SCHEDULE
    )  # fmt: skip
    save_checkpoint(folder / "odd", denoiser.network, config, SPACE)
    file = folder / "odd" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "score"}))
    with pytest.raises(UserError, match=r"(?s)got .*prediction_type.*; want .*; copy"):
        load_denoiser(folder / "odd")
