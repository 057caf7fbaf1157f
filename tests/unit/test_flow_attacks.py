"""Constellations that broke the flow once, and storms of all mishaps with batches sampled again in between."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rl_motion.config import RunFault
from rl_motion.runtime.flow import Flow
from rl_motion.runtime.pool import SystemFault
from rl_motion.runtime.ray_backend import RayBackend
from rl_motion.runtime.sound import Flaw
from rl_motion.runtime.units import Batch
from rl_motion.types import Unit
from tests.unit.test_flow import BEHAVIOUR, Actor, Cluster, Ref, check, finish, idle, make_flow, scored, strike, units

NAN = Flaw("not finite", True)
Change = Callable[[int, Actor, Unit, Ref], None]
"""(which rollout call this is, its worker, its unit, its answer, which may be changed)."""


def experienced(cluster: Cluster, rollout: int = 2) -> Flow:
    """A flow whose workers are there and idle, and whose calls' usual seconds are known."""
    flow = make_flow(cluster, rollout=rollout, reward=1)
    finish(flow, flow.ask(units(4), BEHAVIOUR))
    idle(flow, cluster, 10)
    return flow


def change_rollouts(cluster: Cluster, change: Change) -> list[int]:
    """Change answers of rollout calls from now on; returns the workers that are called, as they are."""
    make, called = cluster._call, []

    def call(stage: str, actor: Actor, unit: Unit, result: Any) -> Ref:
        ref = make(stage, actor, unit, result)
        if stage == "rollout":
            called.append(actor.number)
            change(len(called), actor, unit, ref)
        return ref

    cluster._call = call  # type: ignore[method-assign]
    return called


def wrong(ref: Ref) -> None:
    ref.value = replace(ref.value, flaw=NAN)


def test_a_straggler_that_is_doubted_while_its_copy_is_under_way() -> None:
    """The copy brings the unit on: it must not be given out a second time, to a worker of the other kind."""
    cluster = Cluster()
    flow = experienced(cluster)

    def change(call: int, actor: Actor, unit: Unit, ref: Ref) -> None:
        if call == 1:
            ref.at = cluster.clock + 10.0
            wrong(ref)
        elif call == 2:
            ref.at = cluster.clock + 20.0

    change_rollouts(cluster, change)
    asked = units(1, iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    check(batch, asked)
    idle(flow, cluster, 30)
    assert not any(flow._waiting.values())


def test_a_worker_is_no_second_opinion_on_itself() -> None:
    cluster = Cluster()
    flow = experienced(cluster)
    broken: list[int] = []

    def change(call: int, actor: Actor, unit: Unit, ref: Ref) -> None:
        broken.append(actor.number)
        if actor.number == broken[0]:
            wrong(ref)
        else:
            ref.at = cluster.clock + 20.0  # late: a copy would go to the broken one, which is free

    change_rollouts(cluster, change)
    asked = units(1, iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    assert not batch.items[0].unsound
    check(batch, asked)


@pytest.mark.parametrize("how", ["the pool shrinks", "the other never arrives"])
def test_a_doubt_with_nobody_else_to_ask_makes_room_for_somebody(how: str) -> None:
    cluster = Cluster()
    flow = make_flow(cluster, rollout=2, reward=1)
    flow.step(0.0)
    if how == "the other never arrives":
        flow.pools["rollout"].members[1].arriving.at = float("inf")
    finish(flow, flow.ask(units(4), BEHAVIOUR))
    idle(flow, cluster, 10)

    def change(call: int, actor: Actor, unit: Unit, ref: Ref) -> None:
        if call == 1:
            wrong(ref)
            if how == "the pool shrinks":
                flow.pools["rollout"].wanted = 1

    change_rollouts(cluster, change)
    asked = units(1, iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch, turns=3000)
    check(batch, asked)


def test_confirmed_nan_of_one_batch_clears_no_worker_in_the_next() -> None:
    def trouble(stage: str, actor: Actor, unit: Unit) -> str | None:
        own = unit.iteration == 0 and unit.index < 3
        broken = unit.iteration == 1 and actor.number == 1
        return "numbers" if stage == "reward" and (own or broken) else None

    flow = make_flow(Cluster(trouble=trouble))
    finish(flow, flow.ask(units(), BEHAVIOUR))
    asked = units(iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    check(batch, asked)


@pytest.mark.parametrize("prompts", [1, 2, 4])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_lost_node_full_of_idle_workers_blames_no_prompt(prompts: int, nodes: int) -> None:
    """A unit must not go from one dead worker to the next, and be set aside for it."""
    cluster = Cluster(nodes=nodes)
    flow = make_flow(cluster, rollout=32, reward=2)
    finish(flow, flow.ask(units(40, prompts=prompts), BEHAVIOUR))
    idle(flow, cluster, 7)
    cluster.lose_node(flow.pools["rollout"].members[0].node)
    asked = units(2, prompts=prompts, iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    assert not batch.set_aside
    check(batch, asked)


def test_a_prompt_set_aside_while_a_batch_is_sampled_again_takes_its_rewards_along() -> None:
    asked = units()
    poison, poisoned = asked[3].prompts[1].id, [False]

    def trouble(stage: str, actor: Actor, unit: Unit) -> str | None:
        return "died" if poisoned[0] and stage == "rollout" and poison in {p.id for p in unit.prompts} else None

    flow = make_flow(Cluster(trouble=trouble))
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    poisoned[0] = True
    flow.again(batch)
    finish(flow, batch)
    asked[3] = replace(asked[3], prompts=asked[3].prompts[:1])
    check(batch, asked)


def test_nothing_asked_for_is_done_at_once_and_kept_nowhere() -> None:
    flow = make_flow(Cluster())
    batch = flow.ask([], BEHAVIOUR)
    flow.step(0.0)
    assert batch.done and not flow._batches


def test_who_waits_when_the_flow_is_closed_is_told() -> None:
    flow = make_flow(Cluster())
    batch = flow.ask(units(), BEHAVIOUR)
    said: list[BaseException] = []

    def wait() -> None:
        try:
            flow.result(batch)
        except RunFault as fault:
            said.append(fault)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    flow.close()
    waiting.join(5.0)
    assert len(said) == 1


def test_answers_that_nobody_learns_from_are_not_held() -> None:
    """Those of validation: held, their trajectories would fill the object store within a day."""
    cluster = Cluster()
    flow = make_flow(cluster)
    backend: Any = object.__new__(RayBackend)
    backend._flow, backend._answered = flow, None
    answers = []
    for iteration in range(3):
        answer = backend.ask(units(iteration=iteration), BEHAVIOUR)
        finish(flow, *flow._new, *flow._batches)
        answers.append(answer())
    assert backend._answered[0] is answers[-1] and not flow._batches
    with pytest.raises(ValueError, match="want these; learn before the next answer"):
        backend.learn(answers[0])


def test_prompts_that_turn_out_poisoned_when_trajectories_are_sampled_again_end_the_process_not_the_count() -> None:
    cluster = Cluster()
    flow = make_flow(cluster)
    asked = units()
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)

    class Learners:
        def learn(self, *_: Any) -> Any:
            raise SystemFault("object lost", lost=True)

    backend: Any = object.__new__(RayBackend)
    backend._flow, backend._learners = flow, Learners()
    rollouts = flow.result(batch)
    backend._answered = rollouts, batch
    again = flow.again

    def poisoned(lost: Batch) -> None:
        again(lost)
        lost.set_aside["x"] = "it dies"
        finish(flow, lost)

    flow.again = poisoned  # type: ignore[method-assign]
    with pytest.raises(RunFault, match=r"got prompts that no worker survives, \['x'\], .*resume the run"):
        backend.learn(rollouts)


def test_a_worker_that_is_exposed_takes_no_blame_to_the_unit_it_holds() -> None:
    cluster = Cluster()
    flow = experienced(cluster)
    held: list[Unit] = []

    def change(call: int, actor: Actor, unit: Unit, ref: Ref) -> None:
        if actor.number == 1 and call == 1:
            wrong(ref)
        elif actor.number == 1:
            held.append(unit)
            ref.at = cluster.clock + 30.0

    change_rollouts(cluster, change)
    asked = units(4, iteration=1)
    batch = flow.ask(asked, BEHAVIOUR)
    finish(flow, batch)
    check(batch, asked)
    assert held and all(not item.failures for item in batch.items)
    assert flow.retries == {"unsound": 1}


def see_through(flow: Flow, batch: Batch) -> None:
    """Until it is done, looked at in every turn."""
    for _ in range(6000):
        if batch.done:
            return
        flow.step(5.0 if flow._attempts else 0.01)
        flow.counts()
        assert [pool.status().role for pool in flow.pools.values()] == ["rollout", "reward"]
    raise AssertionError(f"the flow hangs: {flow._waiting}")


@pytest.mark.parametrize("seed", range(100))
def test_storms_with_batches_in_flight_and_sampled_again(seed: int) -> None:
    chance = random.Random(seed)
    rate, kinds = chance.choice([0.0, 0.05, 0.15]), ["died", "hung", "late", "numbers", "numbers", "late"]
    cluster = Cluster(seed, trouble=lambda *_: chance.choice(kinds) if chance.random() < rate else None)
    flow = make_flow(cluster, rollout=chance.randint(1, 5), reward=chance.randint(1, 3))
    lag, waiting = chance.randint(0, 3), deque[Batch]()
    try:
        for iteration in range(6):
            while len(waiting) <= lag and iteration + len(waiting) < 6:
                waiting.append(flow.ask(units(iteration=iteration + len(waiting)), BEHAVIOUR))
            for _ in range(chance.randint(0, 3)):
                cluster.soon(cluster.clock + chance.uniform(0.0, 15.0), strike(chance, cluster, flow))
            batch = waiting.popleft()
            see_through(flow, batch)
            for _ in range(chance.choice([0, 0, 1, 2])):
                idle(flow, cluster, chance.randint(0, 5))
                flow.again(batch)
                see_through(flow, batch)
            rollouts = batch.rollouts()
            for unit, got, trajectory in zip(rollouts.units, rollouts.scored, rollouts.trajectories, strict=True):
                assert trajectory.value[0] == unit
                assert got.total_B.isnan().any() or torch.equal(got.total_B, scored(unit).total_B)
    except RunFault as fault:  # by chance a unit met all that a poisoned one does
        assert "failed 4 times" in str(fault) or "no worker survives" in str(fault)
        return
    idle(flow, cluster, 300)
    assert not flow._batches and not flow._attempts and not any(flow._waiting.values())
