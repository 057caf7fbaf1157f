"""The three kinds of worker: plain classes that run in one process under a debugger, or as Ray actors.

Each makes its parts on first use, where it runs, and computes with the job's number of threads: threads
change rounding, so they are the same on every backend.

Legend: B rows of a unit.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from rl_motion.algorithms import estimate
from rl_motion.algorithms.advantages import Memory
from rl_motion.config import Job, RunFault
from rl_motion.learner.rounds import Rounds, together
from rl_motion.models.adapter import adapter_checksum
from rl_motion.models.device import CPU, device_name
from rl_motion.protocols import MotionPolicy
from rl_motion.runtime.build import Decoder, Scorer, Training, Workshop
from rl_motion.types import Experience, Metrics, Scored, Trajectory, Unit, UnitGradient

_ADVANTAGES = "advantages/"
"""Before the names of what the advantages remember, in a learner's state."""

_log = logging.getLogger(__name__)

Turn = tuple[str | None, list[UnitGradient]]
"""A learner's part of a round: None and its own gradients; or, once the update is over, the SHA-256 of its state."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What decides rounding besides the code: bit-for-bit promises hold between equal environments."""

    threads: int
    cpu_capability: str
    torch: str
    machine: str
    device: str = CPU
    """Where its networks are: `cpu`, or the GPU by name."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The adapter that units are sampled with: version, checksum, and the safetensors file that workers load."""

    version: int
    sha256: str
    adapter: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A learner between two iterations, as bytes: nobody but a worker needs to know what is in them.

    `version` counts updates; `adapter` is the safetensors file that rollout workers load, `sha256` its
    checksum; `state` is the learner's safetensors file; `files` is the adapter to publish in peft's own format, by
    file name.
    """

    version: int
    sha256: str
    adapter: bytes
    state: bytes
    files: Mapping[str, bytes]
    environment: Environment

    @property
    def behaviour(self) -> Behaviour:
        """What rollout workers need of it."""
        return Behaviour(self.version, self.sha256, self.adapter)


@dataclass(frozen=True, slots=True)
class Learned:
    """What a learner's step returns; `skipped` has a line for every optimiser step that was not made."""

    snapshot: Snapshot
    metrics: Metrics
    skipped: Sequence[str]


def warned(learned: Learned) -> Learned:
    """The same; says in this process's log what was skipped."""
    for line in learned.skipped:
        _log.warning("%s", line)
    return learned


class Worker:
    """A job, the means to work on it, and the right number of threads."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """Cheap: what may fail happens in a method, where its error reaches the user as it is."""
        torch.set_num_threads(job.runtime.threads)
        self._job = job
        self._workshop = workshop

    def environment(self) -> Environment:
        """Where this worker runs."""
        return Environment(
            threads=torch.get_num_threads(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            torch=torch.__version__,
            machine=platform.machine(),
            device=device_name(),
        )


class RolloutWorker(Worker):
    """Samples units. Stateless to its callers: every call names the adapter it wants."""

    _loaded: tuple[int, str] | None = None

    @cached_property
    def policy(self) -> MotionPolicy:
        """The policy, made on first use."""
        return self._workshop.policy(self._job)

    def prepare(self) -> Environment:
        """Make everything now instead of in the first call."""
        _ = self.policy
        return self.environment()

    def sample(self, behaviour: Behaviour, unit: Unit) -> Trajectory:
        """The unit's trajectory under this adapter.

        Raises:
            RunFault: the adapter that arrived is not the one announced.
        """
        wanted = (behaviour.version, behaviour.sha256)
        if self._loaded != wanted:
            self._loaded = None
            self.policy.load_adapter_state(verified(behaviour))
            self._loaded = wanted
        with torch.no_grad():
            return self.policy.rollout(unit, policy_version=behaviour.version)


def verified(behaviour: Behaviour) -> dict[str, Tensor]:
    """The adapter's tensors.

    Raises:
        RunFault: they are not the ones announced.
    """
    state = safetensors.load(behaviour.adapter)
    if adapter_checksum(state) != behaviour.sha256:
        raise RunFault(
            f"got an adapter that differs from version {behaviour.version} ({behaviour.sha256[:12]}) on its way to a "
            "worker; resume the run"
        )
    return state


class RewardWorker(Worker):
    """Scores trajectories; holds the rewards and what decodes motion, no policy."""

    @cached_property
    def parts(self) -> tuple[Decoder, Scorer]:
        """Decoder and rewards, made on first use."""
        return self._workshop.decoder(self._job), self._workshop.rewards(self._job)

    def prepare(self) -> Environment:
        """Make everything now instead of in the first call."""
        _ = self.parts
        return self.environment()

    def score(self, trajectory: Trajectory) -> Scored:
        """Every reward of the trajectory's motions, and of a watched unit every sentinel."""
        (decode, rewards), unit = self.parts, trajectory.unit
        with torch.no_grad():
            motions = decode(trajectory)
            scored = rewards(motions, unit)
            return replace(scored, sentinels=self._workshop.sentinels(motions, unit)) if unit.watched else scored


class LearnerWorker(Worker):
    """Holds an adapter that changes, and what the advantages remember; alone, or one of several that change alike."""

    def __init__(self, job: Job, workshop: Workshop) -> None:
        """As every worker."""
        super().__init__(job, workshop)
        self._version = 0
        self._memory: Memory = {}
        self._metrics: Metrics = {}
        self._rounds: Rounds | None = None

    @cached_property
    def training(self) -> Training:
        """Policy and learner, made on first use."""
        return self._workshop.training(self._job)

    def prepare(self) -> Snapshot:
        """Make everything now; returns the starting point."""
        return self._snapshot()

    def restore(self, version: int, state: bytes) -> Snapshot:
        """Go back to a snapshot's `version` and `state`."""
        self._give_up()
        tensors = safetensors.load(state)
        names = {name for name in tensors if name.startswith(_ADVANTAGES)}
        self._memory = {name.removeprefix(_ADVANTAGES): tensors.pop(name) for name in names}
        self.training.learner.load_state_dict_tensors(tensors)
        self._version = version
        return self._snapshot()

    def learn(self, behaviour: Behaviour, rewards: Sequence[Tensor], *trajectories: Trajectory) -> Learned:
        """One update by this learner alone; see `begin`."""
        together([self._update(behaviour, [trajectory.unit for trajectory in trajectories], rewards, trajectories)])
        return self.learned()

    def begin(
        self, behaviour: Behaviour, units: Sequence[Unit], rewards: Sequence[Tensor], *trajectories: Trajectory
    ) -> Turn:
        """Begin an update that is shared with other learners; one that was left in the middle is undone.

        Args:
            behaviour: the adapter that made the trajectories: the present one, or one of at most `runtime.lag` updates
                before. Ratios are against it, whose log-probs the trajectories hold.
            units: the iteration's, in order.
            rewards: total reward [B] of each unit's rows.
            trajectories: those of this learner's own units.

        Raises:
            RunFault: a trajectory was made with another adapter, or one that is too old.
        """
        self._give_up()
        self._rounds = self._update(behaviour, units, rewards, trajectories)
        return None, next(self._rounds)

    def proceed(self, *said: Sequence[UnitGradient]) -> Turn:
        """Take the optimiser step that all learners' gradients make, then the next turn.

        Raises:
            RunFault: too many steps were skipped in a row, as something was not finite; the update is undone.
        """
        if self._rounds is None:
            raise ValueError("got a round of no update; want one under way; call begin first")
        try:
            return None, self._rounds.send([gradient for part in said for gradient in part])
        except StopIteration:
            return hashlib.sha256(self._state()).hexdigest(), []

    def learned(self) -> Learned:
        """What the last update came to."""
        return Learned(self._snapshot(), self._metrics, tuple(self.training.learner.skipped))

    def _update(
        self,
        behaviour: Behaviour,
        units: Sequence[Unit],
        rewards: Sequence[Tensor],
        trajectories: Sequence[Trajectory],
    ) -> Rounds:
        present = (self._version, adapter_checksum(self.training.policy.adapter_state()))
        want, stale = (behaviour.version, behaviour.sha256), self._version - behaviour.version
        if (stale == 0 and want != present) or not 0 <= stale <= self._job.runtime.lag:
            raise RunFault(
                f"got units of adapter version {want[0]} ({want[1][:12]}) at version {present[0]} ({present[1][:12]}); "
                f"want the present one, or one of at most {self._job.runtime.lag} updates before; resume the run"
            )
        for trajectory in trajectories:
            got = (trajectory.policy_version, trajectory.adapter_sha256)
            if got != want:
                raise RunFault(
                    f"unit {trajectory.unit.index}: got a trajectory of adapter version {got[0]} ({got[1][:12]}); want "
                    f"version {want[0]} ({want[1][:12]}); resume the run"
                )
        estimated, memory = estimate(list(zip(units, rewards, strict=True)), self._memory, self._job.algorithm)
        found = dict(zip((unit.index for unit in units), zip(estimated, rewards, strict=True), strict=True))
        own = [Experience(trajectory, *found[trajectory.unit.index]) for trajectory in trajectories]
        metrics = yield from self.training.learner.rounds(units, own, verified(behaviour) if stale else None)
        self._version, self._memory = self._version + 1, memory
        self._metrics = self.training.constants | metrics
        return self._metrics

    def _give_up(self) -> None:
        """Undo an update that is under way."""
        if self._rounds is not None:
            self._rounds.close()
            self._rounds = None

    def _state(self) -> bytes:
        remembered = {_ADVANTAGES + name: tensor for name, tensor in self._memory.items()}
        return safetensors.save(self.training.learner.state_dict_tensors() | remembered)

    def _snapshot(self) -> Snapshot:
        adapter = self.training.policy.adapter_state()
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.training.save_adapter(Path(folder))
                files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        except (OSError, SafetensorError) as error:
            raise RunFault(
                f"got {getattr(error, 'strerror', None) or error} where a learner writes its adapter for a moment "
                f"({tempfile.gettempdir()}); want room and the right to write there; make both, or set TMPDIR, and "
                "resume the run"
            ) from error
        return Snapshot(
            version=self._version,
            sha256=adapter_checksum(adapter),
            adapter=safetensors.save(adapter),
            state=self._state(),
            files=files,
            environment=self.environment(),
        )
