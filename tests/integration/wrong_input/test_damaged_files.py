"""Damaged files through the command line: more than 200, of every source, made the same way each time.

What is one of many files is in the report, and the sound files beside it have the numbers that they have alone. What a
whole folder or a checkpoint hangs on ends with exit code 2, one line of got, want and do, and nothing on the disk.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.data.datasets import Dataset
from tests import official_files as official
from tests import official_judges as judges
from tests.humanml3d_folder import lay
from tests.integration.wrong_input.desk import Ended, listing, refused
from tests.motion_formats import asf_amc, turned_bvh, walk

pytestmark = pytest.mark.usefixtures("one_thread")

Files = Mapping[str, bytes]
"""By name, what lies in a folder."""


@cache
def sound() -> dict[str, bytes]:
    """One file of each kind, as it should be."""
    slow = np.repeat(np.asarray(walk()), 3, axis=0)  # long enough at 120 frames a second
    asf, amc = asf_amc(slow)
    return {
        "bvh": turned_bvh(walk()).encode(),
        "asf": asf.encode(),
        "amc": amc.encode(),
        "npy": npy(np.asarray(walk())),
        "npz": npz(joints=np.asarray(walk())),
    }


def npy(array: NDArray[Any], **more: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def header(text: str) -> bytes:
    """The beginning of an .npy file that says this of itself, and some numbers."""
    said = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + bytes(600)


def shaped(shape: str, dtype: str = "'<f4'") -> bytes:
    return header(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}")


def texts(good: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """A text file cut short, with bytes that are no text, with lines lost and words among its numbers."""
    rng = random.Random(seed)
    for _ in range(9):
        at = rng.randrange(len(good) // 50, len(good) * 96 // 100)
        yield f"cut at {at}", good[:at]
    for byte in (0xFF, 0xC3, 0x00):
        for _ in range(2):
            at = rng.randrange(len(good))
            yield f"byte {byte:02x} at {at}", good[:at] + bytes([byte]) + good[at + 1 :]
    lines = good.splitlines()
    for _ in range(4):
        at = len(lines) - rng.randrange(1, 40)
        yield f"line {at} lost", b"\n".join(lines[:at] + lines[at + 1 :])
        words = lines[at].split()
        words[-1] = b"x1"
        yield f"a word in line {at}", b"\n".join([*lines[:at], b" ".join(words), *lines[at + 1 :]])
    yield from {
        "empty": b"",
        "blank": b" \n\n\t",
        "utf-16": good.decode().encode("utf-16"),
        "another format": sound_npy(),
        "markup": b"<html>not found</html>",
        "random": rng.randbytes(3000),
    }.items()


def sound_npy() -> bytes:
    return npy(np.zeros((60, 22, 3)))


def of_bvh() -> Iterator[tuple[str, bytes]]:
    good = sound()["bvh"]
    yield from texts(good, 1)
    head, _, motion = good.decode().partition("MOTION\n")
    frames, time, *rows = motion.splitlines()

    def remade(new: list[str] | None = None, frames: str = frames, time: str = time, head: str = head) -> bytes:
        return (head + "\n".join(["MOTION", frames, time, *(rows if new is None else new)]) + "\n").encode()

    first, *others = rows
    yield from {
        "zero frames": remade([], "Frames: 0"),
        "one frame": remade([first], "Frames: 1"),
        "a billion frames": remade(frames="Frames: 1000000000"),
        "minus frames": remade(frames="Frames: -60"),
        "no time": remade(time="Frame Time: 0"),
        "minus time": remade(time="Frame Time: -0.05"),
        "NaN time": remade(time="Frame Time: nan"),
        "hours between frames": remade(time="Frame Time: 10", new=rows * 40, frames=f"Frames: {len(rows) * 40}"),
        "NaN": remade([" ".join(["nan"] * len(first.split()))] * len(rows)),
        "infinite": remade(["inf " + row.partition(" ")[2] for row in rows]),
        "two of a name": remade(head=head.replace("JOINT left_knee", "JOINT left_hip")),
        "a joint in itself": remade(head=head.replace("ROOT pelvis", "JOINT pelvis")),
        "no channels": remade(head=head.replace("CHANNELS", "# CHANNELS")),
        "names of a fish": good.replace(b"knee", b"fin").replace(b"ankle", b"gill"),
        "deep": b"HIERARCHY\nROOT r\n{\nOFFSET 0 0 0\n" + b"JOINT j\n{\nOFFSET 0 1 0\n" * 50_000,
        "joints for gigabytes": wide(),
        "escapes": good.replace(b"left_knee", b"\x1b[31mknee").replace(b"right_knee", b"\x1b]0;x\x07"),
        "does not move": remade([first] * len(rows)),
        "a jump": remade([*rows[:30], *("90 " + row.partition(" ")[2] for row in others[29:])]),
    }.items()


def wide() -> bytes:
    """Many joints, one channel, many frames: little on the disk, gigabytes as turned bodies."""
    joints = "".join(f"JOINT j{k}\n{{\nOFFSET 0 1 0\nCHANNELS 0\n}}\n" for k in range(900))
    rows = "0\n" * 30_000
    skeleton = f"HIERARCHY\nROOT r\n{{\nOFFSET 0 0 0\nCHANNELS 1 Xposition\n{joints}}}\n"
    return f"{skeleton}MOTION\nFrames: 30000\nFrame Time: 0.01\n{rows}".encode()


def of_amc() -> Iterator[tuple[str, bytes]]:
    good = sound()["amc"]
    yield from texts(good, 2)
    yield from {
        "one frame": good.partition(b"\n2\n")[0] + b"\n",
        "a frame twice": good.replace(b"\n7\n", b"\n6\n"),
        "a huge frame": good.replace(b"\n7\n", b"\n" + b"9" * 5000 + b"\n"),
        "a bone of nobody": good.replace(b"\nlfemur", b"\n\x1b[2Jtail", 1),
        "NaN": b"\n".join(b"root nan nan nan 0 0 0" if x.startswith(b"root") else x for x in good.splitlines()),
    }.items()


def of_asf() -> Iterator[tuple[str, bytes]]:
    good = sound()["asf"]
    yield from {
        **{f"cut at {share} %": good[: len(good) * share // 100] for share in (3, 20, 45, 70, 92, 96)},
        "empty": b"",
        "not utf-8": b"\xff" + good,
        "cyclic": good.replace(b"    ltibia lfoot\n", b"    ltibia lfoot lfemur\n"),
        "a cycle apart": good.replace(b"    lhipjoint lfemur\n", b"    lfoot lhipjoint\n"),
        "two of a name": good.replace(b"name lfemur", b"name rfemur"),
        "NaN": good.replace(b"length 0.3", b"length nan"),
        "no freedom": good.replace(b"dof rx ry rz", b"dof rx ry rq"),
        "endless bone": good.replace(b"  end", b"", 2).replace(
            b"  begin\n", b"  begin\n" + b"".join(b"k%d 1\n" % n for n in range(60_000)), 1
        ),
    }.items()


def of_npy() -> Iterator[tuple[str, bytes]]:
    good, rng, body = sound()["npy"], random.Random(3), np.asarray(walk())
    for _ in range(8):
        at = rng.randrange(len(good))
        yield f"cut at {at}", good[:at]
    for at in (0, 3, 6, 8, 12, 25):  # in the header: what it says is no longer so
        yield f"bits flipped at {at}", good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
    yield from {
        "open braces": header("{'descr': '<f4', 'shape': ("),
        "open quotes": header("'''"),
        "code": header("__import__('os').mkdir('ran')"),
        "huge header": shaped("(99999999999, 22, 3)"),
        "overflowing header": shaped(f"({2**63}, 22, 3)"),
        "minus header": shaped("(-5, 22, 3)"),
        "true frames": shaped("(True, 22, 3)"),
        "pickled": npy(np.array([{"a": os.getcwd}, None], dtype=object), allow_pickle=True),
        "zero frames": npy(body[:0]),
        "one frame": npy(body[:1]),
        "ten frames": npy(body[:10]),
        "21 joints": npy(body[:, :21]),
        "two axes": npy(body.reshape(60, 66)),
        "features": npy(np.zeros((60, 263))),
        "whole numbers": npy(body.astype(int)),
        "words": npy(body.astype(str)),
        "NaN": npy(np.full_like(body, np.nan)),
        "NaN often": npy(np.where(np.arange(60)[:, None, None] % 25 > 12, np.nan, body)),
        "huge": npy(body * 1e300),
        "zeros": npy(np.zeros_like(body)),
        "noise": npy(np.random.default_rng(0).normal(size=body.shape)),
        "empty": b"",
        "another format": sound()["bvh"],
    }.items()


def of_npz() -> Iterator[tuple[str, bytes]]:
    good, rng, body = sound()["npz"], random.Random(4), np.asarray(walk())
    for _ in range(8):
        at = rng.randrange(len(good) - 1)
        yield f"cut at {at}", good[:at]
    for _ in range(6):  # in the array: the archive's checksum is another
        at = rng.randrange(400, len(good) - 400)
        yield f"bits flipped at {at}", good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]
    yield from {
        "a bomb": bomb(),
        "no arrays": npz(),
        "other arrays": npz(a=np.zeros(3)),
        "two bodies": npz(a=body, b=body),
        "pickled": npz(joints=np.array([{}, None], dtype=object)),
        "poses": npz(poses=np.zeros((60, 156)), trans=np.zeros((60, 3))),
        "rate 0": npz(joints=body, fps=0.0),
        "rate NaN": npz(joints=body, fps=np.nan),
        "hours between frames": npz(joints=body, fps=1e-4),
        "ages between frames": npz(joints=body, fps=1e-12),
        "rate in words": npz(joints=body, fps="fast"),
        "zero frames": npz(joints=body[:0]),
    }.items()


def bomb() -> bytes:
    """A gigabyte of zeros in a megabyte."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("joints.npy", "w") as part,
    ):
        part.write(shaped("(4000000, 22, 3)")[:-600])
        for _ in range(1056):
            part.write(bytes(1_000_000))
    return file.getvalue()


MOTION: Mapping[str, tuple[str, Callable[[], Iterator[tuple[str, bytes]]]]] = {
    "bvh": ("bvh", of_bvh),
    "amc": ("asf", of_amc),
    "npy": ("joints", of_npy),
    "npz": ("joints", of_npz),
}
"""By suffix: the kind that reads it, and the damaged files."""


@cache
def damaged(suffix: str) -> dict[str, bytes]:
    """By the name of the file."""
    made = MOTION[suffix][1]()
    return {f"{number:03d} {name.replace('/', ' ')}.{suffix}": content for number, (name, content) in enumerate(made)}


def good_files(kind: str) -> Files:
    if kind == "asf":
        return {"good.asf": sound()["asf"], "good.amc": sound()["amc"]}
    suffix = "npy" if kind == "joints" else kind
    return {f"good.{suffix}": sound()[suffix], f"good too.{suffix}": sound()[suffix]}


def put(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def run(*words: object) -> Ended:
    return CliRunner().invoke(app, list(map(str, words)))


def in_a_process(*words: object) -> Ended:
    from tests.integration.wrong_input.desk import Finished

    command = [sys.executable, "-m", "rl_motion.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return Finished(done.returncode, done.stdout, done.stderr)


def imported(
    folder: Path, out: Path, kind: str, by: Callable[..., Ended] = run
) -> tuple[dict[str, NDArray[np.float32]], dict[str, list[dict[str, Any]]]]:
    """Features by id, and what the report says by file."""
    ended = by("data", "import", folder, "--kind", kind, "--out", out)
    assert ended.exit_code == 0, ended.stderr[-3000:]
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said and "\x1b" not in said
    reports: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads((out / "report.json").read_text(encoding="utf-8"))["files"]:
        reports.setdefault(one["file"], []).append(one)
        words = [one["file"], one["left_out"], *one["wrong"], *one["guessed"]]
        assert all(word.isprintable() for word in words), words
    dataset = Dataset.open(out)
    dataset.check()
    clips = {clip.id: clip.features_FD for split in dataset.info.splits for clip in dataset.split(split)}
    return clips, reports


def hold_to_it(
    alone: Mapping[str, NDArray[np.float32]],
    clips: Mapping[str, NDArray[np.float32]],
    reports: Mapping[str, list[dict[str, Any]]],
    bad: list[str],
) -> None:
    """The sound files alone came in, as they are alone; each bad one is told of, by the reader's own words."""
    assert clips.keys() == alone.keys()
    for name, features_FD in alone.items():
        np.testing.assert_array_equal(clips[name], features_FD)
    for name in bad:
        told = [one for one in reports.get(name, []) if one["left_out"]]
        assert len(told) == 1, f"{name}: {reports.get(name)}"
        assert told[0]["wrong"] or told[0]["left_out"] == "static", told
        assert "fails at" not in told[0]["left_out"], told


@pytest.mark.parametrize("suffix", MOTION)
def test_motion_files(tmp_path: Path, suffix: str) -> None:
    kind, bad = MOTION[suffix][0], damaged(suffix)
    alone, _ = imported(put(tmp_path / "good", good_files(kind)), tmp_path / "alone", kind)
    more = {"a.asf": b"", "b.asf": b""} if kind == "asf" else {}
    if kind == "asf":  # each damaged motion has a sound skeleton
        more |= {name.replace(".amc", ".asf"): sound()["asf"] for name in bad}
    folder = put(tmp_path / "in", {**good_files(kind), **bad, **more})
    by = in_a_process if suffix == "bvh" else run
    clips, reports = imported(folder, tmp_path / "out", kind, by)
    hold_to_it(alone, clips, reports, list(bad))
    assert not (Path.cwd() / "ran").exists()


def test_skeletons(tmp_path: Path) -> None:
    bad = {f"{number:02d}": content for number, (_, content) in enumerate(of_asf())}
    alone, _ = imported(put(tmp_path / "good", good_files("asf")), tmp_path / "alone", "asf")
    files = {f"{name}.asf": content for name, content in bad.items()}
    files |= {f"{name}.amc": sound()["amc"] for name in bad}
    clips, reports = imported(put(tmp_path / "in", {**good_files("asf"), **files}), tmp_path / "out", "asf")
    hold_to_it(alone, clips, reports, [f"{name}.amc" for name in bad])


def test_what_is_no_file(tmp_path: Path) -> None:
    """Pipes, links to nothing and to themselves, folders named like files."""
    folder = put(tmp_path / "in", good_files("joints"))
    alone, _ = imported(folder, tmp_path / "alone", "joints")
    for suffix in ("npy", "npz"):
        os.mkfifo(folder / f"pipe.{suffix}")
        (folder / f"folder.{suffix}").mkdir()
        (folder / f"gone.{suffix}").symlink_to("nowhere")
        (folder / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
        (folder / f"device.{suffix}").symlink_to("/dev/zero")
    clips, reports = imported(folder, tmp_path / "out", "joints")
    names = [f"{name}.{suffix}" for name in ("pipe", "gone", "loop", "device") for suffix in ("npy", "npz")]
    hold_to_it(alone, clips, reports, names)


TEXTS = {
    "no text": b"",
    "not utf-8": b"a person \xff#a/DET#0#0\n",
    "two parts": b"a person walks#a/DET\n",
    "five parts": b"a#b#c#0#0\n",
    "times in words": b"a person walks#a/DET#begin#end\n",
    "times backwards": b"a person walks#a/DET#2#1\n",
    "minus times": b"a person walks#a/DET#-1#1\n",
    "endless": b"a person walks#a/DET#0#inf\n",
    "beyond the motion": b"a person walks#a/DET#900#990\n",
    "escapes": b"a \x1b[31mperson#a/DET#0#0\n",
    "zero bytes": bytes(100),
    "a huge caption": b"person " * 50_000 + b"#a/DET#0#0\n",
    "utf-16": "a person#a/DET#0#0\n".encode("utf-16"),
    "binary": bytes(range(256)),
}
FEATURES = {
    "cut": lambda: npy(np.zeros((50, 263), np.float32))[:-5],
    "half": lambda: npy(np.zeros((50, 263), np.float32))[:9000],
    "empty": lambda: b"",
    "open braces": lambda: header("{'descr': '<f4', 'shape': ("),
    "open quotes": lambda: header("'''"),
    "true frames": lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 150), }"),
    "huge header": lambda: shaped("(99999999999, 263)"),
    "pickled": lambda: npy(np.array([os.getcwd, None], dtype=object), allow_pickle=True),
    "another width": lambda: npy(np.zeros((50, 251), np.float32)),
    "zero frames": lambda: npy(np.zeros((0, 263), np.float32)),
    "one frame": lambda: npy(np.zeros((1, 263), np.float32)),
    "too many frames": lambda: npy(np.zeros((200, 263), np.float32)),
    "NaN": lambda: npy(np.full((50, 263), np.nan, np.float32)),
    "infinite": lambda: npy(np.full((50, 263), np.inf)),
    "beyond single precision": lambda: npy(np.full((50, 263), 1e300)),
    "whole numbers": lambda: npy(np.zeros((50, 263), int)),
    "an archive": lambda: npz(a=np.zeros((50, 263))),
}


def test_a_humanml3d_folder(tmp_path: Path) -> None:
    folder = lay(tmp_path / "in")
    alone, _ = imported(folder, tmp_path / "alone", "humanml3d")
    names, bad = [], []
    for number, content in enumerate(TEXTS.values()):
        names.append(f"1{number:05d}")
        np.save(folder / "new_joint_vecs" / f"{names[-1]}.npy", np.zeros((50, 263), np.float32))
        (folder / "texts" / f"{names[-1]}.txt").write_bytes(content)
        bad.append(f"texts/{names[-1]}.txt")
    for number, make in enumerate(FEATURES.values()):
        names.append(f"2{number:05d}")
        (folder / "new_joint_vecs" / f"{names[-1]}.npy").write_bytes(make())
        (folder / "texts" / f"{names[-1]}.txt").write_bytes((folder / "texts" / "000001.txt").read_bytes())
        bad.append(f"new_joint_vecs/{names[-1]}.npy")
    lines = [*names, "../../etc/passwd", "\x1b[31m", "000001"]
    (folder / "train.txt").write_text((folder / "train.txt").read_text() + "\n".join(lines) + "\n")
    clips, reports = imported(folder, tmp_path / "out", "humanml3d")
    assert clips.keys() == alone.keys()
    for name, features_FD in alone.items():
        np.testing.assert_array_equal(clips[name], features_FD)
    for file in bad:
        assert any(one["left_out"] for one in reports.get(file, [])), file
    assert len(reports["train.txt"]) == 3


FOLDERS: dict[str, Callable[[Path], object]] = {
    "no train.txt": lambda d: (d / "train.txt").unlink(),
    "train.txt empty": lambda d: [(d / f"{name}.txt").write_bytes(b"") for name in ("train", "val", "test")],
    "train.txt a folder": lambda d: ((d / "train.txt").unlink(), (d / "train.txt").mkdir()),
    "no texts": lambda d: shutil.rmtree(d / "texts"),
    "no motions": lambda d: [file.unlink() for file in (d / "new_joint_vecs").iterdir()],
    "all cut": lambda d: [file.write_bytes(file.read_bytes()[:500]) for file in (d / "new_joint_vecs").iterdir()],
    "all of another width": lambda d: [
        np.save(file, np.zeros((50, 100), np.float32)) for file in (d / "new_joint_vecs").iterdir()
    ],
    "all texts swapped for motions": lambda d: [
        (d / "texts" / f"{file.stem}.txt").write_bytes(file.read_bytes()) for file in (d / "new_joint_vecs").iterdir()
    ],
    "ids of another data set": lambda d: [(d / f"{n}.txt").write_text("999999\n") for n in ("train", "val", "test")],
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_makes_no_data_set(tmp_path: Path, name: str) -> None:
    FOLDERS[name](lay(tmp_path / "in"))
    before = listing(tmp_path)
    ended = run("data", "import", tmp_path / "in", "--kind", "humanml3d", "--out", tmp_path / "deep" / "out")
    refused(ended, [], before, listing(tmp_path))
    assert ended.stderr.count("\n") == 1


Damage = Callable[[Path], object]
"""What is done to a file, or a folder."""


def cut(share: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * len(path.read_bytes()))])


def written(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def in_its_place(make: Callable[[Path], object]) -> Damage:
    return lambda path: (path.unlink(), make(path))


def flipped(part: str) -> Damage:
    """Bits flipped in the middle of an archive's largest part, or of the one with this name."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            parts = [entry for entry in archive.infolist() if entry.filename.endswith(part)]
        entry = max(parts, key=lambda entry: entry.file_size)
        content[entry.header_offset + 200 + entry.file_size // 2] ^= 0x10
        path.write_bytes(content)

    return damage


class Bomb:
    """Unpickled, it leaves a folder behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


WEIGHTS: dict[str, Damage] = {
    **{f"cut at {share:.0%}": cut(share) for share in (0, 0.001, 0.3, 0.7, 0.999)},
    "bits of a tensor": flipped(""),
    "bits of the index": flipped("data.pkl"),
    "zero bytes": written(bytes(5000)),
    "text": written(b"<html>not found</html>"),
    "a pickle that runs": written(pickle.dumps({"state_dict": Bomb()})),
    "an archive of arrays": written(npz(a=np.zeros(3))),
    "other keys": lambda path: torch.save({"x": torch.zeros(3)}, path),
    "no keys": lambda path: torch.save({}, path),
    "a folder": in_its_place(Path.mkdir),
    "a pipe": in_its_place(os.mkfifo),
    "a link to itself": in_its_place(lambda path: path.symlink_to(path.name)),
}
SETTINGS: dict[str, Damage] = {
    "cut": cut(0.5),
    "empty": written(b""),
    "not utf-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "zero bytes": written(bytes(100)),
    "deep": written(b'{"a":' * 50_000),
    "a folder": in_its_place(Path.mkdir),
}
STATISTICS: dict[str, Damage] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "open braces": written(b"\x93NUMPY\x01\x00\x08\x00({[     "),
    "huge header": written(shaped("(99999999999999,)")),
    "an archive": written(npz(a=np.zeros(263))),
    "pickled": written(npy(np.array([os.getcwd, None], dtype=object), allow_pickle=True)),
    "another width": written(npy(np.ones(251))),
    "two axes": written(npy(np.ones((1, 263)))),
    "NaN": written(npy(np.full(263, np.nan))),
    "zeros": written(npy(np.zeros(263))),
    "empty": written(b""),
    "gone": Path.unlink,
}


def tensors(change: Callable[[torch.Tensor], object]) -> Damage:
    """MDM's weights, each as something else."""
    return lambda path: torch.save({name: change(t) for name, t in official.small("mdm").items()}, path)


TENSORS: dict[str, Damage] = {
    "a number each": tensors(lambda t: torch.tensor(1.0)),
    "sparse": tensors(lambda t: t.to_sparse() if t.ndim else t),
    "without values": tensors(lambda t: t.to("meta")),
    "of 8 bits": tensors(lambda t: t.to(torch.float8_e4m3fn)),
    "whole": tensors(lambda t: t.int()),
    "complex": tensors(lambda t: t.to(torch.complex64)),
    "endless": tensors(lambda t: torch.zeros(1).expand(10**6, 10**6)),
    "NaN": tensors(lambda t: t * torch.nan),
}


def values(**changes: object) -> Damage:
    """Entries of a JSON file changed; None removes one."""

    def damage(path: Path) -> None:
        tree = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))

    return damage


ENCODER: dict[str, tuple[str, Damage]] = {
    "config.json cut": ("config.json", cut(0.5)),
    "config.json a list": ("config.json", written(b"[]")),
    "config.json deep": ("config.json", written(b'{"a":' * 50_000)),
    "config.json gone": ("config.json", Path.unlink),
    "no type": ("config.json", values(model_type=None)),
    "another type": ("config.json", values(model_type="\x1b[31mbert")),
    "a width in words": ("config.json", values(hidden_size="wide")),
    "width 0": ("config.json", values(hidden_size=0)),
    "a billion layers": ("config.json", values(num_hidden_layers=10**9)),
    "no layers": ("config.json", values(num_hidden_layers=0)),
    "fewer words": ("config.json", values(vocab_size=3)),
    "weights cut": ("model.safetensors", cut(0.5)),
    "weights empty": ("model.safetensors", written(b"")),
    "weights pickled": ("model.safetensors", written(pickle.dumps({}))),
    "weights gone": ("model.safetensors", Path.unlink),
    "weights a pipe": ("model.safetensors", in_its_place(os.mkfifo)),
    "tokenizer cut": ("tokenizer.json", cut(0.5)),
    "tokenizer empty": ("tokenizer.json", written(b"{}")),
    "tokenizer gone": ("tokenizer.json", Path.unlink),
    "tokenizer's settings not utf-8": ("tokenizer_config.json", written(b"\xff")),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.write_clip(tmp_path_factory.mktemp("text") / "clip", 32)


def checkpoint(layout: str, folder: Path, encoder: Path) -> tuple[Path, str, str, list[object]]:
    """A sound one: its path; below it the weights and the settings; what it is converted with."""
    text: list[object] = ["--text-encoder", encoder]
    match layout:
        case "stablemofusion":
            state = official.small("stablemofusion") | official.clip_in_the_file(encoder)
            made = official.write_stablemofusion(folder / "smf", {"total_it": 7, "encoder": state})
            return made, "model/latest.tar", "opt.txt", text
        case "mdm":
            data = official.write_statistics(folder / "data", official.statistics(), upper=True)
            made = official.write_mdm(folder / "mdm", official.small("mdm"))
            return made, "model000475000.pt", "args.json", [*text, "--stats", data]
        case "mdm-smpl":
            vectors = official.golden("mdm_smpl_weights", "mdm_smpl_vectors")
            made = official.write_mdm_smpl(
                folder / "smpl", {n: t.clone() for n, t in official.weights(vectors).items()}
            )
            return made, "logs/checkpoints/last.ckpt", "config.json", text
        case "tmr":
            made = judges.write_tmr(folder, official.weights(judges.golden_tmr()))
            return made, "last_weights/text_encoder.pt", "config.json", text
        case _:
            return judges.write_guo(folder, judges.golden_guo()), "model/finest.tar", "", []


LAYOUTS = ("stablemofusion", "mdm", "mdm-smpl", "tmr", "guo")


def hold_refused(folder: Path, *words: object) -> None:
    before = listing(folder)
    ended = run("model", *words)
    refused(ended, [], before, listing(folder))
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ".partial" not in ended.stderr


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints(tmp_path: Path, encoder: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, weights, settings, options = checkpoint(layout, tmp_path / "from", encoder)
    cases = [(weights, damage) for damage in WEIGHTS.values()]
    cases += [(settings, damage) for damage in SETTINGS.values() if settings]
    cases += [(weights, damage) for damage in TENSORS.values() if layout == "mdm"]
    kept = tmp_path / "kept"
    path.rename(kept)
    for name, damage in cases:
        shutil.copytree(kept, path)
        damage(path / name)
        hold_refused(tmp_path, "convert", path, *options, "--out", tmp_path / "models" / "new")
        ended = run("model", "inspect", path)  # keys that are missing are what it is there to say
        assert ended.exit_code == 2 or (ended.exit_code == 0 and "missing keys" in ended.stdout), ended.stderr
        shutil.rmtree(path)
    assert not Path("ran").exists()


@pytest.mark.parametrize("layout", ["stablemofusion", "mdm", "guo"])
def test_statistics(tmp_path: Path, encoder: Path, layout: str) -> None:
    path, _, _, options = checkpoint(layout, tmp_path / "from", encoder)
    found = {
        "stablemofusion": path / "meta",
        "mdm": tmp_path / "from" / "data",
        "guo": path.parent / "Comp_v6_KLD01/meta",
    }
    file = next(found[layout].glob("[Ss]td.npy"))
    whole = file.read_bytes()
    for damage in STATISTICS.values():
        damage(file)
        hold_refused(tmp_path, "convert", path, *options, "--out", tmp_path / "models" / "new")
        file.write_bytes(whole)


def test_text_encoders(tmp_path: Path, encoder: Path) -> None:
    path, _, _, options = checkpoint("mdm", tmp_path / "from", encoder)
    given = tmp_path / "clip"
    options[1] = given
    for name, damage in ENCODER.values():
        shutil.copytree(encoder, given)
        damage(given / name)
        hold_refused(tmp_path, "convert", path, *options, "--out", tmp_path / "models" / "new")
        shutil.rmtree(given)


def test_control_what_is_sound_is_converted(tmp_path: Path, encoder: Path) -> None:
    path, _, _, options = checkpoint("mdm", tmp_path / "from", encoder)
    ended = run("model", "convert", path, *options, "--out", tmp_path / "models" / "new")
    assert ended.exit_code == 0, ended.stderr


def test_they_are_two_hundred_at_least() -> None:
    motion = sum(len(damaged(suffix)) for suffix in MOTION) + len(dict(of_asf())) + 8
    folder = len(TEXTS) + len(FEATURES) + len(FOLDERS)
    models = len(LAYOUTS) * len(WEIGHTS) + 4 * len(SETTINGS) + len(TENSORS) + 3 * len(STATISTICS) + len(ENCODER)
    assert min(motion, folder + models) >= 150
    assert motion + folder + models >= 200
