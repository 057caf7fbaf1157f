"""Files of samples: where they go and what they are called, whatever the prompt is; all representations; refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rl_motion.config import UserError
from rl_motion.data import embedded
from rl_motion.motion.convert import converted
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.bvh_write import bvh_text
from rl_motion.motion.formats.exports import Export
from rl_motion.motion.formats.retarget import to_body
from rl_motion.motion.inverse import bone_lengths, solve
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.skeleton import HUMANML3D_OFFSETS_J3
from rl_motion.runtime import sample_files
from rl_motion.runtime.sample_files import names, read_lengths, slug, wanted, write_files
from rl_motion.runtime.sampling import Sampled
from rl_motion.types import Motions, Normalisation, Prompt, Representation

QUIET = Console(stderr=True, quiet=True)
NASTY = ["../../etc/passwd", "/absolute\\path", "CON", "...", "\u65e5\u672c", "a" * 500, "nul\u0000byte", "caf\u00e9!"]
EVERY = [kind for kind in Export if kind is not Export.MP4]


def motions_263(rows=2):
    clips = embedded.clips("source/train", rows, seed=1)
    return Motions(torch.from_numpy(clips.features_NFD), torch.from_numpy(clips.length_N), 20.0,
                   Representation.HUMANML3D_263, Normalisation.NONE)  # fmt: skip


def motions_251():
    return converted(motions_263(), Representation.KIT_251, 12.5)


def motions_205():
    """Standing and gliding, in SMPL-RIFKE's columns."""
    features = torch.zeros(2, 30, 205)
    rest = motion_joints(motions_263())[0, 0] - motion_joints(motions_263())[0, 0, 0]
    smpl = torch.stack([rest[:, 0], -rest[:, 2], rest[:, 1]], dim=-1)  # Z up
    features[..., 0], features[..., 2] = 0.95, -0.02
    features[..., 136:199] = smpl[1:].reshape(-1)
    return Motions(features, torch.tensor([30, 21]), 20.0, Representation.SMPLRIFKE_205, Normalisation.NONE)


def sampled(motions=None, texts=("a person walks", "../up"), samples=1):
    motions = motions or motions_263()
    joints = motion_joints(motions).numpy().astype(np.float32)
    for row, length in enumerate(motions.length_B.tolist()):
        joints[row, length:] = 0
    prompts = tuple(Prompt(str(n), text, 30) for n, text in enumerate(texts))
    return Sampled(prompts, samples, 0, motions, joints)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_names_are_unique_and_never_leave_the_folder(tmp_path):
    texts = [*NASTY, "a person walks", "a person walks", "A PERSON WALKS"]
    many = replace(sampled(), prompts=tuple(Prompt(str(n), text, 30) for n, text in enumerate(texts)), samples=3)
    made = names(many)
    assert len(set(made)) == len(made) == 3 * len(texts)
    for name in made:
        assert re.fullmatch(r"[0-9]{2}-[a-z0-9-]+-[1-3]", name)
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        assert len(name) < 60
    hundred = replace(many, prompts=tuple(Prompt("x", "x", 30) for _ in range(120)))
    assert names(hundred)[0] == "001-x-1"


@pytest.mark.parametrize(
    ("text", "want"), [(NASTY[0], "etc-passwd"), (NASTY[4], "motion"), ("Caf\u00e9, UP!", "cafe-up")]
)
def test_slugs(text, want):
    assert slug(text) == want


@pytest.mark.parametrize("motions", [motions_263, motions_251, motions_205])
def test_every_representation_goes_out_in_every_format(motions, tmp_path):
    some = sampled(motions())
    written = write_files(some, wanted(tmp_path / "all.html", EVERY, None), QUIET)
    assert files(tmp_path) == sorted([
        "all.html", "all.npy", "all.npz",
        *(f"all/{name}.{kind}" for name in ("01-a-person-walks", "02-up") for kind in ("bvh", "glb", "gif")),
    ])  # fmt: skip
    assert [what for what, _ in written] == ["motions", "joints", "arrays", "BVH", "GLB", "GIF"]
    for row, name in enumerate(names(some)):
        body = to_body(read_bvh(tmp_path / f"all/{name}.bvh"))
        assert body.fps == some.motions.fps
        assert np.linalg.norm(body.joints_FJ3 - some.clip(row), axis=-1).mean() < 0.01
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        assert arrays["prompts"].tolist() == ["a person walks", "../up"]
        assert str(arrays["representation"]) == some.motions.representation
        assert float(arrays["fps"]) == some.motions.fps
        np.testing.assert_array_equal(arrays["joints"], np.load(tmp_path / "all.npy", allow_pickle=False))
        np.testing.assert_array_equal(arrays["features"], some.motions.features_BFD.numpy())
        assert arrays["lengths"].tolist() == some.motions.length_B.tolist()


def test_a_given_skeleton_gives_its_proportions(tmp_path):
    some = sampled()
    tall = np.linalg.norm(HUMANML3D_OFFSETS_J3[1:], axis=-1) * np.linspace(1.3, 0.9, 21)
    skeleton = tmp_path / "tall.bvh"
    # In centimetres, as many files are.
    big = solve(some.clip(0), 20.0, tall)
    skeleton.write_text(bvh_text(replace(big, offsets_N3=big.offsets_N3 * 100, root_F3=big.root_F3 * 100)))
    np.testing.assert_allclose(read_lengths(skeleton), tall, atol=1e-4)
    write_files(some, wanted(tmp_path / "out", [Export.BVH], skeleton), QUIET)
    for name in names(some):
        body = to_body(read_bvh(tmp_path / f"out/{name}.bvh"))
        np.testing.assert_allclose(bone_lengths(body.joints_FJ3), tall, atol=1e-4)


def test_a_name_without_an_ending_serves_and_default_files_are_as_before(tmp_path):
    write_files(sampled(), wanted(tmp_path / "deep/er/walks", (Export.HTML, Export.NPY), None), QUIET)
    assert files(tmp_path) == ["deep/er/walks.html", "deep/er/walks.npy"]


def test_a_full_disk_leaves_whole_files_alone(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    want = wanted(tmp_path / "new/page.html", [Export.BVH, Export.HTML], None)
    monkeypatch.setattr(sample_files, "write_atomic", full)
    with pytest.raises(UserError, match=r"No space left .*want room .*; choose another place"):
        write_files(sampled(), want, QUIET)
    assert files(tmp_path) == []


def test_motion_that_is_not_finite_is_refused_before_anything_is_written(tmp_path):
    some = sampled()
    some.joints_BFJ3[1, 3, 4] = np.nan
    with pytest.raises(UserError, match=r"not finite for the prompt '../up', sample 1"):
        write_files(some, wanted(tmp_path / "page.html", EVERY, None), QUIET)
    assert files(tmp_path) == []
    write_files(some, wanted(tmp_path / "page.html", [Export.NPY], None), QUIET)  # the array shows where
    some.joints_BFJ3[1] = sampled().joints_BFJ3[1]
    some.joints_BFJ3[1, int(some.motions.length_B[1]) :] = np.nan  # nobody reads what is beyond a length
    write_files(some, wanted(tmp_path / "page.html", [Export.BVH], None), QUIET)


@pytest.mark.parametrize(
    ("out", "formats", "skeleton", "says"),
    [
        ("page.txt", [Export.HTML], None, "page.txt; want a name that ends in .html"),
        ("..", [Export.HTML], None, "rename it"),
        ("file/page.html", [Export.HTML], None, "is no folder; .*choose another"),
        ("file.html", [Export.BVH], None, "is no folder"),
        ("page.html", [Export.HTML], "file", "for html; want a format that has a skeleton; add --format bvh"),
        ("page.html", [Export.GLB], "nowhere.bvh", "--skeleton .*nowhere.bvh, which cannot be read .*; give another"),
        ("page.html", [Export.BVH], "file", "--skeleton .*file, line 1"),
        ("page.html", [Export.BVH], "flat.bvh", "--skeleton .*flat.bvh"),
    ],
)
def test_what_cannot_be_done_is_said_before(out, formats, skeleton, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no motion")
    flat = solve(sampled().clip(0), 20.0, np.zeros(21))
    Path("flat.bvh").write_text(bvh_text(flat))
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"^got .*{says}") as error:
        wanted(Path(out), formats, Path(skeleton) if skeleton else None)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == before
