"""`rl-motion model`: what a checkpoint is, and the project's own form of an official one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded, printable

if TYPE_CHECKING:
    from rl_motion.models.official import Inspection

model = typer.Typer(name="model", help="Checkpoints: say what one is, and convert an official one once.")

PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="A checkpoint's folder, or its file of weights inside of it.")
]
_SHOWN = 12
"""Most names of tensors that are listed; the rest is counted."""


@model.command()
def inspect(path: PathArgument) -> None:
    """Say what a checkpoint is: StableMoFusion, MDM, MDM-SMPL, TMR, Guo's evaluator, the project's own, an adapter.

    Shows the network, the data set and how it was normalised, the schedule, what is predicted, the official sampler,
    what happens to padding, the text encoder it needs, and tensors that are missing or that nobody reads. Nothing in
    the files is run, and nothing is written.
    """
    with guarded():
        from rl_motion.models.official import layout_of

        for line in _lines(layout_of(path).inspect(path), path):
            typer.echo(printable(line))


@model.command()
def convert(
    path: PathArgument,
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            "--text-encoder",
            metavar="DIR",
            help="The model's text encoder as a local Hugging Face directory: CLIP ViT-B/32 is "
            "openai/clip-vit-base-patch32. It is linked, or copied, beside the checkpoint.",
        ),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            "--stats",
            metavar="DIR",
            help="Mean and std, for checkpoints that do not bring their own: for MDM, the data set's folder.",
        ),
    ] = None,
    glove: Annotated[
        Path | None,
        typer.Option(
            "--glove",
            metavar="DIR",
            help="The glove/ folder of Guo et al.'s evaluator, where it is not in its place above the checkpoint.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The directory to make; default: models/<PATH's name>.")
    ] = None,
) -> None:
    """Write the project's own checkpoint of an official one, once, and say how it is used.

    It is loaded and tried on a text before it appears: a folder that is there, works.
    """
    with guarded():
        from rl_motion.models.official import Sources
        from rl_motion.models.official.convert import convert as run

        with Console(stderr=True).status(f"converting {path.name}"):
            done = run(path, Sources(text_encoder, stats, glove), out or Path("models") / _name(path))
        folder = shlex.quote(_shown(done.folder))
        lines = [f"checkpoint:   {_shown(done.folder)} ({done.inspection.what})"]
        if done.text_encoder is not None:
            lines.append(f"text encoder: {_shown(done.text_encoder)}")
        lines += [f"note:         {note}" for note in done.inspection.notes]
        lines += [f"{'use it:' if n == 0 else '':13} {use}" for n, use in enumerate(_uses(done.folder, folder))]
        for line in lines:
            typer.echo(printable(line))


def _uses(folder: Path, shown: str) -> list[str]:
    """What can be done with a converted checkpoint, by its kind."""
    from rl_motion.models.official.reading import read_json
    from rl_motion.models.zoo import EVALUATORS, RETRIEVAL

    kind = read_json(folder / "config.json")["kind"]
    if kind in RETRIEVAL:
        return [f"rewards: [{{name: tmr, model: {shown}}}] in a job"]
    if kind in EVALUATORS:
        return [f"rl_motion.models.zoo.load_evaluator({shown}) in Python; it judges, and is never a reward"]
    return [f"rl-motion sample --model {shown} --prompt '...'", f"rl-motion train JOB --set model.name={shown}"]


def _lines(inspection: Inspection, path: Path) -> list[str]:
    if not inspection.facts:
        return [inspection.what]
    facts = {
        **inspection.facts,
        "parameters": f"{inspection.parameters:,}, without the text encoder",
        "missing keys": _names(inspection.missing),
        "extra keys": _names(inspection.extra),
    }
    width = max(map(len, facts))
    lines = [inspection.what, *(f"  {label:<{width}}  {value}" for label, value in facts.items())]
    lines += [f"note: {note}" for note in inspection.notes]
    options = " ".join(f"{option} DIR" for option in inspection.options)
    return [*lines, f"next: rl-motion model convert {shlex.quote(str(path))} {options}".rstrip()]


def _names(names: tuple[str, ...]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "") if names else "none"


def _name(path: Path) -> str:
    """What a checkpoint's folder is called; of a file of weights, its own name."""
    absolute = path.absolute()
    return absolute.stem if absolute.is_file() else absolute.name or "model"


def _shown(path: Path) -> str:
    """Below the current directory, from there."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
