"""What `rl-motion pretrain` does: the text encoder where one is made, the network, its checkpoint and its card."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rl_motion.config import PretrainJob, UserError
from rl_motion.data.datasets.dataset import Dataset
from rl_motion.models.device import device_name
from rl_motion.models.fitting import fit
from rl_motion.models.text import TextEncoder
from rl_motion.models.zoo import load_denoiser, load_evaluator, load_tmr
from rl_motion.runtime.pretraining import making
from rl_motion.runtime.pretraining.folder import PretrainRun, Stage, appearing, forget, open_run
from rl_motion.runtime.progress import watching
from rl_motion.tracking.mlflow_data import DataSet
from rl_motion.tracking.mlflow_tracker import check_uri
from rl_motion.types import Metrics

NETWORK = "network"
_READ = frozenset({".json", ".safetensors", ".txt", ".model"})
"""Files of a text encoder's directory."""
_LOADERS: dict[str, Callable[[Path], Any]] = {
    "denoiser": load_denoiser,
    "retrieval": load_tmr,
    "evaluator": load_evaluator,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pretraining that is over. model: the checkpoint's folder. losses: the last row. before: whether it was over
    already."""

    folder: Path
    model: Path
    losses: Metrics
    wall_s: float
    before: bool


def pretrain(job: PretrainJob, out: Path, console: Console) -> Pretrained:
    """Train a job's network to the end: from the beginning, or from where the last process stopped, bit for bit.

    Args:
        job: resolved.
        out: the run is out/<job name>.
        console: shows how far it is.

    Raises:
        UserError: a job that cannot be trained, or a folder of another one.
        RunFault: a loss that is not finite.
    """
    started = time.monotonic()
    check_uri(job.tracking.mlflow_uri)
    torch.set_num_threads(job.runtime.threads)
    dataset, given = Dataset.open(job.data.directory), making.text_folder(job)
    dataset.split("train")
    making.check_network(job, dataset)
    reads = {"data": dataset.info.sha256, "text": "" if given is None else _digest(given)}
    with open_run(job, out, reads | {"torch": torch.__version__, "device": device_name()}) as run:
        console.print(f"run: {run.folder}", highlight=False, soft_wrap=True)
        before = run.model.is_dir()
        if before:
            forget(run, NETWORK)
        else:
            with _explained(run), torch.random.fork_rng(devices=[]):
                _train(run, dataset, given, console)
        last = run.rows()[-1] if run.rows() else {}
    return Pretrained(run.folder, run.model, last, time.monotonic() - started, before)


def _train(run: PretrainRun, dataset: Dataset, given: Path | None, console: Console) -> None:
    job, text = run.job, run.folder / making.TEXT
    texts = job.text_steps
    done = texts + _steps(run, NETWORK) if text.is_dir() or not texts else _steps(run, making.TEXT)
    run.begin(done, _data_set(dataset))
    with watching(console, done, texts + job.train.steps) as watch:

        def show(steps: int, metrics: Metrics) -> None:
            watch.show(steps - 1, metrics)

        if job.kind != "evaluator" and not text.is_dir():
            with appearing(text) as partial:
                if given is not None:
                    _place(given, partial)
                else:
                    making.make_text(job, dataset.split("train"), partial, Stage(run, making.TEXT, 0, show))
        forget(run, making.TEXT)
        run.saved = max(run.saved, texts)
        encoder = None if job.kind == "evaluator" else _encoder(text)
        data = making.material_of(job, dataset, encoder)
        network = making.make_network(job, data, encoder)
        recipe = making.recipe_of(job)
        stage = Stage(run, NETWORK, texts, show, network.validate)
        try:
            average = fit(network.model, network.loss, recipe, stage, decay=job.train.ema_decay or recipe.usual_decay)
        except ValueError as error:
            if "state of another training" not in str(error):
                raise
            raise UserError(f"{run.folder}: {error}; want its own; remove the folder and start again") from None
        with appearing(run.model) as partial:
            network.save(partial, average)
            (partial / "README.md").write_text(_card(run, data), encoding="utf-8")
            _LOADERS[job.kind](partial)  # as everything else will
    forget(run, NETWORK)
    run.saved = texts + job.train.steps
    run.end("FINISHED")


def _steps(run: PretrainRun, name: str) -> int:
    state = run.read_state(name)
    return 0 if state is None else int(state["step"])


def _encoder(folder: Path) -> TextEncoder:
    try:
        return TextEncoder(folder)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(
            f"got the text encoder {folder}, which does not load ({' '.join(str(error).split())[:300]}); want a "
            "Hugging Face directory with safetensors; give another text.encoder"
        ) from None


def _place(directory: Path, folder: Path) -> None:
    """The files of a text encoder, as hard links, or as copies on another disk."""
    for file in sorted(directory.iterdir()):
        if file.suffix in _READ and file.is_file():
            target = folder / file.name
            with suppress(OSError):
                os.link(file.resolve(), target)
                continue
            shutil.copyfile(file, target)


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        if file.suffix in _READ and file.is_file():
            with file.open("rb") as content:
                digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _data_set(dataset: Dataset) -> DataSet:
    info = dataset.info
    train = info.splits["train"]
    return DataSet(
        name=info.name, digest=info.sha256, source=str(dataset.directory.resolve()),
        columns={"features": "float", "caption": "string"},
        profile={"clips": train.clips, "frames": train.frames, "captions": train.captions}, context="training",
    )  # fmt: skip


def _card(run: PretrainRun, data: making.Material) -> str:
    """The model card: what it is, what it was trained on, how well it fits that."""
    job, info, windows = run.job, data.dataset.info, data.train
    last = run.rows()[-1]
    minutes = float(info.splits["train"].frames / info.fps / 60)
    parts = {
        "network": job.network_kind,
        "reads": f"{info.representation} at {info.fps:g} fps, windows of at most {job.data.frames} frames",
        "data": f"{info.name} ({info.kind}), sha256 {info.sha256}",
        "trained on": f"its split train: {info.splits['train'].clips} clips, {minutes:.1f} minutes, "
        f"{len(windows)} windows with a caption, {len(windows.captions)} captions; statistics of train alone",
        "not read": "the split test, or any but train and val",
        "left out": f"{windows.left_out['captions']} captions, {windows.left_out['clips']} clips",
        "steps": f"{job.train.steps} of {job.train.batch}, learning rate {job.train.learning_rate:g}, average "
        f"{job.train.ema_decay or making.recipe_of(job).usual_decay:.6g}, seed {job.train.seed}",
        "loss at the end": f"train {last.get('network/loss', float('nan')):.4g}"
        + (f", val {last['network/val_loss']:.4g}" if "network/val_loss" in last else ""),
        "torch": torch.__version__,
    }
    if job.kind == "denoiser":
        schedule = job.diffusion.schedule
        parts["predicts"] = (
            f"{job.diffusion.prediction_type}, {schedule.timesteps} {schedule.betas} steps, text dropped for "
            f"{job.diffusion.condition_dropout:.0%} of the rows"
        )
    if job.kind != "evaluator":
        parts["text encoder"] = "made of the train captions" if job.text_steps else Path(job.text.encoder).name
    rows = "\n".join(f"| {name} | {' '.join(value.split()).replace('|', '/')} |" for name, value in parts.items())
    return (
        f"# {job.name}\n\nMade by `rl-motion pretrain`; the job is in `job.yaml` beside.\n\n| | |\n|---|---|\n{rows}\n"
    )


@contextmanager
def _explained(run: PretrainRun) -> Iterator[None]:
    """Add what was saved and how to go on to whatever ends a run early."""
    try:
        yield
    except BaseException as error:
        if run.saved:
            error.add_note(f"saved: {run.saved} steps in {run.folder}; the same command goes on from there")
        else:
            error.add_note("nothing was saved yet; the same command starts again")
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
