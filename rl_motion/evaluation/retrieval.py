"""How well a retrieval model tells motions apart, and whether it agrees with the oracle.

Legend: Q queries (texts), N items (motions), item q is query q's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def recall_at(similarity_QN: NDArray[np.floating], k: int) -> float:
    """Share of queries whose own item is among the k most similar; ties count as the average of their ranks.

    TMR's convention (arXiv:2305.00976 section 4.1), gallery = all items.
    """
    own_Q1 = np.diag(similarity_QN)[:, None]
    above_Q = (similarity_QN > own_Q1).sum(1)
    tied_Q = (similarity_QN == own_Q1).sum(1) - 1
    return float((above_Q + tied_Q / 2 < k).mean())


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
