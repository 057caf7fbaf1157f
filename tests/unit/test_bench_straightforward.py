"""The straightforward loop of the benchmark comes to our numbers: samples, log-probs, gradients, adapters."""

import pytest
import torch

from rl_motion.algorithms.ddpo import DDPO
from rl_motion.config import PolicyConfig
from rl_motion.learner.learner import Learner
from rl_motion.models.adapter import adapter_state, attach_lora
from rl_motion.models.zoo import load_denoiser
from rl_motion.policies import DiffusionPolicy
from rl_motion.types import Experience
from tests.unit.test_jobs import load

CLOSE = {"embedded": 2e-5, "mdm": 2e-5, "unet": 3e-4}
"""Relative to the largest value: diffusers' tables are of float32, texts are encoded as a padded batch, peft adds its
products where ours are of one matrix. The U-Net of
random weights makes a difference of its input ten to twenty times larger."""
KINDS = [("embedded", "full"), ("mdm", "full"), ("mdm", "real"), ("unet", "full")]


@pytest.fixture(scope="module")
def cases(root):
    return load(root, "bench/cases")


@pytest.fixture(scope="module")
def plain(root):
    return load(root, "bench/straightforward")


@pytest.fixture(scope="module")
def models(cases, tmp_path_factory):
    return cases.make_models(tmp_path_factory.mktemp("models"), quick=True)


def adapted(job):
    """The job's denoiser, and an adapter whose every matrix does something."""
    denoiser = load_denoiser(job.model.name)
    attach_lora(denoiser.network, job.adapter, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in denoiser.network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return denoiser


def library(job, plain, ours):
    """The same with peft's own layers."""
    denoiser = load_denoiser(job.model.name)
    plain.library_adapter(denoiser.network, job.adapter, adapter_state(ours.network))
    return denoiser


def off(got, want):
    return float((got - want).abs().max() / want.abs().max())


@pytest.fixture(params=KINDS, ids="-".join)
def case(request, cases):
    return cases.Case(*request.param, quick=True)


def test_samples_and_log_probs_are_ours(case, models, plain):
    job = case.job(models)
    denoiser = adapted(job)
    ours = DiffusionPolicy(denoiser, job.policy).rollout(case.unit)
    loop = plain.Straightforward(library(job, plain, denoiser), plain.PaddedText(job.model.name), job)
    theirs = loop.sample(case.unit)
    assert off(theirs.latents_BTFD, ours.states) < CLOSE[case.kind]
    assert off(theirs.x0_BFD, ours.sample) < CLOSE[case.kind]
    assert off(theirs.log_prob_BS, ours.log_prob_BS) < CLOSE[case.kind]
    # Negative control: another guidance is another sample.
    other = PolicyConfig(**job.policy.model_dump() | {"guidance_scale": 2.0})
    assert off(DiffusionPolicy(denoiser, other).rollout(case.unit).sample, theirs.x0_BFD) > 10 * CLOSE[case.kind]


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_gradients_and_the_adapters_after_a_step_are_ours(case, models, plain, kl_weight, monkeypatch):
    job = case.job(models, {"kl_weight": kl_weight})
    ours = adapted(job)
    theirs = library(job, plain, ours)
    loop = plain.Straightforward(theirs, plain.PaddedText(job.model.name), job)
    policy = DiffusionPolicy(ours, job.policy)
    trajectory = policy.rollout(case.unit)
    # The same transitions, so that only the updates differ: samples are compared above, by a wider bound.
    condition = loop.sample(case.unit).condition
    samples = plain.Samples(case.unit, trajectory.states, trajectory.log_prob_BS, trajectory.sample, condition)
    advantage_B = torch.linspace(-1.0, 1.5, case.unit.batch)
    seen = {}
    step = torch.optim.Adam.step

    def looked_at(self, *given, **named):
        seen.update({name: parameter.grad.clone() for name, parameter in policy.adapter_parameters().items()})
        return step(self, *given, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", looked_at)
    Learner(policy, DDPO(job.algorithm), job.train).step([Experience(trajectory, advantage_B, advantage_B)])
    monkeypatch.undo()
    gradient = loop.update(samples, advantage_B)
    assert gradient.keys() == seen.keys()
    whole, wanted = (torch.cat([tensors[name].flatten() for name in sorted(seen)]) for tensors in (gradient, seen))
    assert float((whole - wanted).norm() / wanted.norm()) < 1e-4
    # Adam's first step is a sign: where a gradient is nearly zero, rounding decides it.
    large = wanted.abs() > 1e-3 * wanted.abs().max()
    moved = [
        torch.cat([parameter.detach().flatten() for _, parameter in sorted(parameters.items())])
        for parameters in (loop.parameters, policy.adapter_parameters())
    ]
    assert (moved[0] - moved[1])[large].abs().max() < 1e-5
    # Negative control: advantages of the others would be another gradient.
    again = plain.Straightforward(library(job, plain, adapted(job)), loop.text, job)
    other = again.update(again.sample(case.unit), -advantage_B)
    assert float((torch.cat([other[name].flatten() for name in sorted(other)]) - wanted).norm()) > 0.1 * wanted.norm()


def test_it_counts_the_seconds_of_its_network(case, models, plain):
    job = case.job(models)
    loop = plain.Straightforward(adapted(job), plain.PaddedText(job.model.name), job)
    samples = loop.sample(case.unit)
    sampling = loop.network_s
    loop.update(samples, torch.ones(case.unit.batch))
    assert 0 < sampling < loop.network_s


def test_a_policy_that_it_is_not_written_for_is_refused(cases, models, plain):
    case = cases.Case("mdm", quick=True)
    job = case.job(models)
    other = job.model_copy(update={"policy": job.policy.model_copy(update={"order": 2})})
    with pytest.raises(ValueError, match="want first order"):
        plain.Straightforward(adapted(job), lambda texts: torch.zeros(1), other)
