"""A disk that fills up while a run runs: it ends as every mistake does, keeps its last whole commit, and can go on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job
from rl_motion.config.load import dump_job
from rl_motion.runtime import commit, frontend, run, run_log
from rl_motion.runtime.commit import Commits
from rl_motion.runtime.frontend import Means
from rl_motion.tracking.files import write_together
from tests import fakes
from tests.fakes import result, toy_job
from tests.integration.wrong_input.desk import refused

State = tuple[bytes, list[dict[str, float]]]


def evaluate(job: Job, folder: Path, wall_s: float) -> Mapping[str, Any]:
    """The toy's, written as the real one is."""
    report = fakes.evaluate(job, folder, wall_s)
    pages = {folder / name: (folder / name).read_bytes() for name in ("report.json", "report.html")}
    for page in pages:
        page.unlink()
    write_together(pages)
    return report


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frontend, "MEANS", Means(fakes.WORKSHOP, evaluate))
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(dump_job(toy_job()))


def rl_motion(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def straight() -> State:
    assert rl_motion("train", "job.yaml", "--out", "straight").exit_code == 0
    return result(Path("straight/toy"))


def ended_well(ended: Result, folder: Path) -> int:
    """No traceback, exit code 2, what to do, nothing half-written; returns the iterations that it says are saved."""
    newest = Commits(folder / "commits", 1).newest()
    assert newest is not None
    saved = newest.manifest.iteration
    notes = [f"saved: {saved} iterations and their adapter in {folder}", f"resume: rl-motion resume {folder}"]
    refused(ended, ["No space left on device", *notes], {}, {})
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    assert not [name for name in names if ".writing-" in name or name.endswith(".partial")]
    for numbered in (folder / "commits").iterdir():
        commit._read(numbered)
    return saved


@dataclass
class Disk:
    """Has room or not, for files whose path has `only` in it; a file is looked up when it is synced."""

    only: str = ""
    full: bool = True
    refused: int = 0

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if self.full and path.endswith(self.only):
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


POINTS = {
    "a commit's first file": (".writing-00000003/learner.safetensors", 2),
    "a commit's adapter": (".writing-00000003/adapter/adapter_model.safetensors", 2),
    "a commit's manifest": (".writing-00000003/manifest.json", 2),
    "a commit's folder": (".writing-00000003", 2),
    "the folder of commits": ("commits", 0),
    "a row, its iteration being committed": ("metrics.jsonl", 1),
    "the adapter": ("adapter/adapter_model.safetensors.partial", 4),
    "the adapter's settings": ("adapter/adapter_config.json.partial", 4),
    "the report": ("report.json.partial", 4),
    "the page": ("report.html.partial", 4),
}
"""What is written when there is no room, and how many iterations are saved by then."""


@pytest.mark.parametrize("point", POINTS)
def test_whatever_is_written_when_the_disk_is_full(
    point: str, straight: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    only, saved = POINTS[point]
    disk, folder = Disk(only), Path("runs/toy")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk.fsync)
        ended = rl_motion("train", "job.yaml", "--out", "runs")
        assert disk.refused
        assert ended_well(ended, folder) == saved
        assert Path(only).name in ended.stderr
        if saved:  # still no room: nothing gets worse
            again = rl_motion("resume", str(folder))
            assert ended_well(again, folder) >= saved
        disk.full = False
        assert rl_motion("resume", str(folder)).exit_code == 0
    assert result(folder) == straight
    assert (folder / "report.json").is_file()


@pytest.mark.parametrize("broken", [False, True])
def test_a_log_without_room_is_no_reason_to_end(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once and costs nothing else. And the control: logging's own handler prints tracebacks, and raises."""
    if broken:
        monkeypatch.setattr(run_log.RunLog, "handleError", run_log.logging.Handler.handleError)
        monkeypatch.setattr(run_log.RunLog, "close", run_log.logging.FileHandler.close)
    assert rl_motion("train", "job.yaml", "--out", "runs", "--set", "train.iterations=2").exit_code == 0
    log = Path("runs/toy/logs/run.log")
    log.unlink()
    log.symlink_to("/dev/full")
    limit = ["--set", "train.iterations=4", "--set", "model.name=toy:nan_reward=2"]
    original = run.identity
    monkeypatch.setattr(run, "identity", lambda job: original(fakes.with_model(job, "toy")))
    ended = rl_motion("resume", "runs/toy", *limit)
    if broken:
        assert ended.exit_code != 0
        return
    assert ended.exit_code == 0, ended.output
    assert ended.stderr.count("run.log cannot be written; the run goes on without it; look at the disk") == 1
    assert "an optimiser step was skipped" in ended.stderr
    assert "Traceback" not in ended.output
    assert len(result(Path("runs/toy"))[1]) == 4


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 160 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("ballast", range(0, 32, 4))
def test_a_disk_that_is_full(ballast: int, tmpfs: Path) -> None:
    """Every commit is kept, so the disk fills by itself; ballast (kB) moves what the last page is asked for."""
    more = ["--set", "runtime.keep_commits=1000", "--set", "train.iterations=30"]
    assert rl_motion("train", "job.yaml", "--out", "straight", *more).exit_code == 0
    (tmpfs / "ballast").write_bytes(bytes(1000 * ballast))
    ended = rl_motion("train", "job.yaml", "--out", str(tmpfs), *more)
    saved = ended_well(ended, tmpfs / "toy")
    assert 0 < saved < 30
    assert ended_well(rl_motion("resume", str(tmpfs / "toy")), tmpfs / "toy") == saved
    subprocess.run(["mount", "-o", "remount,size=4m", tmpfs], check=True)
    assert rl_motion("resume", str(tmpfs / "toy")).exit_code == 0
    assert result(tmpfs / "toy") == result(Path("straight/toy"))


def test_a_learner_without_room_for_a_moment_is_a_fault(tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files pass through the temporary folder, on another disk maybe."""
    (tmpfs / "ballast").write_bytes(bytes(160 * 1024))
    monkeypatch.setattr("tempfile.tempdir", str(tmpfs))
    ended = rl_motion("train", "job.yaml", "--out", "runs")
    refused(ended, [str(tmpfs), "set TMPDIR", "no run folder is kept"], {}, {}, code=1)
    assert not Path("runs").exists()
