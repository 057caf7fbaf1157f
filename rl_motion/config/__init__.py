"""The job schema: what users write in YAML. Imports neither torch nor ray."""

from rl_motion.config.errors import AuditError, RunFault, UserError, nearest
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
