"""Where networks compute: what chooses it, and that nothing on the way of a run forgets it.

There is no GPU here. `tests/away.py` stands for one: another device, with the CPU's numbers.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import torch as safetensors
from torch import Tensor

from rl_motion.config import Job, RunFault, ScheduleConfig, UserError
from rl_motion.evaluation import bench
from rl_motion.evaluation.embedding import Real
from rl_motion.evaluation.evaluate import Bench, Evaluation, evaluate
from rl_motion.evaluation.sentinels import exact_kl
from rl_motion.models import device
from rl_motion.models.denoiser import MotionSpace, TextStatistics
from rl_motion.models.device import device_of
from rl_motion.models.evaluator import POS, Evaluator, Vocabulary
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.mdm_smpl import MDMSMPL, MDMSMPLConfig
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig
from rl_motion.models.text import TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import (
    CheckpointConfig,
    RetrievalModel,
    load_evaluator,
    network_shape,
    save_checkpoint,
    save_evaluator,
)
from rl_motion.policies import DiffusionPolicy
from rl_motion.policies.noise import unit_noise
from rl_motion.rewards.of_job import job_terms
from rl_motion.runtime import ray_backend, resuming
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.gpus import gpu_shares
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.sampling import load_policy, sample_motions
from rl_motion.runtime.workers import Environment, Learned
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit
from tests.away import AWAY, AwayTensor, pretended

pytestmark = pytest.mark.usefixtures("one_thread", "torchs_products", "_unset")
TEXTS = ["a person walks", "someone kicks with the left leg"]
PROMPTS = tuple(Prompt(id=f"p{n}", text=text, length=12 - n, group="walk") for n, text in enumerate(TEXTS))
UNITS = tuple(Unit(0, 0, index, PROMPTS, 2, watched=index == 0) for index in range(2))
PLUGIN = """
import torch
from rl_motion.types import MotionForm, Normalisation, Representation

class Tall:
    accepts = {MotionForm(form, Normalisation.NONE) for form in Representation}
    differentiable = False

    def __call__(self, motions, prompts, noise_level_B=None):
        return torch.from_numpy(motions.features_BFD.cpu().numpy().mean(axis=(1, 2)))
"""
"""A reward that computes in NumPy, on the CPU wherever motions are."""


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of every kind, a TMR and an evaluator."""
    made = tmp_path_factory.mktemp("zoo")
    create_tiny_bert(TEXTS, made / "text", TinyBertConfig(hidden=16, layers=1, heads=2))
    torch.manual_seed(3)
    space = MotionSpace(0.1 * torch.randn(263), torch.rand(263) + 0.1)
    body = MotionSpace(
        0.1 * torch.randn(205),
        torch.rand(205) + 0.1,
        representation=Representation.SMPLRIFKE_205,
        text=TextStatistics(torch.randn(16), torch.rand(16) + 0.1),
    )
    layers = {"latent_dim": 16, "ff_size": 24, "num_layers": 1, "num_heads": 2, "text_dim": 16}
    networks: dict[str, tuple[torch.nn.Module, MotionSpace]] = {
        "mdm": (MDM(MDMConfig(**layers, mask_frames=True, pos_embed_max_len=64)), space),
        "mdm_smpl": (MDMSMPL(MDMSMPLConfig(**layers, pos_embed_max_len=64)), body),
        "t2m_unet": (T2MUnet(_unet()), space),
        "tmr": (TMR(TMRConfig(**layers, max_len=64)), space),
    }
    for kind, (network, its_space) in networks.items():
        for parameter in network.parameters():  # some start at zero
            torch.nn.init.normal_(parameter, std=0.2)
        config = CheckpointConfig(
            kind=kind,
            network=network_shape(network),
            text_encoder="text",
            schedule=None if kind == "tmr" else ScheduleConfig(betas="linear", timesteps=50),
            representation=its_space.representation,
        )
        save_checkpoint(made / kind, network, config, its_space)
    vocabulary = Vocabulary.of(TEXTS)
    guo = Guo(GuoConfig(
        movement_latent=8, motion_hidden=6, text_hidden=6, coembedding=4, word_size=5, pos_size=len(POS), max_frames=16
    ))  # fmt: skip
    save_evaluator(made / "guo", Evaluator(guo, vocabulary, torch.randn(len(vocabulary.words), 5), space))
    return made


def _unet() -> T2MUnetConfig:
    return T2MUnetConfig(
        base_dim=8, dim_mults=(1, 2), time_dim=8, text_dim=16, text_latent_dim=8, text_ff_size=16, text_num_heads=2,
        num_text_layers=1, max_frames=16,
    )  # fmt: skip


def job_of(folder: Path, kind: str) -> Job:
    rules = [{"name": name} for name in ("foot_skate", "jerk", "float", "penetration")]
    tmr = [{"name": name, "model": str(folder / "tmr")} for name in ("tmr", "tmr_contrastive")]
    return Job.model_validate({
        "name": "device",
        "model": {"name": str(folder / kind)},
        "policy": {"steps": 4, "guidance_scale": 2.0, "order": 2},
        "rewards": [{"name": "tall.py:Tall"}, *([] if kind == "mdm_smpl" else [*rules, *tmr])],
        "algorithm": {"kl_weight": 0.1, "inner_epochs": 2},
        "train": {"units_per_step": 2, "ema_decay": 0.5, "learning_rate": 0.01},
        "runtime": {"backend": "local", "threads": 1},
        "evaluation": {"prompts": 2, "samples_per_prompt": 2, "page_prompts": 1},
    })  # fmt: skip


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the plugin in it."""
    (tmp_path / "tall.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def iteration(job: Job) -> tuple[LocalBackend, Rollouts, Learned]:
    """One iteration with all that a run's workers do."""
    backend = LocalBackend(job, Workshop())
    rollouts = backend.ask(UNITS, backend.start().behaviour)()
    return backend, rollouts, backend.learn(rollouts)


def tensors_of(rollouts: Rollouts) -> Iterator[Tensor]:
    for trajectory, scored in zip(rollouts.trajectories, rollouts.scored, strict=True):
        yield from (trajectory.states, trajectory.sample, trajectory.log_prob_BS, trajectory.length_B)
        yield from (scored.total_B, *scored.rewards.values(), *scored.sentinels.values())


# The stand-in


def test_what_is_away_computes_as_the_cpu_does_and_mixes_with_nothing_on_it() -> None:
    with pretended():
        x = torch.arange(4.0, device=AWAY).requires_grad_()
        y = torch.ones(4)
        assert (x.device, (x + x).sum().item(), x.tolist()) == (AWAY, 12.0, [0.0, 1.0, 2.0, 3.0])
        assert torch.equal(torch.autograd.grad((x.cpu() * y).sum(), x)[0].cpu(), y)
        assert torch.tensor([2.0], device=AWAY).cpu().item() == 2.0
        assert (x * torch.tensor(2.0)).device == x[torch.tensor([1])].device == AWAY
        for mixed in (lambda: x + y, lambda: torch.where(y > 0, x, x), lambda: torch.cat([x, y]), lambda: y[x.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            x.detach().numpy()


# On the way of a run


def gradients(state: bytes) -> dict[str, Tensor]:
    """Adam's first moments after one iteration."""
    return {name: tensor for name, tensor in safetensors.load(state).items() if name.startswith("adam_mean/")}


@pytest.mark.parametrize("kind", ["mdm", "mdm_smpl", "t2m_unet"])
def test_an_iteration_on_another_device_is_the_cpus(kind: str, folder: Path, here: Path) -> None:
    """Everything that computes is there, everything that leaves a worker is on the CPU, and no number changes."""
    job = job_of(folder, kind)
    _, on_cpu, learned = iteration(job)
    with pretended():
        backend, rollouts, away = iteration(job)
        policies: list[Any] = [backend._rollout.policy, backend._learner.training.policy]
        networks = [*(policy._denoiser for policy in policies), backend._reward.parts[0].args[0]]  # type: ignore[attr-defined]
        assert {device_of(network) for network in networks} == {AWAY}
    assert away.snapshot.environment == replace(learned.snapshot.environment, device="a GPU")
    if kind == "t2m_unet":  # backward through convolutions, the CPU has another kernel for tensors of a class
        want, got = (gradients(update.snapshot.state) for update in (learned, away))
        assert want.keys() == got.keys() and len(want) > 10
        for name, gradient in want.items():
            # Of the gradients: Adam's first step is their sign, and that of rounding noise is a random one.
            assert (got[name] - gradient).norm() <= 1e-3 * max(float(w.norm()) for w in want.values()), name
        assert away.metrics == pytest.approx(learned.metrics, rel=1e-3)
    else:
        assert away.snapshot.state == learned.snapshot.state
        assert away.metrics == learned.metrics
    assert away.metrics["learner/grad_norm"] > 0
    found = list(tensors_of(rollouts))
    assert not any(isinstance(tensor, AwayTensor) for tensor in found)
    assert all(torch.equal(one, other) for one, other in zip(found, tensors_of(on_cpu), strict=True))


def _noise_stays(self: Any, unit: Unit, step: int) -> Tensor:
    return unit_noise(unit, step, self._denoiser.features, torch.float32, canvas=self._denoiser.canvas)


def _mask_stays(length_B: Tensor, size: int) -> Tensor:
    return torch.arange(size)[None] < length_B[:, None]


def _text_stays(self: Any, texts: Any) -> Tensor:
    return self.scorer.embed_text(*self._text_encoder.tokens(texts))  # type: ignore[no-any-return]


def _sample_stays(model: Any, trajectory: Any) -> Motions:
    return model.decode(trajectory.sample, trajectory.length_B)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("owner", "name", "forgetful"),
    [
        (DiffusionPolicy, "_noise", _noise_stays),
        (importlib.import_module("rl_motion.models.mdm"), "valid_mask", _mask_stays),
        (RetrievalModel, "embed_texts", _text_stays),
        (importlib.import_module("rl_motion.policies.of_job"), "decode", _sample_stays),
    ],
    ids=["noise", "mask", "text", "sample"],
)
def test_control_a_device_that_is_forgotten_is_seen(
    owner: Any, name: str, forgetful: Any, folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, forgetful)
    job = job_of(folder, "mdm")
    with pretended(), pytest.raises(RuntimeError, match="same device"):
        iteration(job)


def judged(job: Job, folder: Path, adapter: Path) -> tuple[Evaluation, float]:
    """Base beside tuned under a tiny evaluator, beside real motion; and the exact KL of the tuned."""
    generator = torch.Generator().manual_seed(0)
    motion = Motions(
        torch.randn(2, 12, 263, generator=generator),
        torch.tensor([12, 8]),
        20.0,
        Representation.HUMANML3D_263,
        Normalisation.NONE,
    )
    own = Bench(
        prompts=lambda _: PROMPTS,
        terms=job_terms(job),
        evaluator=bench.evaluator_of,
        real=lambda *_: Real(motion, TEXTS, ["walk"] * 2),
    )
    policies = {"base": load_policy(job, None), "tuned": load_policy(job, adapter)}
    tuned = policies["tuned"]
    return evaluate(job, policies, own, {"held_out": "target/test"}), exact_kl(tuned, tuned.rollout(UNITS[0]))


def test_evaluation_and_samples_from_another_device_are_the_cpus(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(folder, "mdm")
    monkeypatch.setattr(bench, "load_evaluator", lambda _: load_evaluator(folder / "guo"))
    adapter = here / "adapter"
    adapter.mkdir()
    for name, content in iteration(job)[2].snapshot.files.items():
        (adapter / name).write_bytes(content)
    on_cpu, kl = judged(job, folder, adapter)
    console = Console(file=io.StringIO())
    samples = sample_motions(load_policy(job, adapter), PROMPTS, 2, seed=1, console=console)
    with pretended():
        away, its_kl = judged(job, folder, adapter)
        its_samples = sample_motions(load_policy(job, adapter), PROMPTS, 2, seed=1, console=console)
    # The evaluator's convolutions and recurrences have other kernels on the CPU for tensors of a class: to rounding.
    others = [[replace(record, distance=None) for record in found.records] for found in (away, on_cpu)]
    assert others[0] == others[1]
    assert [one.distance for one in away.records] == pytest.approx([one.distance for one in on_cpu.records], abs=1e-5)
    assert its_kl == kl > 0
    for arm, parts in on_cpu.embedded["held_out"].motions.items():
        its_points = np.concatenate(away.embedded["held_out"].motions[arm])
        np.testing.assert_allclose(its_points, np.concatenate(parts), rtol=1e-4, atol=1e-5)
    assert np.array_equal(its_samples.joints_BFJ3, samples.joints_BFJ3)
    assert torch.equal(its_samples.motions.features_BFD, samples.motions.features_BFD)


def test_experiments_measure_on_another_device_what_they_measure_here(
    root: Path, folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "jobs" / "experiments"))
    measuring = importlib.import_module("measuring")
    world = SimpleNamespace(success=lambda form, text, joints_FJ3, fps: joints_FJ3.mean() > 0)
    form = (20.0, Representation.HUMANML3D_263, Normalisation.NONE)
    motion = Motions(torch.rand(2, 12, 263), torch.tensor([12, 8]), *form)
    monkeypatch.setattr(measuring, "prompts_of", lambda *_: list(PROMPTS))
    monkeypatch.setattr(measuring, "world_of", lambda _: world)
    monkeypatch.setattr(measuring, "real_motion", lambda *_: [(motion, PROMPTS)])

    def ask(arm: str) -> Any:
        return measuring.Ask(
            arm=arm, part="source/test", job=job_of(folder, "mdm").model_dump(mode="json"), adapter=None,
            evaluator=str(folder / "guo"), prompts=2, samples=2, seed=0, real=1,
        )  # fmt: skip

    for arm in ("base", measuring.REAL):
        on_cpu = measuring.measure(ask(arm))
        with pretended():
            away = measuring.measure(ask(arm))
        assert on_cpu.keys() == away.keys()
        for name in ("motion", "text"):  # points of the evaluator
            np.testing.assert_allclose(away.pop(name), on_cpu.pop(name), rtol=1e-4, atol=1e-5)
        assert all(np.array_equal(on_cpu[name], away[name]) for name in on_cpu)


# The choice


def test_a_gpu_is_taken_where_torch_sees_one_and_left_alone_where_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert device.device() == torch.device("cpu")
    assert device.device_name() == "cpu"
    exact: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(device, "_make_exact", lambda: exact.append(True))
    assert device.device() == torch.device("cuda")
    assert device.device_name() == "H200"
    assert exact
    device.keep_to_cpu()
    assert device.device() == torch.device("cpu")
    monkeypatch.setenv(device.VARIABLE, "cuda:1")
    with pytest.raises(UserError, match=r"got RL_MOTION_DEVICE='cuda:1'; want 'cpu', or nothing.*; correct it"):
        device.device()


def test_a_gpu_computes_in_float32_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    try:
        device._make_exact()
        assert {part.fp32_precision for part in parts} == {"ieee"}
        assert torch.are_deterministic_algorithms_enabled()
        assert device.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


# On Ray

WORKERS = {"rollout": 2, "reward": 1, "learner": 1}


@pytest.mark.parametrize(
    ("nodes", "marked", "shares"),
    [
        ([{"CPU": 8}], (), (0.0, 0.0, 0.0)),
        ([{"CPU": 8, "GPU": 1}], (), (0.25, 0.25, 0.25)),
        ([{"GPU": 1}, {"GPU": 2}], (), (0.5, 0.5, 0.5)),
        ([{"GPU": 8}], (), (1.0, 1.0, 1.0)),
        # Rollouts on CPUs: learners too, and the GPUs of their nodes are left alone.
        ([{"rollout": 1}, {"reward": 1, "GPU": 1}, {"learner": 1, "GPU": 1}], tuple(WORKERS), (0.0, 1.0, 0.0)),
        ([{"rollout": 1, "GPU": 1}, {"reward": 1}, {"learner": 1, "GPU": 1}], tuple(WORKERS), (0.5, 0.0, 1.0)),
        ([{"rollout": 1, "learner": 1, "GPU": 1}, {"reward": 1, "GPU": 1}], tuple(WORKERS), (0.3333, 1.0, 0.3333)),
    ],
)
def test_shares_of_gpus(nodes: list[dict[str, float]], marked: tuple[str, ...], shares: tuple[float, ...]) -> None:
    assert tuple(gpu_shares(WORKERS, nodes, marked).values()) == shares  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", range(1, 40))
@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_all_workers_fit_as_ray_counts(workers: int, gpus: int) -> None:
    sizes = {"rollout": workers, "reward": 1, "learner": 1}
    share = gpu_shares(sizes, [{"GPU": gpus}], ())["rollout"]  # type: ignore[arg-type]
    a_gpu_takes = 10_000 // round(share * 10_000)
    assert a_gpu_takes * gpus >= workers + 2


def test_policies_share_a_kind_of_device_and_reward_workers_have_their_own() -> None:
    backend: Any = object.__new__(ray_backend.RayBackend)
    backend._environment = backend._reward_environment = None
    gpu = Environment(threads=1, cpu_capability="AVX2", torch="2", machine="x86_64", device="H200")
    cpu = replace(gpu, device="cpu")
    backend._inspect(gpu)
    backend._inspect_reward(cpu)
    with pytest.raises(RunFault, match=r"device='cpu'.*; want .*device='H200'.*RL_MOTION_DEVICE=cpu"):
        backend._inspect(cpu)
    with pytest.raises(RunFault, match="device='H200'"):
        backend._inspect_reward(gpu)
    with pytest.raises(RunFault, match="AVX512"):
        backend._inspect_reward(replace(cpu, cpu_capability="AVX512"))


def test_a_run_that_goes_on_elsewhere_says_so(caplog: pytest.LogCaptureFixture) -> None:
    there: Any = SimpleNamespace(adapter_sha256="a", device="cpu", cpu_capability="AVX2", torch="2")
    environment = Environment(threads=1, cpu_capability="AVX2", torch="2", machine="x86_64", device="H200")
    snapshot: Any = SimpleNamespace(sha256="a", environment=environment)
    with caplog.at_level(logging.WARNING):
        resuming.check_state(there, snapshot)
    assert "was made on device cpu" in caplog.text
    assert "H200" in caplog.text
