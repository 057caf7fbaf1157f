"""The optimiser's half of training: audit, accumulate, clip, step, average. Knows no algorithm.

Each unit's gradient is computed from zero, and they are added in the order of the units' indices: the same experience
gives the same bits in whatever order it arrives and on however many learners it is computed.

An optimiser step in which something is not finite is skipped as if it had not been due. Whoever computes a unit says
what of it is not finite, and every learner hears that of all: they skip alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rl_motion.config import RunFault, TrainConfig, UserError
from rl_motion.learner.rounds import Rounds, together
from rl_motion.learner.unsound import finite, too_many, unsound_part
from rl_motion.policies import audit
from rl_motion.protocols import Algorithm, MotionPolicy
from rl_motion.types import AdapterState, Experience, Metrics, Unit, UnitGradient

_ADAPTER, _MEAN, _SQUARE, _STEP = "adapter/", "adam_mean/", "adam_square/", "adam_step/"
_OLD_STEP = "adam_step"
"""One for all parameters, in commits from when every loss used all of them."""
_EMA, _ALGORITHM, _OWN = "ema/", "algorithm/", "own/"
_IN_A_ROW = "skipped_in_a_row"
"""Optimiser steps since the last one that was not skipped; not in older commits, which knew none."""
_BETA1 = 0.9
Losses = Iterator[tuple[Tensor, Metrics]]
"""One unit's, one for each optimiser step, and what to record."""


class Learner:
    """Adam (arXiv:1412.6980) on a policy's adapter and on what the algorithm trains of its own.

    With `ema_decay` d, the adapter to publish is the average ema <- d ema + (1 - d) adapter (Polyak and Juditsky 1992,
    with fixed decay), once per call of `step` and from the initial adapter on. Kept in float64, where a decay near 1
    loses nothing. It averages the LoRA factors, not their products.
    """

    def __init__(self, policy: MotionPolicy, algorithm: Algorithm, config: TrainConfig) -> None:
        """Take hold of the policy's adapter parameters.

        Raises:
            UserError: the policy carries no adapter.
        """
        self._policy = policy
        self._algorithm = algorithm
        self._config = config
        self._parameters = policy.adapter_parameters()
        if not self._parameters:
            raise UserError("got a policy without adapter; want LoRA layers to train; attach one before the learner")
        self._own = {_OWN + name: parameter for name, parameter in algorithm.parameters.items()}
        self._parameters |= self._own
        self._optimizer = torch.optim.Adam(
            self._parameters.values(), lr=config.learning_rate, betas=(_BETA1, config.adam_beta2)
        )
        self._ema = _doubled(policy.adapter_state()) if config.ema_decay is not None else {}
        self._audited = False
        self._in_a_row = 0
        self.skipped: list[str] = []
        """Of the last update, a line for every optimiser step that was skipped."""

    def step(self, batch: Sequence[Experience]) -> Metrics:
        """An update by this learner alone; see `rounds`."""
        (metrics,) = together([self.rounds([experience.trajectory.unit for experience in batch], batch)])
        return metrics

    def rounds(self, units: Sequence[Unit], own: Sequence[Experience], behaviour: AdapterState | None = None) -> Rounds:
        """An update in rounds, one for each optimiser step.

        `inner_epochs` passes over the units; every `units_per_step` of them make the optimiser steps that they yield.

        The first call with own units whose rollouts are finite audits all of these. The others' steps are skipped, so
        that nothing is learned from a unit that nobody audited.

        Args:
            units: all of the iteration.
            own: what this learner has to compute; other learners have the rest.
            behaviour: the adapter that the units were sampled with, where it is an older one: the audit is under it.

        Returns:
            The algorithm's metrics, means over every pass weighted by rows (maxima for names ending in `_max`) of the
            losses that recorded them, without those of skipped steps, and the learner's own; the same on every learner.

        Raises:
            AuditError: replay does not reproduce a rollout bit for bit; nothing was updated.
            RunFault: too many steps were skipped in a row. This and whatever else ends an update early, the
                algorithm's `adapt` included, leave the learner as it was before.
            ValueError: a unit has no loss, fewer than others of its optimiser steps, or one without gradient.
        """
        if not units:
            raise ValueError("got no experience; want at least one unit; pass every unit of the iteration")
        in_order = sorted(units, key=lambda unit: unit.index)
        held = {experience.trajectory.unit.index: experience for experience in own}
        if not self._audited:
            rollouts = [held[index].trajectory for index in sorted(held)]
            sound = [trajectory for trajectory in rollouts if finite(trajectory.log_prob_BS)]
            with self._carrying(behaviour or {}):
                for trajectory in sound:
                    audit(self._policy, trajectory)
            self._audited = bool(sound)
        size = self._config.units_per_step
        chunks = [in_order[start : start + size] for start in range(0, len(units), size)] * self._algorithm.inner_epochs
        before = self.state_dict_tensors()
        self.skipped = []
        steps: list[list[tuple[int, Metrics]]] = []
        try:
            for chunk in chunks:
                rows = sum(unit.batch for unit in chunk)
                mine = [held[unit.index] for unit in chunk if unit.index in held]
                losses = [(experience, self._algorithm.losses(self._policy, experience)) for experience in mine]
                done = len(steps)
                # Nobody has a loss left: the next chunk's turn.
                while gathered := (yield self._gradients(losses, rows)):
                    steps.append(self._update(self._in_unit_order(chunk, gathered)))
                if len(steps) == done:
                    raise self._misfit("no loss", chunk[0], "yield at least one from its `losses`")
            metrics = _merge([part for parts in steps for part in parts])
            skipped = len(self.skipped)
            metrics |= {"learner/updates": float(len(steps) - skipped), "learner/skipped_steps": float(skipped)}
            if skipped < len(steps):
                self._algorithm.adapt(metrics)
            self._average()
        except BaseException:  # closed in the middle, too: another learner failed
            self._restore(before)
            raise
        return metrics

    @contextmanager
    def published(self) -> Iterator[None]:
        """Within the context the policy carries the adapter to publish: the average, where the job asks for one."""
        with self._carrying(self._ema):
            yield

    @contextmanager
    def _carrying(self, other: AdapterState) -> Iterator[None]:
        """Within the context the policy carries these tensors in place of its own."""
        raw = self._policy.adapter_state()
        self._policy.load_adapter_state(raw | {name: tensor.to(raw[name]) for name, tensor in other.items()})
        try:
            yield
        finally:
            self._policy.load_adapter_state(raw)

    def state_dict_tensors(self) -> dict[str, Tensor]:
        """Adapter, Adam's moments and steps, average, algorithm's state and own parameters, steps skipped in a row.

        Flat CPU copies.

        Adam counts the steps of each parameter: a loss moves those that it uses. Zeros before the first.
        """
        tensors = {_ADAPTER + name: tensor for name, tensor in self._policy.adapter_state().items()}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            tensors[_MEAN + name] = moments.get("exp_avg", zeros).detach().cpu().clone()
            tensors[_SQUARE + name] = moments.get("exp_avg_sq", zeros).detach().cpu().clone()
            tensors[_STEP + name] = moments.get("step", torch.zeros(())).detach().cpu().clone()
        tensors |= {name: parameter.detach().cpu().clone() for name, parameter in self._own.items()}
        tensors |= {_EMA + name: mean.clone() for name, mean in self._ema.items()}
        tensors[_IN_A_ROW] = torch.tensor(self._in_a_row)
        return tensors | {_ALGORITHM + name: value.cpu().clone() for name, value in self._algorithm.state.items()}

    def load_state_dict_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on exactly where `state_dict_tensors` was called: the next step has the same bits.

        Raises:
            RunFault: the names are not those of this learner; nothing was loaded.
        """
        if _OLD_STEP in tensors:
            steps = {_STEP + name: tensors[_OLD_STEP] for name in self._parameters}
            tensors = {name: tensor for name, tensor in tensors.items() if name != _OLD_STEP} | steps
        tensors = {_IN_A_ROW: torch.tensor(0), **tensors}
        want = self.state_dict_tensors().keys()
        if tensors.keys() != want:
            differing = sorted(tensors.keys() ^ want)
            raise RunFault(
                f"got a learner state of {len(tensors)} tensors; want {len(want)}; first difference "
                f"{differing[0]!r}; resume with the job, model and adapter that the run was started with"
            )
        self._restore(tensors)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Names unchecked: an `adapt` that failed may have left others in the algorithm's state."""
        self._policy.load_adapter_state(_under(_ADAPTER, tensors))
        self._ema = _under(_EMA, tensors)
        self._algorithm.state = _under(_ALGORITHM, tensors)
        self._in_a_row = int(tensors[_IN_A_ROW])
        with torch.no_grad():
            for name, parameter in self._own.items():
                parameter.copy_(tensors[name])
        self._optimizer.state.clear()
        for name, parameter in self._parameters.items():
            if tensors[_STEP + name] > 0:
                self._optimizer.state[parameter] = {
                    "step": tensors[_STEP + name].clone(),
                    "exp_avg": tensors[_MEAN + name].to(parameter, copy=True),
                    "exp_avg_sq": tensors[_SQUARE + name].to(parameter, copy=True),
                }

    def _average(self) -> None:
        decay = self._config.ema_decay
        if decay is not None:
            now = _doubled(self._policy.adapter_state())
            self._ema = {name: decay * mean + (1.0 - decay) * now[name] for name, mean in self._ema.items()}

    def _gradients(self, losses: Sequence[tuple[Experience, Losses]], rows: int) -> list[UnitGradient]:
        """Of the next loss of each unit that is held here and has one left; `rows` are the optimiser step's."""
        found = ((experience, next(following, None)) for experience, following in losses)
        return [self._gradient(experience, *part, rows) for experience, part in found if part is not None]

    def _gradient(self, experience: Experience, loss: Tensor, recorded: Metrics, rows: int) -> UnitGradient:
        unit = experience.trajectory.unit
        share = unit.batch / rows
        named: dict[str, Tensor] = {}
        if loss.requires_grad:
            parts = torch.autograd.grad(loss * share, list(self._parameters.values()), allow_unused=True)
            named = {name: part.cpu() for name, part in zip(self._parameters, parts, strict=True) if part is not None}
        if not named:
            do = "compute it from `policy.replay` or from its `parameters`, outside `torch.no_grad` and undetached"
            raise self._misfit("a loss without gradient", unit, do)
        unsound = unsound_part(experience, {"loss": loss.item(), **recorded}, named)
        return UnitGradient(unit, loss.item(), named, recorded, unsound)

    def _misfit(self, got: str, unit: Unit, do: str) -> ValueError:
        name = type(self._algorithm).__name__
        return ValueError(
            f"got {got} of {name} in iteration {unit.iteration}, unit {unit.index}; want one with a gradient for every "
            f"optimiser step; in {name}, {do}"
        )

    def _in_unit_order(self, chunk: Sequence[Unit], gathered: Sequence[UnitGradient]) -> list[UnitGradient]:
        """Addition in float32 is not associative: this order, not that of arrival, makes learners interchangeable."""
        found = sorted(gathered, key=lambda gradient: gradient.unit.index)
        got, want = [gradient.unit.index for gradient in found], [unit.index for unit in chunk]
        if got != want:
            raise ValueError(
                f"got gradients of the units {got}; want {want}; give every unit to exactly one learner, and let all "
                "units of an optimiser step have as many losses"
            )
        return found

    def _update(self, gradients: Sequence[UnitGradient]) -> list[tuple[int, Metrics]]:
        """One optimiser step; the metrics of each unit with its rows. None of them where it was skipped."""
        for gradient in gradients:
            if gradient.unsound:
                self._skip(gradient.unit, gradient.unsound)
                return []
        for name, parameter in self._parameters.items():
            parts = [gradient.gradient[name] for gradient in gradients if name in gradient.gradient]
            parameter.grad = _added(parts).to(parameter.device) if parts else None
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._config.max_grad_norm).item()
        sound = math.isfinite(norm)
        if sound:
            self._optimizer.step()
            self._in_a_row = 0
        self._optimizer.zero_grad(set_to_none=True)
        if not sound:  # of finite gradients: their sum or its norm overflows
            self._skip(gradients[0].unit, f"gradient norm {norm}")
            return []
        return [(gradient.unit.batch, gradient.metrics | {"learner/grad_norm": norm}) for gradient in gradients]

    def _skip(self, unit: Unit, unsound: str) -> None:
        """Count an optimiser step that is not made; `unit` is the first of it that is to blame."""
        self._in_a_row += 1
        cause = f"{unsound} in iteration {unit.iteration}, unit {unit.index}"
        self.skipped.append(f"an optimiser step was skipped: got {cause}")
        if self._in_a_row >= self._config.max_skipped_steps:
            raise too_many(cause, self._in_a_row, self._config.max_skipped_steps, self.skipped[:-1])


def _added(parts: Sequence[Tensor]) -> Tensor:
    """Their sum from first to last, in the layout in which autograd keeps it: a norm is summed in that order."""
    total = parts[0].clone(memory_format=torch.contiguous_format)
    for part in parts[1:]:
        total += part
    return total


def _doubled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}


def _merge(parts: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Means weighted by rows, of names that end in `_max` the maximum, each over the parts that have it."""
    merged: Metrics = {}
    for name in dict.fromkeys(name for _, metrics in parts for name in metrics):
        values = [(batch, metrics[name]) for batch, metrics in parts if name in metrics]
        if name.endswith("_max"):
            merged[name] = max(value for _, value in values)
        else:
            merged[name] = sum(batch * value for batch, value in values) / sum(batch for batch, _ in values)
    return merged
