"""Official denoisers: converted files give the golden outputs, facts are told, and what does not fit is refused.

Names come from the authors' own tables and golden vectors; every second frame of the vectors is kept.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rl_motion.config import UserError
from rl_motion.diffusion import guided
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.official import Sources, layout_of, stablemofusion
from rl_motion.models.official.convert import convert
from rl_motion.models.official.denoisers import feet_scale
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig, TextTokens
from rl_motion.models.zoo import load_denoiser
from rl_motion.types import Normalisation, Representation
from tests import official_files as official

pytestmark = pytest.mark.usefixtures("one_thread")
MDM_ATOL, SMPL_ATOL, SMF_ATOL = 2e-5, 3e-5, 3e-5  # suggested with the vectors: ten times a re-run in float64
GUIDED = {"mdm": 4e-5, "full": 3.6e-5, "linear": 5e-5}


@pytest.fixture(scope="module")
def narrow_clip(tmp_path_factory):
    """The text encoder of models as narrow as `official_files.small` makes them."""
    return official.write_clip(tmp_path_factory.mktemp("text") / "clip", 32)


@pytest.fixture(scope="module")
def wide_clip(tmp_path_factory):
    """As wide as CLIP ViT-B/32, which golden vectors read."""
    return official.write_clip(tmp_path_factory.mktemp("text") / "clip-512", 512)


@pytest.fixture
def data_set(tmp_path):
    return official.write_statistics(tmp_path / "HumanML3D", official.statistics(), upper=True)


def _converted(path, out, **sources):
    return load_denoiser(convert(path, Sources(**sources), out).folder)


def close(got, want, atol):
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


def _mdm_state(vectors):
    tables = {"sequence_pos_encoder.pe": 7, "embed_timestep.sequence_pos_encoder.pe": 5000}
    return official.weights(vectors) | {name: torch.zeros(size, 1, 64) for name, size in tables.items()}


def _every_second(frames, length_B):
    """[B, F / 2]: which of the frames 0, 2, 4, ... lie before the length."""
    return torch.arange(frames)[::2] < length_B[:, None]


@pytest.mark.parametrize(("masked", "name"), [(None, "nomask"), (False, "nomask"), (True, "masked")])
def test_mdm_gives_the_golden_outputs(tmp_path, wide_clip, data_set, masked, name):
    vectors = official.golden("mdm_weights", "mdm_vectors")
    state, args = _mdm_state(vectors), {"latent_dim": 64, "layers": 2, "pos_embed_max_len": 256}
    if masked is not None:  # None: a checkpoint older than the option
        args["mask_frames"] = masked
    if masked:  # and with an average, which is what counts
        state = {"model": {key: tensor + 1 for key, tensor in state.items()}, "model_avg": state}
    folder = official.write_mdm(tmp_path / "humanml_trans_enc_512", state, **args)
    denoiser = _converted(folder, tmp_path / "out" / "mdm", text_encoder=wide_clip, stats=data_set)
    x_BFD, t_B, length_B = vectors["in/x"][:, :, 0].transpose(1, 2), vectors["in/t"], vectors["in/lengths"]
    with torch.no_grad():
        cond = denoiser.predict(x_BFD, t_B, vectors["in/text_embed"][0], length_B)
        uncond = denoiser.predict(x_BFD, t_B, denoiser.null_condition(len(x_BFD)), length_B)
    both = uncond + vectors["in/scale"][:, None, None] * (cond - uncond)
    # Frames that are hidden are not computed.
    seen_BF = _every_second(x_BFD.shape[1], length_B if masked else torch.full_like(length_B, x_BFD.shape[1]))
    close(cond[:, ::2][seen_BF], vectors[f"out/y_{name}"][:, :, 0].mT[seen_BF], MDM_ATOL)
    close(both[:, ::2][seen_BF], vectors[f"out/cfg_{name}"][:, :, 0].mT[seen_BF], GUIDED["mdm"])
    assert (denoiser.schedule.betas, denoiser.schedule.timesteps, denoiser.prediction_type) == ("cosine", 50, "sample")
    mean, std = official.statistics()
    close(denoiser.mean_D, torch.from_numpy(mean).float(), 0)
    close(denoiser.std_D, torch.from_numpy(std).float(), 0)


def _smpl_state(vectors):
    return {name: tensor.clone() for name, tensor in official.weights(vectors).items()}


def test_mdm_smpl_gives_the_golden_outputs(tmp_path, wide_clip):
    vectors = official.golden("mdm_smpl_weights", "mdm_smpl_vectors")
    folder = official.write_mdm_smpl(tmp_path / "mdm-smpl", _smpl_state(vectors))
    denoiser = _converted(folder, tmp_path / "out" / "smpl", text_encoder=wide_clip)
    text = TextTokens(vectors["out/tx_norm"], torch.ones(len(vectors["in/x"]), dtype=torch.int64))
    length_B = vectors["in/lengths"]
    raw_BC = vectors["in/tx_x"][:, 0]
    close((raw_BC - denoiser.text_mean_C) / denoiser.text_std_C, vectors["out/tx_norm"][:, 0], 1e-5)
    with torch.no_grad():
        y_BFD = denoiser.predict(vectors["in/x"], vectors["in/t"], text, length_B)[:, ::2]
    valid_BF = _every_second(vectors["in/x"].shape[1], length_B)
    close(y_BFD[valid_BF], vectors["out/y_onetoken"][valid_BF], SMPL_ATOL)
    valid_BF1 = valid_BF.unsqueeze(-1)
    decoded = denoiser.decode(vectors["out/cfg"], (length_B + 1) // 2).features_BFD
    close(decoded, vectors["out/unnorm"].where(valid_BF1, torch.zeros(())), 1e-4)
    assert denoiser.representation == Representation.SMPLRIFKE_205
    assert (denoiser.schedule.betas, denoiser.schedule.timesteps) == ("cosine", 100)


def _with_263_features(state):
    """Golden weights of 67 features among 263: what is added reads nothing and says nothing."""
    ends = {"unet.downs.0.0.conv1d.blocks.0.block.weight": 1, "unet.downs.0.0.conv1d.residual_conv.weight": 1}
    ends |= {"unet.final_conv.weight": 0, "unet.final_conv.bias": 0}
    wide = {}
    for name, tensor in state.items():
        axis = ends.get(name)
        if axis is not None:
            padding = [0, 0] * tensor.ndim
            padding[2 * (tensor.ndim - 1 - axis) + 1] = 263 - tensor.shape[axis]
            tensor = functional.pad(tensor, padding)  # noqa: PLW2901
        wide[name] = tensor
    return wide


SMF = {
    "full": {"base_dim": "16", "dim_mults": "[2, 2, 3]", "time_dim": "12", "text_latent_dim": "16", "no_eff": "True"},
    "linear": {"base_dim": "16", "dim_mults": "[2, 2, 2, 2]", "time_dim": "8", "text_latent_dim": "32"},
}
ODD = {"full": 37, "linear": 50}


@pytest.mark.parametrize(("form", "saved"), [("linear", "ema"), ("linear", "averaged model"), ("full", "encoder")])
def test_stablemofusion_gives_the_golden_outputs(tmp_path, wide_clip, monkeypatch, form, saved):
    vectors = official.golden(f"smf_{form}_weights", f"smf_{form}_weights_up", f"smf_{form}_vectors")
    state = _with_263_features(official.weights(vectors)) | official.clip_in_the_file(wide_clip)
    state["unet.time_mlp.0.pe"] = torch.zeros(5000, int(SMF[form]["time_dim"]))
    content = {"opt_encoder": official.optimiser(), "total_it": 50173, "encoder": state}
    if saved != "encoder":
        content["encoder"] = {name: tensor + 1 for name, tensor in state.items()}
        content["model_ema"] = state
    if saved == "averaged model":
        content["model_ema"] = {"n_averaged": torch.tensor(3)} | {f"module.{n}": t for n, t in state.items()}
    monkeypatch.setattr(stablemofusion, "_TEXT_HEADS", {"full": 2, "linear": 4}[form])  # the vectors' own
    folder = official.write_stablemofusion(tmp_path / "t2m_condunet1d_batch64", content, **SMF[form])
    denoiser = _converted(folder, tmp_path / "out" / "smf", text_encoder=wide_clip)
    text = TextTokens(vectors["in/clip_tokens"], torch.tensor([77]))
    x_BFD = functional.pad(vectors[f"in/x_T{ODD[form]}"], (0, 263 - 67))

    def predict(condition):
        with torch.no_grad():
            return denoiser.predict(x_BFD, vectors["in/t_a"], condition, torch.tensor([9]))[..., :67]

    close(predict(denoiser.null_condition(1)), vectors[f"out/y_uncond_T{ODD[form]}_ta"], SMF_ATOL)
    both = guided(torch.cat([predict(text), predict(None)]), 2.5)
    close(both, vectors[f"out/cfg_T{ODD[form]}_ta"], 2.5 * GUIDED[form])
    mean, std = official.statistics(bias=5.0)
    close(denoiser.std_D, torch.from_numpy(std).float(), 0)  # meta/ as it is
    assert denoiser.normalisation == Normalisation.STABLEMOFUSION
    assert (denoiser.canvas, denoiser.schedule.betas, denoiser.schedule.timesteps) == (196, "linear", 1000)
    assert len(mean) == denoiser.features == 263


def test_full_sizes_are_the_official_ones():
    """Every published name and shape is wanted, and nothing else: what `inspect` counts as missing and as extra."""
    for name, network in (("stablemofusion", lambda: T2MUnet(T2MUnetConfig())), ("mdm", lambda: MDM(MDMConfig()))):
        with torch.device("meta"):
            want = {key: tuple(tensor.shape) for key, tensor in network().state_dict().items()}
        table = {k: s for k, s in official.keys(name).items() if not k.endswith(".pe") and "clip_model." not in k}
        assert want == table


def _smf_folder(path, clip, *, features=263, **options):
    state = official.small("stablemofusion", features=features) | official.clip_in_the_file(clip)
    return official.write_stablemofusion(path, {"total_it": 7, "encoder": state}, features=features, **options)


@pytest.mark.parametrize("given", ["folder", "opt.txt", "model/latest.tar"])
def test_stablemofusion_is_described(tmp_path, narrow_clip, given):
    folder = _smf_folder(tmp_path / "smf", narrow_clip)
    path = folder if given == "folder" else folder / given
    found = layout_of(path).inspect(path)
    assert found.what == "StableMoFusion, weights as trained"
    assert (found.missing, found.extra, found.notes) == ((), (), ())
    facts = found.facts
    assert facts["network"] == "T2MUnet, levels of 64, 64, 64, 64 channels, time 32, linear cross-attention"
    assert facts["data set"] == "HumanML3D: 263 features a frame (humanml3d-263), 20 frames per second"
    assert facts["schedule"] == "linear betas, 1000 timesteps"
    assert "divided by 5" in facts["normalisation"]
    assert "canvas of 196" in facts["frames"]
    assert "guidance 2.5" in facts["official sampler"]
    assert facts["weights"] == "encoder: there is no average; 7 iterations"
    assert found.parameters == sum(
        tensor.numel()
        for name, tensor in official.small("stablemofusion").items()
        if not name.startswith("clip_model.") and not name.endswith(".pe")
    )


@pytest.mark.parametrize("dataset", ["t2m", "kit"])
def test_data_sets_have_their_own_features_and_rate(tmp_path, narrow_clip, dataset):
    features, fps, representation = {
        "t2m": (263, 20.0, Representation.HUMANML3D_263),
        "kit": (251, 12.5, Representation.KIT_251),
    }[dataset]
    smf = _smf_folder(tmp_path / "smf", narrow_clip, features=features, dataset_name=dataset)
    name = {"t2m": "humanml", "kit": "kit"}[dataset]
    mdm = official.write_mdm(tmp_path / "mdm", official.small("mdm", features=features), dataset=name)
    stats = official.write_statistics(tmp_path / "data", official.statistics(features), upper=True)
    for path, options in ((smf, {}), (mdm, {"stats": stats})):
        denoiser = _converted(path, tmp_path / "out" / path.name, text_encoder=narrow_clip, **options)
        assert (denoiser.features, denoiser.fps, denoiser.representation) == (features, fps, representation)


@pytest.mark.parametrize("text", ["bert", "clip"])
def test_mdm_with_a_decoder(tmp_path, narrow_clip, data_set, text):
    """The names of torch's own decoder, which the official class is made of; DistilBERT's tokens are 768 wide."""
    width = {"bert": 768, "clip": 512}[text]
    state = official.decoder_of(official.small("mdm"), 32, 64, 8) | {"embed_text.weight": torch.ones(32, width)}
    folder = official.write_mdm(tmp_path / "mdm", state, arch="trans_dec", text_encoder_type=text, mask_frames=True)
    found = layout_of(folder).inspect(folder)
    assert (found.missing, found.extra) == ((), ())
    assert found.facts["network"].startswith("trans_dec: 8 layers of 32 channels, 64 hidden")
    assert ("DistilBERT" in found.facts["text encoder"]) == (text == "bert")
    encoder = official.write_clip(tmp_path / "text", width)  # any language model as wide
    denoiser = _converted(folder, tmp_path / "out" / "mdm", text_encoder=encoder, stats=data_set)
    shape = denoiser.network.config
    assert (shape.arch, shape.text_tokens, shape.mask_frames) == ("trans_dec", text == "bert", True)
    stored = json.loads((tmp_path / "out" / "mdm" / "config.json").read_text())
    assert stored.get("text_cut") == (None if text == "bert" else 22)
    torch.testing.assert_close(denoiser.network.state_dict(), _without_tables(state), rtol=0, atol=0)


def _without_tables(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith(".pe")}


def test_of_several_files_the_one_with_the_most_iterations_counts_and_any_may_be_given(tmp_path):
    folder = official.write_mdm(tmp_path / "mdm", official.small("mdm"), steps=50000)
    official.write_mdm(folder, official.small("mdm"), steps=475000)
    official.write_mdm(folder, official.small("mdm"), steps=200000)
    assert "model000475000.pt" in layout_of(folder).inspect(folder).facts["weights"]
    path = folder / "model000050000.pt"
    assert "model000050000.pt" in layout_of(path).inspect(path).facts["weights"]


def test_texts_are_cut_as_the_official_code_cuts_them(tmp_path, narrow_clip, data_set):
    mdm = official.write_mdm(tmp_path / "mdm", official.small("mdm"))
    smf = _smf_folder(tmp_path / "smf", narrow_clip)
    for path, cut in ((mdm, 22), (smf, 77)):
        convert(path, Sources(narrow_clip, data_set), tmp_path / "out" / path.name)
        assert json.loads((tmp_path / "out" / path.name / "config.json").read_text())["text_cut"] == cut


def test_a_checkpoint_with_its_own_schedule_must_have_the_configurations(tmp_path):
    vectors = official.golden("mdm_smpl_weights", "mdm_smpl_vectors")
    table = vectors["out/const_alphas_cumprod"]
    state = _smpl_state(vectors)
    right = official.write_mdm_smpl(tmp_path / "right", state | {"alphas_cumprod": table, "betas": table})
    found = layout_of(right).inspect(right)
    assert (found.missing, found.extra) == ((), ())
    wrong = official.write_mdm_smpl(tmp_path / "wrong", state | {"alphas_cumprod": table.flip(0)})
    with pytest.raises(UserError, match=r"got .*alphas_cumprod are not those of cosine betas with 100.*want.*copy"):
        layout_of(wrong).inspect(wrong)


def test_statistics_of_mdm_smpl_come_from_the_checkpoint_and_else_from_the_folders(tmp_path, wide_clip):
    vectors = official.golden("mdm_smpl_weights", "mdm_smpl_vectors")
    state = _smpl_state(vectors)
    folder = official.write_mdm_smpl(tmp_path / "own", state)
    torch.save(torch.full((205,), 9.0), folder / "motion_stats" / "std.pt")
    first = _converted(folder, tmp_path / "out" / "own", text_encoder=wide_clip)
    close(first.std_D, state["motion_normalizer.std"] + 1e-12, 0)
    bare = official.write_mdm_smpl(tmp_path / "bare", state)
    kept = {name: tensor for name, tensor in state.items() if "_normalizer." not in name}
    torch.save({"state_dict": kept}, bare / "logs" / "checkpoints" / "last.ckpt")
    second = _converted(bare, tmp_path / "out" / "bare", text_encoder=wide_clip)
    for buffer in ("mean_D", "std_D", "text_mean_C", "text_std_C"):
        close(getattr(second, buffer), getattr(first, buffer), 0)


@pytest.mark.parametrize("bias", [1.0, 5.0, 25.0])
@pytest.mark.parametrize(("features", "share"), [(263, 0.855), (251, 0.0176)])
def test_the_scale_of_the_contacts_tells_whose_statistics_they_are(bias, features, share):
    """Shares of the published evaluator statistics of HumanML3D and KIT-ML."""
    mean, std = official.statistics(features, bias=bias)
    mean[-4:], std[-4:] = share, (share * (1 - share)) ** 0.5 / bias
    assert feet_scale(torch.from_numpy(mean), torch.from_numpy(std)) == pytest.approx(bias)
    assert feet_scale(torch.zeros(features), torch.from_numpy(std)) is None  # nobody ever stands: it says nothing


def test_stablemofusion_with_the_data_sets_own_deviation_is_seen(tmp_path, narrow_clip):
    folder = _smf_folder(tmp_path / "smf", narrow_clip)
    official.write_statistics(folder / "meta", official.statistics())
    (note,) = layout_of(folder).inspect(folder).notes
    assert "looks like the data set's own" in note
    with pytest.raises(UserError, match=r"got .*meta/std\.npy looks like the data set's own.*want.*meta/.*copy"):
        convert(folder, Sources(narrow_clip), tmp_path / "out" / "smf")
    (folder / "opt.txt").write_text((folder / "opt.txt").read_text().replace("feat_bias: 5", "feat_bias: 1"))
    convert(folder, Sources(narrow_clip), tmp_path / "out" / "smf")  # a training that divided by nothing


def test_stablemofusion_without_meta_takes_the_data_sets_statistics_and_scales_them(tmp_path, narrow_clip, data_set):
    folder, whole = _smf_folder(tmp_path / "smf", narrow_clip), _smf_folder(tmp_path / "whole", narrow_clip)
    for part in ("mean.npy", "std.npy"):
        (folder / "meta" / part).unlink()
    (folder / "meta").rmdir()
    assert "--stats" in layout_of(folder).inspect(folder).notes[0]
    with pytest.raises(UserError, match=r"without meta/mean\.npy.*add --stats"):
        convert(folder, Sources(narrow_clip), tmp_path / "out" / "smf")
    from_data = _converted(folder, tmp_path / "out" / "smf", text_encoder=narrow_clip, stats=data_set)
    as_it_is = _converted(whole, tmp_path / "out" / "whole", text_encoder=narrow_clip, stats=data_set)
    close(from_data.std_D, as_it_is.std_D, 1e-6)
    other = official.write_statistics(tmp_path / "other", (np.zeros(263), np.full(263, 0.7)), upper=True)
    with pytest.raises(UserError, match=r"is not --stats .*leave --stats out"):
        convert(whole, Sources(narrow_clip, other), tmp_path / "out" / "again")


@pytest.mark.parametrize("bias", [5.0, 25.0])
def test_mdm_refuses_statistics_that_others_scale(tmp_path, narrow_clip, bias):
    folder = official.write_mdm(tmp_path / "mdm", official.small("mdm"))
    stats = official.write_statistics(tmp_path / "meta", official.statistics(bias=bias))
    with pytest.raises(UserError, match=rf"as if divided by {bias:g}.*want the data set's own.*give"):
        convert(folder, Sources(narrow_clip, stats), tmp_path / "out" / "mdm")


def test_another_clip_than_the_checkpoint_carries_is_refused(tmp_path, narrow_clip):
    folder = _smf_folder(tmp_path / "smf", narrow_clip)
    other = official.write_clip(tmp_path / "other", 32, seed=1)
    with pytest.raises(UserError, match=r"which is not the CLIP that latest\.tar carries; want CLIP ViT-B/32; give"):
        convert(folder, Sources(other), tmp_path / "out" / "smf")


def test_half_precision_weights_become_single(tmp_path, narrow_clip, data_set):
    state = {name: tensor.half() for name, tensor in official.small("mdm").items()}
    folder = official.write_mdm(tmp_path / "mdm", state)
    denoiser = _converted(folder, tmp_path / "out" / "mdm", text_encoder=narrow_clip, stats=data_set)
    assert {p.dtype for p in denoiser.network.parameters()} == {torch.float32}


OTHER_MODELS = {
    "a GRU": {"arch": "gru"},
    "prefixes": {"context_len": 20},
    "targets for joints": {"multi_target_cond": True},
    "motion without text": {"unconstrained": True},
    "a trans_enc on DistilBERT": {"text_encoder_type": "bert"},
    "a token of its own": {"emb_policy": "concat"},
    "'humanact12'": {"dataset": "humanact12"},
    "'t5'": {"text_encoder_type": "t5"},
    "linear betas of 50": {"noise_schedule": "linear"},
}


@pytest.mark.parametrize("said", OTHER_MODELS)
def test_what_mdms_code_trains_and_is_another_model_is_refused(tmp_path, said):
    folder = official.write_mdm(tmp_path / "mdm", official.small("mdm"), **OTHER_MODELS[said])
    with pytest.raises(UserError, match=rf"got .*{said}.*want "):
        layout_of(folder).inspect(folder)


def test_linear_betas_of_1000_are_mdms_too(tmp_path):
    folder = official.write_mdm(tmp_path / "mdm", official.small("mdm"), noise_schedule="linear", diffusion_steps=1000)
    assert layout_of(folder).inspect(folder).facts["schedule"] == "linear betas, 1000 timesteps"


SMF_WRONG = {
    "no_adagn": "True",
    "dataset_name": "amass",
    "beta_schedule": "scaled_linear",
    "prediction_type": "noise",
    "dim_mults": "[2, 'x']",
    "base_dim": "wide",
    "feat_bias": "nan",
}


@pytest.mark.parametrize("key", SMF_WRONG)
def test_options_that_make_no_known_stablemofusion_are_refused(tmp_path, narrow_clip, key):
    folder = _smf_folder(tmp_path / "smf", narrow_clip, **{key: SMF_WRONG[key]})
    with pytest.raises(UserError, match=rf"got .*{key}.*want "):
        layout_of(folder).inspect(folder)


def test_predictions_of_noise_are_known(tmp_path, narrow_clip):
    folder = _smf_folder(tmp_path / "smf", narrow_clip, prediction_type="epsilon", beta_schedule="squaredcos_cap_v2")
    denoiser = _converted(folder, tmp_path / "out" / "smf", text_encoder=narrow_clip)
    assert (denoiser.prediction_type, denoiser.schedule.betas) == ("epsilon", "cosine")


def test_mdm_smpl_with_the_tokens_of_another_language_model_is_refused(tmp_path):
    config = official.smpl_config()
    config["data"]["text_encoder"]["modelname"] = "google/flan-t5-xl"
    folder = official.write_mdm_smpl(tmp_path / "smpl", _smpl_state(official.golden("mdm_smpl_weights")), config)
    with pytest.raises(UserError, match=r"got text encoder 'google/flan-t5-xl'.*want ViT-B/32"):
        layout_of(folder).inspect(folder)


def test_state_dicts_survive_the_way_bit_for_bit(tmp_path, narrow_clip, data_set):
    """Negative control of the golden tests: one number changed on the way is seen."""
    state = official.small("mdm")
    folder = official.write_mdm(tmp_path / "mdm", state)
    network: nn.Module = _converted(folder, tmp_path / "out" / "m", text_encoder=narrow_clip, stats=data_set).network
    got, want = network.state_dict(), _without_tables(state)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
