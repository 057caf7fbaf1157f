"""The worker-kill drill: a rollout worker dies with a unit in its hands, which has to come back with the same bits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from rl_motion.config import Job
from rl_motion.protocols import MotionPolicy
from rl_motion.runtime.backend import Backend, Rollouts, make_backend
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.doctor.findings import Case, Finding, failed, fine, skipped
from rl_motion.types import Trajectory, Unit

_UNITS = 4
"""Sampled in the drill, or as many as an iteration has."""

MakeBackend = Callable[[Job, Workshop], Backend]
Doomed = Callable[[], bool]
"""Whether whoever asks has to die; True once, for whoever asks first."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """calm_s, disturbed_s: seconds for the units without and with a death. died: retries for that reason.

    same: whether every trajectory and every reward has the same bits.
    """

    calm_s: float
    disturbed_s: float
    died: int
    same: bool


class Mortal:
    """A policy whose process dies within a rollout, where that is its fate; all else is the policy's own."""

    def __init__(self, policy: MotionPolicy, doomed: Doomed) -> None:
        """`doomed` is asked before every rollout."""
        self._policy = policy
        self._doomed = doomed

    def __getattr__(self, name: str) -> Any:
        """Of the policy."""
        return getattr(self._policy, name)

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        """The unit's trajectory, or death."""
        if self._doomed():
            os._exit(1)
        return self._policy.rollout(unit, policy_version=policy_version)


def mortal_policy(job: Job, make: Callable[[Job], MotionPolicy], doomed: Doomed) -> Any:
    """A `Workshop.policy` whose policies are mortal."""
    return Mortal(make(job), doomed)


class Fate:
    """Decides who dies: an actor of its own, so that it is one for all nodes."""

    def __init__(self) -> None:
        """Nobody, for now."""
        self._dooms = 0

    def doom(self) -> None:
        """The next who asks."""
        self._dooms += 1

    def takes(self) -> bool:
        """Whether it is whoever asks."""
        taken = self._dooms > 0
        self._dooms -= taken
        return taken


def drill(job: Job, workshop: Workshop, make: MakeBackend, doom: Callable[[], None], doomed: Doomed) -> Recovery:
    """Sample and score some units twice, the second time with a death.

    Args:
        job: its workers are made as for a run.
        workshop: how.
        make: what works; a backend on Ray.
        doom: from now on `doomed` is True once.
        doomed: travels to the workers.
    """
    units = workshop.pool(job).draw(0, job.train)[:_UNITS]
    mortal = replace(workshop, policy=partial(mortal_policy, make=workshop.policy, doomed=doomed))
    with closing(make(job, mortal)) as backend:
        behaviour = backend.start().behaviour
        began = time.perf_counter()
        calm = backend.ask(units, behaviour)()
        between = time.perf_counter()
        doom()
        disturbed = backend.ask(units, behaviour)()
        ended = time.perf_counter()
        same = _bits(calm) == _bits(disturbed)
        died = backend.status().retries.get("died", 0)
    return Recovery(between - began, ended - between, died, same)


def check_recovery(case: Case, make: MakeBackend = make_backend) -> Finding:
    """On this cluster, with the job's own model."""
    if not case.on_ray:
        return skipped("runtime.backend=local has no workers that could die")
    import ray

    fate: Any = ray.remote(Fate).options(num_cpus=0).remote()
    try:
        seen = drill(case.job, case.workshop, make, lambda: ray.get(fate.doom.remote()), partial(_ask, fate))
    finally:
        ray.kill(fate)
    return judged(seen)


def judged(seen: Recovery) -> Finding:
    """What a drill came to."""
    if not seen.died:
        return failed("no worker that died", "one, as it was told to", "report this: the drill does not work here")
    if not seen.same:
        return failed(
            "other numbers after a worker died",
            "the same bits, or they depend on who computes them",
            "look for a policy or reward that draws from the process's own random numbers",
        )
    lost_s = max(seen.disturbed_s - seen.calm_s, 0.0)
    return fine(f"a worker died with its unit, which came back with the same bits; {lost_s:.1f} s lost")


def _ask(fate: Any) -> bool:
    import ray

    return bool(ray.get(fate.takes.remote()))


def _bits(rollouts: Rollouts) -> list[bytes]:
    """Everything that was sampled and scored, in unit order."""
    found: list[bytes] = []
    for held in rollouts.trajectories:
        trajectory = _fetched(held)
        tensors = (getattr(trajectory, name) for name in trajectory.__slots__)
        found += [tensor.contiguous().cpu().numpy().tobytes() for tensor in tensors if torch.is_tensor(tensor)]
    for scored in rollouts.scored:
        found += [scored.rewards[name].cpu().numpy().tobytes() for name in sorted(scored.rewards)]
    return found


def _fetched(held: Any) -> Trajectory:
    if isinstance(held, Trajectory):
        return held
    import ray

    trajectory: Trajectory = ray.get(held)
    return trajectory
