"""The loop that everybody would write first, over the same network, weights, adapter and noise: what ours is set to.

Its parts are those of ddpo-pytorch (scripts/train.py), of TRL 0.23.1's DDPOTrainer and of MDM's sampler, written anew:

- a diffusers scheduler whose `step` makes every latent, here DPMSolverMultistepScheduler with `sde-dpmsolver++`;
- two calls of the network for guidance, one conditional, one not, as in MDM's ClassifierFreeSampleModel. (ddpo-pytorch
  and TRL stack both into one batch, which was measured to bring nothing here: docs/benchmarks.md.)
- texts padded to the encoder's longest, encoded in one batch once per rollout; the update reuses them, as theirs does;
- an update that takes one timestep at a time: forward, PPO's loss of that step, backward; gradients add up over the
  timesteps, then they are clipped and Adam makes one step;
- LoRA in peft's own layers;
- motion padded to the longest of its batch, everything in float32.

Where ours computes more than these, the loop does as well, so that both come to the same numbers: the weights of the
steps (`balance: snr`), and where a job asks for it the KL to the model without adapter.

First order. A mean of second order depends on the prediction before it, so its gradient too: one timestep at a time
would need the network twice. Neither of the loops above is of second order; ours costs the same in both.

Legend: B rows, S stochastic transitions, T = S + 1 latents, F frames, D features, C channels of the text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from rl_motion.config import AdapterConfig, Job, ScheduleConfig
from rl_motion.models.adapter import adapter_disabled, load_adapter_state
from rl_motion.models.denoiser import MotionDenoiser
from rl_motion.models.t2m_unet import TextTokens
from rl_motion.models.zoo import DENOISERS, CheckpointConfig, locate, text_encoder_of
from rl_motion.policies.noise import unit_noise
from rl_motion.types import AdapterState, Unit

_BETAS = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
_BETA1 = 0.9


class PaddedText:
    """A text encoder as those loops call it: one padded batch of texts, straight through the library."""

    def __init__(self, model: str) -> None:
        """Load the text encoder of a checkpoint."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModelWithProjection

        path = locate(model, DENOISERS)
        config = CheckpointConfig.model_validate_json((path / "config.json").read_text("utf-8"))
        directory = text_encoder_of(path, config)
        self._clip = str(AutoConfig.from_pretrained(directory).model_type).startswith("clip")
        loader: Any = CLIPTextModelWithProjection if self._clip else AutoModel
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._model: Any = loader.from_pretrained(directory).eval().requires_grad_(False)
        self._pooled = config.kind != "t2m_unet"
        self._cut = config.text_cut

    def __call__(self, texts: Sequence[str]) -> Tensor | TextTokens:
        """Conditions of a batch: pooled [B, C], or the tokens of the padded texts, [B, 77, C]."""
        with torch.no_grad():
            return self._of_clip(texts) if self._clip else self._of_bert(texts)

    def _of_clip(self, texts: Sequence[str]) -> Tensor | TextTokens:
        longest = self._tokenizer.model_max_length
        ids_BM = torch.zeros(len(texts), longest, dtype=torch.int64)  # padded as OpenAI's tokenizer does
        for row, ids in enumerate(self._tokenizer(list(texts), verbose=False)["input_ids"]):
            kept = ids if self._cut is None or len(ids) <= self._cut else [*ids[: self._cut - 1], ids[-1]]
            ids_BM[row, : len(kept)] = torch.tensor(kept)
        output = self._model(input_ids=ids_BM, attention_mask=torch.ones_like(ids_BM))
        if self._pooled:
            pooled_BC: Tensor = output.text_embeds
            return pooled_BC
        return TextTokens(output.last_hidden_state, torch.full((len(texts),), longest))

    def _of_bert(self, texts: Sequence[str]) -> Tensor:
        batch = self._tokenizer(list(texts), return_tensors="pt", padding=True)
        hidden_BMC = self._model(**batch).last_hidden_state
        valid_BM1 = batch["attention_mask"][:, :, None].to(hidden_BMC)
        mean_BC: Tensor = (hidden_BMC * valid_BM1).sum(dim=1) / valid_BM1.sum(dim=1)
        return mean_BC


@dataclass(frozen=True, slots=True)
class _Rows:
    """What does not change from step to step; elements_B (float64): scored frames times features."""

    condition: Any
    length_B: Tensor
    scored_BF1: Tensor
    elements_B: Tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """What a rollout leaves to the update; latents_BTFD, log_prob_BS (float64), x0_BFD, and the texts' conditions."""

    unit: Unit
    latents_BTFD: Tensor
    log_prob_BS: Tensor
    x0_BFD: Tensor
    condition: Any


@dataclass(eq=False)
class Straightforward:
    """The loop, around a denoiser with its adapter attached.

    Attributes:
        denoiser: the network and its face; only `network` and `null_condition` are used.
        text: encodes texts.
        job: policy, algorithm and training settings: DDPO, first order, `last_step: frozen`.
        network_s: seconds that went into the network so far, its backward included.
    """

    denoiser: MotionDenoiser
    text: Callable[[Sequence[str]], Tensor | TextTokens]
    job: Job
    network_s: float = 0.0
    _optimizer: torch.optim.Adam | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what this loop is not written for.

        Raises:
            ValueError: second order, another last step, sums of log-probs, steps weighed otherwise, or no guidance.
        """
        policy, balance = self.job.policy, self.job.algorithm.balance
        got = (policy.order, policy.last_step, policy.log_prob, balance, policy.guidance_scale != 1.0)
        if got != (1, "frozen", "mean", "snr", True):
            raise ValueError(f"got {got}; want first order, last_step frozen, log_prob mean, balance snr and guidance")

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter, by sorted name."""
        named = self.denoiser.network.named_parameters()
        return dict(sorted((name, parameter) for name, parameter in named if ".lora_" in name))

    def sample(self, unit: Unit) -> Samples:
        """Sample the unit, with the noise of our own rollout."""
        steps = self.job.policy.steps
        scheduler = self._scheduler()
        with torch.no_grad():
            rows = self._rows(unit, self.text([prompt.text for prompt in unit.row_prompts]))
            x_BFD = self._noise(unit, 0)
            latents, scores = [x_BFD], []
            for k in range(steps - 1):
                mean_BFD, std = self._mean(scheduler, k, x_BFD, rows), _std(scheduler, k)
                x_BFD = mean_BFD + std * self._noise(unit, k + 1)
                scores.append(_log_prob(x_BFD, mean_BFD, std, rows.elements_B))
                latents.append(x_BFD)
            with adapter_disabled(self.denoiser.network):
                x0_BFD = self._mean(scheduler, steps - 1, x_BFD, rows)  # the step to noise level 0
        return Samples(unit, torch.stack(latents, dim=1), torch.stack(scores, dim=1), x0_BFD, rows.condition)

    def update(self, samples: Samples, advantage_B: Tensor) -> dict[str, Tensor]:
        """One optimiser step on these samples; returns the gradient as Adam got it, clipped."""
        config, train = self.job.algorithm, self.job.train
        parameters = list(self.parameters.values())
        if self._optimizer is None:
            betas = (_BETA1, train.adam_beta2)
            self._optimizer = torch.optim.Adam(parameters, lr=train.learning_rate, betas=betas)
        steps = samples.log_prob_BS.shape[1]
        scheduler = self._scheduler()
        rows = self._rows(samples.unit, samples.condition)
        for k in range(steps):
            x_BFD, next_BFD = samples.latents_BTFD[:, k], samples.latents_BTFD[:, k + 1]
            std, balance = _std(scheduler, k), _balance(scheduler, k)
            mean_BFD = self._mean(scheduler, k, x_BFD, rows)
            log_prob_B = _log_prob(next_BFD, mean_BFD, std, rows.elements_B)
            ratio_B = torch.exp((log_prob_B - samples.log_prob_BS[:, k]) / balance)
            clipped_B = ratio_B.clamp(1.0 - config.clip_range, 1.0 + config.clip_range)
            loss = -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B).mean()
            if config.kl_weight > 0.0:
                kl_B = (mean_BFD - self._reference(k, x_BFD, rows)).square().sum(dim=(1, 2), dtype=torch.float64)
                loss = loss + config.kl_weight * (0.5 * kl_B / std**2 / rows.elements_B / balance).mean()
            started = time.perf_counter()
            (loss / steps).backward()  # type: ignore[no-untyped-call]
            self.network_s += time.perf_counter() - started
        torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        gradient = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return gradient

    def _reference(self, k: int, x_BFD: Tensor, rows: _Rows) -> Tensor:
        """Mean of transition k of the model without adapter."""
        scheduler = self._scheduler()  # of its own: a scheduler counts its steps
        scheduler.set_begin_index(k)
        with torch.no_grad(), adapter_disabled(self.denoiser.network):
            return self._mean(scheduler, k, x_BFD, rows)

    def _mean(self, scheduler: Any, k: int, x_BFD: Tensor, rows: _Rows) -> Tensor:
        """Mean of transition k: the scheduler's step without noise."""
        t = scheduler.timesteps[k]
        raw_BFD = self._guided(x_BFD, t, rows)
        silent_BFD = torch.zeros_like(x_BFD)
        mean_BFD: Tensor = scheduler.step(raw_BFD, t, x_BFD, variance_noise=silent_BFD).prev_sample
        return mean_BFD * rows.scored_BF1

    def _guided(self, x_BFD: Tensor, t: Tensor, rows: _Rows) -> Tensor:
        count, scale, length_B = len(x_BFD), self.job.policy.guidance_scale, rows.length_B
        t_B, null = t.expand(count), self.denoiser.null_condition(count)
        started = time.perf_counter()
        conditional = self.denoiser.network(x_BFD, t_B, rows.condition, length_B)
        unconditional = self.denoiser.network(x_BFD, t_B, null, length_B)
        self.network_s += time.perf_counter() - started
        guided_BFD: Tensor = unconditional + scale * (conditional - unconditional)
        return guided_BFD

    def _rows(self, unit: Unit, condition: Any) -> _Rows:
        length_B = torch.tensor([prompt.length for prompt in unit.row_prompts])
        canvas = self.denoiser.canvas
        scored_B = length_B if canvas is None else torch.full_like(length_B, canvas)
        frame_F = torch.arange(int(scored_B.max()))
        scored_BF1 = (frame_F < scored_B[:, None]).unsqueeze(-1).float()
        return _Rows(condition, length_B, scored_BF1, (scored_B * self.denoiser.features).double())

    def _noise(self, unit: Unit, step: int) -> Tensor:
        return unit_noise(unit, step, self.denoiser.features, torch.float32, canvas=self.denoiser.canvas)

    def _scheduler(self) -> Any:
        return scheduler_of(self.denoiser.schedule, self.job, self.denoiser.prediction_type)


def library_adapter(network: nn.Module, config: AdapterConfig, state: AdapterState | None = None) -> None:
    """Wrap a network's layers in peft's own LoRA, as TRL does, in place; the project has a layer of its own for it.

    `state`: weights of an adapter, as `adapter_state` gives them.
    """
    targets: Any = network.adapter_targets
    names = [name for group in config.targets for name in targets[group]]
    alpha: Any = config.alpha  # peft declares an integer and only ever divides it by the rank
    network.requires_grad_(False)
    PeftModel(network, LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=names))  # type: ignore[arg-type]
    if state is not None:
        load_adapter_state(network, state)


def scheduler_of(schedule: ScheduleConfig, job: Job, prediction_type: str) -> Any:
    """diffusers' scheduler of a job's policy, before its first step."""
    karras = job.policy.spacing == "karras"
    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.timesteps,
        beta_schedule=_BETAS[schedule.betas],
        algorithm_type="sde-dpmsolver++",
        solver_order=1,
        prediction_type=prediction_type,
        use_karras_sigmas=karras,
        timestep_spacing="linspace" if karras else job.policy.spacing,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(job.policy.steps)
    scheduler.set_begin_index(0)
    return scheduler


def _levels(scheduler: Any, k: int) -> tuple[float, float, float, float, float]:
    """alpha_s, sigma_s, alpha_t, sigma_t and h of transition k, from the scheduler's noise levels."""
    hat_s, hat_t = (float(scheduler.sigmas[k + offset]) for offset in (0, 1))
    alpha_s, alpha_t = (1.0 / math.sqrt(hat**2 + 1.0) for hat in (hat_s, hat_t))
    return alpha_s, hat_s * alpha_s, alpha_t, hat_t * alpha_t, math.log(hat_s) - math.log(hat_t)


def _std(scheduler: Any, k: int) -> float:
    *_, sigma_t, h = _levels(scheduler, k)
    return sigma_t * math.sqrt(-math.expm1(-2.0 * h))


def _balance(scheduler: Any, k: int) -> float:
    """How many stds the mean of transition k moves per unit of what the network predicts."""
    alpha_s, sigma_s, alpha_t, sigma_t, h = _levels(scheduler, k)
    of_x0 = alpha_t * math.sqrt(-math.expm1(-2.0 * h)) / sigma_t
    kind = scheduler.config.prediction_type
    return of_x0 * {"sample": 1.0, "epsilon": sigma_s / alpha_s, "v_prediction": sigma_s}[kind]


def _log_prob(x_BFD: Tensor, mean_BFD: Tensor, std: float, elements_B: Tensor) -> Tensor:
    """Mean over valid elements of log N(x; mean, std^2), [B] float64; both are zero beyond a row's length."""
    square_B = ((x_BFD - mean_BFD) / std).square().sum(dim=(1, 2), dtype=torch.float64)
    return -0.5 * square_B / elements_B - math.log(std) - 0.5 * math.log(2.0 * math.pi)
