"""How long somebody waits: for `rl-motion --help`, for the first rollout of a run, and for a killed worker's successor.

    python jobs/bench/startup.py --out bench           # about three minutes on two idle cores

The first two are commands as users type them, each in a process of its own, in turn. The first rollout is there when a
run's first iteration, here of one unit of 48 motions of the demo's model, has been sampled and scored: the moment is
that of its row in metrics.jsonl, less the seconds of the update before it. Files are in the page cache, as after a
first start. A worker is killed (SIGKILL) while it is idle; it is back when another one is ready to work, its model
loaded.

Beside wall-clock seconds are those of the cores that a command and its children used: on a busy machine they say more.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from goals import Goal
from ray_part import Measured, Say, local_ray, processes, run_part

from rl_motion.config import RunFault
from rl_motion.config.load import load_job
from rl_motion.tracking.jsonl import TIME

HELP, LOCAL, RAY, BACK = 0.5, 10.0, 25.0, 10.0
"""Seconds, at most."""
ONE_UNIT = ("train.prompts_per_iteration=6", "train.units_per_step=1", "train.iterations=1000")
PATIENCE_S = 600.0
_COMMAND = (sys.executable, "-m", "rl_motion.cli")


def measure(quick: bool, say: Say) -> Measured:
    """All three, several times; medians."""
    rounds = 1 if quick else 3
    say("--help")
    helps = [_help() for _ in range(1 if quick else 7)]
    runs: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    for _ in range(rounds):
        for name, found in runs.items():
            say(f"the first rollout on {name}")
            found.append(first_rollout(name))
    say("a killed worker")
    with local_ray():
        back = worker_back(rounds)
    first = {name: statistics.median(run["first_rollout_s"] for run in found) for name, found in runs.items()}
    note = f"median of {rounds}, the demo's job with one unit of 48 motions"
    goals = [
        Goal(
            "startup/help",
            statistics.median(run["wall_s"] for run in helps),
            HELP,
            False,
            "s",
            f"median of {len(helps)}",
        ),
        Goal("startup/local", first["local"], LOCAL, False, "s", note),
        Goal("startup/ray", first["ray"], RAY, False, "s", f"{note}, two rollout workers, a cluster of its own"),
        Goal("startup/worker_back", statistics.median(back), BACK, False, "s", f"median of {rounds}, the demo's model"),
    ]
    return goals, {"help": helps, "runs": runs, "back_s": back}


def _help() -> dict[str, float]:
    before, started = _cores_s(), time.perf_counter()
    subprocess.run([*_COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
    return {"wall_s": time.perf_counter() - started, "cores_s": _cores_s() - before}


def first_rollout(backend: str) -> dict[str, float]:
    """Start the demo, wait for its first iteration, and end it as Ctrl-C does.

    Returns:
        Seconds from the command to the first rollout, of the update after it, and of all cores until the command has
        ended (of Ray's own processes only those that it waited for).

    Raises:
        RunFault: the command ended or took too long.
    """
    before = _cores_s()
    with tempfile.TemporaryDirectory() as folder:
        sets = [word for value in (*ONE_UNIT, f"runtime.backend={backend}") for word in ("--set", value)]
        started = time.time()
        # In a group of its own: Ctrl-C in this script ends it too, through `finally`.
        with (Path(folder) / "said").open("wb") as said:
            command = subprocess.Popen(
                [*_COMMAND, "train", "demo", "--out", folder, *sets],
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            row = _first_row(Path(folder) / "demo" / "metrics.jsonl", command)
        except RunFault as fault:
            raise RunFault(f"{fault}: {(Path(folder) / 'said').read_text(errors='replace')[-600:]}") from None
        finally:
            _interrupt(command)
    return {
        "first_rollout_s": row[TIME] / 1000 - row["time/learner_s"] - started,
        "update_s": row["time/learner_s"],
        "wait_s": row["time/wait_s"],
        "cores_s": _cores_s() - before,
    }


def _first_row(path: Path, command: subprocess.Popen[bytes]) -> Mapping[str, float]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        first, whole, _ = (path.read_text(encoding="utf-8") if path.is_file() else "").partition("\n")
        if whole:
            found: dict[str, float] = json.loads(first)
            return found
        if command.poll() is not None:
            raise RunFault(f"the command ended with {command.returncode} before its first iteration")
        time.sleep(0.02)
    raise RunFault(f"got no first iteration within {PATIENCE_S:.0f} s")


def _interrupt(command: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C; what does not end by itself is killed."""
    if command.poll() is None:
        command.send_signal(signal.SIGINT)
    try:
        command.wait(PATIENCE_S / 10)
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()


def worker_back(rounds: int) -> list[float]:
    """Seconds from a rollout worker's death until another is ready, with the demo's model.

    Raises:
        RunFault: none comes.
    """
    from rl_motion.runtime.build import Workshop
    from rl_motion.runtime.ray_backend import RayBackend

    job = load_job("demo", ["runtime.backend=ray", "tracking.mlflow_uri=null", "runtime.rollout_workers=1"])
    backend = RayBackend(job, Workshop())
    try:
        backend.start()
        return [_killed(backend) for _ in range(rounds)]
    finally:
        backend.close()


def _killed(backend: Any) -> float:
    (victim,) = _ready(backend, other_than=None)
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _ready(backend, other_than=victim)
    return time.monotonic() - started


def _ready(backend: Any, other_than: int | None) -> Sequence[int]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        pids = processes(backend)["rollout"]
        if pids and other_than not in pids:
            return pids
        time.sleep(0.02)
    raise RunFault(f"got no rollout worker within {PATIENCE_S:.0f} s")


def _cores_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/startup.json.")] = Path("bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Everything once: the figures say little.")] = False,
) -> None:
    """Run the part."""
    run_part("startup", out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
