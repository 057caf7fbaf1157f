"""What a check found, in got / want / do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rl_motion.config import Job, RunFault, UserError
from rl_motion.runtime.build import Workshop


@dataclass(frozen=True, slots=True)
class Finding:
    """`failed` says got, want, do; `fine` says what was found; `skipped` says why."""

    state: Literal["fine", "failed", "skipped"]
    text: str


def fine(text: str) -> Finding:
    """All is well, and here is what was found."""
    return Finding("fine", text)


def failed(got: str, want: str, do: str) -> Finding:
    """Something has to be done."""
    return Finding("failed", f"got {got}; want {want}; {do}")


def skipped(why: str) -> Finding:
    """There is nothing to look at."""
    return Finding("skipped", why)


@dataclass(slots=True)
class Case:
    """A job, where it is to run, and what earlier checks learned about it."""

    job: Job
    workshop: Workshop
    out: Path
    """Where runs will lie."""
    adapter_bytes: int | None = None
    trajectory_bytes: int | None = None
    """Of one unit. Both are known once the audit has been made."""
    peak_bytes: int | None = None
    """Of this process, once it has replayed a unit with gradient."""
    nodes: list[NodeFacts] = field(default_factory=list)

    @property
    def on_ray(self) -> bool:
        """Whether the job works on a cluster."""
        return self.job.runtime.backend == "ray"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a process finds on its machine.

    versions: of rl_motion (with a hash of its source), Python, torch and ray. free_bytes: memory that can be had.
    gpus: free bytes by name of the device.
    """

    address: str
    versions: dict[str, str]
    cpu_capability: str
    free_bytes: int
    gpus: tuple[tuple[str, int], ...]


Check = Callable[[Case], Finding]


def made(check: Check, case: Case) -> Finding:
    """Make a check; one that fails to be made is a finding too, never the end of the others."""
    try:
        return check(case)
    except (UserError, RunFault) as error:
        return Finding("failed", str(error))
    except Exception as error:
        said = " ".join(str(error).split())[:400] or "no words"
        return failed(f"{type(error).__name__}: {said}", "a check that can be made", "mend that, and look again")


def size(count: float) -> str:
    """Bytes for people: `12 MB`, `1.5 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
