"""A unit on its way from prompts to rewards, and the batch it was asked for with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.ledger import refuse_many
from rl_motion.runtime.pool import ATTEMPTS, Member, given_up
from rl_motion.runtime.status import Role
from rl_motion.runtime.workers import Behaviour
from rl_motion.types import Scored, Unit

PROBE_ATTEMPTS = 2
"""How often a prompt alone is tried, once it is suspected."""


@dataclass(eq=False, slots=True)
class Item:
    """A unit and how far it is: sampled by the rollout pool, then scored by the reward pool, then done.

    A probe is one prompt of a suspected unit, alone. `doubted` is the worker whose answer of this stage was unsound;
    `unsound` says that two workers came to numbers that are not finite.
    """

    batch: Batch
    unit: Unit
    asked_s: float
    parent: Item | None = None
    stage: Role = "rollout"
    trajectory: Any = None
    scored: Scored | None = None
    failures: list[str] = field(default_factory=list)
    losses: int = 0
    doubted: Member | None = None
    unsound: bool = False
    done: bool = False
    probes: list[Item] = field(default_factory=list)
    guilty: dict[str, str] = field(default_factory=dict)
    """Prompts whose probes failed, with the reason."""
    cleared: bool = False
    """Its probes all came through."""

    @property
    def order(self) -> tuple[int, int]:
        """Whose turn it is: earlier batches first, then earlier units."""
        return self.batch.number, self.unit.index

    @property
    def exhausted(self) -> bool:
        """Whether it failed too often to be tried again."""
        return len(self.failures) >= (ATTEMPTS if self.parent is None else PROBE_ATTEMPTS)

    def back_to_start(self) -> None:
        """Its trajectory is gone or was never made: sample it again."""
        self.stage, self.trajectory, self.doubted, self.done = "rollout", None, None, False

    def advance(self, result: Any, scored: Scored | None) -> None:
        """The present stage's call is done."""
        self.doubted = None
        if self.stage == "rollout":
            self.trajectory, self.stage = result, "reward"
        else:
            self.scored = scored
        self.done = self.scored is not None


@dataclass(eq=False, slots=True)
class Batch:
    """The units of one iteration. `handle` is what workers receive in place of the behaviour."""

    number: int
    behaviour: Behaviour
    handle: Any
    items: list[Item] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)
    acquitted: int = 0
    """Answers that were not finite, from two workers alike."""
    seconds: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0})

    @property
    def prompts(self) -> int:
        """How many there are, without those set aside."""
        return sum(len(item.unit.prompts) for item in self.items)

    @property
    def done(self) -> bool:
        """Whether every unit is."""
        return all(item.done for item in self.items)

    def rollouts(self) -> Rollouts:
        """What it came to; for a batch that is done."""
        kept = [item for item in self.items if item.scored is not None]
        scored = [item.scored for item in kept if item.scored is not None]
        trajectories = [item.trajectory for item in kept]
        units, aside, seconds = [item.unit for item in kept], dict(self.set_aside), dict(self.seconds)
        return Rollouts(units, self.behaviour, trajectories, scored, aside, seconds)


def suspect(item: Item) -> list[Item]:
    """A unit failed too often: what to try next to find out why.

    A unit of several prompts is taken apart: each is tried alone. Those that fail alone too are set aside with the
    reason and the unit goes on without them; if none does, the unit is tried once more as it was.

    Returns:
        What has to be sampled now; nothing as long as other probes are under way, or where nothing is left of the unit.

    Raises:
        RunFault: that is no matter of a prompt: all of several fail, too many do, or none does and yet the unit.
    """
    if item.parent is not None:
        return probed(item, item.failures[-1])
    if len(item.unit.prompts) == 1:
        item.guilty = {item.unit.prompts[0].id: item.failures[-1]}
        return _condemned(item)
    if item.cleared:
        raise given_up(_name(item), item.failures)
    item.probes = [
        Item(item.batch, replace(item.unit, prompts=(prompt,)), item.asked_s, parent=item)
        for prompt in item.unit.prompts
    ]
    return item.probes


def probed(probe: Item, failure: str | None = None) -> list[Item]:
    """A probe is over, well or badly; returns what has to be sampled now."""
    probe.done = True
    item = probe.parent
    assert item is not None
    if failure is not None:
        item.guilty[probe.unit.prompts[0].id] = failure
    if not all(other.done for other in item.probes):
        return []
    item.probes = []
    if item.guilty:
        return _condemned(item)
    item.cleared = True
    return _anew(item)


def _condemned(item: Item) -> list[Item]:
    prompts, batch = item.unit.prompts, item.batch
    if len(item.guilty) == len(prompts) > 1:
        raise given_up(_name(item), item.failures)
    batch.set_aside |= item.guilty
    refuse_many(batch.set_aside.keys(), batch.prompts, item.failures)
    kept = tuple(prompt for prompt in prompts if prompt.id not in item.guilty)
    item.guilty = {}
    if not kept:
        item.done = True
        return []
    item.unit = replace(item.unit, prompts=kept)
    item.scored = None  # of a unit that was sampled again: rewards of all its prompts
    return _anew(item)


def _anew(item: Item) -> list[Item]:
    item.failures.clear()
    item.back_to_start()
    return [item]


def _name(item: Item) -> str:
    return f"unit {item.unit.index} of iteration {item.unit.iteration}"
