"""`rl-motion sample`: motions for prompts, as pages, arrays, skeletons and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rl_motion.cli_guard import guarded
from rl_motion.motion.formats.exports import Export


def sample(  # noqa: PLR0913, PLR0917 - options
    prompt: Annotated[list[str], typer.Option(help="What the motion shall be; repeatable.")],
    model: Annotated[str | None, typer.Option(help="A model's name or directory; default: the adapter's.")] = None,
    adapter: Annotated[Path | None, typer.Option(metavar="DIR", help="A run's adapter/; default: none.")] = None,
    length: Annotated[int | None, typer.Option(help="Frames; default: the job's prompts.default_length.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Motions per prompt.")] = 1,
    out: Annotated[
        Path,
        typer.Option(
            metavar="NAME.html",
            help="The page to write. Without .html it names the other files too, and the folder of bvh, glb, gif and "
            "mp4, which have a file per motion.",
        ),
    ] = Path("sample.html"),
    formats: Annotated[
        list[Export] | None,
        typer.Option(
            "--format",
            help="What to write; repeatable; default: html and npy. npz has the features too; mp4 needs ffmpeg.",
        ),
    ] = None,
    skeleton: Annotated[
        Path | None,
        typer.Option(metavar="FILE.bvh", help="Whose proportions bvh and glb get; default: each motion's own."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
) -> None:
    """Sample motions and write them: a page of moving skeletons, arrays, BVH and GLB for 3-D programs, GIF and MP4.

    A file that is written is whole; files of the same names are replaced. docs/export.md says what is in each.
    """
    with guarded():
        from rl_motion.prompts.pool import make_prompt
        from rl_motion.runtime import sample_files, sampling

        want = sample_files.wanted(out, formats or (Export.HTML, Export.NPY), skeleton)
        job = sampling.job_of(adapter, model)
        frames = length if length is not None else job.prompts.default_length
        prompts = [make_prompt(text, frames) for text in prompt]
        sampling.check_prompts(job, prompts)
        policy = sampling.load_policy(job, adapter)
        console = Console(stderr=True)
        sampled = sampling.sample_motions(policy, prompts, samples, seed=seed, console=console)
        for what, where in sample_files.write_files(sampled, want, console):
            typer.echo(f"{what + ':':<8} {where}")
