"""Who does what next: units go through the rollout pool and the reward pool, whatever happens to workers meanwhile.

A unit is keyed by what it is and not by who computes it, so everything here costs time only:

- a worker or node that dies, or does not answer by the deadline: another takes the unit, a new worker its place;
- a straggler: once nothing else waits, an idle worker makes a copy of its call; whoever is first counts;
- an unsound answer (NaN, another shape) is asked for again elsewhere; who was wrong is ended;
- a trajectory lost with its node is sampled again;
- a unit that fails again and again is taken apart to find the prompt that does it (rl_motion/runtime/units.py).

The loop runs in a thread of its own and touches tensors as references alone; `step` is one turn of it. It knows no Ray:
tests drive it with simulated workers through thousands of mishaps.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl_motion.config import RunFault
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.pool import SAY_S, Calls, Member, Pool, SystemFault, given_up
from rl_motion.runtime.sound import Flaw, Receipt
from rl_motion.runtime.status import Event, Role
from rl_motion.runtime.units import Batch, Item, probed, suspect
from rl_motion.runtime.workers import Behaviour
from rl_motion.types import Unit

_TICK_S = 0.1
_LOOK_S = 1.0
"""Between two questions for draining nodes."""
_PATIENCE = 3.0
"""A call is a straggler after so many times the median of its stage, and after `_LEAST_PATIENCE_S`."""
_LEAST_PATIENCE_S = 1.0
_LOSSES = 16
"""How often a unit's trajectory may be lost."""
_ACQUITTALS = 3
"""Once so many non-finite answers of a batch were confirmed by a second worker, nobody else is asked about others."""
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Attempt:
    """A call under way. `unit` tells whether the item is still about the same prompts."""

    item: Item
    unit: Unit
    stage: Role
    member: Member
    result: Any
    since: float


@dataclass(frozen=True, slots=True)
class Means:
    """How calls are begun; the first two return the reference that says it is done, and that of its result.

    sample: (actor, handle of the behaviour, unit). score: (actor, unit, trajectory). hand: makes the handle.
    sign: (actor) -> the reference of a sign of life.
    """

    sample: Callable[[Any, Any, Unit], tuple[Any, Any]]
    score: Callable[[Any, Unit, Any], tuple[Any, Any]]
    hand: Callable[[Behaviour], Any]
    sign: Callable[[Any], Any]


class Flow:
    """Two pools and the units on their way through them."""

    def __init__(self, calls: Calls, rollout: Pool, reward: Pool, means: Means, deadline_s: float) -> None:
        """Nothing starts before `run` or `step`."""
        self.pools: dict[Role, Pool] = {"rollout": rollout, "reward": reward}
        self.retries: Counter[str] = Counter()
        self.speculated = 0
        self.bytes_moved = 0
        self.events: deque[Event] = deque(maxlen=20)
        self._calls = calls
        self._means = means
        self._deadline_s = deadline_s
        self._batches: list[Batch] = []
        self._asked = 0
        self._new: deque[Batch] = deque()
        self._waiting: dict[Role, list[Item]] = {"rollout": [], "reward": []}
        self._attempts: dict[Any, Attempt] = {}
        self._draining: Sequence[str] = ()
        self._looked = self._said = float("-inf")
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False

    # --- for whoever asks, from any thread

    def ask(self, units: Sequence[Unit], behaviour: Behaviour) -> Batch:
        """Have these units sampled and scored, after those asked for before."""
        self._asked += 1
        batch = Batch(self._asked, behaviour, self._means.hand(behaviour))
        batch.items = [Item(batch, unit, self._calls.now()) for unit in units]
        with self._changed:
            self._new.append(batch)
            self._changed.notify_all()
        return batch

    def again(self, batch: Batch) -> None:
        """Its trajectories are lost: sample them again; the rewards stand."""
        self.say(f"trajectories of iteration {batch.items[0].unit.iteration} were lost; they are sampled again")
        with self._changed:
            for item in batch.items:
                if item.scored is not None:
                    item.back_to_start()
            self._new.append(batch)
            self._changed.notify_all()

    def result(self, batch: Batch) -> Rollouts:
        """Wait until the batch is done.

        Raises:
            RunFault, or whatever the workers' code raised: the flow has stopped.
        """
        with self._changed:
            while not batch.done:
                self.check()
                if self._closed:
                    raise RunFault("got no answer from workers that were let go meanwhile; resume the run")
                self._changed.wait(_TICK_S)
        return batch.rollouts()

    def check(self) -> None:
        """Raise what stopped the flow, if anything did."""
        if self._error is not None:
            raise self._error

    def counts(self) -> tuple[int, int, float]:
        """Units that wait, units in flight, and the age of the oldest unfinished one in seconds."""
        open_items = [item for batch in list(self._batches) for item in batch.items if not item.done]
        begun = {attempt.item for attempt in list(self._attempts.values())}
        flying = sum(item in begun for item in open_items)
        oldest = min((item.asked_s for item in open_items), default=self._calls.now())
        return len(open_items) - flying, flying, self._calls.now() - oldest

    def say(self, text: str, about: Attempt | None = None) -> None:
        """Record an event; structured logs name the call that it is about."""
        self.events.append(Event(time.time(), text))
        _log.info("%s", text, extra=_fields(about) if about else {})

    def run(self) -> None:
        """Turn until `close`; what goes wrong reaches whoever waits for a result."""
        try:
            while not self._closed:
                self.step(_TICK_S)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def close(self) -> None:
        """Have `run` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- one turn

    def step(self, timeout_s: float) -> None:
        """Give out work, wait for the next answers, and see to whatever came of them.

        Raises:
            RunFault: system errors beyond what is tolerated, or answers that two workers got wrong alike.
        """
        now = self._calls.now()
        if now - self._looked >= _LOOK_S:
            self._looked, self._draining = now, tuple(self._calls.draining())
        for pool in self.pools.values():
            for said in pool.tend(self._draining):
                self.say(said)
        self._take_in()
        for pool in self.pools.values():
            self._give_out(pool, now)
            self._copy_stragglers(pool, now)
        self._hear(timeout_s)
        self._end_hung()
        self._mention_lack(now)

    def _hear(self, timeout_s: float) -> None:
        """Wait for the next answers: arrivals, signs of life, and calls that are done."""
        pools = self.pools.values()
        arriving = {ref: (pool, member) for pool in pools for ref, member in pool.arriving().items()}
        signs = {ref: (pool, member) for pool in pools for ref, member in pool.awaited(self._means.sign).items()}
        refs = [*self._attempts, *arriving, *signs]
        if not refs:
            with self._changed:
                if not self._new and not self._closed:
                    self._changed.wait(timeout_s)
            return
        for ref in self._calls.wait(refs, timeout_s):
            if ref in arriving:
                self._arrive(*arriving[ref])
            elif ref in signs:
                if signs[ref][1].sign is ref:  # else it is asked anew
                    self._heard(*signs[ref])
            elif ref in self._attempts:  # else its worker was ended meanwhile
                self._finish(ref, self._attempts.pop(ref))

    def _take_in(self) -> None:
        with self._changed:
            while self._new:
                batch = self._new.popleft()
                if batch not in self._batches:
                    self._batches.append(batch)
                for item in batch.items:
                    if not item.done:
                        self._queue(item)
                self._settle(batch)  # of nothing

    def _queue(self, item: Item) -> None:
        queue = self._waiting[item.stage]
        if item not in queue:
            insort(queue, item, key=lambda other: other.order)

    def _give_out(self, pool: Pool, now: float) -> None:
        queue, idle = self._waiting[pool.role], pool.idle()
        for item in list(queue):
            if item.done or item.stage != pool.role or item.probes:  # an earlier call, still under way, brought it on
                queue.remove(item)
                continue
            # Not to the worker whose answer is in doubt.
            fit = [member for member in idle if member is not item.doubted]
            if not fit:
                if item.doubted in idle and not pool.others(item.doubted):  # nobody else will come: make room for one
                    idle.remove(item.doubted)
                    pool.drop(item.doubted)
                continue
            idle.remove(fit[0])
            queue.remove(item)
            self._begin(item, fit[0], now)

    def _copy_stragglers(self, pool: Pool, now: float) -> None:
        if self._waiting[pool.role] or pool.recent_s is None:
            return
        patience_s = max(_PATIENCE * pool.recent_s, _LEAST_PATIENCE_S)
        late = [a for a in self._attempts.values() if a.stage == pool.role and now - a.since > patience_s]
        alone = [attempt for attempt in late if _wanted(attempt) and self._under_way(attempt.item) == 1]
        idle = pool.idle()
        for attempt in sorted(alone, key=lambda a: a.since):
            # A copy at the worker whose answer is in doubt would be no second opinion.
            member = next((m for m in idle if m is not attempt.item.doubted), None)
            if member is None:
                continue
            idle.remove(member)
            self.speculated += 1
            self.say(
                f"{_name(attempt)} is late at {pool.role} worker {attempt.member.number}; {member.number} copies it",
                attempt,
            )
            self._begin(attempt.item, member, now)

    def _begin(self, item: Item, member: Member, now: float) -> None:
        if item.stage == "rollout":
            done, result = self._means.sample(member.actor, item.batch.handle, item.unit)
        else:
            done, result = self._means.score(member.actor, item.unit, item.trajectory)
        member.busy = True
        self._attempts[done] = Attempt(item, item.unit, item.stage, member, result, now)

    def _arrive(self, pool: Pool, member: Member) -> None:
        died = pool.arrived(member)
        if died is not None:
            self.say(f"{pool.role} worker {member.number} died on its way ({died}); another is started")

    def _heard(self, pool: Pool, member: Member) -> None:
        died = pool.lives(member) if member in pool.members else None
        if died is not None:
            self._shake(member)
            self.retries["died"] += 1
            self.say(f"{pool.role} worker {member.number} died while idle ({died}); another is started")

    def _finish(self, ref: Any, attempt: Attempt) -> None:
        item, pool = attempt.item, self.pools[attempt.stage]
        attempt.member.busy = False
        try:
            receipt: Receipt = self._calls.get(ref)
        except SystemFault as fault:
            if fault.lost:
                self._lost(attempt, fault)
            else:
                self._failed(attempt, "died", str(fault))
            return
        pool.inspect(receipt.environment)
        pool.credit(receipt.seconds, attempt.unit.batch)
        self.bytes_moved += receipt.moved
        item.batch.seconds[attempt.stage] += receipt.seconds
        if not _wanted(attempt) or (receipt.flaw is not None and not self._believed(attempt, receipt.flaw)):
            return
        if receipt.flaw is None:
            self._expose(item.doubted, attempt)
        item.advance(attempt.result, receipt.scored)
        if not item.done:
            self._queue(item)
        elif item.parent is not None:
            self._queue_all(probed(item))
        else:
            self._settle(item.batch)

    def _settle(self, batch: Batch) -> None:
        if batch.done:
            with self._changed:
                if batch in self._batches:
                    self._batches.remove(batch)
                self._changed.notify_all()

    def _queue_all(self, items: Sequence[Item]) -> None:
        for item in items:
            self._queue(item)
        for batch in list(self._batches):  # a unit may have ended with nothing left of it
            self._settle(batch)

    # --- what goes wrong

    def _failed(self, attempt: Attempt, reason: str, text: str) -> None:
        """The worker is gone, or as good as: its unit goes to another."""
        pool, item = self.pools[attempt.stage], attempt.item
        if attempt.member in pool.members:
            pool.drop(attempt.member)
        if reason == "died":
            self._shake(attempt.member)
        self.retries[reason] += 1
        self.say(f"{attempt.stage} worker {attempt.member.number} {reason} with {_name(attempt)} ({text})", attempt)
        if not _wanted(attempt):
            return
        item.failures.append(f"{attempt.stage} worker {reason}: {text}")
        if not item.exhausted:
            if not self._under_way(item):
                self._queue(item)
            return
        aside = len(item.batch.set_aside)
        self._queue_all(suspect(item))
        if len(item.batch.set_aside) > aside:
            self.say(f"set aside prompts {sorted(item.batch.set_aside)}: {item.batch.set_aside}")

    def _shake(self, dead: Member) -> None:
        """Its node may be gone, and the idle workers there with it: no unit goes to them, and fails, one by one."""
        for pool in self.pools.values():
            pool.shake(dead.node)

    def _lost(self, attempt: Attempt, fault: SystemFault) -> None:
        """The trajectory died with its node; the worker that was to score it is well."""
        item = attempt.item
        if not _wanted(attempt):
            return
        self.retries["lost"] += 1
        item.losses += 1
        if item.losses == _LOSSES:
            raise given_up(_name(attempt), [str(fault)])
        self.say(f"the trajectory of {_name(attempt)} was lost; it is sampled again", attempt)
        item.back_to_start()
        self._queue(item)

    def _believed(self, attempt: Attempt, flaw: Flaw) -> bool:
        """Whether an unsound answer has to be taken for what the code comes to; else it is asked for again."""
        item, pool = attempt.item, self.pools[attempt.stage]
        if flaw.of_numbers and (item.unsound or item.batch.acquitted >= _ACQUITTALS):
            return True
        if item.doubted is None or item.doubted is attempt.member:
            self.retries["unsound"] += 1
            self.say(
                f"{_name(attempt)}: {flaw.text}, from {attempt.stage} worker {attempt.member.number}; asking another",
                attempt,
            )
            item.doubted = attempt.member
            if pool.wanted == 1:
                pool.drop(attempt.member)
            self._queue(item)
            return False
        if not flaw.of_numbers:
            raise RunFault(
                f"{_name(attempt)}: {flaw.text}, from two workers alike; want what rl_motion/protocols.py says; "
                "mend the policy's or the reward's code, and resume the run"
            )
        item.batch.acquitted += 1
        item.unsound = True
        return True

    def _expose(self, doubted: Member | None, attempt: Attempt) -> None:
        """A sound answer where another worker's was not: that one computes wrongly."""
        pool = self.pools[attempt.stage]
        if doubted is None or doubted is attempt.member or doubted not in pool.members:
            return
        self.say(f"{attempt.stage} worker {doubted.number} answered wrongly where another did not; it is replaced")
        pool.drop(doubted)
        for ref in [ref for ref, other in self._attempts.items() if other.member is doubted]:
            other = self._gone(ref)  # no fault of the unit that it holds now
            if _wanted(other) and not self._under_way(other.item):
                self._queue(other.item)

    def _end_hung(self) -> None:
        now = self._calls.now()
        for ref in [ref for ref, attempt in self._attempts.items() if now - attempt.since > self._deadline_s]:
            text = f"no answer within {self._deadline_s:g} s, runtime.deadline_s"
            self._failed(self._gone(ref), "hung", text)
        for pool in self.pools.values():
            for member in [m for m in pool.members if m.shaken and now - m.shaken > self._deadline_s]:
                pool.drop(member)
                self.retries["hung"] += 1
                self.say(f"{pool.role} worker {member.number} gave no sign of life; another is started")

    def _gone(self, ref: Any) -> Attempt:
        attempt = self._attempts.pop(ref)
        attempt.member.busy = False
        return attempt

    def _under_way(self, item: Item) -> int:
        """How many calls may still bring it on."""
        return sum(attempt.item is item and _wanted(attempt) for attempt in self._attempts.values())

    def _mention_lack(self, now: float) -> None:
        lacking = [p.role for p in self.pools.values() if self._waiting[p.role] and all(m.arriving for m in p.members)]
        if not lacking:
            self._said = now
        elif now - self._said > SAY_S:
            self._said = now
            _log.warning("waiting for %s workers: the cluster has no place for one yet; see `ray status`", lacking)


def _wanted(attempt: Attempt) -> bool:
    """Whether the item still waits for this: no copy was faster, and it is about the same prompts."""
    item = attempt.item
    return not item.done and item.stage == attempt.stage and item.unit is attempt.unit and not item.probes


def _fields(attempt: Attempt) -> dict[str, object]:
    """For structured logs (logs.py)."""
    unit, member = attempt.unit, attempt.member
    return {"iteration": unit.iteration, "unit": unit.index, "role": attempt.stage, "worker": member.number}


def _name(attempt: Attempt) -> str:
    return f"unit {attempt.unit.index} of iteration {attempt.unit.iteration}"
