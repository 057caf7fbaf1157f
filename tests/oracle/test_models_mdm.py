"""MDM against the official implementation (GuyTevet/motion-diffusion-model): golden vectors and key table.

Golden files: outputs of the official class with tiny random weights; every second frame is kept.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from rl_motion.models.mdm import MDM, MDMConfig

GUIDED_ATOL, ATOL = 4e-5, 2e-5  # suggested with the vectors: ten times what a re-run in float64 differs by


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath / "tests" / "golden"
    return load_file(folder / "mdm_weights.safetensors") | load_file(folder / "mdm_vectors.safetensors")


def _weights(golden):
    return {name.removeprefix("weights/"): t for name, t in golden.items() if name.startswith("weights/")}


def _model(golden, mask_frames):
    model = MDM(MDMConfig(latent_dim=64, ff_size=128, num_layers=2, mask_frames=mask_frames, pos_embed_max_len=256))
    model.load_state_dict(_weights(golden), strict=True)
    return model.eval()


def _outputs(golden, mask_frames):
    """Conditional, unconditional and guided predictions in the official layout, every second frame."""
    model = _model(golden, mask_frames)
    x_BFD, t_B, length_B = golden["in/x"][:, :, 0].transpose(1, 2), golden["in/t"], golden["in/lengths"]
    text_BC = golden["in/text_embed"][0]
    with torch.no_grad():
        cond, uncond = model(x_BFD, t_B, text_BC, length_B), model(x_BFD, t_B, None, length_B)
    guided = uncond + golden["in/scale"][:, None, None] * (cond - uncond)
    return [y.transpose(1, 2)[:, :, None, ::2] for y in (cond, uncond, guided)]


@pytest.mark.parametrize(("mask_frames", "name"), [(False, "nomask"), (True, "masked")])
def test_predictions_equal_the_official_ones(golden, mask_frames, name):
    """Of every frame that is seen: what lies beyond a length is not computed where it is hidden."""
    cond, uncond, guided = _outputs(golden, mask_frames)
    frames = golden["in/x"].shape[-1]
    seen_BF = torch.arange(frames)[::2] < (golden["in/lengths"][:, None] if mask_frames else frames)

    def close(got, want, atol):
        torch.testing.assert_close(got[:, :, 0].mT[seen_BF], want[:, :, 0].mT[seen_BF], atol=atol, rtol=0)

    seen_BF = seen_BF.expand(len(cond), -1)
    close(cond, golden[f"out/y_{name}"], ATOL)
    close(guided, golden[f"out/cfg_{name}"], GUIDED_ATOL)
    if mask_frames:
        close(uncond, golden["out/y_masked_uncond"], ATOL)
        assert not cond[:, :, 0].mT[~seen_BF].any()


def test_the_golden_vectors_tell_masked_from_unmasked(golden):
    """Negative control: the other masking, or text where the null belongs, is far outside the tolerance."""
    cond, _, _ = _outputs(golden, mask_frames=True)
    assert (cond - golden["out/y_nomask"]).abs().max() > 100 * ATOL
    assert (cond - golden["out/y_masked_uncond"]).abs().max() > 100 * ATOL


def test_the_null_condition_is_a_zero_vector_before_the_projection(golden):
    model = _model(golden, mask_frames=True)
    x_BFD, t_B, length_B = golden["in/x"][:, :, 0].transpose(1, 2), golden["in/t"], golden["in/lengths"]
    with torch.no_grad():
        assert torch.equal(model(x_BFD, t_B, None, length_B), model(x_BFD, t_B, torch.zeros(3, 512), length_B))


def test_position_tables_of_any_size_are_accepted_and_ignored(golden):
    model = _model(golden, mask_frames=True)
    table = {"sequence_pos_encoder.pe": 5000, "embed_timestep.sequence_pos_encoder.pe": 7}
    stored = _weights(golden) | {name: torch.full((size, 1, 64), 9.0) for name, size in table.items()}
    before = model.sequence_pos_encoder.pe.clone()
    model.load_state_dict(stored, strict=True)
    assert torch.equal(model.sequence_pos_encoder.pe, before)
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict(stored | {"other.pe": torch.zeros(1)}, strict=True)


def test_names_and_shapes_are_those_of_the_official_checkpoint(shared_dir):
    table = json.loads((shared_dir / "reference/state_dicts/mdm_humanml_trans_enc_512.json").read_text())
    want = {name: tuple(shape) for name, shape in table.items() if not name.endswith(".pe")}
    with torch.device("meta"):
        model = MDM(MDMConfig())
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == want
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(17.88e6, rel=1e-3)
    model.load_state_dict({n: torch.empty(s, device="meta") for n, s in table.items()}, strict=True)
