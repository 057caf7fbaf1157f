"""Agreement of evaluator, rewards and oracle, against brute force and a case that is known."""

import numpy as np
import pytest

from rl_motion.evaluation.agreement import agreement, auc_estimate, rank_correlation
from rl_motion.evaluation.evaluate import Record
from rl_motion.evaluation.retrieval import auc
from rl_motion.types import Prompt


def ranks(values):
    """Mean ranks, the long way."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, 80).astype(float)
    y = x + rng.integers(0, 9, 80)
    found = rank_correlation(x, y, [str(n // 4) for n in range(80)], seed=0)
    assert found.value == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])
    assert 0.3 < found.low < found.value < found.high < 1
    assert rank_correlation(np.exp(x), y, ["a"] * 80, seed=0).value == pytest.approx(found.value)
    assert rank_correlation(x, -y, ["a"] * 80, seed=0).value == pytest.approx(-found.value)
    # One prompt has no interval; no spread, or two rows, no correlation.
    assert rank_correlation(x, y, ["a"] * 80, seed=0).low is None
    assert rank_correlation(x, np.ones(80), ["a"] * 80, seed=0) is None
    assert rank_correlation(x[:2], y[:2], ["a", "b"], seed=0) is None


def test_intervals_are_those_of_a_bootstrap_over_prompts():
    """Against resampling whole prompts by hand; ranks kept, as the docstring says."""
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(25), 4)
    shared = rng.normal(size=25)[prompts]
    score, label = shared + rng.normal(size=100), (shared + rng.normal(size=100)) > 0
    found = auc_estimate(score, label, [str(p) for p in prompts], seed=0)
    by_hand = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(prompts == p) for p in rng.integers(0, 25, 25)])
        by_hand.append(auc(score[rows], label[rows]))
    low, high = np.quantile([one for one in by_hand if one is not None], [0.025, 0.975])
    assert (found.value, found.n) == (auc(score, label), 100)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    # Negative control: over motions, as if the samples of a prompt were strangers, it is narrower.
    alone = auc_estimate(score, label, [str(row) for row in range(100)], seed=0)
    assert alone.high - alone.low < 0.95 * (found.high - found.low)


def records(shared, seed=2, **changes):
    """200 motions, half of them right; evaluator and reward see the verdict and `shared` of what it leaves open."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(200):
        right, style = row % 2, rng.normal()
        sees = [2 * right + shared * style + rng.normal() for _ in range(2)]
        given = {
            "split": "held_out",
            "arm": "base",
            "prompt": Prompt(str(row // 4), "walks", 40),
            "sample": row % 4,
            "oracle_success": float(right),
            "reward": sees[0],
            "diversity": None,
            "sentinels": {},
            "rewards": {"tmr": sees[0]},
            "distance": 9 - sees[1],
        }
        made.append(Record(**(given | changes)))
    return made


def test_agreement_beyond_the_verdict_shows_where_there_is_some():
    blind, alike = (agreement(records(shared), seed=0) for shared in (0.0, 2.0))
    for found in (blind, alike):
        assert found["evaluator"]["auc"]["low"] > 0.5
        assert found["tmr"]["auc"]["low"] > 0.5
    for verdict in ("within_success", "within_failure"):
        # Both see the verdict, so they correlate over all; within one verdict only what they share beyond it is left.
        assert blind["tmr"][verdict]["low"] < 0 < blind["tmr"][verdict]["high"]
        assert alike["tmr"][verdict]["low"] > 0.4
        assert alike["tmr"][verdict]["n"] == 100


def test_what_was_not_judged_or_embedded_is_left_out():
    assert agreement([], seed=0) == {}
    assert agreement(records(1.0, oracle_success=None), seed=0) == {}
    assert set(agreement(records(1.0, distance=None), seed=0)) == {"tmr"}
    always = agreement(records(1.0, oracle_success=1.0), seed=0)
    assert always["tmr"]["auc"] is None
    assert always["tmr"]["within_failure"] is None
    assert always["tmr"]["within_success"]["value"] > 0
