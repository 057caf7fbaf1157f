"""Optimiser, accumulation and its state; knows no algorithm."""

from rl_motion.learner.learner import Learner
from rl_motion.learner.rounds import Rounds, together

__all__ = ["Learner", "Rounds", "together"]
