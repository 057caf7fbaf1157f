"""Base beside tuned: the same prompts, the same noise, one record per motion.

    for split in held_out, original, train:
        for unit in units of the drawn prompts:
            for arm in base, tuned[, adapter_on]:
                roll out -> decode -> joints -> oracle, reward, sentinels, diversity -> records

Arms are policies: `base` has no adapter, `tuned` is the result as training used it. Where that policy makes
its last call with the adapter off, `adapter_on` is the same trajectory with it on. Noise is keyed by the
unit, so row i of every arm starts from the same latent; where it does not, the comparison is refused.

Legend: B rows of a unit (prompt-major), F frames, J joints, P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_motion.config import Job, RunFault
from rl_motion.evaluation.diversity import diversity_P
from rl_motion.evaluation.oracle_success import Judge, embedded_judge, success_B
from rl_motion.evaluation.selection import SPLITS, draw, make_units
from rl_motion.motion import sentinels
from rl_motion.motion.joints import motion_joints
from rl_motion.protocols import MotionPolicy
from rl_motion.rewards.combine import Term, refuse_non_finite, score
from rl_motion.rewards.of_job import job_terms
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Trajectory, Unit

BASE, TUNED, ADAPTER_ON = "base", "tuned", "adapter_on"
SENTINELS = ("bone_drift", "jerk", "foot_skate")


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured on one motion; `diversity` is its prompt's (None with one sample per prompt).

    `oracle_success` and `bone_drift` are None where the motion is not HumanML3D's (see `Evaluation.not_judged`).
    """

    split: str
    arm: str
    prompt: Prompt
    sample: int
    oracle_success: float | None
    reward: float
    bone_drift: float | None
    jerk: float
    foot_skate: float
    diversity: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt's first sample, base and tuned, for the page: joints [F, J, 3] in metres, float32."""

    prompt: Prompt
    fps: float
    joints_by_arm: Mapping[str, NDArray[np.float32]]
    success_by_arm: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What the arms are examined with: where prompts come from, who judges, what rewards."""

    prompts: Callable[[str], Sequence[Prompt]]
    terms: Sequence[Term]
    judge: Judge = embedded_judge


@dataclass(slots=True)
class Evaluation:
    """Everything measured, row i of every arm of a split paired; and what is shown."""

    records: list[Record] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    adapter_sha256: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)
    """What was not measured -> why."""

    def of(self, split: str, arm: str) -> list[Record]:
        """The records of one arm on one split, in the order of units and rows (the same for every arm)."""
        return [record for record in self.records if record.split == split and record.arm == arm]

    @property
    def arms(self) -> list[str]:
        """The arms measured, in order."""
        return list(self.adapter_sha256)


@runtime_checkable
class FinishesWithAdapter(Protocol):
    """A policy whose last call has the adapter off, and which can also make that call with it on."""

    def adapter_to_the_end(self, trajectory: Trajectory) -> Trajectory | None:
        """The same trajectory with the adapter on in its last call; None where there is no such call."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One unit of one split, and what to measure it with."""

    split: str
    unit: Unit
    bench: Bench


def embedded_bench(job: Job) -> Bench:
    """The embedded world's prompts and oracle, and the job's own rewards."""
    from rl_motion.data.embedded import prompts

    return Bench(prompts=prompts, terms=job_terms(job))


def evaluate(
    job: Job, policies: Mapping[str, MotionPolicy], bench: Bench, splits: Mapping[str, str] = SPLITS
) -> Evaluation:
    """Measure every arm on every split, in units of fixed size, without gradient.

    Args:
        job: its `evaluation` says how much, its `train.prompts_per_unit` the size of a unit.
        policies: `base` and `tuned`. Guidance and last step are theirs.
        bench: what to measure with.
        splits: name in the records -> split of the bench; settings are chosen on val, never on test.

    Raises:
        ValueError: an arm is missing, or the arms are not the same policy.
        RunFault: the arms' noise differs, a motion is not finite, or a reward is not.
    """
    _check_arms(policies)
    result = Evaluation()
    for split, source in splits.items():
        prompts = draw(bench.prompts(source), job.evaluation.prompts, seed=job.evaluation.seed)
        if len(prompts) < job.evaluation.prompts:
            result.warnings.append(
                f"{split}: {source} has only {len(prompts)} prompts; {job.evaluation.prompts} asked for"
            )
        wanted = job.evaluation.page_prompts if split == "held_out" else 0
        for unit in make_units(job, prompts):
            _examine(_Piece(split, unit, bench), policies, result, show=wanted - len(result.shown))
    return result


def _check_arms(policies: Mapping[str, MotionPolicy]) -> None:
    if not {BASE, TUNED} <= policies.keys():
        raise ValueError(f"got the arms {sorted(policies)}; want at least {BASE!r} and {TUNED!r}")
    hashes = {arm: policies[arm].schedule_hash for arm in (BASE, TUNED)}
    if hashes[BASE] != hashes[TUNED]:
        raise ValueError(
            f"got base and tuned with different schedules ({hashes[BASE]} and {hashes[TUNED]}); want the "
            "same solver, steps, guidance and last step; build both from one PolicyConfig"
        )


def _examine(piece: _Piece, policies: Mapping[str, MotionPolicy], result: Evaluation, *, show: int) -> None:
    """Measure one unit under every arm; append its records and up to `show` prompts for the page."""
    unit = piece.unit
    first: Trajectory | None = None
    joints: dict[str, Tensor] = {}
    lengths: dict[str, list[int]] = {}
    measured: dict[str, list[Record]] = {}
    for arm, policy, trajectory in _rollouts(unit, policies):
        with torch.no_grad():
            motions = policy.decode(trajectory)
            first = first or trajectory
            _check_paired(unit, first, trajectory, arm)
            joints[arm], lengths[arm] = _joints(motions, unit), motions.length_B.tolist()
            measured[arm] = _measure(piece, arm, motions, joints[arm])
            result.not_judged |= _not_judged(motions.representation)
        if result.adapter_sha256.setdefault(arm, trajectory.adapter_sha256) != trajectory.adapter_sha256:
            raise RunFault(f"the adapter of arm {arm!r} changed during evaluation; freeze it and evaluate again")
        result.records += measured[arm]
    for position, prompt in enumerate(unit.prompts[: max(show, 0)]):
        row = position * unit.samples_per_prompt
        result.shown.append(
            Shown(
                prompt=prompt,
                fps=motions.fps,
                joints_by_arm={arm: joints[arm][row, : lengths[arm][row]].numpy() for arm in (BASE, TUNED)},
                success_by_arm={arm: _verdict(measured[arm][row]) for arm in (BASE, TUNED)},
            )
        )


def _rollouts(unit: Unit, policies: Mapping[str, MotionPolicy]) -> Iterator[tuple[str, MotionPolicy, Trajectory]]:
    for arm in (BASE, TUNED):
        policy = policies[arm]
        with torch.no_grad():
            trajectory = policy.rollout(unit)
        yield arm, policy, trajectory
        if arm == TUNED and isinstance(policy, FinishesWithAdapter):
            finished = policy.adapter_to_the_end(trajectory)
            if finished is not None:
                yield ADAPTER_ON, policy, finished


def _check_paired(unit: Unit, first: Trajectory, other: Trajectory, arm: str) -> None:
    """Refuse to compare arms that start from different latents: the difference would be mostly noise."""
    same = first.unit == other.unit == unit and torch.equal(first.states[:, 0], other.states[:, 0])
    if not same:
        raise RunFault(
            f"arm {arm!r} did not get the prompts and the noise of the first arm in unit {unit.index}; want "
            "paired arms (noise keyed by the unit, not by the process); the adapter is saved, mend the "
            "policy and evaluate again"
        )


def _joints(motions: Motions, unit: Unit) -> Tensor:
    """Joints [B, F, J, 3] in metres, float32 on the CPU."""
    if motions.normalisation is not Normalisation.NONE:
        raise ValueError(f"got motion as {motions.form}; want it un-normalised; decode the trajectory with its policy")
    valid_BF = torch.arange(motions.features_BFD.shape[1]) < motions.length_B.cpu()[:, None]
    features_BFD = motions.features_BFD.float().cpu()
    broken = (~torch.isfinite(features_BFD).all(dim=-1) & valid_BF).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise RunFault(
            f"got a motion that is not finite for prompt {unit.row_prompts[broken[0]].text!r} ({len(broken)} "
            f"of {unit.batch} rows); want finite motion; evaluate an earlier commit, or train with a lower "
            "learning rate"
        )
    return motion_joints(replace(motions, features_BFD=features_BFD))


def _not_judged(representation: Representation) -> dict[str, str]:
    """What cannot be measured on motion of this representation, and why: oracle and bones are HumanML3D's."""
    if representation is Representation.HUMANML3D_263:
        return {}
    known = f"is {Representation.HUMANML3D_263}, and this model gives {representation}"
    return {
        "oracle_success": f"the motion that the oracle's rules are fitted to {known}",
        "bone_drift": f"the skeleton that it compares with {known}, with bones of its own",
    }


def _verdict(record: Record) -> bool | None:
    return None if record.oracle_success is None else bool(record.oracle_success)


def _measure(piece: _Piece, arm: str, motions: Motions, joints_BFJ3: Tensor) -> list[Record]:
    unit, bench = piece.unit, piece.bench
    length_B = motions.length_B.cpu()
    prompts = unit.row_prompts
    success: Sequence[float | None] = [None] * len(prompts)
    drift: Sequence[float | None] = [None] * len(prompts)
    if not _not_judged(motions.representation):
        verdicts = success_B(joints_BFJ3, length_B, prompts, fps=motions.fps, judge=bench.judge)
        success = [float(verdict) for verdict in verdicts]
        drift = sentinels.bone_drift_B(joints_BFJ3, length_B).tolist()
    total = refuse_non_finite(score(bench.terms, motions, unit), unit).total_B.tolist()
    spread_P = diversity_P(joints_BFJ3, length_B, unit.samples_per_prompt)
    spread = None if spread_P is None else spread_P.repeat_interleave(unit.samples_per_prompt).tolist()
    jerk = sentinels.jerk_B(joints_BFJ3, length_B, motions.fps).tolist()
    skate = sentinels.foot_skate_B(joints_BFJ3, length_B, motions.fps).tolist()
    return [
        Record(
            split=piece.split,
            arm=arm,
            prompt=prompt,
            sample=row % unit.samples_per_prompt,
            oracle_success=success[row],
            reward=total[row],
            bone_drift=drift[row],
            jerk=jerk[row],
            foot_skate=skate[row],
            diversity=None if spread is None else spread[row],
        )
        for row, prompt in enumerate(prompts)
    ]
