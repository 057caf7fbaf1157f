"""Rewards: what a motion is worth for its prompt. One file per reward, one visible dict, one weighted sum.

A new reward is one file, one line here and one test; the seam is `rl_motion.protocols.Reward`. A reward of one's
own needs no line: a job names it as `FILE.py:CLASS` (see `plugins`).
"""

from __future__ import annotations

from functools import partial

from rl_motion.rewards.kind import Kind
from rl_motion.rewards.rules import MEASURES, RuleReward
from rl_motion.rewards.tmr import TMRReward
from rl_motion.rewards.tmr_contrastive import ContrastiveTMRReward

REWARDS: dict[str, Kind] = {
    "tmr": Kind(TMRReward.load, TMRReward.accepts, TMRReward.differentiable, TMRReward.checkpoint),
    "tmr_contrastive": Kind(
        ContrastiveTMRReward.load,
        ContrastiveTMRReward.accepts,
        ContrastiveTMRReward.differentiable,
        ContrastiveTMRReward.checkpoint,
        contrasts=True,
    ),
    **{name: Kind(partial(RuleReward, name), RuleReward.accepts, RuleReward.differentiable) for name in MEASURES},
}
"""What a job may name under `rewards`, what it accepts, and how it is made on the worker that uses it."""

CHECKPOINTS: dict[str, str] = {name: kind.checkpoint for name, kind in REWARDS.items() if kind.checkpoint}
"""The packaged weights that a reward reads, by its name: what a resume compares."""

__all__ = ["CHECKPOINTS", "REWARDS", "ContrastiveTMRReward", "Kind", "RuleReward", "TMRReward"]
