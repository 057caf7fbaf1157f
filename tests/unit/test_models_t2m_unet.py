"""T2MUnet: masks, null rows, adapter, checkpoint, and its exact policy on a canvas and with masked frames."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

from rl_motion.config import AdapterConfig, AuditError, PolicyConfig, ScheduleConfig, UserError
from rl_motion.models.adapter import adapter_disabled, adapter_state, attach_lora, load_adapter_state
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, T2MUnetDenoiser, TextTokens
from rl_motion.models.text import TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, load_denoiser, network_shape, save_checkpoint
from rl_motion.policies import DiffusionPolicy, audit, unit_noise
from rl_motion.protocols import Denoiser
from rl_motion.runtime import checks
from rl_motion.types import Prompt, Unit

pytestmark = pytest.mark.usefixtures("one_thread")
CANVAS, FEATURES, TEXT = 24, 6, 10
SMALL = T2MUnetConfig(
    features=FEATURES, base_dim=32, dim_mults=(1, 1), time_dim=8, text_dim=TEXT, text_latent_dim=8, text_ff_size=16,
    text_num_heads=2, num_text_layers=1, max_frames=CANVAS, mask_frames=True, mask_tokens=True,
)  # fmt: skip
both = pytest.mark.parametrize("linear", [True, False], ids=["linear", "full"])
modes = pytest.mark.parametrize("masked", [True, False], ids=["masked", "canvas"])


def _randomised(module, scale=0.3, seed=0):
    """Some layers start at zero, and hide what is behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def _model(**changes):
    torch.manual_seed(0)
    return _randomised(T2MUnet(dataclasses.replace(SMALL, **changes))).eval()


def _inputs(tokens=(7, 3, 5)):
    generator = torch.Generator().manual_seed(1)
    x_BFD = torch.randn(3, 20, FEATURES, generator=generator)
    text = TextTokens(torch.randn(3, 7, TEXT, generator=generator), torch.tensor(tokens))
    return x_BFD, torch.tensor([0, 7, 49]), text, torch.tensor([20, 5, 9])


class _Texts:
    """Tokens of a text: its characters' codes."""

    def tokens(self, texts):
        rows = [torch.tensor([float(ord(c) % 7) for c in text]) for text in texts]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded[..., None].expand(-1, -1, TEXT).clone(), torch.tensor([len(row) for row in rows])

    def padded_tokens(self, texts):
        hidden, _ = self.tokens([*texts, "x" * 12])
        return hidden[:-1]


def _denoiser(**changes):
    space = MotionSpace(mean_D=torch.linspace(-1, 1, FEATURES), std_D=torch.linspace(0.5, 2.0, FEATURES))
    return T2MUnetDenoiser(_model(**changes), ScheduleConfig(), space=space, text_encoder=_Texts())


def _beyond(length_B, frames):
    return torch.arange(frames) >= length_B[:, None]


@both
@pytest.mark.parametrize("masked", [True, False])
def test_predictions_have_the_same_bits_with_and_without_gradients(linear, masked):
    model = _model(linear_attention=linear, mask_frames=masked)
    with_grad = model(*_inputs())
    with torch.no_grad():
        without_grad = model(*_inputs())
    assert with_grad.requires_grad
    assert with_grad.shape == (3, 20, FEATURES)
    assert torch.equal(with_grad, without_grad)


def _change_from_padding(**changes):
    model = _model(**changes)
    x_BFD, t_B, text, length_B = _inputs()
    valid_BF = ~_beyond(length_B, 20)
    other_BFD = torch.where(valid_BF[..., None], x_BFD, torch.full_like(x_BFD, 5.0))
    with torch.no_grad():
        change = model(x_BFD, t_B, text, length_B) - model(other_BFD, t_B, text, length_B)
    return change[valid_BF].abs().max().item()


@both
def test_masked_frames_cannot_change_a_bit(linear):
    assert _change_from_padding(linear_attention=linear) == 0.0


def test_without_masking_padding_is_seen():
    """Negative control of the above."""
    assert _change_from_padding(mask_frames=False) > 1e-3


@pytest.mark.parametrize("length", [5, 9, 16, 17])
def test_a_masked_motion_is_computed_as_if_alone_on_a_canvas_of_its_own(length):
    model, loose = _model().double(), _model(mask_frames=False).double()
    x_BFD, t_B, text, _ = _inputs()
    x_BFD, text = x_BFD.double(), TextTokens(text.tokens_BMC.double(), text.length_B)
    length_B = torch.full((3,), length)
    with torch.no_grad():
        alone = model(x_BFD[:, :length], t_B, text, length_B)
        torch.testing.assert_close(model(x_BFD, t_B, text, length_B)[:, :length], alone, atol=1e-10, rtol=0)
        change = loose(x_BFD, t_B, text, length_B)[:, :length] - loose(x_BFD[:, :length], t_B, text, length_B)
    assert change.abs().max() > 1e-3  # negative control


@both
def test_hidden_tokens_cannot_change_a_bit_and_visible_ones_do(linear):
    model = _model(linear_attention=linear)
    x_BFD, t_B, text, length_B = _inputs()
    tokens_BMC = text.tokens_BMC.clone()
    tokens_BMC[1, 3:] = 9.0
    with torch.no_grad():
        base = model(x_BFD, t_B, text, length_B)
        assert torch.equal(model(x_BFD, t_B, TextTokens(tokens_BMC, text.length_B), length_B), base)
        shown = model(x_BFD, t_B, TextTokens(tokens_BMC, torch.tensor([7, 4, 5])), length_B)
    assert torch.equal(shown[[0, 2]], base[[0, 2]])
    assert not torch.equal(shown[1], base[1])


@both
def test_a_row_without_tokens_is_the_null_condition_and_has_finite_gradients(linear):
    model = _model(linear_attention=linear)
    x_BFD, t_B, text, length_B = _inputs(tokens=(7, 0, 5))
    mixed, null = model(x_BFD, t_B, text, length_B), model(x_BFD, t_B, None, length_B)
    torch.testing.assert_close(mixed[1], null[1], atol=1e-6, rtol=0)
    assert not torch.allclose(mixed[0], null[0], atol=1e-3)
    mixed.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_fresh_network_predicts_zero_and_training_drops_activations_but_never_the_text():
    torch.manual_seed(0)
    x_BFD, t_B, text, length_B = _inputs()
    assert not bool(T2MUnet(SMALL).eval()(x_BFD, t_B, text, length_B).any())
    model = _model(dropout=0.0).train()
    assert torch.equal(model(x_BFD, t_B, text, length_B), model.eval()(x_BFD, t_B, text, length_B))
    model = _model(dropout=0.5).train()
    assert not torch.equal(model(x_BFD, t_B, text, length_B), model(x_BFD, t_B, text, length_B))


def test_mistakes_are_explained():
    x_BFD, t_B, text, length_B = _inputs()
    with pytest.raises(ValueError, match=r"got 25 frames; want at most 24; shorten"):
        _model()(torch.zeros(3, 25, FEATURES), t_B, text, length_B)
    with pytest.raises(ValueError, match=r"got 5 features.*want 6; choose"):
        _model()(x_BFD[..., :5], t_B, text, length_B)
    for wrong in ({"base_dim": 12}, {"dim_mults": ()}, {"dim_mults": (0,)}):
        with pytest.raises(ValueError, match=r"got channels .*want .*multiple of 8.*change base_dim"):
            _model(**wrong)
    with pytest.raises(ValueError, match=r"got text embeddings of 10 channels; want 9; use"):
        _denoiser(text_dim=9).encode_text(["walk"])


@modes
def test_the_denoiser_fills_the_seam(masked):
    denoiser = _denoiser(mask_frames=masked, mask_tokens=masked)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.prediction_type, denoiser.features, denoiser.mask_frames) == ("sample", FEATURES, masked)
    assert denoiser.canvas == (None if masked else CANVAS)
    condition = denoiser.encode_text(["walk", "jump up", "sit"])
    assert condition.length_B.tolist() == ([4, 7, 3] if masked else [12, 12, 12])
    assert denoiser.null_condition(3) is None
    x_BFD, t_B, _, length_B = _inputs()
    want = denoiser.network(x_BFD, t_B, condition, length_B)
    assert torch.equal(denoiser.predict(x_BFD, t_B, condition, length_B), want)
    assert not torch.equal(denoiser.predict(x_BFD, t_B, None, length_B), want)


def test_decode_keeps_the_frames_of_the_longest_row():
    denoiser = _denoiser(mask_frames=False)
    x_BFD = torch.randn(2, CANVAS, FEATURES, requires_grad=True)
    motions = denoiser.decode(x_BFD, torch.tensor([3, 11]))
    assert motions.features_BFD.shape == (2, 11, FEATURES)
    want = x_BFD[1, :11] * denoiser.std_D + denoiser.mean_D
    assert torch.equal(motions.features_BFD[1], want)
    assert float(motions.features_BFD[0, 3:].detach().abs().max()) == 0.0
    motions.features_BFD.sum().backward()
    assert float(x_BFD.grad[0, 3:].abs().max()) == 0.0


TARGETS = {
    "attention": {"query", "key", "value"},
    "mlp": {"1", "3"},
    "condition": {"embed_text", "in_proj", "out_proj", "linear1", "linear2"},
}


@pytest.mark.usefixtures("torchs_products")
@pytest.mark.parametrize("target", TARGETS)
def test_targets_say_what_is_adapted_and_each_of_its_layers_learns(target):
    network = _model()
    base = network(*_inputs())
    attach_lora(network, AdapterConfig(rank=2, targets=(target,)))
    assert torch.equal(network(*_inputs()), base)  # a fresh adapter changes no bit
    state = adapter_state(network)
    assert {name.split(".")[-3] for name in state} == TARGETS[target]
    assert all(("time_mlp" in name) == (target == "mlp") for name in state)
    generator = torch.Generator().manual_seed(4)
    load_adapter_state(network, {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()})
    network(*_inputs()).square().sum().backward()
    for name, parameter in network.named_parameters():
        adapted = ".lora_" in name
        assert parameter.requires_grad == adapted
        assert not adapted or float(parameter.grad.abs().max()) > 0.0, name
    assert not torch.equal(network(*_inputs()), base)
    with adapter_disabled(network):
        assert torch.equal(network(*_inputs()), base)


def test_all_targets_together_leave_convolutions_frozen():
    network = _model()
    attach_lora(network, AdapterConfig())
    adapted = {name.removesuffix(".lora_A.weight") for name in adapter_state(network) if "lora_A" in name}
    frozen = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.GroupNorm | nn.LayerNorm)
    }
    assert adapted and frozen and not adapted & frozen
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    assert all("base_layer" in name or ".lora_" in name for name in linear), "a linear layer was left out"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_networks_copy(duplicate):
    network = _model()
    other = duplicate(network)
    assert torch.equal(other(*_inputs()), network(*_inputs()))
    other.load_state_dict(network.state_dict(), strict=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint directory of the project's own form, beside its text encoder."""
    folder = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(["a person walks"], folder / "text", TinyBertConfig(hidden=TEXT, layers=1, heads=2))
    network = _model()
    schedule = ScheduleConfig(betas="linear", timesteps=20)
    config = CheckpointConfig(
        kind="t2m_unet", network=network_shape(network), text_encoder="text", schedule=schedule
    )  # fmt: skip
    save_checkpoint(folder / "unet", network, config, MotionSpace(torch.zeros(FEATURES), torch.ones(FEATURES)))
    return folder / "unet"


def test_a_checkpoint_comes_back_bit_for_bit(checkpoint):
    denoiser = load_denoiser(checkpoint)
    assert isinstance(denoiser, T2MUnetDenoiser)
    assert denoiser.network.config == SMALL
    assert torch.equal(denoiser.network(*_inputs()), _model()(*_inputs()))
    policy = DiffusionPolicy(denoiser, PolicyConfig(steps=3, guidance_scale=2.0))
    audit(policy, policy.rollout(_unit(CANVAS)))


def test_the_longest_prompt_is_the_canvas(checkpoint):
    prompts = [Prompt("p", "a person", frames) for frames in (CANVAS, CANVAS + 1)]
    checks.check_prompts([checkpoint], prompts[:1])
    with pytest.raises(UserError, match=r"25 frames.*want at most 24"):
        checks.check_prompts([checkpoint], prompts)


def _unit(*lengths, seed=0):
    prompts = tuple(Prompt(id=f"p{n}", text="walk" * (n + 1), length=length) for n, length in enumerate(lengths))
    return Unit(seed=seed, iteration=0, index=0, prompts=prompts, samples_per_prompt=2)


def _policy(config=None, dtype=torch.float32, **changes):
    denoiser = _denoiser(**changes)
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    policy = DiffusionPolicy(denoiser.to(dtype), config or PolicyConfig(steps=4, guidance_scale=2.5), dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    state = policy.adapter_state()
    policy.load_adapter_state({n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()})
    return policy, denoiser


@modes
@both
@pytest.mark.parametrize("order", [1, 2])
def test_rollout_audit_replay_and_gradient_are_exact(masked, linear, order):
    config = PolicyConfig(steps=4, guidance_scale=2.5, order=order)
    policy, _ = _policy(config, linear_attention=linear, mask_frames=masked, mask_tokens=masked)
    trajectory = policy.rollout(_unit(11, 7))
    frames = 11 if masked else CANVAS
    assert trajectory.states.shape == (4, 4, frames, FEATURES)
    assert trajectory.length_B.tolist() == [11, 11, 7, 7]
    audit(policy, trajectory)
    replay = policy.replay(trajectory)
    assert torch.equal(replay.log_prob_BS, trajectory.log_prob_BS)
    replay.log_prob_BS.sum().backward()
    gradients = {name: parameter.grad for name, parameter in policy.adapter_parameters().items()}
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert all(float(gradient.abs().max()) > 0.0 for gradient in gradients.values())
    assert not torch.equal(policy.replay(trajectory, adapter=False).mean_BSFD, replay.mean_BSFD)
    motions = policy.decode(trajectory)
    assert motions.features_BFD.shape == (4, 11, FEATURES)
    assert float(motions.features_BFD[2:, 7:].abs().max()) == 0.0


@modes
def test_the_audit_notices_dropout_and_moved_weights(masked):
    policy, denoiser = _policy(mask_frames=masked, mask_tokens=masked)
    trajectory = policy.rollout(_unit(11, 7))
    denoiser.network.train()
    with pytest.raises(AuditError, match="dropout"):
        audit(policy, trajectory)
    denoiser.network.eval()
    audit(policy, trajectory)
    with torch.no_grad():
        denoiser.network.unet.downs[0][0].conv1d.blocks[0].block.weight.mul_(1.001)
    with pytest.raises(AuditError, match="The adapters agree"):
        audit(policy, trajectory)


@modes
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_probs_cover_what_the_network_sees(masked, reduction):
    config = PolicyConfig(steps=3, log_prob=reduction)
    policy, _ = _policy(config, mask_frames=masked, mask_tokens=masked)
    trajectory = policy.rollout(_unit(11, 7))
    replay = policy.replay(trajectory)
    for row, length in enumerate(trajectory.length_B.tolist()):
        frames = length if masked else CANVAS
        normal = torch.distributions.Normal(replay.mean_BSFD[row, 1, :frames].double(), replay.std_S[1])
        density = normal.log_prob(trajectory.states[row, 2, :frames].double())
        want = density.sum() if reduction == "sum" else density.mean()
        torch.testing.assert_close(replay.log_prob_BS[row, 1], want, rtol=1e-5, atol=1e-5)
        assert bool((trajectory.states[row, :, length:frames] != 0.0).all())
        assert not bool(trajectory.states[row, :, frames:].any())


@modes
def test_a_motion_does_not_depend_on_its_batch_mates(masked):
    policy, _ = _policy(dtype=torch.float64, mask_frames=masked, mask_tokens=masked)
    alone, together = policy.rollout(_unit(7)), policy.rollout(_unit(7, CANVAS))
    frames = 7 if masked else CANVAS
    assert torch.equal(alone.states[:, 0], together.states[:2, 0, :frames])
    torch.testing.assert_close(alone.sample, together.sample[:2, :frames], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(alone.log_prob_BS, together.log_prob_BS[:2], atol=1e-8, rtol=1e-8)


def test_without_a_canvas_visible_padding_would_make_it_depend_on_them():
    """Negative control of the above: what the official sampler does, a canvas as long as the longest mate."""
    policy, denoiser = _policy(mask_frames=False, mask_tokens=False)
    denoiser.canvas, denoiser.mask_frames = None, True  # the policy is told that nothing is seen
    alone, together = policy.rollout(_unit(7)), policy.rollout(_unit(7, CANVAS))
    assert (alone.sample - together.sample[:2, :7]).abs().max() > 0.01


def test_the_canvas_is_filled_with_noise_and_longer_prompts_are_refused():
    noise_BFD = unit_noise(_unit(7, 3), 0, FEATURES, torch.float32, canvas=CANVAS)
    assert noise_BFD.shape == (4, CANVAS, FEATURES)
    assert bool((noise_BFD != 0.0).all())
    policy, _ = _policy(mask_frames=False, mask_tokens=False)
    with pytest.raises(UserError, match=r"got a prompt of 25 frames; want at most 24.*shorten"):
        policy.rollout(_unit(25))


def test_the_unconditional_half_of_a_guided_call_skips_cross_attention():
    """It is in the call, it costs no attention, and it is the null prediction."""
    policy, denoiser = _policy()
    rows, predict, blocks = [], denoiser.predict, list(denoiser.network.unet._blocks())

    def spy(x_BFD, t_B, condition, length_B):
        rows.append((len(x_BFD), {len(memory.valid_RM) for memory in condition}, len(condition)))
        prediction_BFD = predict(x_BFD, t_B, condition, length_B)
        half = len(x_BFD) // 2
        alone_BFD = predict(x_BFD[half:], t_B[half:], None, length_B[half:])
        scale = float(alone_BFD.abs().max())  # of random weights
        torch.testing.assert_close(prediction_BFD[half:], alone_BFD, atol=1e-5 * scale, rtol=0)
        return prediction_BFD

    denoiser.predict = spy
    policy.rollout(_unit(7))
    assert rows == [(4, {2}, len(blocks))] * 4
