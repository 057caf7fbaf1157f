"""The project's checkpoint form: round trip, broken files explained, and what the package ships."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rl_motion.config import Job, ScheduleConfig, UserError
from rl_motion.data.embedded import clips
from rl_motion.models import zoo
from rl_motion.models.denoiser import MotionDenoiser, MotionSpace
from rl_motion.models.evaluator import POS, Evaluator, Vocabulary
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import (
    ZOO,
    CheckpointConfig,
    load_denoiser,
    load_evaluator,
    load_tmr,
    network_shape,
    save_checkpoint,
    save_evaluator,
)
from rl_motion.policies.of_job import decode
from rl_motion.runtime.build import build_policy, check_job
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit

TEXTS = ["a person walks", "someone kicks with the left leg"]
GOT_WANT_DO = r"(?s)^got .*; want .*; \w+ .*"


def tiny_mdm():
    return MDM(MDMConfig(
        latent_dim=16, ff_size=24, num_layers=1, num_heads=2, text_dim=16, mask_frames=True,
        pos_embed_max_len=64, dropout=0.1,
    ))  # fmt: skip


def tiny_tmr():
    return TMR(TMRConfig(
        text_dim=16, latent_dim=16, ff_size=24, num_layers=1, num_heads=2, dropout=0.1, max_len=64,
    ))  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder as the zoo is: a text encoder, an MDM and a TMR beside one another."""
    folder = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(TEXTS, folder / "text", TinyBertConfig(hidden=16, layers=1, heads=2))
    torch.manual_seed(3)
    space = MotionSpace(torch.randn(263), torch.rand(263) + 0.1)
    for kind, network in (("mdm", tiny_mdm()), ("tmr", tiny_tmr())):
        schedule = ScheduleConfig(betas="linear", timesteps=20) if kind == "mdm" else None
        config = CheckpointConfig(kind=kind, network=network_shape(network), text_encoder="text", schedule=schedule)
        save_checkpoint(folder / kind, network, config, space)
    return folder


@pytest.fixture
def copy(models, tmp_path):
    """The same folder, to be broken."""
    return shutil.copytree(models, tmp_path / "zoo")


def edit(directory, **changes):
    file = directory / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "drop"}))


LOAD = {"mdm": load_denoiser, "tmr": load_tmr}
both = pytest.mark.parametrize("kind", ["mdm", "tmr"])


def loaded(kind, directory):
    """What a checkpoint holds after loading: network, mean, deviation."""
    model = LOAD[kind](directory)
    holder = model if kind == "mdm" else model.scorer
    network = model.network if kind == "mdm" else next(m for m in holder.modules() if isinstance(m, TMR))
    return network, holder.mean_D, holder.std_D


@both
def test_a_round_trip_is_exact(kind, models, tmp_path):
    """Weights and statistics survive loading, saving and loading bit for bit, and so does the configuration."""
    network, mean_D, std_D = loaded(kind, models / kind)
    file = load_file(models / kind / "model.safetensors")
    state = network.state_dict()
    assert {f"network.{name}" for name in state} | {"mean_D", "std_D"} == file.keys()
    assert all(torch.equal(tensor, file[f"network.{name}"]) for name, tensor in state.items())
    assert torch.equal(mean_D, file["mean_D"])
    assert torch.equal(std_D, file["std_D"])
    config = CheckpointConfig.model_validate_json((models / kind / "config.json").read_text())
    assert config.network == network_shape(network)
    save_checkpoint(tmp_path / "again", network, config, MotionSpace(mean_D, std_D))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (models / kind / name).read_bytes()


def test_a_changed_weight_does_not_pass_for_the_same(copy, models):
    """Negative control of the round trip."""
    file = copy / "mdm" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.startswith("network.") and tensors[n].is_floating_point())
    tensors[name].view(-1)[0] += 1e-6
    save_file(tensors, file)
    one, other = loaded("mdm", models / "mdm")[0].state_dict(), loaded("mdm", copy / "mdm")[0].state_dict()
    assert not all(torch.equal(one[n], other[n]) for n in one)


@both
def test_models_are_loaded_frozen_in_eval_mode_and_leave_the_random_stream_alone(kind, models):
    state = torch.random.get_rng_state()
    network, *_ = loaded(kind, models / kind)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


def test_a_loaded_denoiser_predicts_as_the_saved_network_does(models):
    denoiser = load_denoiser(models / "mdm")
    assert denoiser.schedule == ScheduleConfig(betas="linear", timesteps=20)
    assert denoiser.fps == 20.0
    condition = denoiser.encode_text(TEXTS)
    assert torch.equal(condition, TextEncoder(models / "text").pooled(TEXTS))
    x_BFD, t_B, length_B = torch.randn(2, 9, 263), torch.tensor([3, 7]), torch.tensor([9, 6])
    tensors = load_file(models / "mdm" / "model.safetensors")
    network = tiny_mdm().eval()
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    with torch.no_grad():
        want = network(x_BFD, t_B, condition, length_B)
        assert torch.equal(denoiser.predict(x_BFD, t_B, condition, length_B), want)


def motions(**changes):
    torch.manual_seed(0)
    given = {
        "features_BFD": torch.randn(2, 9, 263), "length_B": torch.tensor([9, 7]), "fps": 20.0,
        "representation": Representation.HUMANML3D_263, "normalisation": Normalisation.NONE,
    }  # fmt: skip
    return Motions(**(given | changes))


def test_similarity_is_a_cosine_that_has_a_gradient(models):
    model = load_tmr(models / "tmr")
    x_BFD = motions().features_BFD.requires_grad_()
    score_B = model.similarity(motions(features_BFD=x_BFD), TEXTS)
    assert score_B.shape == (2,)
    assert (score_B.abs() <= 1 + 1e-6).all()
    score_B.sum().backward()
    assert x_BFD.grad[:, :7].abs().sum() > 0
    assert not x_BFD.grad[1, 7:].any()


def test_normalised_motion_is_refused(models):
    with pytest.raises(UserError, match=GOT_WANT_DO):
        load_tmr(models / "tmr").similarity(motions(normalisation=Normalisation.DATASET), TEXTS)


@both
@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.999])
def test_a_truncated_file_is_explained(kind, keep, copy):
    file = copy / kind / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize(
    "network",
    [{"latent_dim": 32}, {"num_layers": 2}, {"num_heads": 3}, {"text_dim": 8}, {"wings": 2}],
    ids=lambda n: next(iter(n)),
)
def test_weights_that_do_not_fit_their_configuration_are_explained(kind, network, copy):
    config = json.loads((copy / kind / "config.json").read_text())
    edit(copy / kind, network=config["network"] | network)
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_explained(kind, name, copy):
    (copy / kind / name).unlink()
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize("name", ["mean_D", "std_D"])
def test_missing_statistics_are_explained(kind, name, copy):
    file = copy / kind / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != name}, file)
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\xff", '{"kind": "mdm"}'], ids=["empty", "open", "list", "bytes", "partial"]
)
def test_a_configuration_that_cannot_be_read_is_explained(kind, text, copy):
    (copy / kind / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize(
    "changes", [{"kind": "gan"}, {"fps": "fast"}, {"representation": "bvh"}, {"wings": 2}], ids=str
)
def test_values_that_mean_nothing_are_explained(kind, changes, copy):
    edit(copy / kind, **changes)
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
def test_the_wrong_kind_is_explained(kind, models):
    other = {"mdm": "tmr", "tmr": "mdm"}[kind]
    with pytest.raises(UserError, match=rf"got an? {other} checkpoint .*; want .*{kind}.*; check"):
        LOAD[kind](models / other)


def test_a_denoiser_without_a_schedule_is_explained(copy):
    edit(copy / "mdm", schedule="drop")
    with pytest.raises(UserError, match=r"got .* without a schedule; want one; copy"):
        load_denoiser(copy / "mdm")


@both
@pytest.mark.parametrize(
    "text_encoder",
    ["../x", "/etc", "text/../../x", "text/inner", ".", "..", ""],
)
def test_a_text_encoder_elsewhere_is_refused(kind, text_encoder, copy):
    """A checkpoint from elsewhere must not say which of the user's folders are read."""
    edit(copy / kind, text_encoder=text_encoder)
    with pytest.raises(UserError, match=r"got text_encoder .*; want the name of a directory beside.*; move"):
        LOAD[kind](copy / kind)


@both
def test_a_missing_text_encoder_is_explained(kind, copy):
    edit(copy / kind, text_encoder="gone")
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
@pytest.mark.parametrize("broken", [torch.zeros(263), torch.ones(5)], ids=["zero", "short"])
def test_statistics_that_cannot_normalise_are_explained(kind, broken, copy):
    file = copy / kind / "model.safetensors"
    save_file(load_file(file) | {"std_D": broken}, file)
    with pytest.raises(UserError, match=GOT_WANT_DO):
        LOAD[kind](copy / kind)


@both
def test_an_unknown_name_lists_the_packaged_ones(kind, copy, monkeypatch):
    monkeypatch.setattr(zoo, "ZOO", copy)
    with pytest.raises(UserError, match=rf"got .*'xyz'.*; want one of {kind} or a path; check the spelling"):
        LOAD[kind]("xyz")
    with pytest.raises(UserError, match=rf"want one of {kind} or a path; did you mean '{kind}'"):
        LOAD[kind](f"{kind}s")
    monkeypatch.setattr(zoo, "ZOO", copy / "text")
    with pytest.raises(UserError, match=r"want one of \(none packaged\) or a path"):
        LOAD[kind]("mdn")


@both
def test_a_packaged_name_is_enough(kind, copy, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "ZOO", copy)
    monkeypatch.chdir(tmp_path)
    LOAD[kind](kind)


@pytest.fixture
def judge(tmp_path):
    """A tiny evaluator in its directory."""
    torch.manual_seed(4)
    shape = GuoConfig(
        movement_latent=8, motion_hidden=6, text_hidden=6, coembedding=4, word_size=5, pos_size=len(POS), max_frames=16
    )
    vocabulary = Vocabulary.of(TEXTS)
    space = MotionSpace(torch.randn(263), torch.rand(263) + 0.1)
    made = Evaluator(Guo(shape), vocabulary, torch.randn(len(vocabulary.words), 5), space)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.half())
    save_evaluator(tmp_path / "guo", made.eval())
    return tmp_path / "guo", made


def test_an_evaluator_survives_its_checkpoint(judge, tmp_path):
    """Weights as float16 on disk, float32 in memory; statistics whole; the same points; the hash is the file's."""
    folder, made = judge
    state = torch.random.get_rng_state()
    loaded = load_evaluator(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (loaded.fps, loaded.representation) == (20.0, Representation.HUMANML3D_263)
    assert loaded.vocabulary.words == made.vocabulary.words
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.mean_D, made.mean_D)
    assert torch.equal(loaded.std_D, made.std_D)
    torch.testing.assert_close(loaded.embed_motions(motions()), made.embed_motions(motions()))
    torch.testing.assert_close(loaded.embed_texts(TEXTS), made.embed_texts(TEXTS))
    file = folder / "model.safetensors"
    assert {t.dtype for n, t in load_file(file).items() if n.startswith("network.")} == {torch.float16}
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    save_evaluator(tmp_path / "again", loaded)
    for name in ("model.safetensors", "config.json", "words.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    made.guo.movement_encoder.out_net.bias.data[0] += 1.0
    save_evaluator(tmp_path / "other", made)
    assert load_evaluator(tmp_path / "other").sha256 != loaded.sha256  # control


def _retouched(change):
    """Damage to the tensors."""

    def damage(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file)

    return damage


def _shaped(**network):
    """Another shape than the weights have."""
    return lambda folder: edit(folder, network=json.loads((folder / "config.json").read_text())["network"] | network)


DAMAGE = {
    "no words": lambda folder: (folder / "words.json").unlink(),
    "fewer words": lambda folder: (folder / "words.json").write_text('["unk", "sos", "eos"]'),
    "no marks": lambda folder: (folder / "words.json").write_text('["a", "b", "c"]'),
    "no list": lambda folder: (folder / "words.json").write_text("3"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated": lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
    "no statistics": _retouched(lambda tensors: {k: v for k, v in tensors.items() if k != "mean_D"}),
    "no vectors": _retouched(lambda tensors: {k: v for k, v in tensors.items() if k != "words_VW"}),
    "zero deviation": _retouched(lambda tensors: tensors | {"std_D": torch.zeros(263)}),
    "not finite": _retouched(lambda tensors: tensors | {"words_VW": tensors["words_VW"] / 0}),
    "wider": _shaped(motion_hidden=7),
    "other tagger": _shaped(pos_size=15),
    "wings": _shaped(wings=2),
    "no rate": lambda folder: edit(folder, fps="drop"),
    "no object": lambda folder: (folder / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_evaluator_is_explained(judge, what):
    folder, _ = judge
    load_evaluator(folder)  # control: it is the damage
    DAMAGE[what](folder)
    with pytest.raises(UserError, match=GOT_WANT_DO):
        load_evaluator(folder)


def test_a_reward_is_no_evaluator_and_an_evaluator_no_reward(judge, models):
    with pytest.raises(UserError, match=r"got a tmr checkpoint .*; want guo; check"):
        load_evaluator(models / "tmr")
    with pytest.raises(UserError, match=GOT_WANT_DO):
        load_tmr(judge[0])


def test_the_package_ships_its_evaluator():
    """It tells the test combinations of the embedded world apart, and shares no weights with the reward."""
    judge = load_evaluator("guo-embedded")
    real = clips("target/test", 32, seed=123)
    features_BFD, length_B = torch.from_numpy(real.features_NFD), torch.from_numpy(real.length_N)
    given = Motions(features_BFD, length_B, 20.0, Representation.HUMANML3D_263, Normalisation.NONE)
    distance_BB = torch.cdist(judge.embed_texts(real.captions), judge.embed_motions(given))
    assert (distance_BB.argmin(1) == torch.arange(32)).float().mean() >= 0.8
    still = replace(given, features_BFD=features_BFD[:, :1].repeat(1, 40, 1))
    frozen_BB = torch.cdist(judge.embed_texts(real.captions), judge.embed_motions(still))
    assert frozen_BB.diagonal().mean() > 1.2 * distance_BB.diagonal().mean()  # control: what does not move fits worse
    assert (ZOO / "guo-embedded" / "model.safetensors").stat().st_size <= 500_000


def test_the_package_ships_its_models():
    assert {"tmr-embedded", "mdm-embedded", "text-embedded"} <= {p.parent.name for p in ZOO.glob("*/config.json")}
    assert load_tmr().representation == Representation.HUMANML3D_263
    assert load_denoiser("mdm-embedded").features == 263
    for config in ZOO.glob("*/config.json"):
        if "kind" in json.loads(config.read_text()):
            assert (config.parent / "README.md").is_file(), f"{config.parent.name} has no model card"


def test_the_packaged_files_are_small_and_hold_no_pickle():
    files = [p for p in ZOO.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 16 * 2**20
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".txt", ".yaml"}


@dataclass(frozen=True)
class LatentShape:
    """Of a network whose latent is one frame of 8 numbers, and whose motion has 263 features."""

    features: int = 8
    max_frames: int = 48
    mask_frames: bool = False


class LatentNetwork(nn.Module):
    adapter_targets: ClassVar = {"mlp": ("layer",)}

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.features, config.features)

    def forward(self, x_BFD, t_B, condition, length_B):
        return self.layer(x_BFD)


class LatentFace(MotionDenoiser):
    def __init__(self, network, schedule, *, space, text_encoder, prediction_type="sample"):
        super().__init__(network, schedule, space, prediction_type)

    @classmethod
    def motion_features(cls, shape):
        return 263

    @classmethod
    def canvas_of(cls, shape):
        return 1

    def encode_text(self, texts):
        return torch.zeros(len(texts), 1)

    def null_condition(self, batch):
        return torch.zeros(batch, 1)

    def decode(self, x_BFD, length_B):
        frames_BFD = x_BFD.mean(dim=2, keepdim=True).expand(-1, int(length_B.max()), 263)
        return super().decode(frames_BFD, length_B)


def test_a_latent_model_is_a_line_in_the_registry(models, tmp_path, monkeypatch):
    """Statistics of its motion, a canvas of its latents: loaded and sampled as any other, for any length."""
    monkeypatch.setitem(zoo.DENOISERS, "latent", (LatentNetwork, LatentShape, LatentFace))
    shutil.copytree(models, tmp_path / "zoo")
    space = MotionSpace(torch.randn(263), torch.rand(263) + 0.1)
    config = CheckpointConfig(
        kind="latent", network=asdict(LatentShape()), text_encoder="text", schedule=ScheduleConfig()
    )
    save_checkpoint(tmp_path / "zoo" / "latent", LatentNetwork(LatentShape()), config, space)
    job = Job.model_validate({
        "name": "x", "model": {"name": str(tmp_path / "zoo" / "latent")}, "adapter": {"targets": ["mlp"]},
        "rewards": [{"name": "jerk"}], "tracking": {"mlflow_uri": None},
    })  # fmt: skip
    check_job(job)
    policy = build_policy(job)
    prompts = tuple(Prompt(text, text, length) for text, length in (("a walk", 12), ("a jump", 20)))
    trajectory = policy.rollout(Unit(seed=0, iteration=0, index=0, prompts=prompts, samples_per_prompt=2))
    assert trajectory.sample.shape == (4, 1, 8)
    motions = decode(load_denoiser(job.model.name), trajectory)
    assert motions.features_BFD.shape == (4, 20, 263)
    assert torch.equal(motions.features_BFD[0, 12:], torch.zeros(8, 263))
    save_checkpoint(tmp_path / "zoo" / "latent", LatentNetwork(LatentShape()), config, MotionSpace(*torch.ones(2, 8)))
    with pytest.raises(UserError, match=r"does not load .*263"):  # control: statistics of the latent
        load_denoiser(job.model.name)
