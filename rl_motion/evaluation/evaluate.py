"""Base beside tuned: the same prompts, the same noise, one record per motion.

    for split in held_out, original, train:
        for unit in units of the drawn prompts:
            for arm in base, tuned[, adapter_on]:
                roll out -> decode -> joints -> oracle, reward, sentinels, diversity, evaluator -> records

Arms are policies: `base` has no adapter, `tuned` is the result as training used it. Where that policy makes
its last call with the adapter off, `adapter_on` is the same trajectory with it on. Noise is keyed by the
unit, so row i of every arm starts from the same latent; where it does not, the comparison is refused.

Legend: B rows of a unit (prompt-major), F frames, J joints, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_motion.config import Job, RunFault
from rl_motion.evaluation import sentinels
from rl_motion.evaluation.bench import Bench, embedded_bench
from rl_motion.evaluation.embedding import Embedded, embed_real
from rl_motion.evaluation.guarantees import refuse_goal, unseen
from rl_motion.evaluation.oracle_success import Judging, success_B
from rl_motion.evaluation.selection import draw, make_units
from rl_motion.motion.joints import motion_joints
from rl_motion.protocols import MotionPolicy
from rl_motion.rewards.combine import refuse_non_finite, score
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Scored, Trajectory, Unit

__all__ = ["Bench", "Evaluation", "Record", "Shown", "embedded_bench", "evaluate"]

BASE, TUNED, ADAPTER_ON = "base", "tuned", "adapter_on"
REFERENCE = "bone_drift"
"""The sentinel that compares with HumanML3D's skeleton, and so says nothing of others'."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured on one motion; `diversity` is its prompt's (None with one sample per prompt).

    oracle_success: None where the motion was not judged (see `Evaluation.not_judged`).
    reward: the total. rewards: each by name, in its own unit.
    sentinels: by name; without `bone_drift` where the skeleton is not HumanML3D's.
    distance: between motion and text under the evaluator; None without one.
    """

    split: str
    arm: str
    prompt: Prompt
    sample: int
    oracle_success: float | None
    reward: float
    diversity: float | None
    sentinels: Mapping[str, float]
    rewards: Mapping[str, float] = field(default_factory=dict)
    distance: float | None = None

    def value(self, name: str) -> float | None:
        """A measure or sentinel by name; None where it was not measured."""
        if name in ("oracle_success", "reward", "diversity", "distance"):
            found: float | None = getattr(self, name)
            return found
        return self.sentinels.get(name)


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt's first sample, base and tuned, for the page: joints [F, J, 3] in metres, float32."""

    prompt: Prompt
    fps: float
    joints_by_arm: Mapping[str, NDArray[np.float32]]
    success_by_arm: Mapping[str, bool | None]


@dataclass(frozen=True, slots=True)
class Motion:
    """The first sample of a prompt on one split, to be kept: joints [F, J, 3] in metres, float32, of every arm."""

    split: str
    prompt_id: str
    fps: float
    joints_by_arm: Mapping[str, NDArray[np.float32]]


@dataclass(slots=True)
class Evaluation:
    """Everything measured, row i of every arm of a split paired; and what is shown."""

    records: list[Record] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=list)
    adapter_sha256: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)
    """What was not measured -> why."""
    splits: dict[str, str] = field(default_factory=dict)
    """Name in the records -> split of the bench."""
    embedded: dict[str, Embedded] = field(default_factory=dict)
    """Name of a split -> its motions under the evaluator of its world, where there is one."""
    bands: sentinels.Bands | None = None
    """What the sentinels are judged by."""

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
    judging: Judging | None
    embedded: Embedded | None


def evaluate(
    job: Job, policies: Mapping[str, MotionPolicy], bench: Bench, splits: Mapping[str, str] | None = None
) -> Evaluation:
    """Measure every arm on every split, in units of fixed size, without gradient.

    Args:
        job: its `evaluation` says how much, its `train.prompts_per_unit` the size of a unit.
        policies: `base` and `tuned`. Guidance and last step are theirs.
        bench: what to measure with.
        splits: name in the records -> split of the bench; None: the job's. Settings are chosen on val, never on test.

    Raises:
        ValueError: an arm is missing, or the arms are not the same policy.
        UserError: training has read a prompt that is held out, or a reward reads the evaluator.
        RunFault: the arms' noise differs, a motion is not finite, or a reward is not.
    """
    _check_arms(policies)
    result = Evaluation(splits=dict((splits or job.evaluation.examined).items()), bands=bench.bands)
    for split, source in result.splits.items():
        every = bench.prompts(source)
        # `train` is measured because it is trained with.
        fresh = every if split == "train" else unseen(every, source, bench.seen, bench.combination(source))
        if len(fresh) < len(every):
            result.warnings.append(
                f"{split}: left out {len(every) - len(fresh)} prompts of {source} whose combinations training reads in "
                "other words"
            )
        prompts = draw(fresh, job.evaluation.prompts, seed=job.evaluation.seed)
        if len(prompts) < job.evaluation.prompts:
            result.warnings.append(
                f"{split}: {source} has only {len(prompts)} prompts; {job.evaluation.prompts} asked for"
            )
        if (embedded := _embedded(job, bench, source, prompts)) is not None:
            result.embedded[split] = embedded
        wanted = job.evaluation.page_prompts if split == "held_out" else 0
        for unit in make_units(job, prompts):
            piece = _Piece(split, unit, bench, bench.judging(source), embedded)
            _examine(piece, policies, result, show=wanted - len(result.shown))
    return result


def _embedded(job: Job, bench: Bench, source: str, prompts: Sequence[Prompt]) -> Embedded | None:
    """An empty collection of what the evaluator of this split's world sees, beside its real motion."""
    evaluator = bench.evaluator(source)
    if evaluator is None:
        return None
    refuse_goal(evaluator.sha256, job)
    real = bench.real(source, prompts)
    return Embedded(
        evaluator, prompts, job.evaluation.samples_per_prompt, None if real is None else embed_real(evaluator, real)
    )


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
    unit, bench = piece.unit, piece.bench
    first: Trajectory | None = None
    joints: dict[str, Tensor] = {}
    lengths: dict[str, list[int]] = {}
    measured: dict[str, list[Record]] = {}
    for arm, policy, trajectory in _rollouts(unit, policies):
        with torch.no_grad():
            made = policy.decode(trajectory)
            motions = _finite(made, unit)
            first = first or trajectory
            _check_paired(unit, first, trajectory, arm)
            joints[arm], lengths[arm] = motion_joints(motions), motions.length_B.tolist()
            scored = refuse_non_finite(score(bench.terms, made, unit), unit)
            measured[arm] = _measure(piece, arm, motions, joints[arm], scored)
            result.not_judged |= _not_judged(motions.representation, piece.judging)
        if result.adapter_sha256.setdefault(arm, trajectory.adapter_sha256) != trajectory.adapter_sha256:
            raise RunFault(f"the adapter of arm {arm!r} changed during evaluation; freeze it and evaluate again")
        result.records += measured[arm]
    for position, prompt in enumerate(unit.prompts):
        row = position * unit.samples_per_prompt
        first_FJ3 = {arm: joints[arm][row, : lengths[arm][row]].numpy() for arm in measured}
        result.motions.append(Motion(piece.split, prompt.id, motions.fps, first_FJ3))
        if position < show:
            result.shown.append(
                Shown(
                    prompt=prompt,
                    fps=motions.fps,
                    joints_by_arm={arm: first_FJ3[arm] for arm in (BASE, TUNED)},
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


def _finite(motions: Motions, unit: Unit) -> Motions:
    """The same un-normalised motions on the CPU, float32."""
    if motions.normalisation is not Normalisation.NONE:
        raise ValueError(f"got motion as {motions.form}; want it un-normalised; decode the trajectory with its policy")
    length_B = motions.length_B.cpu()
    valid_BF = torch.arange(motions.features_BFD.shape[1]) < length_B[:, None]
    features_BFD = motions.features_BFD.float().cpu()
    broken = (~torch.isfinite(features_BFD).all(dim=-1) & valid_BF).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise RunFault(
            f"got a motion that is not finite for prompt {unit.row_prompts[broken[0]].text!r} ({len(broken)} "
            f"of {unit.batch} rows); want finite motion; evaluate an earlier commit, or train with a lower "
            "learning rate"
        )
    return replace(motions, features_BFD=features_BFD, length_B=length_B)


def _not_judged(representation: Representation, judging: Judging | None) -> dict[str, str]:
    """What cannot be measured on motion of this representation, and why: a judge's rules are fitted to some, bones are
    HumanML3D's."""
    found = {}
    gives = f"and this model gives {representation}"
    if judging is None:
        found["oracle_success"] = "there are no rules for what these prompts ask for"
    elif representation not in judging.reads:
        found["oracle_success"] = (
            f"the motion that the oracle's rules are fitted to is {' or '.join(sorted(judging.reads))}, {gives}"
        )
    if representation is not Representation.HUMANML3D_263:
        found[REFERENCE] = (
            f"the skeleton that it compares with is {Representation.HUMANML3D_263}, {gives}, with bones of its own"
        )
    return found


def _verdict(record: Record) -> bool | None:
    return None if record.oracle_success is None else bool(record.oracle_success)


def _measure(piece: _Piece, arm: str, motions: Motions, joints_BFJ3: Tensor, scored: Scored) -> list[Record]:
    unit, prompts = piece.unit, piece.unit.row_prompts
    left_out = _not_judged(motions.representation, piece.judging)
    success: Sequence[float | None] = [None] * len(prompts)
    if piece.judging is not None and "oracle_success" not in left_out:
        judge = piece.judging.judge(motions.representation)
        verdicts = success_B(joints_BFJ3, motions.length_B, prompts, fps=motions.fps, judge=judge)
        success = [float(verdict) for verdict in verdicts]
    total, rewards = scored.total_B.tolist(), {name: value_B.tolist() for name, value_B in scored.rewards.items()}
    natural = {name: value_B.tolist() for name, value_B in sentinels.of_unit(motions, unit.samples_per_prompt).items()}
    spread = natural.pop("diversity", [None] * len(prompts))
    kept = {name: values for name, values in natural.items() if name not in left_out}
    distance = [None] * len(prompts) if piece.embedded is None else piece.embedded.add(arm, motions, unit)
    return [
        Record(
            split=piece.split,
            arm=arm,
            prompt=prompt,
            sample=row % unit.samples_per_prompt,
            oracle_success=success[row],
            reward=total[row],
            diversity=spread[row],
            sentinels={name: values[row] for name, values in kept.items()},
            rewards={name: values[row] for name, values in rewards.items()},
            distance=distance[row],
        )
        for row, prompt in enumerate(prompts)
    ]
