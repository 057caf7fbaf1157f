"""On a machine with a GPU: an iteration of a real job there, in one process and on Ray, beside the same on the CPU.

Run it with `pytest tests/gpu`; without a GPU everything here is skipped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load

from rl_motion.config import Job
from rl_motion.config.load import load_job
from rl_motion.evaluation.bench import evaluator_of
from rl_motion.models import device
from rl_motion.models.device import device_of
from rl_motion.policies import audit
from rl_motion.runtime import frontend
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.workers import Learned
from rl_motion.types import Prompt, Unit

pytestmark = pytest.mark.gpu
TEXTS = ("a person walks forward", "a person kicks with the left leg")
PROMPTS = tuple(Prompt(id=f"p{n}", text=text, length=40, group="walk") for n, text in enumerate(TEXTS))
UNITS = tuple(Unit(0, 0, index, PROMPTS, 4, watched=True) for index in range(2))


@pytest.fixture(autouse=True)
def _as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests may have kept this process to the CPU; and the next ones find torch as it was."""
    monkeypatch.delenv(device.VARIABLE, raising=False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def job() -> Job:
    rules = ["foot_skate", "jerk", "float", "penetration"]
    named = [{"name": name, "weight": 0.1} for name in rules] + [{"name": "tmr"}, {"name": "tmr_contrastive"}]
    sets = ["train.iterations=1", "runtime.backend=local", "tracking.mlflow_uri=null", "evaluation.prompts=2"]
    sizes = ["train.prompts_per_iteration=4", "train.units_per_step=2", "train.prompts_per_unit=2"]
    made = load_job("demo", [*sets, *sizes])
    return Job.model_validate(made.model_dump() | {"rewards": named})


def iteration(job: Job) -> tuple[LocalBackend, Rollouts, Learned]:
    """Rollouts, rewards, the audit and an update."""
    backend = LocalBackend(job, Workshop())
    rollouts = backend.ask(UNITS, backend.start().behaviour)()
    return backend, rollouts, backend.learn(rollouts)


def test_an_iteration_on_the_gpu_is_audited_exactly_and_close_to_the_cpus(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`learn` audits every unit: replay gives the rollout's log-probs to the bit, or it raises."""
    backend, rollouts, learned = iteration(job)
    assert learned.snapshot.environment.device == torch.cuda.get_device_name()
    assert device_of(backend._rollout.policy._denoiser.network).type == "cuda"  # type: ignore[attr-defined]
    assert all(trajectory.states.device.type == "cpu" for trajectory in rollouts.trajectories)
    monkeypatch.setenv(device.VARIABLE, "cpu")
    _, on_cpu, its_learned = iteration(job)
    assert its_learned.snapshot.environment.device == "cpu"
    for here, there in zip(rollouts.trajectories, on_cpu.trajectories, strict=True):
        assert torch.equal(here.states[:, 0], there.states[:, 0])  # the noise is the same to the bit
        torch.testing.assert_close(here.sample, there.sample, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(here.log_prob_BS, there.log_prob_BS, rtol=1e-3, atol=1e-3)
    for scored, other in zip(rollouts.scored, on_cpu.scored, strict=True):
        for name, value_B in scored.rewards.items():
            torch.testing.assert_close(value_B, other.rewards[name], rtol=1e-2, atol=1e-2, msg=name)
    adapter, its = load(learned.snapshot.adapter), load(its_learned.snapshot.adapter)
    moved = torch.cat([its[name].flatten() for name in its if ".lora_B." in name])  # from zero
    got = torch.cat([adapter[name].flatten() for name in its if ".lora_B." in name])
    # Adam's first step has one size whatever the gradient: where that is next to 0 its sign is chance.
    assert torch.nn.functional.cosine_similarity(got, moved, dim=0) > 0.9


def test_the_same_iteration_twice_gives_the_same_bits(job: Job) -> None:
    one, other = (iteration(job)[2].snapshot for _ in range(2))
    assert (one.sha256, one.state) == (other.sha256, other.state)


def test_rewards_on_the_gpu_are_the_cpus_to_tolerance_for_the_same_motion(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, rollouts, _ = iteration(job)
    monkeypatch.setenv(device.VARIABLE, "cpu")
    on_cpu = LocalBackend(job, Workshop())
    on_cpu.start()
    for trajectory, scored in zip(rollouts.trajectories, rollouts.scored, strict=True):
        again = on_cpu._reward.score(trajectory)
        for name, value_B in {**scored.rewards, **scored.sentinels}.items():
            other_B = again.rewards.get(name, again.sentinels.get(name))
            torch.testing.assert_close(value_B, other_B, rtol=1e-3, atol=1e-4, msg=name)
    policy = backend._learner.training.policy
    audit(policy, policy.rollout(UNITS[0]))


def test_the_evaluator_on_the_gpu_gives_the_cpus_points(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LocalBackend(job, Workshop())._rollout.policy
    motions = policy.decode(policy.rollout(UNITS[0]))
    there = evaluator_of("source/test")
    points = [there.embed_motions(motions).cpu(), there.embed_texts(TEXTS).cpu()]
    monkeypatch.setenv(device.VARIABLE, "cpu")
    here = evaluator_of("source/test")
    for point, other in zip(points, (here.embed_motions(motions), here.embed_texts(TEXTS)), strict=True):
        torch.testing.assert_close(point, other, rtol=1e-3, atol=1e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_every_worker_has_a_share_of_the_gpu_and_the_bits_are_those_of_one_process(
    job: Job, tmp_path: Path
) -> None:
    """The whole command: rollouts, rewards and learners share what GPUs there are; two learners agree to the bit."""
    import ray

    quiet = Console(file=io.StringIO())
    local = frontend.start(job, tmp_path / "local", quiet).folder
    runtime = job.runtime.model_copy(
        update={"backend": "ray", "rollout_workers": 2, "reward_workers": 1, "learner_workers": 2}
    )
    with_cluster = not ray.is_initialized()
    remote = frontend.start(job.model_copy(update={"runtime": runtime}), tmp_path / "ray", quiet).folder
    if with_cluster:
        ray.shutdown()
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (local, remote)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    manifest = sorted((remote / "commits").glob("*/manifest.json"))[-1].read_text()
    assert torch.cuda.get_device_name() in manifest
