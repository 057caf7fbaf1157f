"""An optimiser step in which something is not finite is skipped, bit for bit; too many in a row end the run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rl_motion.algorithms import DDPO
from rl_motion.config import AlgorithmConfig, AuditError, PolicyConfig, RunFault, TrainConfig
from rl_motion.learner import Learner, learner, together
from rl_motion.policies import DiffusionPolicy
from rl_motion.protocols import MotionPolicy
from rl_motion.types import Experience, Metrics, Unit
from tests.toy_policy import toy_policy, toy_unit

SETTINGS = AlgorithmConfig(kl_weight=0.01, kl_target=1e-4, inner_epochs=2)
TRAIN = TrainConfig(learning_rate=2e-2, ema_decay=0.8, max_grad_norm=0.1)
COUNT = "skipped_in_a_row"
State = dict[str, Tensor]
Spoil = Callable[[Experience], Experience]


class Spoilt(DDPO):
    """What is not finite comes from the algorithm, in every pass of the units that are named."""

    def __init__(self, what: str, units: Sequence[int]) -> None:
        super().__init__(SETTINGS)
        self._what, self._units = what, units

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        for loss, metrics in super().losses(policy, batch):
            if batch.trajectory.unit.index not in self._units:
                yield loss, metrics
            elif self._what == "loss":
                yield loss * torch.inf, metrics
            elif self._what == "metric":
                yield loss, metrics | {"policy/ratio_max": math.inf}
            elif self._what == "overflow":  # gradients that are finite, and a norm that is not
                yield loss * 1e35, metrics
            else:
                yield NanGradient.apply(loss), metrics


class NanGradient(torch.autograd.Function):
    """The value as it is, and a gradient of NaN."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


def nan_reward(experience: Experience) -> Experience:
    """One row of it; with the advantages that such a unit gets."""
    reward_B = experience.reward_B.clone()
    reward_B[1] = torch.nan
    return replace(experience, reward_B=reward_B, advantage_B=torch.full_like(reward_B, torch.nan))


def nan_rollout(experience: Experience) -> Experience:
    log_prob_BS = experience.trajectory.log_prob_BS.clone()
    log_prob_BS[0, 0] = torch.nan
    return replace(experience, trajectory=replace(experience.trajectory, log_prob_BS=log_prob_BS))


SPOILT: dict[str, tuple[Spoil | None, str]] = {
    "reward": (nan_reward, "got 1 of 8 rewards that are not finite in iteration 0, unit {}"),
    "rollout": (nan_rollout, "got log-probs of the rollout that are not finite in iteration 0, unit {}"),
    "loss": (None, "got loss (-?inf|nan) in iteration 0, unit {}"),
    "metric": (None, "got policy/ratio_max inf in iteration 0, unit {}"),
    "gradient": (None, "got a gradient of .*lora.* that is not finite in iteration 0, unit {}"),
    "overflow": (None, "got gradient norm inf in iteration 0, unit {}"),
}
"""What is not finite, and what is said of it."""


def sample(policy: DiffusionPolicy, units: int, iteration: int = 0) -> list[Experience]:
    batch = []
    for index in range(units):
        trajectory = policy.rollout(toy_unit(prompts=2, index=index, iteration=iteration))
        advantage_B = torch.randn(8, generator=torch.Generator().manual_seed(10 * iteration + index))
        batch.append(Experience(trajectory, advantage_B, advantage_B))
    return batch


def make(what: str = "", spoilt: Sequence[int] = (), **train: object) -> tuple[DiffusionPolicy, Learner]:
    policy, _ = toy_policy(PolicyConfig(steps=4), features=2)
    return policy, Learner(policy, Spoilt(what, spoilt), TRAIN.model_copy(update=train))


def spoil(batch: Sequence[Experience], what: str, spoilt: Sequence[int]) -> list[Experience]:
    change = SPOILT[what][0]
    return [change(e) if change and e.trajectory.unit.index in spoilt else e for e in batch]


def same(one: State, other: State, *but: str) -> bool:
    names = [name for name in one if not name.startswith(but or "/")]
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("what", SPOILT)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been_due(what: str, position: int) -> None:
    """Adapter, moments, step counts, average and KL weight, after other steps and before them; metrics too."""
    policy, skipping = make(what, [position])
    found = skipping.step(spoil(sample(policy, 3), what, [position]))
    other, without = make()
    want = without.step([e for e in sample(other, 3) if e.trajectory.unit.index != position])
    assert same(skipping.state_dict_tensors(), without.state_dict_tensors(), COUNT)
    assert int(skipping.state_dict_tensors()[COUNT]) == (1 if position == 2 else 0)
    assert found == want | {"learner/skipped_steps": 2.0}
    assert (want["learner/updates"], want["learner/skipped_steps"]) == (4.0, 0.0)
    said = SPOILT[what][1].format(position)
    assert len(skipping.skipped) == 2
    assert all(re.fullmatch(f"an optimiser step was skipped: {said}", line) for line in skipping.skipped)


@pytest.mark.parametrize("what", ["reward", "rollout", "loss", "gradient"])
def test_control_without_the_skip_the_parameters_are_not_finite(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(learner, "unsound_part", lambda *_: "")
    monkeypatch.setattr(learner, "math", SimpleNamespace(isfinite=lambda _: True))
    policy, careless = make(what, [1])
    careless.step(spoil(sample(policy, 3), what, [1]))
    assert any(tensor.isnan().any() for tensor in policy.adapter_state().values())


def test_a_unit_that_is_not_finite_takes_its_whole_step_with_it() -> None:
    """Of two units a step: [0, 1] is skipped, [2] is made."""
    policy, skipping = make(units_per_step=2)
    found = skipping.step(spoil(sample(policy, 3), "reward", [1]))
    other, without = make(units_per_step=2)
    want = without.step(sample(other, 3)[2:])
    assert same(skipping.state_dict_tensors(), without.state_dict_tensors())
    assert found == want | {"learner/skipped_steps": 2.0}


def test_an_update_without_a_sound_unit_changes_the_count_alone() -> None:
    """Nor does the KL controller hear of it."""
    policy, skipping = make()
    before = skipping.state_dict_tensors()
    assert skipping.step(spoil(sample(policy, 2), "reward", [0, 1])) == {
        "learner/updates": 0.0,
        "learner/skipped_steps": 4.0,
    }
    after = skipping.state_dict_tensors()
    assert same(after, before, COUNT, "ema/")  # .8 x + .2 x may round
    assert int(after[COUNT]) == 4


def test_so_many_in_a_row_end_the_run_and_undo_the_update() -> None:
    policy, limited = make(max_skipped_steps=3)
    before = limited.state_dict_tensors()
    with pytest.raises(RunFault) as caught:
        limited.step(spoil(sample(policy, 3), "reward", [0, 1, 2]))
    assert same(limited.state_dict_tensors(), before)
    assert str(caught.value).startswith(
        "got 1 of 8 rewards that are not finite in iteration 0, unit 2, the last of 3 optimiser steps in a row that "
        "were skipped; want fewer than 3; look at the rewards"
    )
    assert caught.value.__notes__ == [
        f"an optimiser step was skipped: got 1 of 8 rewards that are not finite in iteration 0, unit {unit}"
        for unit in (0, 1)
    ]


def test_a_step_that_is_made_ends_the_row() -> None:
    """Six steps skipped in two passes, never three in a row; and the control: one more unit of them."""
    policy, limited = make(max_skipped_steps=3)
    assert limited.step(spoil(sample(policy, 3), "reward", [0, 1]))["learner/skipped_steps"] == 4.0
    assert limited.step(spoil(sample(policy, 3, 1), "reward", [0, 1]))["learner/skipped_steps"] == 4.0
    with pytest.raises(RunFault, match="in iteration 2, unit 2, the last of 3"):
        limited.step(spoil(sample(policy, 4, 2), "reward", [0, 1, 2]))


@pytest.mark.parametrize(("kept", "unit"), [(True, 1), (False, 3)])
def test_a_resumed_row_goes_on_where_it_was(kept: bool, unit: int) -> None:
    """Two are skipped before; the third and fourth follow. And the control, which older commits are: counted from 0."""
    policy, first = make(max_skipped_steps=4)
    first.step(spoil(sample(policy, 1), "reward", [0]))
    saved = first.state_dict_tensors()
    assert int(saved[COUNT]) == 2
    policy, resumed = make(max_skipped_steps=4)
    resumed.load_state_dict_tensors({name: tensor for name, tensor in saved.items() if kept or name != COUNT})
    with pytest.raises(RunFault, match=rf"in iteration 1, unit {unit}, the last of 4"):
        resumed.step(spoil(sample(policy, 5, 1), "reward", range(5)))


def units_of(batch: Sequence[Experience]) -> list[Unit]:
    return [experience.trajectory.unit for experience in batch]


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_learners_skips_alike(ranks: int, what: str) -> None:
    """Unit 2 is not the first learner's of two; the state's bits, the metrics and the lines are those of one."""

    def train(count: int) -> tuple[list[State], list[Metrics], list[list[str]]]:
        made = [make(what, [1, 2], units_per_step=2) for _ in range(count)]
        for iteration in range(2):
            batch = spoil(sample(made[0][0], 5, iteration), what, [1, 2] if iteration == 0 else [])
            metrics = together([one.rounds(units_of(batch), batch[r::count]) for r, (_, one) in enumerate(made)])
        return [one.state_dict_tensors() for _, one in made], metrics, [one.skipped for _, one in made]

    (alone,), (metrics,), (lines,) = train(1)
    states, found, said = train(ranks)
    assert all(same(state, alone) for state in states)
    assert found == [metrics] * ranks
    assert said == [lines] * ranks


def test_a_rollout_that_is_not_finite_is_not_audited() -> None:
    """The others are; and where an update has none, the next one's are, before anything is learned."""
    for first in ([], [0, 1]):
        policy, auditing = make()
        if first:
            assert auditing.step(spoil(sample(policy, 2), "rollout", first))["learner/updates"] == 0.0
        batch = spoil(sample(policy, 2, 1), "rollout", [0])
        drifted = replace(batch[1].trajectory, log_prob_BS=batch[1].trajectory.log_prob_BS + 1e-12)
        before = auditing.state_dict_tensors()
        for _ in range(2):  # a failed audit is no audit
            with pytest.raises(AuditError, match="unit 1"):
                auditing.step([batch[0], replace(batch[1], trajectory=drifted)])
        assert same(auditing.state_dict_tensors(), before)
        assert auditing.step(batch)["learner/updates"] == 2.0


def test_control_an_audit_of_it_would_fail() -> None:
    policy, _ = make()
    (batch,) = spoil(sample(policy, 1), "rollout", [0])
    with pytest.raises(AuditError, match=r"difference\| of inf"):
        learner.audit(policy, batch.trajectory)
