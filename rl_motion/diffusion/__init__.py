"""Noise schedules, the SDE-DPM-Solver++ transition and guidance."""

from rl_motion.diffusion.gaussian import kl_divergence, log_prob
from rl_motion.diffusion.guidance import guided
from rl_motion.diffusion.schedule import alphas_cumprod, noise_levels, schedule_hash, sigma_hats
from rl_motion.diffusion.solver import SolverTables, solver_tables

__all__ = [
    "SolverTables",
    "alphas_cumprod",
    "guided",
    "kl_divergence",
    "log_prob",
    "noise_levels",
    "schedule_hash",
    "sigma_hats",
    "solver_tables",
]
