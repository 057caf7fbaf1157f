"""One file per algorithm, and advantages."""

from collections.abc import Callable

from rl_motion.algorithms.advantages import ADVANTAGES, group_advantages
from rl_motion.algorithms.ddpo import DDPO
from rl_motion.config import AlgorithmConfig
from rl_motion.protocols import Algorithm

ALGORITHMS: dict[str, Callable[[AlgorithmConfig], Algorithm]] = {"ddpo": DDPO}
"""Every algorithm by the name that jobs use."""

__all__ = ["ADVANTAGES", "ALGORITHMS", "DDPO", "group_advantages"]
