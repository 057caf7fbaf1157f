"""TMR and the Guo evaluator as published: converted files give the golden outputs, and what does not fit is refused.

Names and shapes come from the authors' own tables and from golden vectors of their code.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import RewardConfig, UserError
from rl_motion.models.guo_published import POS, GloveVocabulary, tokens_of
from rl_motion.models.official import Sources, layout_of
from rl_motion.models.official.convert import convert
from rl_motion.models.official.guo import read_glove
from rl_motion.models.official.judges import told_by
from rl_motion.models.zoo import load_evaluator, load_tmr
from rl_motion.motion.convert import converted
from rl_motion.rewards import REWARDS
from rl_motion.rewards.combine import build_terms
from rl_motion.types import Motions, Normalisation, Prompt, Representation
from tests import official_judges as official
from tests.official_files import golden, statistics, weights, write_statistics
from tests.official_judges import refused

pytestmark = pytest.mark.usefixtures("one_thread")
ATOL = 1e-5  # suggested with the vectors, 2e-5 for what the decoder gives
GOT_WANT_DO = r"(?s)^got .*; want .*; \w+ .*"


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    return official.write_distilbert(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def tmr_state():
    return weights(official.golden_tmr())


@pytest.fixture(scope="module")
def converted_tmr(tmp_path_factory, distilbert, tmr_state):
    """The directory that the golden TMR becomes by way of its authors' files."""
    root = tmp_path_factory.mktemp("TMR")
    path = official.write_tmr(root, tmr_state)
    return convert(path, Sources(text_encoder=distilbert), root / "out" / "tmr").folder


@pytest.fixture(scope="module")
def tmr(converted_tmr):
    return load_tmr(converted_tmr)


@pytest.fixture(scope="module")
def guo(tmp_path_factory):
    """The golden evaluator by way of its authors' files."""
    root = tmp_path_factory.mktemp("text-to-motion")
    path = official.write_guo(root, official.golden_guo())
    return load_evaluator(convert(path, Sources(), root / "out" / "guo").folder)


def close(got, want, atol=ATOL):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


def motions(features_BFD, length_B, **changes):
    given = {"fps": 20.0, "representation": Representation.HUMANML3D_263, "normalisation": Normalisation.NONE}
    return Motions(features_BFD, torch.as_tensor(length_B), **(given | changes))


# -- TMR


def test_tmr_gives_the_golden_outputs(tmr):
    """From motion that is not normalised: TMR's statistics are part of what was converted."""
    vectors, network = official.golden_tmr(), tmr.scorer.tmr
    mean_D, std_D = official.tmr_statistics()
    motion = network.encode_motion(vectors["in/motion"], vectors["in/motion_len"])
    text = network.encode_text(vectors["in/text"], vectors["in/text_len"])
    for name, gaussian in (("motion", motion), ("text", text)):
        close(gaussian.mu_BC, vectors[f"out/{name}_mu"])
        close(gaussian.logvar_BC, vectors[f"out/{name}_logvar"])
    close(network.decode(vectors["in/z"], vectors["in/motion_len"], 36)[:, ::2], vectors["out/dec_from_z"], 2e-5)
    given = motions(vectors["in/motion"] * std_D + mean_D, vectors["in/motion_len"])
    cosine_QN = tmr.scorer.embed_text(vectors["in/text"], vectors["in/text_len"]) @ tmr.embed_motions(given).T
    close(cosine_QN, vectors["out/sim_t2m"])
    close(cosine_QN / 2 + 0.5, vectors["out/score_t2m"])


def test_tmr_reads_all_tokens_of_distilbert_with_both_ends(tmr, distilbert):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), AutoModel.from_pretrained(distilbert).eval()
    ids = tokenizer("a person walks", return_tensors="pt")["input_ids"]
    assert (ids[0, 0], ids[0, -1], ids.shape) == (tokenizer.cls_token_id, tokenizer.sep_token_id, (1, 5))
    with torch.no_grad():
        hidden_1LC = model(ids).last_hidden_state
        want = tmr.scorer.embed_text(hidden_1LC, torch.tensor([5]))
        inner = tmr.scorer.embed_text(hidden_1LC[:, 1:4], torch.tensor([3]))
    close(tmr.embed_texts(["a person walks"]), want)
    assert (inner - want).abs().max() > 1e-3  # control: the ends count


def test_a_converted_tmr_is_a_reward(converted_tmr, tmr):
    torch.manual_seed(0)
    given = motions(torch.randn(2, 30, 263, requires_grad=True), [30, 20])
    prompts = [Prompt("a", "a person walks", 30), Prompt("b", "a person walks slowly", 20)]
    (term,) = build_terms([RewardConfig(name="tmr", model=str(converted_tmr))], REWARDS)
    score_B = term.reward(given, prompts)
    close(score_B, tmr.similarity(given, [prompt.text for prompt in prompts]))
    score_B.sum().backward()
    assert given.features_BFD.grad[1, :20].any()
    assert not given.features_BFD.grad[1, 20:].any()


@pytest.mark.parametrize("given", [".", "config.json", "last_weights", "last_weights/text_encoder.pt"])
def test_tmr_is_described(tmp_path, tmr_state, given):
    path = official.write_tmr(tmp_path, tmr_state, data="kitml") / given
    found = layout_of(path).inspect(path)
    assert found.what == "TMR, text-motion retrieval"
    assert not found.missing and not found.extra
    assert found.parameters == sum(tensor.numel() for tensor in tmr_state.values())
    # KIT's recordings, made into HumanML3D's features by TMR's authors.
    assert found.facts["data set"].startswith(
        "KIT-ML, as HumanML3D's features: 263 features a frame (humanml3d-263), 20"
    )
    assert found.facts["normalisation"].startswith("tmr: ")
    assert "[CLS] and [SEP]" in found.facts["text encoder"]
    assert found.options == ("--text-encoder",)


def test_tmr_without_its_decoder_and_outside_of_its_repository(tmp_path, tmr_state, distilbert):
    encoders = {name: tensor for name, tensor in tmr_state.items() if not name.startswith("motion_decoder.")}
    path = official.write_tmr(tmp_path / "TMR", encoders)
    stats = shutil.move(tmp_path / "TMR" / "stats" / "humanml3d" / "guoh3dfeats", tmp_path / "stats")
    assert layout_of(path).inspect(path).options == ("--text-encoder", "--stats")
    refused(path, "without TMR's statistics beside it", tmp_path, text_encoder=distilbert)
    refused(path, "got no text encoder", tmp_path, stats=stats)
    done = convert(path, Sources(text_encoder=distilbert, stats=stats), tmp_path / "out" / "tmr")
    model, config = load_tmr(done.folder), json.loads((done.folder / "config.json").read_text())
    assert not hasattr(model.scorer.tmr, "motion_decoder")
    assert (config["normalisation"], config["own_heading"], config["fps"]) == ("tmr", False, 20.0)
    close(model.scorer.std_D, official.tmr_statistics()[1])


def test_a_text_encoder_as_wide_as_distilbert_is_told_from_it(tmp_path, tmr_state, distilbert):
    """BERT has 768 channels too: it would load, and score noise."""
    other = shutil.copytree(distilbert, tmp_path / "bert-base-uncased")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    refused(
        official.write_tmr(tmp_path, tmr_state), "a bert; want distilbert-base-uncased", tmp_path, text_encoder=other
    )


# -- the Guo evaluator


def test_the_evaluator_gives_the_golden_outputs(guo):
    """Its text encoder takes captions in any order, its motion encoder returns the order given."""
    movement, motion, text = (golden(f"guo_evaluator_{part}") for part in ("movement", "motion", "text"))
    network = guo.guo
    close(network.movement_encoder(movement["in/motions"])[:, :2], movement["out/movement"])
    embedding_BC = network.motion_encoder(motion["out/movement"], motion["in/m_lens"] // 4)
    close(embedding_BC[motion["out/motion_order"]], motion["out/motion_emb_sorted"])
    mixed = torch.tensor([2, 0, 1])
    got = network.encode_text(text["in/word_embs"][mixed], text["in/pos_ohot"][mixed], text["in/cap_lens"][mixed])
    close(got, text["out/text_emb"][mixed])


def test_the_evaluator_gives_a_golden_embedding_of_motion_that_is_not_normalised(guo):
    vectors = golden("guo_evaluator_text")
    mean_D, std_D = (torch.from_numpy(values).float() for values in statistics(bias=25.0))
    raw_FD = vectors["in/motion_row0"] * std_D + mean_D
    longer_FD = torch.cat([raw_FD, torch.randn(3, 263)])  # the rest of a segment is not read
    assert guo.guo.config.max_frames == 196
    for given, length in ((raw_FD, 40), (longer_FD, 40), (longer_FD, 43)):
        close(guo.embed_motions(motions(given[None], [length]))[0], vectors["out/motion_emb_row0"], 3e-5)
    whole = guo.embed_motions(motions(torch.cat([longer_FD, torch.randn(1, 263)])[None], [44]))[0]
    assert (whole - vectors["out/motion_emb_row0"]).abs().max() > 1e-2  # control: another segment counts


def test_the_whole_golden_vector_of_the_evaluator(tmp_path, shared_dir):
    """What few kB of golden vectors leave out: four motions of several lengths, text of 22 words."""
    vectors = load_file(shared_dir / "parity/guo_evaluator.safetensors")
    model = load_evaluator(
        convert(official.write_guo(tmp_path, weights(vectors)), Sources(), tmp_path / "out" / "guo").folder
    )
    order = vectors["out/motion_order"]
    motion_BC = model.guo.encode_motion(vectors["in/motions"], vectors["in/m_lens"])
    text_BC = model.guo.encode_text(vectors["in/word_embs"], vectors["in/pos_ohot"], vectors["in/cap_lens"])
    close(model.guo.movement_encoder(vectors["in/motions"]), vectors["out/movement"])
    close(motion_BC[order], vectors["out/wrapper_motion_emb"])
    close(text_BC[order], vectors["out/wrapper_text_emb"])


LEFT = "a/DET man/NOUN walk/VERB to/ADP the/DET left/NOUN"
TAGGED = "a/DET man/NOUN kick/VERB with/ADP the/DET left/ADJ leg/NOUN zebra/NOUN a/X"
COLUMNS = {"sos": 14, "a": 2, "man": 1, "kick": 12, "with": 3, "the": 2, "left": 9, "leg": 10, "zebra": 14}
"""From the official word vectorizer: special classes before a word's own, `OTHER` for `unk` and for unknown tags."""


def test_captions_are_read_as_the_official_vectorizer_reads_them(tmp_path):
    vocabulary, words_VW = read_glove(official.write_glove(tmp_path), 300)
    rows = np.load(tmp_path / "our_vab_data.npy")
    word_BL, tag_BL, length_B = vocabulary.read([TAGGED])
    assert length_B.tolist() == [11]
    assert tag_BL[0].tolist() == [*COLUMNS.values(), 14, 14]  # X is no part of speech, and the end
    written = ["sos", "a", "man", "kick", "with", "the", "left", "leg", "unk", "a", "eos"]
    want = rows[[official.GLOVE_WORDS.index(word) for word in written]]
    assert np.array_equal(words_VW[word_BL[0]].numpy(), want)


def test_captions_are_cut_after_twenty_words_and_plain_ones_are_tagged(tmp_path):
    vocabulary, _ = read_glove(official.write_glove(tmp_path), 300)
    assert vocabulary.read([" ".join(["walk/VERB"] * 25), "walk/VERB", ""])[2].tolist() == [22, 3, 2]
    assert " ".join(tokens_of("A man walks to the left.")) == LEFT
    assert tokens_of(TAGGED) == TAGGED.split()
    assert tokens_of("a/b test of either/or") != ["a/b", "test", "of", "either/or"]  # not all of it is tokens
    plain, tagged = (vocabulary.read([text]) for text in ("a man walks to the left", LEFT))
    assert all(torch.equal(a, b) for a, b in zip(plain, tagged, strict=True))


def test_words_that_the_vectors_lack_are_told_of_once(caplog):
    vocabulary = GloveVocabulary(["unk", "sos", "eos", "walk"])
    vocabulary.read(["walk/VERB"])
    assert not caplog.records
    vocabulary.read(["zebra/NOUN walk/VERB", "lantern/NOUN zebra/NOUN"])
    vocabulary.read(["zebra/NOUN"])
    assert caplog.messages == ["the evaluator lacks 2 words of these captions, and reads unk: 'lantern', 'zebra'"]


def test_the_special_classes_are_the_published_ones():
    read = GloveVocabulary(["unk", "sos", "eos", "walk", "slowly", "floor", "knee", "curve", "two"]).read
    tags = read(["walk/NOUN slowly/ADV floor/NOUN knee/NOUN curve/VERB two/NUM"])[1][0, 1:-1]
    assert [POS[tag] for tag in tags] == ["Act_VIP", "Desc_VIP", "Obj_VIP", "Body_VIP", "Loc_VIP", "NUM"]
    assert len(POS) == 15


def test_motion_up_to_199_frames_is_cut_to_the_canvas_and_longer_motion_is_refused(guo):
    torch.manual_seed(1)
    given = torch.randn(1, 200, 263)
    close(guo.embed_motions(motions(given, [199])), guo.embed_motions(motions(given, [196])))
    with pytest.raises(UserError, match=GOT_WANT_DO):
        guo.embed_motions(motions(given, [200]))


def test_converted_motion_gets_the_published_heading(guo, tmr):
    """Networks of the embedded worlds take the body's own (ADR 3)."""
    from rl_motion.data.embedded import clips

    real = clips("target/val", 2, seed=7)
    given = motions(torch.from_numpy(real.features_NFD), real.length_N, fps=12.5)
    published, own = (converted(given, Representation.HUMANML3D_263, 20.0, own_heading=own) for own in (False, True))
    assert (published.features_BFD - own.features_BFD).abs().max() > 1e-3
    for model in (guo, tmr):
        close(model.embed_motions(given), model.embed_motions(published))
        assert (model.embed_motions(given) - model.embed_motions(own)).abs().max() > 1e-4


@pytest.mark.parametrize("data", ["t2m", "kit"])
@pytest.mark.parametrize("given", ["text_mot_match", "text_mot_match/model/finest.tar", "."])
def test_the_evaluator_is_described(tmp_path, data, given):
    state, features = official.golden_guo(), 263 if data == "t2m" else 251
    state["movement_encoder.main.0.weight"] = state["movement_encoder.main.0.weight"][:, : features - 4].clone()
    path = official.write_guo(tmp_path, state, data=data, features=features).parent / given
    found = layout_of(path).inspect(path)
    assert found.what == "Guo et al.'s evaluator, text-motion matching"
    assert not found.missing and not found.extra and not found.options
    assert found.parameters == sum(tensor.numel() for tensor in state.values())
    assert found.facts["data set"].startswith("HumanML3D" if data == "t2m" else "KIT-ML")
    assert "the 4 contacts are not read" in found.facts["frames"]
    model = load_evaluator(convert(path, Sources(), tmp_path / "out" / "guo").folder)
    assert (model.fps, model.representation) == ((20.0, "humanml3d-263") if data == "t2m" else (12.5, "kit-251"))


def test_statistics_and_words_may_be_elsewhere(tmp_path):
    """As in MDM's download, where both data sets' statistics lie in one folder."""
    path = official.write_guo(tmp_path / "MDM", official.golden_guo())
    shutil.rmtree(path.parent / "Comp_v6_KLD01")
    glove = shutil.move(tmp_path / "MDM" / "glove", tmp_path / "words")
    stats = tmp_path / "dataset"
    stats.mkdir()
    for data, features in (("t2m", 263), ("kit", 251)):
        for name, values in zip(("mean", "std"), statistics(features, bias=25.0), strict=True):
            np.save(stats / f"{data}_{name}.npy", values)
    assert layout_of(path).inspect(path).options == ("--stats", "--glove")
    refused(path, "without the evaluator's statistics", tmp_path, glove=glove)
    refused(path, "got no word vectors", tmp_path, stats=stats)
    assert load_evaluator(convert(path, Sources(stats=stats, glove=glove), tmp_path / "guo").folder)


# -- both


@pytest.mark.parametrize("kind", ["tmr", "guo", "kit"])
def test_full_sizes_are_the_official_ones(tmp_path, kind):
    """Every name of the published tables is read, with its shape, and none is missing."""
    parts = official.PARTS["guo" if kind == "kit" else kind]
    state = {
        f"{part}.{name}": tensor
        for part in parts
        for name, tensor in official.full_size(f"{'guo' if kind == 'kit' else kind}_{part}").items()
    }
    if kind == "kit":
        state["movement_encoder.main.0.weight"] = torch.zeros(1).expand(512, 247, 4)
    if kind == "tmr":
        config = official.tmr_config(latent_dim=256, ff_size=1024, num_layers=6)
        path = official.write_tmr(tmp_path, state, config)
    else:
        path = official.write_guo(tmp_path, state)
    found = layout_of(path).inspect(path)
    assert not found.missing and not found.extra
    assert found.parameters == sum(tensor.numel() for tensor in state.values())


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = official.write_guo(tmp_path / "repo", official.golden_guo())
    shown = CliRunner().invoke(app, ["model", "inspect", str(path)])
    assert shown.exit_code == 0
    assert "guo-evaluator: its own mean and std" in shown.output
    done = CliRunner().invoke(app, ["model", "convert", str(path), "--out", "judge"])
    assert done.exit_code == 0, done.output
    made = sorted(file.name for file in (tmp_path / "judge").iterdir())
    assert made == ["README.md", "config.json", "model.safetensors", "words.json"]
    assert "use it:       rl_motion.models.zoo.load_evaluator(judge)" in done.output
    (path / "model" / "finest.tar").write_bytes(b"")
    broken = CliRunner().invoke(app, ["model", "convert", str(path), "--out", "other"])
    assert broken.exit_code == 2
    assert not (tmp_path / "other").exists()


# -- the four normalisations


@pytest.mark.parametrize(
    ("kind", "share", "deviation"),
    [
        # Shares and mean deviations of the contacts as published: TMR's stats/, MDM's dataset/.
        (Normalisation.TMR, [0.8478, 0.8607, 0.8483, 0.8611], [0.3592, 0.3462, 0.3587, 0.3459]),
        (Normalisation.EVALUATOR, [0.8481, 0.8607, 0.8486, 0.8611], [0.0141] * 4),
        (Normalisation.EVALUATOR, [0.0173, 0.0180, 0.0173, 0.0180], [0.0053] * 4),  # KIT
    ],
)
def test_published_statistics_are_told_by_their_contacts(kind, share, deviation):
    from rl_motion.models.official.denoisers import feet_scale

    mean_D, std_D = map(torch.tensor, statistics(bias=1.0))
    if kind == Normalisation.TMR:
        std_D = official.tmr_statistics()[1]
    mean_D[-4:], std_D[-4:] = torch.tensor(share), torch.tensor(deviation)
    assert told_by(feet_scale(mean_D, std_D), std_D) == kind


@pytest.mark.parametrize("given", ["dataset", "stablemofusion", "guo-evaluator", "tmr"])
@pytest.mark.parametrize("judge", ["tmr", "guo"])
def test_statistics_of_another_convention_are_refused(tmp_path, tmr_state, distilbert, judge, given):
    scale = {"dataset": 1.0, "stablemofusion": 5.0, "guo-evaluator": 25.0}
    pair = [v.numpy() for v in official.tmr_statistics()] if given == "tmr" else statistics(bias=scale[given])
    stats = write_statistics(tmp_path / "stats-given", pair)
    path = (
        official.write_tmr(tmp_path, tmr_state)
        if judge == "tmr"
        else official.write_guo(tmp_path, official.golden_guo())
    )
    sources = {"stats": stats, "text_encoder": distilbert if judge == "tmr" else None}
    if given == ("tmr" if judge == "tmr" else "guo-evaluator"):
        assert convert(path, Sources(**sources), tmp_path / "new" / "model")
    else:
        refused(path, f"got statistics of the convention {given} in .*; want .*; add --stats DIR", tmp_path, **sources)


def test_statistics_of_no_convention_are_refused(tmp_path):
    """A meta/ that was divided twice, as Guo et al.'s training leaves it beside the weights."""
    path = official.write_guo(tmp_path, official.golden_guo())
    stats = write_statistics(tmp_path / "twice", statistics(bias=625.0))
    refused(path, r"of no known convention \(contacts divided by 625\)", tmp_path, stats=stats)
