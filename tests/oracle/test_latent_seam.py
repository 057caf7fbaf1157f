"""A latent model (MLD's kind) meets the seams: the policy scores latents, everybody else sees motion."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rl_motion.config import AuditError, Job, PolicyConfig, UserError
from rl_motion.policies import DiffusionPolicy, audit
from rl_motion.protocols import Denoiser, DenoisingPolicy
from rl_motion.runtime import frontend
from rl_motion.types import Prompt, Unit
from tests import latent_toy
from tests.fakes import learn, result, rise
from tests.latent_toy import FEATURES, LATENT, LatentDenoiser, latent_job, latent_policy, near_B
from tests.toy_policy import toy_unit

SETTINGS = [
    PolicyConfig(steps=5, order=order, last_step=last_step, guidance_scale=scale, log_prob=log_prob)
    for order in (1, 2)
    for last_step, scale, log_prob in (("frozen", 7.5, "mean"), ("stop", 1.0, "sum"))
]
settings = pytest.mark.parametrize("config", SETTINGS, ids=lambda c: f"{c.order}-{c.last_step}-{c.guidance_scale}")


def run(job: Job, out: Path) -> Path:
    return frontend.start(job, out, Console(file=io.StringIO())).folder


def test_seams_are_met_and_the_decoder_undoes_the_encoder() -> None:
    denoiser = LatentDenoiser()
    assert isinstance(denoiser, Denoiser)
    assert isinstance(latent_policy(PolicyConfig()), DenoisingPolicy)
    latent_B1C = 0.3 * torch.randn(2, 1, LATENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    motions = denoiser.decode(latent_B1C, torch.tensor([5, 9]))
    torch.testing.assert_close(denoiser.encode(motions), latent_B1C)


def test_latents_are_not_frames() -> None:
    """One latent for motions of several lengths, and a prompt may be longer than the latent."""
    policy = latent_policy(PolicyConfig(steps=4))
    trajectory = policy.rollout(toy_unit())
    assert trajectory.states.shape == (12, 4, 1, LATENT)
    assert trajectory.sample.shape == (12, 1, LATENT)
    motions = policy.decode(trajectory)
    assert motions.features_BFD.shape == (12, 5, FEATURES)
    assert motions.length_B.tolist() == [5] * 4 + [4] * 4 + [3] * 4
    assert float(motions.features_BFD[8:, 3:].abs().max()) == 0.0
    assert float(motions.features_BFD[8:, :3].abs().min()) > 0.0
    with pytest.raises(UserError, match="got a prompt of 13 frames; want at most 12"):
        policy.rollout(toy_unit(prompts=1, frames=13))


def test_a_sample_is_the_same_whatever_its_mates_lengths() -> None:
    policy = latent_policy(PolicyConfig(steps=4))
    short, long = Prompt("short", "a", 3), Prompt("long", "b", 9)
    alone, together = policy.rollout(Unit(1, 2, 0, (short,), 4)), policy.rollout(Unit(1, 2, 7, (long, short), 4))
    assert torch.equal(alone.sample, together.sample[4:])


@settings
def test_replay_is_exact_bit_for_bit(config: PolicyConfig) -> None:
    policy = latent_policy(config)
    trajectory = policy.rollout(toy_unit())
    audit(policy, trajectory)
    assert trajectory.drawn_BS.all()
    broken = dataclasses.replace(trajectory, log_prob_BS=trajectory.log_prob_BS + 1e-12)
    with pytest.raises(AuditError):
        audit(policy, broken)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_probs_cover_the_whole_latent_whatever_the_length(reduction: str) -> None:
    policy = latent_policy(PolicyConfig(steps=4, log_prob=reduction), dtype=torch.float64)
    trajectory = policy.rollout(toy_unit())
    replay = policy.replay(trajectory)
    for step in range(3):
        normal = torch.distributions.Normal(replay.mean_BSFD[:, step], replay.std_S[step])
        density_B = getattr(normal.log_prob(trajectory.states[:, step + 1]), reduction)(dim=(1, 2))
        torch.testing.assert_close(replay.log_prob_BS[:, step], density_B, rtol=1e-12, atol=1e-12)
    moved = trajectory.states.clone()
    moved[:, -1, 0, -1] += 0.1
    changed_B = policy.replay(dataclasses.replace(trajectory, states=moved)).log_prob_BS[:, -1]
    assert bool((changed_B != replay.log_prob_BS[:, -1]).all())


def test_control_latents_taken_for_frames_would_be_seen() -> None:
    """Without its canvas the policy would draw a latent per frame, and score as many as a motion is long."""
    policy = latent_policy(PolicyConfig(steps=4))
    policy._denoiser.canvas, policy._denoiser.mask_frames = None, True  # type: ignore[misc]
    assert policy.rollout(toy_unit()).states.shape == (12, 4, 5, LATENT)


def final_reward(policy: DiffusionPolicy, unit: Unit, *, detached: bool = False) -> Tensor:
    """The reward of the decoded sample, differentiable through the whole chain."""
    walk = policy.denoising(unit)
    x_BFD, x0_BFD = walk.noise_BFD, None
    for k in range(len(walk.sigma) - 1):
        x0_BFD, x_BFD = walk.step(k, x_BFD.detach() if detached else x_BFD, x0_BFD)
    return near_B(walk.decode(walk.finish(x_BFD)), unit).mean()


@settings
def test_denoising_is_the_rollout_with_gradient(config: PolicyConfig) -> None:
    policy, unit = latent_policy(config), toy_unit()
    trajectory = policy.rollout(unit)
    walk = policy.denoising(unit)
    assert torch.equal(walk.noise_BFD, trajectory.states[:, 0])
    x_BFD, x0_BFD = walk.noise_BFD, None
    for k in range(len(walk.sigma) - 1):
        x0_BFD, x_BFD = walk.step(k, x_BFD, x0_BFD)
        assert torch.equal(x_BFD, trajectory.states[:, k + 1])
    assert torch.equal(walk.finish(x_BFD), trajectory.sample)
    assert x_BFD.requires_grad


@settings
@pytest.mark.parametrize("detached", [False, True], ids=["chain", "control"])
def test_reward_gradients_reach_the_adapter_through_decode(config: PolicyConfig, detached: bool) -> None:
    """Against central differences of the rollout's own reward in three directions; the control cuts the chain."""
    policy, unit = latent_policy(config, dtype=torch.float64), toy_unit(samples=2)
    gradient = torch.autograd.grad(
        final_reward(policy, unit, detached=detached), list(policy.adapter_parameters().values())
    )
    state, generator = policy.adapter_state(), torch.Generator().manual_seed(7)
    errors = []
    for _ in range(3):
        way = {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in state.items()}
        ends = []
        for offset in (1e-5, -1e-5):
            policy.load_adapter_state({name: tensor + offset * way[name] for name, tensor in state.items()})
            ends.append(float(near_B(policy.decode(policy.rollout(unit)), unit).mean()))
        slope = (ends[0] - ends[1]) / 2e-5
        along = sum(float((part * way[name]).sum()) for part, name in zip(gradient, sorted(state), strict=True))
        errors.append(abs(along - slope) / abs(slope))
    assert max(errors) > 0.01 if detached else max(errors) < 1e-6


def test_a_toy_reward_rises() -> None:
    """Its adapter changes a guess at x0, so per unit of noise, which the balance divides by, it learns slowly."""
    found = learn(latent_job(iterations=60), latent_toy.WORKSHOP)
    assert rise(found) > 0.1
    assert found[-1]["policy/kl"] > 0.0


def test_a_resume_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", latent_toy.MEANS)
    whole = result(run(latent_job(), tmp_path))
    part = run(latent_job(iterations=1), tmp_path)
    frontend.resume(part, ["train.iterations=3"], Console(file=io.StringIO()))
    assert result(part) == whole
