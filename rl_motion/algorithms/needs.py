"""What algorithms may need of a job's policy and rewards, what they read of its settings, and what to do otherwise."""

from __future__ import annotations

from collections.abc import Set

from rl_motion.config import AlgorithmConfig, UserError
from rl_motion.protocols import Need

_WANT: dict[Need, str] = {
    "snr": "a policy whose steps have a signal-to-noise ratio to balance; set algorithm.balance: none",
    "denoising": "a diffusion model, whose denoising it differentiates; choose another model or another algorithm",
    "reward_gradient": "rewards that are all differentiable; choose other rewards or another algorithm",
}


def unmet(algorithm: str, need: Need) -> UserError:
    """The error of an algorithm that lacks something."""
    return UserError(f"got algorithm {algorithm!r}, which needs {need!r}; want {_WANT[need]}")


def refuse_unmet(algorithm: str, needs: Set[Need], offered: Set[Need]) -> None:
    """Refuse an algorithm that would lack something.

    Raises:
        UserError: names the first need that is not offered and what to do.
    """
    for need in sorted(needs - offered):
        raise unmet(algorithm, need)


def refuse_unread(config: AlgorithmConfig, reads: Set[str]) -> None:
    """Refuse a setting that would change nothing: someone expects something of it.

    Raises:
        UserError: names the first one and the algorithm.
    """
    for key, field in AlgorithmConfig.model_fields.items():
        value = getattr(config, key)
        if key not in {"name", *reads} and value != field.default:
            raise UserError(
                f"algorithm.{key}: got {value}, which algorithm {config.name!r} does not read; want a setting of "
                f"{sorted(reads)}; drop it from the job or choose another algorithm"
            )
