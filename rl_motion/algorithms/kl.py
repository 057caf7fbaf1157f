"""Adaptive weight of a KL penalty."""

from __future__ import annotations

_GAIN = 0.1
_CLIP = 0.2


def adapted_kl_weight(weight: float, kl: float, target: float) -> float:
    """The weight for the next iteration: up where the KL is above its target, down where it is below.

    The controller of Ziegler et al. (arXiv:1909.08593, section 2.2), proportional in log space:

        e = clip((kl - target) / target, -0.2, 0.2);  weight <- weight * (1 + 0.1 e)

    that is at most 2 % an iteration. `AdaptiveKLController` in TRL, with n_steps / horizon = 0.1.

    Args:
        weight: the present one, above 0.
        kl: measured in the iteration that it was used in.
        target: in the units of `kl`, above 0.
    """
    error = min(max((kl - target) / target, -_CLIP), _CLIP)
    return weight * (1.0 + _GAIN * error)
