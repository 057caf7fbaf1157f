"""HumanML3D's and KIT-ML's folders: the clips of the authors' loader, and a line for whatever cannot be used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.data.datasets import Caption, Clip, Dataset, FileReport, humanml3d, write_dataset
from rl_motion.data.datasets.sources import Options
from rl_motion.types import Representation
from tests.humanml3d_folder import IDS, LINE, lay, motion

GOT_WANT_DO = r"(?s)got .*; want .*; \w+ .*"
ALL = [name for names in IDS.values() for name in names]
BAD = "000003"
"""The id that is damaged."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lay(tmp_path / "HumanML3D")


def read(folder: Path) -> tuple[list[Clip], list[FileReport]]:
    entries = list(humanml3d.read(folder, Options()).entries)
    return [e for e in entries if isinstance(e, Clip)], [e for e in entries if isinstance(e, FileReport)]


def imported(folder: Path) -> Dataset:
    source = humanml3d.read(folder, Options())
    return write_dataset(
        folder.parent / "out",
        source.entries,
        representation=source.representation,
        fps=source.fps,
        kind="humanml3d",
        statistics=source.statistics,
    )


def text(*captions: str) -> str:
    return "".join(f"{caption}\n" for caption in captions)


# What is read


def test_a_folder_as_its_authors_have_it(folder: Path) -> None:
    opened = imported(folder)
    assert opened.info.representation == Representation.HUMANML3D_263 and opened.info.fps == 20.0
    assert opened.info.statistics == "given" and opened.info.left_out == {} and opened.report() == []
    np.testing.assert_array_equal(opened.statistics.std_D, np.load(folder / "Std.npy"))
    for split, names in IDS.items():
        clips = list(opened.split(split))
        assert [clip.id for clip in clips] == names
        for clip in clips:
            assert clip.features_FD.tobytes() == motion(clip.id).tobytes()
            assert clip.mirrored == clip.id.startswith("M") and clip.trial == clip.id.removeprefix("M")
            tokens = ("a/DET", "person/NOUN", "walk/VERB", "forward/ADV")
            assert clip.captions == (Caption("a person walks forward.", tokens),)


def test_kit_ml_is_told_by_its_width(tmp_path: Path) -> None:
    folder = lay(tmp_path / "KIT-ML", width=251, frames=24)
    (folder / "texts" / "000002.txt").write_text(LINE)
    np.save(folder / "new_joint_vecs" / "000002.npy", motion("000002", 23, 251))
    opened = imported(folder)
    assert (opened.info.representation, opened.info.fps, opened.info.joints) == (Representation.KIT_251, 12.5, 21)
    assert opened.info.left_out == {"fewer than 24 frames": 1}


def test_seconds_of_kit_ml_are_counted_in_its_own_frames(tmp_path: Path) -> None:
    folder = lay(tmp_path / "KIT-ML", width=251, frames=100)
    (folder / "texts" / "000002.txt").write_text("he turns#he/PRON turn/VERB#2.0#6.0\n")
    [part] = [clip for clip in read(folder)[0] if clip.id == "A_000002"]
    assert part.features_FD.tobytes() == motion("000002", 100, 251)[25:75].tobytes()


def official(folder: Path, split: str) -> dict[str, tuple[bytes, list[str]]]:
    """What `Text2MotionDatasetV2` of EricGuo5513/text-to-motion makes of a split, in our own words: motion and captions
    by id; of a part, its letter is left out and its place in the file is said."""
    made = {}
    for name in (folder / f"{split}.txt").read_text().split():
        x_FD = np.load(folder / "new_joint_vecs" / f"{name}.npy")
        if len(x_FD) < 40 or len(x_FD) >= 200:
            continue
        whole = []
        for number, line in enumerate((folder / "texts" / f"{name}.txt").read_text().splitlines()):
            caption, _, start, end = line.strip().split("#")
            first, last = (0.0 if np.isnan(float(tag)) else float(tag) for tag in (start, end))
            part_FD = x_FD[int(first * 20) : int(last * 20)]
            if first == 0.0 and last == 0.0:
                whole.append(caption)
            elif 40 <= len(part_FD) < 200:
                made[f"{name}/{number}"] = (part_FD.tobytes(), [caption])
        if whole:
            made[name] = (x_FD.tobytes(), whole)
    return made


def test_clips_and_their_parts_are_those_of_the_authors_loader(folder: Path) -> None:
    lengths = {"000001": 199, "M000001": 199, "000002": 200, "M000002": 39, "000003": 40, "000004": 150}
    rng = np.random.default_rng(5)
    for name, frames in lengths.items():
        np.save(folder / "new_joint_vecs" / f"{name}.npy", motion(name, frames))
        times = rng.uniform(0, frames / 20 + 0.5, (12, 2)).round(rng.integers(0, 3))
        lines = [f"caption {n}#a/DET#{min(pair)}#{max(pair)}" for n, pair in enumerate(times)]
        lines += ["whole#a/DET#0.0#0.0", "also whole#a/DET#nan#nan", "from the start#a/DET#0.0#2.5"]
        (folder / "texts" / f"{name}.txt").write_text(text(*lines))
    wanted = official(folder, "train")
    made = [clip for clip in read(folder)[0] if clip.split == "train"]
    found = {
        name if "_" not in clip.id else f"{name}/{clip.captions[0].text}": (
            clip.features_FD.tobytes(),
            [caption.text for caption in clip.captions],
        )
        for clip in made
        for name in [clip.id.rpartition("_")[2]]
    }
    texts = {name: said for name, (_, said) in wanted.items()}
    assert len(found) == len(made) > 12
    assert found == {
        f"{name.split('/')[0]}/{texts[name][0]}" if "/" in name else name: of for name, of in wanted.items()
    }
    assert {clip.trial for clip in made} == {"000001", "000003", "000004"}
    of_one = [clip.id for clip in made if clip.id.endswith("_000004")]
    assert of_one == [f"{letter}_000004" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(of_one)]]


def test_a_part_keeps_the_times_that_its_file_tells(folder: Path) -> None:
    (folder / "texts" / "000002.txt").write_text("he turns#he/PRON turn/VERB#0.25#2.5\n")
    [part] = [clip for clip in read(folder)[0] if clip.trial == "000002" and not clip.mirrored]
    assert part.id == "A_000002" and part.captions == (Caption("he turns", ("he/PRON", "turn/VERB"), 0.25, 2.5),)
    assert part.features_FD.tobytes() == motion("000002")[5:50].tobytes()


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2", "fortran"])
def test_floats_of_any_kind_become_single_precision(folder: Path, kind: str) -> None:
    x_FD = motion(BAD)
    given = np.asfortranarray(x_FD) if kind == "fortran" else x_FD.astype(kind)
    np.save(folder / "new_joint_vecs" / f"{BAD}.npy", given)
    [found] = [clip for clip in read(folder)[0] if clip.id == BAD]
    assert found.features_FD.dtype == np.float32
    np.testing.assert_array_equal(found.features_FD, np.asarray(given, np.float32))


# Statistics


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("Mean.npy", None),
        ("Std.npy", None),
        ("Mean.npy", np.zeros(251, np.float32)),
        ("Mean.npy", np.zeros((263, 1), np.float32)),
        ("Mean.npy", np.full(263, np.nan)),
        ("Std.npy", np.zeros(263, np.float32)),
        ("Std.npy", -np.ones(263, np.float32)),
        ("Std.npy", np.array([{}] * 263, dtype=object)),
    ],
)
def test_statistics_that_are_no_use_are_told_and_computed(folder: Path, name: str, array: Any) -> None:
    (folder / name).unlink()
    if array is not None:
        np.save(folder / name, array)
    opened = imported(folder)
    assert opened.info.statistics == "train"
    [report] = opened.report()
    assert report.file in {name, "Mean.npy"} and report.wrong and "computed" in report.guessed[0]


def test_without_statistics_they_are_computed(folder: Path) -> None:
    (folder / "Mean.npy").unlink()
    (folder / "Std.npy").unlink()
    opened = imported(folder)
    train = np.concatenate([motion(name) for name in IDS["train"]])
    np.testing.assert_allclose(opened.statistics.mean_D, train.mean(0, dtype=np.float64), atol=1e-6)
    assert len(opened.report()) == 1 and opened.info.left_out == {}


# One bad file never loses the others


def header(shape: str, descr: str = "'<f4'") -> bytes:
    said = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    said += b" " * (-(len(said) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def saved(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def shortened(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size]) and None


def spoilt(value: float, kind: str = "<f4") -> Callable[[Path], None]:
    x_FD = motion(BAD).astype(kind)
    x_FD[20, 100] = value
    return saved(x_FD)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def objects(path: Path) -> None:
    np.save(path, np.array([[Evil()] * 263] * 50, dtype=object), allow_pickle=True)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=motion(BAD))


def loop(path: Path) -> None:
    other = path.with_name("loop.npy")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


FULL = b"\0" * (50 * 263 * 4)
MOTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (content(b""), "no NumPy file"),
    "cut in its magic": (shortened(5), "no NumPy file"),
    "cut in its header": (shortened(40), "no NumPy file"),
    "cut after its header": (shortened(128), "not as long"),
    "cut in its data": (shortened(30_001), "not as long"),
    "more than it says": (lambda path: path.write_bytes(path.read_bytes() + b"\0" * 4) and None, "not as long"),
    "a header of 4 TB": (content(header("(4000000000, 263)") + FULL), "not as long"),
    "a header beyond 64 bits": (content(header(f"({2**62}, {2**62})") + FULL), "not as long"),
    "a negative shape": (content(header("(-50, 263)") + FULL), "not as long"),
    "two negative ones": (content(header("(-50, -263)") + FULL), "not as long"),
    "a shape of floats": (content(header("(50.0, 263)") + FULL), "no NumPy file"),
    "a header that is code": (content(header("__import__('os').mkdir('run')") + FULL), "no NumPy file"),
    "a header that is nested": (content(header("(" * 3000 + ")" * 3000) + FULL), "no NumPy file"),
    "a header of 60 kB": (content(header("(50, 263)" + " " * 60_000) + FULL), "no NumPy file"),
    "a header with a foreign key": (content(header("(50, 263), 'x': 1") + FULL), "no NumPy file"),
    "an unknown type": (content(header("(50, 263)", "'<f3'") + FULL), "no NumPy file"),
    "a version to come": (content(b"\x93NUMPY\x09\x00" + header("(50, 263)")[8:] + FULL), "no NumPy file"),
    "a header that is no text": (content(b"\x93NUMPY\x02\x00\x10\0\0\0" + b"\xff" * 16 + FULL), "no NumPy file"),
    "a header longer than the file": (content(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"), "no NumPy file"),
    "text": (content(b"0.1 0.2 0.3\n"), "no NumPy file"),
    "a pickle": (content(pickle.dumps(Evil())), "no NumPy file"),
    "pickled objects": (objects, "an array of objects"),
    "a zip of arrays": (npz, "no NumPy file"),
    "integers": (saved(np.ones((50, 263), np.int32)), "no floats"),
    "complex numbers": (saved(np.ones((50, 263), np.complex64)), "no floats"),
    "booleans": (saved(np.ones((50, 263), bool)), "no floats"),
    "texts": (saved(np.full((50, 263), "x")), "no floats"),
    "records": (saved(np.zeros((50, 263), [("x", "<f4")])), "no floats"),
    "no frames": (saved(np.zeros((0, 263), np.float32)), "no frames"),
    "one frame": (saved(motion(BAD, 1)), "fewer than 40 frames"),
    "39 frames": (saved(motion(BAD, 39)), "fewer than 40 frames"),
    "200 frames": (saved(motion(BAD, 200)), "more than 199 frames"),
    "more frames than an hour": (saved(np.zeros((100_001, 263), "<f2")), "too many frames"),
    "a number": (saved(np.float32(1)), "another shape"),
    "one row": (saved(motion(BAD, 1)[0]), "another shape"),
    "joints": (saved(np.zeros((50, 22, 3), np.float32)), "another shape"),
    "the other width": (saved(motion(BAD, 50, 251)), "another shape"),
    "one feature less": (saved(motion(BAD, 50, 262)), "another shape"),
    "NaN": (spoilt(np.nan), "NaN or infinite values"),
    "infinity": (spoilt(-np.inf), "NaN or infinite values"),
    "beyond single precision": (spoilt(1e300, "<f8"), "NaN or infinite values"),
    "not there": (Path.unlink, "a missing file"),
    "a folder": (replaced(Path.mkdir), "no file"),
    "a pipe": (replaced(os.mkfifo), "no file"),
    "a device": (replaced(lambda path: path.symlink_to("/dev/zero")), "no file"),
    "a link to nothing": (replaced(lambda path: path.symlink_to("nowhere")), "a missing file"),
    "a link to itself": (replaced(lambda path: path.symlink_to(path.name)), "a file that cannot be read"),
    "links in a circle": (replaced(loop), "a file that cannot be read"),
}


@pytest.mark.parametrize("damage", MOTIONS)
def test_a_bad_motion_is_left_out_alone_with_its_reason(
    folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    spoil, reason = MOTIONS[damage]
    spoil(folder / "new_joint_vecs" / f"{BAD}.npy")
    clips, reports = read(folder)
    assert [clip.id for clip in clips] == [name for name in ALL if name != BAD]
    [report] = [report for report in reports if report.file.endswith(f"{BAD}.npy")]
    assert report.left_out.startswith(reason) and report.wrong
    assert list(here.iterdir()) == []


GOOD = LINE.strip()
LINES: dict[str, tuple[bytes, str]] = {
    "no mark": (b"a person walks", "a line that is not"),
    "one mark": (b"a person walks#a/DET", "a line that is not"),
    "two marks": (b"a person walks#a/DET#0.0", "a line that is not"),
    "four marks": (b"a person walks # 1#a/DET#0.0#0.0", "a line that is not"),
    "no caption": (b"#a/DET#0.0#0.0", "a caption that is no text"),
    "spaces alone": (b"  \t #a/DET#0.0#0.0", "a caption that is no text"),
    "a NUL": (b"a per\0son#a/DET#0.0#0.0", "a caption that is no text"),
    "an escape": (b"a \x1b[31mperson#a/DET#0.0#0.0", "a caption that is no text"),
    "not UTF-8": (b"a pers\xf6n#a/DET#0.0#0.0", "a caption that is no text"),
    "right to left": ("a \u202eperson#a/DET#0.0#0.0".encode(), "a caption that is no text"),
    "1001 characters": (b"x" * 1001 + b"#a/DET#0.0#0.0", "a caption that is no text"),
    "times in words": (b"a person walks#a/DET#soon#later", "times that are no numbers"),
    "no times": (b"a person walks#a/DET##", "times that are no numbers"),
    "an end before its start": (b"a person walks#a/DET#2.0#1.0", "times that are not in order"),
    "a start alone": (b"a person walks#a/DET#2.0#nan", "times that are not in order"),
    "a negative start": (b"a person walks#a/DET#-1.0#2.0", "times that are not in order"),
    "no end": (b"a person walks#a/DET#0.0#inf", "times that are not in order"),
    "a part that is too short": (b"a person walks#a/DET#1.0#1.5", "a part of fewer than 40 frames"),
    "a part of no length": (b"a person walks#a/DET#1.0#1.0", "a part of fewer than 40 frames"),
    "a part after the motion": (b"a person walks#a/DET#100.0#200.0", "a part of fewer than 40 frames"),
    "a part in another age": (b"a person walks#a/DET#1e300#1e301", "a part of fewer than 40 frames"),
}


@pytest.mark.parametrize("damage", LINES)
def test_a_bad_line_is_left_out_alone_with_its_reason(folder: Path, damage: str) -> None:
    line, reason = LINES[damage]
    (folder / "texts" / f"{BAD}.txt").write_bytes(b"\n".join([GOOD.encode(), line, b"", GOOD.encode()]))
    clips, reports = read(folder)
    assert [clip.id for clip in clips] == ALL
    assert [len(clip.captions) for clip in clips if clip.id == BAD] == [2]
    [report] = reports
    assert report.file == f"texts/{BAD}.txt" and report.left_out.startswith(reason) and report.wrong


@pytest.mark.parametrize("tokens", ["walk", "walk/", "/VERB", "a/DET walk", "a/DET w\x00/X", "x/" * 2000])
def test_tokens_that_cannot_be_used_are_left_out_of_their_caption(folder: Path, tokens: str) -> None:
    (folder / "texts" / f"{BAD}.txt").write_text(f"a person walks#{tokens}#0.0#0.0\n")
    clips, [report] = read(folder)
    assert [clip.captions for clip in clips if clip.id == BAD] == [(Caption("a person walks"),)]
    assert "tokens" in report.wrong[0] and not report.left_out


TEXTS: dict[str, Callable[[Path], None]] = {
    "not there": Path.unlink,
    "empty": content(b""),
    "blank lines": content(b"\n \n\r\n"),
    "binary": content(bytes(range(256)) * 50),
    "UTF-16": content(LINE.encode("utf-16")),
    "one line without an end": content(b"a" * 100_000),
    "17 MB": lambda path: os.truncate(path, 17 << 20),
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", TEXTS)
def test_a_motion_without_a_text_that_can_be_read_is_left_out_alone(folder: Path, damage: str) -> None:
    TEXTS[damage](folder / "texts" / f"{BAD}.txt")
    clips, reports = read(folder)
    assert [clip.id for clip in clips] == [name for name in ALL if name != BAD]
    assert {report.file for report in reports} == {f"texts/{BAD}.txt"}
    assert reports[-1].left_out in {"no text", "no caption that can be used"}


def test_a_byte_order_mark_and_other_line_ends_are_read(folder: Path) -> None:
    (folder / "texts" / f"{BAD}.txt").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    clips, reports = read(folder)
    assert [len(clip.captions) for clip in clips if clip.id == BAD] == [2] and reports == []


# Splits


@pytest.mark.parametrize(
    "name",
    [
        b"../../etc/passwd",
        b"/etc/passwd",
        b"..",
        b".",
        b"a/b",
        b"a\\b",
        b"000\xff",
        b"0\x001",
        b"~",
        b"x" * 101,
        b"$(id)",
    ],
)
def test_an_id_that_is_no_name_is_told_and_reads_no_file(folder: Path, name: bytes) -> None:
    outside = folder.parent / "etc"
    outside.mkdir()
    np.save(outside / "passwd.npy", motion("000009"))
    with (folder / "train.txt").open("ab") as file:
        file.write(name + b"\n")
    clips, [report] = read(folder)
    assert [clip.id for clip in clips] == ALL
    assert (report.file, report.left_out) == ("train.txt", "an id that is no name") and "line 7" in report.wrong[0]


@pytest.mark.parametrize(
    ("name", "held"), [("000006", "test"), ("M000006", "test"), ("000005", "val"), ("M000005", "val")]
)
def test_what_is_held_out_never_trains_nor_does_its_mirror_image(folder: Path, name: str, held: str) -> None:
    np.save(folder / "new_joint_vecs" / f"{name}.npy", motion(name))
    (folder / "texts" / f"{name}.txt").write_text(LINE)
    with (folder / "train.txt").open("a") as file:
        file.write(f"{name}\n")
    clips, [report] = read(folder)
    assert {clip.split for clip in clips if clip.trial == name.removeprefix("M")} == {held}
    assert report.left_out == "in two splits" and held in report.wrong[0]


def test_ids_without_files_files_without_ids_and_repeats_are_told(folder: Path) -> None:
    np.save(folder / "new_joint_vecs" / "000042.npy", motion("000042"))
    with (folder / "train.txt").open("a") as file:
        file.write("000001\n000077\n\n")
    (folder / "val.txt").unlink()
    clips, reports = read(folder)
    assert [clip.id for clip in clips] == [*IDS["train"], *IDS["test"]]
    told = {(report.file, report.left_out) for report in reports}
    assert told == {
        ("train.txt", ""),
        ("val.txt", ""),
        ("new_joint_vecs", ""),
        ("new_joint_vecs/000077.npy", "a missing file"),
    }
    assert any("2 motions that no split names, such as 000005, 000042" in report.wrong[0] for report in reports)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "train.txt").unlink(), "train.txt"),
        (lambda folder: as_folder(folder / "train.txt"), "train.txt"),
        (lambda folder: [(folder / f"{s}.txt").write_text("") for s in IDS], "no motion can be read"),
        (lambda folder: [(folder / f"{s}.txt").write_text("999\n") for s in IDS], "no motion can be read"),
        (
            lambda folder: [(folder / "texts" / f"{n}.txt").unlink() for n in ALL] and (folder / "texts").rmdir(),
            "texts",
        ),
        (lambda folder: (folder / "new_joint_vecs").rename(folder / "elsewhere"), "new_joint_vecs"),
        (lambda folder: [np.save(folder / "new_joint_vecs" / f"{n}.npy", np.zeros((50, 67))) for n in ALL], "50, 67"),
        (lambda folder: [np.save(folder / "new_joint_vecs" / f"{n}.npy", np.zeros((9, 22, 3))) for n in ALL], "22, 3"),
    ],
)
def test_a_folder_of_which_nothing_can_be_read_is_refused_in_words(
    folder: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=GOT_WANT_DO) as refused:
        humanml3d.read(folder, Options())
    assert says in str(refused.value)


def test_texts_that_are_still_packed_are_named(folder: Path) -> None:
    (folder / "texts").rename(folder / "elsewhere")
    (folder / "texts.zip").touch()
    with pytest.raises(UserError, match=r"unpack texts\.zip"):
        humanml3d.read(folder, Options())


def test_all_at_once_still_gives_what_can_be_used(folder: Path) -> None:
    """Every damage to a motion in one folder: the others are there, bit for bit, and each has its line."""
    damaged = [f"{1000 + number:06d}" for number in range(len(MOTIONS))]
    for name, (spoil, _) in zip(damaged, MOTIONS.values(), strict=True):
        path = folder / "new_joint_vecs" / f"{name}.npy"
        np.save(path, motion(BAD))
        (folder / "texts" / f"{name}.txt").write_text(LINE)
        (folder / "new_joint_vecs" / "loop.npy").unlink(missing_ok=True)
        spoil(path)
    with (folder / "train.txt").open("a") as file:
        file.writelines(f"{name}\n" for name in damaged)
    opened = imported(folder)
    assert [clip.id for split in ("train", "val", "test") for clip in opened.split(split)] == ALL
    assert sum(opened.info.left_out.values()) == len(MOTIONS)
    assert np.isfinite(np.concatenate([clip.features_FD for clip in opened.split("train")])).all()
