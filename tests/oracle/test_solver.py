"""The transition kernel against diffusers: stored float64 trajectories, and the installed scheduler, live."""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rl_motion.config import ScheduleConfig
from rl_motion.diffusion import SolverTables, sigma_hats, solver_tables, spaced_timesteps

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "solver_sde.json").read_text())
TOLERANCE = 1e-9
"""Of the float64 kernel, relative to the largest value of a trajectory."""
LIVE = [
    (betas, timesteps, spacing, order, final, steps)
    for betas, timesteps in (("cosine", 50), ("cosine", 1000), ("linear", 1000))
    for spacing in ("trailing", "linspace")
    for order in (1, 2)
    for final in ("zero", "sigma_min")
    for steps in (2, 10, 20)
]


@cache
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "solver_sde.safetensors")


@cache
def diffusers_scheduler(dtype: torch.dtype) -> type:
    """The installed scheduler; for float64, its own source with every float32 replaced."""
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_multistep")
    if dtype == torch.float64:
        source = Path(str(module.__file__)).read_text().replace("float32", "float64")
        name, package = module.__name__ + "_float64", module.__package__
        module = types.ModuleType(name)
        module.__package__ = package
        exec(compile(source, name, "exec"), module.__dict__)
    return module.DPMSolverMultistepScheduler


def predict(x: Tensor, timestep: int, timesteps: int) -> Tensor:
    return torch.tanh(0.7 * x + 0.1 * timestep / timesteps)


def raw_prediction(x0: Tensor, x: Tensor, levels: tuple[Tensor | float, Tensor | float], kind: str) -> Tensor:
    alpha, sigma = levels
    return x0 if kind == "sample" else (x - alpha * x0) / sigma


def trajectory(tables: SolverTables, kind: str, timesteps: int, start: tuple[Tensor, Tensor]) -> Tensor:
    """Every latent of the kernel's own sampler, with given noise."""
    x, noise = start
    latents, previous = [x], None
    for k in range(len(tables.timestep_K)):
        raw = raw_prediction(predict(x, tables.timestep_K[k], timesteps), x, (tables.alpha[k], tables.sigma[k]), kind)
        x0 = tables.to_x0(k, x, raw, kind)  # type: ignore[arg-type]
        mean, std = tables.transition(k, x, x0, previous)
        x, previous = mean + std * noise[k], x0
        latents.append(x)
    return torch.stack(latents)


def diffusers_trajectory(scheduler: object, kind: str, timesteps: int, start: tuple[Tensor, Tensor]) -> Tensor:
    x, noise = start
    latents = [x]
    for k, t in enumerate(scheduler.timesteps):  # type: ignore[attr-defined]
        levels = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[k])  # type: ignore[attr-defined]
        raw = raw_prediction(predict(x, int(t), timesteps), x, levels, kind)
        x = scheduler.step(raw, t, x, variance_noise=noise[k]).prev_sample  # type: ignore[attr-defined]
        latents.append(x)
    return torch.stack(latents)


def golden_error(name: str, change: float = 0.0) -> float:
    """Largest error relative to the largest value; `change` perturbs one coefficient of the kernel."""
    schedule_name, _, kind, final = name.split("/")
    config = CASES[name]
    stored = golden()
    timesteps_K = stored[f"sched/{schedule_name}/{final}/timesteps"]
    levels = stored[f"sched/{schedule_name}/{final}/sigmas64"].tolist()
    order = config["solver_order"]
    tables = solver_tables(timesteps_K.tolist(), levels, order=order)
    if change:
        x0_K = (*tables.x0_K[:4], tables.x0_K[4] * (1.0 + change), *tables.x0_K[5:])
        tables = dataclasses.replace(tables, x0_K=x0_K)
    want = stored[f"{name}/x64"]
    got = trajectory(tables, kind, config["num_train_timesteps"], (stored["in/x_T"], stored["in/noise"]))
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", sorted(CASES))
def test_kernel_equals_stored_diffusers_float64(name: str) -> None:
    assert golden_error(name) < TOLERANCE


@pytest.mark.parametrize("name", ["cos50_trailing/o1/sample/zero", "cos1000_linspace/o2mid/epsilon/sigma_min"])
def test_control_a_perturbed_table_is_noticed(name: str) -> None:
    assert golden_error(name, change=1e-6) > TOLERANCE


@pytest.mark.parametrize("name", sorted({n.split("/")[0] for n in CASES if "karras" not in n}))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_own_noise_levels_equal_stored_ones(name: str, final: str) -> None:
    spacing = name.split("_")[1]
    config = ScheduleConfig(betas="cosine", timesteps=int(name.split("_", maxsplit=1)[0].removeprefix("cos")))
    timesteps_K = spaced_timesteps(config.timesteps, 10, spacing)  # type: ignore[arg-type]
    assert timesteps_K.tolist() == golden()[f"sched/{name}/{final}/timesteps"].tolist()
    got = torch.from_numpy(sigma_hats(config, timesteps_K, final))  # type: ignore[arg-type]
    torch.testing.assert_close(got, golden()[f"sched/{name}/{final}/sigmas64"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("case", LIVE, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_kernel_equals_installed_diffusers(case: tuple, kind: str, dtype: torch.dtype) -> None:
    betas, timesteps, spacing, order, final, steps = case
    scheduler = diffusers_scheduler(dtype)(
        num_train_timesteps=timesteps,
        beta_schedule="squaredcos_cap_v2" if betas == "cosine" else "linear",
        solver_order=order,
        prediction_type=kind,
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type=final,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(steps)
    schedule = ScheduleConfig(betas=betas, timesteps=timesteps)
    timesteps_K = spaced_timesteps(timesteps, steps, spacing)
    assert timesteps_K.tolist() == scheduler.timesteps.tolist()
    levels = sigma_hats(schedule, timesteps_K, final)
    tables = solver_tables(timesteps_K.tolist(), levels.tolist(), order=order)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.randn(steps, 2, 3, generator=generator, dtype=torch.float64).to(dtype)
    want = diffusers_trajectory(scheduler, kind, timesteps, (start, noise))
    got = trajectory(tables, kind, timesteps, (start, noise))
    assert got.dtype == want.dtype == dtype
    # Float32 tables of a cosine schedule lose digits near pure noise, where 1 - beta is almost 0: diffusers'
    # own two variants differ
    # by 1.2e-4 there, and 10 times that is the stored vectors' suggested tolerance.
    bound = TOLERANCE if dtype == torch.float64 else 1.2e-3
    assert float((got - want).abs().max() / want.abs().max()) < bound
