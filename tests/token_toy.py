"""A categorical autoregressive policy in miniature, as T2M-GPT is one: tokens, an end token, a codebook that decodes.

The adapter is real LoRA. Module-level functions, so that Ray workers can import them.

Legend: B rows, S tokens at most, T = S + 1 with the start token, V codes and the end token, F frames, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_motion.config import AdapterConfig, Job, UserError
from rl_motion.learner import Learner
from rl_motion.models.adapter import (
    adapter_checksum,
    adapter_disabled,
    adapter_state,
    attach_lora,
    load_adapter_state,
    save_adapter,
)
from rl_motion.policies import unit_noise
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.protocols import Algorithm, Need
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Decoder, Scorer, Training, Workshop, build_algorithm
from rl_motion.runtime.frontend import Means
from rl_motion.types import AdapterState, Motions, Normalisation, Representation, Scored, Trajectory, Unit
from tests import fakes

CODES, FRAMES_PER_CODE, FEATURES = 3, 2, 2
END, START = CODES, CODES + 1
CODEBOOK_VD = torch.tensor([[-1.0, 0.5], [0.0, 0.0], [0.8, 0.8], [0.0, 0.0]])
"""A motion's features at each code; the end token stands for none."""


class TokenNetwork(nn.Module):
    """Logits [B, V] of the next token, from the mean of those so far, the last one, how many, and the text."""

    adapter_targets = {"mlp": ("inner",)}  # noqa: RUF012

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.inner = nn.Linear(2 * (START + 1) + 2, 6)
        self.outer = nn.Linear(6, END + 1)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))

    def forward(self, token_BT: Tensor, condition_B: Tensor) -> Tensor:
        one_hot_BTV = nn.functional.one_hot(token_BT, START + 1).to(condition_B)
        rest_B2 = torch.stack([torch.full_like(condition_B, token_BT.shape[1] / self.steps), condition_B], dim=1)
        seen = torch.cat([one_hot_BTV.mean(dim=1), one_hot_BTV[:, -1], rest_B2], dim=1)
        logits_BV: Tensor = self.outer(torch.tanh(self.inner(seen)))
        return logits_BV


@dataclass(frozen=True)
class CategoricalReplay:
    """A `Replay` of tokens. logits_BSV: float64, of the tokens before; drawn_BS: which tokens there are."""

    log_prob_BS: Tensor
    logits_BSV: Tensor
    drawn_BS: Tensor
    gain_S: None = None

    def kl(self, reference: CategoricalReplay) -> Tensor:
        """sum_v p (log p - log q) of every token."""
        log_p_BSV, log_q_BSV = self.logits_BSV.log_softmax(dim=2), reference.logits_BSV.log_softmax(dim=2)
        return torch.where(self.drawn_BS, (log_p_BSV.exp() * (log_p_BSV - log_q_BSV)).sum(dim=2), 0.0)

    def gradient_norm(self, loss: Tensor) -> Tensor:
        (gradient_BSV,) = torch.autograd.grad(loss, self.logits_BSV, retain_graph=True)
        return gradient_BSV.square().sum(dim=(0, 2)).sqrt()


class TokenPolicy:
    """A `MotionPolicy` whose steps are tokens; a row ends with its end token or after `steps` of them."""

    offers: frozenset[Need] = frozenset()
    constants: Mapping[str, float] = {}

    def __init__(self, steps: int = 4, dtype: torch.dtype = torch.float32) -> None:
        self.steps = steps
        self.schedule_hash = f"tokens-{steps}"
        self.network = TokenNetwork(steps).to(dtype)
        self.peft_model = attach_lora(self.network, AdapterConfig(rank=2, alpha=2, targets=("mlp",)))
        self._dtype = dtype
        generator = torch.Generator().manual_seed(3)
        state = {n: torch.randn(t.shape, generator=generator, dtype=dtype) for n, t in self.adapter_state().items()}
        self.load_adapter_state({name: 0.3 * tensor for name, tensor in state.items()})

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        token_BT = torch.full((unit.batch, 1), START)
        alive_B = torch.ones(unit.batch, dtype=torch.bool)
        log_probs, drawn = [], []
        with torch.no_grad():
            for k in range(self.steps):
                log_p_BV = self._logits(unit, token_BT).log_softmax(dim=1)
                uniform_B = torch.special.ndtr(unit_noise(unit, k + 1, 1, torch.float64, canvas=1)[:, 0, 0])
                next_B = (log_p_BV.exp().cumsum(dim=1) < uniform_B[:, None]).sum(dim=1).clamp_max(END)
                next_B = torch.where(alive_B, next_B, END)
                log_probs.append(torch.where(alive_B, log_p_BV.gather(1, next_B[:, None])[:, 0], 0.0))
                drawn.append(alive_B)
                alive_B = alive_B & (next_B != END)
                token_BT = torch.cat([token_BT, next_B[:, None]], dim=1)
        sample_BS = token_BT[:, 1:]
        return Trajectory(
            unit=unit,
            states=token_BT,
            log_prob_BS=torch.stack(log_probs, dim=1),
            drawn_BS=torch.stack(drawn, dim=1),
            sample=sample_BS,
            length_B=FRAMES_PER_CODE * (sample_BS != END).sum(dim=1).clamp_min(1),
            policy_version=policy_version,
            adapter_sha256=adapter_checksum(self.adapter_state()),
            schedule_hash=self.schedule_hash,
        )

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> CategoricalReplay:
        if trajectory.schedule_hash != self.schedule_hash:
            raise UserError("got tokens of another policy")
        steps = min(first or self.steps, self.steps)
        token_BT, drawn_BS = trajectory.states, trajectory.drawn_BS[:, :steps]
        with nullcontext() if adapter else adapter_disabled(self.network):
            logits = [self._logits(trajectory.unit, token_BT[:, : k + 1]) for k in range(steps)]
        logits_BSV = torch.stack(logits, dim=1)
        log_p_BS = logits_BSV.log_softmax(dim=2).gather(2, token_BT[:, 1 : steps + 1, None])[:, :, 0]
        return CategoricalReplay(torch.where(drawn_BS, log_p_BS, 0.0), logits_BSV, drawn_BS)

    def decode(self, trajectory: Trajectory) -> Motions:
        return decode(trajectory)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return dict(sorted((name, p) for name, p in self.network.named_parameters() if ".lora_" in name))

    def adapter_state(self) -> dict[str, Tensor]:
        return adapter_state(self.network)

    def load_adapter_state(self, state: AdapterState) -> None:
        load_adapter_state(self.network, state)

    def _logits(self, unit: Unit, token_BT: Tensor) -> Tensor:
        condition_B = torch.tensor([len(p.text) / 10.0 for p in unit.row_prompts], dtype=self._dtype)
        return self.network(token_BT, condition_B).double()


def decode(trajectory: Trajectory) -> Motions:
    """Every code's features for its frames; a row that ends at once is a rest of as many."""
    features_BFD = CODEBOOK_VD[trajectory.sample].repeat_interleave(FRAMES_PER_CODE, dim=1)
    features_BFD = features_BFD[:, : int(trajectory.length_B.max())]
    return Motions(features_BFD, trajectory.length_B, 20.0, Representation.HUMANML3D_263, Normalisation.NONE)


def near_B(motions: Motions) -> Tensor:
    """Minus the mean squared distance to 0.8 over a motion's frames, [B] float64."""
    valid_BF = torch.arange(motions.features_BFD.shape[1]) < motions.length_B[:, None]
    error_BF = (motions.features_BFD.double() - 0.8).square().mean(dim=2) * valid_BF
    return -error_BF.sum(dim=1) / motions.length_B


def policy(job: Job) -> TokenPolicy:
    return TokenPolicy()


def decoder(job: Job) -> Decoder:
    return decode


def rewards(job: Job) -> Scorer:
    def score(motions: Motions, unit: Unit) -> Scored:
        value_B = near_B(motions)
        return Scored(unit.index, {"near": value_B}, value_B)

    return score


def training_with(algorithm: Algorithm, job: Job) -> Training:
    made = policy(job)
    learner = Learner(made, algorithm, job.train)

    def save(folder: Path) -> None:
        with learner.published():
            save_adapter(made.peft_model, folder, base_model_name=job.model.name)

    return Training(made, learner, save, {})


def training(job: Job, files: RewardFiles | None = None) -> Training:
    return training_with(build_algorithm(job, files), job)


def pool(job: Job) -> PromptPool:
    prompts = [make_prompt(f"a person does thing number {number}", 8) for number in range(8)]
    return PromptPool({"toy": prompts}, {"toy": 1.0}, job.train.seed)


WORKSHOP = Workshop(
    check=fakes.check,
    policy=policy,
    decoder=decoder,
    rewards=rewards,
    training=training,
    pool=pool,
    weights=fakes.weights,
    text_readers=fakes.text_readers,
)
MEANS = Means(WORKSHOP, fakes.evaluate)


def token_job(iterations: int = 3, **runtime: object) -> Job:
    base = fakes.toy_job(iterations=iterations, **runtime)
    algorithm = {"balance": "none", "kl_weight": 0.01, "inner_epochs": 2}
    train = {"samples_per_prompt": 8, "units_per_step": 2, "learning_rate": 0.1}
    changes = {"algorithm": base.algorithm.model_copy(update=algorithm), "train": base.train.model_copy(update=train)}
    return base.model_copy(update=changes)
