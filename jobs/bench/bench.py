"""The benchmark: every part in a process of its own, then bench.json, a table and plots.

    make bench                                           # all of it, in bench/; half an hour on two idle cores
    python jobs/bench/bench.py --only mdm --only memory  # these parts anew; the others as they were measured
    python jobs/bench/bench.py --join                    # measure nothing: table and plots of the parts that are there
    python jobs/bench/bench.py --quick --out /tmp/quick  # everything small, in minutes; its figures mean nothing

A part that was measured with this commit, on this machine and at this size, is not measured again: what was interrupted
goes on where it stopped. `--again` measures all of them. A part that fails is said at the end, beside the table of the
others. What is measured and how: docs/benchmarks.md.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from goals import Part, machine, read_part, write_bench
from rich.console import Console
from table import markdown, plots

from rl_motion.config import UserError
from rl_motion.tracking.files import write_atomic

HERE = Path(__file__).resolve().parent
_SAME = ("processor", "cores", "torch")
"""What two measurements must share to be of one machine."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part: its script, the words after it, and about how many seconds it takes on two idle cores."""

    name: str
    script: str
    seconds: int
    words: tuple[str, ...] = ()


STEPS = (
    Step("limits", "limits.py", 15),
    Step("embedded", "stages.py", 90, ("embedded", "--seconds", "40")),
    Step("mdm", "stages.py", 640, ("mdm", "--seconds", "240")),
    Step("unet", "stages.py", 250, ("unet", "--seconds", "100")),
    Step("memory", "memory.py", 195),
    Step("ray_overhead", "ray_overhead.py", 230),
    Step("ray_sync", "ray_sync.py", 40),
    Step("ray_memory", "ray_memory.py", 70),
    Step("scale", "scale.py", 95),
    Step("startup", "startup.py", 160),
)
NAMES = tuple(step.name for step in STEPS)


def commit() -> str | None:
    """The commit that is checked out, with `+` and a hash of what tracked files differ in; None outside a clone."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "diff", "HEAD"], cwd=HERE, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + (f"+{hashlib.sha256(changes).hexdigest()[:12]}" if changes else "")


def up_to_date(path: Path, now: str | None, quick: bool) -> bool:
    """Whether a part was measured with this code, at this size, here."""
    stamp = path.with_suffix(".commit")
    if now is None or not (path.is_file() and stamp.is_file()):
        return False
    part, here = read_part(path), machine()
    same = all(part.machine.get(name) == here[name] for name in _SAME)
    return same and part.quick == quick and stamp.read_text(encoding="utf-8") == now


def run_step(step: Step, out: Path, quick: bool, now: str | None) -> str | None:
    """Measure a part; returns what is to be said where it failed. Its own progress goes to the terminal."""
    command = [sys.executable, str(HERE / step.script), *step.words, "--out", str(out), *(["--quick"] if quick else [])]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode == 0:
        write_atomic(stamp_of(out, step.name), (now or "").encode())
        return None
    return f"{step.name}: exit code {ended.returncode} of {' '.join(command[1:])}"


def stamp_of(out: Path, name: str) -> Path:
    """The file that says with which commit a part was measured."""
    return out / "parts" / f"{name}.commit"


def chosen(only: Sequence[str]) -> list[Step]:
    """The steps of these names, all where there are none.

    Raises:
        UserError: an unknown name.
    """
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise UserError(f"got the part {unknown[0]!r}; want one of {', '.join(NAMES)}; correct --only")
    return [step for step in STEPS if not only or step.name in only]


def join(out: Path) -> list[Part]:
    """Write bench.json, table and plots of the parts that are there; returns them.

    Its commit is the one that all of them were measured with; none where they differ.

    Raises:
        UserError: there are none.
    """
    paths = [out / "parts" / f"{name}.json" for name in NAMES]
    parts = [read_part(path) for path in paths if path.is_file()]
    if not parts:
        raise UserError(f"got no part in {out / 'parts'}; want at least one; run the benchmark first")
    stamps = [stamp_of(out, part.name) for part in parts]
    commits = {stamp.read_text(encoding="utf-8") if stamp.is_file() else "" for stamp in stamps}
    content = write_bench(out / "bench.json", parts, next(iter(commits)) or None if len(commits) == 1 else None)
    write_atomic(out / "table.md", markdown(content).encode())
    plots(content, out)
    return parts


def main(
    out: Annotated[Path, typer.Option(help="The folder of everything that is written.")] = Path("bench"),
    only: Annotated[list[str] | None, typer.Option(help=f"A part to measure: {', '.join(NAMES)}. Repeatable.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what was measured with this commit, too.")] = False,
    join_only: Annotated[bool, typer.Option("--join", help="Measure nothing: join the parts that are there.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, for tests: the figures mean nothing.")] = False,
) -> None:
    """Measure every part of the benchmark that is not measured yet, and write bench.json, table.md and plots."""
    console = Console(stderr=True)
    failures: list[str] = []
    try:
        now = commit()
        steps = [] if join_only else chosen(only or [])
        left = [s for s in steps if again or only or not up_to_date(out / "parts" / f"{s.name}.json", now, quick)]
        started = time.monotonic()
        for number, step in enumerate(left):
            rest = sum(one.seconds for one in left[number:]) / 60
            console.print(f"[{number + 1}/{len(left)}] {step.name}: about {step.seconds} s on two idle cores, "
                          f"{rest:.0f} min to go")  # fmt: skip
            if (failure := run_step(step, out, quick, now)) is not None:
                failures.append(failure)
                console.print(failure, style="red")
        parts = join(out)
    except UserError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print(f"interrupted; the parts that are done are in {out / 'parts'}: the same command goes on")
        raise typer.Exit(130) from None
    goals = [goal for part in parts for goal in part.goals]
    console.print(f"{sum(goal.met for goal in goals)} of {len(goals)} goals met; {time.monotonic() - started:.0f} s; "
                  f"{out / 'bench.json'}, {out / 'table.md'}")  # fmt: skip
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
