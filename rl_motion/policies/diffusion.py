"""Any denoiser as a stochastic policy: SDE-DPM-Solver++ seen as a Markov decision process.

A rollout draws each latent from the solver's Gaussian transition; a replay scores the stored latents with the
same kernel. What is not a Gaussian draw does not depend on the adapter, so the log-probs are those of the
whole trajectory and nothing is dropped:

    last_step: frozen   K calls, S = K - 1 transitions, then the last call, with the adapter off, gives x0.
    last_step: stop     K calls, S = K transitions; x0 is the last latent divided by its alpha, the unbiased
                        estimate of the clean sample (x / alpha = x0 + sigma_hat noise).

`landing` says at which noise level the S transitions end. Both are diffusers' K-step schedules: `frozen` calls at all
S + 1 levels and ends at sigma 0, `stop` calls at all but the landing and ends there.

In second order (midpoint or heun) a transition's mean also depends on the previous prediction. A replay recomputes
it from the stored previous latent, with gradient: as a constant it would bias the gradient. The reference (adapter
off) has its own history.

Rollout, replay, reference and last call are one form: the same code in the same shape and precision, so that a replay
has the rollout's bits (docs/adr/0011-one-form.md).

Log-probs cover every latent that the network can see: a row's valid frames, or the whole canvas of a model that
sees padding.

Legend: B rows, K network calls, S stochastic transitions, T = S + 1 latents, F frames, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rl_motion.config import PolicyConfig, ScheduleConfig, UserError
from rl_motion.diffusion import (
    SolverTables,
    guided,
    log_prob,
    noise_levels,
    schedule_hash,
    sigma_hats,
    solver_tables,
)
from rl_motion.models.adapter import (
    adapter_checksum,
    adapter_disabled,
    adapter_state,
    forget_folded,
    load_adapter_state,
)
from rl_motion.models.device import device_of
from rl_motion.policies.gaussian import GaussianReplay
from rl_motion.policies.noise import unit_noise
from rl_motion.protocols import Denoiser, Denoising, Need
from rl_motion.types import AdapterState, Metrics, Motions, Trajectory, Unit

Predict = Callable[[int, Tensor], Tensor]
"""x0 at network call k of a latent [B, F, D]; zero beyond the scored frames."""


def policy_tables(schedule: ScheduleConfig, config: PolicyConfig) -> SolverTables:
    """The solver's tables of a policy; needs no network, so a job can be checked before anything starts.

    Raises:
        UserError: calls share a timestep, levels do not fall, diffusers' arithmetic misses the number of steps, or
            there is no stochastic transition.
    """
    transitions = _transitions(config)
    if transitions == 0:
        raise UserError(
            "got policy.steps=1 with last_step 'frozen', which leaves no stochastic transition; want at "
            "least 2; raise policy.steps or choose last_step: stop"
        )
    end = _end(schedule, config)
    timestep_N, level_N = noise_levels(schedule, transitions + 1, config.spacing, end)
    called, levels = timestep_N[: config.steps].tolist(), level_N.tolist()
    falling = all(later < earlier for row in (called, levels) for earlier, later in pairwise(row))
    if len(levels) != transitions + 1 or not falling:
        raise UserError(
            f"got policy.steps={config.steps} with spacing {config.spacing!r}, which calls the network at timesteps "
            f"{called} of {schedule.timesteps} and lands at sigma {levels[-1] / math.hypot(1.0, levels[-1]):.4g}; want "
            f"{config.steps} different timesteps and different noise levels that fall to the landing; choose fewer or "
            "other steps, another spacing or another landing"
        )
    if config.last_step == "frozen":
        levels.append(0.0)
    return solver_tables(called, levels, order=config.order, solver_type=config.solver_type)


def _transitions(config: PolicyConfig) -> int:
    return config.steps - (1 if config.last_step == "frozen" else 0)


def _end(schedule: ScheduleConfig, config: PolicyConfig) -> float | None:
    """sigma_hat of the landing; None: where the spacing ends."""
    landing = config.landing or ("last_timestep" if config.last_step == "frozen" else "sigma_min")
    if landing == "last_timestep":
        return None
    if landing == "sigma_min":
        return float(sigma_hats(schedule)[0])
    return landing / math.sqrt(1.0 - landing**2)


class DiffusionPolicy:
    """A denoiser as a `MotionPolicy` (rl_motion.protocols).

    The network is put in `eval()` once, here. Replay leaves its mode alone: whoever switches dropout on later
    meets the audit.
    """

    offers: frozenset[Need] = frozenset({"snr", "denoising"})

    def __init__(
        self,
        denoiser: Denoiser,
        config: PolicyConfig,
        *,
        dtype: torch.dtype = torch.float32,
        replay_rows: int | None = None,
    ) -> None:
        """Build the tables and fix the schedule hash.

        Args:
            denoiser: the model, with its adapter attached to `denoiser.network`; without one this is the
                base's policy.
            config: solver, guidance and last step.
            dtype: in which latents are computed and stored; a latent is rounded to it before it is scored.
            replay_rows: rows of network input whose graph a replay keeps at once, if it can; None: all. Changes no bit.

        Raises:
            UserError: the settings give no valid sequence of noise levels.
        """
        self._denoiser = denoiser
        self._config = config
        self._dtype = dtype
        self._replay_rows = replay_rows
        self._tables = policy_tables(denoiser.schedule, config)
        settings = config.model_dump() | {
            "prediction_type": denoiser.prediction_type,
            "schedule": denoiser.schedule.model_dump(),
            "dtype": str(dtype),
        }
        tables = {name: row for name, row in asdict(self._tables).items() if name != "order_K"}
        self.schedule_hash = schedule_hash(tables, settings)
        denoiser.network.eval()

    @property
    def transitions(self) -> int:
        """S: stochastic transitions of a trajectory."""
        return _transitions(self._config)

    @property
    def constants(self) -> Metrics:
        """Where the last stochastic transition ends: its sigma, and the SNR it gains.

        The latter is k_t^2, that transition's weight in an unbalanced loss of a network that predicts x0.
        """
        last = self.transitions - 1
        return {
            "policy/landing_sigma": self._tables.sigma[last + 1],
            "policy/landing_snr_weight": self._tables.gain_K[last] ** 2,
        }

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        """Sample the unit, without gradient; tensors are on the CPU.

        Raises:
            UserError: a row is longer than the model makes, or the network sees padding and rows differ in length.
        """
        length_B = torch.tensor([prompt.length for prompt in unit.row_prompts])
        self._refuse_lengths(length_B)
        with torch.no_grad():
            prepared = self._preparer(unit, length_B)
            predict = prepared()
            elements_B = self._elements(length_B)
            x_BFD = self._noise(unit, 0)
            latents, log_probs = [x_BFD], []
            x0_prev = None
            for k in range(self.transitions):
                x0_BFD = predict(k, x_BFD)
                mean_BFD, std = self._tables.transition(k, x_BFD, x0_BFD, x0_prev)
                x_BFD = self._draw(unit, k, mean_BFD, std)
                log_probs.append(log_prob(x_BFD, mean_BFD, std, elements_B))
                latents.append(x_BFD)
                x0_prev = x0_BFD
            x0_BFD = self._finish(prepared, x_BFD)
            log_prob_BS = (torch.stack(log_probs, dim=1) * self._scale(elements_B)[:, None]).cpu()
        return Trajectory(
            unit=unit,
            states=torch.stack(latents, dim=1).cpu(),
            log_prob_BS=log_prob_BS,
            drawn_BS=torch.ones_like(log_prob_BS, dtype=torch.bool),
            sample=x0_BFD.cpu(),
            length_B=length_B,
            policy_version=policy_version,
            adapter_sha256=adapter_checksum(self.adapter_state()),
            schedule_hash=self.schedule_hash,
        )

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> GaussianReplay:
        """Score the stored latents, with gradient, step by step in the rollout's own shape.

        Raises:
            UserError: the trajectory was sampled with other tables or settings.
        """
        if trajectory.schedule_hash != self.schedule_hash:
            raise UserError(
                f"got a trajectory of schedule {trajectory.schedule_hash[:12]}; want "
                f"{self.schedule_hash[:12]}; sample and train with the same model and policy section"
            )
        steps = min(first or self.transitions, self.transitions)
        latents_BTFD = trajectory.states[:, : steps + 1].to(self._device)
        elements_B = self._elements(trajectory.length_B)
        scale_B = self._scale(elements_B)
        with nullcontext() if adapter else self._adapter_off():
            predict = self._preparer(trajectory.unit, trajectory.length_B)()
            if adapter and torch.is_grad_enabled():
                predict = self._frugal(predict, trajectory.unit.batch, steps)
            mean_BSFD = self._means(predict, latents_BTFD)
        scores = [
            log_prob(latents_BTFD[:, k + 1], mean_BSFD[:, k], self._tables.std_K[k], elements_B) for k in range(steps)
        ]
        return GaussianReplay(
            log_prob_BS=torch.stack(scores, dim=1) * scale_B[:, None],
            mean_BSFD=mean_BSFD,
            std_S=self._row(self._tables.std_K[:steps]),
            gain_S=self._row([self._tables.raw_gain(k, self._denoiser.prediction_type) for k in range(steps)]),
            scale_B=scale_B,
        )

    def decode(self, trajectory: Trajectory) -> Motions:
        """The trajectory's final motion, un-normalised."""
        return self._denoiser.decode(trajectory.sample.to(self._device), trajectory.length_B.to(self._device))

    def denoising(self, unit: Unit) -> Denoising:
        """The unit, about to be denoised anew, with the noise of its rollout; see `Denoising`.

        Raises:
            UserError: as `rollout`.
        """
        length_B = torch.tensor([prompt.length for prompt in unit.row_prompts])
        self._refuse_lengths(length_B)
        prepared = self._preparer(unit, length_B)

        def step(k: int, x_BFD: Tensor, x0_prev: Tensor | None) -> tuple[Tensor, Tensor]:
            x0_BFD = prepared()(k, x_BFD)
            return x0_BFD, self._draw(unit, k, *self._tables.transition(k, x_BFD, x0_BFD, x0_prev))

        def reference(k: int, x_BFD: Tensor) -> Tensor:
            with torch.no_grad(), self._adapter_off():
                return prepared()(k, x_BFD)

        return Denoising(
            noise_BFD=self._noise(unit, 0),
            sigma=self._tables.sigma[: self.transitions + 1],
            step=step,
            reference=reference,
            elements_B=self._elements(length_B),
            finish=lambda x_BFD: self._finish(prepared, x_BFD),
            decode=lambda x0_BFD: self._denoiser.decode(x0_BFD, length_B.to(self._device)),
        )

    def adapter_to_the_end(self, trajectory: Trajectory) -> Trajectory | None:
        """The same trajectory, its last call with the adapter on; None where no call follows the transitions.

        A variant that evaluation reports beside the policy's own; never train on it, its log-probs say
        nothing about that call.
        """
        if self._config.last_step == "stop":
            return None
        x_BFD = trajectory.states[:, -1].to(self._device)
        with torch.no_grad():
            x0_BFD = self._preparer(trajectory.unit, trajectory.length_B)()(self.transitions, x_BFD)
        return replace(trajectory, sample=x0_BFD.cpu())

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The LoRA parameters by sorted name; empty for a base policy."""
        named = self._denoiser.network.named_parameters()
        return dict(sorted((name, p) for name, p in named if ".lora_A." in name or ".lora_B." in name))

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter on the CPU; empty for a base policy."""
        return adapter_state(self._denoiser.network) if self.adapter_parameters() else {}

    def load_adapter_state(self, state: AdapterState) -> None:
        """Replace the adapter, strictly.

        Raises:
            ValueError: names or shapes differ, or there is no adapter.
        """
        load_adapter_state(self._denoiser.network, state)

    def _means(self, predict: Predict, latents_BTFD: Tensor) -> Tensor:
        means, x0_prev = [], None
        for k in range(latents_BTFD.shape[1] - 1):
            x_BFD = latents_BTFD[:, k]
            x0_BFD = predict(k, x_BFD)
            means.append(self._tables.transition(k, x_BFD, x0_BFD, x0_prev)[0])
            x0_prev = x0_BFD  # with its graph: it is part of the next transition's mean
        return torch.stack(means, dim=1)

    def _draw(self, unit: Unit, k: int, mean_BFD: Tensor, std: float) -> Tensor:
        return (mean_BFD + std * self._noise(unit, k + 1)).to(self._dtype)

    def _finish(self, prepared: Callable[[], Predict], x_BFD: Tensor) -> Tensor:
        if self._config.last_step == "stop":
            return x_BFD / self._tables.alpha[self.transitions]
        with self._adapter_off():
            return prepared()(self.transitions, x_BFD)

    def _preparer(self, unit: Unit, length_B: Tensor) -> Callable[[], Predict]:
        """What makes the network calls of a unit; to be called anew for every state of the adapter.

        Text layers and the like then run once, not at every call, and where something is learned their gradient is
        that of all calls. With guidance the rows without text follow those with it, in the same call.
        """
        halves = 1 if self._config.guidance_scale == 1.0 else 2
        frames = int(self._scored_frames(length_B).max())
        scored_B = self._scored_frames(length_B.to(self._device))
        scored_BF1 = (torch.arange(frames, device=self._device) < scored_B[:, None])[:, :, None]
        called_B = length_B.to(self._device).repeat(halves)
        with torch.no_grad():  # text encoders are frozen
            condition = self._denoiser.encode_text([prompt.text for prompt in unit.row_prompts])
            condition = condition if halves == 1 else self._denoiser.both(condition)

        def prepared() -> Predict:
            forget_folded(self._denoiser.network)
            with self._precision():
                given = self._denoiser.prepare(condition, called_B, frames)

            def predict(k: int, x_BFD: Tensor) -> Tensor:
                timestep = self._tables.timestep_K[k]
                t_B = torch.full((len(called_B),), timestep, dtype=torch.int64, device=self._device)
                with self._precision():
                    raw_BFD = self._denoiser.predict(x_BFD.repeat(halves, 1, 1), t_B, given, called_B).to(x_BFD.dtype)
                if halves == 2:
                    raw_BFD = guided(raw_BFD, self._config.guidance_scale)
                x0_BFD = self._tables.to_x0(k, x_BFD, raw_BFD, self._denoiser.prediction_type)
                return torch.where(scored_BF1, x0_BFD, torch.zeros_like(x0_BFD))

            return predict

        return prepared

    def _precision(self) -> AbstractContextManager[Any]:
        """Within, the network computes in the policy's precision; latents, means and log-probs never do."""
        if self._config.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _frugal(self, predict: Predict, rows: int, steps: int) -> Predict:
        """The same numbers, with the graph of no more than `replay_rows` rows of network input at once.

        The others' calls are made again in the backward pass, one after the other. A call is the least there is.
        """
        called = rows * (1 if self._config.guidance_scale == 1.0 else 2)
        if self._replay_rows is None or steps * called <= self._replay_rows:
            return predict
        kept = max(self._replay_rows // called - 1, 0)

        def frugal(k: int, x_BFD: Tensor) -> Tensor:
            if k < kept:
                return predict(k, x_BFD)
            x0_BFD: Tensor = checkpoint(predict, k, x_BFD, use_reentrant=False)
            return x0_BFD

        return frugal

    def _noise(self, unit: Unit, step: int) -> Tensor:
        canvas = self._denoiser.canvas
        return unit_noise(unit, step, self._denoiser.features, self._dtype, canvas=canvas).to(self._device)

    def _scored_frames(self, length_B: Tensor) -> Tensor:
        canvas = self._denoiser.canvas
        return length_B if canvas is None else torch.full_like(length_B, canvas)

    def _elements(self, length_B: Tensor) -> Tensor:
        return (self._scored_frames(length_B) * self._denoiser.features).to(self._device, torch.float64)

    def _scale(self, elements_B: Tensor) -> Tensor:
        return 1.0 / elements_B if self._config.log_prob == "mean" else torch.ones_like(elements_B)

    def _row(self, values_S: Sequence[float]) -> Tensor:
        return torch.tensor(values_S, dtype=torch.float64, device=self._device)

    def _adapter_off(self) -> AbstractContextManager[None]:
        return adapter_disabled(self._denoiser.network) if self.adapter_parameters() else nullcontext()

    def _refuse_lengths(self, length_B: Tensor) -> None:
        longest, limit = int(length_B.max()), self._denoiser.max_frames
        if longest > limit:
            raise UserError(f"got a prompt of {longest} frames; want at most {limit}, the model's longest; shorten it")
        padded = self._denoiser.canvas is None and len(set(length_B.tolist())) > 1
        if padded and not self._denoiser.mask_frames:
            raise UserError(
                f"got lengths {sorted(set(length_B.tolist()))} in one unit for a model that sees padding; "
                "want one length, since padding would feed the valid frames without being scored; give all "
                "prompts the same length or use a masked model"
            )

    @property
    def _device(self) -> torch.device:
        return device_of(self._denoiser.network)
