"""Advantages and DDPO against their formulas."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rl_motion.algorithms import ALGORITHMS, DDPO, group_advantages
from rl_motion.algorithms.kl import adapted_kl_weight
from rl_motion.config import AlgorithmConfig, PolicyConfig, RunFault
from rl_motion.protocols import Algorithm
from rl_motion.types import Experience
from tests.toy_policy import toy_policy, toy_reward, toy_unit


def experience_of(policy, config: AlgorithmConfig) -> Experience:
    trajectory = policy.rollout(toy_unit())
    reward_B = toy_reward(trajectory)
    return Experience(trajectory, group_advantages(reward_B, 4, config), reward_B)


def no_objective(*_: object) -> torch.Tensor:
    raise AssertionError("asked for rewards")


def test_registry_offers_algorithms() -> None:
    assert isinstance(ALGORITHMS["ddpo"](AlgorithmConfig(), no_objective), Algorithm)


def test_advantages_are_standardised_within_a_prompt() -> None:
    config = AlgorithmConfig(advantage_floor=0.5, advantage_clip=1.0)
    got = group_advantages(torch.tensor([1.0, 3.0, 100.0, 100.0, 0.0, 40.0]), 2, config)
    assert got.tolist() == pytest.approx([-1 / 1.5, 1 / 1.5, 0.0, 0.0, -20 / 20.5, 20 / 20.5])
    assert group_advantages(torch.tensor([0.0, 0.0, 0.0, 9.0]), 4, config).max() == 1.0


def test_advantages_of_equal_rewards_are_zero_without_a_floor() -> None:
    assert group_advantages(torch.ones(4), 4, AlgorithmConfig(advantage_floor=0.0)).tolist() == [0.0] * 4


def test_advantages_refuse_a_reward_that_is_not_finite() -> None:
    with pytest.raises(RunFault, match="row 1"):
        group_advantages(torch.tensor([0.0, math.nan]), 2, AlgorithmConfig())


@pytest.mark.parametrize("balance", ["snr", "none"])
def test_loss_is_the_clipped_surrogate_plus_kl(balance: str) -> None:
    config = AlgorithmConfig(balance=balance, clip_range=0.05, kl_weight=0.3)
    policy, _ = toy_policy(PolicyConfig(steps=4, log_prob="sum"), features=2, dtype=torch.float64)
    experience = experience_of(policy, config)
    policy.load_adapter_state({n: t * 1.2 for n, t in policy.adapter_state().items()})
    with torch.no_grad():
        replay = policy.replay(experience.trajectory)
        reference = policy.replay(experience.trajectory, adapter=False)
    loss, metrics = DDPO(config).loss(policy, experience)
    terms, outside = [], 0
    for row in range(12):
        for step in range(3):
            gain = float(replay.gain_S[step]) if balance == "snr" else 1.0
            difference = float(replay.log_prob_BS[row, step] - experience.trajectory.log_prob_BS[row, step])
            ratio = math.exp(difference / gain)
            advantage = float(experience.advantage_B[row])
            clipped = min(max(ratio, 0.95), 1.05)
            moved = (replay.mean_BSFD - reference.mean_BSFD)[row, step].square().sum()
            kl = float(moved / (2 * replay.std_S[step] ** 2))
            terms.append(-min(ratio * advantage, clipped * advantage) + 0.3 * kl / gain)
            outside += abs(ratio - 1.0) > 0.05
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert metrics["policy/clip_fraction"] == pytest.approx(outside / 36)
    assert 0 < outside < 36


def test_first_update_has_ratio_one_and_the_score_gradient() -> None:
    config = AlgorithmConfig(balance="none")
    policy, _ = toy_policy(PolicyConfig(steps=4))
    experience = experience_of(policy, config)
    loss, metrics = DDPO(config).loss(policy, experience)
    assert metrics["policy/ratio_max"] == 1.0
    assert metrics["policy/abs_dlogp"] == 0.0
    parameters = list(policy.adapter_parameters().values())
    got = torch.autograd.grad(loss, parameters)
    log_prob_BS = policy.replay(experience.trajectory).log_prob_BS
    want = torch.autograd.grad(-(log_prob_BS * experience.advantage_B[:, None]).mean(), parameters)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_balance_gives_every_step_its_share() -> None:
    policy, _ = toy_policy(PolicyConfig(order=1), features=4)
    shares = {}
    for balance in ("snr", "none"):
        config = AlgorithmConfig(balance=balance)
        _, metrics = DDPO(config).loss(policy, experience_of(policy, config))
        shares[balance] = [metrics[f"policy/gradient_share_s{k:02d}"] for k in range(9)]
        assert sum(shares[balance]) == pytest.approx(1.0)
    assert max(shares["snr"]) < 1.5 * min(shares["snr"])
    assert max(shares["none"]) > 20 * min(shares["none"])


def test_zero_advantages_give_zero_loss_and_finite_metrics() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4))
    config = AlgorithmConfig()
    experience = experience_of(policy, config)
    experience = dataclasses.replace(experience, advantage_B=torch.zeros(12))
    loss, metrics = DDPO(config).loss(policy, experience)
    assert loss.item() == 0.0
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(("kl", "factor"), [(2.0, 1.02), (1.1, 1.01), (1.0, 1.0), (0.95, 0.995), (0.0, 0.98)])
def test_the_kl_controller_is_that_of_the_paper(kl: float, factor: float) -> None:
    """1 + 0.1 clip(kl / target - 1, -0.2, 0.2), whatever the unit."""
    assert adapted_kl_weight(0.3, kl, 1.0) == pytest.approx(0.3 * factor)
    assert adapted_kl_weight(0.3, 1e-4 * kl, 1e-4) == pytest.approx(0.3 * factor)


def test_the_kl_weight_goes_to_where_the_target_is_met() -> None:
    """A system whose KL is 1 / weight: from either side the weight ends at 1 / target."""
    for start in (0.01, 50.0):
        weight = start
        for _ in range(1000):
            weight = adapted_kl_weight(weight, 1.0 / weight, 0.5)
        assert weight == pytest.approx(2.0, rel=1e-6)


def test_the_loss_takes_the_weight_that_the_controller_reached() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4))
    config = AlgorithmConfig(kl_weight=0.5, kl_target=1e-9)
    experience = experience_of(policy, config)
    adaptive = DDPO(config)
    before, metrics = adaptive.loss(policy, experience)
    assert metrics["policy/kl_weight"] == 0.5
    adaptive.adapt(metrics)
    after, metrics = adaptive.loss(policy, experience)
    assert metrics["policy/kl_weight"] == pytest.approx(0.51)
    wanted = [AlgorithmConfig(kl_weight=weight) for weight in (0.5, metrics["policy/kl_weight"])]
    for got, fixed in zip((before, after), wanted, strict=True):
        assert got.item() == DDPO(fixed).loss(policy, experience)[0].item()
    assert after.item() > before.item()


def test_control_without_a_target_the_weight_stays() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4))
    config = AlgorithmConfig(kl_weight=0.5)
    fixed = DDPO(config)
    loss, metrics = fixed.loss(policy, experience_of(policy, config))
    fixed.adapt(metrics)
    assert "policy/kl_weight" not in metrics
    assert fixed.state == {}
    assert fixed.loss(policy, experience_of(policy, config))[0].item() == loss.item()
