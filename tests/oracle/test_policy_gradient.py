"""The score-function gradient through rollout and replay against the true one, without sampling error.

The toy has one frame and one feature, so an expectation over a trajectory's noises is an integral over S + 1
normal variables, done by Gauss-Hermite quadrature: the nodes stand in for the noise of the real policy's
rollout, the weights for the average. The truth is a central difference of that average over the adapter's
parameters, through the real rollout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
"""Largest relative error of the gradient; measured: below 1e-5 (quadrature and difference quotient "
"together)."""
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


@pytest.fixture
def quadrature(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], tuple[Unit, Tensor]]]:
    """Replaces the policy's noise by the nodes of a grid over S + 1 variables; gives the unit and the "
    "weights."""

    def prepare(transitions: int) -> tuple[Unit, Tensor]:
        node, weight = np.polynomial.hermite_e.hermegauss(NODES)
        variables = transitions + 1
        grid = np.stack(np.meshgrid(*[node] * variables, indexing="ij"), axis=-1).reshape(-1, variables)
        weights = np.stack(np.meshgrid(*[weight] * variables, indexing="ij"), axis=-1).reshape(-1, variables)
        noise = torch.from_numpy(grid)
        monkeypatch.setattr(
            "rl_motion.policies.diffusion.unit_noise",
            lambda unit, step, features, dtype, canvas: noise[:, step, None, None].to(dtype),
        )
        unit = Unit(0, 0, 0, (Prompt("p", "walk", 1),), len(noise))
        return unit, torch.from_numpy(weights.prod(axis=1) / weight.sum() ** variables)

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
    config: PolicyConfig, prepare: Callable[[int], tuple[Unit, Tensor]], kind: str, **options: object
) -> float:
    policy, _ = toy_policy(config, dtype=torch.float64, prediction_type=kind, **options)
    unit, weight_B = prepare(policy.transitions)
    truth = true_gradient(policy, unit, weight_B)
    assert truth.norm() > 1e-2
    return float((score_gradient(policy, unit, weight_B) - truth).norm() / truth.norm())


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
@pytest.mark.parametrize("last_step", ["frozen", "stop"])
def test_control_history_as_a_constant_is_biased(last_step: str, solver_type, quadrature, monkeypatch) -> None:
    def means_with_constant_history(self, predict, latents_BTFD: Tensor) -> Tensor:
        means, x0_prev = [], None
        for k in range(self.transitions):
            x0_BFD = predict(k, latents_BTFD[:, k])
            means.append(self._tables.transition(k, latents_BTFD[:, k], x0_BFD, x0_prev)[0])
            x0_prev = x0_BFD.detach()
        return torch.stack(means, dim=1)

    monkeypatch.setattr(DiffusionPolicy, "_means", means_with_constant_history)
    steps = 4 if last_step == "frozen" else 3
    config = PolicyConfig(steps=steps, solver_type=solver_type, last_step=last_step, log_prob="sum")
    assert relative_error(config, quadrature, "sample") > 100 * LIMIT


@pytest.mark.parametrize(("order", "solver_type"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
def test_control_a_last_call_with_the_adapter_on_is_biased(order, solver_type, quadrature, monkeypatch) -> None:
    monkeypatch.setattr(DiffusionPolicy, "_adapter_off", lambda self: nullcontext())
    config = PolicyConfig(steps=4, order=order, solver_type=solver_type, last_step="frozen", log_prob="sum")
    assert relative_error(config, quadrature, "sample") > 100 * LIMIT
