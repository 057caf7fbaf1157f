"""TMR against the official implementation (Mathux/TMR): golden vectors and key tables."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rl_motion.models.losses import Gaussian, Negatives, info_nce, kl_divergence, similarity_matrix
from rl_motion.models.tmr import TMR, TMRConfig, TMRScorer

ATOL = 1e-5


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath / "tests" / "golden"
    files = ("tmr_encoders", "tmr_decoder", "tmr_vectors")
    return {k: v for name in files for k, v in load_file(folder / f"{name}.safetensors").items()}


@pytest.fixture(scope="module")
def tmr(golden):
    model = TMR(TMRConfig(latent_dim=48, ff_size=96, num_layers=2))
    weights = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False)


def _encode(tmr, golden):
    motion = tmr.encode_motion(golden["in/motion"], golden["in/motion_len"])
    return motion, tmr.encode_text(golden["in/text"], golden["in/text_len"])


def _close(got, want, atol=ATOL):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


def test_encoders_equal_the_official_ones(tmr, golden):
    for name, gaussian in zip(("motion", "text"), _encode(tmr, golden), strict=True):
        _close(gaussian.mu_BC, golden[f"out/{name}_mu"])
        _close(gaussian.logvar_BC, golden[f"out/{name}_logvar"])


def test_decoder_equals_the_official_one_and_is_zero_on_padding(tmr, golden):
    decoded = tmr.decode(golden["in/z"], golden["in/motion_len"], 36)
    _close(decoded[:, ::2], golden["out/dec_from_z"], atol=2e-5)
    for row, length in zip(decoded, golden["in/motion_len"].tolist(), strict=True):
        assert not row[length:].any()


def test_similarity_and_losses_equal_the_official_ones(tmr, golden):
    motion, text = _encode(tmr, golden)
    sim = similarity_matrix(text.mu_BC, motion.mu_BC)
    _close(sim, golden["out/sim_t2m"])
    _close(sim / 2 + 0.5, golden["out/score_t2m"])
    _close(info_nce(text.mu_BC, motion.mu_BC), golden["out/infonce_nofilter"])
    near = Negatives(sentence_BC=golden["in/sent_emb"])
    _close(info_nce(text.mu_BC, motion.mu_BC, negatives=near), golden["out/infonce_filter"])
    _close(kl_divergence(text, motion), golden["out/kl_t_m"])


def test_the_golden_vectors_notice_a_wrong_mask_filter_or_direction(tmr, golden):
    """Negative control: unmasked padding, a missing filter, KL the other way round: outside the tolerance."""
    motion, text = _encode(tmr, golden)
    unmasked = tmr.encode_motion(golden["in/motion"], torch.full_like(golden["in/motion_len"], 36))
    assert (unmasked.mu_BC - golden["out/motion_mu"]).abs().max() > 100 * ATOL
    assert abs(info_nce(text.mu_BC, motion.mu_BC) - golden["out/infonce_filter"]) > 100 * ATOL
    assert abs(kl_divergence(motion, text) - golden["out/kl_t_m"]) > 100 * ATOL
    swapped = Gaussian(text.logvar_BC, text.mu_BC)
    assert abs(kl_divergence(swapped, motion) - golden["out/kl_t_m"]) > 100 * ATOL


def test_the_scorer_normalises_with_its_own_statistics(tmr, golden):
    mean_D, std_D = torch.linspace(-1, 1, 263), torch.linspace(0.5, 2, 263)
    scorer = TMRScorer(tmr, mean_D=mean_D, std_D=std_D)
    raw_BFD = golden["in/motion"] * std_D + mean_D
    text_QC = scorer.embed_text(golden["in/text"], golden["in/text_len"])
    similarity_QN = text_QC @ scorer.embed_motion(raw_BFD, golden["in/motion_len"]).T
    _close(similarity_QN, golden["out/sim_t2m"])
    already_normalised = text_QC @ scorer.embed_motion(golden["in/motion"], golden["in/motion_len"]).T
    assert (already_normalised - similarity_QN).abs().max() > 100 * ATOL
    raw_BFD.requires_grad_()
    scorer.embed_motion(raw_BFD, golden["in/motion_len"])[:, 0].sum().backward()
    assert raw_BFD.grad.any()


@pytest.mark.parametrize("part", ["motion_encoder", "text_encoder", "motion_decoder"])
def test_names_and_shapes_are_those_of_the_official_checkpoint(shared_dir, part):
    table = json.loads((shared_dir / f"reference/state_dicts/tmr_{part}.json").read_text())
    with torch.device("meta"):
        state = getattr(TMR(TMRConfig()), part).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == table
