"""A whole run in miniature: one Gaussian step, one trainable vector, real learner and algorithm, no peft.

Everything is a module-level function, so that Ray workers can import it. `model.name` steers mishaps:
`toy:crash=FILE` ends the process once per FILE while unit 1 is sampled, `toy:bug` raises in every rollout,
`toy:interrupt=N` is Ctrl-C in iteration N, `toy:poison=N` ends every process that samples prompt N, `toy:slow=S` takes
S seconds for every unit. In the second update, `toy:crash_learner=FILE` ends the process once,
`toy:bug_learner=N` raises and `toy:nan=N` gives NaN in unit N, and `toy:drift=FILE` moves the adapter, once.
`toy:nan_reward=N` gives one reward of unit 0 as NaN in iteration N, `toy:nan_rewards=N` one of every unit from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rl_motion.config import AlgorithmConfig, Job, RuntimeConfig, TrackingConfig, TrainConfig
from rl_motion.evaluation.sentinels import Band, Bands
from rl_motion.learner.learner import Learner
from rl_motion.models.adapter import adapter_checksum
from rl_motion.policies import GaussianReplay
from rl_motion.prompts.curricula import Curriculum
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.protocols import Need
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime import loop
from rl_motion.runtime.build import Decoder, Scorer, Training, Workshop, build_algorithm
from rl_motion.runtime.frontend import Means
from rl_motion.runtime.local import LocalBackend
from rl_motion.types import (
    AdapterState,
    Metrics,
    Motions,
    Normalisation,
    Prompt,
    Representation,
    Scored,
    Trajectory,
    Unit,
    UnitGradient,
)

FEATURES = 3


def die_once(marker: Path) -> None:
    """End this process, as a machine would, unless it happened before."""
    if not marker.exists():
        if marker.parent.is_dir():
            marker.touch()
        os._exit(1)


class TinyPolicy:
    """x = tanh(pull) + noise: one transition, no network."""

    schedule_hash = "tiny"
    offers: frozenset[Need] = frozenset({"snr"})
    constants: Mapping[str, float] = {}

    def __init__(self, mishap: str = "") -> None:
        self.pull = nn.Parameter(torch.zeros(FEATURES))
        self._mishap = mishap

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        self._misbehave(unit)
        start_BFD = torch.stack([self._noise(unit, row, 0) for row in range(unit.batch)])
        with torch.no_grad():
            mean_BSFD = self._mean(start_BFD)[:, None]
            end_BFD = mean_BSFD[:, 0] + torch.stack([self._noise(unit, r, 1) for r in range(unit.batch)])
            latents_BTFD = torch.stack([start_BFD, end_BFD], dim=1)
            log_prob_BS = self._log_prob(latents_BTFD, mean_BSFD)
        return Trajectory(
            unit=unit,
            states=latents_BTFD,
            log_prob_BS=log_prob_BS,
            drawn_BS=torch.ones_like(log_prob_BS, dtype=torch.bool),
            sample=end_BFD,
            length_B=torch.full((unit.batch,), start_BFD.shape[1]),
            policy_version=policy_version,
            adapter_sha256=adapter_checksum(self.adapter_state()),
            schedule_hash=self.schedule_hash,
        )

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> GaussianReplay:
        sound = self._misbehave_in_replay(trajectory.unit)
        start_BFD = trajectory.states[:, 0]
        mean_BSFD = (self._mean(start_BFD) if adapter else 0.5 * start_BFD)[:, None]
        ones = torch.ones(1, dtype=torch.float64)
        scale_B = torch.full((len(start_BFD),), 1.0 / start_BFD[0].numel(), dtype=torch.float64)
        log_prob_BS = sound * self._log_prob(trajectory.states, mean_BSFD)
        return GaussianReplay(log_prob_BS, mean_BSFD, ones, ones, scale_B)

    def decode(self, trajectory: Trajectory) -> Motions:
        return decoder(Job(name="toy"))(trajectory)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        return {"pull": self.pull}

    def adapter_state(self) -> dict[str, Tensor]:
        return {"pull": self.pull.detach().clone()}

    def load_adapter_state(self, state: AdapterState) -> None:
        with torch.no_grad():
            self.pull.copy_(state["pull"])

    def _mean(self, start_BFD: Tensor) -> Tensor:
        return 0.5 * start_BFD + torch.tanh(self.pull)

    def _log_prob(self, latents_BTFD: Tensor, mean_BSFD: Tensor) -> Tensor:
        error_BSFD = (latents_BTFD[:, 1:] - mean_BSFD).double()
        return -0.5 * error_BSFD.square().mean(dim=(2, 3))

    def _noise(self, unit: Unit, row: int, step: int) -> Tensor:
        sample = row % unit.samples_per_prompt
        key = f"{unit.seed}/{unit.iteration}/{unit.row_prompts[row].id}/{sample}/{step}"
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        frames = max(prompt.length for prompt in unit.prompts)
        return torch.randn(frames, FEATURES, generator=torch.Generator().manual_seed(seed))

    def _misbehave(self, unit: Unit) -> None:
        kind, _, where = self._mishap.partition("=")
        if kind == "bug":
            raise ValueError(f"a bug in unit {unit.index}")
        if kind == "interrupt" and unit.iteration == int(where):
            raise KeyboardInterrupt
        if kind == "crash" and unit.index == 1:
            die_once(Path(where))
        if kind == "slow":
            time.sleep(float(where))
        if kind == "poison" and any(prompt.text.endswith(f" {where}") for prompt in unit.prompts):
            os._exit(1)

    def _misbehave_in_replay(self, unit: Unit) -> float:
        """The factor of the log-probs: 1, or NaN."""
        kind, _, where = self._mishap.partition("=")
        if kind == "slow":
            time.sleep(float(where) / 4)
        if unit.iteration != 1:
            return 1.0
        if kind == "crash_learner" and unit.index == 2:
            die_once(Path(where))
        if kind == "bug_learner" and unit.index == int(where):
            raise ValueError(f"a bug in learning from unit {unit.index}")
        if kind == "drift":
            with contextlib.suppress(FileExistsError), torch.no_grad():
                Path(where).touch(exist_ok=False)
                self.pull += 1e-3
        return float("nan") if kind == "nan" and unit.index == int(where) else 1.0


def policy(job: Job) -> TinyPolicy:
    return TinyPolicy(job.model.name.partition(":")[2])


def decoder(job: Job) -> Decoder:
    def decode(trajectory: Trajectory) -> Motions:
        kind = Representation.HUMANML3D_263
        return Motions(trajectory.sample, trajectory.length_B, 20.0, kind, Normalisation.NONE)

    return decode


def rewards(job: Job) -> Scorer:
    _kind, _, _where = job.model.name.removeprefix("toy:").partition("=")

    def score(motions: Motions, unit: Unit) -> Scored:
        kind, _, where = job.model.name.partition(":")[2].partition("=")
        if kind == "slow":
            time.sleep(float(where) / 2)
        near_B = -(motions.features_BFD - 0.8).square().mean(dim=(1, 2))
        one = kind == "nan_reward" and unit.index == 0 and unit.iteration == int(where)
        if one or (kind == "nan_rewards" and unit.iteration >= int(where)):
            near_B[1] = float("nan")
        return Scored(unit.index, {"near": near_B}, near_B)

    return score


class HastyLearner(Learner):
    """Adds gradients in the order in which they arrive, learner by learner: what a learner must not do."""

    def _in_unit_order(self, chunk: Sequence[Unit], gathered: Sequence[UnitGradient]) -> list[UnitGradient]:
        return list(gathered)


def training(job: Job, files: RewardFiles | None = None, kind: type[Learner] = Learner) -> Training:
    made = policy(job)
    learner = kind(made, build_algorithm(job, files), job.train)

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"base": job.model.name}))
        with learner.published():
            save_file(made.adapter_state(), folder / "adapter_model.safetensors")

    return Training(made, learner, save)


def hasty_training(job: Job, files: RewardFiles | None = None) -> Training:
    return training(job, files, HastyLearner)


def pool(job: Job) -> PromptPool:
    prompts = [make_prompt(f"a person does thing number {number}", 4) for number in range(10)]
    difficulty = {prompt.id: number / 10 for number, prompt in enumerate(prompts)}
    built = PromptPool({"toy": prompts}, {"toy": 1.0}, job.train.seed, Curriculum(job.prompts, difficulty))
    built.check(job.train)
    return built


def validation(job: Job) -> dict[str, list[Prompt]]:
    return {name: [make_prompt(f"{name} thing {n}", 4) for n in range(6)] for name in job.prompts.validation}


def evaluate(job: Job, folder: Path, wall_s: float) -> Mapping[str, Any]:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    arm = {s: {"oracle_success": estimate, "reward": estimate} for s in ("held_out", "original", "train")}
    report = {"base": arm, "tuned": arm, "difference": arm, "not_judged": {}, "wall_s": wall_s}
    report |= {"seed": job.train.seed}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "report.html").write_text("<html></html>")
    return report


def other_pool(job: Job) -> PromptPool:
    return PromptPool({"toy": [make_prompt(f"another thing {n}", 4) for n in range(10)]}, {"toy": 1.0}, 0)


class CarelessPolicy(TinyPolicy):
    """Noise from the process's own generator: what a policy must not do."""

    def _noise(self, unit: Unit, row: int, step: int) -> Tensor:
        return torch.randn(max(prompt.length for prompt in unit.prompts), FEATURES, generator=_GENERATOR)


_GENERATOR = torch.Generator().manual_seed(0)


def careless_policy(job: Job) -> CarelessPolicy:
    return CarelessPolicy()


def with_model(job: Job, name: str) -> Job:
    return job.model_copy(update={"model": job.model.model_copy(update={"name": name})})


def check(job: Job) -> None:
    """Everything goes."""


def weights(job: Job) -> dict[str, str]:
    return {"model": "0123456789abcdef"}


def other_weights(job: Job) -> dict[str, str]:
    return {"model": "fedcba9876543210"}


def sentinels(motions: Motions, unit: Unit) -> dict[str, Tensor]:
    """How far the toy's motions are from where they start, as the energy of the sentinels."""
    return {"energy": motions.features_BFD.flatten(1).square().mean(dim=1)}


def bands(job: Job) -> Bands | None:
    """The energy may be less than a third more than the base's."""
    return Bands("toy", 20.0, {"energy": Band(-0.3, 0.3, 0.0)}, None) if job.sentinels.bands else None


def text_readers(job: Job) -> list[Any]:
    """Toys read no text."""
    return []


WORKSHOP = Workshop(
    check=check,
    policy=policy,
    decoder=decoder,
    rewards=rewards,
    training=training,
    pool=pool,
    validation=validation,
    weights=weights,
    sentinels=sentinels,
    bands=bands,
    text_readers=text_readers,
)
MEANS = Means(WORKSHOP, evaluate)
CARELESS = Means(replace(WORKSHOP, policy=careless_policy), evaluate)
HASTY = Means(replace(WORKSHOP, training=hasty_training), evaluate)
REAL_POLICY = Means(Workshop(check=check, rewards=rewards, pool=pool, weights=weights), evaluate)
"""Only rewards, prompts and evaluation are toys."""
OTHER_PROMPTS = Means(replace(WORKSHOP, pool=other_pool), evaluate)
OTHER_WEIGHTS = Means(replace(WORKSHOP, weights=other_weights), evaluate)


def toy_job(model: str = "toy", iterations: int = 4, **runtime: Any) -> Job:
    sizes = {
        "prompts_per_iteration": 4,
        "prompts_per_unit": 1,
        "samples_per_prompt": 4,
        "units_per_step": 4,
        "learning_rate": 0.05,
    }
    settings = {"backend": "local", "threads": 1, **runtime}
    return Job.model_validate(
        {
            "name": "toy",
            "model": {"name": model},
            "train": TrainConfig.model_validate({"iterations": iterations, **sizes}),
            "runtime": RuntimeConfig.model_validate(settings),
            "algorithm": AlgorithmConfig(advantage_floor=0.01),
            "tracking": TrackingConfig(mlflow_uri=None),
        }
    )


def real_job(model: Path, **runtime: object) -> Job:
    """Two iterations of a real model."""
    base = toy_job(str(model), iterations=2, **{"threads": 2, **runtime})
    return base.model_copy(update={"policy": base.policy.model_copy(update={"steps": 4})})


def learn(job: Job, workshop: Workshop) -> list[Metrics]:
    """Metrics of every iteration of the real loop in this process, without a folder."""
    found: list[Metrics] = []
    backend = LocalBackend(job, workshop)
    state = loop.State(backend.start())
    loop.train(job, workshop.pool(job), backend, state, lambda _, __, metrics: found.append(metrics))
    return found


def rise(found: list[Metrics]) -> float:
    """By how much the mean reward of the last five iterations exceeds that of the first five."""
    rewards = [metrics["reward/total"] for metrics in found]
    return (sum(rewards[-5:]) - sum(rewards[:5])) / 5


def rows(folder: Path) -> list[dict[str, float]]:
    """A run's metrics without its times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def result(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    """What two runs have in common if they are the same run: the adapter's file and the metrics."""
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes(), rows(folder)
