"""Workers of one kind, as many as are wanted at the moment. Knows neither Ray nor what they do."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from rl_motion.config import RunFault
from rl_motion.runtime.status import PoolStatus, Role

ATTEMPTS = 4
"""How often one piece of work is tried, before a run gives up on its system errors."""
SAY_S = 60.0
"""Between two words about what is waited for."""
_SIGN_S = 3.0
_RECENT = 32
_log = logging.getLogger(__name__)


class SystemFault(RunFault):
    """A call failed because of machines, not because of code; `lost`: an object it needed is gone."""

    def __init__(self, cause: BaseException | str, *, lost: bool = False) -> None:
        """Keep the first line of what was said."""
        super().__init__(str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__)
        self.lost = lost


class Calls(Protocol):
    """How calls to actors are waited for and ended: by Ray, or by a simulation."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def wait(self, refs: Collection[Any], timeout_s: float) -> list[Any]:
        """Those that are done, after this time at the latest."""

    def get(self, ref: Any) -> Any:
        """The value; raises SystemFault, or the error of the code that was called."""

    def end(self, actor: Any) -> None:
        """Kill it, dead or alive."""

    def draining(self) -> Collection[str]:
        """Nodes that will soon be taken away."""


@dataclass(eq=False, slots=True)
class Member:
    """A worker: on its way until it arrived, then idle or busy; a leaving one gets no more work."""

    number: int
    actor: Any
    arriving: Any
    """The reference of its arrival; None afterwards."""
    node: str = ""
    pid: int = 0
    gpus: float = 0.0
    busy: bool = False
    leaving: bool = False
    sign: Any = None
    """The reference of the sign of life that it was asked for; None where it was asked for none."""
    seen: float = 0.0
    """When it last gave one."""
    shaken: float | None = None
    """Since when it has to give one before it gets work; None where it need not."""


@dataclass(eq=False)
class Pool:
    """Members of one role. Work never waits for one that is on its way while another is there.

    spawn: makes the actor with this number and asks for its arrival; returns both.
    inspect: sees every arrival's answer; raises RunFault where it may not stay.
    """

    role: Role
    calls: Calls
    spawn: Callable[[int], tuple[Any, Any]]
    inspect: Callable[[Any], None]
    wanted: int
    members: list[Member] = field(default_factory=list)
    done: int = 0
    rows: int = 0
    busy_s: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _made: int = 0
    _deaths: int = 0
    """Members that died on their way, one after the other."""
    _newest_dead: int = 0
    """The newest member that was made when the last of these died."""

    def tend(self, draining: Collection[str]) -> list[str]:
        """Start what is missing, let go what is too many or stands on a node about to go; says what it did."""
        said = []
        for member in self.members:
            if member.node in draining and not member.leaving:
                member.leaving = True
                said.append(f"{self.role} worker {member.number} leaves its node, which drains")
        staying = [member for member in self.members if not member.leaving]
        # The newest go first: those on their way, then the idle, then the busy.
        surplus = sorted(staying, key=lambda m: (m.arriving is None, m.busy, -m.number))
        for member in surplus[: max(len(staying) - self.wanted, 0)]:
            member.leaving = True
        for member in [m for m in self.members if m.leaving and not m.busy]:
            self.drop(member)
        for _ in range(self.wanted - len(staying)):
            self._made += 1
            self.members.append(Member(self._made, *self.spawn(self._made)))
        return said

    def arrived(self, member: Member) -> str | None:
        """Take in a member whose arrival is done; the reason where it died on its way instead.

        Raises:
            RunFault: too many died on their way, one could not be made, or `inspect` refused it.
        """
        try:
            arrival = self.calls.get(member.arriving)
        except SystemFault as fault:
            self.drop(member)
            if member.number > self._newest_dead:  # those that died with the same node count once
                self._deaths, self._newest_dead = self._deaths + 1, self._made
            if self._deaths == ATTEMPTS:
                raise given_up(f"starting a {self.role} worker", [str(fault)]) from fault
            return str(fault)
        self._deaths = 0
        self.inspect(arrival.answer)
        member.arriving = None
        member.node, member.pid, member.gpus = arrival.node, arrival.pid, arrival.gpus
        return None

    def drop(self, member: Member) -> None:
        """End a member, whatever it does."""
        self.members.remove(member)
        self.calls.end(member.actor)

    def idle(self) -> list[Member]:
        """Those that can take work, longest here first."""
        return [m for m in self._free() if m.shaken is None]

    def others(self, member: Member) -> bool:
        """Whether another than this one can take work, now or after what it is at."""
        return any(m is not member and m.arriving is None and not m.leaving for m in self.members)

    def shake(self, node: str) -> None:
        """A worker died there: those that are idle there have to give a sign before they get work."""
        for member in self._free():
            if member.node == node and member.shaken is None:
                member.shaken, member.sign = self.calls.now(), None  # one asked for before says nothing

    def awaited(self, ask: Callable[[Any], Any]) -> dict[Any, Member]:
        """Signs of life, by the reference to wait for; `ask` asks an actor for one.

        Every idle worker is asked now and then, or its death would come out, and be blamed on a unit, only when it
        gets one.
        """
        now = self.calls.now()
        for member in self._free():
            if member.sign is None and (member.shaken is not None or now - member.seen > _SIGN_S):
                member.sign = ask(member.actor)
        return {member.sign: member for member in self.members if member.sign is not None}

    def lives(self, member: Member) -> str | None:
        """Take its sign of life; the reason where it is dead, and dropped."""
        sign, member.sign, member.seen, member.shaken = member.sign, None, self.calls.now(), None
        try:
            self.calls.get(sign)
        except SystemFault as fault:
            if not member.busy:  # else its call fails by itself
                self.drop(member)
                return str(fault)
        return None

    def _free(self) -> list[Member]:
        return [m for m in self.members if m.arriving is None and not m.busy and not m.leaving]

    def arriving(self) -> dict[Any, Member]:
        """Those on their way, by the reference to wait for."""
        return {member.arriving: member for member in self.members if member.arriving is not None}

    def credit(self, seconds: float, rows: int) -> None:
        """A call is done."""
        self.done += 1
        self.rows += rows
        self.busy_s += seconds
        self._recent.append(seconds)

    @property
    def recent_s(self) -> float | None:
        """Median seconds of the last calls."""
        return statistics.median(self._recent) if self._recent else None

    def close(self) -> None:
        """End all."""
        for member in list(self.members):
            self.drop(member)

    def status(self) -> PoolStatus:
        """As numbers."""
        members = list(self.members)
        here = [m for m in members if m.arriving is None]
        return PoolStatus(
            role=self.role,
            wanted=self.wanted,
            ready=len(here),
            busy=sum(m.busy for m in here),
            coming=len(members) - len(here),
            leaving=sum(m.leaving for m in members),
            calls=self.done,
            rows=self.rows,
            busy_s=self.busy_s,
            recent_s=self.recent_s,
            gpus=sum(m.gpus for m in here),
        )


def given_up(what: str, reasons: Collection[str]) -> RunFault:
    """The error after as many system errors as are tolerated."""
    told = "; ".join(dict.fromkeys(reasons))[:600]
    return RunFault(
        f"{what} failed {ATTEMPTS} times because workers or nodes died or did not answer ({told}); look at `ray "
        "status` and the workers' logs, and resume the run"
    )
