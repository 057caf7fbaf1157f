"""Noise schedules and the timesteps that a K-call sampler visits, in float64, as in diffusers 0.42.1.

sigma_hat is diffusers' "sigma": the noise-to-signal ratio sqrt((1 - a) / a) of a timestep whose product of
(1 - beta) is a.

Legend: T training timesteps, K network calls.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import ScheduleConfig

Spacing = Literal["trailing", "linspace"]
FinalSigma = Literal["zero", "sigma_min"]

_MAX_BETA = 0.999
_LINEAR_BETAS = (1e-4, 0.02)


def alphas_cumprod(schedule: ScheduleConfig) -> NDArray[np.float64]:
    """Product of (1 - beta) up to each timestep [T].

    `cosine`: arXiv:2102.09672 eq. (17) with betas capped at 0.999 (MDM; diffusers' squaredcos_cap_v2).
    `linear`: betas from 1e-4 to 0.02 whatever T is (arXiv:2006.11239; diffusers' linear; StableMoFusion with
    T = 1000).
    """
    count = schedule.timesteps
    if schedule.betas == "linear":
        betas_T = np.linspace(*_LINEAR_BETAS, count, dtype=np.float64)
    else:
        bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas_T = np.array([min(1.0 - bars[i + 1] / bars[i], _MAX_BETA) for i in range(count)])
    return np.cumprod(1.0 - betas_T, dtype=np.float64)


def spaced_timesteps(count: int, steps: int, spacing: Spacing) -> NDArray[np.int64]:
    """The timesteps [K] that diffusers visits, from noisy to clean (arXiv:2305.08891, Table 2).

    Exactly diffusers' arithmetic, its accidents included: `trailing` gives one timestep too many for a few
    values of K.

    Args:
        count: T, training timesteps.
        steps: K, network calls.
        spacing: `trailing` or `linspace`; both start at T - 1.
    """
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
    return np.arange(count, 0, -count / steps).round().astype(np.int64) - 1


def sigma_hats(schedule: ScheduleConfig, timesteps_K: NDArray[np.int64], final: FinalSigma) -> NDArray[np.float64]:
    """sigma_hat at each timestep, then the final one [K + 1].

    Args:
        schedule: the noise schedule.
        timesteps_K: as `spaced_timesteps` returns them.
        final: where the last transition ends: `zero`, or the sigma_hat of timestep 0 (`sigma_min`).
    """
    bar_T = alphas_cumprod(schedule)
    sigma_hat_T = np.sqrt((1.0 - bar_T) / bar_T)
    last = 0.0 if final == "zero" else float(sigma_hat_T[0])
    visited_K = np.interp(timesteps_K, np.arange(len(sigma_hat_T)), sigma_hat_T)
    return np.concatenate([visited_K, [last]])


def schedule_hash(tables: Mapping[str, tuple[float, ...]], settings: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the solver's tables and of the settings that define the policy.

    Numbers enter with 12 significant digits, so that two machines whose libm differs in the last bit agree.
    """
    rounded = {name: [f"{value:.11e}" for value in row] for name, row in tables.items()}
    content = json.dumps({"tables": rounded, "settings": dict(settings)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
