"""RLlib's way in: the same policy, loss, rewards and units as the loop, and the same numbers (docs/rllib.md)."""

from rl_motion.runtime.rllib.algorithm import DDPO
from rl_motion.runtime.rllib.config import DDPOConfig

__all__ = ["DDPO", "DDPOConfig"]
