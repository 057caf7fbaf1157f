"""The score-function gradient through rollout and replay against the true one, without sampling error.

The toy has one frame and one feature, so an expectation over a trajectory's noises is an integral over S + 1
normal variables, done by quadrature: the nodes stand in for the noise of the real policy's
rollout, the weights for the average. The truth is a central difference of that average over the adapter's
parameters, through the real rollout alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_motion.config import PolicyConfig, ScheduleConfig
from rl_motion.policies import DiffusionPolicy
from rl_motion.types import Prompt, Trajectory, Unit
from tests.toy_policy import toy_policy

NODES = 14
LIMIT = 1e-4
"""Largest relative error of the gradient; measured: below 1e-5 (quadrature and difference quotient together)."""
SETTINGS = [
    PolicyConfig(steps=steps, order=order, last_step=last_step, log_prob="sum", guidance_scale=scale)
    for order in (1, 2)
    for last_step, steps in (("frozen", 4), ("stop", 3))
    for scale in (1.0, 1.7)
]

COSINE, LINEAR = ScheduleConfig(betas="cosine", timesteps=100), ScheduleConfig(betas="linear", timesteps=100)
COMBINATIONS = [
    # solver type, last step, spacing, landing, prediction, schedule
    ("heun", "frozen", "trailing", None, "v_prediction", COSINE),
    ("heun", "frozen", "linspace", 0.15, "sample", COSINE),
    ("heun", "frozen", "karras", None, "sample", LINEAR),
    ("heun", "stop", "karras", 0.2, "epsilon", LINEAR),
    ("heun", "stop", "trailing", "last_timestep", "epsilon", LINEAR),
    ("heun", "stop", "trailing", None, "sample", ScheduleConfig()),
    ("midpoint", "frozen", "karras", 0.3, "v_prediction", ScheduleConfig(betas="linear", timesteps=1000)),
    ("midpoint", "frozen", "trailing", "sigma_min", "sample", ScheduleConfig()),
    ("midpoint", "stop", "linspace", 0.15, "v_prediction", COSINE),
]
SHARP = (160, 160, 3, 2)
"""Nodes for an epsilon network at T = 1000: its x0 moves by sigma / alpha = 157 of its outputs at the first call, so
that the average varies within a hundredth of a std of the first two variables, and is smooth in the others."""


def rule(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an average over one standard normal variable.

    Gauss-Hermite where few do; else the trapezoid rule, as exact and without nodes far in the tails.
    """
    if nodes <= NODES:
        node, weight = np.polynomial.hermite_e.hermegauss(nodes)
    else:
        node = np.linspace(-6.5, 6.5, nodes)
        weight = np.exp(-0.5 * node**2)
    return node, weight / weight.sum()


Quadrature = Callable[[tuple[int, ...]], tuple[Unit, Tensor]]


@pytest.fixture
def quadrature(monkeypatch: pytest.MonkeyPatch) -> Quadrature:
    """Replaces the policy's noise by a grid's nodes, so many for each of S + 1 variables: the unit and the weights."""

    def prepare(nodes: tuple[int, ...]) -> tuple[Unit, Tensor]:
        rules = [rule(count) for count in nodes]
        grid, weights = (
            np.stack(np.meshgrid(*part, indexing="ij"), axis=-1).reshape(-1, len(nodes))
            for part in zip(*rules, strict=True)
        )
        noise = torch.from_numpy(grid)
        monkeypatch.setattr(
            "rl_motion.policies.diffusion.unit_noise",
            lambda unit, step, features, dtype, canvas: noise[:, step, None, None].to(dtype),
        )
        unit = Unit(0, 0, 0, (Prompt("p", "walk", 1),), len(noise))
        return unit, torch.from_numpy(weights.prod(axis=1))

    return prepare


def reward(trajectory: Trajectory) -> Tensor:
    return -(trajectory.sample[:, 0, 0] - 0.8).square()


def score_gradient(policy: DiffusionPolicy, unit: Unit, weight_B: Tensor) -> Tensor:
    trajectory = policy.rollout(unit)
    log_prob_B = policy.replay(trajectory).log_prob_BS.sum(dim=1)
    objective = (weight_B * reward(trajectory) * log_prob_B).sum()
    gradients = torch.autograd.grad(objective, list(policy.adapter_parameters().values()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def true_gradient(policy: DiffusionPolicy, unit: Unit, weight_B: Tensor, step: float = 1e-4) -> Tensor:
    slopes = []
    for parameter in policy.adapter_parameters().values():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            values, before = [], flat[i].item()
            for offset in (step, -step):
                flat[i] = before + offset
                values.append((weight_B * reward(policy.rollout(unit))).sum())
            flat[i] = before
            slopes.append((values[0] - values[1]) / (2 * step))
    return torch.stack(slopes)


def relative_error(
    config: PolicyConfig, prepare: Quadrature, kind: str, nodes: tuple[int, ...] = (), **options: object
) -> float:
    policy, _ = toy_policy(config, dtype=torch.float64, prediction_type=kind, **options)
    unit, weight_B = prepare(nodes or (NODES,) * (policy.transitions + 1))
    truth = true_gradient(policy, unit, weight_B)
    assert truth.norm() > 1e-2
    return float((score_gradient(policy, unit, weight_B) - truth).norm() / truth.norm())


def means_with_constant_history(self: DiffusionPolicy, predict: Callable, latents_BTFD: Tensor) -> Tensor:
    """A control: in place of `DiffusionPolicy._means`."""
    means, x0_prev = [], None
    for k in range(self.transitions):
        x0_BFD = predict(k, latents_BTFD[:, k])
        means.append(self._tables.transition(k, latents_BTFD[:, k], x0_BFD, x0_prev)[0])
        x0_prev = x0_BFD.detach()
    return torch.stack(means, dim=1)


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
@pytest.mark.parametrize("config", SETTINGS, ids=lambda c: f"{c.order}-{c.last_step}-{c.guidance_scale}")
def test_score_gradient_is_the_true_gradient(config: PolicyConfig, kind: str, quadrature) -> None:
    assert relative_error(config, quadrature, kind) < LIMIT


@pytest.mark.parametrize("case", COMBINATIONS, ids=lambda c: "-".join(map(str, c[:5])))
def test_score_gradient_of_every_setting(case: tuple, quadrature) -> None:
    solver_type, last_step, spacing, landing, kind, schedule = case
    config = PolicyConfig(
        steps=4 if last_step == "frozen" else 3,
        solver_type=solver_type,
        last_step=last_step,
        spacing=spacing,
        landing=landing,
        log_prob="sum",
    )
    assert relative_error(config, quadrature, kind, schedule=schedule) < LIMIT


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_score_gradient_of_sharp_functions(solver_type: str, quadrature) -> None:
    config = PolicyConfig(steps=3, solver_type=solver_type, last_step="stop", spacing="karras", log_prob="sum")
    schedule = ScheduleConfig(betas="linear", timesteps=1000)
    assert relative_error(config, quadrature, "epsilon", SHARP, schedule=schedule) < LIMIT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionPolicy, "_means", means_with_constant_history)
        assert relative_error(config, quadrature, "epsilon", SHARP, schedule=schedule) > 100 * LIMIT


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("last_step", ["frozen", "stop"])
def test_control_history_as_a_constant_is_biased(last_step: str, solver_type, quadrature, monkeypatch) -> None:
    monkeypatch.setattr(DiffusionPolicy, "_means", means_with_constant_history)
    steps = 4 if last_step == "frozen" else 3
    config = PolicyConfig(steps=steps, solver_type=solver_type, last_step=last_step, log_prob="sum")
    assert relative_error(config, quadrature, "sample") > 100 * LIMIT


@pytest.mark.parametrize(("order", "solver_type"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
def test_control_a_last_call_with_the_adapter_on_is_biased(order, solver_type, quadrature, monkeypatch) -> None:
    monkeypatch.setattr(DiffusionPolicy, "_adapter_off", lambda self: nullcontext())
    config = PolicyConfig(steps=4, order=order, solver_type=solver_type, last_step="frozen", log_prob="sum")
    assert relative_error(config, quadrature, "sample") > 100 * LIMIT
