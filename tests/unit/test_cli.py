"""Commands: exit codes, what they say, and that `--help` is quick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl_motion import cli
from rl_motion.cli import app
from rl_motion.config import TrackingConfig
from rl_motion.config.load import dump_job
from rl_motion.runtime import frontend
from tests import fakes
from tests.fakes import toy_job

ROOT = Path(__file__).resolve().parents[2]
WITH_FAKES = (
    "from rl_motion.runtime import frontend\n"
    "from tests import fakes\n"
    "frontend.MEANS = fakes.MEANS\n"
    "from rl_motion.cli import main\n"
    "main()\n"
)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def job_file(folder: Path, model: str = "toy", **options: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(dump_job(toy_job(model, **options)))
    return path


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setenv("COLUMNS", "120")


def test_train_then_resume(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = invoke("train", job_file(tmp_path), "--out", out, "--set", "train.iterations=3", "--seed", 5)
    assert made.exit_code == 0, made.output
    run = out / "toy"
    for word in (
        "Before and after",
        str(run / "adapter"),
        str(run / "report.html"),
        "3/3",
    ):
        assert word in made.output.replace("\n", " ")
    names = {path.name for path in run.iterdir()}
    assert names >= {"job.yaml", "metrics.jsonl", "adapter", "commits", "report.json", "report.html", "logs"}
    assert "seed: 5" in (run / "job.yaml").read_text()
    longer = invoke("resume", run, "--set", "train.iterations=4")
    assert longer.exit_code == 0, longer.output
    assert "after 3 iterations" in longer.output
    steps = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]


def test_a_closed_pipe_is_no_fault() -> None:
    command = [sys.executable, "-m", "rl_motion.cli", "config", "demo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("uri", "lines"),
    [
        (TrackingConfig().mlflow_uri, ["MLflow:  rl-motion ui --out out"]),
        ("https://host:5000", ["MLflow:  https://host:5000"]),
        (None, []),
    ],
)
def test_the_end_says_where_the_run_is_tracked(uri: str | None, lines: list[str]) -> None:
    assert [*cli._where_tracked(frontend.Outcome(Path("out/toy"), {}, 1.0, uri))] == lines


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "nowhere.yaml"], "no file"),
        (["resume", "nowhere"], "no job.yaml"),
        (["config", "nowhere"], "no file"),
        (["ui", "--out", "nowhere"], "no mlflow.db"),
        (["sample", "--prompt", "a walk", "--out", "page.txt"], ".html"),
        (["sample", "--prompt", ""], "printable"),
        (["sample", "--prompt", "a walk", "--length", "0"], "length of 0"),
        (["sample"], "--prompt"),
        (["train"], "JOB"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_mistakes_end_with_2_and_a_short_message(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = invoke(*arguments)
    assert ended.exit_code == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.output + ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_key_names_the_near_one(tmp_path: Path) -> None:
    ended = invoke("train", job_file(tmp_path), "--set", "train.iteratoins=3", "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "did you mean 'train.iterations'" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_a_mistake(tmp_path: Path) -> None:
    ended = invoke("train", job_file(tmp_path), "--out", tmp_path / "toy.yaml")
    assert ended.exit_code == 2
    assert "choose another" in ended.stderr


def test_a_fault_ends_with_1_and_says_how_to_go_on(tmp_path: Path) -> None:
    ended = invoke("train", job_file(tmp_path, "toy:bug"), "--out", tmp_path / "out")
    assert ended.exit_code == 1
    for word in ("ValueError: a bug in unit 0", "saved: 0 iterations", "rl-motion resume"):
        assert word in ended.stderr


def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    ended = invoke("train", job_file(tmp_path, "toy:interrupt=2"), "--out", tmp_path / "out")
    assert ended.exit_code == 130
    assert "saved: 2 iterations" in ended.stderr
    assert f"resume: rl-motion resume {tmp_path / 'out' / 'toy'}" in ended.stderr


def test_config_prints_the_whole_tree(tmp_path: Path) -> None:
    printed = invoke("config", job_file(tmp_path), "--set", "policy.steps=7", "--seed", "3")
    assert printed.exit_code == 0
    assert "steps: 7" in printed.output
    assert "seed: 3" in printed.output
    copy = tmp_path / "copy.yaml"
    copy.write_text(printed.output)
    assert invoke("config", copy).output == printed.output


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["submit"], ["jobs"], ["jobs", "logs"]])
def test_help_is_quick_and_loads_nothing_slow(command: list[str]) -> None:
    code = (
        "import sys\nfrom rl_motion.cli import app\n"
        f"app({[*command, '--help']!r}, standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'peft', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_ctrl_c_at_a_terminal(tmp_path: Path, backend: str) -> None:
    """SIGINT goes to the whole process group, workers included, as a terminal sends it."""
    job = job_file(tmp_path, iterations=100_000, backend=backend)
    command = [sys.executable, "-c", WITH_FAKES, "train", str(job), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    run = tmp_path / "out" / "toy"
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert f"rl-motion resume {run}" in stderr
    done = metrics.read_text().count("\n")
    more = ["resume", str(run), "--set", f"train.iterations={done + 2}"]
    again = subprocess.run([*command[:3], *more], cwd=ROOT, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    steps = [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(done + 2))
