"""One file per algorithm, and advantages."""

from collections.abc import Callable

from rl_motion.algorithms.advantages import ADVANTAGES, estimate, group_advantages
from rl_motion.algorithms.ddpo import DDPO
from rl_motion.algorithms.easytune import EasyTune
from rl_motion.algorithms.needs import refuse_unmet, refuse_unread
from rl_motion.config import AlgorithmConfig
from rl_motion.protocols import Algorithm, Objective

ALGORITHMS: dict[str, Callable[[AlgorithmConfig, Objective], Algorithm]] = {
    "ddpo": lambda config, _: DDPO(config),
    "easytune": EasyTune,
}
"""Every algorithm by the name that jobs use, made from its settings and the job's differentiable total reward."""

__all__ = [
    "ADVANTAGES",
    "ALGORITHMS",
    "DDPO",
    "EasyTune",
    "estimate",
    "group_advantages",
    "refuse_unmet",
    "refuse_unread",
]
