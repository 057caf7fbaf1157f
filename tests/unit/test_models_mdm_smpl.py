"""MDM-SMPL: masks, text, adapter, checkpoint, its exact policy, and what reads 205 features or refuses them."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import AdapterConfig, AuditError, Job, PolicyConfig, ScheduleConfig, UserError
from rl_motion.config.load import dump_job
from rl_motion.data.embedded import prompts
from rl_motion.models.adapter import adapter_disabled, adapter_state, attach_lora, load_adapter_state
from rl_motion.models.denoiser import MotionSpace, TextStatistics
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.mdm_smpl import MDMSMPL, MDMSMPLConfig, MDMSMPLDenoiser
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, load_denoiser, network_shape, save_checkpoint
from rl_motion.motion.joints import motion_joints
from rl_motion.policies import DiffusionPolicy, audit
from rl_motion.protocols import Denoiser
from rl_motion.runtime import checks, sampling
from rl_motion.types import MotionForm, Normalisation, Prompt, Representation, Unit

pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES, TEXT = 205, 8
SMALL = MDMSMPLConfig(
    latent_dim=32, ff_size=64, num_layers=2, num_heads=4, text_dim=TEXT, pos_embed_max_len=120, dropout=0.1
)
SCHEDULE = ScheduleConfig(betas="cosine", timesteps=100)
FORM = MotionForm(Representation.SMPLRIFKE_205, Normalisation.NONE)


def _model(**changes):
    torch.manual_seed(0)
    return MDMSMPL(dataclasses.replace(SMALL, **changes)).eval()


def _inputs(tokens=(1, 1, 1)):
    generator = torch.Generator().manual_seed(1)
    x_BFD = torch.randn(3, 12, FEATURES, generator=generator)
    text = TextTokens(torch.randn(3, max(tokens), TEXT, generator=generator), torch.tensor(tokens))
    return x_BFD, torch.tensor([0, 7, 99]), text, torch.tensor([12, 5, 9])


class _Texts:
    """A text's embedding is its length, except for the empty text's."""

    def pooled(self, texts):
        return torch.stack([torch.full((TEXT,), len(text) or -3.0) for text in texts])


def _space(**changes):
    text = TextStatistics(torch.linspace(-1, 1, TEXT), torch.linspace(0.5, 2.0, TEXT))
    space = MotionSpace(
        torch.linspace(-0.1, 0.1, FEATURES), torch.linspace(0.05, 0.2, FEATURES), 20.0, FORM.representation, text
    )
    return dataclasses.replace(space, **changes)


def _denoiser(**changes):
    return MDMSMPLDenoiser(_model(**changes), SCHEDULE, space=_space(), text_encoder=_Texts())


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_predictions_have_the_same_bits_with_and_without_gradients(registers, context):
    model = _model(num_registers=registers)
    with_grad = model(*_inputs())
    with context():
        without_grad = model(*_inputs())
    assert with_grad.requires_grad
    assert with_grad.shape == (3, 12, FEATURES)
    assert torch.equal(with_grad, without_grad)
    assert ("registers" in model.state_dict()) == bool(registers)


def _beyond(length_B, size):
    return torch.arange(size) >= length_B[:, None]


def _change_from_padding(told_length_B):
    model = _model()
    x_BFD, t_B, text, length_B = _inputs()
    hidden_BF = _beyond(length_B, 12)
    other_BFD = torch.where(hidden_BF[..., None], torch.full_like(x_BFD, 5.0), x_BFD)
    with torch.no_grad():
        change = model(x_BFD, t_B, text, told_length_B) - model(other_BFD, t_B, text, told_length_B)
    return float(change[~hidden_BF].abs().max())


def test_padded_frames_cannot_change_a_bit():
    assert _change_from_padding(torch.tensor([12, 5, 9])) == 0.0
    assert _change_from_padding(torch.tensor([12, 12, 12])) > 1e-3  # negative control: they are told to be valid


def test_hidden_tokens_cannot_change_a_bit_and_visible_ones_do():
    model = _model()
    x_BFD, t_B, text, length_B = _inputs(tokens=(4, 2, 3))
    tokens_BMC = text.tokens_BMC.clone()
    tokens_BMC[1, 2:] = 9.0
    with torch.no_grad():
        base = model(x_BFD, t_B, text, length_B)
        assert torch.equal(model(x_BFD, t_B, TextTokens(tokens_BMC, text.length_B), length_B), base)
        shown = model(x_BFD, t_B, TextTokens(tokens_BMC, torch.tensor([4, 3, 3])), length_B)
    assert torch.equal(shown[[0, 2]], base[[0, 2]])
    assert not torch.equal(shown[1], base[1])


def test_registers_are_seen_and_time_is():
    model, (x_BFD, t_B, text, length_B) = _model(), _inputs()
    with torch.no_grad():
        base = model(x_BFD, t_B, text, length_B)
        assert not torch.equal(model(x_BFD, t_B + 1, text, length_B), base)
        model.registers[1] += 1.0
        assert not torch.equal(model(x_BFD, t_B, text, length_B), base)


def test_training_mode_drops_activations_but_never_the_text():
    model = _model(dropout=0.0).train()
    assert torch.equal(model(*_inputs()), model.eval()(*_inputs()))
    model = _model(dropout=0.5).train()
    assert not torch.equal(model(*_inputs()), model(*_inputs()))


def test_the_denoiser_fills_the_seam():
    denoiser = _denoiser()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.prediction_type, denoiser.features, denoiser.mask_frames) == ("sample", FEATURES, True)
    assert (denoiser.canvas, denoiser.representation, denoiser.fps) == (None, FORM.representation, 20.0)
    text = denoiser.encode_text(["walk", "jump up"])
    assert text.length_B.tolist() == [1, 1]
    want = (torch.tensor([4.0, 7.0])[:, None] - denoiser.text_mean_C) / denoiser.text_std_C
    assert torch.equal(text.tokens_BMC[:, 0], want)


def test_the_null_condition_is_the_normalised_empty_text():
    null = _denoiser().null_condition(2)
    text = _space().text
    assert torch.equal(null.tokens_BMC, ((-3.0 - text.mean_C) / text.std_C).expand(2, 1, TEXT))
    # Negative controls: neither zeros, nor the embedding as it comes.
    assert null.tokens_BMC.abs().min() > 0.1
    assert not torch.equal(null.tokens_BMC, torch.full((2, 1, TEXT), -3.0))


def test_decode_gives_205_features_that_read_as_joints():
    denoiser, length_B = _denoiser(), torch.tensor([3, 11])
    x_BFD = torch.randn(2, 11, FEATURES, requires_grad=True)
    motions = denoiser.decode(x_BFD, length_B)
    assert (motions.form, motions.fps) == (FORM, 20.0)
    assert torch.equal(motions.features_BFD[1], x_BFD[1] * denoiser.std_D + denoiser.mean_D)
    assert not motions.features_BFD[0, 3:].any()
    joints_BFJ3 = motion_joints(motions)
    assert joints_BFJ3.shape == (2, 11, 22, 3)
    joints_BFJ3[0, :3].square().sum().backward()
    assert x_BFD.grad[0, 0].any()
    assert not x_BFD.grad[0, 3:].any()


TARGETS = {
    "attention": {"in_proj", "out_proj"},
    "mlp": {"linear1", "linear2"},
    "condition": {"0", "2"},
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
    assert all(("tx_embedding" in name) == (target == "condition") for name in state)
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


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_networks_copy(duplicate):
    network = _model()
    other = duplicate(network)
    assert torch.equal(other(*_inputs()), network(*_inputs()))
    other.load_state_dict(network.state_dict(), strict=True)


def test_mistakes_are_explained():
    x_BFD, t_B, text, length_B = _inputs()
    with pytest.raises(ValueError, match=r"got 9 features.*want 205.*choose"):
        _model()(x_BFD[..., :9], t_B, text, length_B)
    with pytest.raises(ValueError, match=r"got a sequence of 16 .*want at most 15.*shorten"):
        _model(pos_embed_max_len=15)(x_BFD, t_B.clamp(max=14), text, length_B)
    with pytest.raises(ValueError, match=r"got text embeddings of 8 channels; want 5; use"):
        space = _space(text=TextStatistics(torch.zeros(5), torch.ones(5)))
        MDMSMPLDenoiser(_model(text_dim=5), SCHEDULE, space=space, text_encoder=_Texts()).encode_text(["walk"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, r"got no mean and std of text for MDMSMPL, .* are normalised; want those; take"),
        (TextStatistics(torch.zeros(TEXT), torch.zeros(TEXT)), r"got mean .*want \(8,\), positive.*pass"),
        (TextStatistics(torch.zeros(3), torch.ones(3)), r"got mean \(3,\).*want \(8,\)"),
    ],
)
def test_statistics_of_text_that_do_not_fit_are_refused(text, match):
    with pytest.raises(ValueError, match=match):
        MDMSMPLDenoiser(_model(), SCHEDULE, space=_space(text=text), text_encoder=_Texts())


def test_a_model_that_does_not_normalise_text_refuses_statistics_of_it():
    network = MDM(MDMConfig(features=FEATURES, latent_dim=8, ff_size=8, num_layers=1, num_heads=2, text_dim=TEXT))
    with pytest.raises(ValueError, match=r"got a mean and std of text for MDM, .* not normalised; want none"):
        MDMDenoiser(network, SCHEDULE, space=_space(), text_encoder=_Texts())


# --- the policy ------------------------------------------------------------


def _unit(*lengths, seed=0):
    prompts = tuple(Prompt(id=f"p{n}", text="walk" * (n + 1), length=length) for n, length in enumerate(lengths))
    return Unit(seed=seed, iteration=0, index=0, prompts=prompts, samples_per_prompt=2)


def _policy(config=None, denoiser=None, dtype=torch.float32):
    denoiser = denoiser or _denoiser()
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    # The seed paper's: guidance 5, ten steps of a hundred.
    config = config or PolicyConfig(steps=10, guidance_scale=5.0)
    policy = DiffusionPolicy(denoiser.to(dtype), config, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    state = policy.adapter_state()
    policy.load_adapter_state({n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in state.items()})
    return policy, denoiser


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("last_step", ["frozen", "stop"])
def test_rollout_audit_replay_and_gradient_are_exact(order, last_step):
    policy, _ = _policy(PolicyConfig(steps=10, guidance_scale=5.0, order=order, last_step=last_step))
    trajectory = policy.rollout(_unit(11, 7))
    transitions = 9 if last_step == "frozen" else 10
    assert trajectory.states.shape == (4, transitions + 1, 11, FEATURES)
    assert trajectory.length_B.tolist() == [11, 11, 7, 7]
    assert not trajectory.states[2:, :, 7:].any()
    audit(policy, trajectory)
    replay = policy.replay(trajectory)
    assert torch.equal(replay.log_prob_BS, trajectory.log_prob_BS)
    replay.log_prob_BS.sum().backward()
    gradients = {name: parameter.grad for name, parameter in policy.adapter_parameters().items()}
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients.values())
    assert all(float(gradient.abs().max()) > 0.0 for gradient in gradients.values())
    assert not torch.equal(policy.replay(trajectory, adapter=False).mean_BSFD, replay.mean_BSFD)
    assert policy.decode(trajectory).form == FORM


def test_the_audit_notices_dropout_and_a_moved_register():
    policy, denoiser = _policy()
    trajectory = policy.rollout(_unit(11, 7))
    denoiser.network.train()
    with pytest.raises(AuditError, match="dropout"):
        audit(policy, trajectory)
    denoiser.network.eval()
    audit(policy, trajectory)
    with torch.no_grad():
        denoiser.network.registers.mul_(1.001)
    with pytest.raises(AuditError, match="The adapters agree"):
        audit(policy, trajectory)


def test_a_motion_does_not_depend_on_its_batch_mates():
    policy, _ = _policy(dtype=torch.float64)
    alone, together = policy.rollout(_unit(7)), policy.rollout(_unit(7, 12))
    torch.testing.assert_close(alone.sample, together.sample[:2, :7], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(alone.log_prob_BS, together.log_prob_BS[:2], atol=1e-8, rtol=1e-8)


def test_guidance_calls_the_empty_text():
    policy, denoiser = _policy(PolicyConfig(steps=3, guidance_scale=5.0))
    seen, prepare, null = [], denoiser.prepare, denoiser.null_condition(2)

    def spy(condition, length_B, frames):
        seen.append([torch.equal(half, null.tokens_BMC) for half in condition.tokens_BMC.chunk(2)])
        return prepare(condition, length_B, frames)

    denoiser.prepare = spy
    policy.rollout(_unit(7))
    assert seen == [[False, True]] * 2  # for the transitions, and for the last call, without the adapter


# --- checkpoint, job, pages ------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint directory of the project's own form, beside its text encoder."""
    folder = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(["a person walks"], folder / "text", TinyBertConfig(hidden=TEXT, layers=1, heads=2))
    network = _model()
    config = CheckpointConfig(
        kind="mdm_smpl",
        network=network_shape(network),
        text_encoder="text",
        schedule=SCHEDULE,
        representation=FORM.representation,
    )
    save_checkpoint(folder / "smpl", network, config, _space())
    return folder / "smpl"


def _job(checkpoint, **changes):
    return Job.model_validate(
        {"name": "smpl", "model": {"name": str(checkpoint)}, "tracking": {"mlflow_uri": None}} | changes
    )


def test_a_checkpoint_comes_back_bit_for_bit(checkpoint):
    denoiser = load_denoiser(checkpoint)
    assert isinstance(denoiser, MDMSMPLDenoiser)
    assert (denoiser.network.config, denoiser.representation, denoiser.fps) == (SMALL, FORM.representation, 20.0)
    assert torch.equal(denoiser.network(*_inputs()), _model()(*_inputs()))
    text = _space().text
    assert torch.equal(denoiser.text_mean_C, text.mean_C)
    raw_BC = TextEncoder(checkpoint.parent / "text").pooled([""])
    assert torch.equal(denoiser.null_condition(1).tokens_BMC[0], (raw_BC - text.mean_C) / text.std_C)
    policy, _ = _policy(denoiser=denoiser)
    audit(policy, policy.rollout(_unit(11, 7)))


@pytest.mark.parametrize("missing", [["text_mean_C", "text_std_C"], ["text_std_C"], ["text_mean_C"]])
def test_a_checkpoint_without_statistics_of_text_is_refused(checkpoint, tmp_path, missing):
    for name in ("smpl", "text"):
        (tmp_path / name).symlink_to(checkpoint.parent / name)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if name not in missing}, broken / "model.safetensors")
    with pytest.raises(UserError, match=r"(?s)got .*broken that does not load .*text.*; want a checkpoint"):
        load_denoiser(broken)


def test_the_longest_prompt_fits_the_positions(checkpoint):
    prompts = [Prompt("p", "a person", frames) for frames in (116, 117)]
    checks.check_prompts([checkpoint], prompts[:1])
    DiffusionPolicy(load_denoiser(checkpoint), PolicyConfig(steps=2)).rollout(_unit(116))
    with pytest.raises(UserError, match=r"117 frames.*want at most 116"):
        checks.check_prompts([checkpoint], prompts)


def test_a_job_whose_reward_reads_humanml3d_is_refused(checkpoint):
    message = r"got 'foot_skate', which reads humanml3d-263 .*gives, smplrifke-205 un-normalised; choose another reward"
    with pytest.raises(UserError, match=message):
        checks.check_parts(_job(checkpoint, rewards=[{"name": "foot_skate"}]))


@pytest.mark.parametrize("name", ["tmr", "tmr_contrastive"])
def test_a_retrieval_model_reads_what_its_motion_is_converted_to_without_gradient(checkpoint, name):
    job = _job(checkpoint, rewards=[{"name": name}])
    checks.check_parts(job)
    given = MotionForm(Representation.SMPLRIFKE_205, Normalisation.NONE)
    assert not checks._check_rewards(job, given)
    # Control: of its own representation it is on the graph.
    own = MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)
    assert checks._check_rewards(_job("mdm-embedded", rewards=[{"name": name}]), own)


PLUGIN = """
from rl_motion.types import MotionForm, Normalisation, Representation


class Tall:
    accepts = frozenset({MotionForm(Representation.SMPLRIFKE_205, Normalisation.NONE)})
    differentiable = True

    def __call__(self, motions, prompts, noise_level_B=None):
        return motions.features_BFD[..., 0].mean(dim=1)
"""


def test_a_job_whose_reward_reads_205_features_is_not(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "tall.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    checks.check_parts(_job(checkpoint, rewards=[{"name": "tall.py:Tall"}]))
    # The other way round: what reads 205 features cannot read a model of 263.
    with pytest.raises(UserError, match="which reads smplrifke-205"):
        checks.check_parts(_job("mdm-embedded", rewards=[{"name": "tall.py:Tall"}]))


def test_samples_are_shown_as_joints(checkpoint):
    policy = DiffusionPolicy(load_denoiser(checkpoint), PolicyConfig(steps=3))
    unit = _unit(9, 6)
    sampled = sampling.sample_motions(policy, unit.prompts, 2, seed=0, console=Console(stderr=True))
    assert sampled.joints_BFJ3.shape == (4, 9, 22, 3)
    with torch.no_grad():
        want = motion_joints(policy.decode(policy.rollout(unit)))
    np.testing.assert_allclose(sampled.joints_BFJ3[0], want[0].numpy(), atol=1e-6)
    assert not sampled.joints_BFJ3[2:, 6:].any()


def test_a_job_of_205_features_ends_with_a_report_that_says_what_was_not_judged(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "tall.py").write_text(PLUGIN)
    (tmp_path / "p.txt").write_text("a person walks\na person\n")
    monkeypatch.chdir(tmp_path)
    job = _job(
        checkpoint,
        rewards=[{"name": "tall.py:Tall"}],
        prompts={"sources": {"p.txt": 1.0}, "default_length": 9},
        policy={"steps": 3},
        train={"iterations": 2, "prompts_per_iteration": 2, "prompts_per_unit": 2, "samples_per_prompt": 2},
        runtime={"backend": "local", "threads": 1},
        evaluation={"prompts": 2, "samples_per_prompt": 2, "page_prompts": 1},
    )
    (tmp_path / "job.yaml").write_text(dump_job(job))
    ended = CliRunner().invoke(app, ["train", "job.yaml", "--out", "out"], env={"COLUMNS": "300"})
    assert ended.exit_code == 0, ended.output + ended.stderr
    assert "oracle_success was not judged" in ended.stdout
    assert "prompts of target/test, too long to read" in ended.stderr
    report = json.loads((tmp_path / "out" / "smpl" / "report.json").read_text())
    assert set(report["not_judged"]) == {"oracle_success", "bone_drift"}
    for split in ("held_out", "original", "train"):
        assert report["difference"][split]["oracle_success"] is None
        assert report["sentinels"][split]["bone_drift"] is None
        assert report["difference"][split]["reward"]["n"] == 4
        assert report["diversity"][split]["base"] > 0
        assert report["sentinels"][split]["jerk"]["base"] > 0
    page = (tmp_path / "out" / "smpl" / "report.html").read_text()
    assert "was not judged" in page
    assert "does what it says" not in page


def test_prompts_of_evaluation_that_the_model_cannot_read_are_set_aside_or_refused(checkpoint, monkeypatch):
    job = _job(checkpoint, rewards=[{"name": "jerk"}])
    every, kept = prompts("target/test"), checks.examined(job, "target/test")
    encoder = TextEncoder(checkpoint.parent / "text")
    assert 0 < len(kept) < len(every)
    encoder.pooled([prompt.text for prompt in kept[:20]])
    with pytest.raises(ValueError, match="tokens"):  # control: the others cannot be read
        encoder.pooled([prompt.text for prompt in every if prompt not in kept][:1])
    monkeypatch.setattr(checks, "_max_frames", lambda path: 3)
    with pytest.raises(UserError, match=r"evaluation: got no prompt of target/test .* 3 frames.*; want .*; choose"):
        checks.examined(job, "target/test")


def test_registers_are_no_linear_layer_and_stay_frozen():
    network = _model()
    attach_lora(network, AdapterConfig())
    assert isinstance(network.registers, nn.Parameter)
    assert not network.registers.requires_grad
