"""The evaluator against the official networks (EricGuo5513/text-to-motion): golden vectors, key tables."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rl_motion.models.guo import Guo, GuoConfig

ATOL = 1e-5
TINY = GuoConfig(movement_latent=40, motion_hidden=48, text_hidden=40, coembedding=40, max_frames=56)


def _close(got, want):
    torch.testing.assert_close(got, want, atol=ATOL, rtol=0)


def _weights(golden, part):
    prefix = f"weights/{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in golden.items() if name.startswith(prefix)}


@pytest.fixture
def guo():
    return Guo(TINY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def golden(root):
    """What few kB hold: movement of one motion's first frames, and four motions' embeddings."""
    folder = root / "tests" / "golden"
    return {part: load_file(folder / f"guo_evaluator_{part}.safetensors") for part in ("movement", "motion")}


def test_movement_equals_the_official_one(guo, golden):
    given = golden["movement"]
    guo.movement_encoder.load_state_dict(_weights(given, "movement_encoder"), strict=True)
    # Ten frames decide the first two segments.
    _close(guo.movement_encoder(given["in/motions"])[:, :2], given["out/movement"])


def test_the_golden_movement_notices_another_slope_or_the_contacts(guo, golden):
    """Negative control."""
    given = golden["movement"]
    guo.movement_encoder.load_state_dict(_weights(given, "movement_encoder"), strict=True)
    shifted = guo.movement_encoder(given["in/motions"].roll(4, dims=-1))[:, :2]
    assert (shifted - given["out/movement"]).abs().max() > 100 * ATOL
    guo.movement_encoder.main[2] = nn.LeakyReLU(0.01)
    assert (guo.movement_encoder(given["in/motions"])[:, :2] - given["out/movement"]).abs().max() > 100 * ATOL


def test_motion_equals_the_official_one_in_the_order_given(guo, golden):
    """The official wrapper returns rows by falling length; ours put back in that order are equal."""
    given = golden["motion"]
    guo.motion_encoder.load_state_dict(_weights(given, "motion_encoder"), strict=True)
    order = given["out/motion_order"]
    assert order.tolist() != sorted(order.tolist()), "the lengths are sorted, so this test shows nothing"
    got_BC = guo.motion_encoder(given["out/movement"], given["in/m_lens"] // 4)
    _close(got_BC[order], given["out/motion_emb_sorted"])
    assert (got_BC - given["out/motion_emb_sorted"]).abs().max() > 100 * ATOL  # control: not in that order


def test_the_golden_embeddings_notice_another_start_length_or_direction(guo, golden):
    """Negative control: hidden states from zero, lengths rounded up, the two directions' ends swapped."""
    given = golden["motion"]
    weights, order = _weights(given, "motion_encoder"), given["out/motion_order"]

    def off(state, length_B):
        guo.motion_encoder.load_state_dict(state, strict=True)
        return (guo.motion_encoder(given["out/movement"], length_B)[order] - given["out/motion_emb_sorted"]).abs().max()

    segments_B = given["in/m_lens"] // 4
    assert off(weights, segments_B) < ATOL
    assert off(weights | {"hidden": torch.zeros(2, 1, 48)}, segments_B) > 100 * ATOL
    assert off(weights, -(-given["in/m_lens"] // 4)) > 100 * ATOL
    swapped = weights["output_net.0.weight"].roll(48, dims=1)
    assert off(weights | {"output_net.0.weight": swapped}, segments_B) > 100 * ATOL


def test_all_three_equal_the_official_wrapper(guo, shared_dir):
    """The whole golden vector, text included."""
    golden = load_file(shared_dir / "parity/guo_evaluator.safetensors")
    guo.load_state_dict(
        {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}, strict=True
    )
    order = golden["out/motion_order"]
    motion_BC = guo.encode_motion(golden["in/motions"], golden["in/m_lens"])
    text_BC = guo.encode_text(golden["in/word_embs"], golden["in/pos_ohot"], golden["in/cap_lens"])
    _close(motion_BC[order], golden["out/wrapper_motion_emb"])
    _close(motion_BC[order], golden["out/wrapper_motion_only"])
    _close(text_BC, golden["out/text_emb"])
    _close(text_BC[order], golden["out/wrapper_text_emb"])
    mixed = torch.tensor([2, 0, 3, 1])  # texts need not come sorted, as the official encoder wants them
    _close(
        guo.encode_text(golden["in/word_embs"][mixed], golden["in/pos_ohot"][mixed], golden["in/cap_lens"][mixed]),
        golden["out/text_emb"][mixed],
    )
    silent = guo.encode_text(golden["in/word_embs"], 0 * golden["in/pos_ohot"], golden["in/cap_lens"])
    assert (silent - golden["out/text_emb"]).abs().max() > 100 * ATOL  # control: parts of speech count


@pytest.mark.parametrize("part", ["movement_encoder", "text_encoder", "motion_encoder"])
def test_names_and_shapes_are_those_of_the_official_checkpoint(shared_dir, part):
    table = json.loads((shared_dir / f"reference/state_dicts/guo_{part}.json").read_text())
    with torch.device("meta"):
        state = getattr(Guo(GuoConfig()), part).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == table
