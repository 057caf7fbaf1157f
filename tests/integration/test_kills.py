"""kill -9 of the driver, again and again, in the middle of anything: the run ends as one that nobody killed.

`POINTS` kills, each of another process. To try more: POINTS=20 pytest tests/integration/test_kills.py
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job
from rl_motion.config.load import dump_job, load_job
from rl_motion.runtime import frontend
from rl_motion.runtime.store import Store
from rl_motion.tracking.jsonl import JsonlTracker
from rl_motion.tracking.mlflow_tracker import make_database
from tests import fakes
from tests.fakes import result, rows, toy_job

POINTS = int(os.environ.get("POINTS", "6"))
SEED = 20_261
ITERATIONS = 3 * POINTS + 4
SYNCS = 18
"""`os.fsync` calls of an iteration and its commit, more or less."""
NEVER = 10**9
KINDS = (("sync", 3 * SYNCS), ("row", 4), ("put", 3 * SYNCS), ("batch", 5))
"""Calls at which the process may end, and how many of them it makes at most before: `os.fsync`, a row of metrics.jsonl
(its commit is there), an object of the store, a part of MLflow's row."""

Point = tuple[str, int, float]
"""Of which calls, which one, and how many seconds after it the process ends."""


def job(out: Path) -> Job:
    """With everything that a commit carries: units in flight, validation, a store, MLflow."""
    tree = toy_job(iterations=ITERATIONS, mode="async", staleness=2, commits_uri=(out / "store").as_uri()).model_dump()
    tree["evaluation"] |= {"validate_every": 3, "validation_prompts": 4}
    tree["tracking"]["mlflow_uri"] = f"sqlite:///{out}/mlflow.db"
    tree["train"]["publish"] = "best"
    return Job.model_validate(tree)


def points() -> list[Point]:
    """While a commit is written or shortly after, between it and its row, within the store's, within MLflow's row."""
    dice = random.Random(SEED)
    found: list[Point] = []
    for number in range(POINTS):
        name, most = KINDS[number % len(KINDS)]
        delay_s = dice.choice([0.0, 0.01, 0.1]) if name == "sync" else 0.0
        found.append((name, dice.randrange(1, most), delay_s))
    return found


def ending(call: Callable[..., Any], after: int, delay_s: float, slow_s: float) -> Callable[..., Any]:
    """A call that takes longer than usual, and ends this process so long after it was made so many times."""
    left = [after]

    def made(*arguments: Any, **options: Any) -> Any:
        time.sleep(slow_s)
        left[0] -= 1
        if left[0] == 0 and delay_s == 0.0:
            os.kill(os.getpid(), signal.SIGKILL)
        if left[0] == 0:
            threading.Timer(delay_s, os.kill, [os.getpid(), signal.SIGKILL]).start()
        return call(*arguments, **options)

    return made


def drive(out: Path, point: Point) -> None:
    """Start the run in OUT, or go on with it, until it ends or is killed."""
    from mlflow import MlflowClient

    name, after, delay_s = point
    if (out / "runs").is_dir():  # the first is killed while MLflow makes its tables; the others shall find them
        make_database(f"sqlite:///{out}/mlflow.db")
    for kind, owner, call, slow_s in (
        ("sync", os, "fsync", 0.01),
        ("row", JsonlTracker, "append", 0.0),
        ("put", Store, "_put", 0.0),
        ("batch", MlflowClient, "log_batch", 0.0),
    ):
        setattr(owner, call, ending(getattr(owner, call), after if name == kind else NEVER, delay_s, slow_s))
    frontend.MEANS = fakes.MEANS
    folder, quiet = out / "runs" / "toy", Console(file=io.StringIO())
    if list(folder.glob("commits/*/manifest.json")):
        frontend.resume(folder, [], quiet)
    else:
        frontend.start(load_job(out / "job.yaml"), out / "runs", quiet)


def nursery() -> None:
    """Imports once what takes long, then gives every line of stdin, (folder, point), a process; says how it ended."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    assert threading.active_count() == 1  # a fork copies no thread
    for line in sys.stdin:
        out, point = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                drive(Path(out), point)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def committed(folder: Path) -> dict[str, Any]:
    """The last commit's manifest, without what depends on when and where it was made."""
    content = json.loads((sorted((folder / "commits").iterdir())[-1] / "manifest.json").read_text())
    for name in ("wall_s", "run_id", "mlflow_run_id", "metrics"):
        del content[name]
    return {**content, "job": {k: v for k, v in content["job"].items() if not k.endswith("_uri")}}


def series(out: Path, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("rl_motion").experiment_id])
    assert found.info.status == "FINISHED"
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_never(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, out):
        (folder / "store").mkdir(parents=True)
        (folder / "job.yaml").write_text(dump_job(job(folder)))
    never = ("sync", NEVER, 0.0)
    lines = [(str(whole), never), *((str(out), point) for point in points()), (str(out), never)]
    ended = subprocess.run(
        [sys.executable, "-c", "from tests.integration.test_kills import nursery; nursery()"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        input="".join(f"{json.dumps(line)}\n" for line in lines),
        capture_output=True, text=True, timeout=60 + 15 * POINTS, check=False,
    )  # fmt: skip
    assert ended.stdout.split() == ["0", *["-9"] * POINTS, "0"], ended.stderr
    folders = [path / "runs" / "toy" for path in (whole, out)]
    assert result(folders[1]) == result(folders[0])
    assert committed(folders[1]) == committed(folders[0])
    assert [row["iteration"] for row in rows(folders[1])] == list(range(ITERATIONS))
    for name in ("reward/total", "iteration", "validation/reward"):
        assert series(out, name) == series(whole, name)
    assert [step for step, _ in series(out, "iteration")] == list(range(ITERATIONS))
