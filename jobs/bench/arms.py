"""What stages.py compares on a case: ours, the straightforward loop, the bare network calls; and the floor of them.

Legend: B rows, F frames, D features; K network calls, S transitions.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from cases import STEPS, Case
from limits import forward_operations, learning_operations
from straightforward import PaddedText, Samples, Straightforward, library_adapter
from torch import Tensor

from rl_motion.config import Job
from rl_motion.models.adapter import adapter_disabled
from rl_motion.models.zoo import load_denoiser
from rl_motion.protocols import MotionPolicy
from rl_motion.runtime.build import build_training
from rl_motion.types import Experience, Prompt, Trajectory, Unit

EPOCHS = 2
LEARNED_STEPS = 3
"""Of the job whose update is measured."""
_KL_WEIGHT = 0.1
_LEARNING_RATE = 1e-6
"""So small that the hundredth repetition learns from much the same ratios as the first."""


class Ours:
    """The project's own policy and learner on a case, made as its workers make them."""

    def __init__(self, case: Case, models: Path, steps: int = STEPS) -> None:
        """Load the model; the first step of the learner, which audits, is taken on a unit of a few frames."""
        self.job = whole_job(case, models, steps)
        self.unit = case.unit
        training = build_training(self.job)
        self.policy: MotionPolicy = training.policy
        self.learner: Any = training.learner
        few = tiny(self.unit)
        self.learner.step([experience(self.policy.rollout(few))])

    @cached_property
    def trajectory(self) -> Trajectory:
        """What the learner learns from, again and again."""
        return self.policy.rollout(self.unit)

    def rollout(self) -> Trajectory:
        """Sample the unit."""
        return self.policy.rollout(self.unit)

    def learn(self) -> None:
        """One update: so many passes over the unit."""
        self.learner.step([experience(self.trajectory)])


class Plain:
    """The straightforward loop on a case."""

    def __init__(self, case: Case, models: Path, steps: int = STEPS) -> None:
        """Load the model, with the library's own adapter layers."""
        self.job = whole_job(case, models, steps)
        self.unit = case.unit
        self.denoiser = load_denoiser(self.job.model.name)
        library_adapter(self.denoiser.network, self.job.adapter)
        self.loop = Straightforward(self.denoiser, PaddedText(self.job.model.name), self.job)
        self.network_s: dict[str, list[float]] = {"rollout": [], "learner": []}

    @cached_property
    def samples(self) -> Samples:
        """What the update learns from, again and again."""
        return self.loop.sample(self.unit)

    @cached_property
    def calls(self) -> Calls:
        """Its network's calls alone."""
        return Calls(self.denoiser, self.samples, self.job.policy.steps, stacked=False)

    def rollout(self) -> Samples:
        """Sample the unit."""
        before = self.loop.network_s
        samples = self.loop.sample(self.unit)
        self.network_s["rollout"].append(self.loop.network_s - before)
        return samples

    def learn(self) -> None:
        """One update: so many passes over the unit."""
        before = self.loop.network_s
        for _ in range(EPOCHS):
            self.loop.update(self.samples, advantages(self.unit))
        self.network_s["learner"].append(self.loop.network_s - before)


@dataclass
class Calls:
    """The network's calls of a rollout or an update and nothing else: inputs are there, nobody reads what comes out.

    stacked: both halves of guidance as one call of 2B rows, as ours has them; else two calls of B rows.
    """

    denoiser: Any
    samples: Samples
    steps: int
    stacked: bool

    def rollout(self) -> None:
        """K calls with guidance, the last without adapter."""
        with torch.no_grad():
            for k in range(self.steps):
                with adapter_disabled(self.denoiser.network) if k == self.steps - 1 else nullcontext():
                    self.forward()

    def learner(self) -> None:
        """S times forward, the gradient of the adapter, and forward without adapter: one pass."""
        for _ in range(self.steps - 1):
            self.learn()
            with torch.no_grad(), adapter_disabled(self.denoiser.network):
                self.forward()

    def learn(self) -> None:
        """Forward, and the gradient of the adapter."""
        torch.autograd.grad(self.forward(), self._parameters, grad_outputs=self._ones, allow_unused=True)

    def forward(self) -> Tensor:
        """One step's calls, guided."""
        halves = [self.denoiser.network(*given) for given in self._given]
        conditional, unconditional = halves[0].chunk(2) if self.stacked else halves
        guided: Tensor = unconditional + 2.5 * (conditional - unconditional)
        return guided

    @cached_property
    def _given(self) -> list[tuple[Any, ...]]:
        x_BFD, rows = self.samples.latents_BTFD[:, 0].contiguous(), self.samples.unit.batch
        t_B = torch.full((rows,), self.denoiser.schedule.timesteps // 2)
        length_B = torch.tensor([prompt.length for prompt in self.samples.unit.row_prompts])
        condition, null = self.samples.condition, self.denoiser.null_condition(rows)
        if not self.stacked:
            return [(x_BFD, t_B, condition, length_B), (x_BFD, t_B, null, length_B)]
        return [(x_BFD.repeat(2, 1, 1), t_B.repeat(2), self.denoiser.both(condition), length_B.repeat(2))]

    @cached_property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.denoiser.network.parameters() if parameter.requires_grad]

    @cached_property
    def _ones(self) -> Tensor:
        return torch.ones_like(self.samples.latents_BTFD[:, 0])


def whole_job(case: Case, models: Path, steps: int = STEPS, epochs: int = EPOCHS) -> Job:
    """The case's job with the algorithm that is measured; of so many steps, or fewer where the case has fewer."""
    algorithm = {"inner_epochs": epochs, "kl_weight": _KL_WEIGHT}
    job = case.job(models, algorithm, {"learning_rate": _LEARNING_RATE})
    policy = job.policy.model_copy(update={"steps": min(steps, job.policy.steps)})
    return job.model_copy(update={"policy": policy})


def tiny(unit: Unit) -> Unit:
    """A unit of one prompt and a few frames, for what has to be done once."""
    prompt = Prompt("bench-tiny", unit.prompts[0].text, 8)
    return Unit(unit.seed, unit.iteration, 0, (prompt,), 2)


def advantages(unit: Unit) -> Tensor:
    """As a group's are: different ones, that add up to zero."""
    return torch.linspace(-1.0, 1.0, unit.batch)


def experience(trajectory: Trajectory) -> Experience:
    """What the learner reads."""
    advantage_B = advantages(trajectory.unit)
    return Experience(trajectory, advantage_B, advantage_B)


def floor_operations(case: Case, models: Path) -> dict[str, int]:
    """Operations of a rollout, and of a learner's step as it is measured, where motion is as long as it is: padding
    needs none.

    Of a model that sees its canvas, the canvas is the motion.
    """
    denoiser = load_denoiser(case.job(models).model.name)
    job = whole_job(case, models)
    library_adapter(denoiser.network, job.adapter)
    parameters = [parameter for parameter in denoiser.network.parameters() if parameter.requires_grad]
    forward = learn = 0
    for length in [denoiser.canvas] if denoiser.canvas else sorted({prompt.length for prompt in case.unit.prompts}):
        same = sum(prompt.length == length or bool(denoiser.canvas) for prompt in case.unit.row_prompts)
        x_1FD, t_1 = torch.zeros(1, length, denoiser.features), torch.zeros(1, dtype=torch.int64)
        for condition in (denoiser.encode_text([case.unit.prompts[0].text]), denoiser.null_condition(1)):

            def call(condition: Any = condition, x: Tensor = x_1FD, t: Tensor = t_1, length: int = length) -> Tensor:
                output: Tensor = denoiser.network(x, t, condition, torch.tensor([length]))
                return output

            with adapter_disabled(denoiser.network):
                forward += same * forward_operations(call)
            learn += same * learning_operations(call, parameters)
    transitions = whole_job(case, models, LEARNED_STEPS).policy.steps - 1
    learner = transitions * (EPOCHS * learn + forward)
    return {"forward": forward, "rollout": job.policy.steps * forward, "learner": learner}
