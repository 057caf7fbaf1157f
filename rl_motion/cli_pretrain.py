"""`rl-motion pretrain`: a denoiser, a retrieval model or an evaluator of one's own, on imported data."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.config import PretrainJob

_USES = {
    "denoiser": "rl-motion train JOB --set model.name={model}",
    "retrieval": 'rl-motion train JOB --set "rewards=[{{name: tmr, model: {model}}}]"',
    "evaluator": "rl-motion train JOB --set evaluation.evaluator={model} --set evaluation.data=DATA",
}


def pretrain(
    jobs: Annotated[
        list[Path],
        typer.Argument(metavar="JOB", help="YAML files, such as those in jobs/real, or folders of runs."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of every job; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A run is DIR/<job name>.")] = Path("runs"),
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Same as --set train.seed=N.")] = None,
) -> None:
    """Train a denoiser, a retrieval model (TMR) or an evaluator on a data set of `rl-motion data import`; or all three.

    The split `train` trains, the loss on `val` is reported, nothing else is read. What was interrupted, by Ctrl-C or a
    kill, goes on with the same command where it was saved last (runtime.save_every_s), to the same bits. At the end
    DIR/<job name>/model is a checkpoint: a name for `model.name`, for a reward's `model`, for an evaluator. Several
    jobs are trained one after the other.
    """
    with guarded():
        resolved = [_resolved(job, overrides or [], seed, out) for job in jobs]
        twice = [name for name, count in Counter(job.name for job, _ in resolved).items() if count > 1]
        if twice:
            raise UserError(f"got two jobs named {twice[0]!r}; want a name, and so a folder, for each; rename one")
        from rl_motion.runtime.pretraining.pretrain import pretrain as run
        from rl_motion.runtime.progress import duration

        for job, place in resolved:
            made = run(job, place, Console(stderr=True))
            losses = ", ".join(
                f"{name.removeprefix('network/')} {value:.4g}" for name, value in made.losses.items() if "loss" in name
            )
            model = shlex.quote(str(made.model))
            when = "it was over already" if made.before else duration(made.wall_s)
            use = _USES[job.kind].format(model=model)
            typer.echo(f"run:   {made.folder} ({when}; {losses})\nmodel: {model}\nuse:   {use}")


def _resolved(job: Path, overrides: list[str], seed: int | None, out: Path) -> tuple[PretrainJob, Path]:
    """A job and the folder that its run's folder is in.

    Raises:
        UserError: there is none, or it is not a valid one.
    """
    from rl_motion.config.load import load_pretrain_job

    if not job.is_dir():
        return load_pretrain_job(job, overrides, seed), out
    folder = job.resolve()
    found = load_pretrain_job(folder / "job.yaml", overrides, seed)
    if folder.name != found.name:
        raise UserError(
            f"got {job}, the run of a job named {found.name!r}; want the folder to have that name; rename it"
        )
    return found, folder.parent
