"""MDM and its layers: same bits with and without gradients, masking, dropout, state dicts, the seam."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rl_motion.config import ScheduleConfig
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.layers import Attention, LayerConfig
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.protocols import Denoiser
from rl_motion.types import Normalisation, Representation

SMALL = {
    "features": 10,
    "latent_dim": 32,
    "ff_size": 64,
    "num_layers": 2,
    "text_dim": 8,
    "pos_embed_max_len": 50,
}


def _model(*, mask_frames=True, **changes):
    torch.manual_seed(0)
    return MDM(MDMConfig(**(SMALL | {"mask_frames": mask_frames} | changes))).eval()


def _inputs():
    generator = torch.Generator().manual_seed(1)
    x_BFD = torch.randn(3, 12, 10, generator=generator)
    return x_BFD, torch.tensor([0, 7, 49]), torch.randn(3, 8, generator=generator), torch.tensor([12, 5, 9])


class _Texts:
    def __init__(self, width=8):
        self.width = width

    def pooled(self, texts):
        return torch.stack([torch.full((self.width,), float(len(text))) for text in texts])


@pytest.mark.parametrize("mask_frames", [True, False])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_predictions_have_the_same_bits_with_and_without_gradients(one_thread, mask_frames, context):
    model = _model(mask_frames=mask_frames)
    with_grad = model(*_inputs())
    with context():
        without_grad = model(*_inputs())
    assert with_grad.requires_grad
    assert not without_grad.requires_grad
    assert torch.equal(with_grad, without_grad)


def _change_from_padding(mask_frames):
    model = _model(mask_frames=mask_frames)
    x_BFD, t_B, text_BC, length_B = _inputs()
    other = x_BFD.clone()
    for row, length in enumerate(length_B.tolist()):
        other[row, length:] = 100 * torch.randn(12 - length, 10)
    with torch.no_grad():
        change = (model(x_BFD, t_B, text_BC, length_B) - model(other, t_B, text_BC, length_B)).abs()
    return max(float(change[row, :length].max()) for row, length in enumerate(length_B.tolist()))


def test_padding_never_changes_a_valid_frame_where_frames_are_masked():
    assert _change_from_padding(mask_frames=True) == 0.0


def test_padding_does_change_valid_frames_where_they_are_not_masked():
    """Negative control of the test above, and a property of the old official checkpoints."""
    assert _change_from_padding(mask_frames=False) > 1e-3


def test_training_mode_drops_activations_but_never_the_text():
    model = _model(dropout=0.0).train()
    assert torch.equal(model(*_inputs()), model.eval()(*_inputs()))
    model = _model(dropout=0.5).train()
    assert not torch.equal(model(*_inputs()), model(*_inputs()))


def test_state_dicts_carry_the_names_of_multihead_attention():
    official = nn.MultiheadAttention(32, 4)
    ours = Attention(LayerConfig(width=32, ff_size=64, num_heads=4))
    assert sorted(ours.state_dict()) == sorted(official.state_dict())
    ours.load_state_dict(official.state_dict(), strict=True)
    assert torch.equal(ours.in_proj.weight, official.in_proj_weight)
    broken = official.state_dict()
    del broken["in_proj_weight"]
    with pytest.raises(RuntimeError, match="Missing"):
        ours.load_state_dict(broken, strict=True)


def test_attention_equals_the_library_module():
    torch.manual_seed(0)
    official = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    ours = Attention(LayerConfig(width=32, ff_size=64, num_heads=4)).eval()
    ours.load_state_dict(official.state_dict())
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 3, 32)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    want, _ = official(x, memory, memory, key_padding_mask=~valid)
    torch.testing.assert_close(ours(x, valid, memory), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "safetensors"])
def test_copies_predict_the_same_bits(tmp_path, one_thread, how):
    model = _model()
    if how == "safetensors":
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        other = MDM(model.config).eval()
        other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    else:
        other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        assert list(other.state_dict()) == list(model.state_dict())
        other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(*_inputs()), model(*_inputs()))


def _denoiser(**changes):
    std_D = changes.pop("std_D", torch.linspace(0.5, 2.0, 10))
    space = MotionSpace(mean_D=torch.linspace(-1, 1, 10), std_D=std_D)
    texts = changes.pop("text_encoder", _Texts())
    return MDMDenoiser(_model(), ScheduleConfig(), space=space, text_encoder=texts)


def test_the_denoiser_fills_the_seam():
    denoiser = _denoiser()
    x_BFD, t_B, _, length_B = _inputs()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.prediction_type, denoiser.features, denoiser.mask_frames) == ("sample", 10, True)
    condition = denoiser.encode_text(["walk", "jump up", "sit"])
    assert torch.equal(condition[:, 0], torch.tensor([4.0, 7.0, 3.0]))
    want = denoiser.network(x_BFD, t_B, condition, length_B)
    assert torch.equal(denoiser.predict(x_BFD, t_B, condition, length_B), want)
    null = denoiser.predict(x_BFD, t_B, denoiser.null_condition(3), length_B)
    assert torch.equal(null, denoiser.network(x_BFD, t_B, None, length_B))
    assert not torch.equal(null, want)


def test_decode_undoes_the_normalisation_and_clears_the_padding():
    denoiser = _denoiser()
    x_BFD, _, _, length_B = _inputs()
    x_BFD.requires_grad_()
    motions = denoiser.decode(x_BFD, length_B)
    assert (motions.normalisation, motions.representation) == (
        Normalisation.NONE,
        Representation.HUMANML3D_263,
    )
    assert motions.fps == 20.0
    row = motions.features_BFD[1]
    torch.testing.assert_close(row[:5], x_BFD[1, :5] * denoiser.std_D + denoiser.mean_D)
    assert not row[5:].any()
    motions.features_BFD.sum().backward()
    assert x_BFD.grad[1, :5].all()
    assert not x_BFD.grad[1, 5:].any()


def test_mistakes_are_explained():
    x_BFD, t_B, text_BC, length_B = _inputs()
    with pytest.raises(ValueError, match=r"got 9 features.*want 10.*choose"):
        _model()(x_BFD[..., :9], t_B, text_BC, length_B)
    with pytest.raises(ValueError, match=r"got a sequence of 13 .*want at most 8.*shorten"):
        _model(pos_embed_max_len=8)(x_BFD, t_B.clamp(max=7), text_BC, length_B)
    with pytest.raises(ValueError, match=r"got width 30 with 4 heads.*want.*change"):
        _model(latent_dim=30)
    with pytest.raises(ValueError, match=r"got mean .*want \(10,\), positive.*pass"):
        _denoiser(std_D=torch.zeros(10))
    with pytest.raises(ValueError, match=r"got text embeddings of 9 channels; want 8; use"):
        _denoiser(text_encoder=_Texts(9)).encode_text(["walk"])
