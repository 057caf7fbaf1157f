"""Whether the driver's memory stays flat and the object store bounded over 200 iterations.

    python jobs/bench/ray_memory.py --out bench        # about a minute on two idle cores

A command as users type it, `rl-motion train`, with a Ray of its own that this script looks into: the embedded model,
two prompts of two motions an iteration, MLflow and commits as always. The driver's resident memory is read after every
iteration; so are the bytes of shared memory that Ray's object store has ever filled. Flat: what the driver holds after
the last iterations is at most 5 % above what it held after the twentieth. Bounded: the store has filled at most 5 %
more by the end than after half of the iterations.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from goals import Goal
from ray_part import Measured, Say, resident_mb, run_part

from rl_motion.config import RunFault

ITERATIONS, WARM = 200, 20
MOST = 1.05
PATIENCE_S = 1500.0
_SETS = (
    "runtime.backend=ray",
    "runtime.rollout_workers=1",
    "policy.steps=3",
    "train.prompts_per_iteration=2",
    "train.prompts_per_unit=2",
    "train.samples_per_prompt=2",
    "train.units_per_step=1",
)


def measure(quick: bool, say: Say) -> Measured:
    """A run's driver and store, iteration by iteration."""
    iterations, warm = (6, 2) if quick else (ITERATIONS, WARM)
    with tempfile.TemporaryDirectory() as folder:
        samples = watched(Path(folder), iterations, say)
    some = max(warm // 4, 1)  # a single sample may fall on a commit that is being written
    before = statistics.median(mb for number, mb, _ in samples if warm <= number < warm + some)
    after = statistics.median(mb for number, mb, _ in samples if number > iterations - some)
    first = max(held for number, _, held in samples if warm <= number <= iterations // 2)
    second = max(held for number, _, held in samples if number > iterations // 2)
    note = f"driver's memory, median of the last {some} of {iterations} iterations over the first from the {warm}th on"
    goals = [
        Goal("memory/driver_growth", after / before, MOST, at_least=False, note=note),
        Goal(
            "memory/object_store",
            second / max(first, 1.0),
            MOST,
            at_least=False,
            note=f"shared memory that it has filled after {iterations} iterations over {iterations // 2}",
        ),
    ]
    numbers, resident, held = zip(*samples, strict=True)
    return goals, {"iterations": numbers, "driver_mb": resident, "store_bytes": held}


def watched(folder: Path, iterations: int, say: Say) -> list[tuple[int, float, float]]:
    """Run the command; (iteration, MB of the driver, bytes in the store) of every iteration that was seen.

    Raises:
        RunFault: the command ended or took too long.
    """
    sets = [word for value in (*_SETS, f"train.iterations={iterations + 1000}") for word in ("--set", value)]
    with (folder / "said").open("wb") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "rl_motion.cli", "train", "demo", "--out", str(folder), *sets],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    samples: list[tuple[int, float, float]] = []
    raylet = 0
    rows, deadline = folder / "demo" / "metrics.jsonl", time.monotonic() + PATIENCE_S
    try:
        while not samples or samples[-1][0] < iterations:
            if command.poll() is not None or time.monotonic() > deadline:
                told = (folder / "said").read_text(errors="replace")[-600:]
                raise RunFault(f"got {len(samples)} iterations of {iterations}, then {command.returncode}: {told}")
            done = rows.read_bytes().count(b"\n") if rows.is_file() else 0
            if done and (not samples or done > samples[-1][0]):
                say(f"iteration {done} of {iterations}")
                raylet = raylet or raylet_of(command.pid)
                samples.append((done, resident_mb(command.pid), store_bytes(raylet)))
            time.sleep(0.02)
    finally:
        _end(command)
    return samples


def raylet_of(pid: int) -> int:
    """The process that holds the object store of the Ray which this process has started.

    Raises:
        RunFault: it has started none.
    """
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            program = (folder / "cmdline").read_bytes().partition(b"\0")[0]
        except OSError:  # ended meanwhile
            continue
        if int(parent) == pid and program.endswith(b"/raylet"):
            return int(folder.name)
    raise RunFault(f"got process {pid}, which has started no Ray")


def store_bytes(raylet: int) -> float:
    """That its object store has ever filled: pages of the shared memory which it keeps open, whoever wrote them."""
    blocks = 0
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        try:
            if "plasma" in os.readlink(link):
                blocks += link.stat().st_blocks
        except OSError:  # closed meanwhile
            continue
    return 512.0 * blocks


def _end(command: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C; what does not end by itself is killed."""
    if command.poll() is None:
        command.send_signal(signal.SIGINT)
    try:
        command.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/ray_memory.json.")] = Path("bench"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Six iterations, for tests: the figures mean nothing.")
    ] = False,
) -> None:
    """Run the part."""
    run_part("ray_memory", out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
