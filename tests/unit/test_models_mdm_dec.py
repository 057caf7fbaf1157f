"""MDM's `trans_dec`: against torch's own decoder put together as the paper and the official code describe it."""

import math

import pytest
import torch
from torch import nn

from rl_motion.config import AdapterConfig, PolicyConfig, ScheduleConfig
from rl_motion.models.adapter import attach_lora
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, load_denoiser, network_shape, save_checkpoint
from rl_motion.policies import DiffusionPolicy
from rl_motion.policies.audit import audit
from rl_motion.types import Prompt, Unit

SHAPE = {
    "features": 10,
    "latent_dim": 32,
    "ff_size": 64,
    "num_layers": 2,
    "text_dim": 8,
    "pos_embed_max_len": 50,
    "arch": "trans_dec",
    "text_tokens": True,
}
FRAMES, WORDS = 12, 6
CAPTIONS = ["a person walks", "someone kicks with the left leg twice"]
# One layer of the official `trans_dec` class, and what is around the layers: names and shapes at width 32.
LAYER = {
    "self_attn.in_proj_weight": (96, 32),
    "self_attn.in_proj_bias": (96,),
    "self_attn.out_proj.weight": (32, 32),
    "self_attn.out_proj.bias": (32,),
    "multihead_attn.in_proj_weight": (96, 32),
    "multihead_attn.in_proj_bias": (96,),
    "multihead_attn.out_proj.weight": (32, 32),
    "multihead_attn.out_proj.bias": (32,),
    "linear1.weight": (64, 32),
    "linear1.bias": (64,),
    "linear2.weight": (32, 64),
    "linear2.bias": (32,),
    "norm1.weight": (32,),
    "norm1.bias": (32,),
    "norm2.weight": (32,),
    "norm2.bias": (32,),
    "norm3.weight": (32,),
    "norm3.bias": (32,),
}
AROUND = {
    "input_process.poseEmbedding.weight": (32, 10),
    "input_process.poseEmbedding.bias": (32,),
    "embed_timestep.time_embed.0.weight": (32, 32),
    "embed_timestep.time_embed.0.bias": (32,),
    "embed_timestep.time_embed.2.weight": (32, 32),
    "embed_timestep.time_embed.2.bias": (32,),
    "embed_text.weight": (32, 8),
    "embed_text.bias": (32,),
    "output_process.poseFinal.weight": (10, 32),
    "output_process.poseFinal.bias": (10,),
}


def model(**changes):
    torch.manual_seed(0)
    return MDM(MDMConfig(**(SHAPE | changes))).eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    x_BFD = torch.randn(3, FRAMES, 10, generator=generator)
    text = TextTokens(torch.randn(3, WORDS, 8, generator=generator), torch.tensor([6, 2, 4]))
    return x_BFD, torch.tensor([0, 7, 49]), text, torch.tensor([12, 5, 9])


def reference(weights, inputs, *, mask_frames, emb_trans_dec, null=False):
    """The official forward pass, sequence first: torch's decoder between the layers that the weights name."""
    x_BFD, t_B, text, length_B = inputs
    position_L1, frequency_C = torch.arange(50.0)[:, None], torch.exp(torch.arange(0, 32, 2) * (-math.log(1e4) / 32))
    table_L1C = torch.stack([(position_L1 * frequency_C).sin(), (position_L1 * frequency_C).cos()], 2).flatten(1)[
        :, None
    ]

    def linear(name, x):
        return nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden_B1C = nn.functional.silu(linear("embed_timestep.time_embed.0", table_L1C[t_B]))
    time_1BC = linear("embed_timestep.time_embed.2", hidden_B1C).transpose(0, 1)
    if isinstance(text, TextTokens):
        text_MBC = text.tokens_BMC.transpose(0, 1)
        hidden_text_BM = torch.arange(text_MBC.shape[0])[None] >= text.length_B[:, None]
    else:
        text_MBC, hidden_text_BM = text[None], None
    memory_MBC = linear("embed_text", torch.zeros_like(text_MBC) if null else text_MBC) + time_1BC
    sequence_LBC = linear("input_process.poseEmbedding", x_BFD.transpose(0, 1))
    if emb_trans_dec:
        sequence_LBC = torch.cat([time_1BC, sequence_LBC])
    hidden_BL = torch.arange(FRAMES)[None] >= length_B[:, None]
    if emb_trans_dec:
        hidden_BL = torch.cat([torch.zeros(3, 1, dtype=torch.bool), hidden_BL], dim=1)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, activation="gelu"), 2).eval()
    prefix = "seqTransDecoder."
    decoder.load_state_dict(
        {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}, strict=True
    )
    out_LBC = decoder(
        sequence_LBC + table_L1C[: len(sequence_LBC)],
        memory_MBC,
        tgt_key_padding_mask=hidden_BL if mask_frames else None,
        memory_key_padding_mask=hidden_text_BM,
    )
    return linear("output_process.poseFinal", out_LBC[int(emb_trans_dec) :]).transpose(0, 1)


def valid(output_BFD, length_B):
    return torch.cat([row[:length] for row, length in zip(output_BFD, length_B.tolist(), strict=True)])


@pytest.mark.parametrize("emb_trans_dec", [False, True])
@pytest.mark.parametrize("mask_frames", [False, True])
@torch.no_grad()
def test_it_computes_what_the_official_class_does(mask_frames, emb_trans_dec):
    how = {"mask_frames": mask_frames, "emb_trans_dec": emb_trans_dec}
    network = model(**how)
    x_BFD, t_B, text, length_B = inputs()
    want = reference(network.state_dict(), inputs(), **how)
    torch.testing.assert_close(valid(network(*inputs()), length_B), valid(want, length_B), atol=2e-5, rtol=0)
    # Negative controls: another mask of text, and time that is in the memory alone.
    seen = TextTokens(text.tokens_BMC, torch.full((3,), WORDS))
    assert float((network(x_BFD, t_B, seen, length_B) - want)[1, :5].abs().max()) > 1e-3
    other = {"mask_frames": mask_frames, "emb_trans_dec": not emb_trans_dec}
    assert float((reference(network.state_dict(), inputs(), **other) - want)[0].abs().max()) > 1e-3


@torch.no_grad()
def test_one_zero_token_says_what_the_official_null_condition_of_all_a_text_s_tokens_says():
    network = model(mask_frames=True)
    denoiser = MDMDenoiser(network, ScheduleConfig(), space=space(), text_encoder=None)
    x_BFD, t_B, _, length_B = inputs()
    want = reference(network.state_dict(), inputs(), mask_frames=True, emb_trans_dec=False, null=True)
    for got in (network(x_BFD, t_B, denoiser.null_condition(3), length_B), network(x_BFD, t_B, None, length_B)):
        torch.testing.assert_close(valid(got, length_B), valid(want, length_B), atol=2e-5, rtol=0)
    assert float((network(*inputs()) - want)[0].abs().max()) > 1e-3  # negative control: the text matters


@torch.no_grad()
def test_with_clip_the_memory_is_one_token():
    network = model(text_tokens=False)
    x_BFD, t_B, text, length_B = inputs()
    given = (x_BFD, t_B, text.tokens_BMC[:, 0], length_B)
    want = reference(network.state_dict(), given, mask_frames=False, emb_trans_dec=False)
    torch.testing.assert_close(network(*given), want, atol=2e-5, rtol=0)
    null = reference(network.state_dict(), given, mask_frames=False, emb_trans_dec=False, null=True)
    torch.testing.assert_close(network(x_BFD, t_B, None, length_B), null, atol=2e-5, rtol=0)


def test_parameters_have_the_official_names():
    official = AROUND | {f"seqTransDecoder.layers.{i}.{name}": shape for i in (0, 1) for name, shape in LAYER.items()}
    network = model()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == official
    tables = {"sequence_pos_encoder.pe": (60, 1, 32), "embed_timestep.sequence_pos_encoder.pe": (60, 1, 32)}
    network.load_state_dict({name: torch.ones(shape) for name, shape in (official | tables).items()}, strict=True)
    with pytest.raises(RuntimeError, match="Missing"):
        network.load_state_dict({name: torch.ones(s) for name, s in official.items() if "layers.1.norm3" not in name})


def test_the_defaults_are_the_official_bert_checkpoint_s():
    """`--arch trans_dec --text_encoder_type bert`: 8 layers of 512 channels, 1024 between, tokens of 768."""
    with torch.device("meta"):
        ours = MDM(MDMConfig(arch="trans_dec", text_tokens=True, text_dim=768))
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(512, 4, 1024, activation="gelu"), 8)
        others = [nn.Linear(*shape) for shape in ((263, 512), (512, 512), (512, 512), (768, 512), (512, 263))]
    want = sum(weight.numel() for part in (decoder, *others) for weight in part.parameters())
    assert sum(weight.numel() for weight in ours.parameters()) == want == 26_424_583


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_predictions_have_the_same_bits_with_and_without_gradients(one_thread, context):
    network = model(mask_frames=True, emb_trans_dec=True)
    with_grad = network(*inputs())
    with context():
        without_grad = network(*inputs())
    assert with_grad.requires_grad and not without_grad.requires_grad
    assert torch.equal(with_grad, without_grad)


@torch.no_grad()
def test_what_lies_beyond_a_length_changes_no_bit():
    network = model(mask_frames=True)
    x_BFD, t_B, text, length_B = inputs()
    want = valid(network(*inputs()), length_B)
    noisy, other = x_BFD.clone(), text.tokens_BMC.clone()
    noisy[1, 5:] += 100.0
    other[1, 2:] += 100.0
    assert torch.equal(valid(network(noisy, t_B, TextTokens(other, text.length_B), length_B), length_B), want)
    other[1, 1] += 1.0  # negative control: a token of the text
    assert not torch.equal(valid(network(noisy, t_B, TextTokens(other, text.length_B), length_B), length_B), want)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"got arch 'gru'; want trans_enc or trans_dec; correct"):
        MDMConfig(arch="gru")
    with pytest.raises(ValueError, match=r"got text_tokens with arch 'trans_enc'.*; want trans_dec; correct"):
        MDMConfig(text_tokens=True)
    assert (model().config.max_frames, model(emb_trans_dec=True).config.max_frames) == (50, 49)
    assert MDMConfig(pos_embed_max_len=50).max_frames == 49


def space():
    return MotionSpace(mean_D=torch.linspace(-1, 1, 10), std_D=torch.linspace(0.5, 2.0, 10))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(CAPTIONS, folder / "text", TinyBertConfig(hidden=8, layers=1, heads=2))
    network = model(mask_frames=True)
    config = CheckpointConfig(
        kind="mdm", network=network_shape(network), text_encoder="text", schedule=ScheduleConfig(timesteps=50)
    )
    save_checkpoint(folder / "mdm", network, config, space())
    return folder / "mdm"


def test_conditions_are_the_tokens_of_the_encoder(checkpoint):
    denoiser = load_denoiser(checkpoint)
    condition = denoiser.encode_text(CAPTIONS)
    tokens_BMC, length_B = TextEncoder(checkpoint.parent / "text").tokens(CAPTIONS)
    assert torch.equal(condition.tokens_BMC, tokens_BMC) and torch.equal(condition.length_B, length_B)
    assert length_B.tolist() == [5, 9]
    # A batch of pretraining: rows in another order, dropped ones as the null condition, no padding that nobody needs.
    rows = denoiser.condition_rows(condition, torch.tensor([1, 0, 1]), torch.tensor([False, True, False]))
    assert rows.length_B.tolist() == [1, 5, 1] and rows.tokens_BMC.shape[1] == 5
    assert torch.equal(rows.tokens_BMC[1], tokens_BMC[0, :5])
    assert not rows.tokens_BMC[[0, 2]].any()


def test_it_is_sampled_from_adapted_and_audited(checkpoint):
    denoiser = load_denoiser(checkpoint)
    attach_lora(denoiser.network, AdapterConfig())
    adapted = [name for name, _ in denoiser.network.named_parameters() if ".lora_A." in name]
    assert any("multihead_attn.in_proj" in name for name in adapted) and any("embed_text" in name for name in adapted)
    policy = DiffusionPolicy(denoiser, PolicyConfig(steps=4, guidance_scale=2.5))
    prompts = (Prompt("p", CAPTIONS[0], FRAMES), Prompt("q", CAPTIONS[1], 9))
    trajectory = policy.rollout(Unit(seed=0, iteration=0, index=0, prompts=prompts, samples_per_prompt=2))
    assert policy.decode(trajectory).features_BFD.isfinite().all()
    audit(policy, trajectory)
