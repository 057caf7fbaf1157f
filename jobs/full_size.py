"""Do published models at their full size take a post-training step in 24 GB, in how much memory and how long?

    python jobs/full_size.py --out runs/full-size                        # all of them, one after the other; resumable
    python jobs/full_size.py --out runs/full-size --model mdm --model mdm-smpl
    python jobs/full_size.py --out /tmp/full-size --tiny                 # whether everything fits together, in a minute

Each model has its authors' shape and random weights: figures of memory and time do not depend on what was learnt, and
published weights need not be at hand. Beside it are a text encoder shaped as CLIP ViT-B/32 and a TMR reward of the
published size, as `jobs/papers/` uses it. One optimiser step of the paper's job is made: 2 prompts x 2 samples of 196
frames, one inner epoch (the other three repeat it, in the same memory), on one thread, in one process that holds
rollout, reward and learner. Its gradient has to be positive and finite, and the adapter has to change.

StableMoFusion is measured twice more, as a learner alone that differentiates one transition of the same rows: by its
adapter, and by all of its weights, which is full fine-tuning. `mdm-kit` is MDM in the 251 features of KIT-ML.

Every part is a process of its own; its peak is the kernel's (VmHWM). Results: OUT/results/*.json, OUT/full-size.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unittest import mock

import typer

from rl_motion.config import Job, ScheduleConfig, UserError
from rl_motion.config.load import load_job
from rl_motion.tracking.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rl_motion.types import Metrics

PAPERS = Path(__file__).resolve().parent / "papers"
FRAMES = 196
PROMPTS = ("a person walks forward and sits down", "a man jumps twice and waves with the left hand")
SAMPLES = 2
LIMIT_GB = 24.0
BYTES_PER_TRAINED = 16
"""In float32 of a weight that Adam trains: itself, its gradient and two moments."""
_MEAN_WEIGHT = 0.02
"""Deviation of weights that their authors start at zero: with those the gradient of everything before them is zero."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A published model. job: of jobs/papers. tiny: what is narrower in tests."""

    job: str
    kind: str
    tiny: dict[str, Any]
    schedule: ScheduleConfig
    representation: str = "humanml3d-263"
    fps: float = 20.0
    normalisation: str = "dataset"
    text_cut: int = 77
    features: int = 263
    parts: tuple[str, ...] = ("step",)


_MDM_TINY = {"latent_dim": 32, "ff_size": 32, "num_layers": 1, "text_dim": 32}
MODELS = {
    "mdm": Shape("mdm", "mdm", _MDM_TINY, ScheduleConfig(betas="cosine", timesteps=50), text_cut=22),
    "mdm-kit": Shape(
        "mdm", "mdm", _MDM_TINY, ScheduleConfig(betas="cosine", timesteps=50), "kit-251", 12.5, text_cut=22,
        features=251,
    ),
    "mdm-smpl": Shape(
        "mdm-smpl", "mdm_smpl", _MDM_TINY, ScheduleConfig(betas="cosine", timesteps=100), "smplrifke-205", features=205
    ),
    "stablemofusion": Shape(
        "stablemofusion", "t2m_unet",
        {"base_dim": 16, "time_dim": 16, "text_dim": 32, "text_latent_dim": 16, "text_ff_size": 16,
         "max_frames": 48, "dim_mults": [1, 1], "num_text_layers": 1},
        ScheduleConfig(betas="linear", timesteps=1000), normalisation="stablemofusion",
        parts=("adapter", "full", "step"),
    ),
}  # fmt: skip
"""Those that `jobs/papers/` post-trains, the smaller first."""


def make_models(folder: Path, name: str, *, tiny: bool) -> None:
    """Write a model, its text encoder and the reward with its own, all with random weights; what is there is kept."""
    import torch

    from rl_motion.models.text import silence

    torch.manual_seed(0)
    for made, make in (("clip", _make_clip), ("distilbert", _make_distilbert), ("tmr", _make_tmr)):
        with silence():
            _whole(folder / made, partial(make, tiny=tiny))
    _whole(folder / name, partial(_make_denoiser, shape=MODELS[name], tiny=tiny))


def _whole(folder: Path, make: Callable[[Path], None]) -> None:
    """A folder that is there as a whole or not at all."""
    if folder.is_dir():
        return
    half = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    make(half)
    half.rename(folder)


def _make_clip(folder: Path, tiny: bool) -> None:
    """A directory of a text encoder shaped as CLIP ViT-B/32's, whose tokenizer spells the prompts' words."""
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

    from rl_motion.models.text import TinyBertConfig, create_tiny_bert

    create_tiny_bert(PROMPTS, folder, TinyBertConfig(hidden=8, layers=1, heads=2, max_tokens=77))  # for its tokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    small: dict[str, Any] = (
        {"hidden_size": 32, "intermediate_size": 8, "projection_dim": 32, "num_hidden_layers": 1} if tiny else {}
    )
    config = CLIPTextConfig(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **small,  # its defaults are ViT-B/32's
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)


def _make_distilbert(folder: Path, tiny: bool) -> None:
    """A directory of a text encoder shaped as DistilBERT, which TMR reads."""
    from transformers import DistilBertConfig, DistilBertModel

    from rl_motion.models.text import TinyBertConfig, create_tiny_bert

    create_tiny_bert(PROMPTS, folder, TinyBertConfig(hidden=8, layers=1, heads=2, max_tokens=512))
    small: dict[str, Any] = {"dim": 32, "hidden_dim": 32, "n_layers": 1, "n_heads": 2} if tiny else {}
    DistilBertModel(DistilBertConfig(**small)).save_pretrained(folder)


def _make_tmr(folder: Path, tiny: bool) -> None:
    from rl_motion.models.tmr import TMR, TMRConfig
    from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint
    from rl_motion.types import Normalisation

    small: dict[str, Any] = {"text_dim": 32, "latent_dim": 16, "ff_size": 16, "num_layers": 1} if tiny else {}
    network = TMR(TMRConfig(**small))
    config = CheckpointConfig(
        kind="tmr",
        network=network_shape(network),
        text_encoder="distilbert",
        normalisation=Normalisation.TMR,
        own_heading=False,
    )
    save_checkpoint(folder, network, config, _space(263))


def _make_denoiser(folder: Path, shape: Shape, tiny: bool) -> None:
    from rl_motion.models.denoiser import TextStatistics
    from rl_motion.models.zoo import DENOISERS, CheckpointConfig, network_shape, save_checkpoint
    from rl_motion.types import Normalisation, Representation

    network_class, shape_class, denoiser_class = DENOISERS[shape.kind]
    network = network_class(shape_class(features=shape.features, **(shape.tiny if tiny else {})))
    _wake(network)
    config = CheckpointConfig(
        kind=shape.kind,
        network=network_shape(network),
        text_encoder="clip",
        text_cut=shape.text_cut,
        schedule=shape.schedule,
        fps=shape.fps,
        representation=Representation(shape.representation),
        normalisation=Normalisation(shape.normalisation),
    )
    space = _space(shape.features)
    if denoiser_class.normalises_text:
        width = network.config.text_dim
        space = replace(space, text=TextStatistics(space.mean_D.new_zeros(width), space.mean_D.new_ones(width)))
    save_checkpoint(folder, network, config, space)


def _wake(network: nn.Module) -> None:
    """Give small weights to layers whose weights all start at zero."""
    import torch

    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=_MEAN_WEIGHT)


def _space(features: int) -> Any:
    """Statistics with which random features are a body: no two joints in one place."""
    import torch

    from rl_motion.models.denoiser import MotionSpace

    mean_D = 0.2 * torch.randn(features, generator=torch.Generator().manual_seed(1))
    return MotionSpace(mean_D, torch.full((features,), 0.1))


def job_of(models: Path, name: str, *, tiny: bool) -> Job:
    """The paper's job with few prompts and those models, on one thread.

    Raises:
        UserError: it cannot work.
    """
    frames = 16 if tiny else FRAMES
    prompts = models.parent / "prompts.txt"
    write_atomic(prompts, "".join(f"{text}#{frames}\n" for text in PROMPTS).encode())
    sets = [
        f"model.name={models / name}",
        f"prompts.sources={json.dumps({str(prompts): 1})}",
        f"rewards={json.dumps([{'name': 'tmr', 'model': str(models / 'tmr')}])}",
        f"train.prompts_per_iteration={len(PROMPTS)}",
        f"train.prompts_per_unit={len(PROMPTS)}",
        f"train.samples_per_prompt={SAMPLES}",
        "train.iterations=1",
        "algorithm.inner_epochs=1",
        "runtime.backend=local",
        "runtime.threads=1",
    ]
    return load_job(str(PAPERS / f"{MODELS[name].job}.yaml"), sets)


def step(job: Job) -> dict[str, float]:
    """One iteration of the job by the run's own loop: seconds of every stage, gradient, and what became of the adapter.

    Raises:
        UserError, RunFault: the job cannot work; the audit found a difference.
    """
    from rl_motion.learner import learner
    from rl_motion.runtime import loop
    from rl_motion.runtime.build import Workshop, build_pool, check_job
    from rl_motion.runtime.local import LocalBackend

    check_job(job)
    backend, audited_s, rows = LocalBackend(job, Workshop()), [0.0], list[Any]()
    before = backend.start()
    audit = vars(learner)["audit"]

    def clocked(*given: Any) -> None:
        started = time.perf_counter()
        audit(*given)
        audited_s[0] += time.perf_counter() - started

    def record(_iteration: int, _state: loop.State, metrics: Metrics) -> None:
        rows.append(metrics)

    with mock.patch.object(learner, "audit", clocked):
        after = loop.train(job, build_pool(job), backend, loop.State(before), record).snapshot
    [metrics] = rows
    return {
        "rollout_s": metrics["time/rollout_s"],
        "reward_s": metrics["time/reward_s"],
        "audit_s": audited_s[0],
        "learner_s": metrics["time/learner_s"] - audited_s[0],
        "grad_norm": metrics["learner/grad_norm"],
        "skipped_steps": metrics["learner/skipped_steps"],
        "adapter_changed": float(before.sha256 != after.sha256),
    }


def learner_alone(job: Job, *, full: bool) -> dict[str, float]:
    """One optimiser step on one transition of the rows, by all weights or by the adapter, and nothing else in memory.

    Raises:
        UserError: what Adam needs for all weights is more than the machine has free, before any activation.
    """
    import torch

    from rl_motion.models.adapter import attach_lora
    from rl_motion.models.zoo import load_denoiser
    from rl_motion.policies.of_job import make_policy
    from rl_motion.runtime.build import build_pool

    torch.set_num_threads(job.runtime.threads)
    denoiser = load_denoiser(job.model.name)
    everything = sum(parameter.numel() for parameter in denoiser.network.parameters())
    if full:
        refuse_too_large(everything * BYTES_PER_TRAINED / 1e9, free_gb())
        denoiser.network.requires_grad_(True)
    else:
        attach_lora(denoiser.network, job.adapter, seed=job.train.seed)
    # Two calls, one of them a transition: its shapes are those of the job's ten.
    policy = make_policy(denoiser, job.policy.model_copy(update={"steps": 2}))
    [unit] = build_pool(job).draw(0, job.train)
    with torch.no_grad():
        trajectory = policy.rollout(unit, policy_version=0)
    trained = [parameter for parameter in denoiser.network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=job.train.learning_rate)
    started = time.perf_counter()
    log_prob_B = policy.replay(trajectory, first=1).log_prob_BS[:, 0]
    advantage_B = torch.tensor([1.0, -1.0]).repeat(unit.batch // 2)
    loss = -(torch.exp(log_prob_B - trajectory.log_prob_BS[:, 0]) * advantage_B).mean()
    loss.backward()
    norm = _norm(trained)
    optimizer.step()
    return {
        "learner_s": time.perf_counter() - started,
        "grad_norm": norm,
        "trained": float(sum(parameter.numel() for parameter in trained)),
    }


def _norm(parameters: list[nn.Parameter]) -> float:
    squares: list[Tensor] = [p.grad.double().pow(2).sum() for p in parameters if p.grad is not None]
    return math.sqrt(sum(float(square) for square in squares))


def refuse_too_large(need_gb: float, free: float) -> None:
    """Raises UserError where more is needed than there is, or than the limit."""
    if need_gb > min(free, LIMIT_GB):
        raise UserError(
            f"got {free:.1f} GB of free memory and a limit of {LIMIT_GB:g} GB for full fine-tuning; want {need_gb:.1f} "
            "GB for weights, gradients and Adam's moments, before any activation; train an adapter"
        )


def free_gb() -> float:
    """What a new process may take without swapping."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable") / 1e6 * 1.024


def peak_gb() -> float:
    """The most that this process has held so far."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM") / 1e6 * 1.024


def _kilobytes(file: Path, key: str) -> int:
    """The kernel's entry in units of 1024 bytes.

    Raises:
        UserError: no Linux.
    """
    try:
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(lines[key].split()[0])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"got no {key} in {file}; want Linux, whose kernel counts memory; measure there") from error


def measure(models: Path, name: str, part: str, *, tiny: bool) -> dict[str, float]:
    """A part of a model, in this process, with its peak.

    Raises:
        UserError: the gradient is no positive finite number, or the adapter has not changed.
    """
    import torch

    job = job_of(models, name, tiny=tiny)
    found = step(job) if part == "step" else learner_alone(job, full=part == "full")
    if not (0.0 < found["grad_norm"] < math.inf and found.get("adapter_changed", 1.0)):
        raise UserError(
            f"got {found} of {name}; want a positive finite gradient and an adapter that changed; see the job"
        )
    return found | {"peak_gb": peak_gb(), "threads": float(torch.get_num_threads())}


def result(out: Path, name: str, part: str, *, tiny: bool) -> dict[str, Any]:
    """What a process found of a part of a model; kept where it was measured before.

    Raises:
        UserError: the process failed; its log says why.
    """
    file = out / "results" / f"{name}-{part}.json"
    shape = MODELS[name]
    shaped = json.loads(json.dumps(asdict(shape) | {"schedule": shape.schedule.model_dump()}))
    inputs = {"tiny": tiny, "shape": shaped, "job": _sha256(PAPERS / f"{shape.job}.yaml")}
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if kept["inputs"] != inputs:
            raise UserError(f"got {file}, of another job or other sizes; want that of this call; choose another --out")
        typer.echo(f"{name}, {part}: kept", err=True)
        return kept
    typer.echo(f"{name}, {part}: measured ...", err=True)
    _process(out, name, "model", tiny)
    found = _process(out, name, part, tiny)
    measured = {"model": name, "part": part, "inputs": inputs, "figures": found}
    write_atomic(file, (json.dumps(measured, indent=1) + "\n").encode())
    typer.echo(f"{name}, {part}: peak {found['peak_gb']:.2f} GB", err=True)
    return measured


def _process(out: Path, name: str, part: str, tiny: bool) -> Any:
    """Run this script for one part and read what it says last.

    Raises:
        UserError: it failed.
    """
    words = [sys.executable, str(Path(__file__).resolve()), "--out", str(out), "--model", name, "--part", part]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {"RL_MOTION_TEXT_CACHE": str((out / "text-features").absolute())}
    words += ["--tiny"] if tiny else []
    ended = subprocess.run(words, env=os.environ | one | own, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise UserError(
            f"got exit code {ended.returncode} of {name}, {part}; want 0 (-9: memory ran out); see what it said above"
        )
    return json.loads(ended.stdout.splitlines()[-1])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row for each part of a model."""
    lines = [
        "| model | part | peak, GB | rollout, s | audit, s | reward, s | learner, s | gradient norm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        figures = one["figures"]
        seconds = [f"{figures[key]:.1f}" if key in figures else "" for key in ("rollout_s", "audit_s", "reward_s")]
        cells = [one["model"], one["part"], f"{figures['peak_gb']:.2f}", *seconds, f"{figures['learner_s']:.1f}"]
        lines.append(f"| {' | '.join([*cells, format(figures['grad_norm'], '.3g')])} |")
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Where models (2 GB), results and the table go.")] = Path("runs/full-size"),
    model: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(MODELS)}; repeatable.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small models of few frames: a test of the script.")] = False,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure what is missing, then write and print the table."""
    try:
        if unknown := sorted(set(model or ()) - MODELS.keys()):
            raise UserError(f"got --model {unknown[0][:60]!r}; want one of {', '.join(MODELS)}; correct it")
        names = [name for name in MODELS if name in (model or MODELS)]
        if part == "model":
            make_models(out / "models", names[0], tiny=tiny)
            typer.echo("{}")
        elif part is not None:
            typer.echo(json.dumps(measure(out / "models", names[0], part, tiny=tiny)))
        else:
            results = [result(out, name, part, tiny=tiny) for name in names for part in MODELS[name].parts]
            write_atomic(out / "full-size.md", (table(results) + "\n").encode())
            typer.echo(table(results))
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
