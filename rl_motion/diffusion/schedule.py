"""Noise schedules and the noise levels that a sampler walks down, in float64, as in diffusers 0.42.1.

sigma_hat is diffusers' "sigma": the noise-to-signal ratio sqrt((1 - a) / a) of a timestep whose product of
(1 - beta) is a.

Legend: T training timesteps, N noise levels.
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

Spacing = Literal["trailing", "linspace", "karras"]

_MAX_BETA = 0.999
_LINEAR_BETAS = (1e-4, 0.02)
_RHO = 7.0


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


def sigma_hats(schedule: ScheduleConfig) -> NDArray[np.float64]:
    """sigma_hat of every timestep [T]; the first is diffusers' "sigma_min"."""
    bar_T = alphas_cumprod(schedule)
    return np.sqrt((1.0 - bar_T) / bar_T)


def noise_levels(
    schedule: ScheduleConfig, count: int, spacing: Spacing, end: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """N timesteps and their sigma_hats, from noisy to clean: those that diffusers visits in N steps.

    `trailing`, `linspace`: arXiv:2305.08891, Table 2; an `end` follows the N - 1 levels of the spacing.
    `karras`: arXiv:2206.00364 eq. (5) with rho 7, from the largest sigma_hat down to `end`.

    Exactly diffusers' arithmetic, its accidents included: `trailing` gives one timestep too many for a few
    values of N, `karras` repeats timesteps (of levels that differ) where a schedule has few so noisy.

    Args:
        schedule: the noise schedule.
        count: N.
        spacing: how the levels are spread; all start at T - 1.
        end: sigma_hat of the last level; None: where the spacing itself ends (`karras`: at sigma_min).
    """
    hat_T = sigma_hats(schedule)
    if spacing == "karras":
        level_N = _karras(float(hat_T[-1]), float(hat_T[0]) if end is None else end, count)
        return _timesteps(schedule, level_N, hat_T), level_N
    spaced = _spaced_timesteps(schedule.timesteps, count if end is None else count - 1, spacing)
    visited = np.interp(spaced, np.arange(len(hat_T)), hat_T)
    if end is None:
        return spaced, visited
    last = np.array([end])
    return np.concatenate([spaced, _timesteps(schedule, last, hat_T)]), np.concatenate([visited, last])


def schedule_hash(tables: Mapping[str, tuple[float, ...]], settings: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the solver's tables and of the settings that define the policy.

    Numbers enter with 12 significant digits, so that two machines whose libm differs in the last bit agree.
    """
    rounded = {name: [f"{value:.11e}" for value in row] for name, row in tables.items()}
    content = json.dumps({"tables": rounded, "settings": dict(settings)}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _spaced_timesteps(timesteps: int, count: int, spacing: Literal["trailing", "linspace"]) -> NDArray[np.int64]:
    if spacing == "linspace":
        return np.linspace(0, timesteps - 1, count + 1).round()[::-1][:-1].astype(np.int64)
    return np.arange(timesteps, 0, -timesteps / count).round().astype(np.int64) - 1


def _karras(largest: float, smallest: float, count: int) -> NDArray[np.float64]:
    high, low = largest ** (1 / _RHO), smallest ** (1 / _RHO)
    level_N: NDArray[np.float64] = (high + np.linspace(0, 1, count) * (low - high)) ** _RHO
    return level_N


def _timesteps(schedule: ScheduleConfig, level_N: NDArray[np.float64], hat_T: NDArray[np.float64]) -> NDArray[np.int64]:
    """What the network is told at any noise level: interpolated in log sigma_hat, then as diffusers rounds."""
    log_T, log_N = np.log(hat_T), np.log(level_N)
    below_N = np.clip(np.searchsorted(log_T, log_N, side="right") - 1, 0, len(log_T) - 2)
    weight_N = np.clip((log_T[below_N] - log_N) / (log_T[below_N] - log_T[below_N + 1]), 0, 1)
    time_N: NDArray[np.float64] = (1 - weight_N) * below_N + weight_N * (below_N + 1)
    return (time_N if schedule.betas == "cosine" else time_N.round()).astype(np.int64)
