"""CLIP and DistilBERT directories as published, read as the official code of each motion model reads them."""

import json
import logging
import shutil

import pytest
import torch

from rl_motion.config import ScheduleConfig, UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, load_denoiser, network_shape, save_checkpoint
from rl_motion.runtime.checks import TOO_MANY, check_prompts, readable
from rl_motion.runtime.prompt_sources import Source
from rl_motion.types import Prompt
from tests.small_encoders import CONTEXT, EOT, LONG, clip_ids, clip_says, save_clip, save_distilbert

CAPTIONS = ["A person walks forward.", "someone   kicks, twice!", "jump"]
MDM_CUT = 22
"""MDM: a start, twenty tokens of the caption and an end."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    create_tiny_bert([*CAPTIONS, LONG], folder / "words", TinyBertConfig(hidden=16, heads=2))
    save_distilbert(folder / "distilbert", folder / "words")
    return folder / "distilbert"


def test_stablemofusion_reads_all_77_states_of_a_text_padded_with_zeros(clip):
    encoder = TextEncoder(clip, cut=CONTEXT)
    assert (encoder.max_tokens, encoder.token_dim, encoder.pooled_dim) == (CONTEXT, 16, 6)
    padded_BMC = encoder.padded_tokens([*CAPTIONS, LONG])
    assert padded_BMC.shape == (4, CONTEXT, 16)
    for got_MC, text in zip(padded_BMC, [*CAPTIONS, LONG], strict=True):
        torch.testing.assert_close(got_MC, clip_says(clip, clip_ids(text))[0])
    # Negative control: the tokenizer's own padding token, which is the end of a text.
    ids = clip_ids("jump")
    padded_MC, _ = clip_says(clip, torch.where(ids == 0, EOT, ids))
    assert float((padded_BMC[2] - padded_MC).abs().max()) > 1e-2


@pytest.mark.parametrize("text", [*CAPTIONS, LONG])
def test_mdm_reads_the_pooled_embedding_of_twenty_tokens(clip, text):
    short, padding = clip_ids(text, MDM_CUT), torch.zeros(1, CONTEXT - MDM_CUT, dtype=torch.int64)
    _, want_C = clip_says(clip, torch.cat([short, padding], dim=1))
    torch.testing.assert_close(TextEncoder(clip, cut=MDM_CUT).pooled([text])[0], want_C)
    _, whole_C = clip_says(clip, clip_ids(text))
    was_cut = TextEncoder(clip, cut=MDM_CUT).is_cut(text)
    assert was_cut == (float((whole_C - want_C).abs().max()) > 1e-3)  # negative control: not cut, others are other
    assert was_cut == (text == LONG)  # the first caption has 22 just so


def test_mdm_smpl_reads_the_pooled_embedding_of_the_whole_context(clip):
    for text in ("", *CAPTIONS, LONG):
        got_C = TextEncoder(clip, cut=CONTEXT).pooled([text])[0]
        torch.testing.assert_close(got_C, clip_says(clip, clip_ids(text))[1])


@pytest.mark.parametrize(("whole", "eos_token_id"), [(True, EOT), (False, 2), (False, EOT)])
def test_every_form_of_a_clip_directory_says_the_same(clip, tmp_path, whole, eos_token_id):
    """Text alone, or vision beside it; the old `eos_token_id` of published directories, or the true one."""
    save_clip(tmp_path, whole=whole, eos_token_id=eos_token_id)
    encoder = TextEncoder(tmp_path, cut=CONTEXT)
    torch.testing.assert_close(encoder.pooled([LONG])[0], clip_says(tmp_path, clip_ids(LONG))[1])
    assert (encoder.token_dim, encoder.pooled_dim) == (16, 6)
    if whole:
        assert torch.equal(encoder.pooled(CAPTIONS), TextEncoder(clip, cut=CONTEXT).pooled(CAPTIONS))


def test_loading_a_whole_clip_says_nothing_of_the_weights_that_text_does_not_need(clip, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        TextEncoder(clip).pooled(["jump"])
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")


def test_tmr_and_mdm_read_every_state_of_distilbert(bert):
    """The first and the last token are states too. Official code pads a batch and masks it, which changes nothing."""
    from transformers import AutoModel, AutoTokenizer

    encoder = TextEncoder(bert)
    tokens_BLC, length_B = encoder.tokens(CAPTIONS)
    given = AutoTokenizer.from_pretrained(bert)(CAPTIONS, return_tensors="pt", padding=True)
    with torch.no_grad():
        want_BLC = AutoModel.from_pretrained(bert).eval()(**given).last_hidden_state
    assert length_B.tolist() == given["attention_mask"].sum(1).tolist() == [7, 7, 3]
    for got_LC, want_LC, length in zip(tokens_BLC, want_BLC, length_B.tolist(), strict=True):
        torch.testing.assert_close(got_LC[:length], want_LC[:length])
        assert not got_LC[length:].any()
    assert (encoder.max_tokens, encoder.token_dim) == (64, 16)


def test_without_a_cut_a_long_text_is_refused(clip, bert):
    with pytest.raises(ValueError, match=r"got a text of 9\d tokens.*want at most 77; shorten"):
        TextEncoder(clip).pooled([LONG])
    assert not TextEncoder(clip).is_cut(LONG)
    for cut in (2, 78):
        with pytest.raises(ValueError, match=rf"got texts to be cut to {cut} tokens; want 3 to 77, .*; correct"):
            TextEncoder(clip, cut=cut)


@pytest.fixture(scope="module")
def checkpoint(clip, tmp_path_factory):
    """An MDM beside a CLIP, cut as the official one."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "clip").symlink_to(clip)
    torch.manual_seed(0)
    network = MDM(MDMConfig(latent_dim=8, ff_size=8, num_layers=1, num_heads=2, text_dim=6, pos_embed_max_len=60))
    space = MotionSpace(torch.zeros(263), torch.ones(263))
    for name, cut in (("cut", MDM_CUT), ("uncut", None)):
        config = CheckpointConfig(
            kind="mdm",
            network=network_shape(network),
            text_encoder="clip",
            text_cut=cut,
            schedule=ScheduleConfig(timesteps=50),
        )
        save_checkpoint(folder / name, network, config, space)
    return folder


def test_the_cut_is_the_checkpoint_s(checkpoint, clip):
    written = {name: json.loads((checkpoint / name / "config.json").read_text()) for name in ("cut", "uncut")}
    assert written["cut"]["text_cut"] == MDM_CUT and "text_cut" not in written["uncut"]
    denoiser = load_denoiser(checkpoint / "cut")
    assert torch.equal(denoiser.encode_text([LONG]), TextEncoder(clip, cut=MDM_CUT).pooled([LONG]))
    with pytest.raises(ValueError, match="want at most 77"):
        load_denoiser(checkpoint / "uncut").encode_text([LONG])


def test_a_prompt_that_is_cut_is_trained_with_and_one_that_is_not_is_set_aside(checkpoint):
    prompts = [Prompt("long", LONG, 40), Prompt("short", "jump", 40)]
    source = Source(prompts)
    assert readable([checkpoint / "cut"], source, "prompts.txt") == (prompts, {})
    check_prompts([checkpoint / "cut"], prompts)
    assert readable([checkpoint / "uncut"], source, "prompts.txt") == (prompts[1:], {TOO_MANY: 1})
    with pytest.raises(UserError, match=r"got a prompt of 9\d tokens"):
        check_prompts([checkpoint / "uncut"], prompts)


def test_weights_that_do_not_load_are_explained_by_the_encoder_s_name(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "zoo")
    (tmp_path / "zoo" / "clip" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"got .*clip that does not load \(SafetensorError"):
        load_denoiser(tmp_path / "zoo" / "cut")
