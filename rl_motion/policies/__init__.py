"""A model seen as a stochastic policy."""

from rl_motion.policies.audit import audit
from rl_motion.policies.diffusion import DiffusionPolicy, policy_tables
from rl_motion.policies.gaussian import GaussianReplay
from rl_motion.policies.noise import unit_noise

__all__ = ["DiffusionPolicy", "GaussianReplay", "audit", "policy_tables", "unit_noise"]
