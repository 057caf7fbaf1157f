"""Retrieval metrics against brute force: recall with ties, the area under the ROC curve."""

import numpy as np
import pytest

from rl_motion.evaluation.retrieval import auc, recall_at


def ranks(row, own):
    """Every place that an item can take in a list sorted by similarity, ties in any order."""
    above = sum(value > row[own] for value in row)
    tied = sum(value == row[own] for value in row)
    return range(above, above + tied)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_recall_is_the_share_of_queries_with_their_item_among_the_first(k):
    similarity_QN = np.random.default_rng(1).normal(size=(7, 7)) + 0.7 * np.eye(7)
    first = [ranks(row, q)[0] < k for q, row in enumerate(similarity_QN.tolist())]
    assert recall_at(similarity_QN, k) == pytest.approx(np.mean(first))
    assert 0 < recall_at(similarity_QN, 1) < recall_at(similarity_QN, 7) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_ties_take_the_mean_of_their_ranks(k):
    similarity_QN = np.random.default_rng(2).integers(0, 3, size=(30, 30)).astype(float)
    mean = [np.mean(ranks(row, q)) < k for q, row in enumerate(similarity_QN.tolist())]
    assert recall_at(similarity_QN, k) == pytest.approx(np.mean(mean))


def test_a_constant_score_has_no_recall():
    """Counting ties in one's own favour would call it perfect."""
    assert recall_at(np.zeros((10, 10)), 1) == 0
    assert recall_at(np.eye(10), 1) == 1
    assert recall_at(-np.eye(10), 9) == 0


def brute_force(scores, labels):
    good = [s for s, label in zip(scores, labels, strict=True) if label]
    bad = [s for s, label in zip(scores, labels, strict=True) if not label]
    return np.mean([1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad])


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "distinct"])
def test_auc_is_the_probability_that_a_success_scores_above_a_failure(levels):
    rng = np.random.default_rng(levels)
    labels = rng.random(60) < 0.3
    scores = rng.integers(0, levels, 60) + 0.3 * levels * labels
    found = auc(scores, labels)
    assert found == pytest.approx(brute_force(scores.tolist(), labels.tolist()), abs=1e-12)
    assert found is not None
    assert 0.5 < found < 1  # not an extreme that a wrong formula reaches too
    assert auc(-scores, labels) == pytest.approx(1 - found, abs=1e-12)
    assert auc(np.exp(scores / levels), labels) == pytest.approx(found, abs=1e-12)  # only the order counts


def test_auc_at_its_ends():
    assert auc([1.0, 2.0, 3.0], [False, False, True]) == 1
    assert auc([1.0, 2.0, 3.0], [True, False, False]) == 0
    assert auc([2.0, 2.0, 2.0], [True, False, False]) == 0.5


@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_auc_of_one_outcome_is_none(labels):
    assert auc([0.1] * len(labels), labels) is None
