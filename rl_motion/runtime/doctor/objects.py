"""How fast trajectories move: through the object store of this machine, and from it to every other node."""

from __future__ import annotations

import time
from typing import Any

from rl_motion.runtime.doctor.findings import Case, Finding, failed, fine, skipped
from rl_motion.runtime.doctor.nodes import alive_nodes

BYTES = 64_000_000
SLOWEST_BYTES_S = 10_000_000
"""A 100 Mbit network: a trajectory of a large model would take longer to move than to sample."""
_PATIENCE_S = 60.0


def check_objects(case: Case) -> Finding:
    """64 MB: put and read here, then fetched by a task on each other node."""
    if not case.on_ray:
        return skipped("runtime.backend=local moves nothing")
    import numpy as np
    import ray

    block = np.random.default_rng(0).integers(0, 255, BYTES, dtype=np.uint8)
    began = time.perf_counter()
    ref = ray.put(block)
    int(ray.get(ref).sum())
    speeds = {"here": BYTES / (time.perf_counter() - began)}
    here = ray.get_runtime_context().get_node_id()
    for node in alive_nodes():
        if node["NodeID"] != here:
            speeds[f"to {node['NodeManagerAddress']} ({node['NodeID'][:6]})"] = BYTES / _fetched(node["NodeID"], ref)
    told = ", ".join(f"{where} {speed / 1e6:.0f} MB/s" for where, speed in speeds.items())
    if min(speeds.values()) < SLOWEST_BYTES_S:
        return failed(told, f"at least {SLOWEST_BYTES_S / 1e6:.0f} MB/s", "look at the network, or use nodes nearby")
    return fine(told + ("" if len(speeds) > 1 else " (one node)"))


def _fetched(node_id: str, ref: Any) -> float:
    """Seconds that a node takes to have an object."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(_fetch).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
    )
    seconds: float = ray.get(task.remote([ref]), timeout=_PATIENCE_S)
    return seconds


def _fetch(refs: list[Any]) -> float:
    import ray

    began = time.perf_counter()
    int(ray.get(refs[0]).sum())
    return time.perf_counter() - began
