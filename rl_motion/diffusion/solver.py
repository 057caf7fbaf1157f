"""SDE-DPM-Solver++ (arXiv:2211.01095: SDE-DPM-Solver++1 and 2M) as a stateless Gaussian transition.

    std (both orders)    sigma_t sqrt(1 - exp(-2h))
    mean, order 1        (sigma_t / sigma_s) exp(-h) x + alpha_t (1 - exp(-2h)) m0
    order 2 adds         c (m0 - m1) h / h0, where
        midpoint         c = alpha_t (1 - exp(-2h)) / 2
        heun             c = alpha_t (1 - (1 - exp(-2h)) / 2h)

One kernel, two callers: rollout draws from `transition`, replay scores with it. Tables are float64; the
arithmetic runs in the dtype of the latent. It equals diffusers'
`DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")`.

Legend: K network calls; s the current noise level, t the next (less noise); m0, m1 the x0 predictions at s
    and one step before.
VP: alpha = 1 / sqrt(sigma_hat^2 + 1), sigma = sigma_hat * alpha, lambda = log(alpha / sigma),
    h = lambda_t - lambda_s, h0 the h of one step before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from torch import Tensor

from rl_motion.protocols import PredictionType

SolverType = Literal["midpoint", "heun"]

_ROUNDING = 1e-9
"""A relative rise of the noise level up to this is a level repeated."""
_FEW_STEPS = 15
"""Below this many steps diffusers takes the last one in first order (`lower_order_final`)."""


@dataclass(frozen=True, slots=True)
class SolverTables:
    """Everything the kernel needs, one entry per transition (noise levels: one more).

    Attributes:
        timestep_K: what the network is told at each call.
        alpha: signal scale of the K + 1 noise levels.
        sigma: noise scale of the K + 1 noise levels.
        order_K: 1 or 2.
        x_K: coefficient of the latent, (sigma_t / sigma_s) exp(-h).
        x0_K: coefficient of the prediction, alpha_t (1 - exp(-2h)).
        slope_K: coefficient of (m0 - m1), c h / h0; 0 in first order.
        std_K: sigma_t sqrt(1 - exp(-2h)); 0 where the transition ends at sigma 0.
        gain_K: k_t = alpha_t sqrt(1 - exp(-2h)) / sigma_t, stds that the mean moves per unit of m0 in first
            order, whatever the order and the solver type; its square is the SNR gained,
            alpha_t^2 / sigma_t^2 - alpha_s^2 / sigma_s^2. Infinite where the transition ends at sigma 0.
            `raw_gain` says it per unit of what the network predicts.
    """

    timestep_K: tuple[int, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    order_K: tuple[int, ...]
    x_K: tuple[float, ...]
    x0_K: tuple[float, ...]
    slope_K: tuple[float, ...]
    std_K: tuple[float, ...]
    gain_K: tuple[float, ...]

    def transition(self, k: int, x: Tensor, x0: Tensor, x0_prev: Tensor | None) -> tuple[Tensor, float]:
        """Mean (shape and dtype of x) and standard deviation of the next latent.

        Args:
            k: index of the transition, 0 the noisiest.
            x: the current latent.
            x0: the prediction of the clean sample at x.
            x0_prev: the prediction one step before; looked at in second order only, and part of the gradient
                there.

        Raises:
            ValueError: transition k is of second order and has no previous prediction.
        """
        mean = self.x_K[k] * x + self.x0_K[k] * x0
        if self.order_K[k] == 2:
            if x0_prev is None:
                raise ValueError(
                    f"got no previous prediction for second-order transition {k}; want the x0 of step "
                    f"{k - 1}; pass x0_prev"
                )
            mean = mean + self.slope_K[k] * (x0 - x0_prev)
        return mean, self.std_K[k]

    def to_x0(self, k: int, x: Tensor, prediction: Tensor, kind: PredictionType) -> Tensor:
        """The clean sample that a raw prediction at call k stands for.

        Itself, (x - sigma eps) / alpha, or alpha x - sigma v.
        """
        if kind == "sample":
            return prediction
        if kind == "epsilon":
            return (x - self.sigma[k] * prediction) / self.alpha[k]
        return self.alpha[k] * x - self.sigma[k] * prediction

    def raw_gain(self, k: int, kind: PredictionType) -> float:
        """k_t per unit of the network's raw prediction: stds that the mean of transition k moves, in first order.

        k_t |d x0 / d prediction|: k_t itself, k_t sigma_s / alpha_s = sqrt(exp(2h) - 1), or k_t sigma_s.
        """
        if kind == "sample":
            return self.gain_K[k]
        if kind == "epsilon":
            return self.gain_K[k] * self.sigma[k] / self.alpha[k]
        return self.gain_K[k] * self.sigma[k]


def solver_tables(
    timesteps_K: Sequence[int], sigma_hat: Sequence[float], *, order: Literal[1, 2], solver_type: SolverType
) -> SolverTables:
    """Tables for any noise levels that do not rise.

    The first transition is of first order; so is the last where it ends at sigma 0 or there are fewer than
    15. A level that repeats the one before it makes a transition that changes nothing: std and gain 0.

    Args:
        timesteps_K: what the network is told at each call.
        sigma_hat: K + 1 noise-to-signal ratios, from noisy to clean; the last may be 0.
        order: of the transitions in between.
        solver_type: of second order.

    Raises:
        ValueError: the levels rise, or a second-order transition follows a repeated level (h0 is 0).
    """
    levels = _levels(sigma_hat)
    steps = len(levels) - 1
    alpha = [1.0 / math.sqrt(value**2 + 1.0) for value in levels]
    sigma = [value * scale for value, scale in zip(levels, alpha, strict=True)]
    log_snr = [-math.log(value) if value > 0.0 else math.inf for value in levels]
    h_K = [log_snr[k + 1] - log_snr[k] for k in range(steps)]
    last_is_first_order = levels[-1] == 0.0 or steps < _FEW_STEPS
    order_K = [1 if k == 0 or (k == steps - 1 and last_is_first_order) else order for k in range(steps)]
    spread_K = [-math.expm1(-2.0 * h) for h in h_K]
    return SolverTables(
        timestep_K=tuple(int(t) for t in timesteps_K),
        alpha=tuple(alpha),
        sigma=tuple(sigma),
        order_K=tuple(order_K),
        x_K=tuple(sigma[k + 1] / sigma[k] * math.exp(-h_K[k]) for k in range(steps)),
        x0_K=tuple(alpha[k + 1] * spread_K[k] for k in range(steps)),
        slope_K=tuple(
            _slope(alpha[k + 1], h_K[k], h_K[k - 1], solver_type) if order_K[k] == 2 else 0.0 for k in range(steps)
        ),
        std_K=tuple(sigma[k + 1] * math.sqrt(spread_K[k]) for k in range(steps)),
        gain_K=tuple(
            alpha[k + 1] * math.sqrt(spread_K[k]) / sigma[k + 1] if sigma[k + 1] > 0.0 else math.inf
            for k in range(steps)
        ),
    )


def _levels(sigma_hat: Sequence[float]) -> list[float]:
    levels = [float(value) for value in sigma_hat]
    for k, (before, after) in enumerate(pairwise(levels)):
        if after > before * (1.0 + _ROUNDING):
            raise ValueError(
                f"got noise levels that rise from {before:.6g} to {after:.6g} at transition {k}; want them from noisy "
                "to clean; sort them"
            )
    return list(accumulate(levels, min))


def _slope(alpha: float, h: float, h0: float, solver_type: SolverType) -> float:
    """c h / h0 of the module's docstring."""
    if h0 == 0.0:
        raise ValueError(
            "got a second-order transition after a repeated noise level, where a slope is not defined; want levels "
            "that fall; use other levels or order 1"
        )
    if h == 0.0:
        return 0.0
    spread = -math.expm1(-2.0 * h)
    share = 0.5 * spread if solver_type == "midpoint" else 1.0 - spread / (2.0 * h)
    return alpha * share * h / h0
