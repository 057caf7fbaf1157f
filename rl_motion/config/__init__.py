"""The job schema: what users write in YAML. Imports neither torch nor ray.

Errors are here at once; the schema is read when somebody first asks for a part of it. Making it takes pydantic longer
than all else that `rl-motion --help` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rl_motion.config.errors import AuditError, RunFault, UserError, nearest

if TYPE_CHECKING:
    from rl_motion.config.pretrain import PretrainJob
    from rl_motion.config.schema import (
        AdapterConfig,
        AlgorithmConfig,
        EvaluationConfig,
        Job,
        ModelConfig,
        PolicyConfig,
        PromptsConfig,
        RewardConfig,
        RuntimeConfig,
        ScheduleConfig,
        SentinelsConfig,
        TrackingConfig,
        TrainConfig,
    )

__all__ = [
    "AdapterConfig",
    "AlgorithmConfig",
    "AuditError",
    "EvaluationConfig",
    "Job",
    "ModelConfig",
    "PolicyConfig",
    "PretrainJob",
    "PromptsConfig",
    "RewardConfig",
    "RunFault",
    "RuntimeConfig",
    "ScheduleConfig",
    "SentinelsConfig",
    "TrackingConfig",
    "TrainConfig",
    "UserError",
    "nearest",
]


def __getattr__(name: str) -> object:
    """A part of the schema, from the module that it is made in (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'pretrain' if name == 'PretrainJob' else 'schema'}"), name)
