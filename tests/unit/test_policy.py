"""The diffusion policy: exact ratios, the audit, noise that belongs to samples, exact KL, refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from rl_motion.config import AdapterConfig, AuditError, PolicyConfig, ScheduleConfig, UserError
from rl_motion.diffusion import kl_divergence
from rl_motion.models.adapter import attach_lora
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.policies import DiffusionPolicy, audit, policy_tables, unit_noise
from rl_motion.protocols import Denoiser, MotionPolicy
from rl_motion.types import Prompt, Unit
from tests.toy_policy import ToyDenoiser, toy_policy, toy_unit

SETTINGS = [
    PolicyConfig(
        order=order,
        solver_type=solver_type,
        last_step=last_step,
        spacing=spacing,
        guidance_scale=scale,
        log_prob=log_prob,
    )
    for order, solver_type in ((1, "midpoint"), (2, "midpoint"), (2, "heun"))
    for last_step in ("frozen", "stop")
    for spacing, scale, log_prob in (("trailing", 1.0, "mean"), ("linspace", 2.5, "sum"))
]


class MDMToy(ToyDenoiser):
    """The toy's surroundings around a small real MDM."""

    def __init__(self) -> None:
        super().__init__(features=6)
        torch.manual_seed(0)
        self.network = MDM(
            MDMConfig(
                features=6,
                latent_dim=16,
                ff_size=32,
                num_layers=2,
                num_heads=2,
                text_dim=1,
                mask_frames=True,
                pos_embed_max_len=64,
            )
        )

    def predict(self, x_BFD: Tensor, t_B: Tensor, condition: Tensor, length_B: Tensor) -> Tensor:
        output: Tensor = self.network(x_BFD, t_B, condition[:, None], length_B)
        return output


def mdm_policy() -> tuple[DiffusionPolicy, MDMToy]:
    denoiser = MDMToy()
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    policy = DiffusionPolicy(denoiser, PolicyConfig(steps=5))
    policy.load_adapter_state({name: tensor + 0.05 for name, tensor in policy.adapter_state().items()})
    return policy, denoiser


def test_seams_are_met() -> None:
    policy, denoiser = toy_policy(PolicyConfig())
    assert isinstance(denoiser, Denoiser)
    assert isinstance(policy, MotionPolicy)


@pytest.mark.parametrize("config", SETTINGS, ids=lambda c: f"{c.order}-{c.solver_type}-{c.last_step}-{c.spacing}")
@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_replay_reproduces_every_log_prob_bit_for_bit(config: PolicyConfig, kind: str) -> None:
    policy, _ = toy_policy(config, features=3, prediction_type=kind)
    trajectory = policy.rollout(toy_unit())
    transitions = 9 if config.last_step == "frozen" else 10
    assert trajectory.states.shape == (12, transitions + 1, 5, 3)
    replay = policy.replay(trajectory)
    assert torch.equal(replay.log_prob_BS, trajectory.log_prob_BS)
    assert replay.log_prob_BS.requires_grad
    audit(policy, trajectory)


def test_replay_of_an_mdm_is_exact_and_its_latents_are_zero_beyond_length() -> None:
    policy, _ = mdm_policy()
    trajectory = policy.rollout(toy_unit(frames=24))
    audit(policy, trajectory)
    beyond_BF = torch.arange(24) >= trajectory.length_B[:, None]
    assert float(trajectory.states.transpose(1, 2)[beyond_BF].abs().max()) == 0.0
    assert float(trajectory.sample[beyond_BF].abs().max()) == 0.0


@pytest.mark.parametrize("make", [mdm_policy, lambda: toy_policy(PolicyConfig(), dropout=0.1)])
def test_audit_notices_dropout_left_on(make) -> None:
    policy, denoiser = make()
    trajectory = policy.rollout(toy_unit())
    audit(policy, trajectory)
    denoiser.network.train()
    with pytest.raises(AuditError, match="dropout"):
        audit(policy, trajectory)


def test_audit_notices_base_weights_that_moved_by_a_thousandth() -> None:
    policy, denoiser = mdm_policy()
    trajectory = policy.rollout(toy_unit())
    with torch.no_grad():
        next(p for p in denoiser.network.parameters() if not p.requires_grad).mul_(1.001)
    with pytest.raises(AuditError, match="The adapters agree"):
        audit(policy, trajectory)


def test_audit_names_an_adapter_that_is_not_the_rollouts() -> None:
    policy, _ = toy_policy(PolicyConfig())
    trajectory = policy.rollout(toy_unit())
    policy.load_adapter_state({n: t * 1.001 for n, t in policy.adapter_state().items()})
    with pytest.raises(AuditError, match="send the learner's adapter"):
        audit(policy, trajectory)


@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_audit_notices_one_weight_of_a_fresh_adapter(matrix: str) -> None:
    """While B is zero an A weight changes no log-prob: only the checksum sees it."""
    denoiser = MDMToy()
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    policy = DiffusionPolicy(denoiser, PolicyConfig(steps=5))
    trajectory = policy.rollout(toy_unit(frames=24))
    audit(policy, trajectory)
    name = next(name for name in policy.adapter_parameters() if matrix in name)
    with torch.no_grad():
        policy.adapter_parameters()[name].view(-1)[0] += 1e-3
    same = torch.equal(policy.replay(trajectory).log_prob_BS, trajectory.log_prob_BS)
    assert same == (matrix == "lora_A")  # control: log-probs alone would let A pass
    with pytest.raises(AuditError, match="send the learner's adapter"):
        audit(policy, trajectory)


def test_audit_notices_nan() -> None:
    policy, _ = toy_policy(PolicyConfig())
    trajectory = policy.rollout(toy_unit())
    broken = dataclasses.replace(trajectory, log_prob_BS=torch.full_like(trajectory.log_prob_BS, math.nan))
    with pytest.raises(AuditError):
        audit(policy, broken)


def test_log_prob_is_the_gaussians_over_valid_elements_only() -> None:
    for reduction in ("sum", "mean"):
        policy, _ = toy_policy(PolicyConfig(steps=3, log_prob=reduction), features=2, dtype=torch.float64)
        trajectory = policy.rollout(toy_unit())
        replay = policy.replay(trajectory)
        for row, length in enumerate(trajectory.length_B.tolist()):
            normal = torch.distributions.Normal(replay.mean_BSFD[row, 1, :length], replay.std_S[1])
            density = normal.log_prob(trajectory.states[row, 2, :length])
            want = density.sum() if reduction == "sum" else density.mean()
            torch.testing.assert_close(replay.log_prob_BS[row, 1], want, rtol=1e-12, atol=1e-12)


def test_noise_belongs_to_the_sample_whatever_its_mates() -> None:
    short, long = Prompt("short", "a", 3), Prompt("long", "b", 9)
    alone = Unit(1, 2, 0, (short,), 4)
    together = Unit(1, 2, 7, (long, short), 4)
    for step in (0, 5):
        a, b = unit_noise(alone, step, 2, torch.float32), unit_noise(together, step, 2, torch.float32)
        assert torch.equal(a, b[4:, :3])
        assert float(b[4:, 3:].abs().max()) == 0.0
    policy, _ = toy_policy(PolicyConfig(), features=2)
    assert torch.equal(policy.rollout(alone).sample, policy.rollout(together).sample[4:, :3])


def test_noise_is_new_for_every_part_of_its_key() -> None:
    prompt = Prompt("p", "a", 50)
    first = unit_noise(Unit(0, 0, 0, (prompt,), 2), 0, 40, torch.float32)
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1.0) < 0.05
    others = [
        first[1:],
        unit_noise(Unit(0, 0, 0, (prompt,), 1), 1, 40, torch.float32),
        unit_noise(Unit(0, 1, 0, (prompt,), 1), 0, 40, torch.float32),
        unit_noise(Unit(1, 0, 0, (prompt,), 1), 0, 40, torch.float32),
        unit_noise(Unit(0, 0, 0, (Prompt("q", "a", 50),), 1), 0, 40, torch.float32),
    ]
    for other in others:
        assert abs(float((first[0] * other[0]).mean())) < 0.1


def test_exact_kl_is_the_closed_form_and_zero_without_a_change() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4), features=2, dtype=torch.float64)
    trajectory = policy.rollout(toy_unit())
    now, reference = policy.replay(trajectory), policy.replay(trajectory, adapter=False)
    kl_BS = kl_divergence(now.mean_BSFD, reference.mean_BSFD, now.std_S)
    std = now.std_S[None, :, None, None]
    distribution = torch.distributions.Normal
    want = torch.distributions.kl_divergence(distribution(now.mean_BSFD, std), distribution(reference.mean_BSFD, std))
    torch.testing.assert_close(kl_BS, want.sum(dim=(2, 3)), rtol=1e-10, atol=1e-12)
    assert float(kl_BS.detach().min()) > 0.0
    state = {n: t * 0.0 for n, t in policy.adapter_state().items()}
    policy.load_adapter_state(state)
    off, on = policy.replay(trajectory, adapter=False), policy.replay(trajectory)
    assert torch.equal(off.mean_BSFD, on.mean_BSFD)


def test_the_references_history_is_its_own() -> None:
    """In second order the reference's mean equals that of a policy whose adapter is zero, at every "
    "transition."""
    policy, _ = toy_policy(PolicyConfig(order=2, steps=5), dtype=torch.float64)
    base, _ = toy_policy(PolicyConfig(order=2, steps=5), dtype=torch.float64, adapter_scale=0.0)
    trajectory = policy.rollout(toy_unit())
    assert torch.equal(policy.replay(trajectory, adapter=False).mean_BSFD, base.replay(trajectory).mean_BSFD)
    assert not torch.equal(policy.replay(trajectory).mean_BSFD, base.replay(trajectory).mean_BSFD)


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("last_step", ["frozen", "stop"])
def test_network_calls(scale: float, last_step: str) -> None:
    """Guidance is in the same call."""
    policy, denoiser = toy_policy(PolicyConfig(steps=6, guidance_scale=scale, last_step=last_step))
    policy.rollout(toy_unit())
    assert denoiser.calls == 6


def test_a_frozen_last_call_ignores_the_adapter_and_stop_has_none() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4))
    base, _ = toy_policy(PolicyConfig(steps=4), adapter_scale=0.0)
    trajectory = policy.rollout(toy_unit())
    tables = policy_tables(ScheduleConfig(), PolicyConfig(steps=4))
    x_BFD = trajectory.states[:, -1]
    condition = base._denoiser.encode_text([p.text for p in trajectory.unit.row_prompts])
    with torch.no_grad():
        raw = base._denoiser.network(x_BFD, torch.full((12,), tables.timestep_K[3]), condition)
    valid_BF1 = (torch.arange(5) < trajectory.length_B[:, None])[:, :, None]
    assert torch.equal(trajectory.sample, raw * valid_BF1)

    stop, _ = toy_policy(PolicyConfig(steps=4, last_step="stop"))
    sampled = stop.rollout(toy_unit())
    alpha = policy_tables(ScheduleConfig(), PolicyConfig(steps=4, last_step="stop")).alpha[4]
    assert torch.equal(sampled.sample, sampled.states[:, 4] / alpha)


def test_adapter_to_the_end_changes_the_last_call_alone() -> None:
    policy, _ = toy_policy(PolicyConfig(steps=4))
    trajectory = policy.rollout(toy_unit())
    finished = policy.adapter_to_the_end(trajectory)
    assert finished is not None
    assert finished.states is trajectory.states
    assert not torch.equal(finished.sample, trajectory.sample)
    # Negative control: where the adapter does nothing, so does the variant.
    base, _ = toy_policy(PolicyConfig(steps=4), adapter_scale=0.0)
    sampled = base.rollout(toy_unit())
    same = base.adapter_to_the_end(sampled)
    assert same is not None and torch.equal(same.sample, sampled.sample)

    stop, _ = toy_policy(PolicyConfig(steps=4, last_step="stop"))
    assert stop.adapter_to_the_end(stop.rollout(toy_unit())) is None


def test_landing_is_reported() -> None:
    frozen, _ = toy_policy(PolicyConfig())
    stop, _ = toy_policy(PolicyConfig(last_step="stop"))
    assert frozen.constants["policy/landing_sigma"] == pytest.approx(0.167, abs=1e-3)
    assert stop.constants == pytest.approx(
        {"policy/landing_sigma": 0.0418, "policy/landing_snr_weight": 536.4}, rel=1e-3
    )


@pytest.mark.parametrize("last_step", ["frozen", "stop"])
def test_landing_is_where_it_is_told(last_step: str) -> None:
    """K calls wherever it lands; the nearer to zero, the larger the last transition's weight."""
    weights = []
    for landing, sigma in (("last_timestep", None), (0.1, 0.1), ("sigma_min", 0.0418)):
        policy, denoiser = toy_policy(PolicyConfig(steps=6, landing=landing, last_step=last_step))
        audit(policy, policy.rollout(toy_unit()))
        assert denoiser.calls == 6 + policy.transitions  # rollout and the audit's replay
        assert sigma is None or policy.constants["policy/landing_sigma"] == pytest.approx(sigma, abs=1e-4)
        weights.append(policy.constants["policy/landing_snr_weight"])
    assert weights == sorted(weights)


def test_a_base_policy_needs_no_adapter() -> None:
    policy = DiffusionPolicy(ToyDenoiser(), PolicyConfig())
    trajectory = policy.rollout(toy_unit())
    audit(policy, trajectory)
    assert policy.adapter_state() == {}
    assert torch.equal(policy.replay(trajectory, adapter=False).log_prob_BS, trajectory.log_prob_BS)
    assert torch.equal(policy.decode(trajectory).features_BFD, trajectory.sample)


@pytest.mark.parametrize(
    ("timesteps", "config", "words"),
    [
        (50, PolicyConfig(steps=60), r"timesteps \[49, 48, 47, 46, 46, .* want 60 different timesteps"),
        (100, PolicyConfig(steps=29), r"9, 6, 2\] of 100 .* want 29"),  # arange gives one more
        (
            50,
            PolicyConfig(steps=50, last_step="stop"),
            r"2, 1, 0\] of 50 and lands at sigma 0.0418",
        ),  # which is timestep 0
        (50, PolicyConfig(steps=1), "no stochastic transition"),
        (50, PolicyConfig(spacing="karras"), r"\[49, 48, 48, 48, 48, 47"),
        (
            50,
            PolicyConfig(landing=0.3),
            "lands at sigma 0.3; .* fall to the landing",
        ),  # noisier than the call before it
    ],
)
def test_settings_without_valid_levels_are_refused(timesteps: int, config: PolicyConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        policy_tables(ScheduleConfig(timesteps=timesteps), config)


def test_schedule_hash_tells_policies_apart_and_guards_replay() -> None:
    changes = [{}, {"order": 1}, {"steps": 9}, {"guidance_scale": 2.0}, {"solver_type": "heun"}, {"landing": 0.1}]
    configs = [PolicyConfig(**change) for change in changes]
    policies = [toy_policy(config)[0] for config in configs]
    assert len({policy.schedule_hash for policy in policies}) == len(configs)
    assert toy_policy(PolicyConfig())[0].schedule_hash == policies[0].schedule_hash
    with pytest.raises(UserError, match="schedule"):
        policies[1].replay(policies[0].rollout(toy_unit()))


def test_visible_padding_is_refused() -> None:
    policy, denoiser = toy_policy(PolicyConfig())
    denoiser.mask_frames = False
    policy.rollout(toy_unit(prompts=1))
    with pytest.raises(UserError, match="sees padding"):
        policy.rollout(toy_unit(prompts=2))


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_gain_and_gradient_norm_are_those_of_the_networks_raw_prediction(kind: str) -> None:
    """Autograd down to what the network returned, in first order, against the replay's own arithmetic."""
    config = PolicyConfig(steps=5, order=1, log_prob="sum")
    schedule = ScheduleConfig(betas="linear", timesteps=1000)
    policy, denoiser = toy_policy(config, features=2, dtype=torch.float64, prediction_type=kind, schedule=schedule)
    trajectory = policy.rollout(toy_unit())
    raw, forward = [], denoiser.predict

    def remember(*arguments: object) -> Tensor:
        raw.append(forward(*arguments))  # type: ignore[arg-type]
        return raw[-1]

    denoiser.predict = remember  # type: ignore[method-assign]
    replay = policy.replay(trajectory)
    loss = (replay.log_prob_BS * torch.linspace(-1.0, 1.0, 12)[:, None]).sum()
    want = torch.stack([part.norm() for part in torch.autograd.grad(loss, raw, retain_graph=True)])
    torch.testing.assert_close(replay.gradient_norm(loss), want, rtol=1e-9, atol=0.0)
    # Negative control: per unit of x0 it is another number wherever something else is predicted.
    of_x0 = dataclasses.replace(replay, gain_S=torch.tensor(policy_tables(schedule, config).gain_K[:4]).double())
    same = torch.allclose(of_x0.gradient_norm(loss), want, rtol=1e-6, atol=0.0)
    assert same == (kind == "sample")
