"""Rewards: what a motion is worth for its prompt. One file per reward, one visible dict, one weighted sum.

A new reward is one file, one line here and one test; the seam is `rl_motion.protocols.Reward`.
"""

from __future__ import annotations

from collections.abc import Callable

from rl_motion.protocols import Reward
from rl_motion.rewards.tmr import TMRReward

REWARDS: dict[str, Callable[[], Reward]] = {
    "tmr": TMRReward.load,
}
"""What a job may name under `rewards`, and how it is made: without arguments, on the worker that uses it."""

CHECKPOINTS: dict[str, str] = {"tmr": TMRReward.checkpoint}
"""The packaged weights that a reward reads, by its name: what a resume compares."""

__all__ = ["CHECKPOINTS", "REWARDS", "TMRReward"]
