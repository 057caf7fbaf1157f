"""Intervals over prompts: exact small cases, and what a careless bootstrap would get wrong."""

import numpy as np
import pytest

from rl_motion.evaluation import statistics
from rl_motion.evaluation.statistics import bootstrap_mean, paired_difference, paired_ratio


def width(estimate):
    return estimate.high - estimate.low


def test_two_prompts_have_the_three_means_that_can_be_drawn():
    # Draws of two out of two: (a, a) 1/4, (a, b) 1/2, (b, b) 1/4; 2.5 % and 97.5 % are the extremes.
    estimate = bootstrap_mean([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], seed=0)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (0.5, 0.0, 1.0, 4)


def test_equals_a_bootstrap_written_as_a_loop(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    values, names = np.array([1.0, 2.0, 5.0, 3.0, 8.0, 0.0]), np.array(["p", "q", "q", "r", "p", "s"])
    times = np.random.default_rng(7).multinomial(4, [0.25] * 4, size=300)
    means = []
    for drawn in times:
        rows = [values[names == name] for name, count in zip("pqrs", drawn, strict=True) for _ in range(count)]
        means.append(np.concatenate(rows).mean())
    estimate = bootstrap_mean(values, list(names), seed=7)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_seeded_and_independent_of_the_order_of_rows():
    rng = np.random.default_rng(0)
    values, names = rng.normal(size=40), [f"p{index // 4}" for index in range(40)]
    order = rng.permutation(40)
    first = bootstrap_mean(values, names, seed=3)
    again = bootstrap_mean(values[order], [names[index] for index in order], seed=3)
    assert (first.low, first.high) == pytest.approx((again.low, again.high))
    assert first == bootstrap_mean(values, names, seed=3)
    assert first != bootstrap_mean(values, names, seed=4)


def test_samples_that_all_agree_within_a_prompt_count_once():
    """Correlation 1 within a prompt: as if each had one sample; rows as clusters would be half as wide."""
    values_P = np.random.default_rng(1).normal(size=40)
    names_P = [f"{index:02d}" for index in range(40)]
    rows, names = values_P.repeat(4), [name for name in names_P for _ in range(4)]
    clustered = bootstrap_mean(rows, names, seed=0)
    single = bootstrap_mean(values_P, names_P, seed=0)
    careless = bootstrap_mean(rows, [str(index) for index in range(160)], seed=0)
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))
    assert width(clustered) / width(careless) == pytest.approx(2.0, rel=0.1)


def test_prompts_that_are_all_alike_leave_no_interval_between_them():
    rows = np.tile([0.0, 1.0, 0.0, 1.0], 20)
    estimate = bootstrap_mean(rows, [str(index // 4) for index in range(80)], seed=0)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    names = [str(index // 4) for index in range(160)]
    hits = 0
    for trial in range(60):
        values = rng.normal(size=40).repeat(4) + 0.5 * rng.normal(size=160)
        estimate = bootstrap_mean(values, names, seed=trial)
        hits += estimate.low <= 0 <= estimate.high
    assert 52 <= hits <= 60


def test_identical_arms_differ_by_nothing_with_certainty():
    values, names = np.random.default_rng(2).normal(size=20), [str(index // 2) for index in range(20)]
    estimate = paired_difference(values, values, names, seed=0)
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    # Negative control: the same values against another row's leave an interval.
    assert width(paired_difference(values, np.roll(values, 1), names, seed=0)) > 0.1


def test_pairing_removes_what_both_arms_share():
    rng = np.random.default_rng(3)
    base, names = rng.normal(size=100), [str(index) for index in range(100)]
    tuned = base + 0.1 + 0.01 * rng.normal(size=100)
    paired = paired_difference(base, tuned, names, seed=0)
    assert paired.low > 0.09
    unpaired = paired_difference(base, rng.permutation(tuned), names, seed=0)
    assert unpaired.low < 0


def test_ratio_of_means():
    base, tuned, names = [1.0, 3.0, 2.0, 2.0], [2.0, 6.0, 4.0, 4.0], ["a", "a", "b", "b"]
    estimate = paired_ratio(base, tuned, names, seed=0)
    assert (estimate.value, estimate.low, estimate.high) == (2.0, 2.0, 2.0)
    # Not the mean of ratios, which one small base value would rule.
    assert paired_ratio([0.001, 1.999], [1.0, 1.0], ["a", "b"], seed=0).value == 1.0
    assert paired_ratio([0.0, 0.0], [1.0, 1.0], ["a", "b"], seed=0) is None
    with_zero = paired_ratio([0.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a", "b", "c"], seed=0)
    assert np.isfinite([with_zero.low, with_zero.high]).all()


def test_one_prompt_has_no_interval():
    estimate = bootstrap_mean([0.0, 1.0], ["a", "a"], seed=0)
    assert estimate.as_dict() == {"value": 0.5, "low": None, "high": None, "n": 2}


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_refuses_what_it_cannot_average(values):
    with pytest.raises(ValueError, match="want"):
        bootstrap_mean(values, ["a", "b"], seed=0)
