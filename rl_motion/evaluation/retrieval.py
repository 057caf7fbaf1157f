"""How well a retrieval model tells motions apart, and whether it agrees with the oracle.

TMR's protocols (arXiv:2305.00976, section 4.1), in both directions: `all`, one gallery of everything; `threshold`, the
same where the motion of any text that means nearly the same is right too; `dissimilar`, a gallery of 100 whose texts
differ most; `batches`, galleries of 32.

Legend: Q queries, N items, item q is query q's own; S channels of a sentence's embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Rows = NDArray[np.integer]

TOPS = (1, 2, 3, 5, 10)
THRESHOLD = 0.95
"""Of texts that mean the same: cosine / 2 + 0.5, as TMR counts similarity."""
GALLERY, BATCH = 100, 32
CONVENTION = (
    "retrieval: shares of queries whose own item is among the k most similar, and MedR, the median rank from 1 on; "
    "ties count as the average of their ranks. all: one gallery; threshold: the item of any text with similarity above "
    f"{THRESHOLD} to the query's is right too; dissimilar: the {GALLERY} pairs whose texts are furthest apart, chosen "
    f"greedily; batches: mean over galleries of {BATCH}, the incomplete last one dropped"
)


def ranks_Q(similarity_QN: Floats, right_QN: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Rank of each query's best right item, 0 for the most similar; ties count as the average of their ranks.

    TMR's rule (`break_ties="averaging"` of its official code).

    Args:
        similarity_QN: higher is more similar.
        right_QN: which items are right, at least one for each query; None: item q.
    """
    right_QN = np.eye(*similarity_QN.shape, dtype=np.bool_) if right_QN is None else right_QN
    best_Q1 = np.where(right_QN, similarity_QN, -np.inf).max(axis=1, keepdims=True)
    above_Q = (similarity_QN > best_Q1).sum(1)
    tied_Q = (similarity_QN == best_Q1).sum(1) - 1
    return np.asarray(above_Q + tied_Q / 2)


def recall_at(similarity_QN: Floats, k: int) -> float:
    """Share of queries whose own item is among the k most similar; ties count as the average of their ranks.

    TMR's convention (arXiv:2305.00976 section 4.1), gallery = all items.
    """
    return float((ranks_Q(similarity_QN) < k).mean())


def retrieval(similarity_NN: Floats, same_NN: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Recall (shares) and median rank, text to motion (rows are texts) and motion to text.

    Args:
        similarity_NN: of text n and motion m.
        same_NN: texts that count as the same; None: each is alone.
    """
    found: dict[str, float] = {}
    for direction, similarity_QN in (("t2m", similarity_NN), ("m2t", similarity_NN.T)):
        rank_Q = ranks_Q(similarity_QN, same_NN)
        found |= {f"{direction}/R@{k}": float((rank_Q < k).mean()) for k in TOPS}
        found[f"{direction}/MedR"] = float(np.median(rank_Q)) + 1
    return found


def protocols(similarity_NN: Floats, sentence_NS: Floats, order_N: Rows | None = None) -> dict[str, dict[str, float]]:
    """`retrieval` under every protocol that N pairs suffice for; `dissimilar` wants 100, `batches` 32.

    Args:
        similarity_NN: of text n (rows) and motion m.
        sentence_NS: unit embeddings of the texts by a model of language, that says which mean the same.
        order_N: the pairs in the order in which batches are cut; None: as they come. TMR shuffles them.
    """
    order_N = np.arange(len(similarity_NN)) if order_N is None else order_N
    found = {"all": retrieval(similarity_NN), "threshold": retrieval(similarity_NN, same_texts_NN(sentence_NS))}
    if len(similarity_NN) >= GALLERY:
        rows = dissimilar(sentence_NS, GALLERY)
        found["dissimilar"] = retrieval(similarity_NN[np.ix_(rows, rows)])
    whole = len(order_N) // BATCH * BATCH
    if whole:
        parts = [retrieval(similarity_NN[np.ix_(rows, rows)]) for rows in np.split(order_N[:whole], whole // BATCH)]
        found["batches"] = _means(parts)
    return found


def same_texts_NN(sentence_NS: Floats, threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Which texts mean nearly the same: cosine / 2 + 0.5 above the threshold; each is the same as itself."""
    return np.asarray(sentence_NS @ sentence_NS.T > 2 * threshold - 1) | np.eye(len(sentence_NS), dtype=np.bool_)


def dissimilar(sentence_NS: Floats, count: int) -> Rows:
    """Texts that differ most: from the one least like the others on, always the one whose nearest is furthest.

    TMR solves a quadratic knapsack problem approximately for such a subset; this is deterministic and a line.
    """
    cosine_NN = (sentence_NS @ sentence_NS.T).astype(np.float64)
    chosen = [int(cosine_NN.sum(axis=1).argmin())]
    nearest_N = cosine_NN[chosen[0]].copy()
    while len(chosen) < count:
        nearest_N[chosen] = np.inf
        chosen.append(int(nearest_N.argmin()))
        nearest_N = np.maximum(nearest_N, cosine_NN[chosen[-1]])
    return np.array(sorted(chosen))


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve: the probability that a success scores above a failure, ties half.

    None where one of the two is absent.
    """
    score, label = np.asarray(scores, float), np.asarray(labels, bool)
    good, bad = score[label], score[~label]
    if not len(good) or not len(bad):
        return None
    order = np.sort(bad)
    below = np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")
    return float(below.mean() / (2 * len(bad)))


def _means(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
