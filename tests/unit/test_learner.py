"""The learner: audit first, one order of units, bitwise resume, teaching faults, and a reward that rises."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_motion.algorithms import DDPO, group_advantages
from rl_motion.config import AlgorithmConfig, AuditError, PolicyConfig, RunFault, TrainConfig, UserError
from rl_motion.learner import Learner
from rl_motion.policies import DiffusionPolicy
from rl_motion.types import Experience
from tests.toy_policy import ToyDenoiser, toy_policy, toy_reward, toy_unit

SETTINGS = AlgorithmConfig(inner_epochs=2, kl_weight=0.01)


def make(**options: object) -> tuple[DiffusionPolicy, Learner]:
    policy, _ = toy_policy(PolicyConfig(steps=5), features=2, **options)  # type: ignore[arg-type]
    return policy, Learner(policy, DDPO(SETTINGS), TrainConfig(learning_rate=2e-2))


def make_with_all(**options: object) -> tuple[DiffusionPolicy, Learner]:
    """Everything that a learner may carry beside adapter and moments."""
    policy, _ = toy_policy(PolicyConfig(steps=5), features=2, **options)  # type: ignore[arg-type]
    algorithm = DDPO(SETTINGS.model_copy(update={"kl_target": 1e-4}))
    return policy, Learner(policy, algorithm, TrainConfig(learning_rate=2e-2, ema_decay=0.8))


def sample(policy: DiffusionPolicy, iteration: int) -> tuple[list[Experience], float]:
    batch, rewards = [], []
    for index in range(2):
        unit = toy_unit(prompts=2 + index, samples=8, index=index, iteration=iteration)
        trajectory = policy.rollout(unit)
        reward_B = toy_reward(trajectory)
        rewards.append(float(reward_B.mean()))
        batch.append(Experience(trajectory, group_advantages(reward_B, 8, SETTINGS), reward_B))
    return batch, sum(rewards) / 2


def train(policy: DiffusionPolicy, learner: Learner, iterations: range) -> dict[str, torch.Tensor]:
    for iteration in iterations:
        learner.step(sample(policy, iteration)[0])
    return learner.state_dict_tensors()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_result_twice() -> None:
    assert same(train(*make(), range(4)), train(*make(), range(4)))


@pytest.mark.parametrize("done", [0, 2])
def test_resume_through_a_file_is_bitwise(done: int, tmp_path: Path) -> None:
    whole = train(*make(), range(4))
    saved = train(*make(), range(done))
    save_file(saved, tmp_path / "learner.safetensors")
    policy, learner = make(adapter_scale=0.1)
    learner.load_state_dict_tensors(load_file(tmp_path / "learner.safetensors"))
    assert same(learner.state_dict_tensors(), saved)
    assert same(train(policy, learner, range(done, 4)), whole)


def test_a_commit_with_one_step_for_all_goes_on_bit_for_bit() -> None:
    """What older runs left; and the control: with another step the bits differ."""
    whole = train(*make(), range(4))
    saved = train(*make(), range(2))
    steps = [saved.pop(name) for name in list(saved) if name.startswith("adam_step/")]
    for step, as_before in ((steps[0], True), (steps[0] + 1, False)):
        policy, learner = make(adapter_scale=0.1)
        learner.load_state_dict_tensors(saved | {"adam_step": step})
        assert same(train(policy, learner, range(2, 4)), whole) == as_before


def test_control_resume_without_the_moments_differs() -> None:
    saved = train(*make(), range(2))
    policy, learner = make()
    blank = {name: t if name.startswith("adapter/") else torch.zeros_like(t) for name, t in saved.items()}
    learner.load_state_dict_tensors(blank)
    assert not same(train(policy, learner, range(2, 4)), train(*make(), range(4)))


@pytest.mark.parametrize("lost", ["", "ema/", "algorithm/kl_weight"])
def test_average_and_kl_weight_go_on_bit_for_bit(lost: str, tmp_path: Path) -> None:
    """And the control: whichever of them starts anew, the bits differ."""
    whole = train(*make_with_all(), range(4))
    fresh = make_with_all()[1].state_dict_tensors()
    saved = train(*make_with_all(), range(2))
    broken = {name: fresh[name] if lost and name.startswith(lost) else tensor for name, tensor in saved.items()}
    save_file(broken, tmp_path / "learner.safetensors")
    policy, learner = make_with_all(adapter_scale=0.1)
    learner.load_state_dict_tensors(load_file(tmp_path / "learner.safetensors"))
    assert same(train(policy, learner, range(2, 4)), whole) == (not lost)


def test_without_options_the_state_is_adapter_moments_and_a_count() -> None:
    kinds = {name.partition("/")[0] for name in train(*make(), range(1))}
    assert kinds == {"adapter", "adam_mean", "adam_square", "adam_step", "skipped_in_a_row"}


def test_published_is_the_average_of_what_was_committed() -> None:
    policy, learner = make_with_all()
    want = {name: tensor.double() for name, tensor in policy.adapter_state().items()}
    for iteration in range(4):
        learner.step(sample(policy, iteration)[0])
        raw = policy.adapter_state()
        want = {name: 0.8 * mean + 0.2 * raw[name].double() for name, mean in want.items()}
        with learner.published():
            found = policy.adapter_state()
        assert same(policy.adapter_state(), raw)
        for name, mean in want.items():
            assert found[name].dtype == raw[name].dtype
            torch.testing.assert_close(found[name].double(), mean, rtol=1e-7, atol=0)
        assert not same(found, raw)


def test_the_average_changes_nothing_but_what_is_published() -> None:
    plain, averaged = (
        (policy, Learner(policy, DDPO(SETTINGS), TrainConfig(learning_rate=2e-2, ema_decay=decay)))
        for decay in (None, 0.8)
        for policy in [toy_policy(PolicyConfig(steps=5), features=2)[0]]
    )
    found = train(*averaged, range(3))
    assert same({name: t for name, t in found.items() if not name.startswith("ema/")}, train(*plain, range(3)))
    with plain[1].published():
        assert same(plain[0].adapter_state(), averaged[0].adapter_state())


def test_the_adapter_comes_back_when_publishing_fails() -> None:
    policy, learner = make_with_all()
    learner.step(sample(policy, 0)[0])
    raw = policy.adapter_state()
    with pytest.raises(OSError, match="full"), learner.published():
        raise OSError("disk full")
    assert same(policy.adapter_state(), raw)


def test_the_kl_weight_follows_the_iteration_s_mean_kl() -> None:
    policy, learner = make_with_all()
    weight = 0.01
    for iteration in range(3):
        metrics = learner.step(sample(policy, iteration)[0])
        assert metrics["policy/kl_weight"] == pytest.approx(weight)
        weight *= 1.0 + 0.1 * min(max(metrics["policy/kl"] / 1e-4 - 1.0, -0.2), 0.2)
        assert float(learner.state_dict_tensors()["algorithm/kl_weight"]) == pytest.approx(weight)
    assert weight > 0.01


def test_units_may_arrive_in_any_order() -> None:
    results = []
    for turn in (1, -1):
        policy, learner = make()
        learner.step(sample(policy, 0)[0][::turn])
        results.append(learner.state_dict_tensors())
    assert same(*results)


def test_units_weigh_by_their_rows() -> None:
    policy, _ = make()
    batch, _ = sample(policy, 0)
    losses = [DDPO(SETTINGS).loss(policy, experience)[1]["policy/kl"] for experience in batch]
    once = Learner(policy, DDPO(AlgorithmConfig()), TrainConfig(units_per_step=2))
    assert once.step(batch)["policy/kl"] == pytest.approx((16 * losses[0] + 24 * losses[1]) / 40)


def test_mini_batches_update_more_often_and_need_the_ratio() -> None:
    """An optimiser step per unit: the second unit is scored by a policy that has moved on since it was sampled."""
    found = {}
    for size in (1, 2):
        policy, _ = make()
        batch, _ = sample(policy, 0)
        learner = Learner(policy, DDPO(SETTINGS), TrainConfig(learning_rate=2e-2, units_per_step=size))
        metrics = learner.step(batch)
        found[size] = (metrics["learner/updates"] / SETTINGS.inner_epochs, learner.state_dict_tensors())
    assert (found[1][0], found[2][0]) == (2, 1)
    assert not same(found[1][1], found[2][1])


def test_first_step_audits_every_unit_and_changes_nothing_on_failure() -> None:
    policy, learner = make()
    batch, _ = sample(policy, 0)
    trajectory = batch[1].trajectory
    broken = dataclasses.replace(trajectory, log_prob_BS=trajectory.log_prob_BS + 1e-12)
    before = learner.state_dict_tensors()
    with pytest.raises(AuditError, match="unit 1"):
        learner.step([batch[0], dataclasses.replace(batch[1], trajectory=broken)])
    assert same(before, learner.state_dict_tensors())


def test_a_state_of_another_adapter_is_refused() -> None:
    _, learner = make()
    with pytest.raises(RunFault, match="first difference"):
        learner.load_state_dict_tensors({"adapter/x": torch.zeros(1)})


def test_a_policy_without_adapter_is_refused() -> None:
    policy = DiffusionPolicy(ToyDenoiser(), PolicyConfig())
    with pytest.raises(UserError, match="without adapter"):
        Learner(policy, DDPO(SETTINGS), TrainConfig())


@pytest.mark.parametrize("last_step", ["frozen", "stop"])
@pytest.mark.parametrize("order", [1, 2])
def test_a_toy_reward_rises(order: int, last_step: str) -> None:
    config = PolicyConfig(steps=5, order=order, last_step=last_step)
    policy, _ = toy_policy(config, features=2, adapter_scale=0.3)
    learner = Learner(policy, DDPO(AlgorithmConfig()), TrainConfig(learning_rate=3e-2))
    rewards = []
    for iteration in range(50):
        batch, reward = sample(policy, iteration)
        learner.step(batch)
        rewards.append(reward)

    assert sum(rewards[-10:]) > sum(rewards[:10]) + 1.0
