"""Which workers of a run on Ray have a GPU, and what share of one each claims. Pure functions; nothing here asks Ray.

Rollouts and learners have GPUs together or not at all: a replay on another device than the rollout's has other bits,
and would not pass its audit. Reward workers have them where theirs are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from rl_motion.runtime.status import Role

_TOGETHER: frozenset[Role] = frozenset({"rollout", "learner"})

_UNITS = 10_000
"""Ray counts in these parts, and rounds: six shares of 1/6 would be more than one GPU."""
Resources = Mapping[str, float]
"""What a node offers, by name."""


def gpu_shares(workers: Mapping[Role, int], nodes: Sequence[Resources], marked: Collection[str]) -> dict[Role, float]:
    """The GPUs that a worker of each role claims: one, an n-th that n workers share, or 0.

    All workers fit at once: a GPU takes ceil(workers / GPUs) of them, counting every role that may go to its node.

    Args:
        workers: how many there may come to be.
        nodes: of the cluster, alive.
        marked: roles that nodes are marked with, whose workers go to these nodes alone.
    """
    with_gpu = [node for node in nodes if node.get("GPU", 0.0) >= 1.0]
    places = {role: [node for node in with_gpu if role not in marked or role in node] for role in workers}
    on_gpu = {role for role in workers if places[role]}
    if not on_gpu >= _TOGETHER:
        on_gpu -= _TOGETHER
    shares: dict[Role, float] = dict.fromkeys(workers, 0.0)
    for role in on_gpu:
        beside = [other for other in on_gpu if any(node in places[other] for node in places[role])]
        gpus = sum(math.floor(node["GPU"]) for node in places[role])
        sharers = math.ceil(sum(workers[other] for other in beside) / gpus)
        shares[role] = (_UNITS // sharers) / _UNITS
    return shares
