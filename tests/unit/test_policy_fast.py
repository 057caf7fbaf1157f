"""One form everywhere: in every fast mode and for every network a replay has the rollout's bits.

Guidance in one call, texts once a trajectory, packed rows, bfloat16, and a replay that keeps few rows' graph.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rl_motion.algorithms.ddpo import DDPO
from rl_motion.config import AdapterConfig, AlgorithmConfig, PolicyConfig, ScheduleConfig, TrainConfig
from rl_motion.learner import Learner
from rl_motion.models.adapter import attach_lora
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace, TextStatistics
from rl_motion.models.layers import Attention, LayerConfig, Packed, valid_mask
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.mdm_smpl import MDMSMPL, MDMSMPLConfig, MDMSMPLDenoiser
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, T2MUnetDenoiser
from rl_motion.models.zoo import load_denoiser
from rl_motion.policies import DiffusionPolicy, audit
from rl_motion.types import Experience, Prompt, Unit

FEATURES, TEXT = 6, 8


class Texts:
    """Numbers that depend on a text's length; a text has as many tokens as letters, at most 5."""

    def pooled(self, texts):
        return torch.stack([torch.linspace(-1.0, 1.0, TEXT) * (1 + len(text)) / 4 for text in texts])

    def padded_tokens(self, texts):
        return self.pooled(texts)[:, None] * torch.linspace(0.5, 1.5, 5)[None, :, None]

    def tokens(self, texts):
        return self.padded_tokens(texts), torch.tensor([min(max(len(text), 1), 5) for text in texts])


def mdm(**shape):
    sizes = {"latent_dim": 32, "ff_size": 48, "num_layers": 2, "num_heads": 2, "pos_embed_max_len": 64}
    return MDMDenoiser, MDM(MDMConfig(features=FEATURES, text_dim=TEXT, **sizes, **shape)), None


def smpl():
    sizes = {"latent_dim": 32, "ff_size": 48, "num_layers": 2, "num_heads": 2, "pos_embed_max_len": 64}
    text = TextStatistics(torch.zeros(TEXT), torch.ones(TEXT))
    return MDMSMPLDenoiser, MDMSMPL(MDMSMPLConfig(features=FEATURES, text_dim=TEXT, **sizes)), text


def unet(**shape):
    sizes = {"base_dim": 16, "dim_mults": (1, 2), "time_dim": 16, "text_latent_dim": 16, "text_ff_size": 24}
    network = T2MUnet(
        T2MUnetConfig(
            features=FEATURES, text_dim=TEXT, text_num_heads=2, num_text_layers=2, max_frames=16, **sizes, **shape
        )
    )
    for name, parameter in network.named_parameters():  # what starts at zero would hide everything before it
        if not parameter.any() and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.2)
    return T2MUnetDenoiser, network, None


NETWORKS = {
    "mdm": lambda: mdm(mask_frames=True),
    "mdm, padding seen": mdm,
    "trans_dec": lambda: mdm(mask_frames=True, arch="trans_dec", text_tokens=True),
    "mdm-smpl": smpl,
    "unet": unet,
    "unet, masked": lambda: unet(mask_frames=True, mask_tokens=True),
    "unet, full attention": lambda: unet(mask_frames=True, mask_tokens=True, linear_attention=False),
}
MASKED = [name for name in NETWORKS if name not in ("mdm, padding seen", "unet")]


def denoiser_of(name: str) -> MotionDenoiser:
    torch.manual_seed(0)
    face, network, text = NETWORKS[name]()
    space = MotionSpace(torch.zeros(FEATURES), torch.ones(FEATURES), text=text)
    denoiser = face(network, ScheduleConfig(), space=space, text_encoder=Texts())
    last = (
        denoiser.network.unet.final_conv
        if face is T2MUnetDenoiser
        else next(
            module for name, module in denoiser.network.named_modules() if name.endswith(("poseFinal", "to_skel_layer"))
        )
    )
    unit, text = torch.randn(2, 12, FEATURES), denoiser.encode_text(["xx", "xxxx"])
    with torch.no_grad():  # x0 of unit scale, as that of a trained network
        last.weight.div_(denoiser.predict(unit, torch.tensor([20, 20]), text, torch.tensor([12, 12])).std())
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    return denoiser


def policy_of(name: str, *, replay_rows: int | None = None, **settings: object) -> DiffusionPolicy:
    policy = DiffusionPolicy(
        denoiser_of(name), PolicyConfig.model_validate({"steps": 4} | settings), replay_rows=replay_rows
    )
    return moved(policy, 0.05)


def moved(policy: DiffusionPolicy, by: float) -> DiffusionPolicy:
    """Its adapter away from where adapters start."""
    noise = torch.Generator().manual_seed(1)
    state = policy.adapter_state()
    policy.load_adapter_state({n: t + by * torch.randn(t.shape, generator=noise) for n, t in state.items()})
    return policy


def unit_of(name: str, *lengths: int) -> Unit:
    lengths = lengths or ((9, 12, 9, 7) if name in MASKED else (12, 12))
    prompts = tuple(Prompt(f"p{at}", "x" * (1 + 2 * at), length) for at, length in enumerate(lengths))
    return Unit(seed=0, iteration=0, index=0, prompts=prompts, samples_per_prompt=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_audit_is_exactly_zero(name: str, scale: float, precision: str) -> None:
    policy = policy_of(name, guidance_scale=scale, precision=precision)
    trajectory = policy.rollout(unit_of(name))
    audit(policy, trajectory)
    with torch.no_grad():
        assert torch.equal(policy.replay(trajectory).log_prob_BS, trajectory.log_prob_BS)
    assert trajectory.states.dtype == trajectory.sample.dtype == torch.float32
    loss = policy.replay(trajectory).log_prob_BS.sum()
    found = torch.autograd.grad(loss, list(policy.adapter_parameters().values()))
    assert all(part.dtype == torch.float32 and bool(part.abs().sum() > 0) for part in found)


@pytest.mark.parametrize(
    ("name", "precision", "bound"),
    [
        ("mdm-embedded", "float32", 1e-6),
        ("t2m-unet-embedded", "float32", 1e-6),
        ("mdm-embedded", "bfloat16", 2e-5),
        ("t2m-unet-embedded", "bfloat16", 2e-5),
    ],
)
def test_batch_mates_change_log_probs_by_rounding_alone(name: str, precision: str, bound: float) -> None:
    """What enters a ratio: log-probs (mean per element) of given latents, scored alone and among others.

    Of trained networks: what random weights make of rounding says nothing.
    """
    denoiser = load_denoiser(name)
    attach_lora(denoiser.network, AdapterConfig())
    policy = DiffusionPolicy(denoiser, PolicyConfig(guidance_scale=2.5, precision=precision))
    moved(policy, 0.02)
    said = (("a person walks forward", 40), ("a person waves", 33), ("a person jumps", 28))
    unit = Unit(0, 0, 0, tuple(Prompt(text, text, length) for text, length in said), 2)
    whole = policy.rollout(unit)
    audit(policy, whole)
    off = []
    with torch.no_grad():
        replayed_BS = policy.replay(whole).log_prob_BS
        for at, prompt in enumerate(unit.prompts):
            rows = slice(2 * at, 2 * at + 2)
            alone = policy.rollout(replace(unit, prompts=(prompt,)))
            states = whole.states[rows, :, : prompt.length].contiguous()
            off.append(policy.replay(replace(alone, states=states)).log_prob_BS - replayed_BS[rows])
    assert float(torch.cat(off).abs().mean()) <= bound


@pytest.mark.parametrize(("name", "last"), [("mdm", "output_process"), ("mdm-smpl", "to_skel_layer")])
def test_the_last_layer_is_not_rounded_to_bfloat16(name: str, last: str) -> None:
    policy = policy_of(name, precision="bfloat16")
    seen = set()
    policy._denoiser.network.get_submodule(last).register_forward_hook(
        lambda _, args, output: seen.add((args[0].dtype, output.dtype))
    )
    policy.replay(policy.rollout(unit_of(name)))
    assert seen == {(torch.float32, torch.float32)}


def test_precision_is_part_of_the_schedule_hash() -> None:
    one, other = policy_of("mdm"), policy_of("mdm", precision="bfloat16")
    assert one.schedule_hash != other.schedule_hash
    assert not torch.equal(one.rollout(unit_of("mdm")).sample, other.rollout(unit_of("mdm")).sample)


@pytest.mark.parametrize("name", ["unet", "unet, full attention"])
def test_texts_are_read_once_a_trajectory_and_state_of_the_adapter(name: str) -> None:
    policy = policy_of(name, guidance_scale=2.5)
    network = policy._denoiser.network
    calls = {"text": 0, "key": 0}
    network.textTransEncoder.register_forward_hook(lambda *_: calls.update(text=calls["text"] + 1))
    network.unet.mid_block1.cross_attn.cross_attention.key.register_forward_hook(
        lambda *_: calls.update(key=calls["key"] + 1)
    )
    trajectory = policy.rollout(unit_of(name))
    assert calls == {"text": 2, "key": 2}  # with the adapter, and without it for the last call
    policy.replay(trajectory)
    assert calls == {"text": 3, "key": 3}


@pytest.mark.parametrize("name", ["mdm", "trans_dec", "mdm-smpl"])
def test_layers_compute_nothing_for_padding(name: str) -> None:
    policy = policy_of(name)
    seen = []
    for module in policy._denoiser.network.modules():
        if getattr(module, "linear1", None) is not None:
            module.linear1.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1].numel()))
    unit = unit_of(name)
    policy.rollout(unit)
    prefix = {"mdm": 1, "trans_dec": 0, "mdm-smpl": 4}[name]
    assert set(seen) == {sum(prompt.length + prefix for prompt in unit.row_prompts)}


@pytest.mark.parametrize("lengths", [(5, 5, 9, 9, 2), (9, 9), (200, 200, 130), (3,)])
def test_packed_attention_is_the_masked_one(lengths: tuple[int, ...]) -> None:
    """Run by run and over padding; and what lies in padding changes no bit."""
    torch.manual_seed(0)
    attention = Attention(LayerConfig(width=16, ff_size=16, num_heads=2)).eval()
    length_B = torch.tensor(lengths)
    valid_BL = valid_mask(length_B, max(lengths))
    packed = Packed.of(valid_BL)
    assert packed.runs == tuple((len(list(rows)), length) for length, rows in itertools.groupby(lengths))
    x_BLC = torch.randn(len(lengths), max(lengths), 16)
    masked_BLC = attention(x_BLC, valid_BL)
    got_NC = attention(packed.pack(x_BLC), packed)
    torch.testing.assert_close(got_NC, packed.pack(masked_BLC), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(packed.unpack(packed.pack(x_BLC)), x_BLC * valid_BL[..., None], atol=0, rtol=0)
    x_BLC = torch.where(valid_BL[..., None], x_BLC, torch.full_like(x_BLC, 1e3))
    again_BLC = attention(x_BLC, valid_BL)
    assert torch.equal(again_BLC[valid_BL], masked_BLC[valid_BL])


def gradients(policy: DiffusionPolicy, unit: Unit) -> tuple[list[Tensor], Tensor, int]:
    """Of a replay: gradients, log-probs, and the bytes that the graph keeps of what is computed."""
    trajectory = policy.rollout(unit)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        log_prob_BS = policy.replay(trajectory).log_prob_BS
    parameters = policy.adapter_parameters().values()
    return list(torch.autograd.grad(log_prob_BS.sum(), list(parameters))), log_prob_BS, sum(kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mdm", "unet, masked"])
def test_a_frugal_replay_has_the_same_bits(name: str, precision: str) -> None:
    settings = {"steps": 6, "guidance_scale": 2.5, "precision": precision}
    want, log_prob_BS, whole = gradients(policy_of(name, **settings), unit_of(name))
    for rows in (1, 40):  # all calls again; all but the first
        got, same_BS, part = gradients(policy_of(name, replay_rows=rows, **settings), unit_of(name))
        assert torch.equal(same_BS, log_prob_BS)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        assert part < 0.75 * whole
    enough = gradients(policy_of(name, replay_rows=80, **settings), unit_of(name))
    assert enough[2] == whole


def test_a_frugal_replays_graph_does_not_grow_with_the_steps() -> None:
    """Beyond what is as large as the latents: a small part of what a call's graph keeps."""

    def kept(steps: int, rows: int | None) -> int:
        return gradients(policy_of("mdm", steps=steps, replay_rows=rows), unit_of("mdm"))[2]

    assert kept(18, None) - kept(9, None) > 8 * (kept(18, 1) - kept(9, 1))


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_the_reference_is_replayed_once_an_iteration(kl_weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(once: bool) -> tuple[dict[str, Tensor], dict[str, float], int]:
        policy = policy_of("mdm")
        calls, replay = [], policy.replay

        def counted(trajectory, *, adapter=True, first=None):
            calls.append(adapter)
            return replay(trajectory, adapter=adapter, first=first)

        monkeypatch.setattr(policy, "replay", counted)
        algorithm = DDPO(AlgorithmConfig(inner_epochs=3, kl_weight=kl_weight))
        if not once:
            monkeypatch.setattr(algorithm, "_held", Forgets())
        learner = Learner(policy, algorithm, TrainConfig(learning_rate=1e-3))
        for iteration in range(2):
            advantage_B = torch.linspace(-1.0, 1.0, 8)
            trajectory = policy.rollout(replace(unit_of("mdm"), iteration=iteration))
            metrics = learner.step([Experience(trajectory, advantage_B, advantage_B)])
        assert not algorithm._held
        return policy.adapter_state(), metrics, calls.count(False)

    (state, metrics, calls), (want, same, often) = trained(once=True), trained(once=False)
    assert (calls, often) == (2, 6)
    assert metrics == same
    assert all(torch.equal(state[name], want[name]) for name in want)


class Forgets(dict):
    """Keeps nothing."""

    def __setitem__(self, key, value):
        pass
