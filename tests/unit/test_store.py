"""A store: what is read is a whole commit, whatever happened while it was written; S3 and folders alike."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem, LocalFileSystem

from rl_motion.config import RunFault, UserError
from rl_motion.runtime import store as stores
from rl_motion.runtime.commit import ADAPTER_FILES, LEARNER_FILE, LEDGER_FILE, Best, Commit, Manifest, seal
from rl_motion.runtime.store import Store, open_store
from rl_motion.runtime.store_uri import check_uri, run_in
from tests.stores import Failing, s3

EVERY = (LEARNER_FILE, LEDGER_FILE, *ADAPTER_FILES)


class Crash(BaseException):
    """The process is gone."""


def row(iteration: int) -> dict[str, float]:
    return {"iteration": float(iteration), "reward/total": 0.25 * iteration}


def commit(iteration: int, run_id: str = "r", best: int | None = None) -> Commit:
    chosen = best and Best(iteration=best, reward=1.0, low=None, high=None, measured={}, prompts_sha256="v")
    manifest = Manifest(
        iteration=iteration, adapter_sha256="a", pool_sha256="p", weights_sha256={}, job={}, threads=1,
        cpu_capability="", torch="", run_id=run_id, mlflow_run_id=None, wall_s=0.0, metrics=None, best=chosen or None,
    )  # fmt: skip
    return Commit(manifest, {name: f"{name} of {iteration}".encode() for name in EVERY})


def put(store: Store, *commits: Commit) -> None:
    for one in commits:
        store.add_row(row(one.manifest.iteration - 1))
        store.write(one.manifest, one.files)


def newest(store: Store) -> int | None:
    """The iteration of the newest commit, whose files are all its own."""
    found = store.newest()
    if found is None:
        return None
    assert found.files == commit(found.manifest.iteration).files
    return found.manifest.iteration


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0,) * len(stores._PAUSES_S))


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "folder":
        yield (tmp_path).as_uri()
        return
    with s3(monkeypatch) as bucket:
        yield bucket


def local(tmp_path: Path, keep: int = 2, filesystem: Any = None) -> Store:
    return Store(filesystem or LocalFileSystem(), f"{tmp_path}/demo", "the store", keep)


def test_reads_back_what_was_written_and_keeps_the_last_and_the_best(uri: str) -> None:
    store = open_store(uri, "demo", keep=2)
    assert not store.taken and newest(store) is None
    put(store, commit(1), commit(2, best=2), commit(3, best=2), commit(4, best=2), commit(5, best=2))
    again = open_store(uri, "demo")
    assert again.taken and newest(again) == 5
    assert {i for i in range(9) if again.read(i)} == {2, 4, 5}
    assert again.rows(5) == [row(i) for i in range(5)]
    assert not open_store(uri, "other").taken


def test_what_an_upload_left_is_no_commit_and_goes_with_the_next(uri: str) -> None:
    store = open_store(uri, "demo", keep=2)
    put(store, commit(1))
    store._put("commits/00000002/learner.safetensors", b"half")
    assert newest(store) == 1
    put(store, commit(3))
    assert store._commits() == ({1, 3}, {1, 3})


@pytest.mark.parametrize("name", [LEARNER_FILE, "manifest.json", ADAPTER_FILES[1]])
@pytest.mark.parametrize("damage", ["truncated", "changed", "removed"])
def test_a_damaged_commit_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    store = local(tmp_path)
    put(store, commit(1), commit(2))
    path = tmp_path / "demo" / "commits" / "00000002" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(content[:-1] if damage == "truncated" else b"\x00" + content[1:])
    assert newest(store) == 1
    # The run went on from the commit before, and makes this one again.
    store.catch_up(b"job", [row(0)], [commit(1)])
    assert store._commits() == ({1}, {1})
    put(store, commit(2))
    assert newest(store) == 2


def crashing(tmp_path: Path, at: int) -> tuple[Store, Failing]:
    def before(number: int) -> None:
        if number == at:
            raise Crash

    failing = Failing(LocalFileSystem(), before)
    return local(tmp_path, filesystem=failing), failing


def test_a_crash_at_any_request_leaves_the_commit_before_or_the_new_one(tmp_path: Path) -> None:
    """Every request is made to be the last in turn; afterwards the run goes on and writes again."""
    ends = []
    for at in range(1, 200):
        folder = tmp_path / str(at)
        put(local(folder), commit(1), commit(2))
        store, failing = crashing(folder, at)
        try:
            put(store, commit(3))
        except Crash:
            ends.append(newest(local(folder)))
            assert local(folder).rows(2) == [row(0), row(1)]
        else:
            break
        here = commit(3)  # what the run's folder has: the disk comes first
        local(folder).catch_up(b"job", [row(0), row(1), row(2)], [here])
        put(local(folder), commit(4))
        assert newest(local(folder)) == 4
        assert local(folder).rows(4) == [row(i) for i in range(4)]
        assert local(folder)._commits() == ({3, 4}, {3, 4})
    assert failing.requests < at and len(ends) > 20
    assert set(ends) == {2, 3} and ends == sorted(ends)


def test_control_a_manifest_that_comes_first_would_be_read_by_half(tmp_path: Path) -> None:
    """Negative control: without hashes, and with the manifest first, a crash leaves a commit that is not whole."""
    put(local(tmp_path), commit(1))
    third = commit(2)
    folder = tmp_path / "demo" / "commits" / "00000002"
    (folder / "adapter").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(seal(third.manifest, third.files))
    assert newest(local(tmp_path)) == 1
    for name, content in third.files.items():
        (folder / name).write_bytes(content[:3])
    assert newest(local(tmp_path)) == 1
    hashes = {name: hashlib.sha256(content[:3]).hexdigest() for name, content in third.files.items()}
    blind = json.loads(seal(third.manifest, third.files)) | {"files": hashes}
    (folder / "manifest.json").write_text(json.dumps(blind))
    found = local(tmp_path).newest()
    assert found is not None and found.manifest.iteration == 2


def faulty(tmp_path: Path, every: int) -> Store:
    """One in so many requests fails."""

    def before(number: int) -> None:
        if number % every == 0:
            raise OSError("AWS Error SLOW_DOWN during PutObject operation")

    return local(tmp_path, filesystem=Failing(LocalFileSystem(), before))


def test_errors_that_pass_cost_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(local(tmp_path), commit(1))
    store = faulty(tmp_path, every=5)
    with caplog.at_level(logging.WARNING, "rl_motion"):
        put(store, commit(2))
    assert newest(local(tmp_path)) == 2
    assert "SLOW_DOWN" in caplog.text and "trying again" in caplog.text


def test_a_store_that_stays_away_ends_the_run(tmp_path: Path) -> None:
    put(local(tmp_path), commit(1))
    store = faulty(tmp_path, every=1)
    with pytest.raises(RunFault, match=r"got no answer from the store.*SLOW_DOWN.*; want .*; mend that and resume"):
        put(store, commit(2))
    assert newest(local(tmp_path)) == 1


def test_catching_up_sends_what_is_missing_and_no_more(tmp_path: Path) -> None:
    every = [row(i) for i in range(4)]
    counted = Failing(LocalFileSystem(), lambda _: None)
    store = local(tmp_path, filesystem=counted)
    store.catch_up(b"job", every, [commit(2, best=2), commit(4, best=2)])
    assert store.job() == b"job" and newest(store) == 4 and store.read(2) and store.rows(4) == every
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    store.catch_up(b"job", every, [commit(2, best=2), commit(4, best=2)])
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before[path]} == {"job.yaml"}


def test_another_run_or_a_run_that_went_further_is_refused(tmp_path: Path) -> None:
    store = local(tmp_path)
    put(store, commit(3))
    with pytest.raises(UserError, match="another run of this name"):
        store.catch_up(b"job", [], [commit(5, run_id="other")])
    with pytest.raises(UserError, match=r"got a run of 2 iterations, which has 3.*rl-motion resume URI"):
        store.catch_up(b"job", [], [commit(2)])
    with pytest.raises(RunFault, match=r"got 3 iterations .*one process"):
        put(store, commit(2))
    assert newest(store) == 3


def test_rows_that_are_lost_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = local(tmp_path)
    put(store, *(commit(i) for i in range(1, 6)))
    rows = tmp_path / "demo" / "rows"
    (rows / "00000001.json").unlink()
    (rows / "00000002.json").write_text('{"iteration": 2.0, "rew')
    (rows / "00000003.json").write_text('{"iteration": 7.0}')
    with caplog.at_level(logging.WARNING, "rl_motion"):
        assert store.rows(5) == [row(0), row(4)]
    assert "iterations [1, 2, 3]" in caplog.text


@pytest.mark.parametrize("name", ["../../../stolen", "adapter/more.json", "/etc/passwd"])
def test_names_from_a_store_never_escape(tmp_path: Path, name: str) -> None:
    store = local(tmp_path)
    put(store, commit(1), commit(2))
    forged = commit(2).manifest.model_copy(update={"files": dict.fromkeys((*EVERY, name), "0" * 64)})
    (tmp_path / "demo" / "commits" / "00000002" / "manifest.json").write_text(forged.model_dump_json())
    read: list[str] = []
    store._get = lambda path, get=store._get: (read.append(path), get(path))[1]  # type: ignore[method-assign]
    assert newest(store) == 1
    assert not any("stolen" in path or "more" in path or "passwd" in path for path in read)
    (tmp_path / "demo" / "commits" / "..2").mkdir()
    assert store._commits()[1] == {1, 2}


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "s3://b",
        "s3://b/f/g",
        "gs://b/f",
        "file:///mnt/nfs",
        "s3://b/f?endpoint_override=h:9000&scheme=http&region=x",
    ],
)
def test_uris_that_are_taken(uri: str | None) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://key:secret@b/f", "AWS_SECRET_ACCESS_KEY"),
        ("s3://b/f?access_key=secret", "AWS_ACCESS_KEY_ID"),
        ("s3://b/f?secret_key=secret", "in the environment"),
        ("s3://b/f?session_token=secret", "in the environment"),
        ("s3://b/f%3Fsecret_key=secret", "in the environment"),
        ("/mnt/secret", "file"),
        ("s4://secret/f", "'s3'"),
        ("s3:///secret", "bucket"),
        ("s3://", "bucket"),
        ("file://secret/f", "absolute"),
        ("file:///", "absolute"),
        ("http://[secret", "correct it"),
    ],
)
def test_uris_that_are_refused(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=r"runtime\.commits_uri: got .*; want ") as caught:
        check_uri(uri)
    assert words in str(caught.value)
    assert "secret/" not in str(caught.value) and "=secret" not in str(caught.value)


def test_a_bucket_or_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is not mounted is not filled beside the mount; a mistyped bucket costs no minute of tries."""
    with pytest.raises(UserError, match="is no bucket or folder"):
        open_store((tmp_path / "mnt").as_uri(), "demo")
    with s3(monkeypatch) as uri, pytest.raises(UserError, match="'rums' is no bucket"):
        open_store(uri.replace("runs", "rums"), "demo")


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    with pytest.raises(RunFault, match="got no answer from s3://b/f") as caught:
        open_store("s3://b/f?endpoint_override=127.0.0.1:1&scheme=http&region=x", "demo")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://b/demo", ("s3://b", "demo")),
        ("s3://b/f/demo-2/", ("s3://b/f", "demo-2")),
        ("file:///mnt/nfs/demo", ("file:///mnt/nfs", "demo")),
        ("s3://b/f/demo?scheme=http&endpoint_override=h:1", ("s3://b/f?scheme=http&endpoint_override=h:1", "demo")),
    ],
)
def test_where_in_a_store_a_run_is(uri: str, found: tuple[str, str]) -> None:
    assert run_in(uri) == found


@pytest.mark.parametrize("uri", ["s3://b", "s3://b/", "s3://b/..", "s3://b/f/.hidden", "file:///demo", "s3://b/f%2F.."])
def test_what_is_no_run(uri: str) -> None:
    with pytest.raises(UserError, match="want "):
        run_in(uri)


def test_the_environment_gives_what_a_uri_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyArrow reads AWS_ENDPOINT_URL; a query may name the place, never a key."""
    with s3(monkeypatch) as uri:
        put(open_store(uri, "demo"), commit(1))
        import os

        host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        store = open_store(f"{uri}?endpoint_override={host}&scheme=http", "demo")
        assert newest(store) == 1
        assert FileSystem.from_uri(f"{uri}?endpoint_override={host}")[0].type_name == "s3"
