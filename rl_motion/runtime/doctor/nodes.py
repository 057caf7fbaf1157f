"""Whether all nodes run the same code and compute alike: one small task on each."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rl_motion.config import RunFault
from rl_motion.runtime.doctor.findings import Case, Finding, NodeFacts, failed, fine, skipped

_PATIENCE_S = 120.0
"""For a node's first process, which imports torch."""
_CGROUP = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def look(address: str) -> NodeFacts:
    """What this process finds where it runs."""
    import ray
    import torch

    free = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    return NodeFacts(
        address=address,
        versions={
            "rl_motion": f"{version('rl-motion')} ({source_sha256()[:12]})",
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "ray": ray.__version__,
        },
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        free_bytes=free_memory(),
        gpus=tuple((torch.cuda.get_device_name(number), bytes_) for number, bytes_ in enumerate(free)),
    )


def source_sha256() -> str:
    """Of the package's Python files: a version says little about a checkout."""
    package = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def free_memory() -> int:
    """Bytes that can still be had, within the limit of a container where there is one."""
    pages = {line.split()[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    free = pages["MemAvailable:"] * 1024
    for limit, used in _CGROUP:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or `max`: no limit
            continue
    return free


def check_nodes(case: Case) -> Finding:
    """Ask every node; keeps what they said."""
    if not case.on_ray:
        case.nodes = [look("this machine")]
        return skipped("runtime.backend=local works in one process, on this machine")
    case.nodes = ask_nodes()
    return compared(look("this process"), case.nodes)


def ask_nodes() -> list[NodeFacts]:
    """What a task finds on each node that is alive.

    Raises:
        RunFault: a node does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from rl_motion.runtime.ray_calls import get

    task: Any = ray.remote(look)
    refs = {
        node["NodeManagerAddress"] + f" ({node['NodeID'][:6]})": task.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        for node in alive_nodes()
    }
    asked = {address: remote.remote(address) for address, remote in refs.items()}
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PATIENCE_S)
    silent = [address for address, ref in asked.items() if ref not in done]
    if silent:
        raise RunFault(
            f"got no answer from {silent} within {_PATIENCE_S:.0f} s; want one; look at `ray status` and their logs"
        )
    return [get(ref) for ref in asked.values()]


def alive_nodes() -> list[dict[str, Any]]:
    """As Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def compared(here: NodeFacts, nodes: Sequence[NodeFacts]) -> Finding:
    """Versions are those of this process on all nodes, and all compute with the same instructions."""
    for node in nodes:
        for name, want in here.versions.items():
            if node.versions.get(name) != want:
                return failed(
                    f"{name} {node.versions.get(name)} on {node.address}",
                    f"{want} on all nodes, as in this process",
                    "install the same image or environment everywhere, and restart Ray there",
                )
    capabilities = {node.cpu_capability for node in nodes}
    if len(capabilities) > 1:
        where = "; ".join(f"{node.address}: {node.cpu_capability}" for node in nodes)
        return failed(
            f"CPUs that round differently ({where})",
            "one CPU capability, as a run refuses workers that differ",
            "use nodes of one kind, or set ATEN_CPU_CAPABILITY=default on all",
        )
    told = ", ".join(f"{name} {value}" for name, value in here.versions.items())
    return fine(f"{len(nodes)} alike: {told}, CPU capability {', '.join(capabilities)}")


def own_peak() -> int:
    """The most memory that this process has held, in bytes."""
    import resource

    scale = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
