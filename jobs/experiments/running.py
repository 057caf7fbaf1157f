"""Runs and measurements as processes of one thread, a few at a time; what is there already is not made again.

A run is `rl-motion train` in its own folder, a measurement is measuring.py. A step that is done says so by its files,
so that the same command goes on after a kill, whatever it killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measuring import Ask, is_measured

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.runtime.build import build_pool, find_weights
from rl_motion.runtime.commit import Commits
from rl_motion.runtime.held import is_held
from rl_motion.tracking.files import write_atomic

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
"""Where processes run: text files of prompts are named from here."""
SPEED_ALONE = {
    "backend", "rollout_workers", "reward_workers", "learner_workers", "max_rollout_workers", "max_reward_workers",
    "keep_commits", "commits_uri", "deadline_s",
}  # fmt: skip
"""Settings of `runtime` that change no number. A new one counts until it is written here."""
_LOOK_S = 2.0
"""Between looks at a run that a process of an earlier call is still working on."""


@dataclass(frozen=True, slots=True)
class Training:
    """One run: what `rl-motion train JOB --out OUT --seed N --set ...` says; its folder is OUT/name."""

    job: Path
    name: str
    out: Path
    seed: int
    sets: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's own."""
        return self.out / self.name

    @property
    def adapter(self) -> Path:
        """What it comes to."""
        return self.folder / "adapter"

    @property
    def settings(self) -> list[str]:
        """Of the command line."""
        return [f"name={self.name}", "runtime.backend=local", *self.sets]

    def resolved(self) -> Job:
        """The job as the run has it."""
        return load_job(str(self.job), self.settings, self.seed)


@dataclass(frozen=True, slots=True)
class Step:
    """One process's worth of work. expected_s: a guess, made better by the steps that are done."""

    name: str
    expected_s: float
    done: Callable[[], bool]
    do: Callable[[], None]


@dataclass
class Progress:
    """Says what was done, and about how long the rest will take."""

    say: Callable[[str], None]
    parallel: int
    waiting: list[Step]
    expected_s: float = 0.0
    took_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, step: Step, took_s: float) -> None:
        """A step is done."""
        with self._lock:
            self.waiting.remove(step)
            self.expected_s += step.expected_s
            self.took_s += took_s
            self.say(f"{step.name}: done in {_minutes(took_s)}; {self.left()}")

    def left(self) -> str:
        """What is left, in words: guesses times how far the guesses were off so far."""
        pace = self.took_s / self.expected_s if self.expected_s else 1.0
        seconds = pace * sum(step.expected_s for step in self.waiting) / self.parallel
        return f"{len(self.waiting)} steps left, about {_minutes(seconds)}" if self.waiting else "nothing left"


def see_through(lines: Sequence[Sequence[Step]], parallel: int, say: Callable[[str], None]) -> float:
    """Do every step that is not done, each line in its order, `parallel` lines at a time.

    Returns:
        The seconds that the work of this call took.

    Raises:
        RuntimeError, UserError: a step failed; those under way were let finish, no other was begun.
    """
    todo = [[step for step in line if not step.done()] for line in lines]
    waiting = [step for line in todo for step in line]
    progress, stop, started = Progress(say, parallel, waiting), threading.Event(), time.monotonic()
    say(f"{sum(map(len, lines)) - len(waiting)} steps done before; {progress.left()}")

    def work(line: Sequence[Step]) -> None:
        for step in line:
            if stop.is_set():
                return
            begun = time.monotonic()
            try:
                step.do()
            except BaseException:
                stop.set()
                raise
            progress.ended(step, time.monotonic() - begun)

    with ThreadPoolExecutor(parallel) as pool:
        try:
            for future in [pool.submit(work, line) for line in todo if line]:
                future.result()
        except BaseException:
            stop.set()
            raise
    return time.monotonic() - started


def training_step(run: Training, expected_s: float) -> Step:
    """Train a run to its end, from wherever it is.

    `done` raises UserError where the folder holds a run of another job, or one on other prompts or weights.
    """
    return Step(f"train {run.name}", expected_s, lambda: is_trained(run), lambda: train(run))


def is_trained(run: Training) -> bool:
    """Whether the run is at its end.

    Raises:
        UserError: its folder holds another run.
    """
    if not (run.folder / "job.yaml").is_file():
        return False
    job, wanted = load_job(str(run.folder / "job.yaml")), run.resolved()
    if _numbers(job) != _numbers(wanted):
        raise UserError(f"got {run.folder}, a run of another job; want that of this call; choose another --out")
    commit = Commits(run.folder / "commits", job.runtime.keep_commits).newest()
    rests_on = commit and (commit.manifest.pool_sha256, commit.manifest.weights_sha256)
    if rests_on not in (None, (build_pool(wanted).sha256, find_weights(wanted))):
        raise UserError(f"got {run.folder}, a run on other prompts or weights; want these; choose another --out")
    return (run.folder / "report.json").is_file() and run.adapter.is_dir()


def train(run: Training) -> None:
    """Train, or go on.

    Raises:
        RuntimeError: it failed; its log says why.
    """
    while is_held(run.folder):  # by what an earlier call, killed since, had begun: it does what is wanted
        time.sleep(_LOOK_S)
    if is_trained(run):
        return
    commits = run.folder / "commits"
    if commits.is_dir() and Commits(commits, 1).newest() is not None:
        words = ["resume", str(run.folder)]
    else:  # killed before anything was trained
        shutil.rmtree(run.folder, ignore_errors=True)
        words = ["train", str(run.job), "--out", str(run.out), "--seed", str(run.seed)]
        words += [part for value in run.settings for part in ("--set", value)]
    process([sys.executable, "-m", "rl_motion.cli", *words], run.folder.with_name(f"{run.name}.log"))


def measuring_step(
    name: str, files: Mapping[Path, Callable[[], Ask]], expected_s: float, adapter: Path | None = None
) -> Step:
    """Measure an arm, file by file in one process; what to ask is asked when the adapter is there.

    Without its adapter it is not done: nothing says what its files are of until that is trained again.

    `done` raises UserError where a file is of something else.
    """

    def missing() -> dict[Path, Ask]:
        # Of a run that is not at its end there is no adapter, and no measurement either.
        return {file: ask() for file, ask in files.items() if not file.is_file() or not is_measured(file, ask())}

    def do() -> None:
        words = [sys.executable, str(HERE / "measuring.py")]
        if not (wanted := missing()):  # the adapter is there again, and is the one that was measured
            return
        for file, ask in wanted.items():
            question = file.with_suffix(".ask.json")
            question.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(question, (json.dumps(asdict(ask), indent=1) + "\n").encode())
            words += [str(question), str(file)]
        process(words, next(iter(wanted)).with_suffix(".log"))

    def done() -> bool:
        there = (adapter is None or adapter.is_dir()) and all(file.is_file() for file in files)
        return there and not missing()

    return Step(name, expected_s, done, do)


def process(words: Sequence[str], log: Path) -> None:
    """Run it in the checkout, with one thread.

    Raises:
        RuntimeError: it failed; its log says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with log.open("ab") as file:
        ended = subprocess.run(
            words, cwd=ROOT, env=os.environ | one, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if ended.returncode:
        raise RuntimeError(f"got exit code {ended.returncode}; see {log}; the same command goes on where it stopped")


def provenance(command: Sequence[str], seeds: Sequence[int], wall_s: float) -> dict[str, Any]:
    """Where results come from: commit, seeds, command, time."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout

    changed = git("diff", "--name-only", "HEAD").split()
    return {
        "command": " ".join(command),
        "commit": git("rev-parse", "HEAD").strip() or "not in a checkout",
        "changed_files": changed,
        "seeds": list(seeds),
        "wall_s": round(wall_s, 1),
        "cores": os.cpu_count(),
    }


def _numbers(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude={"runtime": SPEED_ALONE, "tracking": True})


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
