"""`rl-motion status` and `scale`: what they print, how they end, and that looking is quick."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config.load import dump_job
from rl_motion.runtime import job_server, status_file, watcher
from rl_motion.runtime.held import held
from rl_motion.runtime.job_server import Ended, Submission
from rl_motion.runtime.rates import PoolRate
from rl_motion.runtime.status_file import RunStatus
from rl_motion.runtime.watcher import watching_run
from tests.fakes import toy_job
from tests.watching import QUIET, Seen

HEAD = "http://head:8265"
JOB = toy_job(backend="ray", rollout_workers=2)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def status(**changes: Any) -> RunStatus:
    known: dict[str, Any] = {
        "run": "toy",
        "name": "toy",
        "pid": 7,
        "host": "here",
        "backend": "ray",
        "mode": "sync",
        "lag": 0,
        "started": time.time(),
        "unix_s": time.time(),
        "state": "RUNNING",
        "done": 2,
        "iterations": 4,
        "metrics": {"reward/total": 0.25, "policy/kl": None, "time/learner_s": 1.5},
        "iteration_s": 30.0,
        "left_s": 60.0,
        "workers": QUIET,
        "rates": {"rollout": PoolRate(0.75, 12.0, 6.0)},
        "mlflow_behind": 4,
    }
    return RunStatus(**{**known, **changes})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "140")
    run = tmp_path / "toy"
    (run / "logs").mkdir(parents=True)
    (run / "job.yaml").write_text(dump_job(JOB))
    return run


def test_status_of_a_run_that_trains(folder: Path) -> None:
    status_file.write(folder, status())
    with held(folder):
        shown = invoke("status", folder)
    assert shown.exit_code == 0
    for words in ("RUNNING", "2/4", "1m00s left", "reward 0.25", "75%", "died 1", "a worker died", "lacks 4 rows"):
        assert words in shown.stdout, words
    assert "gone" not in shown.stdout and "no word" not in shown.stdout


def test_status_tells_silence_from_an_end(folder: Path) -> None:
    status_file.write(folder, status(unix_s=time.time() - 300))
    with held(folder):
        assert "no word for 5m00s" in invoke("status", folder).stdout
    gone = invoke("status", folder).stdout
    assert "GONE" in gone and f"rl-motion resume {folder}" in gone
    status_file.ended(folder, "FAILED", time.time())
    failed = invoke("status", folder).stdout
    assert "FAILED" in failed and "run.log" in failed and "GONE" not in failed
    status_file.ended(folder, "FINISHED", time.time())
    assert "resume" not in invoke("status", folder).stdout


def test_status_for_machines(folder: Path) -> None:
    status_file.write(folder, status())
    with held(folder):
        printed = json.loads(invoke("status", folder, "--json").stdout)
    assert printed["held"] is True and printed["workers"]["waiting"] == 1
    assert RunStatus.model_validate(printed) == status_file.read(folder)
    lines = invoke("status", folder, "--json", "--watch").stdout.splitlines()  # ends, as nobody holds the run
    assert [json.loads(line)["held"] for line in lines] == [False]


def test_watching_without_a_terminal_looks_once(folder: Path) -> None:
    status_file.write(folder, status())
    with held(folder):
        assert invoke("status", folder, "--watch").stdout.count("RUNNING") == 1


@pytest.mark.parametrize("content", [None, "", "{", '{"format": 2}', '{"format": 1}', "[" * 1000])
def test_status_files_that_are_none(folder: Path, content: str | None) -> None:
    if content is not None:
        status_file.path_of(folder).write_text(content)
    ended = invoke("status", folder)
    assert ended.exit_code == 2
    assert "; want " in ended.stderr and "run.log" in ended.stderr


def test_places_that_are_no_run(tmp_path: Path) -> None:
    for command in (["status"], ["scale", "--rollout-workers", 2]):
        ended = invoke(*command, tmp_path / "nowhere")
        assert ended.exit_code == 2
        assert "has no job.yaml; want a run's folder" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [[], ["--rollout-workers", 0], ["--reward-workers", 4097], ["--rollout-workers", "x"]]
)
def test_sizes_that_are_none(folder: Path, options: list[object]) -> None:
    status_file.write(folder, status())
    before = sorted(folder.rglob("*"))
    ended = invoke("scale", folder, *options)
    assert ended.exit_code == 2
    assert "got " in ended.stderr and "want" in ended.stderr
    assert sorted(folder.rglob("*")) == before


def test_scale_prints_before_and_after(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "_PERIOD_S", 0.02)
    with held(folder), watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        while not (status_file.path_of(folder).exists() and status_file.read(folder).state == "RUNNING"):
            time.sleep(0.01)
        scaled = invoke("scale", folder, "--rollout-workers", 5, "--reward-workers", 2)
        refused = invoke("scale", folder, "--rollout-workers", 13)
    assert scaled.exit_code == 0
    assert scaled.stdout.splitlines() == ["rollout workers: 2 -> 5", "reward workers: 1 -> 2"]
    assert (refused.exit_code, refused.stdout) == (2, "") and "want luck" in refused.stderr


class Server:
    """A job server whose jobs say `words` and end with `code`."""

    words: tuple[str, ...] = ()
    code = 0
    interrupts = False

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, submission: Submission) -> str:
        type(self).sent = submission  # type: ignore[attr-defined]
        return "toy-1"

    def follow(self, job_id: str, show: Any) -> Ended:
        for word in self.words:
            show(word)
        if self.interrupts:
            raise KeyboardInterrupt
        return Ended(self.code, "its last lines say why" if self.code else "")

    def stop(self, job_id: str) -> bool:
        type(self).stopped = job_id  # type: ignore[attr-defined]
        return True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fresh = type("Fresh", (Server,), {"sent": None, "stopped": None})
    monkeypatch.setattr(job_server, "JobServer", fresh)
    monkeypatch.setenv("COLUMNS", "140")
    yield fresh


def test_scale_on_a_cluster(server: Any) -> None:
    server.words = (
        "2026-11-21 12:46:22,792\tINFO job_manager.py:581 -- Runtime env is setting up.\nRunning entry",
        "point for job scale-1: rl-motion scale\nrollout workers: 2 -> 4",
    )
    ended = invoke("scale", "~/runs/my demo", "--rollout-workers", 4, "--address", HEAD)
    assert (ended.exit_code, ended.stdout) == (0, "rollout workers: 2 -> 4\n")
    assert server.sent.entrypoint == "rl-motion scale ~/'runs/my demo' --rollout-workers 4"
    assert dict(server.sent.files) == {}


def test_status_on_a_cluster_is_shown_as_it_is_here(server: Any) -> None:
    line = json.dumps({**json.loads(status().model_dump_json()), "held": True}) + "\n"
    server.words = (line[:50], line[50:])
    ended = invoke("status", "~/runs/toy", "--address", HEAD)
    assert server.sent.entrypoint == "rl-motion status ~/runs/toy --json"
    assert "RUNNING" in ended.stdout and "75%" in ended.stdout
    raw = invoke("status", "~/runs/toy", "--address", HEAD, "--json", "--watch")
    assert server.sent.entrypoint == "rl-motion status ~/runs/toy --json --watch"
    assert json.loads(raw.stdout)["done"] == 2


def test_a_mistake_on_a_cluster_ends_as_it_does_here(server: Any) -> None:
    server.words, server.code = ("error: got a run that is over\x1b[2J\n",), 2
    ended = invoke("status", "~/runs/toy", "--address", HEAD)
    assert ended.exit_code == 2
    assert "error: got a run that is over" in ended.stderr and "\x1b" not in ended.stderr


def test_ctrl_c_ends_the_looking_there_too(server: Any) -> None:
    server.interrupts = True
    ended = invoke("status", "~/runs/toy", "--address", HEAD, "--watch")
    assert (ended.exit_code, server.stopped) == (130, "toy-1")


def test_a_place_on_the_cluster_has_to_outlive_the_job(server: Any) -> None:
    for command in (["status"], ["scale", "--rollout-workers", 2]):
        ended = invoke(*command, "runs/toy", "--address", HEAD)
        assert (ended.exit_code, server.sent) == (2, None)
        assert "absolute or in ~/" in ended.stderr


def test_looking_is_quick(folder: Path) -> None:
    """Neither torch nor ray is imported; CPU seconds, the best of three, as the machine is shared."""
    status_file.write(folder, status())
    program = (
        "import sys, time; from rl_motion.cli import app\n"
        f"try: app(['status', {str(folder)!r}])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules), time.process_time(), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        modules, spent = ran.stderr.strip().rsplit(" ", 1)
        assert "GONE" in ran.stdout and modules == "set()"
        seconds.append(float(spent))
    assert min(seconds) < 0.5
