"""`rl-motion model`: what it says, what it writes, and that no mistake leaves anything behind or runs anything."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import AdapterConfig
from rl_motion.models.adapter import attach_lora, save_adapter
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.official import convert as converting
from rl_motion.models.zoo import ZOO
from rl_motion.runtime import sampling
from tests import official_files as official
from tests.integration.wrong_input.desk import INSTRUCTION

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = official.write_clip(tmp_path_factory.mktemp("text") / "clip", 32)
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    return folder


@pytest.fixture
def mdm(tmp_path):
    return official.write_mdm(tmp_path / "humanml_trans_enc_512", official.small("mdm"))


@pytest.fixture
def data_set(tmp_path):
    return official.write_statistics(tmp_path / "HumanML3D", official.statistics(), upper=True)


def _run(*words):
    return CliRunner().invoke(app, ["model", *map(str, words)])


def _refused(*words):
    """What a command says that ends with 2, in one line."""
    done = _run(*words)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: got ")
    assert "; want " in line
    assert INSTRUCTION.search(line), line
    return line


def _everything(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_inspect_says_what_it_is_and_what_is_missing_and_extra(mdm):
    state = official.small("mdm")
    del state["embed_text.bias"]
    torch.save(state | {"another.weight": torch.zeros(2)}, mdm / "model000475000.pt")
    done = _run("inspect", mdm)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "MDM, weights as trained"
    said = {line[2:18].strip(): line[18:].strip() for line in lines[1:-1]}
    assert said["network"] == "trans_enc: 8 layers of 32 channels, 64 hidden, 4 heads"
    assert said["frames"].startswith("padding is seen")
    assert said["schedule"] == "cosine betas, 50 timesteps"
    assert said["text encoder"].startswith("CLIP ViT-B/32, pooled")
    assert (said["missing keys"], said["extra keys"]) == ("embed_text.bias", "another.weight")
    assert lines[-1] == f"next: rl-motion model convert {mdm} --text-encoder DIR --stats DIR"


def test_the_example_in_the_docs_is_what_inspect_prints(tmp_path, root, monkeypatch):
    """All but the widths, which are small here."""
    page = (root / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    example = page.split("$ rl-motion model inspect save/humanml_trans_enc_512\n")[1].split("```")[0].splitlines()
    monkeypatch.chdir(tmp_path)
    official.write_mdm(tmp_path / "save" / "humanml_trans_enc_512", official.small("mdm"))
    said = _run("inspect", "save/humanml_trans_enc_512").stdout.splitlines()
    assert len(said) == len(example)
    differing = [line.split()[0] for line, printed in zip(example, said, strict=True) if line != printed]
    assert differing == ["network", "parameters"]


def test_inspect_knows_the_projects_own_forms(tmp_path):
    done = _run("inspect", ZOO / "t2m-unet-embedded")
    (line,) = done.stdout.splitlines()
    assert line.startswith("rl-motion t2m_unet checkpoint: humanml3d-263 at 20 frames per second, linear betas")
    assert line.endswith("M parameters")
    assert "evaluator" not in line
    for name in ("tmr-embedded", "guo-embedded"):
        assert _run("inspect", ZOO / name).stdout.startswith(f"rl-motion {name.split('-')[0]} checkpoint: ")
    network = MDM(MDMConfig(latent_dim=32, ff_size=64, num_layers=1, text_dim=8, pos_embed_max_len=60))
    adapter = attach_lora(network, AdapterConfig(rank=2, alpha=4.0, targets=("condition",)))
    save_adapter(adapter, tmp_path / "adapter", base_model_name="mdm-embedded")
    (line,) = _run("inspect", tmp_path / "adapter").stdout.splitlines()
    assert line == ("LORA adapter of peft: rank 2, alpha 4, on embed_text; 0.1 k parameters; trained on mdm-embedded")
    shutil.copytree(ZOO / "mdm-embedded", tmp_path / "alone")
    assert "text-embedded, which is not beside it" in _run("inspect", tmp_path / "alone").stdout
    assert "in the project's own form already" in _refused("convert", tmp_path / "alone", "--out", tmp_path / "out")


def test_a_converted_checkpoint_is_one_that_sample_uses(tmp_path, mdm, clip, data_set):
    out = tmp_path / "models" / "mdm"
    done = _run("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in out.parent.iterdir()} == {"mdm", "clip"}
    assert json.loads((out / "config.json").read_text())["text_encoder"] == "clip"
    card = (out / "README.md").read_text()
    assert card.startswith("# MDM, weights as trained\n")
    assert "| schedule | cosine betas, 50 timesteps |" in card
    assert f"rl-motion train JOB --set model.name={out}" in done.stdout
    assert _run("inspect", out).stdout.startswith("rl-motion mdm checkpoint: humanml3d-263 at 20 frames per second")
    policy = sampling.load_policy(sampling.job_of(None, str(out)), None)
    assert policy is not None


def test_the_text_encoder_is_linked_once_and_only_what_is_read(tmp_path, mdm, clip, data_set):
    for name in ("one", "two"):
        out = tmp_path / "models" / name
        done = _run("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
        assert done.exit_code == 0, done.output
    placed = tmp_path / "models" / "clip"
    assert (placed / "model.safetensors").samefile(clip / "model.safetensors")
    assert not (placed / "pytorch_model.bin").exists()
    beside = clip.parent / "beside"  # where it lies already, nothing is made
    assert _run("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", beside).exit_code == 0
    assert {path.name for path in clip.parent.iterdir()} == {"clip", "beside"}
    shutil.rmtree(beside)
    other = official.write_clip(tmp_path / "another" / "clip", 32, seed=1)
    before = _everything(tmp_path / "models")
    said = _refused(
        "convert", mdm, "--text-encoder", other, "--stats", data_set, "--out", tmp_path / "models" / "three"
    )
    assert "which is there and is not --text-encoder" in said
    assert _everything(tmp_path / "models") == before


def test_a_text_encoder_behind_links_is_placed_under_its_given_name(tmp_path, mdm, clip, data_set):
    """As the hub's cache lays it out: a folder of links to files that are named by hash."""
    (tmp_path / "snapshot").mkdir()
    for file in clip.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    (tmp_path / "clip-vit").symlink_to(tmp_path / "snapshot")
    out = tmp_path / "models" / "mdm"
    done = _run("convert", mdm, "--text-encoder", tmp_path / "clip-vit", "--stats", data_set, "--out", out)
    assert done.exit_code == 0, done.output
    placed = out.parent / "clip-vit"
    assert not placed.is_symlink()
    assert not any(path.is_symlink() for path in placed.iterdir())


class _Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _archive_of(data):
    """A file as torch.save writes it, with a pickle of one's own."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return content.getvalue()


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-2000])


def _nan(path):
    state = official.small("mdm")
    state["embed_text.weight"][0, 0] = float("nan")
    torch.save(state, path)


def _without_a_key(path):
    state = official.small("mdm")
    del state["seqTransEncoder.layers.3.linear2.bias"]
    torch.save(state, path)


DAMAGE = {
    "truncated": (_truncated, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("<html>quota exceeded</html>"), "cannot be read"),
    "a pickle of nothing": (lambda path: path.write_bytes(pickle.dumps(None)), "cannot be read"),
    "nan": (_nan, "embed_text.weight, torch.float32, with NaN"),
    "missing key": (_without_a_key, "1 tensors (seqTransEncoder.layers.3.linear2.bias) missing"),
    "extra key": (
        lambda path: torch.save(official.small("mdm") | {"motion_head.weight": torch.ones(3)}, path),
        "1 tensors (motion_head.weight) unknown",
    ),
    "no tensors": (lambda path: torch.save({"model": {"a": 1}}, path), "want tensors by name"),
    "a list": (lambda path: torch.save([1, 2], path), "want tensors by name"),
    "whole numbers": (
        lambda path: torch.save(official.small("mdm") | {"embed_text.bias": torch.zeros(32, dtype=torch.int64)}, path),
        "torch.int64",
    ),
    "other widths": (
        lambda path: torch.save(official.small("mdm") | {"embed_text.bias": torch.zeros(9)}, path),
        "embed_text.bias of shape (9,)",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "absent": (lambda path: path.unlink(), "without model*.pt"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_weights_end_in_one_line_and_nothing_is_left(tmp_path, mdm, clip, data_set, how):
    damage, said = DAMAGE[how]
    damage(mdm / "model000475000.pt")
    before = _everything(tmp_path)
    out = tmp_path / "models" / "new" / "mdm"
    assert said in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert _everything(tmp_path) == before


OTHER_FILES = {
    "args of another network": (lambda folder: _args(folder, latent_dim=64), "want (64, 263)"),
    "a width that heads cannot share": (lambda folder: _args(folder, latent_dim=30), "make no network"),
    "a text for a number": (lambda folder: _args(folder, layers="8"), "want a int"),
    "fewer layers": (lambda folder: _args(folder, layers=7), "unknown"),
    "no layers": (lambda folder: _args(folder, layers=0), "want 1 to 100"),
    "no steps": (lambda folder: _args(folder, diffusion_steps=0), "want 1 to 100000"),
    "more layers than memory": (lambda folder: _args(folder, layers=10**9), "want 1 to 100"),
    "more positions than memory": (lambda folder: _args(folder, pos_embed_max_len=10**12), "want 1 to 100000"),
    "no json": (lambda folder: (folder / "args.json").write_text("{"), "is no checkpoint that is known"),
    "json of something else": (
        lambda folder: (folder / "args.json").write_text("[1]"),
        "is no checkpoint that is known",
    ),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "is no checkpoint that is known"),
    "nothing": (shutil.rmtree, "does not exist"),
}


def _args(folder, **changes):
    official.write_mdm(folder, official.small("mdm"), **changes)


@pytest.mark.parametrize("how", OTHER_FILES)
def test_options_that_are_not_the_weights_are_refused(tmp_path, mdm, clip, data_set, how):
    spoil, said = OTHER_FILES[how]
    spoil(mdm)
    out = tmp_path / "models" / "mdm"
    assert said in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert not out.parent.exists()


def test_what_a_conversion_needs_is_asked_for(tmp_path, mdm, clip, data_set):
    out = tmp_path / "models" / "mdm"
    assert "add --text-encoder DIR" in _refused("convert", mdm, "--stats", data_set, "--out", out)
    assert "add --stats DIR" in _refused("convert", mdm, "--text-encoder", clip, "--out", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in _refused("convert", mdm, "--text-encoder", empty, "--stats", data_set, "--out", out)
    assert "without Mean.npy" in _refused("convert", mdm, "--text-encoder", clip, "--stats", empty, "--out", out)
    narrow = official.write_statistics(tmp_path / "narrow", official.statistics(251), upper=True)
    assert "want (263,)" in _refused("convert", mdm, "--text-encoder", clip, "--stats", narrow, "--out", out)
    wide = official.write_clip(tmp_path / "wide", 64)
    said = _refused("convert", mdm, "--text-encoder", wide, "--stats", data_set, "--out", out)
    assert "got text embeddings of 64 channels; want 32" in said
    assert not out.parent.exists()
    out.mkdir(parents=True)
    assert "is there already" in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", file / "out")
    same = tmp_path / "models" / "clip"
    assert "two names" in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", same)


@pytest.mark.parametrize("broken", ["mean", "std"])
def test_statistics_that_cannot_be_read_are_named(tmp_path, mdm, clip, data_set, broken):
    path = data_set / f"{broken.capitalize()}.npy"
    path.write_bytes(path.read_bytes()[:200])
    out = tmp_path / "models" / "mdm"
    assert str(path) in _refused("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert not out.parent.exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_nothing(tmp_path, mdm, clip, data_set, monkeypatch, failure):
    def fail(*_given):
        raise failure

    monkeypatch.setattr(converting, "_load", fail)
    before = _everything(tmp_path)
    out = tmp_path / "models" / "mdm"
    done = _run("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert done.exit_code == (130 if failure is KeyboardInterrupt else 2)
    assert _everything(tmp_path) == before


def test_what_a_killed_run_left_half_done_is_no_obstacle(tmp_path, mdm, clip, data_set):
    for left in (".mdm.partial", ".clip.partial"):
        (tmp_path / "models" / left).mkdir(parents=True)
        (tmp_path / "models" / left / "config.json").write_text("{")
    out = tmp_path / "models" / "mdm"
    done = _run("convert", mdm, "--text-encoder", clip, "--stats", data_set, "--out", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.parent.iterdir()} == {"mdm", "clip"}


FORMS = {
    "an archive": lambda bomb: _archive_of(pickle.dumps({"model": bomb})),
    "a plain pickle": lambda bomb: pickle.dumps({"model": bomb}),
    "a pickle before an archive": lambda bomb: pickle.dumps({"model": bomb}) + _archive_of(pickle.dumps({})),
    "beside tensors": lambda bomb: _saved({"state_dict": _golden_smpl(), "callbacks": bomb}),
}


def _golden_smpl():
    return {n: t.clone() for n, t in official.weights(official.golden("mdm_smpl_weights", "mdm_smpl_vectors")).items()}


def _saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["mdm", "mdm_smpl", "stablemofusion"])
def test_nothing_in_a_file_is_run(tmp_path, layout, form):
    marker = tmp_path / "ran"
    content = FORMS[form](_Bomb(marker))
    if layout == "mdm":
        folder = official.write_mdm(tmp_path / "model", {})
        (folder / "model000475000.pt").write_bytes(content)
    elif layout == "mdm_smpl":
        folder = official.write_mdm_smpl(tmp_path / "model", {})
        (folder / "logs" / "checkpoints" / "last.ckpt").write_bytes(content)
    else:
        folder = official.write_stablemofusion(tmp_path / "model", {})
        (folder / "model" / "latest.tar").write_bytes(content)
    done = _run("inspect", folder)
    assert not marker.exists()
    if (layout, form) == ("mdm_smpl", "beside tensors"):
        assert done.exit_code == 0  # what Lightning keeps beside the weights is passed over
        assert "missing keys      none" in done.stdout
    else:
        assert done.exit_code == 2


def test_the_bomb_is_one(tmp_path):
    """Negative control: read as a plain pickle it goes off."""
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


def test_a_file_that_asks_for_room_does_not_get_it(tmp_path):
    """A pickle may say that it will remember object number four billion; the unpickler in C makes room for them all."""
    program = b"\x80\x02cos\nmkdir\n}r\xff\xff\xff\xff."
    folder = official.write_mdm_smpl(tmp_path / "model", {})
    (folder / "logs" / "checkpoints" / "last.ckpt").write_bytes(_archive_of(program))
    assert "want tensors by name" in _refused("inspect", folder)


def test_names_from_files_reach_the_terminal_as_text(mdm):
    torch.save(official.small("mdm") | {"\x1b[2Jgone": torch.zeros(1)}, mdm / "model000475000.pt")
    assert "\x1b" not in _run("inspect", mdm).stdout
