"""What an iteration's rewards come to where some of them are not finite."""

from __future__ import annotations

import pytest
import torch

from rl_motion.runtime.reward_metrics import by_prompt, reward_metrics, warn_of_rewards
from rl_motion.types import Metrics, Prompt, Scored, Unit


def units(*parts: Scored) -> list[Unit]:
    """One prompt for each part."""
    prompts = [Prompt(str(part.unit_index), "walks", 4) for part in parts]
    return [Unit(0, 0, n, (p,), len(part.total_B)) for n, (p, part) in enumerate(zip(prompts, parts, strict=True))]


def metrics(*parts: Scored) -> Metrics:
    return reward_metrics(parts, units(*parts))


def scored(one: list[float], two: list[float], index: int = 0) -> Scored:
    rewards = {"one": torch.tensor(one), "two": torch.tensor(two)}
    return Scored(index, rewards, rewards["one"] + 2 * rewards["two"])


def test_means_are_over_all_rows_where_all_are_finite() -> None:
    assert metrics(scored([1, 2], [0, 1]), scored([3], [2], 1)) == pytest.approx(
        {
            "reward/one": 2.0,
            "reward/two": 1.0,
            "reward/total": 4.0,
            "reward/total_std": 6.0**0.5,
            "reward/count": 3.0,
            "reward/non_finite": 0.0,
            "prompts/flat": 0.5,  # one sample alone scores like itself
        }
    )


def test_rows_with_a_reward_that_is_not_finite_are_counted_and_left_out_of_every_mean() -> None:
    """And the control: a plain mean is not finite."""
    parts = [scored([1, float("nan"), 2], [0, 5, 1]), scored([3, 9], [2, float("-inf")], 1)]
    want = metrics(scored([1, 2], [0, 1]), scored([3], [2], 1))
    del want["prompts/flat"]  # of no prompt all rewards are finite
    assert metrics(*parts) == want | {"reward/non_finite": 2.0}
    assert not torch.cat([part.total_B for part in parts]).mean().isfinite()


def test_there_is_no_mean_of_nothing() -> None:
    assert metrics(scored([float("nan")], [1.0])) == {"reward/count": 0.0, "reward/non_finite": 1.0}


def test_prompts_whose_samples_all_score_alike_are_flat() -> None:
    """Alike, measured by all rows: the same rewards in other units are as flat."""
    mixed, alike, nearly = scored([0, 4], [0, 0]), scored([2, 2], [0, 0], 1), scored([2, 2.01], [0, 0], 2)
    broken = scored([float("nan"), 1], [0, 0], 3)
    assert metrics(mixed, alike)["prompts/flat"] == 0.5
    assert metrics(mixed, alike, nearly)["prompts/flat"] == pytest.approx(2 / 3)
    assert metrics(mixed, broken)["prompts/flat"] == 0.0
    assert metrics(alike, scored([2, 2], [0, 0], 4))["prompts/flat"] == 1.0
    # Control: alone, what nearly scores alike is no flat prompt.
    assert metrics(nearly)["prompts/flat"] == 0.0


def test_rewards_prompt_by_prompt() -> None:
    unit = Unit(0, 0, 0, (Prompt("a", "walks", 4), Prompt("b", "jumps", 4)), samples_per_prompt=2)
    assert list(by_prompt([scored([1, 3, 5, 5], [0, 0, 1, 1])], [unit])) == [("a", 2.0, 1.0), ("b", 7.0, 0.0)]


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
