"""The model of a run against what can be worked out by hand, and against the real flow with simulated workers."""

import sys
from dataclasses import replace

import pytest

from rl_motion.runtime.sound import Receipt
from tests.unit.test_flow import BEHAVIOUR, ENVIRONMENT, Cluster, finish, make_flow, units


@pytest.fixture(scope="module")
def simulation(root):
    sys.path.append(str(root / "jobs" / "bench"))
    try:
        import simulation

        yield simulation
    finally:
        sys.path.remove(str(root / "jobs" / "bench"))


def test_rollouts_come_in_waves_and_the_update_follows(simulation):
    """4 workers, 10 units of 2 s: three waves; the last reward, and one learner's 10 units, after them."""
    s = simulation
    found = s.simulate(s.Pools(4, 1, 1), s.Work(2.0, 0.1, 0.3), s.Costs(), s.Plan(10))
    # Two units are in the last wave: the second one's reward waits for the first one's.
    assert found.iteration_s == pytest.approx(3 * 2.0 + 2 * 0.1 + 10 * 0.3)
    assert found.busy["rollout"] == pytest.approx(20 / 9.2 / 4)
    assert found.motions_per_gpu_s == pytest.approx(320 / 9.2 / 6)
    assert found.efficiency == pytest.approx(10 * 2.4 / 9.2 / 6)


def test_one_step_off_takes_as_long_as_the_slower_half(simulation):
    s = simulation
    plan = s.Plan(8, lag=1, iterations=12)
    rollouts = s.simulate(s.Pools(4, 4, 1), s.Work(1.0, 0.01, 0.1), s.Costs(), plan)
    assert rollouts.iteration_s == pytest.approx(2.0, rel=0.01)
    assert rollouts.busy["rollout"] == pytest.approx(1.0, rel=0.02)
    learner = s.simulate(s.Pools(4, 4, 1), s.Work(1.0, 0.01, 0.5), s.Costs(), plan)
    assert learner.iteration_s == pytest.approx(4.0, rel=0.01)
    assert s.limited_by(learner) == "learner"


def test_every_cost_counts(simulation):
    """Each alone, on one rollout worker and one unit after another, whose iteration can be added up."""
    s = simulation
    pools, work, plan = s.Pools(1, 1, 1), s.Work(1.0, 0.5, 0.25), s.Plan(1)
    bare = s.simulate(pools, work, s.Costs(), plan).iteration_s
    assert bare == pytest.approx(1.75)
    # A unit has two calls: one to be sampled, one to be scored, heard of in a turn each.
    costs = s.Costs(turn_s=0.01, watched_s=0.02, answer_s=0.04, latency_s=0.08, update_s=0.16, fetch_s=0.32)
    whole = s.simulate(pools, work, costs, plan).iteration_s
    assert whole == pytest.approx(bare + 2 * (0.01 + 0.02 + 0.04 + 0.08) + 0.16 + 0.32)
    assert s.simulate(pools, work, s.without(costs, "update_s"), plan).iteration_s == pytest.approx(whole - 0.16)


def test_several_learners_share_the_work_and_read_all_gradients(simulation):
    s = simulation
    costs, plan = s.Costs(step_s=0.5, exchange_s=0.1), s.Plan(8, steps=2)
    assert s.update_seconds(s.Pools(1, 1, 1), s.Work(1, 1, 1), costs, plan) == 8.0
    # Two steps of four units on two learners: two units of work, the gradients of the two others.
    assert s.update_seconds(s.Pools(1, 1, 2), s.Work(1, 1, 1), costs, plan) == pytest.approx(2 * (2 + 0.5 + 0.2))
    # No more than there are units in a step.
    assert s.update_seconds(s.Pools(1, 1, 9), s.Work(1, 1, 1), costs, plan) == pytest.approx(2 * (1 + 0.5 + 0.3))


def test_a_driver_that_is_too_slow_is_what_bends(simulation):
    s = simulation
    work = s.Work(1.0, 0.05, 0.02)
    slow = s.Costs(answer_s=1e-3)
    case = s.Case("slow driver", work, slow, reward_per=10, learner_per=10)
    sizes = [16, 64, 256, 1024]
    assert s.bend(case, sizes) == 256  # as many answers at once take a quarter of a unit's second
    assert s.limited_by(case.outcome(1024)) == "driver"
    # 4096 units of two calls each pass through it one by one.
    assert case.outcome(1024).iteration_s > 4096 * 2 * 1e-3
    assert case.outcome(1024).busy["driver"] > 0.8
    assert s.bend(replace(case, costs=s.without(slow, "answer_s")), sizes) is None


def test_spread_keeps_the_mean_and_costs_the_last_wave(simulation):
    s = simulation
    plan = s.Plan(64, iterations=40)
    even = s.simulate(s.Pools(16, 4, 1), s.Work(1.0, 0.01, 0.0), s.Costs(), plan)
    uneven = s.simulate(s.Pools(16, 4, 1), s.Work(1.0, 0.01, 0.0, spread=0.3), s.Costs(), plan)
    worked = uneven.busy["rollout"] * uneven.iteration_s * 16 / 64
    assert worked == pytest.approx(1.0, rel=0.02)
    assert uneven.iteration_s > 1.05 * even.iteration_s


def test_gpus_are_dealt_out_as_work_is(simulation):
    s = simulation
    work = s.Work(1.0, 0.1, 0.4)
    assert s.shared_out(15, work, one_step_off=True) == s.Pools(10, 1, 4)
    assert s.shared_out(3, work, one_step_off=True) == s.Pools(1, 1, 1)
    with pytest.raises(ValueError, match="3 at least"):
        s.shared_out(2, work, one_step_off=True)

    def seconds(pools):
        """Without waves: what the square roots are derived from."""
        return (work.rollout_s + work.reward_s) / (pools.rollout + pools.reward) + work.learn_s / pools.learner

    best = s.shared_out(60, work, one_step_off=False)
    for other in (-2, 2):
        moved = s.Pools(best.rollout - other, best.reward, best.learner + other)
        assert seconds(best) <= seconds(moved)


@pytest.mark.parametrize("lag", [0, 1])
def test_the_real_flow_takes_what_the_model_says(simulation, lag):
    """`Flow` with workers that answer on a clock of their own, through the same asks as the loop's."""
    s = simulation
    rollout, reward, units, iterations = 5, 2, 12, 8
    work, update_s = s.Work(2.0, 0.3, 0.0, spread=0.0), 4.0
    ends = flow_seconds(rollout, reward, units, iterations, work, update_s, lag)
    got = (ends[iterations - lag] - ends[s.WARM]) / (iterations - lag - s.WARM)
    plan = s.Plan(units, lag=lag, iterations=iterations)
    want = s.simulate(s.Pools(rollout, reward, 1), work, s.Costs(update_s=update_s), plan).iteration_s
    assert got == pytest.approx(want, rel=0.02)


class Timed(Cluster):
    """Workers who take the same time for every unit of a stage."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def _call(self, stage, actor, unit, result):
        seconds = self.work.rollout_s if stage == "rollout" else self.work.reward_s
        return self._answer(actor, seconds, Receipt(ENVIRONMENT, seconds, None, 1, result))


def flow_seconds(rollout, reward, count, iterations, work, update_s, lag):
    """When the iterations of a loop around the real flow end: asks, waits and updates as runtime/loop.py does."""
    cluster = Timed(work)
    flow = make_flow(cluster, rollout=rollout, reward=reward)
    while (
        any(member.arriving for pool in flow.pools.values() for member in pool.members)
        or not flow.pools["rollout"].members
    ):
        flow.step(1.0)
    ahead, ends = [], [cluster.clock]
    for iteration in range(iterations):
        while len(ahead) <= lag and iteration + len(ahead) < iterations:
            ahead.append(flow.ask(units(count, prompts=1, iteration=iteration + len(ahead)), BEHAVIOUR))
        finish(flow, ahead.pop(0))
        learned = cluster.clock + update_s
        while cluster.clock < learned:
            if not any(flow.counts()[:2]):  # the flow would wait for real
                cluster.clock = learned
            flow.step(min(learned - cluster.clock, 1.0))
        ends.append(cluster.clock)
    return ends
