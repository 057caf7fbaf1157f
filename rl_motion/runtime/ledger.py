"""How often each prompt taught, and which are set aside: part of every commit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rl_motion.config import RunFault
from rl_motion.types import Unit


@dataclass(frozen=True, slots=True)
class SetAside:
    """Why a prompt is no longer drawn, and in which iteration that came out."""

    iteration: int
    reason: str


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

    def to_bytes(self) -> bytes:
        """As JSON, sorted: the same ledger gives the same bytes."""
        aside = {name: [entry.iteration, entry.reason] for name, entry in self.set_aside.items()}
        return json.dumps({"taught": dict(self.taught), "set_aside": aside}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Ledger:
        """What `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        ledger = cls()
        try:
            tree = json.loads(content)
            ledger.taught.update({str(name): int(count) for name, count in tree["taught"].items()})
            for name, (iteration, reason) in tree["set_aside"].items():
                ledger.set_aside[str(name)] = SetAside(int(iteration), str(reason))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"got no ledger ({error}); want what a run wrote") from None
        return ledger

    def _out(self, prompt_id: str, unit: Unit, lag: int) -> bool:
        entry = self.set_aside.get(prompt_id)
        return entry is not None and unit.iteration > entry.iteration + lag
