"""Optimiser, accumulation and its state; knows no algorithm."""

from rl_motion.learner.learner import Learner

__all__ = ["Learner"]
