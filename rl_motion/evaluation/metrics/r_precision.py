"""R-precision: is a text's own motion among the nearest of a batch of 32? (Guo et al. 2022, section 5)

Equal to `calculate_R_precision` and `evaluate_matching_score` of the official code. Differs: of equally near motions
the official code takes whichever its sort puts first; here a tie counts as the average of the ranks, so that one motion
for every text has no precision.

Legend: N rows (text n belongs to motion n), C channels, K = 3 tops.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.retrieval import ranks_Q

Floats = NDArray[np.floating]

BATCH = 32
TOPS = (1, 2, 3)
CONVENTION = (
    f"r_precision_1, _2, _3: share of texts whose own motion is among the 1, 2, 3 nearest (Euclidean) of a batch of "
    f"{BATCH}; batches are drawn anew in every replication, an incomplete last one is dropped, and there is none with "
    f"fewer than {BATCH} motions; another wording of the same action in the batch counts as a miss; ties count as the "
    "average of their ranks"
)


def r_precision_K(text_NC: Floats, motion_NC: Floats, order_N: NDArray[np.integer] | None = None) -> list[float] | None:
    """Top-1, top-2 and top-3 precision over whole batches; None where there is none.

    Args:
        text_NC: embeddings of the texts.
        motion_NC: of their motions.
        order_N: the rows in the order in which batches are cut; None: as they come.
    """
    order_N = np.arange(len(text_NC)) if order_N is None else order_N
    whole = len(order_N) // BATCH * BATCH
    if not whole:
        return None
    rank_N = np.concatenate(
        [ranks_Q(-distance_QN(text_NC[rows], motion_NC[rows])) for rows in np.split(order_N[:whole], whole // BATCH)]
    )
    return [float((rank_N < top).mean()) for top in TOPS]


def distance_QN(text_QC: Floats, motion_NC: Floats) -> NDArray[np.float64]:
    """Euclidean distances between texts (rows) and motions (columns), float64; official code has float32 and the
    expanded square."""
    text, motion = text_QC.astype(np.float64), motion_NC.astype(np.float64)
    return np.asarray(np.linalg.norm(text[:, None] - motion[None], axis=-1))
