"""Commits: there as a whole or not at all, and what is damaged is passed over."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from rl_motion.config import RunFault
from rl_motion.runtime import commit
from rl_motion.runtime.commit import LEARNER_FILE, LEDGER_FILE, Best, Commits, Manifest, behaviour_file
from rl_motion.tracking import files

FILES = {
    LEARNER_FILE: b"learner",
    LEDGER_FILE: b"ledger",
    "adapter/adapter_config.json": b"config",
    "adapter/adapter_model.safetensors": b"adapter",
}


def manifest(iteration: int) -> Manifest:
    return Manifest(
        iteration=iteration,
        adapter_sha256="a",
        pool_sha256="p",
        weights_sha256={"model": "w"},
        job={"train.seed": "0"},
        threads=1,
        cpu_capability="AVX2",
        torch="2",
        run_id="r",
        mlflow_run_id=None,
        wall_s=1.5,
        metrics={"iteration": float(iteration - 1)},
    )


def newest(store: Commits) -> int | None:
    found = store.newest()
    return found.manifest.iteration if found else None


def test_reads_back_what_was_written_and_keeps_the_last(tmp_path: Path) -> None:
    store = Commits(tmp_path, keep=2)
    assert newest(store) is None
    for iteration in range(4):
        store.write(manifest(iteration), FILES)
    found = store.newest()
    assert found is not None
    assert found.files == FILES
    assert found.manifest.model_copy(update={"files": {}}) == manifest(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000003"]


def test_the_best_stays_beside_the_last(tmp_path: Path) -> None:
    store = Commits(tmp_path, keep=2)
    for iteration, best in ((1, 1), (2, 1), (3, 1), (4, 1), (5, 5), (6, 5), (7, 5)):
        chosen = Best(iteration=best, reward=0.5, low=None, high=None, measured={}, prompts_sha256="v")
        store.write(manifest(iteration).model_copy(update={"best": chosen}), FILES)
        assert set(store.iterations()) == {best, max(iteration - 1, 1), iteration}
        found = store.newest()
        assert found is not None and found.manifest.best == chosen


def test_the_adapters_of_units_in_flight_are_part_of_a_commit(tmp_path: Path) -> None:
    store = Commits(tmp_path, keep=2)
    behind = manifest(4).model_copy(update={"behaviour": {2: "x", 3: "y"}})
    older = {behaviour_file(2): b"two", behaviour_file(3): b"three"}
    with pytest.raises(ValueError, match="want exactly"):
        store.write(behind, FILES)
    store.write(behind, FILES | older)
    found = store.newest()
    assert found is not None and found.files == FILES | older and found.manifest.behaviour == {2: "x", 3: "y"}


@pytest.mark.parametrize("name", [LEARNER_FILE, "adapter/adapter_model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "removed"])
def test_a_damaged_commit_is_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Commits(tmp_path, keep=2)
    for iteration in (1, 2):
        store.write(manifest(iteration), FILES)
    path = tmp_path / "00000002" / name
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else b"\x00" + content[1:])
    with caplog.at_level("WARNING"):
        assert newest(store) == 1
    assert "00000002 is damaged" in caplog.text


@pytest.mark.parametrize("calls", range(1, 11))
def test_a_crash_at_any_moment_leaves_the_commit_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Every step that reaches the disk is made to fail in turn; afterwards writing works again."""
    store = Commits(tmp_path, keep=2)
    store.write(manifest(1), FILES)
    left = [calls]

    def dies(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        try:
            store.write(manifest(2), FILES)
        except OSError:
            assert newest(store) in {1, 2}
        else:
            assert left[0] > 0
    store.write(manifest(2), FILES)
    assert newest(store) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]


def test_control_a_commit_without_hashes_would_take_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with a hash that is always equal, the damaged commit is taken."""
    store = Commits(tmp_path, keep=2)
    for iteration in (1, 2):
        store.write(manifest(iteration), FILES)
    path = tmp_path / "00000002" / LEARNER_FILE
    path.write_bytes(path.read_bytes()[::-1])
    assert newest(store) == 1

    class Blind:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def hexdigest(self) -> str:
            return "0"

    blind = manifest(2).model_copy(update={"files": dict.fromkeys(FILES, "0")})
    (tmp_path / "00000002" / "manifest.json").write_text(blind.model_dump_json())
    monkeypatch.setattr(commit.hashlib, "sha256", Blind)
    assert newest(store) == 2


@pytest.mark.parametrize("name", ["adapter/../../../stolen", "adapter/more.json"])
def test_names_that_are_not_a_commits_own_are_passed_over(tmp_path: Path, name: str) -> None:
    """A run folder from elsewhere cannot make us read or write beyond its commits: the hashes may all be right."""
    store = Commits(tmp_path / "commits", keep=2)
    for iteration in (1, 2):
        store.write(manifest(iteration), FILES)
    assert newest(store) == 2
    folder = tmp_path / "commits" / "00000002"
    (folder / name).write_bytes(b"x")
    hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (*FILES, name)}
    forged = manifest(2).model_copy(update={"files": hashes})
    (folder / "manifest.json").write_text(forged.model_dump_json())
    assert newest(store) == 1
    with pytest.raises(ValueError, match="want exactly"):
        store.write(manifest(3), {**FILES, name: b"x"})


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going back to the commit before would let a resume erase the newest."""
    store = Commits(tmp_path, keep=2)
    for iteration in (1, 2):
        store.write(manifest(iteration), FILES)

    def fails(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(RunFault, match=r"Input/output error; want .*resume"):
            store.newest()
    assert newest(store) == 2


def test_an_atomic_write_leaves_the_old_file_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.yaml"
    files.write_atomic(path, b"old")

    def dies(descriptor: int) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(OSError, match="power cut"):
            files.write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        with pytest.raises(OSError, match="power cut"):  # control: writing in place would have changed it
            files.write_synced(path, b"new")
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize("ends", [OSError("disk"), KeyboardInterrupt()])
def test_what_ends_a_write_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: BaseException
) -> None:
    def dies(descriptor: int) -> None:
        raise ends

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(type(ends)):
            files.write_together({tmp_path / "new" / "page.html": b"page", tmp_path / "new" / "page.npy": b"array"})
    assert list(tmp_path.rglob("*")) == []


def test_drop_after(tmp_path: Path) -> None:
    store = Commits(tmp_path, keep=9)
    for iteration in range(4):
        store.write(manifest(iteration), FILES)
    store.drop_after(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000", "00000001"]
