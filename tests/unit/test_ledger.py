"""Which prompts taught, what their samples got, and which are set aside."""

from __future__ import annotations

import math

import pytest
import torch

from rl_motion.config import PromptsConfig, RunFault, TrainConfig
from rl_motion.prompts.curricula import Curriculum
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.runtime.ledger import FAST, SLOW, SMOOTH, Ledger, Rewards, SetAside
from rl_motion.types import Scored, Unit

PROMPTS = [make_prompt(f"thing {number}", 4) for number in range(30)]


def unit(iteration: int, *numbers: int) -> Unit:
    return Unit(0, iteration, numbers[0], tuple(PROMPTS[number] for number in numbers), 2)


def test_counts_and_comes_back() -> None:
    ledger = Ledger()
    ledger.count([unit(0, *range(20)), unit(0, 20)])
    ledger.count([unit(1, 0)])
    ledger.put_aside(1, {PROMPTS[5].id: "it dies"})
    ledger.rewards[PROMPTS[0].id] = Rewards.begin(1 / 3, 2 / 3, 4)
    ledger.drawn[7] = (PROMPTS[2].id, PROMPTS[1].id)
    assert ledger.taught[PROMPTS[0].id] == 2 and ledger.taught[PROMPTS[20].id] == 1
    again = Ledger.from_bytes(ledger.to_bytes())
    assert again.taught == ledger.taught and again.set_aside == ledger.set_aside
    assert again.rewards == ledger.rewards and again.drawn == ledger.drawn
    assert again.to_bytes() == ledger.to_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"taught": 3, "set_aside": {}}',
        b'{"taught": {}, "set_aside": {"a": 1}}',
        b'{"taught": {}, "set_aside": {}, "rewards": {"a": [1.0]}}',
        b'{"taught": {}, "set_aside": {}, "drawn": {"x": []}}',
    ],
)
def test_what_is_no_ledger_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        Ledger.from_bytes(content)


def test_what_is_set_aside_counts_only_once_every_resume_would_know() -> None:
    """Units of iteration 3 are asked for, with a lag of 2, before iteration 1 is over."""
    ledger = Ledger()
    ledger.count([unit(0, *range(20))])
    ledger.put_aside(1, {PROMPTS[5].id: "it dies"})
    for iteration, kept in ((2, [4, 5]), (3, [4, 5]), (4, [4])):
        (left,) = ledger.without_set_aside([unit(iteration, 4, 5)], lag=2)
        assert [PROMPTS.index(prompt) for prompt in left.prompts] == kept
    assert ledger.without_set_aside([unit(4, 5)], lag=2) == []
    assert ledger.without_set_aside([unit(2, 5)], lag=0) == []


def test_the_first_reason_stays_and_too_many_end_the_run() -> None:
    ledger = Ledger()
    ledger.count([unit(0, *range(20))])
    ledger.put_aside(0, {PROMPTS[20].id: "first"})
    ledger.put_aside(3, {PROMPTS[20].id: "second"})
    assert ledger.set_aside[PROMPTS[20].id].reason == "first"
    ledger.put_aside(3, {PROMPTS[21].id: "again"})
    with pytest.raises(RunFault, match=r"got 3 prompts of 23 that no worker survives .*\(thrice\); want 2 at most"):
        ledger.put_aside(4, {PROMPTS[22].id: "thrice"})


def scored(unit: Unit, *rewards: float) -> Scored:
    total_B = torch.tensor(rewards, dtype=torch.float64)
    return Scored(unit.index, {"r": total_B}, total_B)


def test_rewards_by_prompt() -> None:
    """Mean 2 then 4, variance 1 then 4: by hand."""
    ledger, name = Ledger(), PROMPTS[3].id
    for iteration, (rewards, version) in enumerate([((1.0, 3.0), 0), ((2.0, 6.0), 5)]):
        ledger.drawn[iteration] = (name,)
        ledger.over(iteration, [unit(iteration, 3)], [scored(unit(iteration, 3), *rewards)], version)
    got = ledger.rewards[name]
    assert (got.first, got.last, got.variance, got.version) == (2.0, 4.0, 4.0, 5)
    assert got.fast == 2 + FAST * 2 and got.slow == 2 + SLOW * 2 and got.smoothed == pytest.approx(1 + SMOOTH * 3)
    assert ledger.taught[name] == 2 and ledger.drawn == {}
    assert ledger.metrics() == {"prompts/drawn": 1.0, "prompts/set_aside": 0.0}


@pytest.mark.parametrize("slope", [0.25, -0.125])
def test_a_trend_is_the_slope_of_a_straight_line(slope: float) -> None:
    got = Rewards.begin(0.0, 0.0, 0)
    assert got.trend == 0.0
    for time in range(1, 100):
        got = got.then(slope * time, 0.0, time)
    assert got.trend == pytest.approx(slope, rel=1e-3)
    for time in range(100, 200):  # level again
        got = got.then(slope * 99, 0.0, time)
    assert got.trend == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rewards_that_are_not_finite_leave_what_is_known(bad: float) -> None:
    ledger = Ledger()
    for iteration, rewards in enumerate([(1.0, 3.0, 5.0, 5.0), (bad, 3.0, 7.0, 7.0)]):
        both = unit(iteration, 3, 4)
        ledger.drawn[iteration] = ()
        ledger.over(iteration, [both], [scored(both, *rewards)], iteration)
    assert ledger.rewards[PROMPTS[3].id] == Rewards.begin(2.0, 1.0, 0)
    # Control: the prompt beside it goes on, and both count.
    assert ledger.rewards[PROMPTS[4].id].last == 7.0
    assert ledger.taught == {PROMPTS[3].id: 2, PROMPTS[4].id: 2}


def test_a_ledger_from_before_rewards_is_read() -> None:
    old = b'{"set_aside": {"b": [1, "it dies"]}, "taught": {"a": 2}}'
    ledger = Ledger.from_bytes(old)
    assert (ledger.taught, ledger.rewards, ledger.drawn) == ({"a": 2}, {}, {})


def test_what_is_set_aside_draws_nobody() -> None:
    """It keeps its floor; where all else is new, it is hardly ever drawn."""
    pool = PromptPool({"a": PROMPTS}, {"a": 1.0}, 0, Curriculum(PromptsConfig(curriculum="signal")))
    sizes = TrainConfig(prompts_per_iteration=3, prompts_per_unit=1, samples_per_prompt=2)
    counts = []
    for aside in ({}, {PROMPTS[0].id: SetAside(0, "it dies")}):
        ledger = Ledger()
        ledger.set_aside.update(aside)
        ledger.draw(pool, sizes, range(200))
        counts.append(sum(PROMPTS[0].id in names for names in ledger.drawn.values()))
    assert counts[0] > 10 > 5 > counts[1]


def test_thirty_thousand_prompts_stay_small() -> None:
    """111 bytes each, whatever they got: six digits."""
    ledger = Ledger()
    for number in range(30_000):
        name = f"{number * 7919:016x}"
        ledger.taught[name] = 1 + number % 50
        got = Rewards.begin(math.sin(number) / 3, math.cos(number) ** 2 / 7, 12)
        ledger.rewards[name] = got.then(math.sin(number + 1) / 3, math.cos(number + 1) ** 2 / 7, 1000 + number)
    content = ledger.to_bytes()
    assert len(content) < 4_000_000
    again = Ledger.from_bytes(content)
    assert again.rewards == ledger.rewards and again.to_bytes() == content
