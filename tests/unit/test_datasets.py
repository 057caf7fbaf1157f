"""A data set: what is written comes back, whole or not at all, mapped and not loaded; a broken one is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_motion.config import UserError
from rl_motion.data.datasets import Caption, Clip, Dataset, FileReport, Statistics, arrow, write_dataset, writing
from rl_motion.data.datasets.statistics import LEAST_STD, RunningStatistics
from rl_motion.models.pretraining import feature_statistics
from rl_motion.types import Representation

GOT_WANT_DO = r"(?s)got .*; want .*; \w+ .*"
D = 263
MIB = 1 << 20


def clip(number: int, split: str = "train", frames: int = 30, **changed: Any) -> Clip:
    x_FD = np.random.default_rng(number).normal(size=(frames, D)).astype(np.float32)
    said = tuple(
        Caption(f"person {number} moves {k}", ("person/NOUN", "move/VERB"), k, 2.5 * k) for k in range(number % 3)
    )
    known = {"id": f"clip{number}", "split": split, "trial": f"trial{number // 2}", "mirrored": number % 2 == 1}
    return Clip(**{**known, "features_FD": x_FD, "captions": said, **changed})


def write(folder: Path, entries: Any, **changed: Any) -> Dataset:
    given: dict[str, Any] = {"representation": Representation.HUMANML3D_263, "fps": 20.0, "kind": "made", **changed}
    return write_dataset(folder, entries, **given)


def same(a: Clip, b: Clip) -> bool:
    return (
        (a.id, a.split, a.trial, a.mirrored, a.captions) == (b.id, b.split, b.trial, b.mirrored, b.captions)
        and a.features_FD.dtype == b.features_FD.dtype == np.float32
        and a.features_FD.tobytes() == b.features_FD.tobytes()
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups and files of a few clips."""
    monkeypatch.setattr(writing, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(writing, "SHARD_BYTES", 300_000)


@pytest.mark.usefixtures("small")
def test_clips_come_back_as_they_were_in_order_from_several_files(tmp_path: Path) -> None:
    made = [clip(n, "test" if n % 4 == 0 else "train", frames=20 + n) for n in range(40)]
    reports = [FileReport("a.bvh", ("a spike",), ("metres",)), FileReport("b.bvh", left_out="no frames")]
    write(tmp_path / "mine", [reports[0], *made, reports[1]])
    opened = Dataset.open(tmp_path / "mine")
    assert len(opened.info.motions) > 2
    for split in ("train", "test"):
        wanted = [one for one in made if one.split == split]
        view = opened.split(split)
        assert len(view) == len(wanted) and view.frames_N.tolist() == [len(one.features_FD) for one in wanted]
        assert all(same(a, b) for a, b in zip(view, wanted, strict=True))
        assert same(view[-1], wanted[-1]) and [one.id for one in view[2:4]] == [one.id for one in wanted[2:4]]
        assert view.captions(3) == wanted[3].captions
        assert not view[0].features_FD.flags.writeable
        longer = view.where(view.frames_N > 30)
        assert [one.id for one in longer] == [one.id for one in wanted if len(one.features_FD) > 30]
        with pytest.raises(IndexError):
            view[len(view)]
    assert opened.report() == reports
    assert opened.info.left_out == {"no frames": 1}
    counts = opened.info.splits["train"]
    assert (counts.clips, counts.shortest, counts.longest) == (30, 21, 59)
    assert counts.captions == sum(len(one.captions) for one in made if one.split == "train")
    opened.check()


@pytest.mark.usefixtures("small")
def test_a_view_travels_to_workers_as_a_path(tmp_path: Path) -> None:
    made = [clip(n, frames=60) for n in range(20)]
    view = write(tmp_path / "mine", made).split("train")
    sent = pickle.dumps(view)
    assert len(sent) < 2000
    assert all(same(a, b) for a, b in zip(pickle.loads(sent), made, strict=True))


def test_others_read_the_parquet_files_without_this_package(tmp_path: Path) -> None:
    write(tmp_path / "mine", [clip(n) for n in range(4)])
    table = pq.read_table(tmp_path / "mine" / "motions-00000.parquet")
    assert table.column("id").to_pylist() == [f"clip{n}" for n in range(4)]
    np.testing.assert_array_equal(
        np.array(table.column("features")[2].as_py(), np.float32).reshape(-1, D), clip(2).features_FD
    )
    texts = pq.read_table(tmp_path / "mine" / "texts.parquet").to_pylist()
    assert texts[-1] == {
        "motion": "clip2", "split": "train", "frames": 30, "caption": "person 2 moves 1",
        "tokens": ["person/NOUN", "move/VERB"], "start_s": 1.0, "end_s": 2.5,
    }  # fmt: skip


def test_the_same_content_gives_the_same_bytes_and_other_content_another_hash(tmp_path: Path) -> None:
    made = [clip(n) for n in range(5)]
    first, again = write(tmp_path / "a", made, name="x"), write(tmp_path / "b", iter(made), name="x")
    for file in ("dataset.json", "motions-00000.parquet", "texts.parquet", "statistics.safetensors", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    said = [*made[:4], clip(4, captions=(Caption("other"),))]
    moved = [*made[:4], clip(4, features_FD=made[4].features_FD + np.float32(1e-4))]
    others = {write(tmp_path / f"c{n}", entries).info.sha256 for n, entries in enumerate([said, moved, made[:4]])}
    assert again.info.sha256 == first.info.sha256 and len(others | {first.info.sha256}) == 4


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"features_FD": np.full((30, D), np.nan, np.float32)}, "NaN or infinite features"),
        ({"features_FD": np.full((30, D), np.inf, np.float32)}, "NaN or infinite features"),
        ({"features_FD": np.zeros((0, D), np.float32)}, "not 1 to 100000 frames"),
        ({"features_FD": np.zeros((30, 251), np.float32)}, "not float32 [frames, 263]"),
        ({"features_FD": np.zeros((30, D))}, "not float32 [frames, 263]"),
        ({"features_FD": np.zeros(D, np.float32)}, "not float32 [frames, 263]"),
        ({"id": "clip0"}, "an id that another clip has"),
        ({"id": ""}, "an id or a trial"),
        ({"id": "x\n"}, "an id or a trial"),
        ({"id": "\udcff"}, "an id or a trial"),
        ({"trial": "t" * 201}, "an id or a trial"),
        ({"split": "../x"}, "a split whose name"),
        ({"split": ""}, "a split whose name"),
    ],
)
def test_a_clip_that_cannot_be_used_is_left_out_alone_and_counted(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    opened = write(tmp_path / "mine", [clip(0), clip(1, **changed), clip(2)])
    assert [one.id for one in opened.split("train")] == ["clip0", "clip2"]
    [(told, count)] = opened.info.left_out.items()
    assert told.startswith(reason) and count == 1
    assert [report.left_out for report in opened.report()] == [told]
    assert np.isfinite(opened.statistics.mean_D).all()


@pytest.mark.parametrize(
    "bad",
    [
        Caption(""),
        Caption(" "),
        Caption("a\x1b[31m"),
        Caption("a\udcff"),
        Caption("x" * 1001),
        Caption("a walk", ("walk",)),
        Caption("a walk", ("/VERB",)),
        Caption("a walk", (), 2.0, 1.0),
        Caption("a walk", (), -1.0, 1.0),
        Caption("a walk", (), float("nan"), 1.0),
        Caption("a walk", (), 0.0, float("inf")),
    ],
)
def test_a_caption_that_cannot_be_used_is_left_out_alone(tmp_path: Path, bad: Caption) -> None:
    opened = write(tmp_path / "mine", [clip(1, captions=(Caption("good"), bad))])
    assert opened.split("train")[0].captions == (Caption("good"),)
    assert len(opened.report()) == 1 and opened.report()[0].wrong


def test_a_report_may_hold_anything_and_is_told_printable(tmp_path: Path) -> None:
    opened = write(tmp_path / "mine", [clip(0), FileReport("a\udcff\x1b.npy", ("x\ny" * 1000,))])
    [report] = opened.report()
    assert report.file == "a\\udcff\\x1b.npy" and len(report.wrong[0]) < 1000 and report.wrong[0].isprintable()


# Statistics


def test_statistics_are_of_the_training_split_alone_by_the_convention_of_the_models(tmp_path: Path) -> None:
    import torch

    train = [clip(n, frames=20 + 7 * n, features_FD=5 + 3 * clip(n, frames=20 + 7 * n).features_FD) for n in range(6)]
    held = [clip(100 + n, "test", features_FD=1000 * clip(n).features_FD) for n in range(3)]
    opened = write(tmp_path / "mine", [*held, *train])
    frames = np.concatenate([one.features_FD for one in train])
    mean_D, std_D = feature_statistics(torch.tensor(frames)[None], torch.tensor([len(frames)]))
    np.testing.assert_allclose(opened.statistics.mean_D, mean_D.numpy(), rtol=1e-6)
    np.testing.assert_allclose(opened.statistics.std_D, std_D.numpy(), rtol=1e-6)
    assert opened.info.statistics == "train" and opened.statistics.mean_D.dtype == np.float32


def test_statistics_that_come_with_the_data_are_kept_as_they_are(tmp_path: Path) -> None:
    given = Statistics(np.arange(D, dtype=np.float32), np.arange(1, D + 1, dtype=np.float32))
    opened = write(tmp_path / "mine", [clip(0, "test")], statistics=given)
    np.testing.assert_array_equal(opened.statistics.mean_D, given.mean_D)
    np.testing.assert_array_equal(opened.statistics.std_D, given.std_D)
    assert opened.info.statistics == "given"
    with pytest.raises(ValueError, match="not positive"):
        write(tmp_path / "b", [clip(0)], statistics=Statistics(given.mean_D, given.std_D - 1))


def test_statistics_stay_exact_far_from_zero_and_a_constant_feature_is_no_division_by_zero() -> None:
    running = RunningStatistics(205)
    x_FD = np.random.default_rng(0).normal(1e4, 0.01, (4000, 205)).astype(np.float32)
    x_FD[:, 7] = 3.25
    for part in np.split(x_FD, [1, 700, 2500]):
        running.add(part)
    found = running.result(Representation.SMPLRIFKE_205)
    np.testing.assert_allclose(found.std_D[8:], x_FD.astype(np.float64).std(0, ddof=1)[8:], rtol=1e-5)
    assert found.mean_D[7] == 3.25 and found.std_D[7] == np.float32(LEAST_STD)


# The folder is there as a whole or not at all


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def breaking(error: BaseException, after: int) -> Iterator[Clip]:
    yield from (clip(n) for n in range(after))
    raise error


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x"), OSError(errno.ENOSPC, "no room")])
def test_whatever_ends_an_import_leaves_nothing_behind(tmp_path: Path, error: BaseException, after: int) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(type(error)):
        write(tmp_path / "there" / "deep" / "mine", breaking(error, after))
    assert listing(tmp_path) == ["there"]


@pytest.mark.parametrize("step", ["statistics_bytes", "sync_folder", "write_synced", "_json"])
def test_a_failure_at_the_end_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(writing, step, fail)
    with pytest.raises(OSError, match="no room"):
        write(tmp_path / "mine", [clip(0)])
    assert step == "sync_folder" or listing(tmp_path) == []


@pytest.mark.usefixtures("small")
def test_nothing_is_seen_of_the_folder_before_its_end(tmp_path: Path) -> None:
    def watched() -> Iterator[Clip]:
        for number in range(30):
            assert not (tmp_path / "mine").exists()
            yield clip(number)

    write(tmp_path / "mine", watched())
    assert listing(tmp_path / "mine")[0] == "dataset.json" and [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("as_what", ["folder", "file", "dangling link"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path, as_what: str) -> None:
    place = tmp_path / "mine"
    {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("nowhere")}[as_what]()
    with pytest.raises(UserError, match=GOT_WANT_DO):
        write(place, breaking(AssertionError("read"), 0))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=GOT_WANT_DO):
        write(tmp_path / "file" / "mine", [clip(0)])


@pytest.mark.parametrize(
    "entries", [[], [FileReport("a", left_out="no frames")], [clip(0, "test"), clip(2, "val")]], ids=str
)
def test_no_clip_that_can_be_used_is_a_mistake(tmp_path: Path, entries: list[Any]) -> None:
    with pytest.raises(UserError, match=GOT_WANT_DO):
        write(tmp_path / "mine", entries)
    assert listing(tmp_path) == []


def test_what_a_killed_import_left_goes_with_the_next_but_not_what_another_is_writing(tmp_path: Path) -> None:
    left, written, foreign = (tmp_path / f".{name}.partial" for name in ("mine.123", "mine.456", "mine2.7"))
    for folder in (left, written, foreign):
        folder.mkdir()
        (folder / "motions-00000.parquet").touch()
    lock = os.open(written, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write(tmp_path / "mine", [clip(0)])
    os.close(lock)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", written.name, foreign.name}


# Memory


def anonymous() -> int:
    """Bytes of memory of the process's own: no mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kib] = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return kib << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_stays_flat_while_a_data_set_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GROUP_BYTES", 2 * MIB)
    monkeypatch.setattr(writing, "SHARD_BYTES", 16 * MIB)
    frames, clips = 1000, 60  # 60 MB
    write(tmp_path / "warm", [clip(0)])  # pyarrow imports itself by and by
    most = 0
    before = anonymous()

    def entries() -> Iterator[Clip]:
        nonlocal most
        for number in range(clips):
            yield Clip(str(number), "train", "t", np.full((frames, D), number, np.float32), (Caption("walk"),))
            most = max(most, anonymous())

    written = write(tmp_path / "mine", entries())
    assert most - before < 24 * MIB, f"writing: {(most - before) / MIB:.0f} MiB"
    view = written.split("train")
    _ = view[0], view[-1]  # maps are made by the first who reads
    before = anonymous()
    kept = [one.features_FD for one in view]
    total = sum(float(x_FD.sum(dtype=np.float64)) for x_FD in kept)
    grown = anonymous() - before
    assert total == frames * D * sum(range(clips))
    assert sum(x_FD.nbytes for x_FD in kept) > 60 * MIB
    assert grown < 12 * MIB, f"reading: {grown / MIB:.0f} MiB"
    assert pa.total_allocated_bytes() < 12 * MIB


# Broken data sets


def edit(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        said = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(said | changed))

    return damage


def put(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


def cut(file: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return damage


def flip(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[len(content) // 3] ^= 0xFF
        (folder / file).write_bytes(content)

    return damage


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def other_clips(folder: Path) -> None:
    write(folder.parent / "other", [clip(n, frames=31) for n in range(7)])
    shutil.copy(folder.parent / "other" / "motions-00000.parquet", folder)


def other_columns(folder: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), folder / "motions-00000.parquet")


def as_part(file: str) -> Callable[[Path], None]:
    return edit(motions=[{"file": file, "rows": 6, "sha256": "0" * 64}])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no dataset.json": remove("dataset.json"),
    "an empty one": put("dataset.json", b""),
    "no JSON": put("dataset.json", b"{"),
    "deep JSON": put("dataset.json", b"[" * 100_000),
    "a list": put("dataset.json", b"[]"),
    "not UTF-8": put("dataset.json", b'{"version": "\xff"}'),
    "cut short": cut("dataset.json", 0.5),
    "version 2": edit(version=2),
    "no version": edit(version=None),
    "an unknown key": edit(extra=1),
    "an unknown representation": edit(representation="bvh-9"),
    "no frames per second": edit(fps=0),
    "infinite frames per second": edit(fps=float("inf")),
    "splits that are not there": edit(splits={}),
    "an escape as kind": edit(kind="\x1b[31m"),
    "a part in another folder": as_part("../../etc/passwd"),
    "a part with an absolute path": as_part("/etc/passwd"),
    "a part that is not there": as_part("motions-00009.parquet"),
    "no parts": edit(motions=[]),
    "motions that are not there": remove("motions-00000.parquet"),
    "motions cut short": cut("motions-00000.parquet", 0.9),
    "motions that are empty": put("motions-00000.parquet", b""),
    "motions with a flipped byte": flip("motions-00000.parquet"),
    "motions of another data set": other_clips,
    "motions with other columns": other_columns,
    "captions that are not there": remove("texts.parquet"),
    "captions cut short": cut("texts.parquet", 0.5),
    "captions with a flipped byte": flip("texts.parquet"),
    "statistics that are not there": remove("statistics.safetensors"),
    "statistics cut short": cut("statistics.safetensors", 0.5),
    "statistics with a huge header": put("statistics.safetensors", b"\xff" * 7 + b"\x00{}"),
    "a report that is not there": remove("report.json"),
    "a report of another form": put("report.json", b'{"files": [{"file": 1}]}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_data_set_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "mine", [clip(n) for n in range(6)])
    DAMAGES[damage](tmp_path / "mine")
    with pytest.raises(UserError, match=GOT_WANT_DO) as refused:
        Dataset.open(tmp_path / "mine").check()
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("damage", ["motions with a flipped byte", "captions with a flipped byte"])
def test_no_clip_is_read_from_a_file_that_was_changed(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "mine", [clip(n) for n in range(6)])
    DAMAGES[damage](tmp_path / "mine")
    with pytest.raises(UserError, match=GOT_WANT_DO):
        list(Dataset.open(tmp_path / "mine").split("train"))


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", "half", "foreign"])
def test_a_map_that_is_damaged_is_made_again(tmp_path: Path, content: bytes | str) -> None:
    made = [clip(n) for n in range(6)]
    first = write(tmp_path / "mine", made)
    list(first.split("train"))
    for path in (tmp_path / "mine" / arrow.MAPS).iterdir():
        whole = path.read_bytes()
        table = pa.table({"x": [1]})
        if content == "foreign":
            with pa.ipc.new_file(pa.OSFile(str(path), "wb"), table.schema) as out:
                out.write_table(table)
        else:
            path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    assert all(same(a, b) for a, b in zip(Dataset.open(tmp_path / "mine").split("train"), made, strict=True))


def test_a_data_set_that_may_not_be_written_to_is_mapped_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [clip(n) for n in range(6)]
    write(tmp_path / "mine", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make = Path.mkdir

    def refuse(path: Path, *args: Any, **more: Any) -> None:
        if path.name == arrow.MAPS:
            raise OSError(errno.EROFS, "read-only")
        make(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert all(same(a, b) for a, b in zip(Dataset.open(tmp_path / "mine").split("train"), made, strict=True))
    assert not (tmp_path / "mine" / arrow.MAPS).exists()
    assert len(listing(tmp_path / "cache" / "rl-motion" / "datasets")) == 2


def test_a_split_that_is_not_there_names_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'train'"):
        write(tmp_path / "mine", [clip(0)]).split("trian")
