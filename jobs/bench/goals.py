"""What the benchmark is to reach, and the files that say whether it did.

Every part of the benchmark is a script of its own that writes `parts/<part>.json`; `bench.py` runs them and joins the
parts that are there to `bench.json`:

    {"goals": {name: {"value", "goal", "met", "at_least", "unit", "note", "part"}},
     "machine": {...}, "stages": {part: {...}}, "commit": ..., "quick": false, "seconds": {part: ...}}

A value is a ratio of two times of one run wherever it can be, so that it may be compared between machines; what is in
seconds, bytes or MB says so in its unit.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rl_motion.config import UserError
from rl_motion.tracking.files import write_atomic


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and what it is to reach.

    Attributes:
        name: `part/what`, in lower case: `rollout/mdm_full_fp32`.
        value: what was measured, finite.
        goal: what it is to reach.
        at_least: whether the value is to be at least the goal; else at most.
        unit: of value and goal: `x` of a ratio, `s`, `ms`, `B`, `MB`.
        note: over what it was measured, in a few words.
    """

    name: str
    value: float
    goal: float
    at_least: bool
    unit: str = "x"
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a value that nothing can be said of.

        Raises:
            ValueError: value or goal is not finite.
        """
        if not (math.isfinite(self.value) and math.isfinite(self.goal)):
            raise ValueError(f"got {self.name} = {self.value} for a goal of {self.goal}; want finite numbers")

    @property
    def met(self) -> bool:
        """Whether the value reaches the goal, exactly: nothing is rounded in its favour."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the benchmark measured.

    Attributes:
        name: of the part.
        goals: its figures.
        stages: everything else that it measured, as JSON has it.
        seconds: how long it took.
        quick: whether its sizes were those of tests, whose figures mean nothing.
        machine: where it ran.
    """

    name: str
    goals: Sequence[Goal]
    stages: Mapping[str, Any]
    seconds: float
    quick: bool = False
    machine: Mapping[str, Any] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    """Where this process runs: processor, cores that it may use, memory in GB, Python and torch."""
    import os

    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def write_part(path: Path, part: Part) -> None:
    """Write a part's file, whole or not at all."""
    content = asdict(part) | {"goals": [asdict(goal) for goal in part.goals]}
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_part(path: Path) -> Part:
    """A part's file.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Part(**content | {"goals": tuple(Goal(**goal) for goal in content["goals"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"got {path}, which is no part of a benchmark ({error}); remove it and measure again") from None


def joined(parts: Sequence[Part], commit: str | None) -> dict[str, Any]:
    """The content of `bench.json`.

    Args:
        parts: those that were measured, in the order of the table.
        commit: of the code that was measured; None where nobody knows.

    Raises:
        ValueError: two goals of one name.
    """
    goals: dict[str, dict[str, Any]] = {}
    for part in parts:
        for goal in part.goals:
            if goal.name in goals:
                raise ValueError(f"got the goal {goal.name} twice, of {goals[goal.name]['part']} and {part.name}")
            entry = asdict(goal) | {"met": goal.met, "part": part.name}
            goals[goal.name] = {key: value for key, value in entry.items() if key != "name"}
    return {
        "goals": goals,
        "machine": dict(parts[0].machine) if parts else {},
        "machines": {part.name: dict(part.machine) for part in parts},
        "stages": {part.name: dict(part.stages) for part in parts},
        "seconds": {part.name: part.seconds for part in parts},
        "quick": any(part.quick for part in parts),
        "commit": commit,
    }


def write_bench(path: Path, parts: Sequence[Part], commit: str | None) -> dict[str, Any]:
    """Write `bench.json`, whole or not at all; returns its content."""
    content = joined(parts, commit)
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return content


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
