"""What an iteration's rewards come to where some of them are not finite."""

from __future__ import annotations

import pytest
import torch

from rl_motion.runtime.reward_metrics import reward_metrics, warn_of_rewards
from rl_motion.types import Prompt, Scored, Unit


def scored(one: list[float], two: list[float], index: int = 0) -> Scored:
    rewards = {"one": torch.tensor(one), "two": torch.tensor(two)}
    return Scored(index, rewards, rewards["one"] + 2 * rewards["two"])


def test_means_are_over_all_rows_where_all_are_finite() -> None:
    assert reward_metrics([scored([1, 2], [0, 1]), scored([3], [2], 1)]) == pytest.approx(
        {
            "reward/one": 2.0,
            "reward/two": 1.0,
            "reward/total": 4.0,
            "reward/total_std": 6.0**0.5,
            "reward/count": 3.0,
            "reward/non_finite": 0.0,
        }
    )


def test_rows_with_a_reward_that_is_not_finite_are_counted_and_left_out_of_every_mean() -> None:
    """And the control: a plain mean is not finite."""
    parts = [scored([1, float("nan"), 2], [0, 5, 1]), scored([3, 9], [2, float("-inf")], 1)]
    want = reward_metrics([scored([1, 2], [0, 1]), scored([3], [2], 1)])
    assert reward_metrics(parts) == want | {"reward/non_finite": 2.0}
    assert not torch.cat([part.total_B for part in parts]).mean().isfinite()


def test_there_is_no_mean_of_nothing() -> None:
    assert reward_metrics([scored([float("nan")], [1.0])]) == {"reward/count": 0.0, "reward/non_finite": 1.0}


def test_what_is_not_finite_is_said_with_its_prompt(caplog: pytest.LogCaptureFixture) -> None:
    unit = Unit(
        seed=0, iteration=7, index=3, prompts=(Prompt("a", "walks", 4), Prompt("b", "jumps", 4)), samples_per_prompt=1
    )
    warn_of_rewards([scored([1, 2], [3, 4], 3)], [unit])
    assert caplog.messages == []
    warn_of_rewards([scored([1, 2], [3, float("nan")], 3)], [unit])
    assert caplog.messages == [
        "iteration 7, unit 3: got nan from reward 'two' for prompt 'jumps' (row 1; 1 of 2 rows are not finite)"
    ]
