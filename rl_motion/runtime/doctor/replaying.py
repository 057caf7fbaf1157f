"""The audit outside a run: sample a unit as a rollout worker does, replay it as the learner does, want equal bits."""

from __future__ import annotations

import time

import torch

from rl_motion.policies.audit import audit
from rl_motion.runtime.doctor.findings import Case, Finding, fine
from rl_motion.runtime.doctor.nodes import own_peak


def check_audit(case: Case) -> Finding:
    """Keeps what the unit weighs.

    Raises:
        AuditError: replay differs from the rollout in any bit.
    """
    job = case.job
    threads = torch.get_num_threads()
    torch.set_num_threads(job.runtime.threads)
    try:
        policy = case.workshop.policy(job)
        unit = case.workshop.pool(job).draw(0, job.train)[0]
        began = time.perf_counter()
        with torch.no_grad():
            trajectory = policy.rollout(unit)
        sampled = time.perf_counter()
        audit(policy, trajectory)
        replayed = time.perf_counter()
    finally:
        torch.set_num_threads(threads)
    tensors = [value for name in trajectory.__slots__ if torch.is_tensor(value := getattr(trajectory, name))]
    case.trajectory_bytes = sum(tensor.nbytes for tensor in tensors)
    case.adapter_bytes = sum(tensor.nbytes for tensor in policy.adapter_state().values())
    case.peak_bytes = own_peak()
    return fine(
        f"log-ratio exactly 0 for a unit of {unit.batch} samples; sampled in {sampled - began:.2g} s, replayed with "
        f"gradient in {replayed - sampled:.2g} s"
    )
