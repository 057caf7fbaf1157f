"""An env runner without an environment: it samples a unit and scores it, with the adapter that the request brings."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayTaskError
from ray.rllib.env.env_runner import EnvRunner

from rl_motion.models.device import keep_to_cpu
from rl_motion.runtime.workers import Behaviour, Environment, RewardWorker, RolloutWorker
from rl_motion.types import Scored, Trajectory, Unit


@dataclass(frozen=True, slots=True)
class Sampled:
    """A unit's trajectory, what it is worth, and where both were computed."""

    trajectory: Trajectory
    scored: Scored
    environment: Environment


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the unit with this index: exactly one of the two is there."""

    index: int
    sampled: Sampled | None = None
    error: Any = None
    """A RayTaskError, which carries the traceback along."""


class Runner(EnvRunner):
    """Stateless to its callers, as every rollout worker is.

    RLlib pushes weights to runners without waiting, and drops a push where another is under way: after a restore a
    runner may sample with the weights it was born with. Here nothing is pushed. Every request names an adapter by
    version and SHA-256 and brings it, so a runner that is new, or was away, samples with the right one or not at all.

    Rewards are computed here and not in the learner's process: they scale with the runners, and RLlib takes experience
    to come with its reward.
    """

    config: Any

    def __init__(self, *, config: Any, **options: Any) -> None:
        """Cheap: what may fail happens in `sample`, where its error is the user's and no reason to restart."""
        super().__init__(config=config, **options)
        keep_to_cpu()  # as the learner does
        made = (self.config.resolved_job, self.config.workshop)
        self._rollout, self._reward = RolloutWorker(*made), RewardWorker(*made)

    def sample(self, *, behaviour: Behaviour, unit: Unit) -> Sampled:  # type: ignore[override]
        """The unit under this adapter; raises what `RolloutWorker.sample` and the rewards raise."""
        trajectory = self._rollout.sample(behaviour, unit)
        return Sampled(trajectory, self._reward.score(trajectory), self._rollout.environment())

    def answer(self, *, behaviour: Behaviour, unit: Unit) -> Answer:
        """The same for a remote caller. Errors are values.

        One that left this method would end the process: RLlib takes it for a sick machine, starts another, and a bug
        becomes an endless loop.
        """
        try:
            return Answer(unit.index, self.sample(behaviour=behaviour, unit=unit))
        except Exception as error:
            wrapped: Any = RayTaskError
            return Answer(unit.index, error=wrapped("sample", traceback.format_exc(), error))

    def assert_healthy(self) -> None:
        """Nothing to check: parts are made in `sample`."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to set: RLlib's counters are not used here, and weights come with requests."""

    def get_spaces(self) -> dict[str, Any]:
        """None: a unit is a prompt and its samples, not steps in spaces."""
        return {}
