"""A folder of motion files becomes a data set: captions beside them, splits by hash, a report and pictures."""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import UserError
from rl_motion.data import folder as real
from rl_motion.data.datasets import Clip, FileReport, write_dataset
from rl_motion.data.datasets.kinds import KINDS, kind_of
from rl_motion.data.datasets.motion_files import PAGE, split_trials
from rl_motion.data.datasets.sources import Options
from rl_motion.motion.features import features_to_joints, joints_to_features
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS
from tests.motion_formats import asf_amc, placed_bvh, rig, turned_bvh, walk
from tests.real_folder import rows_and_joints, write_folder


def read(path, **options):
    """Kind, clips and reports of a path."""
    kind = kind_of(path)
    source = KINDS[kind].read(path, Options(**options))
    entries = list(source.entries)
    clips = [entry for entry in entries if isinstance(entry, Clip)]
    pages = source.pages()
    return kind, clips, [entry for entry in entries if isinstance(entry, FileReport)], pages[PAGE].decode()


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """Three skeletons in centimetres, and captions of every sort."""
    root = tmp_path / "mine"
    put(root / "a.bvh", turned_bvh(walk() * 100.0))
    put(root / "a.txt", "a person walks\nsomeone strolls#someone/NOUN stroll/VERB#0.0#0.0\n\na part#a/DET#1.0#2.0\n")
    put(root / "sub" / "b.BVH", placed_bvh(*rig("Mixamo", walk(action="jump") * 100.0)))
    put(root / "sub" / "c.bvh", placed_bvh(*rig("LAFAN1", walk(action="squat") * 100.0)))
    lines = [
        {"name": "sub/b", "captions": ["a person jumps", "a person jumps"], "trial": "session 1"},
        {"name": "c.bvh", "captions": ["a person squats to the left"], "trial": "session 1"},
        {"name": "gone", "captions": ["nothing"]},
    ]
    put(root / "captions.jsonl", "\n".join(map(json.dumps, lines)) + "\n{broken\n")
    return root


def test_files_become_clips_with_their_captions(folder):
    kind, clips, reports, _ = read(folder)
    assert kind == "bvh"
    by_id = {clip.id: clip for clip in clips}
    assert set(by_id) == {"a", "sub/b", "sub/c"}
    assert [caption.text for caption in by_id["a"].captions] == ["a person walks", "someone strolls"]
    assert by_id["a"].captions[1].tokens == ("someone/NOUN", "stroll/VERB")
    assert [caption.text for caption in by_id["sub/b"].captions] == ["a person jumps"]
    assert {by_id["sub/b"].trial, by_id["sub/c"].trial} == {"session 1"}
    assert by_id["sub/b"].split == by_id["sub/c"].split
    told = {report.file: report for report in reports}
    assert "a.txt, line 4: of a part alone" in told["a.bvh"].wrong[0]
    assert any("joint names of Mixamo" in line for line in told["sub/b.BVH"].guessed)
    assert any("unit cm" in line for line in told["sub/c.bvh"].guessed)
    lines = [report for report in reports if report.file == "captions.jsonl"]
    assert any("line 4" in report.wrong[0] for report in lines)
    assert any("1 names of no one file, such as 'gone'" in report.wrong[0] for report in lines)


def test_features_are_those_of_the_motion(folder):
    _, clips, _, _ = read(folder)
    want = joints_to_features(walk(), own_heading=True)
    got = next(clip for clip in clips if clip.id == "a").features_FD
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_the_page_shows_every_file_and_escapes_foreign_text(folder):
    put(folder / "bad.bvh", "HIERARCHY\n<script>alert(1)</script>")
    put(folder / "a.txt", "<b>bold</b> & <img src=x onerror=alert(1)>")
    _, _, reports, page = read(folder)
    assert page.count("<svg") == 3
    assert page.count("<section") == 4
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp;" in page
    assert "default-src 'none'" in page
    assert page.index("bad.bvh") < page.index("sub/b.BVH")  # what is wrong comes first
    assert next(report for report in reports if report.file == "bad.bvh").left_out == "a file that cannot be read"


def test_pictures_stand_upright_and_look_at_you(folder):
    _, _, _, page = read(folder)
    card = page[page.index("sub/c.bvh") :]
    first = re.search(r"<svg.*?</svg>", card)[0]
    floor = float(re.search(r'class="f" d="M0 (\d+)', first)[1])
    circles = [(float(x), float(y)) for x, y in re.findall(r'cx="(\d+)" cy="(-?\d+)"', first)]
    assert len(circles) == 6
    assert all(60 < floor - y < 220 for _, y in circles)  # heads are over the floor, in centimetres
    left = [float(x) for x in re.findall(r'class="l" d="M\d+ \d+L(\d+)', first)]
    right = [float(x) for x in re.findall(r'class="r" d="M\d+ \d+L(\d+)', first)]
    assert left[0] > right[0]


def test_an_unknown_skeleton_is_left_out_with_a_map_to_complete(folder, tmp_path):
    strange = [f"q{number}" for number in range(22)]
    put(folder / "strange.bvh", placed_bvh(strange, PARENTS, walk()))
    _, clips, reports, page = read(folder)
    assert len(clips) == 3
    report = next(report for report in reports if report.file == "strange.bvh")
    assert report.left_out == "joint names that no map fits"
    assert "'q4'" in report.wrong[0]
    assert "A map of names to complete" in page
    names = put(tmp_path / "names.yaml", "".join(f"{joint}: q{k}\n" for k, joint in enumerate(JOINT_NAMES)))
    _, clips, _, _ = read(folder, names=names)
    got = next(clip for clip in clips if clip.id == "strange").features_FD
    np.testing.assert_allclose(got, joints_to_features(walk(), own_heading=True), atol=2e-4)


def test_a_reader_that_fails_loses_its_file_alone(folder, monkeypatch):
    from rl_motion.data.datasets import motion_files

    form = motion_files._FORMATS["bvh"]

    def failing(path):
        if path.name == "a.bvh":
            raise ZeroDivisionError("a fault of ours")
        return form.read(path)

    monkeypatch.setitem(motion_files._FORMATS, "bvh", motion_files._Format(form.suffixes, failing, 20.0))
    _, clips, reports, _ = read(folder)
    assert len(clips) == 2
    assert (
        next(r for r in reports if r.file == "a.bvh").left_out == "a file that the reader fails at (ZeroDivisionError)"
    )


def test_mirror_images_where_captions_allow(folder):
    _, clips, reports, _ = read(folder, mirrored=True)
    by_id = {clip.id: clip for clip in clips}
    assert set(by_id) == {"a", "a.mirrored", "sub/b", "sub/b.mirrored", "sub/c"}
    image = by_id["a.mirrored"]
    assert image.mirrored
    assert (image.trial, image.split) == (by_id["a"].trial, by_id["a"].split)
    want = joints_to_features(real.mirror(walk().astype(np.float32)), own_heading=True)
    np.testing.assert_allclose(image.features_FD, want, atol=2e-4)
    assert any("not mirrored" in line for line in next(r for r in reports if r.file == "sub/c.bvh").guessed)
    put(folder / "clips.jsonl", json.dumps({"name": "a", "captions": ["x"], "captions_mirrored": ["its image"]}))
    _, clips, _, _ = read(folder, mirrored=True)
    assert [c.text for c in {clip.id: clip for clip in clips}["a.mirrored"].captions] == ["its image"]


def test_amc_and_arrays_come_in_too(tmp_path):
    asf, amc = asf_amc(walk())
    put(tmp_path / "amc" / "01.asf", asf)
    put(tmp_path / "amc" / "01_01.amc", amc)
    kind, clips, reports, _ = read(tmp_path / "amc", fps=20.0)
    assert (kind, len(clips)) == ("asf", 1)
    assert any("20 frames per second: the file does not tell" in line for line in reports[0].guessed)
    assert len(clips[0].features_FD) == 59
    _, clips, reports, _ = read(tmp_path / "amc")  # at 120 the 60 frames are half a second
    assert clips == []
    assert reports[0].left_out == "fewer than 20 frames at 20 a second"
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", walk())
    kind, clips, _, _ = read(tmp_path / "npy")
    assert (kind, len(clips)) == ("joints", 1)
    assert read(tmp_path / "npy" / "a.npy")[1][0].id == "a"


def test_a_folder_of_real_motion_is_taken_at_its_word(tmp_path):
    rows, joints = rows_and_joints(trials=3)
    rows[0]["flags"] = ["spike"]
    path = write_folder(tmp_path / "real", rows, joints)
    kind, clips, reports, page = read(path)
    assert kind == "joints"
    assert len(clips) == len(rows) - 1
    assert [(report.file, report.left_out) for report in reports] == [(rows[0]["name"], "flag spike")]
    by_id = {clip.id: clip for clip in clips}
    for row, joints_FJ3 in list(zip(rows, joints, strict=True))[1:4]:
        np.testing.assert_array_equal(by_id[row["name"]].features_FD, joints_to_features(joints_FJ3, own_heading=True))
        assert [caption.text for caption in by_id[row["name"]].captions] == row["captions"]
    assert page.count("<svg") == len(rows) - 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 100])
def test_splits_are_by_hash_and_train_is_never_empty(count):
    trials = [f"trial {number}" for number in range(count)]
    split_of = split_trials(trials)
    assert split_of == split_trials(reversed(trials))
    parts = list(split_of.values())
    assert parts.count("train") >= 1
    assert (parts.count("test") > 0) == (count > 1)
    assert (parts.count("val") > 0) == (count > 2)
    if count == 100:
        assert (parts.count("test"), parts.count("val")) == (33, 10)


def test_where_all_of_train_is_bad_others_take_its_place(tmp_path):
    names = [f"m{number}" for number in range(6)]
    split_of = split_trials(names)
    for name in names:
        good = split_of[name] != "train"
        put(tmp_path / "x" / f"{name}.bvh", turned_bvh(walk()) if good else "HIERARCHY\n")
    _, clips, _, _ = read(tmp_path / "x")
    assert {clip.id for clip in clips} == {name for name in names if split_of[name] != "train"}
    assert "train" in {clip.split for clip in clips}


@pytest.mark.parametrize(("kind", "suffix"), [("bvh", "bvh"), ("asf", "amc"), ("joints", "npy")])
def test_kinds_are_known_by_names(tmp_path, kind, suffix):
    put(tmp_path / "deep" / "er" / f"x.{suffix.upper()}", "")
    assert kind_of(tmp_path) == kind
    assert kind_of(tmp_path / "deep" / "er" / f"x.{suffix.upper()}") == kind
    with pytest.raises(UserError, match="without any"):
        KINDS["bvh" if kind != "bvh" else "asf"].read(tmp_path, Options())


def test_links_to_folders_are_not_followed(folder):
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert len(read(folder)[1]) == 3


def test_names_in_captions_open_no_file(folder, tmp_path):
    put(tmp_path / "secret.txt", "a secret")
    put(folder / "captions.jsonl", json.dumps({"name": "../secret", "captions": ["x"]}))
    _, clips, reports, _ = read(folder)
    assert not any("secret" in caption.text for clip in clips for caption in clip.captions)
    assert any("'../secret'" in report.wrong[0] for report in reports if report.file == "captions.jsonl")


def test_the_command_writes_a_data_set_and_its_page(folder, tmp_path):
    put(folder / "bad.bvh", "HIERARCHY\n")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["data", "import", str(folder), "--out", str(out), "--mirror"])
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output
    assert (out / PAGE).read_text().count("<svg") == 3
    assert "bad.bvh" in (out / "report.json").read_text()
    shown = CliRunner().invoke(app, ["data", "inspect", str(out)])
    assert shown.exit_code == 0
    assert "bvh" in shown.output


@pytest.mark.parametrize("fps", ["nan", "inf", "-3"])
def test_a_rate_that_is_none_is_refused(folder, tmp_path, fps):
    done = CliRunner().invoke(app, ["data", "import", str(folder), "--out", str(tmp_path / "o"), "--fps", fps])
    assert done.exit_code == 2
    assert not (tmp_path / "o").exists()


def test_real_motion_written_as_bvh_comes_back(shared_dir, tmp_path):
    """Clips of the CMU database, through a writer of its own, in centimetres and Z up."""
    if not (shared_dir / "data" / "cmu22" / "joints.npz").is_file():
        pytest.skip("no data")
    clips = [clip for _, clip in real.read_clips(shared_dir / "data" / "cmu22") if isinstance(clip, real.Clip)]
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    for clip in clips[5::60]:
        put(tmp_path / "x" / f"{clip.name}.bvh", placed_bvh(JOINT_NAMES, PARENTS, 100.0 * clip.joints_FJ3 @ turn.T))
        put(tmp_path / "x" / f"{clip.name}.txt", clip.captions[0])
    _, got, _, _ = read(tmp_path / "x")
    made = {clip.id: clip for clip in got}
    assert len(made) == len(clips[5::60])
    for clip in clips[5::60]:
        want_FD = joints_to_features(clip.joints_FJ3, own_heading=True)
        joints = (features_to_joints(torch.from_numpy(x)) for x in (made[clip.name].features_FD, want_FD))
        assert (next(joints) - next(joints)).norm(dim=-1).mean() < 0.001


def test_a_written_data_set_opens(folder, tmp_path):
    kind = kind_of(folder)
    source = KINDS[kind].read(folder, Options())
    made = write_dataset(
        tmp_path / "out", source.entries, representation=source.representation, fps=source.fps, kind=kind,
        pages=source.pages,
    )  # fmt: skip
    assert sum(split.clips for split in made.info.splits.values()) == 3
    assert (tmp_path / "out" / PAGE).is_file()
