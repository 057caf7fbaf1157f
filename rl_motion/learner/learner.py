"""The optimiser's half of training: audit, accumulate, clip, step, average. Knows no algorithm.

Units enter in the order of their index, so the same experience gives the same bits in whatever order it
arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rl_motion.config import RunFault, TrainConfig, UserError
from rl_motion.policies import audit
from rl_motion.protocols import Algorithm, MotionPolicy
from rl_motion.types import Experience, Metrics

_ADAPTER, _MEAN, _SQUARE, _STEP = "adapter/", "adam_mean/", "adam_square/", "adam_step"
_EMA, _ALGORITHM, _OWN = "ema/", "algorithm/", "own/"
_BETA1 = 0.9


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

    def step(self, batch: Sequence[Experience]) -> Metrics:
        """`inner_epochs` passes over the batch; every `units_per_step` units make the optimiser steps that they yield.

        The first call audits every unit.

        Returns:
            The algorithm's metrics, means over every pass weighted by rows (maxima for names ending in `_max`), and the
            learner's own.

        Raises:
            AuditError: replay does not reproduce a rollout bit for bit; nothing was updated.
            RunFault: a loss or a gradient is not finite; the learner is as it was before the call.
        """
        units = sorted(batch, key=lambda experience: experience.trajectory.unit.index)
        if not units:
            raise ValueError("got no experience; want at least one unit; pass every unit of the iteration")
        if not self._audited:
            for experience in units:
                audit(self._policy, experience.trajectory)
            self._audited = True
        size = self._config.units_per_step
        chunks = [units[start : start + size] for start in range(0, len(units), size)]
        before = self.state_dict_tensors()
        try:
            updates = [
                parts for _ in range(self._algorithm.inner_epochs) for chunk in chunks for parts in self._updates(chunk)
            ]
        except RunFault:
            self.load_state_dict_tensors(before)
            raise
        metrics = _merge([part for parts in updates for part in parts]) | {"learner/updates": float(len(updates))}
        self._algorithm.adapt(metrics)
        self._average()
        return metrics

    @contextmanager
    def published(self) -> Iterator[None]:
        """Within the context the policy carries the adapter to publish: the average, where the job asks for one."""
        raw = self._policy.adapter_state()
        self._policy.load_adapter_state(raw | {name: mean.to(raw[name]) for name, mean in self._ema.items()})
        try:
            yield
        finally:
            self._policy.load_adapter_state(raw)

    def state_dict_tensors(self) -> dict[str, Tensor]:
        """Adapter, Adam's moments and step, average, algorithm's state and own parameters: flat CPU copies."""
        tensors = {_ADAPTER + name: tensor for name, tensor in self._policy.adapter_state().items()}
        step = torch.zeros(())
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            tensors[_MEAN + name] = moments.get("exp_avg", zeros).detach().cpu().clone()
            tensors[_SQUARE + name] = moments.get("exp_avg_sq", zeros).detach().cpu().clone()
            step = moments.get("step", step)
        tensors |= {name: parameter.detach().cpu().clone() for name, parameter in self._own.items()}
        tensors |= {_EMA + name: mean.clone() for name, mean in self._ema.items()}
        tensors |= {_ALGORITHM + name: value.cpu().clone() for name, value in self._algorithm.state.items()}
        return tensors | {_STEP: step.detach().cpu().clone()}

    def load_state_dict_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on exactly where `state_dict_tensors` was called: the next step has the same bits.

        Raises:
            RunFault: the names are not those of this learner; nothing was loaded.
        """
        want = self.state_dict_tensors().keys()
        if tensors.keys() != want:
            differing = sorted(tensors.keys() ^ want)
            raise RunFault(
                f"got a learner state of {len(tensors)} tensors; want {len(want)}; first difference "
                f"{differing[0]!r}; resume with the job, model and adapter that the run was started with"
            )
        self._policy.load_adapter_state(_under(_ADAPTER, tensors))
        self._ema = _under(_EMA, tensors)
        self._algorithm.state = _under(_ALGORITHM, tensors)
        with torch.no_grad():
            for name, parameter in self._own.items():
                parameter.copy_(tensors[name])
        for name, parameter in self._parameters.items():
            self._optimizer.state[parameter] = {
                "step": tensors[_STEP].clone(),
                "exp_avg": tensors[_MEAN + name].to(parameter, copy=True),
                "exp_avg_sq": tensors[_SQUARE + name].to(parameter, copy=True),
            }

    def _average(self) -> None:
        decay = self._config.ema_decay
        if decay is not None:
            now = _doubled(self._policy.adapter_state())
            self._ema = {name: decay * mean + (1.0 - decay) * now[name] for name, mean in self._ema.items()}

    def _updates(self, units: Sequence[Experience]) -> Iterator[list[tuple[int, Metrics]]]:
        """Optimiser steps, as many as each unit has losses, all units one loss further in each."""
        losses = [self._algorithm.losses(self._policy, experience) for experience in units]
        while parts := self._update(units, losses):
            yield parts

    def _update(
        self, units: Sequence[Experience], losses: Sequence[Iterator[tuple[Tensor, Metrics]]]
    ) -> list[tuple[int, Metrics]]:
        """One optimiser step; the metrics of each unit with its rows, nothing where no unit has a loss left."""
        rows = sum(experience.trajectory.unit.batch for experience in units)
        parts: list[tuple[int, Metrics]] = []
        self._optimizer.zero_grad(set_to_none=True)
        for experience, following in zip(units, losses, strict=True):
            found = next(following, None)
            if found is None:
                continue
            loss, recorded = found
            share = experience.trajectory.unit.batch / rows
            self._refuse_non_finite("loss", loss.item(), experience)
            (loss * share).backward()
            parts.append((experience.trajectory.unit.batch, recorded))
        if not parts:
            return []
        if len(parts) != len(units):
            raise ValueError(
                f"got a loss of {len(parts)} of {len(units)} units; want as many losses of each; mend them"
            )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._config.max_grad_norm).item()
        self._refuse_non_finite("gradient norm", norm, units[0])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return [(batch, recorded | {"learner/grad_norm": norm}) for batch, recorded in parts]

    def _refuse_non_finite(self, what: str, value: float, experience: Experience) -> None:
        if not torch.isfinite(torch.tensor(value)):
            self._optimizer.zero_grad(set_to_none=True)
            unit = experience.trajectory.unit
            raise RunFault(
                f"got {what} {value} in iteration {unit.iteration}, unit {unit.index}; want a finite "
                "number; the adapter was not updated. Lower train.learning_rate or look at that iteration's "
                "rewards, then resume from the last commit"
            )


def _doubled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}


def _merge(parts: Sequence[tuple[int, Metrics]]) -> Metrics:
    """Means weighted by rows; of names that end in `_max`, the maximum."""
    rows = sum(batch for batch, _ in parts)
    merged: Metrics = {}
    for name in parts[0][1]:
        values = [(batch, metrics[name]) for batch, metrics in parts]
        is_max = name.endswith("_max")
        merged[name] = max(v for _, v in values) if is_max else sum(batch * v for batch, v in values) / rows
    return merged
