"""Damaged motion files: each ends in a line of the report, none loses the good file beside it."""

import io
import json
import zipfile
from functools import cache

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.data.datasets import Clip, FileReport
from rl_motion.data.datasets.kinds import KINDS
from rl_motion.data.datasets.sources import Options
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS
from tests.motion_formats import asf_amc, placed_bvh, turned_bvh, walk


@cache
def good():
    """The sound file of each kind."""
    asf, amc = asf_amc(walk())
    return {"bvh": turned_bvh(walk()), "asf": asf, "amc": amc, "placed": placed_bvh(JOINT_NAMES, PARENTS, walk())}


def rows(text):
    """Lines before the motion, and its lines."""
    head, _, motion = text.partition("MOTION")
    frames, time, *values = motion.strip().splitlines()
    return head, frames, time, values


def remade(values=None, frames=None, time=None, head=None):
    own_head, own_frames, own_time, own_values = rows(good()["bvh"])
    lines = ["MOTION", frames or own_frames, time or own_time, *(own_values if values is None else values)]
    return (own_head if head is None else head) + "\n".join(lines) + "\n"


def with_values(change):
    _, _, _, values = rows(good()["bvh"])
    numbers = [line.split() for line in values]
    change(numbers)
    return remade([" ".join(line) for line in numbers])


def set_all(column, value):
    def change(numbers):
        for line in numbers:
            line[column] = value

    return change


def set_one(row, column, value):
    def change(numbers):
        numbers[row][column] = value

    return change


def head_with(old, new, count=1):
    return remade(head=rows(good()["bvh"])[0].replace(old, new, count))


def cut(share):
    text = good()["bvh"]
    return text[: int(len(text) * share)]


def truncated_at(mark, keep=0):
    text = good()["bvh"]
    return text[: text.index(mark) + keep]


def deep(depth):
    return "HIERARCHY\nROOT r\n{\nOFFSET 0 0 0\n" + "JOINT j\n{\nOFFSET 0 1 0\n" * depth


def many(count):
    joints = "".join(f"JOINT j{k}\n{{\nOFFSET 0 1 0\nCHANNELS 0\n}}\n" for k in range(count))
    return (
        f"HIERARCHY\nROOT r\n{{\nOFFSET 0 0 0\nCHANNELS 1 Xposition\n{joints}}}\nMOTION\nFrames: 1\nFrame Time: 1\n0\n"
    )


BVH = {
    "empty": lambda: "",
    "blank": lambda: "\n \n\t\n",
    "one word": lambda: "HIERARCHY",
    "another format": lambda: "%PDF-1.7 nothing of motion",
    "json": lambda: '{"joints": []}',
    "zero bytes": lambda: b"\0" * 5000,
    "not utf-8": lambda: good()["bvh"].replace("pelvis", "p\xe9lvis").encode("latin-1"),
    "utf-16": lambda: good()["bvh"].encode("utf-16"),
    "random bytes": lambda: np.random.default_rng(0).bytes(4000),
    "zip": lambda: b"PK\x03\x04" + bytes(100),
    **{f"cut at {share:.0%}": (lambda share=share: cut(share)) for share in (0.01, 0.02, 0.05, 0.08, 0.1, 0.3, 0.9)},
    "cut after ROOT": lambda: truncated_at("ROOT", 4),
    "cut after a name": lambda: truncated_at("JOINT turn_left_hip", 19),
    "cut in OFFSET": lambda: truncated_at("OFFSET", 12),
    "cut in CHANNELS": lambda: truncated_at("CHANNELS", 20),
    "cut after End Site": lambda: truncated_at("End Site", 8),
    "cut before MOTION": lambda: truncated_at("MOTION"),
    "cut after MOTION": lambda: truncated_at("MOTION", 6),
    "cut after Frames": lambda: truncated_at("Frames:", 7),
    "cut after Frame Time": lambda: truncated_at("Frame Time:", 11),
    "no motion": lambda: remade([]),
    "half the frames": lambda: remade(rows(good()["bvh"])[3][:30]),
    "cut in the last row": lambda: good()["bvh"][:-200],
    "zero frames": lambda: remade([], "Frames: 0"),
    "minus frames": lambda: remade(frames="Frames: -60"),
    "half a frame": lambda: remade(frames="Frames: 59.5"),
    "frames in words": lambda: remade(frames="Frames: sixty"),
    "huge header": lambda: remade(frames="Frames: 99999999"),
    "huger header": lambda: remade(frames="Frames: 1e300"),
    "nan frames": lambda: remade(frames="Frames: nan"),
    "too few frames told": lambda: remade(frames="Frames: 59"),
    "one frame": lambda: remade(rows(good()["bvh"])[3][:1], "Frames: 1"),
    "ten frames": lambda: remade(rows(good()["bvh"])[3][:10], "Frames: 10"),
    "zero frame time": lambda: remade(time="Frame Time: 0"),
    "minus frame time": lambda: remade(time="Frame Time: -0.05"),
    "nan frame time": lambda: remade(time="Frame Time: nan"),
    "infinite frame time": lambda: remade(time="Frame Time: inf"),
    "a day a frame": lambda: remade(time="Frame Time: 86400"),
    "a nanosecond a frame": lambda: remade(time="Frame Time: 1e-9"),
    "no frame time": lambda: remade(time=" "),
    "rate for a frame time": lambda: remade(time="FPS: 20"),
    "a word in the numbers": lambda: with_values(set_one(7, 4, "x1")),
    "decimal commas": lambda: remade([line.replace(".", ",") for line in rows(good()["bvh"])[3]]),
    "a number missing": lambda: with_values(lambda n: n[5].pop()),
    "a number too many": lambda: with_values(lambda n: n[5].append("0")),
    "a column missing": lambda: with_values(lambda n: [line.pop() for line in n]),
    "all nan": lambda: with_values(lambda n: [line.__setitem__(slice(None), ["nan"] * len(line)) for line in n]),
    "nan place": lambda: with_values(set_all(0, "nan")),
    "infinite place": lambda: with_values(set_all(1, "-inf")),
    "many nan turns": lambda: with_values(lambda n: [line.__setitem__(9, "nan") for line in n[::2]]),
    "a number beyond floats": lambda: with_values(set_all(1, "1e999")),
    "huge places": lambda: with_values(lambda n: [line.__setitem__(0, f"{(-1) ** k}e300") for k, line in enumerate(n)]),
    "huge turns": lambda: with_values(lambda n: [line.__setitem__(9, f"{k + 3}e307") for k, line in enumerate(n)]),
    "a jump": lambda: with_values(lambda n: [line.__setitem__(0, "50") for line in n[30:]]),
    "does not move": lambda: remade([rows(good()["bvh"])[3][0]] * 60),
    "duplicate names": lambda: head_with("JOINT left_knee", "JOINT left_hip"),
    "no name": lambda: head_with("JOINT left_knee", "JOINT"),
    "a second root": lambda: head_with("JOINT left_knee", "ROOT left_knee"),
    "two skeletons": lambda: good()["bvh"].replace("MOTION", rows(good()["bvh"])[0][10:] + "MOTION"),
    "no root": lambda: head_with("ROOT pelvis", "JOINT pelvis"),
    "no OFFSET": lambda: head_with("\tOFFSET 0.00000000 0.00000000 0.00000000\n", ""),
    "two OFFSETs": lambda: head_with("\tCHANNELS", "\tOFFSET 0 0 0\n\tCHANNELS"),
    "short OFFSET": lambda: head_with("OFFSET 0.00000000 0.00000000 0.00000000", "OFFSET 0 0"),
    "nan OFFSET": lambda: head_with("OFFSET 0.00000000 0.00000000 0.00000000", "OFFSET 0 nan 0"),
    "infinite OFFSET": lambda: head_with("OFFSET 0.00000000 0.00000000 0.00000000", "OFFSET 0 inf 0"),
    "a word in OFFSET": lambda: head_with("OFFSET 0.00000000", "OFFSET zero"),
    "wrong number of channels": lambda: head_with("CHANNELS 3", "CHANNELS 2"),
    "seven channels": lambda: head_with("CHANNELS 6", "CHANNELS 7"),
    "a thousand channels": lambda: head_with("CHANNELS 6", "CHANNELS 1000000000"),
    "minus channels": lambda: head_with("CHANNELS 3", "CHANNELS -3"),
    "unknown channel": lambda: head_with("Zrotation", "Wrotation"),
    "a channel twice": lambda: head_with("Zrotation Xrotation", "Zrotation Zrotation"),
    "no channels at all": lambda: remade(head="HIERARCHY\nROOT r\n{\nOFFSET 0 0 0\n}\n"),
    "a brace too many": lambda: head_with("MOTION", "MOTION").replace("MOTION", "}\nMOTION", 1),
    "a brace missing": lambda: remade(head=rows(good()["bvh"])[0].rstrip().rstrip("}")),
    "no braces": lambda: good()["bvh"].replace("{", "").replace("}", ""),
    "a channel in an End Site": lambda: head_with("OFFSET 0 0 0.0001", "CHANNELS 1 Xposition"),
    "a joint in an End Site": lambda: head_with("OFFSET 0 0 0.0001", "JOINT x { OFFSET 0 0 0 }"),
    "very deep": lambda: deep(100_000),
    "very many joints": lambda: many(3000),
    "no body": lambda: many(5),
    "names of a fish": lambda: good()["bvh"].replace("knee", "fin").replace("ankle", "gill"),
    "a dot for a body": lambda: placed_bvh(JOINT_NAMES, PARENTS, np.repeat(walk()[:, :1], 22, axis=1)),
    "a joint on its parent": lambda: placed_bvh(
        JOINT_NAMES, PARENTS, np.concatenate([walk()[:, :4], walk()[:, 1:2], walk()[:, 5:]], axis=1)
    ),
}  # fmt: skip


def of_asf(old, new, count=1):
    return lambda: {"01.asf": good()["asf"].replace(old, new, count), "01_01.amc": good()["amc"]}


def of_amc(old, new, count=1):
    return lambda: {"01.asf": good()["asf"], "01_01.amc": good()["amc"].replace(old, new, count)}


ASF = {
    "no skeleton": lambda: {"01_01.amc": good()["amc"]},
    "empty skeleton": lambda: {"01.asf": "", "01_01.amc": good()["amc"]},
    "empty motion": lambda: {"01.asf": good()["asf"], "01_01.amc": ""},
    "skeleton not utf-8": lambda: {"01.asf": b"\xff" * 50, "01_01.amc": good()["amc"]},
    "motion not utf-8": lambda: {"01.asf": good()["asf"], "01_01.amc": b"\xff" * 50},
    "a cycle": of_asf("    ltibia lfoot\n", "    ltibia lfoot lfemur\n"),
    "a cycle off the root": of_asf("    lhipjoint lfemur\n", "    lfoot lhipjoint\n"),
    "a bone under itself": of_asf("    lfemur ltibia\n", "    lfemur lfemur\n"),
    "a bone with two parents": of_asf("    lfemur ltibia\n", "    lfemur ltibia lradius\n"),
    "an unknown bone": of_asf("    lfemur ltibia\n", "    lfemur tail\n"),
    "no hierarchy": lambda: {"01.asf": good()["asf"].partition(":hierarchy")[0], "01_01.amc": good()["amc"]},
    "no bones": lambda: {"01.asf": good()["asf"].partition(":bonedata")[0], "01_01.amc": good()["amc"]},
    "duplicate bones": of_asf("name lfemur", "name rfemur"),
    "nan length": of_asf("length 0.3", "length nan0.3"),
    "no axis": of_asf("    axis", "    axes"),
    "unknown freedom": of_asf("dof rx ry rz", "dof rx ry rq"),
    **{f"skeleton cut at {share:.0%}": (lambda share=share: {
        "01.asf": good()["asf"][: int(share * len(good()["asf"]))], "01_01.amc": good()["amc"],
    }) for share in (0.1, 0.4, 0.8, 0.95)},
    **{f"motion cut at {share:.0%}": (lambda share=share: {
        "01.asf": good()["asf"], "01_01.amc": good()["amc"][: int(share * len(good()["amc"]))],
    }) for share in (0.001, 0.1, 0.5, 0.9)},
    "a frame missing": of_amc("\n7\n", "\n8\n"),
    "a huge frame number": of_amc("\n7\n", "\n" + "9" * 5000 + "\n"),
    "an unknown bone in motion": of_amc("\nlfemur", "\ntail"),
    "a bone twice": of_amc("\nltibia", "\nlfemur"),
    "a number missing": of_amc("\nroot 0.", "\nroot "),
    "a word in the motion": of_amc("\nroot ", "\nroot x"),
    "all nan": lambda: {"01.asf": good()["asf"], "01_01.amc": "\n".join(
        "root nan nan nan 0 0 0" if line.startswith("root") else line for line in good()["amc"].splitlines())},
    "one frame": lambda: {"01.asf": good()["asf"], "01_01.amc": good()["amc"].partition("\n2\n")[0] + "\n"},
}  # fmt: skip


def npy(array, **more):
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def header(shape, descr="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def cyclic():
    """An object array that holds itself."""
    array = np.empty(1, dtype=object)
    array[0] = array
    return npy(np.array([None, "x"], dtype=object), allow_pickle=True)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def packed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("joints.npy", npy(walk()))
    return buffer.getvalue()


ARRAYS = {
    "empty": lambda: b"",
    "a word": lambda: b"hello",
    "magic alone": lambda: b"\x93NUMPY",
    "a broken header": lambda: b"\x93NUMPY\x01\x00\xff\xff{'descr'",
    "a header of code": lambda: b"\x93NUMPY\x01\x00\x30\x00" + b"__import__('os').system('ls')".ljust(48),
    "truncated": lambda: npy(walk())[:5000],
    "header alone": lambda: header((60, 22, 3)),
    "huge header": lambda: header((99_999_999_999, 22, 3)) + bytes(100),
    "minus header": lambda: header((-5, 22, 3)) + bytes(100),
    "overflowing header": lambda: header((2**63, 22, 3)) + bytes(100),
    "no frames": lambda: npy(walk()[:0]),
    "one frame": lambda: npy(walk()[:1]),
    "too short": lambda: npy(walk()[:10]),
    "too few joints": lambda: npy(walk()[:, :21]),
    "23 joints": lambda: npy(np.concatenate([walk(), walk()[:, :1]], axis=1)),
    "two axes": lambda: npy(walk().reshape(60, 66)),
    "two coordinates": lambda: npy(walk()[..., :2]),
    "one number": lambda: npy(np.float32(3)),
    "whole numbers": lambda: npy(walk().astype(int)),
    "complex": lambda: npy(walk().astype(complex)),
    "text": lambda: npy(walk().astype(str)),
    "objects": cyclic,
    "features": lambda: npy(np.zeros((60, 263), np.float32)),
    "all nan": lambda: npy(np.full_like(walk(), np.nan)),
    "nan in the middle": lambda: npy(np.where(np.arange(60)[:, None, None] % 25 > 12, np.nan, walk())),
    "infinite": lambda: npy(np.where(np.arange(22)[:, None] == 4, np.inf, walk())),
    "zeros": lambda: npy(np.zeros_like(walk())),
    "all in one place": lambda: npy(np.ones_like(walk())),
    "huge": lambda: npy(walk() * 1e300),
    "tiny": lambda: npy(walk() * 1e-300),
    "noise": lambda: npy(np.random.default_rng(0).normal(size=walk().shape)),
    "does not move": lambda: npy(np.repeat(walk()[:1], 60, axis=0)),
    "an npz by content": lambda: npz(joints=walk()),
}  # fmt: skip
PACKED = {
    "empty": lambda: b"",
    "not a zip": lambda: b"PK nothing",
    "an npy by content": lambda: npy(walk()),
    "truncated": lambda: npz(joints=walk())[:4000],
    "no directory": lambda: npz(joints=walk())[:-30],
    "damaged in the middle": lambda: flipped(packed(), 3000),
    "damaged header": lambda: flipped(npz(joints=walk()), 1),
    "no arrays": npz,
    "other arrays": lambda: npz(a=np.zeros(3), b=np.zeros((2, 2))),
    "two bodies": lambda: npz(a=walk(), b=walk()),
    "objects": lambda: npz(joints=np.array([{}], dtype=object)),
    "poses": lambda: npz(poses=np.zeros((60, 156)), trans=np.zeros((60, 3))),
    "zero rate": lambda: npz(joints=walk(), fps=0.0),
    "nan rate": lambda: npz(joints=walk(), fps=np.nan),
    "a rate in words": lambda: npz(joints=walk(), fps="fast"),
    "a huge rate": lambda: npz(joints=walk(), fps=1e12),
    "no frames": lambda: npz(joints=walk()[:0]),
}  # fmt: skip


def imported(kind, folder):
    """Clips and reports, and the page, which is made whatever came in."""
    source = KINDS[kind].read(folder, Options(mirrored=True))
    entries = list(source.entries)
    assert source.pages()
    clips = [entry for entry in entries if isinstance(entry, Clip)]
    assert all(np.isfinite(clip.features_FD).all() for clip in clips)
    reports = [entry for entry in entries if isinstance(entry, FileReport)]
    for report in reports:
        assert all("\n" not in line and len(line) < 4000 for line in (*report.wrong, *report.guessed, report.left_out))
    return clips, reports


def check(kind, folder, files, bad):
    """The good file comes in; the bad one does not, and is told of once."""
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    clips, reports = imported(kind, folder)
    assert {clip.id for clip in clips} == {"good", "good.mirrored"}
    told = [report for report in reports if report.file == bad]
    assert len(told) == 1
    assert told[0].left_out
    assert "fails at" not in told[0].left_out  # the reader itself knows what to say


@pytest.mark.parametrize("name", BVH)
def test_bvh(tmp_path, name):
    check("bvh", tmp_path, {"good.bvh": good()["bvh"], "bad.bvh": BVH[name]()}, "bad.bvh")


@pytest.mark.parametrize("name", ASF)
def test_asf(tmp_path, name):
    sound = {"good.asf": good()["asf"], "good.amc": with_rate(good()["amc"]), "x.asf": "", "y.asf": ""}
    check("asf", tmp_path, sound | ASF[name](), "01_01.amc")


def with_rate(amc):
    """Long enough at 120 frames a second: every frame three times."""
    head, *frames = amc.split("\n1\n", 1)
    body = []
    blocks = ("\n" + frames[0]).split("\n")
    current = []
    for line in blocks:
        if line.isdecimal() or line == "":
            if current:
                body.append(current)
            current = []
        else:
            current.append(line)
    if current:
        body.append(current)
    lines, number = [head], 0
    for block in body:
        for _ in range(3):
            number += 1
            lines += [str(number), *block]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ARRAYS)
def test_npy(tmp_path, name):
    check("joints", tmp_path, {"good.npy": npy(walk()), "bad.npy": ARRAYS[name]()}, "bad.npy")


@pytest.mark.parametrize("name", PACKED)
def test_npz(tmp_path, name):
    check("joints", tmp_path, {"good.npy": npy(walk()), "bad.npz": PACKED[name]()}, "bad.npz")


LINES = {
    "not json": "{name: good}",
    "a list": '["good", "x"]',
    "no name": '{"captions": ["x"]}',
    "a number for a name": '{"name": 3, "captions": ["x"]}',
    "no captions": '{"name": "good"}',
    "text for captions": '{"name": "good", "captions": "x"}',
    "numbers for captions": '{"name": "good", "captions": [1]}',
    "a number for a trial": '{"name": "good", "captions": ["x"], "trial": 3}',
    "text for mirrored": '{"name": "good", "captions": ["x"], "captions_mirrored": "y"}',
    "very deep": '{"name": ' * 3000,
    "another file's": '{"name": "gone", "captions": ["x"]}',
    "an empty name": '{"name": "", "captions": ["x"]}',
    "a way out": '{"name": "../../etc/passwd", "captions": ["x"]}',
    "twice": '{"name": "good", "captions": ["x"]}\n{"name": "good", "captions": ["y"]}',
    "an empty caption": '{"name": "good", "captions": ["", "  "]}',
    "a caption with control characters": '{"name": "good", "captions": ["a\\u0000b", "c\\u001b[31m"]}',
    "a very long caption": json.dumps({"name": "good", "captions": ["word " * 1000]}),
    "a lone surrogate": '{"name": "good", "captions": ["\\ud800"]}',
    "not utf-8": b'{"name": "good", "captions": ["\xff"]}',
    "zero bytes": b"\0\0\0",
}


@pytest.mark.parametrize("name", LINES)
def test_captions_that_do_not_fit_lose_no_motion(tmp_path, name):
    content = LINES[name]
    (tmp_path / "good.bvh").write_text(good()["bvh"])
    (tmp_path / "good.txt").write_text("a person walks")
    (tmp_path / "captions.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    clips, reports = imported("bvh", tmp_path)
    assert {clip.id for clip in clips} == {"good", "good.mirrored"}
    assert "a person walks" in [caption.text for caption in clips[0].captions]
    assert any(report.wrong for report in reports)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0", b"x" * (1 << 21), "a person".encode("utf-16"), b"a\x1b[31m\n"])
def test_a_text_that_cannot_be_read_loses_no_motion(tmp_path, content):
    (tmp_path / "good.bvh").write_text(good()["bvh"])
    (tmp_path / "good.txt").write_bytes(content)
    clips, reports = imported("bvh", tmp_path)
    assert clips[0].captions == ()
    assert "good.txt" in next(report for report in reports if report.file == "good.bvh").wrong[0]


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "good.bvh").write_text(good()["bvh"])
    (tmp_path / "gone.bvh").symlink_to(tmp_path / "nowhere.bvh")
    (tmp_path / "secret.bvh").write_text("x")
    (tmp_path / "folder.bvh").mkdir()
    clips, reports = imported("bvh", tmp_path)
    assert len(clips) == 2
    assert {report.file for report in reports if report.left_out} == {"gone.bvh", "secret.bvh"}


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "good.bvh").write_text(good()["bvh"])
    import os

    with open(os.fsencode(tmp_path) + b"/b\xff\x1b[31m.bvh", "w") as file:
        file.write(good()["bvh"])
    clips, _ = imported("bvh", tmp_path)
    assert "good" in {clip.id for clip in clips}


@pytest.mark.parametrize("broken", ["joints.npz", "clips.jsonl"])
def test_a_broken_folder_of_real_motion_is_refused_in_words(tmp_path, broken):
    from tests.real_folder import rows_and_joints, write_folder

    folder = write_folder(tmp_path / "real", *rows_and_joints(trials=1))
    content = (folder / broken).read_bytes()
    (folder / broken).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="; want "):
        KINDS["joints"].read(folder, Options())
