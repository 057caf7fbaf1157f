"""Wrong input: command lines, and folders that are no run or another one's."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.runtime import frontend
from rl_motion.runtime import loop as loops
from tests import fakes
from tests.integration.wrong_input.desk import SECRET, Case, Desk, Finished, listing, refused, sample, table, train

ROOT = Path(__file__).resolve().parents[3]
LOOP = loops.train


@table(
    Case("unknown command", ["trian", "job.yaml"], ["'trian'", "Did you mean 'train'"]),
    Case("unknown command like no other", ["frobnicate"], ["'frobnicate'", "--help"]),
    Case("unknown option", [*train(), "--sed", "3"], ["--sed", "--seed"]),
    Case("unknown short option", [*train(), "-x"], ["-x"]),
    Case("unknown option before the command", ["--verbose", "train"], ["--verbose"]),
    Case(
        "a password beside a mistake",
        [*train(f"tracking.mlflow_uri=https://u:{SECRET}@h"), "--bogus"],
        ["tracking.mlflow_uri=...", "--bogus"],
    ),
    Case("a password after --set=", ["train", "x", f"--set=a=https://u:{SECRET}@h", "--bogus"], ["--set=a=..."]),
    Case("a setting without --set", ["config", "x", f"tracking.mlflow_uri=u:{SECRET}@h"], ["mlflow_uri=..."]),
    Case("a password as a command", [f"https://u:{SECRET}@h"], ["..."]),
    Case("no job", ["train"], ["JOB", "train --help"]),
    Case("no run", ["resume"], ["RUN"]),
    Case("no prompt", ["sample"], ["--prompt"]),
    Case("no place for a calibration", ["calibrate", "job.yaml"], ["--out"]),
    Case("two jobs", ["config", "job.yaml", "job.yaml"], ["job.yaml"]),
    Case("an option without value", ["config", "job.yaml", "--set"], ["--set"]),
    Case("a seed in words", [*train(), "--seed", "soon"], ["--seed", "soon"]),
    Case("a negative seed", [*train(), "--seed", "-1"], ["--seed", "-1"]),
    Case("a seed of 30 digits", [*train(), "--seed", "9" * 30], ["train.seed"]),
    Case("a seed of 5000 digits", [*train(), "--seed", "9" * 5000], ["--seed"]),
    Case("--set without =", ["config", "job.yaml", "--set", "train.seed"], ["'train.seed'", "a.b=c"]),
    Case("--set without key", ["config", "job.yaml", "--set", "=3"], ["'=3'"]),
    Case("--set with an empty part", ["config", "job.yaml", "--set", "train..seed=3"], ["train..seed"]),
    Case("--set below a value", ["config", "job.yaml", "--set", "name.sub=3"], ["'name' is the value"]),
    Case("--set beyond a list", ["config", "job.yaml", "--set", "rewards.9.weight=3"], ["below 1", "'rewards'"]),
    Case("--set at 5000 digits", ["config", "job.yaml", "--set", f"rewards.{'9' * 5000}=3"], ["below 1"]),
    Case("--set with half a list", ["config", "job.yaml", "--set", "rewards=[1"], ["rewards=[1"]),
    Case("--set with an object", ["config", "job.yaml", "--set", "name=!!python/name:os.system"], ["python/name"]),
    Case("--set with an impossible day", ["config", "job.yaml", "--set", "name=2026-13-45"], ["2026-13-45"]),
    Case("--set with an escape", ["config", "job.yaml", "--set", "\x1b[31mred=1"], ["unknown key"]),
    Case("--set that is empty", ["config", "job.yaml", "--set", ""], ["--set ''"]),
    Case("samples 0", sample("--samples", "0"), ["--samples", "0"]),
    Case("samples 65", sample("--samples", "65"), ["--samples", "65"]),
    Case("a length in words", sample("--length", "long"), ["--length", "long"]),
    Case("a page of no kind", sample("--out", "page.txt"), ["page.txt", ".html"]),
    Case("a page below a file", sample("--out", "job.yaml/page.html"), ["job.yaml/page.html", "no folder"]),
    Case("a page of a long name", sample("--out", "o" * 600), ["File name too long"]),
    Case("motions in a file's place", sample("--format", "bvh", "--out", "zoo/mdm/config.json/x"), ["config.json"]),
    Case("a format of no kind", sample("--format", "fbx"), ["fbx", "glb"]),
    Case(
        "mp4 without ffmpeg",
        sample("--format", "html", "--format", "mp4"),
        ["no ffmpeg", "--format gif"],
        lambda d: d.monkeypatch.setenv("PATH", str(d.path("zoo"))),
    ),
    Case("a skeleton for a page", sample("--skeleton", "job.yaml"), ["--skeleton job.yaml", "--format bvh"]),
    Case("no skeleton", sample("--format", "glb", "--skeleton", "nowhere.bvh"), ["nowhere.bvh"]),
    Case("a skeleton of no kind", sample("--format", "bvh", "--skeleton", "job.yaml"), ["job.yaml, line 1"]),
    Case(
        "half a skeleton",
        sample("--format", "bvh", "--skeleton", "half.bvh"),
        ["--skeleton half.bvh, line 4", "cut off"],
        lambda d: d.write("half.bvh", "HIERARCHY\nROOT Hips\n{\nOFFSET 0 0 0\n"),
    ),
    Case(
        "a skeleton of another animal",
        sample("--format", "bvh", "--skeleton", "fish.bvh"),
        ["fish.bvh", "Fin"],
        lambda d: d.write(
            "fish.bvh",
            "HIERARCHY\nROOT Fin\n{\nOFFSET 0 0 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n"
            "End Site\n{\nOFFSET 0 1 0\n}\n}\nMOTION\nFrames: 1\nFrame Time: 0.05\n0 0 0\n",
        ),
    ),
    Case("a port in words", ["ui", "--port", "http"], ["--port", "http"]),
    Case("port 0", ["ui", "--port", "0"], ["--port"]),
    Case("port 70000", ["ui", "--port", "70000"], ["--port", "70000"]),
    Case("ui without runs", ["ui", "--out", "nowhere"], ["nowhere", "mlflow.db"]),
    Case("ui on a file", ["ui", "--out", "job.yaml"], ["job.yaml", "mlflow.db"]),
    Case("motions in words", ["calibrate", "job.yaml", "--out", "c.json", "--motions", "many"], ["--motions"]),
    Case("--out a file", [*train(), "--out", "job.yaml"], ["job.yaml", "choose another"]),
    Case("--out below a file", [*train(), "--out", "job.yaml/runs"], ["job.yaml/runs", "choose another"]),
    Case("--out of a long name", [*train(), "--out", "o" * 600], ["File name too long"]),
    Case("resume of nothing", ["resume", "nowhere"], ["'nowhere'", "job.yaml"]),
    Case("resume of a file", ["resume", "job.yaml"], ["'job.yaml'"]),
    Case("resume of a folder", ["resume", "zoo"], ["'zoo'", "job.yaml"]),
    Case("resume of a long name", ["resume", "r" * 600], ["rrr"]),
    Case("resume where nothing was trained", ["resume", "."], ["commit", "rl-motion train"]),
)
def test_command_lines(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


@pytest.fixture
def finished(desk: Desk) -> Desk:
    """A desk with a run of one iteration, of toys."""
    desk.monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    desk.monkeypatch.setattr(loops, "train", LOOP)
    ended = CliRunner().invoke(app, train())
    assert ended.exit_code == 0, ended.output + ended.stderr
    return desk


def resume(*sets: str) -> list[str]:
    return ["resume", "runs/right", *(word for text in sets for word in ("--set", text))]


@table(
    Case("an unknown key", resume("train.iteratoins=3"), ["did you mean 'train.iterations'"]),
    Case("another setting", resume("policy.steps=5"), ["policy.steps: got 5", "want 4", "rl-motion train"]),
    Case("another seed", resume("train.seed=9"), ["train.seed: got 9"]),
    Case("other threads", resume("runtime.threads=2"), ["runtime.threads: got 2"]),
    Case("a broken job.yaml", resume(), ["job.yaml", "not YAML"], lambda d: d.write("runs/right/job.yaml", "name: [")),
    Case("an empty job.yaml", resume(), ["job.yaml", "empty"], lambda d: d.write("runs/right/job.yaml", "")),
    Case("no commits", resume(), ["commit", "start again"], lambda d: d.remove("runs/right/commits")),
)
def test_resumes(case: Case, finished: Desk, hold: Callable[[Case], None]) -> None:
    hold(case)


def test_a_run_that_another_process_works_on(finished: Desk, hold: Callable[[Case], None]) -> None:
    with finished.path("runs/right/logs/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hold(Case("held", resume(), ["runs/right", "another process"]))


def process(desk: Desk, *words: str, **environment: str) -> Finished:
    """The same command line in a process of its own, as a user has it."""
    env = {name: value for name, value in os.environ.items() if name != "HOME"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rl_motion.cli", *words]
    ran = subprocess.run(command, cwd=desk.work, env=env | environment, capture_output=True, text=True, check=False)
    return Finished(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["config", "job.yaml", "--set", "train.learning_rate=.nan"], ["train.learning_rate", "nan"]),
        (["trian"], ["'trian'", "Did you mean 'train'"]),
        (["resume", "nowhere"], ["'nowhere'"]),
    ],
)
def test_in_a_process_without_a_home_and_with_odd_threads(desk: Desk, words: list[str], says: list[str]) -> None:
    before = listing(desk.work.parent)
    ended = process(desk, *words, OMP_NUM_THREADS="many", MKL_NUM_THREADS="-1", SOME_TOKEN=SECRET)
    refused(ended, says, before, listing(desk.work.parent))
