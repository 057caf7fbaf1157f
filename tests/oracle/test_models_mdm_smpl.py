"""MDM-SMPL against the official implementation (nv-tlabs/stmc): golden vectors, names, schedule.

Golden files: outputs of the official classes with tiny random weights; every second frame is kept.
"""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rl_motion.config import ScheduleConfig
from rl_motion.diffusion import guided
from rl_motion.diffusion.schedule import alphas_cumprod
from rl_motion.models import mdm_smpl
from rl_motion.models.denoiser import MotionSpace, TextStatistics
from rl_motion.models.layers import EncoderLayer
from rl_motion.models.mdm_smpl import MDMSMPL, MDMSMPLConfig, MDMSMPLDenoiser
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.types import Representation

# Suggested with the vectors: ten times what a re-run in float64 differs by.
ATOL, GUIDED_ATOL, UNNORMALISED_ATOL, TEXT_ATOL = 3e-5, 6e-5, 1e-4, 1e-5
GUIDANCE, STD_EPS = 2.0, 1e-12
SMALL = {"latent_dim": 64, "ff_size": 128, "num_layers": 2, "num_heads": 4}


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath / "tests" / "golden"
    return load_file(folder / "mdm_smpl_weights.safetensors") | load_file(folder / "mdm_smpl_vectors.safetensors")


def _weights(golden):
    prefix = "weights/denoiser."
    return {name.removeprefix(prefix): t for name, t in golden.items() if name.startswith(prefix)}


def _statistics(golden, kind):
    return golden[f"weights/{kind}_normalizer.mean"], golden[f"weights/{kind}_normalizer.std"] + STD_EPS


def _model(golden):
    model = MDMSMPL(MDMSMPLConfig(**SMALL))
    model.load_state_dict(_weights(golden), strict=True)
    return model.eval()


class _Texts:
    """The golden vectors' own raw embeddings: the first token of a row's text, or of the empty text."""

    def __init__(self, golden):
        self.golden = golden

    def pooled(self, texts):
        empty = [not text for text in texts]
        assert all(empty) or not any(empty)
        return self.golden["in/tx_uncond_x" if empty[0] else "in/tx_x"][:, 0]


def _denoiser(golden):
    text = TextStatistics(*_statistics(golden, "text"))
    space = MotionSpace(*_statistics(golden, "motion"), 20.0, Representation.SMPLRIFKE_205, text)
    schedule = ScheduleConfig(betas="cosine", timesteps=100)
    return MDMSMPLDenoiser(_model(golden), schedule, space=space, text_encoder=_Texts(golden)).eval()


def _text(golden, name):
    """All tokens of the golden texts, normalised; what lies beyond a text's length differs from the official zeros."""
    mean_C, std_C = _statistics(golden, "text")
    return TextTokens((golden[f"in/{name}_x"] - mean_C) / std_C, golden[f"in/{name}_len"])


def _predictions(golden, model):
    """Conditional and unconditional predictions, of every second frame, over all text tokens."""
    with torch.no_grad():
        return [
            model(golden["in/x"], golden["in/t"], _text(golden, name), golden["in/lengths"])[:, ::2]
            for name in ("tx", "tx_uncond")
        ]


def _valid(golden):
    return torch.arange(golden["in/x"].shape[1])[::2] < golden["in/lengths"][:, None]


def _check_everything(golden):
    denoiser, rows = _denoiser(golden), len(golden["in/x"])
    x_BFD, t_B, length_B = golden["in/x"], golden["in/t"], golden["in/lengths"]
    cond, uncond = _predictions(golden, denoiser.network)
    guidance = uncond + GUIDANCE * (cond - uncond)
    text = denoiser.encode_text(["walk"] * rows)
    with torch.no_grad():
        pooled = denoiser.predict(x_BFD, t_B, text, length_B)[:, ::2]
    close(text.tokens_BMC, golden["out/tx_norm"][:, :1], TEXT_ATOL)
    close(denoiser.null_condition(rows).tokens_BMC, golden["out/tx_uncond_norm"][:, :1], TEXT_ATOL)
    for got, name, atol in (
        (cond, "y_cond", ATOL), (uncond, "y_uncond", ATOL), (guidance, "cfg", GUIDED_ATOL), (pooled, "y_onetoken", ATOL)
    ):  # fmt: skip
        close(got[_valid(golden)], golden[f"out/{name}"][_valid(golden)], atol)  # the others are not computed
        assert not got[~_valid(golden)].any()
    motions = denoiser.decode(guidance, (length_B + 1) // 2)
    want = golden["out/unnorm"].where(_valid(golden)[..., None], torch.zeros(()))
    close(motions.features_BFD, want, UNNORMALISED_ATOL)
    assert (motions.representation, motions.fps) == (Representation.SMPLRIFKE_205, 20.0)


def close(got, want, atol):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


def test_predictions_equal_the_official_ones(golden):
    _check_everything(golden)


def test_every_official_frame_is_reproduced(shared_dir):
    vectors = load_file(shared_dir / "parity" / "stmc_mdm_smpl.safetensors")
    with torch.no_grad():
        for name, out in (("tx", "y_cond"), ("tx_uncond", "y_uncond")):
            y_BFD = _model(vectors)(vectors["in/x"], vectors["in/t"], _text(vectors, name), vectors["in/lengths"])
            valid_BF = torch.arange(y_BFD.shape[1]) < vectors["in/lengths"][:, None]
            close(y_BFD[valid_BF], vectors[f"out/{out}"][valid_BF], ATOL)


def _dropped_registers(model):
    """Neither in the sequence nor in its mask."""
    model.registers, model.config = None, MDMSMPLConfig(**SMALL, num_registers=0)


def _registers_before_text(model):
    prepare, registers = model.prepare, model.config.num_registers

    def reordered(*given):
        made = prepare(*given)
        return replace(made, tokens_BPC=made.tokens_BPC.roll(registers, dims=1))

    model.prepare = reordered


class _NormedLast(nn.Module):
    """nn.TransformerEncoder with the final norm that pre-norm encoders usually have."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, valid):
        return nn.functional.layer_norm(self.encoder(x, valid), x.shape[-1:])


def _final_norm(model):
    model.seqTransEncoder = _NormedLast(model.seqTransEncoder)


def _random_registers(model):
    nn.init.normal_(model.registers, generator=torch.Generator().manual_seed(0))


BREAKS = {
    "registers dropped": _dropped_registers,
    "other registers": _random_registers,
    "order of tokens": _registers_before_text,
    "a final norm": _final_norm,
}


@pytest.mark.parametrize("how", BREAKS)
def test_the_golden_vectors_tell_other_networks_apart(golden, how):
    """Negative control: far outside the tolerance."""
    model = _model(golden)
    BREAKS[how](model)
    cond, _ = _predictions(golden, model)
    assert (cond - golden["out/y_cond"])[_valid(golden)].abs().max() > 100 * ATOL


def test_the_golden_vectors_tell_post_norm_apart(golden, monkeypatch):
    """Negative control: the same weights in MDM's layers."""
    monkeypatch.setattr(mdm_smpl, "PreNormEncoderLayer", EncoderLayer)
    cond, _ = _predictions(golden, _model(golden))
    assert (cond - golden["out/y_cond"])[_valid(golden)].abs().max() > 100 * ATOL


@pytest.mark.parametrize("how", ["text as it comes", "visible padding", "zeros for the empty text"])
def test_the_golden_vectors_tell_other_conditions_apart(golden, how):
    """Negative control: un-normalised text, unmasked tokens, MDM's null condition."""
    model, name = _model(golden), "y_cond"
    text, length_B = _text(golden, "tx"), golden["in/lengths"]
    if how == "text as it comes":
        text = TextTokens(golden["in/tx_x"], text.length_B)
    elif how == "visible padding":
        text = TextTokens(text.tokens_BMC, torch.full_like(text.length_B, text.tokens_BMC.shape[1]))
    else:
        zeros, name = torch.zeros_like(golden["in/tx_uncond_x"]), "y_uncond"
        text = TextTokens(zeros, golden["in/tx_uncond_len"])
    with torch.no_grad():
        y_BFD = model(golden["in/x"], golden["in/t"], text, length_B)[:, ::2]
    assert (y_BFD - golden[f"out/{name}"])[_valid(golden)].abs().max() > 100 * ATOL


def test_guidance_is_the_official_one(golden):
    """Through the seam: `guided` over conditional and empty text, of one token each, is u + w (c - u)."""
    denoiser, rows = _denoiser(golden), len(golden["in/x"])

    def predict(condition, times=1):
        x_BFD, t_B, length_B = (golden[f"in/{name}"] for name in ("x", "t", "lengths"))
        with torch.no_grad():
            return denoiser.predict(x_BFD.repeat(times, 1, 1), t_B.repeat(times), condition, length_B.repeat(times))

    text, null = denoiser.encode_text(["walk"] * rows), denoiser.null_condition(rows)
    want = predict(null) + GUIDANCE * (predict(text) - predict(null))
    both = TextTokens(*(torch.cat([getattr(half, f.name) for half in (text, null)]) for f in fields(text)))
    close(guided(predict(both, 2), GUIDANCE), want, 1e-5)


def test_the_schedule_is_the_official_one(golden):
    want = golden["out/const_alphas_cumprod"]
    got = torch.from_numpy(alphas_cumprod(ScheduleConfig(betas="cosine", timesteps=100)))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    other = torch.from_numpy(alphas_cumprod(ScheduleConfig(betas="linear", timesteps=100)))
    assert (other - want).abs().max() > 0.1  # negative control


def test_the_official_size(golden):
    """Eight layers of the golden weights' names; 27.0 M parameters without CLIP."""
    with torch.device("meta"):
        model = MDMSMPL(MDMSMPLConfig())
    names = {name.replace("layers.1.", f"layers.{layer}.") for layer in range(1, 8) for name in _weights(golden)}
    assert model.state_dict().keys() == names
    assert model.registers.shape == (2, 512)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(27.0e6, rel=1e-3)
    assert model.config.max_frames == 4996
