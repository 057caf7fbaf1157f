"""Workers that take a stated time and compute nothing: the project's loop, backend and flow are measured around them.

A unit says itself how long it takes, in the text of its prompts: `rollout=0.25 reward=0.02 learn=0.01`, in seconds. So
one set of workers serves every case that is measured. They sleep, so that sixteen of them need no sixteen cores.

Everything is a module-level function, so that Ray's workers can import it.

Legend: B rows of a unit, S = 1 stochastic step, P numbers of an adapter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_motion.config import AlgorithmConfig, Job
from rl_motion.learner.rounds import Rounds
from rl_motion.models.adapter import adapter_checksum
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.protocols import Need, Replay
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Decoder, Scorer, Training, Workshop
from rl_motion.types import (
    AdapterState,
    Experience,
    Metrics,
    Motions,
    Normalisation,
    Representation,
    Scored,
    Trajectory,
    Unit,
    UnitGradient,
)

PROMPTS = 4096
"""Of a pool: as many different ones as an iteration may ask for."""


def seconds_of(unit: Unit, stage: str) -> float:
    """How long this stage of the unit is to take."""
    words = dict(word.split("=") for word in unit.prompts[0].text.split())
    return float(words[stage])


class LightPolicy:
    """Sleeps instead of sampling. Its adapter is as large as `model.name` says: `light:P` or, of several tensors,
    `light:P,P,P`."""

    schedule_hash = "light"
    offers: frozenset[Need] = frozenset({"snr"})

    def __init__(self, sizes: Sequence[int]) -> None:
        """An adapter with a tensor [P] for each size, of zeros."""
        self._adapter = {f"layer{number:03d}": nn.Parameter(torch.zeros(size)) for number, size in enumerate(sizes)}
        self._sha256 = adapter_checksum(self.adapter_state())
        self.constants: dict[str, float] = {}

    def rollout(self, unit: Unit, *, policy_version: int = 0) -> Trajectory:
        """Rows of a few numbers, after the unit's seconds."""
        time.sleep(seconds_of(unit, "rollout"))
        rows = unit.batch
        return Trajectory(
            unit=unit,
            states=torch.zeros(rows, 2, 1),
            log_prob_BS=torch.zeros(rows, 1, dtype=torch.float64),
            drawn_BS=torch.ones(rows, 1, dtype=torch.bool),
            sample=torch.zeros(rows, 1, 1),
            length_B=torch.ones(rows, dtype=torch.int64),
            policy_version=policy_version,
            adapter_sha256=self._sha256,
            schedule_hash=self.schedule_hash,
        )

    def replay(self, trajectory: Trajectory, *, adapter: bool = True, first: int | None = None) -> Replay:
        """Nothing here is replayed."""
        raise NotImplementedError("a light learner replays nothing")

    def decode(self, trajectory: Trajectory) -> Motions:
        """Motion of one number."""
        return decode(trajectory)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """All of it."""
        return dict(self._adapter)

    def adapter_state(self) -> dict[str, Tensor]:
        """Copies."""
        return {name: tensor.detach().clone() for name, tensor in self._adapter.items()}

    def load_adapter_state(self, state: AdapterState) -> None:
        """Copy them in, as a real policy does, and sum them up once for all units that follow."""
        with torch.no_grad():
            for name, tensor in self._adapter.items():
                tensor.copy_(state[name])
        self._sha256 = adapter_checksum(self.adapter_state())


class LightLearner:
    """Sleeps instead of learning; its adapter changes all the same, so that every iteration has a new version."""

    def __init__(self, policy: LightPolicy) -> None:
        """Take hold of the policy's adapter."""
        self._policy = policy
        self.skipped: Sequence[str] = ()

    def rounds(self, units: Sequence[Unit], own: Sequence[Experience], behaviour: AdapterState | None = None) -> Rounds:
        """One optimiser step that takes the seconds of the own units together."""
        time.sleep(sum(seconds_of(experience.trajectory.unit, "learn") for experience in own))
        yield [UnitGradient(experience.trajectory.unit, 0.0, {}, {}, "") for experience in own]
        with torch.no_grad():
            for tensor in self._policy.adapter_parameters().values():
                tensor.add_(1.0)
        return Metrics({"learner/updates": 1.0})

    def state_dict_tensors(self) -> dict[str, Tensor]:
        """The adapter alone."""
        return self._policy.adapter_state()

    def load_state_dict_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """As the policy does."""
        self._policy.load_adapter_state(tensors)


def policy(job: Job) -> LightPolicy:
    """The policy that `model.name` asks for."""
    return LightPolicy([int(size) for size in job.model.name.partition(":")[2].split(",")])


def decode(trajectory: Trajectory) -> Motions:
    """Motion of one number."""
    form = Representation.HUMANML3D_263, Normalisation.NONE
    return Motions(trajectory.sample, trajectory.length_B, 20.0, *form)


def decoder(job: Job) -> Decoder:
    """As `decode`."""
    return decode


def rewards(job: Job, files: RewardFiles | None = None) -> Scorer:
    """Sleeps, then 0 and 1 in turn, so that no unit is without a signal."""

    def score(motions: Motions, unit: Unit) -> Scored:
        time.sleep(seconds_of(unit, "reward"))
        total_B = torch.arange(unit.batch, dtype=torch.float32) % 2
        return Scored(unit.index, {"light": total_B}, total_B)

    return score


def training(job: Job, files: RewardFiles | None = None) -> Training:
    """Policy and learner; what it publishes is an empty folder."""
    made = policy(job)

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    return Training(made, LightLearner(made), save)


WORKSHOP = Workshop(policy=policy, decoder=decoder, rewards=rewards, training=training)
REAL = Workshop()
"""That of every run."""


def light_job(rollout: int, reward: int, units: int, *, sizes: Sequence[int] = (1000,), lag: int = 0) -> Job:
    """A job of light workers on Ray.

    Args:
        rollout: workers of that pool.
        reward: workers of that pool.
        units: of an iteration, each of one prompt and two samples; all make one optimiser step.
        sizes: numbers of the adapter's tensors.
        lag: 1 for one step off, 0 for synchronous.
    """
    return Job.model_validate(
        {
            "name": "light",
            "model": {"name": "light:" + ",".join(map(str, sizes))},
            "train": {
                "iterations": 1,
                "prompts_per_iteration": units,
                "prompts_per_unit": 1,
                "samples_per_prompt": 2,
                "units_per_step": units,
            },
            "runtime": {
                "backend": "ray",
                "threads": 1,
                "rollout_workers": rollout,
                "reward_workers": reward,
                "mode": "async" if lag else "sync",
            },
            "algorithm": AlgorithmConfig(advantage_floor=0.01),
            "tracking": {"mlflow_uri": None},
        }
    )


def pool(job: Job, rollout_s: float, reward_s: float, learn_s: float) -> PromptPool:
    """Prompts whose units take these seconds."""
    text = f"rollout={rollout_s:g} reward={reward_s:g} learn={learn_s:g}"
    count = max(job.train.prompts_per_iteration, 1)
    if count > PROMPTS:
        raise ValueError(f"got {count} units; want {PROMPTS} at most")
    prompts = [make_prompt(f"{text} number={number}", 4) for number in range(count)]
    return PromptPool({"light": prompts}, {"light": 1.0}, job.train.seed)
