"""`rl-motion pretrain`: a denoiser, a retrieval model or an evaluator of one's own, on imported data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded
from rl_motion.config.errors import UserError

_USES = {
    "denoiser": "rl-motion train JOB --set model.name={model}",
    "retrieval": 'rl-motion train JOB --set "rewards=[{{name: tmr, model: {model}}}]"',
    "evaluator": "rl-motion train JOB --set evaluation.evaluator={model} --set evaluation.data=DATA",
}


def pretrain(
    job: Annotated[
        Path,
        typer.Argument(metavar="JOB", help="A YAML file, such as those in jobs/real, or the folder of a run."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of the job; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run is DIR/<job name>.")] = Path("runs"),
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Same as --set train.seed=N.")] = None,
) -> None:
    """Train a denoiser, a retrieval model (TMR) or an evaluator on a data set of `rl-motion data import`.

    The split `train` trains, the loss on `val` is reported, nothing else is read. What was interrupted, by Ctrl-C or a
    kill, goes on with the same command where it was saved last (runtime.save_every_s), to the same bits. At the end
    DIR/<job name>/model is a checkpoint: a name for `model.name`, for a reward's `model`, for an evaluator.
    """
    with guarded():
        from rl_motion.config.load import load_pretrain_job
        from rl_motion.runtime.progress import duration

        folder = job.resolve() if job.is_dir() else None
        resolved = load_pretrain_job(job if folder is None else folder / "job.yaml", overrides or [], seed)
        if folder is not None:
            out = folder.parent
            if folder.name != resolved.name:
                raise UserError(
                    f"got {job}, the run of a job named {resolved.name!r}; want the folder to have that name; rename it"
                )
        from rl_motion.runtime.pretraining.pretrain import pretrain as run

        made = run(resolved, out, Console(stderr=True))
        losses = ", ".join(
            f"{name.removeprefix('network/')} {value:.4g}" for name, value in made.losses.items() if "loss" in name
        )
        model = shlex.quote(str(made.model))
        use = _USES[resolved.kind].format(model=model)
        when = "it was over already" if made.before else duration(made.wall_s)
        typer.echo(f"run:   {made.folder} ({when}; {losses})\nmodel: {model}\nuse:   {use}")
