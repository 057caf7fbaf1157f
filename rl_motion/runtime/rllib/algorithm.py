"""The loop's five lines as an RLlib algorithm: `train()` is one iteration."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray.air.constants import TRAINING_ITERATION
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.checkpoints import Checkpointable
from ray.tune.result import DONE
from rich.console import Console

from rl_motion.config import RunFault, UserError
from rl_motion.runtime import text_features
from rl_motion.runtime.reward_metrics import reward_metrics
from rl_motion.runtime.rllib.config import DDPOConfig
from rl_motion.runtime.rllib.runner import Answer, Sampled
from rl_motion.types import Unit

ATTEMPTS = 4
"""How often an iteration's missing units are asked for before it gives up on system errors."""
_RESTART_S = 120.0
"""How long to wait for a runner where all have died."""
_log = logging.getLogger(__name__)


class DDPO(Algorithm):
    """RLlib's outside, our inside: its runners are placed and replaced by RLlib; what they compute is the loop's.

    RLlib restarts runners that die. What they owed is asked for again, at most `ATTEMPTS` times; a unit is keyed by
    what it is, so it comes out the same. An error of the code ends `train()` at once, with its own traceback.
    """

    config: Any
    learner_group: Any
    metrics: Any

    @classmethod
    def get_default_config(cls) -> DDPOConfig:
        """A config without a job."""
        return DDPOConfig()

    def setup(self, config: Any) -> None:
        """Check the job, then make prompts, learner and runners.

        Raises:
            UserError: a part of the job cannot work.
        """
        self._job, workshop = self.config.resolved_job, self.config.workshop
        workshop.check(self._job)
        if self._job.runtime.lag:
            raise UserError(
                "got runtime.mode=async; want sync, as RLlib's runners and learner take turns here; leave it out, or "
                "run the job with rl-motion train"
            )
        if self._job.prompts.curriculum == "signal":
            raise UserError(
                "got prompts.curriculum=signal; want uniform or difficulty, as nobody keeps a ledger of prompts here; "
                "change it, or run the job with rl-motion train"
            )
        self._pool = workshop.pool(self._job)
        text_features.fill(self._job, workshop, self._pool.prompts, Console(stderr=True))
        super().setup(config)

    def training_step(self) -> None:
        """One iteration.

        Raises:
            RunFault: runners died again and again, or computed with another adapter or other CPU instructions.
            RayTaskError: of the type, and with the traceback, of what a runner's code raised.
        """
        units = self._pool.draw(self.learner_group.snapshot.version, self._job.train)
        sampled = self._sample(units)
        learned = self.learner_group.learn(sampled)
        rewards = reward_metrics([one.scored for one in sampled], [one.trajectory.unit for one in sampled])
        for name, value in (rewards | learned).items():
            self.metrics.log_value(name, value, reduce="item")

    def step(self) -> dict[str, Any]:
        """As RLlib's; `done`, at which Tune ends the trial, once the job's iterations are over."""
        result: dict[str, Any] = super().step()
        result[DONE] = self.learner_group.snapshot.version >= self._job.train.iterations
        return result

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """See which runners are back. There is nothing to bring up to date: requests bring what they need."""
        return list(env_runner_group.probe_unhealthy_env_runners() or [])

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The learner as our own bytes (safetensors), and RLlib's counters."""
        return {
            **self.learner_group.state(),
            "metrics": self.metrics.get_state(),
            TRAINING_ITERATION: self.training_iteration,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to it; the next rollout requests bring the restored adapter to every runner."""
        self.learner_group.restore(state)
        self.metrics.set_state(state["metrics"])
        self._iteration = state[TRAINING_ITERATION]

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """None: `get_state` is all."""
        return []

    def save_to_path(self, path: str | Path | None = None, *, filesystem: Any = None, **options: Any) -> str:
        """RLlib's checkpoint, and beside it `adapter/` in peft's own format, for `rl-motion sample --adapter`."""
        if path is not None and "://" not in str(path):
            path = Path(path).absolute()  # RLlib takes no other
        saved = super().save_to_path(path, filesystem=filesystem, **options)
        disk = filesystem or (pyarrow.fs.FileSystem.from_uri(str(path))[0] if path else pyarrow.fs.LocalFileSystem())
        disk.create_dir(f"{saved}/adapter")
        for name, content in self.learner_group.snapshot.files.items():
            with disk.open_output_stream(f"{saved}/adapter/{name}") as file:
                file.write(content)
        return str(saved)

    def restore_from_path(self, path: str | Path, **options: Any) -> None:
        """As any Checkpointable; without the push of weights that RLlib adds (see Runner)."""
        Checkpointable.restore_from_path(self, path, **options)

    def _await_runner(self, group: Any) -> None:
        """Until one answers: while an actor restarts, requests to it fail at once and would use the attempts up."""
        patience = time.monotonic() + _RESTART_S
        while not self.restore_env_runners(group) and not group.num_healthy_remote_env_runners():
            if time.monotonic() > patience:
                return
            time.sleep(0.2)

    def _sample(self, units: Sequence[Unit]) -> list[Sampled]:
        """Every unit under the learner's adapter, in unit order."""
        snapshot, group = self.learner_group.snapshot, self.env_runner_group
        if not self.config.num_env_runners:
            return [self.env_runner.sample(behaviour=snapshot.behaviour, unit=unit) for unit in units]
        request = {"behaviour": ray.put(snapshot.behaviour)}
        found: dict[int, Sampled] = {}
        for attempt in range(ATTEMPTS):
            missing = [unit for unit in units if unit.index not in found]
            if not missing:
                break
            if attempt:
                _log.warning("env runners died; asking for %d units again", len(missing))
                self._await_runner(group)
            for answer in _ask(group, request, missing):
                found[answer.index] = _value(answer)
        else:
            if len(found) < len(units):
                raise RunFault(
                    f"{len(units) - len(found)} units failed {ATTEMPTS} times because env runners or nodes died; look "
                    "at `ray status` and restore from the last checkpoint"
                )
        return [found[unit.index] for unit in units]


def _ask(group: Any, request: dict[str, Any], units: Sequence[Unit]) -> list[Answer]:
    """What the runners that are alive answer, each in turn given the next unit; dead ones answer nothing."""
    alive = group.healthy_env_runner_ids()
    if not alive:
        return []
    return list(
        group.foreach_env_runner(
            ["answer"] * len(units),
            kwargs=[{**request, "unit": unit} for unit in units],
            remote_worker_ids=[alive[place % len(alive)] for place in range(len(units))],
            local_env_runner=False,
        )
    )


def _value(answer: Answer) -> Sampled:
    if answer.sampled is not None:
        return answer.sampled
    cause = answer.error.cause
    raise cause if isinstance(cause, UserError | RunFault) else answer.error.as_instanceof_cause()
