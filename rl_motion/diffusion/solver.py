"""SDE-DPM-Solver++ (arXiv:2211.01095: SDE-DPM-Solver++1 and 2M) as a stateless Gaussian transition.

One kernel, two callers: rollout draws from `transition`, replay scores with it. Tables are float64; the
arithmetic runs in the dtype of the latent. It equals diffusers'
`DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")`.

Legend: K network calls; s the current noise level, t the next (less noise); m0, m1 the x0 predictions at s
    and one step before.
VP: alpha = 1 / sqrt(sigma_hat^2 + 1), sigma = sigma_hat * alpha, lambda = log(alpha / sigma),
    h = lambda_t - lambda_s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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
        slope_K: coefficient of (m0 - m1), 0.5 alpha_t (1 - exp(-2h)) h / h0; 0 in first order.
        std_K: sigma_t sqrt(1 - exp(-2h)); 0 where the transition ends at sigma 0.
        gain_K: k_t = alpha_t sqrt(1 - exp(-2h)) / sigma_t, stds that the mean moves per unit of m0 (first
            order); its square is the SNR gained. Infinite where std is 0.
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

    def to_x0(self, k: int, x: Tensor, prediction: Tensor, kind: Literal["sample", "epsilon"]) -> Tensor:
        """The clean sample that a raw prediction at call k stands for: itself, or (x - sigma eps) / alpha."""
        if kind == "sample":
            return prediction
        return (x - self.sigma[k] * prediction) / self.alpha[k]


def solver_tables(timesteps_K: Sequence[int], sigma_hat: Sequence[float], *, order: Literal[1, 2]) -> SolverTables:
    """Tables for any decreasing noise levels, second order by the midpoint rule.

    The first transition is of first order; so is the last where it ends at sigma 0 or there are fewer than
    15.

    Args:
        timesteps_K: what the network is told at each call.
        sigma_hat: K + 1 noise-to-signal ratios, from noisy to clean; the last may be 0.
        order: of the transitions in between.
    """
    levels = [float(value) for value in sigma_hat]
    steps = len(levels) - 1
    alpha = [1.0 / math.sqrt(value**2 + 1.0) for value in levels]
    sigma = [value * scale for value, scale in zip(levels, alpha, strict=True)]
    log_snr = [-math.log(value) if value > 0.0 else math.inf for value in levels]
    h_K = [log_snr[k + 1] - log_snr[k] for k in range(steps)]
    last_is_first_order = levels[-1] == 0.0 or steps < _FEW_STEPS
    order_K = [1 if k == 0 or (k == steps - 1 and last_is_first_order) else order for k in range(steps)]
    spread_K = [-math.expm1(-2.0 * h) for h in h_K]
    x0_K = [alpha[k + 1] * spread_K[k] for k in range(steps)]
    return SolverTables(
        timestep_K=tuple(int(t) for t in timesteps_K),
        alpha=tuple(alpha),
        sigma=tuple(sigma),
        order_K=tuple(order_K),
        x_K=tuple(sigma[k + 1] / sigma[k] * math.exp(-h_K[k]) for k in range(steps)),
        x0_K=tuple(x0_K),
        slope_K=tuple(0.5 * x0_K[k] * h_K[k] / h_K[k - 1] if order_K[k] == 2 else 0.0 for k in range(steps)),
        std_K=tuple(sigma[k + 1] * math.sqrt(spread_K[k]) for k in range(steps)),
        gain_K=tuple(
            alpha[k + 1] * math.sqrt(spread_K[k]) / sigma[k + 1] if sigma[k + 1] > 0.0 else math.inf
            for k in range(steps)
        ),
    )
