"""The loop that every pretraining shares: AdamW, an average of the weights, and a state to go on from bit for bit.

A loop is made of a loss (`Loss`) that draws its batches from the generator it is given. All that the next step depends
on is `Fit.state`: weights, their average, both moments, the generator, and torch's own generator, which draws dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rl_motion.models.device import device_of

OnStep = Callable[[int, float], None]
"""Called with (step, loss) after every step."""
Loss = Callable[[int, torch.Generator], Tensor]
"""(step, generator on the CPU) -> the loss of a batch of its own."""


class Rows(Protocol):
    """Motions [N, F, D] of which some are asked for: a tensor, or what reads them from disk."""

    def __getitem__(self, row_B: Tensor, /) -> Tensor:
        """Those rows [B, F, D]."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimisation of one network: AdamW with linear warm-up and cosine decay to a tenth."""

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 100
    seed: int = 0

    @property
    def usual_decay(self) -> float:
        """Of an average: over the last thousand steps, and of a short training over a quarter, so that it forgets its
        first weights too."""
        return 1 - 1 / max(min(1000, self.steps / 4), 1)


def optimiser_of(
    parameters: Sequence[nn.Parameter], recipe: Recipe, done: int = 0
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """A recipe's optimiser and the learning rate's course, after so many steps."""
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    for group in optimiser.param_groups:
        group["initial_lr"] = recipe.learning_rate

    def factor(step: int) -> float:
        decay = 0.55 + 0.45 * math.cos(math.pi * min(step / recipe.steps, 1))
        return min((step + 1) / recipe.warmup, decay)

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor, last_epoch=done - 1)


def update(
    loss: Tensor,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> float:
    """One step down a loss, the gradient's norm clipped to 1; returns the loss."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    return loss.item()


class Fit:
    """A training after some steps.

    Attributes:
        done: steps so far.
        average: of the weights, where there is one.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, decay: float | None, state: Mapping[str, Tensor] | None
    ) -> None:
        """At its beginning, or as `state` left it.

        Raises:
            ValueError: the state is of another training.
        """
        self.model, self.recipe = model, recipe
        self.average = None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.done = 0 if state is None else int(state["step"])
        self._parameters = list(model.parameters())
        self._optimiser, self._rate = optimiser_of(self._parameters, recipe, self.done)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        if state is not None:
            self._restore(state)

    def step(self, loss: Loss) -> float:
        """One step; returns its loss."""
        value = update(loss(self.done, self._generator), self.model, self._optimiser, self._rate)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.done += 1
        return value

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as flat tensors of their own, on the CPU."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for number, parameter in enumerate(self._parameters):
            moments = self._optimiser.state.get(parameter, {})
            found |= {f"optimiser.{number}.{name}": value for name, value in moments.items()}
        found |= {"step": torch.tensor(self.done), "generator": self._generator.get_state()}
        found["random"] = torch.random.get_rng_state()
        if device_of(self.model).type == "cuda":
            found["random_cuda"] = torch.cuda.get_rng_state()
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in the model's place, in eval mode; nothing of the training is changed, torch's generator
        included."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if self.average is not None:
                self.model.load_state_dict(self.average.module.state_dict())
            self.model.eval()
            try:
                yield
            finally:
                self.model.load_state_dict(own)
                self.model.train()

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if rest:
                parts.setdefault(part, {})[rest] = value
        try:
            self.model.load_state_dict(parts["model"])
            if self.average is not None:
                self.average.load_state_dict(parts["average"])
            for name, value in parts["optimiser"].items():
                number, _, moment = name.partition(".")
                parameter = self._parameters[int(number)]
                kept = value.clone() if moment == "step" else value.to(parameter)
                self._optimiser.state[parameter][moment] = kept
            self._generator.set_state(state["generator"])
            torch.random.set_rng_state(state["random"])
            if "random_cuda" in state and device_of(self.model).type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"])
        except (RuntimeError, KeyError, IndexError) as error:
            raise ValueError(f"got the state of another training ({' '.join(str(error).split())[:200]})") from error


class Witness(Protocol):
    """Who follows a training, and has its state where it is not the first to do so."""

    def state(self) -> Mapping[str, Tensor] | None:
        """What the training goes on from; None: it begins."""

    def after(self, loss: float, fit: Fit) -> None:
        """After a step with this loss, of which `fit.done` are done."""


def fit(
    model: nn.Module, loss: Loss, recipe: Recipe, watch: OnStep | Witness, *, decay: float | None = None
) -> nn.Module:
    """Train a model to the recipe's last step; it is in eval mode then.

    Args:
        model: whose parameters all train.
        loss: of its batches.
        recipe: of the optimisation.
        watch: is told every step, or has what the training goes on from as well.
        decay: of the exponential moving average of the weights; None: there is none.

    Returns:
        The average; without one, the model.

    Raises:
        ValueError: the witness has the state of another training.
    """
    witness = None if callable(watch) else watch
    running = Fit(model, recipe, decay, None if witness is None else witness.state())
    model.train()
    while running.done < recipe.steps:
        value = running.step(loss)
        if witness is not None:
            witness.after(value, running)
        elif callable(watch):
            watch(running.done - 1, value)
    model.eval()
    average: nn.Module = model if running.average is None else running.average.module
    return average
