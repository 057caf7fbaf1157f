"""Advantages against closed forms and an independent tracker; what they remember goes through the learner's state."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_motion.algorithms import ADVANTAGES, advantages, group_advantages
from rl_motion.algorithms.advantages import Memory, Rewarded, leave_one_out_advantages
from rl_motion.config import AlgorithmConfig, Job, RunFault
from rl_motion.runtime.workers import LearnerWorker
from rl_motion.types import Prompt, Trajectory, Unit
from tests import fakes
from tests.fakes import toy_job

GENERATOR = np.random.default_rng(0)


def unit_of(names: str, samples: int, index: int = 0) -> Unit:
    prompts = tuple(Prompt(id=name, text=name, length=4) for name in names)
    return Unit(seed=0, iteration=0, index=index, prompts=prompts, samples_per_prompt=samples)


def iterations(plan: list[list[str]], samples: int) -> list[Rewarded]:
    """Units of one letter per prompt, with rewards whose mean and spread differ by prompt and drift."""
    made = []
    for number, units in enumerate(plan):
        iteration = []
        for index, names in enumerate(units):
            means = [ord(name) - 97 + 0.3 * number for name in names]
            rewards = [GENERATOR.normal(mean, 1 + ord(n) % 3, samples) for mean, n in zip(means, names, strict=True)]
            iteration.append((unit_of(names, samples, index), torch.tensor(np.concatenate(rewards))))
        made.append(iteration)
    return made


def estimate(rewarded: list[Rewarded], config: AlgorithmConfig, forget: bool = False) -> list[list[Tensor]]:
    """The advantages of iterations one after the other."""
    memory: Memory = {}
    found = []
    for iteration in rewarded:
        advantages, memory = ADVANTAGES[config.advantages](iteration, {} if forget else memory, config)
        found.append(advantages)
    return found


PLAN = [["ab", "cd"], ["ea", "bc"], ["ab", "ed"], ["ca", "be"]]


class ReferenceTracker:
    """What ddpo-pytorch's per-prompt tracker does, written down apart from the package, in numpy."""

    def __init__(self, size: int, enough: int) -> None:
        self.size, self.enough = size, enough
        self.kept: dict[str, deque[float]] = {}

    def __call__(self, names: list[str], rewards: np.ndarray) -> np.ndarray:
        advantages = np.zeros_like(rewards)
        for name in sorted(set(names)):
            at = np.array([n == name for n in names])
            self.kept.setdefault(name, deque(maxlen=self.size)).extend(rewards[at].tolist())
            seen = np.array(self.kept[name]) if len(self.kept[name]) >= self.enough else rewards
            advantages[at] = (rewards[at] - seen.mean()) / (seen.std() + 1e-6)
        return advantages


@pytest.mark.parametrize(("size", "enough"), [(16, 16), (8, 8), (12, 8), (6, 5), (3, 1)])
def test_running_is_the_tracker_of_ddpo(size: int, enough: int) -> None:
    """Before the buffer has enough, at the brink, past its size, and with a buffer smaller than a group."""
    config = AlgorithmConfig(
        advantages="running",
        advantage_buffer_size=size,
        advantage_min_count=enough,
        advantage_floor=1e-6,
        advantage_clip=100.0,
    )
    rewarded = iterations(PLAN, samples=4)
    tracker = ReferenceTracker(size, enough)
    for iteration, found in zip(rewarded, estimate(rewarded, config), strict=True):
        names = [prompt.id for unit, _ in iteration for prompt in unit.row_prompts]
        want = tracker(names, torch.cat([reward_B for _, reward_B in iteration]).numpy())
        assert torch.cat(found).tolist() == pytest.approx(want.tolist(), rel=1e-12, abs=1e-12)


def test_control_a_tracker_that_forgets_differs() -> None:
    config = AlgorithmConfig(advantages="running", advantage_min_count=8, advantage_buffer_size=8)
    rewarded = iterations(PLAN, samples=4)
    kept, forgot = (estimate(rewarded, config, forget=forget) for forget in (False, True))
    assert torch.equal(torch.cat(kept[0]), torch.cat(forgot[0]))
    assert not torch.allclose(torch.cat(kept[3]), torch.cat(forgot[3]))


def test_running_over_the_present_samples_alone_is_group() -> None:
    rewarded = iterations(PLAN, samples=4)
    running = AlgorithmConfig(advantages="running", advantage_buffer_size=4, advantage_min_count=4)
    for one, other in zip(estimate(rewarded, running), estimate(rewarded, AlgorithmConfig()), strict=True):
        torch.testing.assert_close(torch.cat(one), torch.cat(other), rtol=1e-12, atol=1e-12)


def test_the_default_has_the_bits_it_always_had() -> None:
    """The formula before there was a choice, written out."""
    rewarded = iterations(PLAN, samples=7)
    rewarded = [[(unit, reward_B.float()) for unit, reward_B in iteration] for iteration in rewarded]
    for iteration, found in zip(rewarded, estimate(rewarded, AlgorithmConfig()), strict=True):
        for (_, reward_B), advantage_B in zip(iteration, found, strict=True):
            reward_PN = reward_B.double().reshape(-1, 7)
            deviation_PN = reward_PN - reward_PN.mean(dim=1, keepdim=True)
            old = torch.nan_to_num(deviation_PN / (reward_PN.std(dim=1, correction=0, keepdim=True) + 0.01), nan=0.0)
            assert torch.equal(advantage_B, old.clamp(-5.0, 5.0).reshape(-1))


def test_leave_one_out_is_the_distance_to_the_others() -> None:
    config = AlgorithmConfig(advantages="leave_one_out", advantage_clip=30.0)
    got = leave_one_out_advantages(torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 90.0]), 3, config)
    assert got.tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, -30.0, -30.0, 30.0]
    rewarded = [(unit_of("ab", 2), torch.tensor([1.0, 3.0, 5.0, 5.0]))]
    assert estimate([rewarded], config)[0][0].tolist() == [-2.0, 2.0, 0.0, 0.0]


def test_leave_one_out_has_no_bias_and_the_own_mean_has() -> None:
    """E[(r - baseline) score] over all pairs of two fair coins, score = +-1: the gradient is 1/2 E[r score] x 2."""
    outcomes = [(a, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    config = AlgorithmConfig(advantage_clip=100.0, advantage_floor=1e9)
    true = 3.0  # of reward 3 s + 7: E[r s]

    def gradient(advantages: Callable[[Tensor], Tensor]) -> float:
        terms = [advantages(3.0 * torch.tensor(pair) + 7.0) @ torch.tensor(pair).double() / 2 for pair in outcomes]
        return float(sum(terms) / len(terms))

    assert gradient(lambda reward_B: leave_one_out_advantages(reward_B, 2, config)) == pytest.approx(true)
    assert gradient(lambda reward_B: 1e9 * group_advantages(reward_B, 2, config)) == pytest.approx(true / 2)


def test_shrinkage_goes_towards_the_first_iteration_s_pooled_std() -> None:
    """Two prompts with stds 1 and 7 pool to 5; later groups of std .1 are divided by half of .1 and half of 5."""
    config = AlgorithmConfig(advantage_shrinkage=0.5, advantage_floor=0.25)
    first = [(unit_of("a", 2), torch.tensor([2.0, 4.0])), (unit_of("b", 2, 1), torch.tensor([-7.0, 7.0]))]
    later = [(unit_of("a", 2), torch.tensor([0.4, 0.6]))]
    found = estimate([first, later, later], config)
    assert torch.cat(found[0]).tolist() == pytest.approx([-1 / 3.25, 1 / 3.25, -7 / 6.25, 7 / 6.25])
    assert found[1][0].tolist() == pytest.approx([-0.1 / 2.8, 0.1 / 2.8])
    assert torch.equal(found[1][0], found[2][0])


def test_control_without_calibration_small_differences_are_blown_up() -> None:
    """Shrinking towards the present iteration's std instead of the first one's."""
    config = AlgorithmConfig(advantage_shrinkage=0.5, advantage_floor=0.0)
    rewarded = [[(unit_of("a", 2), torch.tensor(pair))] for pair in ([-5.0, 5.0], [0.4, 0.6])]
    kept, forgot = (estimate(rewarded, config, forget=forget)[1][0] for forget in (False, True))
    assert kept.abs().max() < 0.05
    assert forgot.abs().max() == pytest.approx(1.0)


def test_running_shrinks_too_and_keeps_both_memories() -> None:
    config = AlgorithmConfig(
        advantages="running",
        advantage_shrinkage=1.0,
        advantage_floor=0.0,
        advantage_buffer_size=2,
        advantage_min_count=2,
    )
    rewarded = [(unit_of("ab", 2), torch.tensor([2.0, 4.0, -7.0, 7.0]))]
    (found,), memory = ADVANTAGES["running"](rewarded, {}, config)
    assert found.tolist() == pytest.approx([-0.2, 0.2, -1.4, 1.4])
    assert {name: tensor.tolist() for name, tensor in memory.items()} == {
        "base_std": pytest.approx(5.0),
        "rewards/a": [2.0, 4.0],
        "rewards/b": [-7.0, 7.0],
    }


@pytest.mark.parametrize("name", ADVANTAGES)
def test_every_estimator_refuses_what_it_cannot_judge(name: str) -> None:
    config = AlgorithmConfig(advantages=name)
    with pytest.raises(RunFault, match="row 1"):
        ADVANTAGES[name]([(unit_of("a", 2), torch.tensor([0.0, torch.inf]))], {}, config)
    with pytest.raises(ValueError, match="whole groups"):
        ADVANTAGES[name]([(unit_of("a", 2), torch.tensor([0.0, 1.0, 2.0]))], {}, config)


SHRUNK = [
    AlgorithmConfig(advantages="group", advantage_shrinkage=0.5),
    AlgorithmConfig(advantages="running", advantage_shrinkage=0.5, advantage_buffer_size=8, advantage_min_count=8),
    AlgorithmConfig(advantages="leave_one_out"),
]


def both(rewarded: list[Rewarded], config: AlgorithmConfig) -> tuple[list[list[Tensor]], Memory]:
    """Of iterations one after the other, with what is remembered in the end."""
    memory: Memory = {}
    found = []
    for iteration in rewarded:
        estimated, memory = advantages.estimate(iteration, memory, config)
        found.append(estimated)
    return found, memory


def without_second(rewarded: list[Rewarded]) -> list[Rewarded]:
    return [iteration[:1] for iteration in rewarded]


def with_second(rewarded: list[Rewarded], value: float) -> list[Rewarded]:
    """One reward of every second unit is that."""
    return [[first, (unit, torch.cat([torch.tensor([value]), reward_B[1:]]))] for first, (unit, reward_B) in rewarded]


@pytest.mark.parametrize("config", SHRUNK, ids=lambda config: config.advantages)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_unit_that_is_not_finite_is_as_if_it_were_not_there(config: AlgorithmConfig, value: float) -> None:
    """And the control: with a reward of 0 in its place the others know of it, but for estimators of one unit alone."""
    rewarded = iterations(PLAN, samples=4)
    want, memory = both(without_second(rewarded), config)
    found, remembered = both(with_second(rewarded, value), config)
    for (sound, unsound), (alone,) in zip(found, want, strict=True):
        assert torch.equal(sound, alone)
        assert unsound.shape == (8,) and unsound.dtype == torch.float64 and bool(unsound.isnan().all())
    assert remembered.keys() == memory.keys()
    assert all(torch.equal(remembered[name], memory[name]) for name in memory)
    seen, _ = both(with_second(rewarded, 0.0), config)
    blind = config.advantages == "leave_one_out"
    assert torch.equal(seen[-1][0], want[-1][0]) == blind


@pytest.mark.parametrize("config", SHRUNK, ids=lambda config: config.advantages)
def test_an_iteration_without_a_finite_unit_is_not_remembered(config: AlgorithmConfig) -> None:
    """So that the first one with others calibrates."""
    first, *later = iterations(PLAN, samples=4)
    lost = [(unit, torch.full_like(reward_B, torch.nan)) for unit, reward_B in first]
    found, memory = both([lost, *later], config)
    want, remembered = both(later, config)
    assert all(bool(advantage_B.isnan().all()) for advantage_B in found[0])
    for one, other in zip(found[1:], want, strict=True):
        assert torch.equal(torch.cat(one), torch.cat(other))
    assert memory.keys() == remembered.keys()
    assert all(torch.equal(memory[name], remembered[name]) for name in memory)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_rewards_give_zero_and_nothing_else_is_changed(name: str) -> None:
    config = AlgorithmConfig(advantages=name, advantage_floor=0.0)
    memory: Memory = {}
    (found,), _ = ADVANTAGES[name]([(unit_of("ab", 4), torch.ones(8))], memory, config)
    assert found.tolist() == [0.0] * 8
    assert memory == {}


def learner_with_tracker() -> tuple[LearnerWorker, list[Trajectory]]:
    job = toy_job()
    settings = {"advantages": "running", "advantage_min_count": 4, "advantage_shrinkage": 0.5}
    job = Job.model_validate({**job.model_dump(), "algorithm": {**job.algorithm.model_dump(), **settings}})
    worker = LearnerWorker(job, fakes.WORKSHOP)
    snapshot = worker.prepare()
    units = fakes.pool(job).draw(0, job.train)
    return worker, [fakes.policy(job).rollout(unit, policy_version=snapshot.version) for unit in units]


def test_what_is_remembered_is_in_the_learner_s_state() -> None:
    from safetensors import torch as safetensors

    worker, trajectories = learner_with_tracker()
    rewards = [torch.arange(4.0) * (1 + t.unit.index) for t in trajectories]
    learned = worker.learn(worker.prepare().behaviour, rewards, *trajectories)
    state = safetensors.load(learned.snapshot.state)
    for trajectory, reward_B in zip(trajectories, rewards, strict=True):
        assert torch.equal(state[f"advantages/rewards/{trajectory.unit.prompts[0].id}"], reward_B.double())
    assert float(state["advantages/base_std"]) > 0
    again, _ = learner_with_tracker()
    assert again.restore(1, learned.snapshot.state) == learned.snapshot


def test_an_update_that_fails_leaves_no_memory() -> None:
    worker, trajectories = learner_with_tracker()
    before = worker.prepare()
    spoilt = dataclasses.replace(trajectories[3], log_prob_BS=trajectories[3].log_prob_BS + 1e-9)
    with pytest.raises(RunFault):
        worker.learn(before.behaviour, [torch.arange(4.0)] * 4, *trajectories[:3], spoilt)
    assert worker.prepare() == before
