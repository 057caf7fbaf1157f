"""`rl-motion doctor`: what can be seen to be wrong with a machine, a cluster and a job before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rl_motion.config import Job
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.doctor.drill import check_recovery
from rl_motion.runtime.doctor.findings import Case, Check, Finding, made
from rl_motion.runtime.doctor.memory import check_memory
from rl_motion.runtime.doctor.nodes import check_nodes
from rl_motion.runtime.doctor.objects import check_objects
from rl_motion.runtime.doctor.replaying import check_audit
from rl_motion.runtime.doctor.storage import check_commits_uri, check_storage
from rl_motion.runtime.doctor.tracking import check_mlflow

CHECKS: Mapping[str, Check] = {
    "nodes": check_nodes,
    "audit": check_audit,
    "memory": check_memory,
    "storage": check_storage,
    "commits elsewhere": check_commits_uri,
    "MLflow": check_mlflow,
    "object store": check_objects,
    "a worker dies": check_recovery,
}
"""In the order in which they are made: later ones use what earlier ones learned."""


def examine(job: Job, workshop: Workshop, out: Path, begins: Callable[[str], None]) -> Iterator[tuple[str, Finding]]:
    """Make every check, whatever the others find.

    Args:
        job: resolved; what it names has been checked.
        workshop: how its parts are made.
        out: where its runs would lie.
        begins: is told the name of each check before it is made.

    Yields:
        Name and finding of each check.

    Raises:
        UserError: there is no cluster to look at.
    """
    case = Case(job, workshop, out)
    owned = False
    if case.on_ray:
        from rl_motion.runtime.cluster import connect

        begins("joining or starting Ray")
        owned = connect()
    try:
        for name, check in CHECKS.items():
            begins(name)
            yield name, made(check, case)
    finally:
        if owned:
            import ray

            ray.shutdown()
