"""What the run knows of each prompt (how often it taught, what its samples got, whether it is set aside), and which
prompts were drawn for the iterations in flight: part of every commit."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rl_motion.config import RunFault, TrainConfig
from rl_motion.prompts.pool import PromptPool
from rl_motion.runtime.reward_metrics import by_prompt
from rl_motion.types import Metrics, Scored, Unit

FAST, SLOW, SMOOTH = 0.5, 0.1, 0.3
"""Weights of the newest value in the exponential moving averages of a prompt's mean reward, and of its variance."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Why a prompt is no longer drawn, and in which iteration that came out."""

    iteration: int
    reason: str


class Rewards(NamedTuple):
    """The total rewards of a prompt's samples, over the times that it taught.

    first, last: their mean, the first time and the last. fast, slow: moving averages of the mean, from the first on.
    variance: of the samples among themselves (population), the last time. smoothed: its moving average. version: of the
    adapter that sampled it last. Six significant digits of each are kept, which a resumed run has too.
    """

    first: float
    last: float
    fast: float
    slow: float
    variance: float
    smoothed: float
    version: int

    @classmethod
    def begin(cls, mean: float, variance: float, version: int) -> Rewards:
        """After the first time."""
        mean, variance = _short(mean), _short(variance)
        return cls(mean, mean, mean, mean, variance, variance, version)

    @property
    def trend(self) -> float:
        """How much the mean rises with every time: (fast - slow) / 8.

        On a straight line an average lags behind by (1 - a) / a times, a being the weight of the newest: 1 and 9 here.
        0 after the first time; exact once a straight line has lasted.
        """
        return (self.fast - self.slow) / ((1 - SLOW) / SLOW - (1 - FAST) / FAST)

    def then(self, mean: float, variance: float, version: int) -> Rewards:
        """After another time."""
        return Rewards(
            self.first,
            last=_short(mean),
            fast=_short(self.fast + FAST * (mean - self.fast)),
            slow=_short(self.slow + SLOW * (mean - self.slow)),
            variance=_short(variance),
            smoothed=_short(self.smoothed + SMOOTH * (variance - self.smoothed)),
            version=version,
        )


def refuse_many(set_aside: Collection[str], drawn: int, reasons: Sequence[str]) -> None:
    """A tenth of the prompts may be set aside, and one in any case: more are no matter of prompts.

    Raises:
        RunFault: there are more.
    """
    most = max(1, drawn // 10)
    if len(set_aside) > most:
        raise RunFault(
            f"got {len(set_aside)} prompts of {drawn} that no worker survives or answers ({reasons[-1][:300]}); want "
            f"{most} at most, as more are no matter of prompts; look at the workers' logs, and resume the run"
        )


class Ledger:
    """Prompts by id. It changes between iterations only, so that a commit holds one state of it."""

    def __init__(self) -> None:
        """Nothing has taught yet."""
        self.taught: Counter[str] = Counter()
        """Iterations whose update each prompt was part of."""
        self.set_aside: dict[str, SetAside] = {}
        self.rewards: dict[str, Rewards] = {}
        """Of every prompt that got finite ones."""
        self.drawn: dict[int, tuple[str, ...]] = {}
        """The cursor: the prompts of every iteration that was drawn and is not over, those set aside included. A
        resumed run asks for the same again, where what it knows by now would have others drawn."""

    def draw(self, pool: PromptPool, sizes: TrainConfig, iterations: Iterable[int]) -> None:
        """Draw the prompts of those of these iterations that are not drawn yet, by what is known now."""
        missing = [iteration for iteration in iterations if iteration not in self.drawn]
        spread = {prompt_id: math.sqrt(got.smoothed) for prompt_id, got in self.rewards.items()}
        spread |= dict.fromkeys(self.set_aside, 0.0)  # what is not worked on teaches nothing
        for iteration in missing:
            units = pool.draw(iteration, sizes, spread)
            self.drawn[iteration] = tuple(prompt.id for unit in units for prompt in unit.prompts)

    def over(self, iteration: int, units: Sequence[Unit], scored: Sequence[Scored], version: int) -> None:
        """An iteration is over: these units, sampled by the adapter of this version, were part of an update.

        A prompt of whose rewards one is not finite is counted, and else stays as it was.
        """
        del self.drawn[iteration]
        self.count(units)
        for prompt_id, mean, variance in by_prompt(scored, units):
            if not math.isfinite(variance):
                continue
            before = self.rewards.get(prompt_id)
            self.rewards[prompt_id] = (before.then if before else Rewards.begin)(mean, variance, version)

    def without_set_aside(self, units: Sequence[Unit], lag: int) -> list[Unit]:
        """The units without prompts that were set aside; those that lose all are left out.

        What came out less than `lag` + 1 iterations before does not count yet: units are sampled so far ahead, and what
        an iteration is made of must not depend on what happened to be known.
        """
        kept = (
            replace(unit, prompts=tuple(p for p in unit.prompts if not self._out(p.id, unit, lag))) for unit in units
        )
        return [unit for unit in kept if unit.prompts]

    def count(self, units: Iterable[Unit]) -> None:
        """These units were part of an update."""
        self.taught.update(prompt.id for unit in units for prompt in unit.prompts)

    def put_aside(self, iteration: int, reasons: Mapping[str, str]) -> None:
        """Prompts that cannot be worked on, by id; the first reason stays.

        Raises:
            RunFault: they become too many of those that were drawn.
        """
        for prompt_id, reason in reasons.items():
            self.set_aside.setdefault(prompt_id, SetAside(iteration, reason))
        refuse_many(self.set_aside.keys(), len(self.taught.keys() | self.set_aside.keys()), [*reasons.values()])

    def metrics(self) -> Metrics:
        """How many different prompts taught, and how many are set aside."""
        return {"prompts/drawn": float(len(self.taught)), "prompts/set_aside": float(len(self.set_aside))}

    def to_bytes(self) -> bytes:
        """As JSON, sorted: the same ledger gives the same bytes."""
        tree = {
            "taught": dict(self.taught),
            "set_aside": {name: [entry.iteration, entry.reason] for name, entry in self.set_aside.items()},
            "rewards": self.rewards,
            "drawn": {str(iteration): names for iteration, names in self.drawn.items()},
        }
        return json.dumps(tree, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Ledger:
        """What `to_bytes` gave, also before it knew of rewards and of what was drawn.

        Raises:
            ValueError: it is something else.
        """
        ledger = cls()
        try:
            tree = json.loads(content)
            ledger.taught.update({str(name): int(count) for name, count in tree["taught"].items()})
            for name, (iteration, reason) in tree["set_aside"].items():
                ledger.set_aside[str(name)] = SetAside(int(iteration), str(reason))
            for name, values in tree.get("rewards", {}).items():
                ledger.rewards[str(name)] = Rewards(*values)
            for number, names in tree.get("drawn", {}).items():
                ledger.drawn[int(number)] = tuple(map(str, names))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"got no ledger ({error}); want what a run wrote") from None
        return ledger

    def _out(self, prompt_id: str, unit: Unit, lag: int) -> bool:
        entry = self.set_aside.get(prompt_id)
        return entry is not None and unit.iteration > entry.iteration + lag


def _short(number: float) -> float:
    """Six significant digits."""
    return float(f"{number:.6g}")
