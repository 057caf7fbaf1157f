"""Algorithms of other shapes than DDPO, EasyTune and a sketch of PPO: nothing in runtime/ or learner/ knows of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from rl_motion.algorithms import ALGORITHMS, DDPO, EasyTune, refuse_unmet
from rl_motion.config import AlgorithmConfig, Job, PolicyConfig, TrainConfig, UserError
from rl_motion.learner import Learner
from rl_motion.protocols import Algorithm, MotionPolicy, Need, Objective
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Training, Workshop, build_algorithm
from rl_motion.runtime.checks import check_parts
from rl_motion.types import Experience, Metrics
from tests import latent_toy, token_toy
from tests.fakes import learn, rise
from tests.latent_toy import latent_job, latent_policy, near_B
from tests.token_toy import TokenPolicy, token_job
from tests.toy_policy import toy_unit


class PPO:
    """PPO on tokens (arXiv:1707.06347 eq. 7, 9) as InstructMotion has it: a clipped ratio per token, a critic, a KL.

    A sketch: the critic is a value per position, where the paper's reads the actor's first layers.
    """

    def __init__(self, config: AlgorithmConfig, objective: Objective, steps: int = 4) -> None:
        self.needs: frozenset[Need] = frozenset()
        self.reads = frozenset({"inner_epochs", "clip_range", "kl_weight"})
        self.inner_epochs = config.inner_epochs
        self.state: dict[str, Tensor] = {}
        self.value_S = nn.Parameter(torch.zeros(steps, dtype=torch.float64))
        self.parameters = {"value_S": self.value_S}
        self._config = config

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        trajectory = batch.trajectory
        drawn_BS = trajectory.drawn_BS
        replay = policy.replay(trajectory)
        with torch.no_grad():
            reference = policy.replay(trajectory, adapter=False)
        # The reward comes with the last token and is not discounted: every token's return is the reward.
        error_BS = batch.reward_B.double()[:, None] - self.value_S
        ratio_BS = (replay.log_prob_BS - trajectory.log_prob_BS).exp()
        clip, advantage_BS = self._config.clip_range, error_BS.detach()
        actor_BS = -torch.minimum(ratio_BS * advantage_BS, ratio_BS.clamp(1 - clip, 1 + clip) * advantage_BS)
        kl_BS = replay.kl(reference)
        loss_BS = actor_BS + self._config.kl_weight * kl_BS + 0.5 * error_BS.square()
        count = drawn_BS.numel()  # not what was drawn: units add up by their rows
        yield loss_BS[drawn_BS].sum() / count, {"policy/kl": kl_BS[drawn_BS].sum().item() / count}

    def adapt(self, metrics: Metrics) -> None:
        """Nothing to adapt."""


def worse(motions, unit, noise_level_B=None):
    return -near_B(motions, unit)


class Flipped(PPO):
    """For a worse reward."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        yield from super().losses(policy, replace(batch, reward_B=-batch.reward_B))


def latents(objective: Objective) -> Workshop:
    def training(job: Job, files: RewardFiles | None = None) -> Training:
        made = latent_toy.policy(job)
        return Training(made, Learner(made, EasyTune(job.algorithm, objective), job.train), lambda _: None)

    return replace(latent_toy.WORKSHOP, training=training)


def tokens(kind: type[PPO]) -> Workshop:
    def training(job: Job, files: RewardFiles | None = None) -> Training:
        return replace(token_toy.training_with(kind(job.algorithm, worse), job), save_adapter=lambda folder: None)

    return replace(token_toy.WORKSHOP, training=training)


@pytest.mark.parametrize("kind", [EasyTune, PPO])
def test_sketches_are_algorithms(kind: Callable[[AlgorithmConfig, Objective], Algorithm]) -> None:
    assert isinstance(kind(AlgorithmConfig(), near_B), Algorithm)


@pytest.mark.parametrize(("kind", "sign"), [(PPO, 1.0), (Flipped, -1.0)], ids=["rises", "falls"])
def test_ppo_moves_the_reward(kind: type[PPO], sign: float) -> None:
    assert sign * rise(learn(token_job(iterations=20), tokens(kind))) > 0.15


def test_the_kl_penalty_of_ppo_holds_it_back() -> None:
    kls = {}
    for weight in (0.0, 3.0):
        job = token_job(iterations=10)
        job = job.model_copy(update={"algorithm": job.algorithm.model_copy(update={"kl_weight": weight})})
        kls[weight] = learn(job, tokens(PPO))[-1]["policy/kl"]
    assert kls[3.0] < 0.5 * kls[0.0]


def experience(policy: MotionPolicy, iteration: int = 0) -> Experience:
    unit = replace(toy_unit(prompts=2, iteration=iteration), index=0)
    trajectory = policy.rollout(unit)
    reward_B = torch.linspace(-1.0, 1.0, unit.batch)
    return Experience(trajectory, reward_B, reward_B)


def test_a_denoising_step_that_is_not_finite_is_skipped_and_the_others_are_made() -> None:
    """Against the loop written out without that step: the same bits."""
    policy, other = (latent_policy(PolicyConfig(steps=5)) for _ in range(2))
    config = TrainConfig(learning_rate=0.05)
    batch, calls = experience(policy), count()

    def sometimes(motions, unit, noise_level_B=None):
        return near_B(motions, unit) * (torch.nan if next(calls) == 1 else 1.0)

    metrics = Learner(policy, EasyTune(AlgorithmConfig(), sometimes), config).step([batch])
    assert (metrics["learner/updates"], metrics["learner/skipped_steps"]) == (3.0, 1.0)
    assert math.isfinite(metrics["policy/predicted_reward"])
    parameters = list(other.adapter_parameters().values())
    adam = torch.optim.Adam(parameters, lr=0.05, betas=(0.9, config.adam_beta2))
    walk = other.denoising(batch.trajectory.unit)
    x_BFD, x0_prev = walk.noise_BFD, None
    for k in range(4):
        x0_BFD, next_BFD = walk.step(k, x_BFD, x0_prev)
        if k != 1:
            adam.zero_grad()
            (-near_B(walk.decode(x0_BFD), batch.trajectory.unit).mean()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            adam.step()
        x_BFD, x0_prev = next_BFD.detach(), x0_BFD.detach()
    got, want = policy.adapter_state(), other.adapter_state()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_unit_with_a_reward_that_is_not_finite_teaches_nothing_whatever_its_losses_read() -> None:
    """EasyTune's read neither rewards nor advantages of the rollout."""
    policy = latent_policy(PolicyConfig(steps=5))
    batch = experience(policy)
    before = policy.adapter_state()
    spoilt = replace(batch, reward_B=torch.full_like(batch.reward_B, torch.nan))
    metrics = Learner(policy, EasyTune(AlgorithmConfig(), near_B), TrainConfig()).step([spoilt])
    assert metrics == {"learner/updates": 0.0, "learner/skipped_steps": 4.0}
    after = policy.adapter_state()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_units_that_share_steps_yield_equally_often() -> None:
    policy = latent_policy(PolicyConfig(steps=4))

    class Uneven(EasyTune):
        def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
            for number, loss in enumerate(super().losses(policy, batch)):
                if number <= batch.trajectory.unit.index:
                    yield loss

    batch = [experience(policy), experience(policy)]
    batch[1] = replace(batch[1], trajectory=policy.rollout(toy_unit(prompts=2, index=1)))
    learner = Learner(policy, Uneven(AlgorithmConfig(), near_B), TrainConfig(units_per_step=2))
    with pytest.raises(ValueError, match=r"got gradients of the units \[1\]; want \[0, 1\]; .* as many losses"):
        learner.step(batch)


@pytest.mark.parametrize("lost", ["", "own/value_S", "adam_mean/own/value_S"])
def test_the_critic_is_trained_committed_and_restored(lost: str) -> None:
    """And the control: whatever of it starts anew, the bits differ."""

    def steps(learner: Learner, policy: TokenPolicy, iterations: range) -> dict[str, Tensor]:
        for iteration in iterations:
            learner.step([experience(policy, iteration)])
        return learner.state_dict_tensors()

    def make() -> tuple[Learner, TokenPolicy]:
        policy = TokenPolicy()
        return Learner(policy, PPO(AlgorithmConfig(), near_B), TrainConfig(learning_rate=0.02)), policy

    fresh = make()[0].state_dict_tensors()
    whole, saved = steps(*make(), range(4)), steps(*make(), range(2))
    assert not torch.equal(saved["own/value_S"], fresh["own/value_S"])
    learner, policy = make()
    learner.load_state_dict_tensors({n: fresh[n] if n == lost else t for n, t in saved.items()})
    again = steps(learner, policy, range(2, 4))
    same = again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    assert same == (not lost)


class Apart(PPO):
    """Actor and critic have losses of their own: two of the actor's, one of the critic's."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        for number in range(2):
            replay = policy.replay(batch.trajectory)
            yield -(replay.log_prob_BS * batch.advantage_B[:, None]).mean(), {"policy/loss": float(number)}
        yield (batch.reward_B.mean() - self.value_S[:2]).square().mean(), {"critic/loss": 3.0}


def apart() -> tuple[Learner, TokenPolicy]:
    policy = TokenPolicy()
    return Learner(policy, Apart(AlgorithmConfig(), near_B), TrainConfig(learning_rate=0.02)), policy


@pytest.mark.parametrize("steps", ["their own", "one for all"])
def test_losses_of_other_parameters_are_resumed_bit_for_bit(steps: str) -> None:
    """And the control: one step for all of them, and the bits differ."""

    def go(learner: Learner, policy: TokenPolicy, iterations: range) -> dict[str, Tensor]:
        for iteration in iterations:
            learner.step([experience(policy, iteration)])
        return learner.state_dict_tensors()

    whole, saved = go(*apart(), range(4)), go(*apart(), range(2))
    counted = {int(saved[name]) for name in saved if name.startswith("adam_step/")}
    assert counted == {4, 2}
    if steps == "one for all":
        last = saved["adam_step/own/value_S"]
        saved = {n: t for n, t in saved.items() if not n.startswith("adam_step/")} | {"adam_step": last}
    learner, policy = apart()
    learner.load_state_dict_tensors(saved)
    again = go(learner, policy, range(2, 4))
    same = again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)
    assert same == (steps == "their own")


def test_losses_may_record_other_things() -> None:
    """Each metric is the mean over the losses that recorded it."""
    learner, policy = apart()
    metrics = learner.step([experience(policy)])
    assert (metrics["policy/loss"], metrics["critic/loss"], metrics["learner/updates"]) == (0.5, 3.0, 3.0)


class Drawn(PPO):
    """Its critic starts from random weights."""

    def __init__(self, config: AlgorithmConfig, objective: Objective) -> None:
        super().__init__(config, objective)
        self.parameters = dict(nn.Linear(4, 2).named_parameters())


def test_a_critic_starts_alike_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was drawn before; another seed gives another. And the control: made directly, they differ."""
    monkeypatch.setitem(ALGORITHMS, "drawn", Drawn)
    base = token_job()

    def weight(seed: int, before: int) -> Tensor:
        torch.manual_seed(before)
        here = torch.random.get_rng_state()
        changes = {
            "algorithm": base.algorithm.model_copy(update={"name": "drawn"}),
            "train": base.train.model_copy(update={"seed": seed}),
        }
        made = build_algorithm(base.model_copy(update=changes)).parameters["weight"]
        assert torch.equal(torch.random.get_rng_state(), here)
        return made

    assert torch.equal(weight(0, before=1), weight(0, before=2))
    assert not torch.equal(weight(0, before=1), weight(1, before=1))
    first, second = (Drawn(base.algorithm, near_B).parameters["weight"] for _ in range(2))
    assert not torch.equal(first, second)


class NoLoss(PPO):
    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        yield from ()


class Detached(PPO):
    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        for loss, metrics in super().losses(policy, batch):
            yield loss.detach(), metrics


class Elsewhere(PPO):
    """A gradient, but of nothing that the learner trains."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        yield nn.Parameter(torch.ones(())).square(), {}


class Late(PPO):
    """The first loss is sound: the failure comes after a step."""

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        yield from super().losses(policy, batch)
        yield torch.ones(()), {}


class Unadaptable(PPO):
    def adapt(self, metrics: Metrics) -> None:
        self.state = {"changed": torch.ones(())}
        raise KeyError("policy/entropy")


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        (NoLoss, ValueError, "got no loss of NoLoss in iteration 0, unit 0; want .*; in NoLoss, yield at least one"),
        (Detached, ValueError, "got a loss without gradient of Detached in iteration 0, unit 0; want .* compute it"),
        (Elsewhere, ValueError, "got a loss without gradient of Elsewhere"),
        (Late, ValueError, "got a loss without gradient of Late"),
        (Unadaptable, KeyError, "policy/entropy"),
    ],
)
def test_an_algorithm_that_fails_leaves_the_learner_as_it_was(
    kind: type[PPO], error: type[Exception], match: str
) -> None:
    policy = TokenPolicy()
    learner = Learner(policy, kind(AlgorithmConfig(), near_B), TrainConfig(ema_decay=0.9))
    before = learner.state_dict_tensors()
    with pytest.raises(error, match=match):
        learner.step([experience(policy)])
    after = learner.state_dict_tensors()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_needs_that_nobody_offers_are_refused_with_what_to_do() -> None:
    easytune = EasyTune(AlgorithmConfig(), near_B)
    refuse_unmet("easytune", easytune.needs, {"denoising", "reward_gradient", "snr"})
    with pytest.raises(UserError, match=r"got algorithm 'easytune', which needs 'reward_gradient'; want rewards"):
        refuse_unmet("easytune", easytune.needs, latent_toy.policy(latent_job()).offers)
    with pytest.raises(UserError, match=r"needs 'denoising'; want a diffusion model"):
        refuse_unmet("easytune", easytune.needs, TokenPolicy.offers | {"reward_gradient"})
    learner = Learner(TokenPolicy(), easytune, TrainConfig())
    with pytest.raises(UserError, match="needs 'denoising'"):
        learner.step([experience(TokenPolicy())])


STILL = """
from rl_motion.types import MotionForm, Normalisation, Representation

class Still:
    accepts = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
    differentiable = DIFFERENTIABLE

    def __call__(self, motions, prompts, noise_level_B=None):
        return -motions.features_BFD[..., 1:3].square().mean(dim=(1, 2))
"""


@pytest.mark.parametrize("differentiable", [True, False])
def test_a_job_is_refused_before_it_starts(differentiable: bool, tmp_path, monkeypatch) -> None:
    """By EasyTune, a reward of the job's own that does or does not keep the graph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "still.py").write_text(STILL.replace("DIFFERENTIABLE", str(differentiable)))
    job = Job.model_validate(
        {"name": "toy", "rewards": [{"name": "jerk"}, {"name": "still.py:Still"}], "tracking": {"mlflow_uri": None}}
    )
    job = job.model_copy(update={"algorithm": job.algorithm.model_copy(update={"name": "easytune"})})
    if differentiable:
        check_parts(job)
    else:
        with pytest.raises(UserError, match=r"'easytune', which needs 'reward_gradient'; want rewards that are all"):
            check_parts(job)


def easytune_job(**algorithm: object) -> Job:
    return Job.model_validate(
        {"name": "toy", "rewards": [{"name": "jerk"}], "tracking": {"mlflow_uri": None}, "algorithm": algorithm}
    )


def test_a_setting_that_the_algorithm_does_not_read_is_refused() -> None:
    """One that it reads is not, nor one that is given as it is by default; DDPO reads no key that there is not."""
    for settings in ({"inner_epochs": 2}, {"transitions": 2}, {"clip_range": AlgorithmConfig().clip_range}):
        check_parts(easytune_job(name="easytune", **settings))
    for setting in ({"clip_range": 0.3}, {"advantages": "running"}, {"balance": "none"}):
        [key] = setting
        with pytest.raises(UserError, match=rf"algorithm.{key}: got .*'easytune' does not read; want .*inner_epochs"):
            check_parts(easytune_job(name="easytune", **setting))
        check_parts(easytune_job(**setting))
    assert DDPO.reads < AlgorithmConfig.model_fields.keys()


def test_the_job_hands_its_rewards_to_the_algorithm_with_their_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    monkeypatch.setitem(ALGORITHMS, "easytune", lambda config, objective: held.append(objective))
    job = Job.model_validate({"name": "toy", "rewards": [{"name": "jerk", "weight": 2.0}]})
    build_algorithm(job.model_copy(update={"algorithm": job.algorithm.model_copy(update={"name": "easytune"})}))
    features_BFD = (0.1 * torch.randn(2, 8, 263, generator=torch.Generator().manual_seed(0))).requires_grad_()
    unit = replace(toy_unit(prompts=1, samples=2), prompts=(replace(toy_unit().prompts[0], length=8),))
    motions = replace(
        latent_policy(PolicyConfig()).decode(latent_policy(PolicyConfig()).rollout(unit)), features_BFD=features_BFD
    )
    total_B = held[0](motions, unit)
    assert total_B.shape == (2,)
    total_B.sum().backward()
    assert float(features_BFD.grad.abs().sum()) > 0.0
    with pytest.raises(UserError, match="noise level"):
        held[0](motions, unit, torch.ones(2))
