"""EasyTune: step-wise reward gradients against the loop written out, its anchor against a closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rl_motion.algorithms import EasyTune
from rl_motion.config import AlgorithmConfig, Job, PolicyConfig, TrainConfig, UserError
from rl_motion.learner import Learner
from rl_motion.protocols import Objective
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime.build import Training, Workshop
from rl_motion.runtime.checks import check_parts
from rl_motion.types import Experience
from tests import latent_toy
from tests.fakes import learn, rise
from tests.latent_toy import latent_job, latent_policy, near_B
from tests.toy_policy import toy_unit


def worse(motions, unit, noise_level_B=None):
    return -near_B(motions, unit)


def nothing(motions, unit, noise_level_B=None):
    return 0.0 * near_B(motions, unit)


def latents(objective: Objective) -> Workshop:
    def training(job: Job, files: RewardFiles | None = None) -> Training:
        made = latent_toy.policy(job)
        return Training(made, Learner(made, EasyTune(job.algorithm, objective), job.train), lambda _: None)

    return replace(latent_toy.WORKSHOP, training=training)


def experience(policy) -> Experience:
    unit = replace(toy_unit(prompts=2), index=0)
    trajectory = policy.rollout(unit)
    reward_B = torch.linspace(-1.0, 1.0, unit.batch)
    return Experience(trajectory, reward_B, reward_B)


def moved(policy, by: float):
    """Away from its reference."""
    generator = torch.Generator().manual_seed(1)
    state = policy.adapter_state()
    policy.load_adapter_state({name: t + by * torch.randn(t.shape, generator=generator) for name, t in state.items()})
    return policy


@pytest.mark.parametrize(("objective", "sign"), [(near_B, 1.0), (worse, -1.0)], ids=["rises", "falls"])
def test_easytune_moves_the_reward(objective: Objective, sign: float) -> None:
    found = learn(latent_job(iterations=10), latents(objective))
    assert sign * rise(found) > 0.05
    assert found[0]["learner/updates"] == 4.0  # two units of one chunk, four transitions


def test_every_loss_of_easytune_meets_the_parameters_that_the_one_before_left() -> None:
    """Against the loop written out, with torch's own optimiser: the same bits."""
    policy, other = (latent_policy(PolicyConfig(steps=5)) for _ in range(2))
    config = TrainConfig(learning_rate=0.05)
    batch = experience(policy)
    Learner(policy, EasyTune(AlgorithmConfig(), near_B), config).step([batch])
    parameters = list(other.adapter_parameters().values())
    adam = torch.optim.Adam(parameters, lr=0.05, betas=(0.9, config.adam_beta2))
    walk = other.denoising(batch.trajectory.unit)
    x_BFD, x0_prev = walk.noise_BFD, None
    for k in range(4):
        x0_BFD, next_BFD = walk.step(k, x_BFD, x0_prev)
        adam.zero_grad()
        (-near_B(walk.decode(x0_BFD), batch.trajectory.unit).mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        adam.step()
        x_BFD, x0_prev = next_BFD.detach(), x0_BFD.detach()
    got, want = policy.adapter_state(), other.adapter_state()
    assert all(torch.equal(got[name], want[name]) for name in want)
    # Control: losses that all meet the first parameters, in one step, end elsewhere.
    once = latent_policy(PolicyConfig(steps=5))

    class AtOnce(EasyTune):
        def losses(self, policy, batch):
            parts = list(super().losses(policy, batch))
            yield torch.stack([loss for loss, _ in parts]).sum(), parts[-1][1]

    Learner(once, AtOnce(AlgorithmConfig(), near_B), config).step([batch])
    assert not all(torch.equal(once.adapter_state()[name], want[name]) for name in want)


def losses(policy, objective: Objective = near_B, **settings) -> list[tuple[torch.Tensor, dict[str, float]]]:
    return list(EasyTune(AlgorithmConfig(name="easytune", **settings), objective).losses(policy, experience(policy)))


def test_the_anchor_is_half_the_squared_distance_to_what_the_base_predicts_at_the_same_latent() -> None:
    """Written out with the denoiser itself, adapter on and off; without a reward the gradient is the anchor's alone."""
    policy = moved(latent_policy(PolicyConfig(steps=5)), by=0.3)
    found = losses(policy, nothing, kl_weight=3.0)
    walk = policy.denoising(experience(policy).trajectory.unit)
    x_BFD, x0_prev = walk.noise_BFD, None
    for k, (loss, metrics) in enumerate(found):
        x0_BFD, next_BFD = walk.step(k, x_BFD, x0_prev)
        with torch.no_grad(), policy._adapter_off():
            base_BFD, _ = walk.step(k, x_BFD, x0_prev)
        want = (x0_BFD - base_BFD).square().sum() / walk.elements_B.sum()
        assert metrics["policy/drift"] == pytest.approx(want.item(), rel=1e-5) and want > 1e-4
        assert loss.item() == pytest.approx(1.5 * want.item(), rel=1e-5)
        parameters = list(policy.adapter_parameters().values())
        got_grads = torch.autograd.grad(loss, parameters)
        want_grads = torch.autograd.grad(1.5 * want, parameters)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(got_grads, want_grads, strict=True))
        x_BFD, x0_prev = next_BFD.detach(), x0_BFD.detach()
    assert len(found) == 4


def test_the_anchor_holds_the_policy_back_and_of_the_untouched_adapter_it_is_zero() -> None:
    drift = {}
    for weight in (0.0, 30.0):
        job = latent_job(iterations=10)
        job = job.model_copy(update={"algorithm": job.algorithm.model_copy(update={"kl_weight": weight})})
        rows = learn(job, latents(near_B))
        drift[weight] = rows[-1]["policy/drift"]
    assert 0.0 < drift[30.0] < 0.5 * drift[0.0]
    untouched = latent_policy(PolicyConfig(steps=5))
    untouched.load_adapter_state({name: torch.zeros_like(t) for name, t in untouched.adapter_state().items()})
    assert losses(untouched)[0][1]["policy/drift"] == 0.0


def test_gradient_goes_through_one_call_and_not_through_the_latent_before_it() -> None:
    """The second loss's gradient is that of its own call: another first step changes it only by its latent's value."""
    policy = moved(latent_policy(PolicyConfig(steps=5)), by=0.3)
    parameters = list(policy.adapter_parameters().values())
    second = losses(policy)[1][0]
    walk = policy.denoising(experience(policy).trajectory.unit)
    x0_BFD, x_BFD = walk.step(0, walk.noise_BFD, None)
    unit = experience(policy).trajectory.unit

    def gradient(latent_BFD, before_BFD):
        reward = near_B(walk.decode(walk.step(1, latent_BFD, before_BFD)[0]), unit).mean()
        return torch.autograd.grad(-reward, parameters)

    got = torch.autograd.grad(second, parameters)
    stopped, whole = gradient(x_BFD.detach(), x0_BFD.detach()), gradient(x_BFD, x0_BFD)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(got, stopped, strict=True))
    assert not all(torch.allclose(a, b, rtol=1e-2, atol=1e-6) for a, b in zip(got, whole, strict=True))  # control


@pytest.mark.parametrize(("transitions", "steps"), [(None, 4), (2, 2), (4, 4)])
def test_transitions_are_the_noisiest(transitions: int | None, steps: int) -> None:
    found = losses(latent_policy(PolicyConfig(steps=5)), transitions=transitions)
    names = [next(name for name in metrics if name.startswith("policy/drift_s")) for _, metrics in found]
    assert names == [f"policy/drift_s{k:02d}" for k in range(steps)]


def test_a_reward_that_reads_another_representation_has_no_gradient_to_give_and_is_refused() -> None:
    """Motion is converted off the graph: refused before anything starts."""
    said = {"name": "x", "algorithm": {"name": "easytune"}, "tracking": {"mlflow_uri": None}}
    check_parts(Job.model_validate(said))
    with pytest.raises(UserError, match="'easytune', which needs 'reward_gradient'; want"):
        check_parts(Job.model_validate(said | {"rewards": [{"name": "tmr", "model": "tmr-second"}]}))
