"""What workers answer beside their results, and whether these can be what was asked for.

Checked where they were made: the driver sees no trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rl_motion.runtime.workers import Behaviour, Environment, Snapshot
from rl_motion.types import Scored, Trajectory, Unit


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with an answer.

    of_numbers: only its numbers, some of which are not finite: code may come to that by itself, on every machine alike.
    Anything else is no answer at all.
    """

    text: str
    of_numbers: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """An actor that is ready: where it is, and what its `prepare` answered."""

    node: str
    pid: int
    gpus: float
    answer: Environment | Snapshot


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a call is done.

    seconds: it took its worker. flaw: what is wrong with its result, if anything. moved: bytes of a trajectory.
    scored: the result, where it is small enough to come along.
    """

    environment: Environment
    seconds: float
    flaw: Flaw | None
    moved: int = 0
    scored: Scored | None = None


def flaw_of_trajectory(trajectory: Trajectory, unit: Unit, behaviour: Behaviour) -> Flaw | None:
    """None where it is the unit's, made with that adapter, of the right shape, and finite."""
    if trajectory.unit != unit:
        return Flaw(f"got the trajectory of unit {trajectory.unit.index}; want that of unit {unit.index}", False)
    made_with = (trajectory.policy_version, trajectory.adapter_sha256)
    if made_with != (behaviour.version, behaviour.sha256):
        return Flaw(f"got a trajectory of adapter version {made_with[0]}; want version {behaviour.version}", False)
    steps = trajectory.log_prob_BS.shape[-1]
    rows = unit.batch
    tensors: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "log_prob_BS": (trajectory.log_prob_BS, (rows, steps)),
        "drawn_BS": (trajectory.drawn_BS, (rows, steps)),
        "states": (trajectory.states, (rows, steps + 1)),
        "sample": (trajectory.sample, (rows,)),
        "length_B": (trajectory.length_B, (rows,)),
    }
    for name, (tensor, shape) in tensors.items():
        if tensor.shape[: len(shape)] != shape:
            return Flaw(f"got {name} of shape {tuple(tensor.shape)}; want {shape} in front", False)
    for name, (tensor, _) in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return Flaw(f"got {name} that is not finite everywhere", True)
    return None


def flaw_of_scored(scored: Scored, unit: Unit) -> Flaw | None:
    """None where every reward has a finite number for every row of the unit."""
    if scored.unit_index != unit.index:
        return Flaw(f"got rewards of unit {scored.unit_index}; want those of unit {unit.index}", False)
    rewards = {**scored.rewards, "total": scored.total_B}
    for name, reward_B in rewards.items():
        if tuple(reward_B.shape) != (unit.batch,):
            return Flaw(f"got reward {name!r} of shape {tuple(reward_B.shape)}; want ({unit.batch},)", False)
    names = [name for name, reward_B in rewards.items() if not bool(reward_B.isfinite().all())]
    return Flaw(f"got rewards that are not finite: {', '.join(names)}", True) if names else None


def size_bytes(trajectory: Trajectory) -> int:
    """Of its tensors."""
    parts = (trajectory.states, trajectory.log_prob_BS, trajectory.drawn_BS, trajectory.sample, trajectory.length_B)
    return sum(part.nbytes for part in parts)
