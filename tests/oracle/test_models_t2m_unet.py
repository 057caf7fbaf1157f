"""T2MUnet against the official implementation (h-y1heng/StableMoFusion): golden vectors and key table.

Golden files: outputs of the official class with tiny random weights, both forms of cross-attention; the first row of
each batch is kept (of the doubled batch of guidance, its first conditional and its first unconditional row).
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from rl_motion.diffusion import guided
from rl_motion.models import t2m_unet
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, TextTokens

TOKENS = 77
SHAPES = {
    "full": {
        "linear_attention": False, "base_dim": 16, "dim_mults": (2, 2, 3), "time_dim": 12,
        "text_latent_dim": 16, "text_ff_size": 32, "text_num_heads": 2, "num_text_layers": 1,
    },
    "linear": {
        "linear_attention": True, "base_dim": 16, "dim_mults": (2, 2, 2, 2), "time_dim": 8,
        "text_latent_dim": 32, "text_ff_size": 64, "text_num_heads": 4, "num_text_layers": 2,
    },
}  # fmt: skip
FRAMES = {"full": (48, 37), "linear": (64, 50)}  # a multiple of 16, and one that has to be padded
# Suggested with the vectors: ten times what the official code in float64 differs by.
ATOL, GUIDED_ATOL = 3e-5, {"full": 6e-5, "linear": 5e-5}
both = pytest.mark.parametrize("form", ["full", "linear"])


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath / "tests" / "golden"

    def read(form):
        parts = ("weights", "weights_up", "vectors")
        return {k: t for part in parts for k, t in load_file(folder / f"smf_{form}_{part}.safetensors").items()}

    return {form: read(form) for form in SHAPES}


def _weights(vectors):
    return {name.removeprefix("weights/"): t for name, t in vectors.items() if name.startswith("weights/")}


def _model(vectors, form, **changes):
    model = T2MUnet(T2MUnetConfig(features=67, **(SHAPES[form] | changes)))
    model.load_state_dict(_weights(vectors), strict=True)
    return model.eval()


def _text(vectors):
    tokens = vectors["in/clip_tokens"]
    return TextTokens(tokens, torch.full((len(tokens),), TOKENS))


def _call(model, vectors, frames, time, *, condition, scale=1.0):
    x_BFD, t_B = vectors[f"in/x_T{frames}"], vectors[f"in/t_{time}"]
    length_B = torch.full((len(x_BFD),), 9)  # official weights do not look at lengths
    with torch.no_grad():
        if scale == 1.0:
            return model(x_BFD, t_B, condition, length_B)
        return guided(model(x_BFD.repeat(2, 1, 1), t_B.repeat(2), condition, length_B.repeat(2)), scale)


def _check_everything(vectors, form):
    model, text = _model(vectors, form), _text(vectors)
    whole, odd = FRAMES[form]
    with torch.no_grad():
        encoded = model.encode(text).tokens_BME
    torch.testing.assert_close(encoded, vectors["out/enc_text"], atol=ATOL, rtol=0)
    for frames, time in ((whole, "a"), (whole, "b"), (odd, "b")):
        y_BFD = _call(model, vectors, frames, time, condition=text)
        torch.testing.assert_close(y_BFD, vectors[f"out/y_T{frames}_t{time}"], atol=ATOL, rtol=0)
    uncond = _call(model, vectors, odd, "a", condition=None)
    torch.testing.assert_close(uncond, vectors[f"out/y_uncond_T{odd}_ta"], atol=ATOL, rtol=0)
    for name, time, scale in ((f"cfg_T{odd}_ta", "a", 2.5), (f"cfg_T{odd}_tb_scale1.7", "b", 1.7)):
        y_BFD = _call(model, vectors, odd, time, condition=text, scale=scale)
        atol = GUIDED_ATOL[form] * (1.0 if scale < 2.0 else scale)
        torch.testing.assert_close(y_BFD, vectors[f"out/{name}"], atol=atol, rtol=0)


@both
def test_predictions_equal_the_official_ones(golden, form):
    _check_everything(golden[form], form)


@both
def test_the_whole_official_batch_is_reproduced(shared_dir, form):
    file = {"full": "smf_unet_fullattn", "linear": "smf_unet_linear"}[form]
    vectors = load_file(shared_dir / "parity" / f"{file}.safetensors")
    assert "unet.time_mlp.0.pe" in _weights(vectors)
    _check_everything(vectors, form)


def _doubled(golden, form, unconditional_tokens):
    """The official doubled batch in one call: a conditional and an unconditional row, frames padded by hand."""
    vectors = golden[form]
    want = vectors[f"out/cfg_doubled_raw_T{FRAMES[form][1]}_ta"].transpose(1, 2)
    x_BFD = vectors[f"in/x_T{FRAMES[form][1]}"]
    x_BFD = functional.pad(x_BFD, (0, 0, 0, want.shape[1] - x_BFD.shape[1])).repeat(2, 1, 1)
    text = TextTokens(vectors["in/clip_tokens"].repeat(2, 1, 1), torch.tensor([TOKENS, unconditional_tokens]))
    t_B = vectors["in/t_a"].repeat(2)
    with torch.no_grad():
        return _model(vectors, form)(x_BFD, t_B, text, torch.tensor([9, 9])), want


@both
def test_rows_without_tokens_skip_cross_attention_as_in_the_official_doubled_batch(golden, form):
    got, want = _doubled(golden, form, 0)
    torch.testing.assert_close(got, want, atol=ATOL, rtol=0)
    broken, _ = _doubled(golden, form, TOKENS)  # negative control: the text in the unconditional half
    torch.testing.assert_close(broken[:1], want[:1], atol=ATOL, rtol=0)
    assert (broken[1] - want[1]).abs().max() > 1000 * ATOL


@both
def test_a_null_text_in_place_of_no_cross_attention_is_another_function(golden, form):
    """Negative control: zeros for the text, as MDM has them, are not this model's unconditional prediction."""
    vectors, odd = golden[form], FRAMES[form][1]
    model = _model(vectors, form)
    zeros = TextTokens(torch.zeros_like(vectors["in/clip_tokens"]), torch.tensor([TOKENS]))
    broken = _call(model, vectors, odd, "a", condition=zeros)
    assert (broken - vectors[f"out/y_uncond_T{odd}_ta"]).abs().max() > 1000 * ATOL


@both
def test_the_golden_vectors_tell_the_variants_apart(golden, form, monkeypatch):
    """Negative control: the other attention, masked frames, hidden tokens, another padding are far off."""
    vectors, odd = golden[form], FRAMES[form][1]
    text, want = _text(vectors), vectors[f"out/y_T{odd}_tb"]
    fewer = TextTokens(text.tokens_BMC, torch.tensor([TOKENS - 40]))
    broken = {
        "attention": _call(
            _model(vectors, form, linear_attention=form == "full"), vectors, odd, "b", condition=text
        ),
        "masked": _call(_model(vectors, form, mask_frames=True), vectors, odd, "b", condition=text),
        "tokens": _call(_model(vectors, form), vectors, odd, "b", condition=fewer),
    }  # fmt: skip
    monkeypatch.setattr(t2m_unet, "_FRAMES_MULTIPLE", 80)
    broken["padding"] = _call(_model(vectors, form), vectors, odd, "b", condition=text)
    for name, y_BFD in broken.items():
        assert (y_BFD - want).abs().max() > 100 * ATOL, name


def test_time_tables_of_any_size_are_accepted_and_ignored(golden):
    model = _model(golden["linear"], "linear")
    before = model.unet.time_mlp[0].pe.clone()
    model.load_state_dict(_weights(golden["linear"]) | {"unet.time_mlp.0.pe": torch.full((7, 8), 9.0)}, strict=True)
    assert torch.equal(model.unet.time_mlp[0].pe, before)
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict(_weights(golden["linear"]) | {"other.pe": torch.zeros(1)}, strict=True)


def test_names_and_shapes_are_those_of_the_official_checkpoint(shared_dir):
    table = json.loads((shared_dir / "reference/state_dicts/stablemofusion_t2m.json").read_text())
    table = {name: tuple(shape) for name, shape in table.items() if not name.startswith("clip_model.")}
    with torch.device("meta"):
        model = T2MUnet(T2MUnetConfig())
    want = {name: shape for name, shape in table.items() if not name.endswith(".pe")}
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == want
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(299.0e6, rel=1e-3)
    assert sum(p.numel() for p in model.unet.parameters()) == pytest.approx(293.7e6, rel=1e-3)
    model.load_state_dict({n: torch.empty(s, device="meta") for n, s in table.items()}, strict=True)
