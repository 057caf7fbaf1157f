"""Retrieval metrics against brute force and TMR's official code: recall with ties, protocols, the area under the ROC
curve."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from rl_motion.evaluation.retrieval import auc, dissimilar, protocols, ranks_Q, recall_at, same_texts_NN


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


# --- protocols ------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(request):
    return load_file(request.config.rootpath / "tests/golden/guo_metrics_tmr_retrieval.safetensors")


@pytest.mark.parametrize("protocol", ["plain", "threshold"])
def test_protocols_equal_the_official_code(golden, protocol):
    found = protocols(golden["in/sims"], golden["in/sent_emb"])["all" if protocol == "plain" else protocol]
    for direction in ("t2m", "m2t"):
        for k in (1, 2, 3, 5, 10):
            want = golden[f"out/{protocol}/{direction}_R{k:02d}"] / 100
            assert found[f"{direction}/R@{k}"] == pytest.approx(float(want), abs=1e-9)
        assert found[f"{direction}/MedR"] == float(golden[f"out/{protocol}/{direction}_MedR"])
    same = None if protocol == "plain" else same_texts_NN(golden["in/sent_emb"])
    assert ranks_Q(golden["in/sims"], same).tolist() == golden[f"out/{protocol}/t2m_rank"].tolist()
    assert ranks_Q(golden["in/sims"].T, same).tolist() == golden[f"out/{protocol}/m2t_rank"].tolist()


def test_the_golden_ranks_notice_ties_and_the_threshold(golden):
    """Negative control: ties in one's own favour, or no threshold, give other ranks."""
    similarity_QN = golden["in/sims"]
    favourable = (similarity_QN > np.diag(similarity_QN)[:, None]).sum(1)
    assert (favourable != golden["out/plain/t2m_rank"]).any()
    assert (ranks_Q(similarity_QN) != golden["out/threshold/t2m_rank"]).any()


def unit_rows(count, seed=0, channels=12):
    rows = np.random.default_rng(seed).normal(size=(count, channels))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_batches_are_galleries_of_32_and_their_mean():
    similarity_NN = np.random.default_rng(3).normal(size=(70, 70)) + np.eye(70)
    order = np.random.default_rng(4).permutation(70)
    found = protocols(similarity_NN, unit_rows(70), order)
    parts = [recall_at(similarity_NN[np.ix_(rows, rows)], 3) for rows in (order[:32], order[32:64])]
    assert found["batches"]["t2m/R@3"] == pytest.approx(np.mean(parts))
    assert found["all"]["t2m/R@3"] < found["batches"]["t2m/R@3"]
    assert set(found) == {"all", "threshold", "batches"}
    assert "batches" not in protocols(similarity_NN[:20, :20], unit_rows(20))


def test_the_dissimilar_gallery_takes_one_of_each_kind_before_a_second():
    kinds = np.repeat(unit_rows(100, channels=200), 3, axis=0)
    near = kinds + 1e-3 * np.random.default_rng(5).normal(size=kinds.shape)
    chosen = dissimilar(near / np.linalg.norm(near, axis=1, keepdims=True), 100)
    assert sorted({int(row) // 3 for row in chosen}) == list(range(100))
    found = protocols(np.eye(300), near)
    assert found["dissimilar"]["t2m/R@1"] == 1
