"""The controller of pool sizes against brute force and against a simulation of what it predicts."""

from __future__ import annotations

import itertools
import random

import pytest

from rl_motion.runtime.autoscale import Measured, decide
from tests.unit.test_flow import BEHAVIOUR, Cluster, finish, make_flow, units

ANY = range(1, 17)


def measured(units: int = 16, rollout_s: float = 4.0, reward_s: float = 0.5, learner_s: float = 2.0) -> Measured:
    return Measured(units, rollout_s, reward_s, learner_s, asynchronous=False)


def test_slow_rollouts_get_workers_and_the_reason_has_the_figures() -> None:
    decision = decide((1, 1), (ANY, ANY), measured())
    assert decision is not None
    assert (decision.rollout_workers, decision.reward_workers) == (16, 2)
    assert "16 units of 4.00 s rollout and 0.50 s reward, update 2.00 s" in decision.reason
    assert "6.0 s instead of 66.0 s with rollout workers 1 -> 16, reward workers 1 -> 2" in decision.reason


def test_workers_that_bring_nothing_are_let_go() -> None:
    decision = decide((16, 16), (ANY, ANY), measured(rollout_s=0.01, reward_s=0.01, learner_s=30.0))
    assert decision is not None
    assert (decision.rollout_workers, decision.reward_workers) == (1, 1)


def test_a_size_that_is_right_stays() -> None:
    chosen = decide((1, 1), (ANY, ANY), measured())
    assert chosen is not None
    assert decide((chosen.rollout_workers, chosen.reward_workers), (ANY, ANY), measured()) is None


def test_an_asynchronous_run_needs_no_more_than_the_learner_can_eat() -> None:
    slow = Measured(16, 4.0, 0.5, 20.0, asynchronous=True)
    decision = decide((1, 1), (ANY, ANY), slow)
    assert decision is not None
    assert decision.rollout_workers == 4  # 4 x 4 s are done within the update's 20
    assert decision.reward_workers == 1


@pytest.mark.parametrize("seed", range(60))
def test_the_choice_is_within_a_twentieth_of_the_best_and_nothing_smaller_is(seed: int) -> None:
    chance = random.Random(seed)
    found = Measured(
        chance.randint(1, 40), *(10.0 ** chance.uniform(-2, 1.5) for _ in range(3)), asynchronous=chance.random() < 0.5
    )
    bounds = (range(chance.randint(1, 3), chance.randint(3, 12) + 1), range(1, chance.randint(1, 5) + 1))
    now = (bounds[0][0], bounds[1][0])
    decision = decide(now, bounds, found)
    chosen = (decision.rollout_workers, decision.reward_workers) if decision else now
    every = {pair: found.iteration_s(*pair) for pair in itertools.product(*bounds)}
    assert chosen in every
    assert every[chosen] <= 1.05 * min(every.values()) * (1.05 if decision is None else 1.0) + 1e-9
    smaller = [
        pair for pair, seconds in every.items() if sum(pair) < sum(chosen) and seconds <= 1.0 * min(every.values())
    ]
    assert not smaller


@pytest.mark.parametrize("workers", [(1, 1), (2, 1), (4, 2), (8, 3)])
def test_the_prediction_is_what_the_flow_takes(workers: tuple[int, int]) -> None:
    """Simulated calls take a second on average; the first batch is the workers' start."""
    cluster = Cluster(seed=3)
    flow = make_flow(cluster, *workers)
    finish(flow, flow.ask(units(16), BEHAVIOUR))
    started = cluster.clock
    finish(flow, flow.ask(units(16, iteration=1), BEHAVIOUR))
    predicted = Measured(16, 1.0, 1.0, 0.0, asynchronous=False).iteration_s(*workers)
    assert predicted * 0.8 <= cluster.clock - started <= predicted * 1.3 + 2.0
