"""The transition kernel against diffusers: stored trajectories, and the installed scheduler, live."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import types
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rl_motion.config import PolicyConfig, ScheduleConfig
from rl_motion.diffusion import SolverTables, noise_levels, sigma_hats, solver_tables
from rl_motion.policies import policy_tables

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "solver_sde.json").read_text())
TOLERANCE = 1e-9
"""Of the float64 kernel, relative to the largest value of a trajectory."""
NAMES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
SOLVERS = [(1, "midpoint"), (2, "midpoint"), (2, "heun")]
KINDS = ["sample", "epsilon", "v_prediction"]
LEVELS = [
    (betas, timesteps, spacing, steps)
    for betas in ("cosine", "linear")
    for timesteps in (50, 100, 1000)
    for spacing in ("trailing", "linspace", "karras")
    for steps in (1, 2, 9, 14, 15, 25)
]
ODD_LEVELS = [
    ("cosine", 100, "trailing", 29),  # one timestep too many, the last -1
    ("cosine", 50, "linspace", 60),  # levels repeat
    ("cosine", 50, "karras", 60),  # timesteps repeat, from the first on
    ("linear", 7, "karras", 5),
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


def scheduler_of(betas: str, timesteps: int, spacing: str, dtype: torch.dtype = torch.float64, **options):
    """diffusers' scheduler before `set_timesteps`."""
    scheduler = diffusers_scheduler(dtype)(
        num_train_timesteps=timesteps,
        beta_schedule=NAMES[betas],
        algorithm_type="sde-dpmsolver++",
        use_karras_sigmas=spacing == "karras",
        timestep_spacing="linspace" if spacing == "karras" else spacing,
        **options,
    )
    scheduler.set_begin_index(0)  # else a repeated first timestep makes it start at its second call
    return scheduler


def predict(x: Tensor, timestep: int, timesteps: int) -> Tensor:
    return torch.tanh(0.7 * x + 0.1 * timestep / timesteps)


def raw_prediction(x0: Tensor, x: Tensor, levels: tuple[Tensor | float, Tensor | float], kind: str) -> Tensor:
    alpha, sigma = levels
    noise = (x - alpha * x0) / sigma
    return {"sample": x0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x0}[kind]


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


def diffusers_trajectory(scheduler, kind: str, start: tuple[Tensor, Tensor]) -> Tensor:
    x, noise = start
    latents = [x]
    for k, t in enumerate(scheduler.timesteps):
        levels = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[k])
        raw = raw_prediction(predict(x, int(t), scheduler.config.num_train_timesteps), x, levels, kind)
        x = scheduler.step(raw, t, x, variance_noise=noise[k]).prev_sample
        latents.append(x)
    return torch.stack(latents)


def relative_error(scheduler, tables: SolverTables, kind: str, dtype: torch.dtype = torch.float64) -> float:
    """Largest difference between the two samplers, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64).to(dtype)
    noise = torch.randn(len(tables.timestep_K), 2, 3, generator=generator, dtype=torch.float64).to(dtype)
    want = diffusers_trajectory(scheduler, kind, (start, noise))
    got = trajectory(tables, kind, scheduler.config.num_train_timesteps, (start, noise))
    assert got.dtype == want.dtype == dtype
    return float((got - want).abs().max() / want.abs().max())


def own_levels(case: tuple, final: str) -> tuple[list[int], list[float]]:
    """The kernel's timesteps [K] and sigma_hats [K + 1] of diffusers' K-step schedule."""
    betas, timesteps, spacing, steps = case
    schedule = ScheduleConfig(betas=betas, timesteps=timesteps)
    timestep_K, level_K = noise_levels(schedule, steps, spacing)
    return timestep_K.tolist(), [*level_K.tolist(), 0.0 if final == "zero" else float(sigma_hats(schedule)[0])]


def golden_error(name: str, field: str = "x64", change: str = "", by: float = 1e-6) -> float:
    """Largest error relative to the largest value; `change` names a table of which one coefficient is perturbed."""
    schedule_name, _, kind, final = name.split("/")
    config, stored = CASES[name], golden()
    want = stored[f"{name}/{field}"]
    tables = solver_tables(
        stored[f"sched/{schedule_name}/{final}/timesteps"].tolist(),
        stored[f"sched/{schedule_name}/{final}/sigmas64"].tolist(),
        order=config["solver_order"],
        solver_type=config.get("solver_type", "midpoint"),
    )
    if change:
        row = getattr(tables, change)
        tables = dataclasses.replace(tables, **{change: (*row[:4], row[4] * (1.0 + by), *row[5:])})
    start = (stored["in/x_T"].to(want.dtype), stored["in/noise"].to(want.dtype))
    got = trajectory(tables, kind, config["num_train_timesteps"], start)
    if "karras" in name and final == "sigma_min":  # a repeated level: nothing happens, where float64 diffusers has NaN
        torch.testing.assert_close(got[-1], got[-2], rtol=1e-6, atol=1e-6)
        got = got[: len(want)]
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", sorted(CASES))
def test_kernel_equals_stored_diffusers(name: str) -> None:
    assert golden_error(name) < TOLERANCE
    largest = float(golden()[f"{name}/x64"].abs().max())
    assert golden_error(name, "x32") < 10 * max(1e-6, CASES[name]["float32_error"]) / largest


@pytest.mark.parametrize("table", ["x_K", "x0_K", "slope_K", "std_K"])
@pytest.mark.parametrize(
    "name", ["cos50_trailing/o2heun/v_prediction/zero", "cos1000_linspace/o2mid/epsilon/sigma_min"]
)
def test_control_a_perturbed_table_is_noticed(name: str, table: str) -> None:
    assert golden_error(name, change=table) > TOLERANCE


@pytest.mark.parametrize("name", sorted({n.split("/")[0] for n in CASES}))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_own_noise_levels_equal_stored_ones(name: str, final: str) -> None:
    schedule, spacing = name.split("_")
    betas = "cosine" if schedule.startswith("cos") else "linear"
    timesteps, levels = own_levels(
        (betas, int(schedule.removeprefix(betas[:3]).removeprefix("ear")), spacing, 10), final
    )
    assert timesteps == golden()[f"sched/{name}/{final}/timesteps"].tolist()
    want = golden()[f"sched/{name}/{final}/sigmas64"]
    torch.testing.assert_close(torch.tensor(levels, dtype=torch.float64), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", LEVELS + ODD_LEVELS, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_kernel_equals_installed_diffusers(case: tuple, final: str) -> None:
    """Every order, solver type and prediction, in float64."""
    timesteps, levels = own_levels(case, final)
    still = [k for k, (early, late) in enumerate(pairwise(levels)) if late >= early * (1 - 1e-9)]
    for order, solver_type in SOLVERS:
        if order == 2 and any(k < len(timesteps) - 1 or len(timesteps) >= 15 for k in still):
            continue  # no number in diffusers: see test_repeated_levels
        tables = solver_tables(timesteps, levels, order=order, solver_type=solver_type)
        for kind in KINDS:
            options = {"solver_order": order, "solver_type": solver_type, "prediction_type": kind}
            scheduler = scheduler_of(*case[:3], final_sigmas_type=final, **options)
            scheduler.set_timesteps(case[3])
            assert timesteps == scheduler.timesteps.tolist()
            np.testing.assert_allclose(levels, scheduler.sigmas, rtol=1e-12, atol=0)
            if still:  # float64 diffusers takes the root of a rounding error there
                scheduler.sigmas = torch.cummin(scheduler.sigmas, 0).values
            assert relative_error(scheduler, tables, kind) < TOLERANCE, (order, solver_type, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("case", [("cosine", 50, "trailing"), ("cosine", 1000, "linspace"), ("linear", 1000, "karras")])
def test_kernel_in_float32_equals_installed_diffusers(case: tuple, solver: tuple, kind: str) -> None:
    order, solver_type = solver
    options = {"solver_order": order, "solver_type": solver_type, "prediction_type": kind}
    scheduler = scheduler_of(*case, torch.float32, **options)
    scheduler.set_timesteps(10)
    timesteps, levels = own_levels((*case, 10), "zero")
    assert timesteps == scheduler.timesteps.tolist()
    tables = solver_tables(timesteps, levels, order=order, solver_type=solver_type)
    # Float32 tables of a cosine schedule lose digits near pure noise, where 1 - beta is almost 0: diffusers'
    # own two variants differ by 1.2e-4 there, and 10 times that is the stored vectors' suggested tolerance.
    assert relative_error(scheduler, tables, kind, torch.float32) < 1.2e-3


@pytest.mark.parametrize("last_step", ["frozen", "stop"])
@pytest.mark.parametrize("landing", [None, "last_timestep", "sigma_min", 0.1])
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "karras"])
@pytest.mark.parametrize("steps", [8, 16])
def test_a_policys_transitions_are_diffusers(steps: int, spacing: str, landing: str | float | None, last_step) -> None:
    """diffusers at the policy's own timesteps, told where to land: a K-step schedule, whatever the landing."""
    schedule = ScheduleConfig(betas="linear", timesteps=1000)
    config = PolicyConfig(steps=steps, spacing=spacing, landing=landing, last_step=last_step, solver_type="heun")
    tables = policy_tables(schedule, config)
    final = "zero" if last_step == "frozen" else "sigma_min"
    scheduler = scheduler_of("linear", 1000, "linspace", solver_type="heun", final_sigmas_type=final)
    scheduler.set_timesteps(timesteps=list(tables.timestep_K))
    assert len(tables.timestep_K) == steps
    hats = torch.tensor([s / a for s, a in zip(tables.sigma, tables.alpha, strict=True)], dtype=torch.float64)
    transitions = steps - (last_step == "frozen")
    if spacing != "karras":  # visited timesteps have levels of their own
        torch.testing.assert_close(hats[:transitions], scheduler.sigmas[:transitions], rtol=1e-12, atol=0)
    scheduler.sigmas = hats
    assert relative_error(scheduler, tables, "epsilon") < TOLERANCE
    lands_on_a_timestep = landing == "last_timestep" or (landing is None and last_step == "frozen")
    if landing == 0.1:
        assert tables.sigma[transitions] == pytest.approx(0.1, rel=1e-12)
    elif spacing == "karras" or not lands_on_a_timestep:
        assert hats[transitions] == pytest.approx(sigma_hats(schedule)[0], rel=1e-12)
    else:
        timesteps, levels = noise_levels(schedule, transitions + 1, spacing)
        assert hats[transitions] == pytest.approx(levels[-1], rel=1e-12)
        assert last_step == "stop" or tables.timestep_K[-1] == timesteps[-1]


def test_karras_ends_where_it_is_told_as_diffusers_does() -> None:
    scheduler = scheduler_of("cosine", 1000, "karras")
    scheduler.register_to_config(sigma_min=0.25)
    scheduler.set_timesteps(12)
    timesteps, levels = noise_levels(ScheduleConfig(betas="cosine", timesteps=1000), 12, "karras", end=0.25)
    assert timesteps.tolist() == scheduler.timesteps.tolist()
    np.testing.assert_allclose(levels, scheduler.sigmas[:-1], rtol=1e-12, atol=0)


def test_the_square_of_the_gain_is_the_snr_gained() -> None:
    """Whatever the order and the solver type: k_t is a property of two noise levels."""
    for order, solver_type in SOLVERS:
        timesteps, levels = own_levels(("cosine", 50, "trailing", 12), "sigma_min")
        tables = solver_tables(timesteps, levels, order=order, solver_type=solver_type)
        snr = [(a / s) ** 2 for a, s in zip(tables.alpha, tables.sigma, strict=True)]
        assert [k**2 for k in tables.gain_K] == pytest.approx(np.diff(snr), rel=1e-9)
        moves = [x0 / std for x0, std in zip(tables.x0_K, tables.std_K, strict=True)]
        assert tables.gain_K == pytest.approx(moves, rel=1e-9)


def test_repeated_levels() -> None:
    """A repeated level changes nothing; second order after it has no slope; levels that rise are refused."""
    tables = solver_tables([3, 2, 1], [2.0, 2.0, 1.0, 0.5], order=1, solver_type="midpoint")
    assert (tables.x_K[0], tables.x0_K[0], tables.std_K[0], tables.gain_K[0]) == (1.0, 0.0, 0.0, 0.0)
    last = solver_tables(range(16), [*range(17, 1, -1), 2.0], order=2, solver_type="heun")
    assert (last.order_K[-1], last.slope_K[-1], last.std_K[-1]) == (2, 0.0, 0.0)
    with pytest.raises(ValueError, match="repeated noise level"):
        solver_tables([3, 2, 1], [2.0, 2.0, 1.0, 0.5], order=2, solver_type="midpoint")
    with pytest.raises(ValueError, match="rise from 1 to 2 at transition 0"):
        solver_tables([3, 2], [1.0, 2.0, 0.0], order=1, solver_type="midpoint")
    assert math.isinf(solver_tables([3], [1.0, 0.0], order=1, solver_type="midpoint").gain_K[0])


def raw_gain_by_difference(config: PolicyConfig, kind: str) -> list[float]:
    """Stds that each transition's mean moves when the raw prediction does, through the kernel's own two functions."""
    tables = policy_tables(ScheduleConfig(betas="linear", timesteps=1000), config)
    x = torch.full((1,), 0.7, dtype=torch.float64)
    gains = []
    for k in range(config.steps - (config.last_step == "frozen")):
        ends = [
            tables.transition(k, x, tables.to_x0(k, x, torch.full_like(x, 0.3 + step), kind), x)[0]
            for step in (0.5, -0.5)
        ]
        gains.append(float((ends[0] - ends[1]).abs()) / tables.std_K[k])
    return gains


@pytest.mark.parametrize("last_step", ["frozen", "stop"])
@pytest.mark.parametrize("kind", KINDS)
def test_raw_gain_is_the_means_slope_in_what_the_network_predicts(kind: str, last_step: str) -> None:
    config = PolicyConfig(order=1, last_step=last_step)
    tables = policy_tables(ScheduleConfig(betas="linear", timesteps=1000), config)
    want = raw_gain_by_difference(config, kind)
    assert [tables.raw_gain(k, kind) for k in range(len(want))] == pytest.approx(want, rel=1e-9)
    # Negative control: k_t, per unit of x0, is another number wherever something else is predicted.
    off = max(abs(math.log(tables.gain_K[k] / value)) for k, value in enumerate(want))
    assert off < 1e-9 if kind == "sample" else off > 0.2


def test_raw_gain_in_closed_form() -> None:
    """x0: k_t, the same bits; noise: sqrt(exp(2h) - 1), so its square is the share of SNR gained; v: k_t sigma_s."""
    tables = policy_tables(ScheduleConfig(betas="linear", timesteps=1000), PolicyConfig(last_step="stop"))
    for k in range(10):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = ((tables.alpha[i], tables.sigma[i]) for i in (k, k + 1))
        snr_gained = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2 - 1.0  # exp(2h) - 1
        assert tables.raw_gain(k, "sample") == tables.gain_K[k]
        assert tables.raw_gain(k, "epsilon") == pytest.approx(math.sqrt(snr_gained), rel=1e-9)
        assert tables.raw_gain(k, "v_prediction") == pytest.approx(math.sqrt(snr_gained) * alpha_s, rel=1e-9)
    # Why it matters: k_t spans four orders of magnitude here, the noise network's own scale one and a half.
    assert tables.gain_K[9] / tables.gain_K[0] > 5e3
    assert tables.raw_gain(9, "epsilon") / min(tables.raw_gain(k, "epsilon") for k in range(10)) < 50.0
