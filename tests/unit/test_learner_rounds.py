"""Learners that share an update: however many, the same bits; and they fail together, unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from rl_motion.algorithms import DDPO
from rl_motion.config import AlgorithmConfig, AuditError, PolicyConfig, RunFault, TrainConfig
from rl_motion.learner import Learner, Rounds, together
from rl_motion.policies import DiffusionPolicy
from rl_motion.prompts.pool import make_prompt
from rl_motion.protocols import Algorithm, MotionPolicy
from rl_motion.runtime.workers import LearnerWorker, Turn
from rl_motion.types import Experience, Metrics, Trajectory, Unit, UnitGradient
from tests import fakes
from tests.token_toy import TokenPolicy
from tests.toy_policy import toy_policy, toy_unit

SETTINGS = AlgorithmConfig(inner_epochs=2, kl_weight=0.01, kl_target=1e-4)
TRAIN = TrainConfig(learning_rate=2e-2, units_per_step=3, ema_decay=0.8, max_grad_norm=0.1)
Hear = Callable[[list[list[UnitGradient]]], list[UnitGradient]]
"""From what each learner says to what all of them hear."""


def make() -> tuple[DiffusionPolicy, Learner]:
    policy, _ = toy_policy(PolicyConfig(steps=5), features=2)
    return policy, Learner(policy, DDPO(SETTINGS), TRAIN)


def sample(policy: DiffusionPolicy, iteration: int, units: int) -> list[Experience]:
    """Units of different sizes, with advantages of no particular mean."""
    batch = []
    for index in range(units):
        unit = toy_unit(prompts=2 + index % 2, samples=3 + index, index=index, iteration=iteration)
        generator = torch.Generator().manual_seed(100 * iteration + index)
        advantage_B = torch.randn(unit.batch, generator=generator)
        batch.append(Experience(policy.rollout(unit), advantage_B, advantage_B))
    return batch


def units_of(batch: Sequence[Experience]) -> list[Unit]:
    return [experience.trajectory.unit for experience in batch]


def everything(said: list[list[UnitGradient]]) -> list[UnitGradient]:
    return [gradient for part in said for gradient in part]


def lockstep(learners: Sequence[Rounds], hear: Hear) -> list[Metrics]:
    """`together`, with something in between."""
    said = [next(learner) for learner in learners]
    results: list[Metrics] = []
    while not results:
        heard, said = hear(said), []
        for learner in learners:
            try:
                said.append(learner.send(heard))
            except StopIteration as end:
                results.append(end.value)
    return results


def train(ranks: int, units: int, hear: Hear | None = None) -> tuple[dict[str, Tensor], list[Metrics]]:
    """Three iterations; learner r has every `ranks`-th unit."""
    made = [make() for _ in range(ranks)]
    history = []
    for iteration in range(3):
        batch = sample(made[0][0], iteration, units)
        rounds = [learner.rounds(units_of(batch), batch[rank::ranks]) for rank, (_, learner) in enumerate(made)]
        metrics = together(rounds) if hear is None else lockstep(rounds, hear)
        assert all(found == metrics[0] for found in metrics)
        history.append(metrics[0])
    states = [learner.state_dict_tensors() for _, learner in made]
    assert all(same(state, states[0]) for state in states)
    return states[0], history


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("units", [1, 2, 3, 5])
def test_any_number_of_learners_gives_the_same_bits(ranks: int, units: int) -> None:
    """Adapter, moments, average, KL weight and metrics: also with fewer units than learners, and with a rest."""
    alone, shared = train(1, units), train(ranks, units)
    assert same(alone[0], shared[0])
    assert alone[1] == shared[1]


def test_gradients_may_arrive_in_any_order() -> None:
    assert same(train(2, 5)[0], train(2, 5, lambda said: everything(said)[::-1])[0])


def sum_of_each_learner(said: list[list[UnitGradient]]) -> list[UnitGradient]:
    """What an all-reduce adds: each learner's sum, in the place of its first unit."""
    heard = []
    for part in said:
        for position, gradient in enumerate(part):
            added = {
                name: torch.stack([other.gradient[name] for other in part]).sum(dim=0) * (position == 0)
                for name in gradient.gradient
            }
            heard.append(dataclasses.replace(gradient, gradient=added))
    return heard


def mean_over_learners(said: list[list[UnitGradient]]) -> list[UnitGradient]:
    """What DistributedDataParallel does with each learner's own mean: fewer rows weigh more."""
    rows = sum(gradient.unit.batch for gradient in everything(said))
    heard = []
    for part in filter(None, said):
        factor = rows / (len(said) * sum(gradient.unit.batch for gradient in part))
        scaled = [{name: factor * tensor for name, tensor in gradient.gradient.items()} for gradient in part]
        heard += [dataclasses.replace(g, gradient=added) for g, added in zip(part, scaled, strict=True)]
    return heard


@pytest.mark.parametrize("hear", [sum_of_each_learner, mean_over_learners])
def test_control_other_ways_to_add_would_be_seen(hear: Hear) -> None:
    """Negative control: three units on two learners, added as others add them."""
    assert not same(train(1, 3)[0], train(2, 3, hear)[0])


def test_the_bits_are_those_of_backward_into_one_gradient() -> None:
    """Computing each unit's gradient from zero and adding them is what `backward` does when it accumulates."""
    policy, learner = make()
    batch = sample(policy, 0, 5)
    plain, _ = make()
    parameters, algorithm = plain.adapter_parameters(), DDPO(SETTINGS)
    optimizer = torch.optim.Adam(parameters.values(), lr=2e-2, betas=(0.9, TRAIN.adam_beta2))
    for _ in range(SETTINGS.inner_epochs):
        for chunk in (batch[:3], batch[3:]):
            rows = sum(experience.trajectory.unit.batch for experience in chunk)
            for experience in chunk:
                (algorithm.loss(plain, experience)[0] * (experience.trajectory.unit.batch / rows)).backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), TRAIN.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    learner.step(batch)
    assert same(policy.adapter_state(), plain.adapter_state())


@pytest.mark.parametrize("wrong", [lambda said: everything(said)[1:], lambda said: everything(said) + said[0]])
def test_a_unit_of_nobody_s_or_of_two_learners_is_refused(wrong: Hear) -> None:
    with pytest.raises(ValueError, match=r"want \[0, 1, 2\]; give every unit to exactly one learner"):
        train(2, 3, wrong)


class Faulty:
    """DDPO, but one unit fails in the second pass: when both learners have already made a step."""

    def __init__(self, unit: int, error: Exception | None = None) -> None:
        self._ddpo = DDPO(SETTINGS)
        self._unit, self._error, self._seen = unit, error, 0
        self.needs, self.inner_epochs, self.state = self._ddpo.needs, self._ddpo.inner_epochs, self._ddpo.state
        self.parameters, self.reads = self._ddpo.parameters, self._ddpo.reads
        self.adapt = self._ddpo.adapt

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        for loss, metrics in self._ddpo.losses(policy, batch):
            mine = batch.trajectory.unit.index == self._unit
            self._seen += mine
            if mine and self._seen == 2 and self._error:
                raise self._error
            yield loss * (torch.nan if mine and self._seen == 2 else 1.0), metrics


def two_learners(error: Exception | None) -> tuple[list[Learner], list[Rounds]]:
    """Unit 1, which fails, is the second learner's."""
    made = []
    for rank in range(2):
        policy, _ = toy_policy(PolicyConfig(steps=5), features=2)
        strict = TRAIN.model_copy(update={"max_skipped_steps": 1})
        made.append((policy, Learner(policy, Faulty(1, error) if rank else DDPO(SETTINGS), strict)))
    batch = sample(made[0][0], 0, 3)
    learners = [learner for _, learner in made]
    return learners, [learner.rounds(units_of(batch), batch[r::2]) for r, learner in enumerate(learners)]


def test_one_skipped_step_too_many_stops_every_learner_alike() -> None:
    learners, rounds = two_learners(None)
    before = [learner.state_dict_tensors() for learner in learners]
    said = everything([next(rank) for rank in rounds])
    # Nobody has a second loss, and with that the second pass begins.
    assert everything([rank.send(said) for rank in rounds]) == []
    said = everything([rank.send([]) for rank in rounds])
    assert not same(learners[0].state_dict_tensors(), before[0])
    messages = []
    for rank in rounds:
        with pytest.raises(RunFault, match="loss nan in iteration 0, unit 1") as caught:
            rank.send(said)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert all(same(learner.state_dict_tensors(), old) for learner, old in zip(learners, before, strict=True))


def test_a_bug_in_one_learner_undoes_the_update_of_all() -> None:
    learners, rounds = two_learners(ValueError("a bug"))
    before = [learner.state_dict_tensors() for learner in learners]
    with pytest.raises(ValueError, match="a bug"):
        together(rounds)
    assert all(same(learner.state_dict_tensors(), old) for learner, old in zip(learners, before, strict=True))


def test_every_learner_audits_its_own_units_and_all_stop() -> None:
    made = [make() for _ in range(2)]
    batch = sample(made[0][0], 0, 2)
    trajectory = batch[1].trajectory
    broken = dataclasses.replace(trajectory, log_prob_BS=trajectory.log_prob_BS + 1e-12)
    batch[1] = dataclasses.replace(batch[1], trajectory=broken)
    before = made[0][1].state_dict_tensors()
    with pytest.raises(AuditError, match="unit 1"):
        together([learner.rounds(units_of(batch), batch[rank::2]) for rank, (_, learner) in enumerate(made)])
    assert all(same(learner.state_dict_tensors(), before) for _, learner in made)


def workers(count: int) -> tuple[list[LearnerWorker], list[Trajectory]]:
    torch.set_num_threads(1)
    job = fakes.toy_job()
    made = [LearnerWorker(job, fakes.WORKSHOP) for _ in range(count)]
    policy = fakes.policy(job)
    return made, [policy.rollout(unit) for unit in fakes.pool(job).draw(0, job.train)]


REWARDS = [torch.randn(4, generator=torch.Generator().manual_seed(index)) for index in range(4)]


def begun(made: list[LearnerWorker], trajectories: list[Trajectory]) -> list[Turn]:
    units = [trajectory.unit for trajectory in trajectories]
    behaviour = workers(1)[0][0].prepare().behaviour
    return [
        worker.begin(behaviour, units, REWARDS, *trajectories[rank :: len(made)]) for rank, worker in enumerate(made)
    ]


def test_workers_share_an_update_and_one_left_in_the_middle_is_undone() -> None:
    (alone,), trajectories = workers(1)
    want = alone.learn(alone.prepare().behaviour, REWARDS, *trajectories)
    made, _ = workers(2)
    begun(made, trajectories)
    turns = begun(made, trajectories)
    turns = [worker.proceed(*(gradients for _, gradients in turns)) for worker in made]
    assert turns == [(None, []), (None, [])]  # nobody has another loss
    ended = [worker.proceed([], []) for worker in made]
    assert ended[0] == ended[1] == (hashlib.sha256(want.snapshot.state).hexdigest(), [])
    for worker in made:
        assert worker.learned() == want


def test_a_round_of_no_update_is_refused() -> None:
    (worker,), _ = workers(1)
    with pytest.raises(ValueError, match="call begin first"):
        worker.proceed([])


def packed(policy: MotionPolicy, algorithm: Algorithm, units: Sequence[Unit]) -> tuple[Tensor, Metrics, list[int]]:
    """The gradient of one optimiser step over all of these units, its metrics, and how much each unit drew."""
    batch = []
    for unit in units:
        reward_B = torch.tensor([len(p.text) % 3 + row % 4 - 2.0 for row, p in enumerate(unit.row_prompts)])
        batch.append(Experience(policy.rollout(unit), reward_B, reward_B))
    rounds = Learner(policy, algorithm, TrainConfig(units_per_step=2)).rounds(units_of(batch), batch)
    said = next(rounds)
    names = said[0].gradient
    gradient = torch.cat([sum(part.gradient[name] for part in said).flatten() for name in names])
    rounds.send(said)
    with pytest.raises(StopIteration) as end:
        rounds.send([])
    return gradient, end.value.value, [int(experience.trajectory.drawn_BS.sum()) for experience in batch]


class MeanOfDrawn(DDPO):
    """Negative control: divided by what the unit drew."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        loss, metrics = self.loss(policy, batch)
        drawn_BS = batch.trajectory.drawn_BS
        yield loss * (drawn_BS.numel() / drawn_BS.sum()), metrics


@pytest.mark.parametrize(
    ("kind", "tokens", "alike"), [(DDPO, True, True), (DDPO, False, True), (MeanOfDrawn, True, False)]
)
def test_how_prompts_are_packed_into_units_changes_no_gradient(kind: type[DDPO], tokens: bool, alike: bool) -> None:
    prompts = (make_prompt("a", 8), make_prompt("a person does thing number 3 and much more of it", 8))
    one = [Unit(0, 0, 0, prompts, 8)]
    two = [Unit(0, 0, index, (prompt,), 8) for index, prompt in enumerate(prompts)]
    found = []
    for units in (one, two):
        policy = TokenPolicy() if tokens else toy_policy(PolicyConfig(steps=4), features=2)[0]
        algorithm = kind(AlgorithmConfig(balance="none", kl_weight=0.1))
        found.append(packed(policy, algorithm, units))
    (whole, metrics, _), (parts, others, drawn) = found
    assert (drawn[0] != drawn[1]) == tokens
    relative = float((whole - parts).norm() / whole.norm())
    assert relative < 1e-5 if alike else relative > 1e-3
    assert metrics["policy/kl"] == pytest.approx(others["policy/kl"], rel=1e-5)


def test_a_step_that_no_row_of_a_unit_has_does_not_count_in_its_mean() -> None:
    policy = TokenPolicy()
    batch = []
    for index, steps in enumerate((4, 2)):
        trajectory = policy.rollout(toy_unit(prompts=2, index=index))
        drawn_BS = trajectory.drawn_BS & (torch.arange(4) < steps)
        log_prob_BS = torch.where(drawn_BS, trajectory.log_prob_BS, 0.0)
        trajectory = dataclasses.replace(trajectory, drawn_BS=drawn_BS, log_prob_BS=log_prob_BS)
        batch.append(Experience(trajectory, torch.ones(8), torch.ones(8)))
    algorithm = DDPO(AlgorithmConfig(balance="none"))
    alone = algorithm.loss(policy, batch[0])[1]
    metrics = Learner(policy, algorithm, TrainConfig(units_per_step=2)).step(batch)
    assert metrics["policy/kl_s03"] == pytest.approx(alone["policy/kl_s03"])
    assert alone["policy/kl_s03"] > 0.0
