"""`rl-motion prompts`: text alone becomes a pool of prompts to learn from."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from rl_motion.cli_guard import guarded, printable
from rl_motion.cli_review import review
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.prompts.author import Author
    from rl_motion.prompts.build import Built
    from rl_motion.prompts.overview import Overview
    from rl_motion.prompts.table import Row
    from rl_motion.prompts.tally import Tally

prompts = typer.Typer(name="prompts", help="The prompt pool: build it from captions, look at it, review it.")

Backend = Literal["grammar", "openai", "transformers"]
_REASONS = 12
"""Most reasons of a stage that are shown: a language model may have a reason of its own for each text."""
_WIDTH = 100
"""Most characters of a reason and of its example."""


@prompts.command()
def build(  # noqa: PLR0913, PLR0917 - options
    source: Annotated[
        list[str],
        typer.Option(
            metavar="CAPTIONS",
            help="Captions of motions: a .jsonl, .csv or .txt file, a folder of HumanML3D's texts, or target/train or "
            "source/train of the embedded world; repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="POOL", help="The pool's folder.")],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAPTIONS",
            help="No prompt and no meta-motion means the same as one of these: what you evaluate on; the same kinds as "
            "--source and every split of the embedded world; repeatable.",
        ),
    ] = None,
    number: Annotated[int, typer.Option("--prompts", min=1, max=1_000_000, help="Stop at so many prompts.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the combinations.")] = 0,
    max_frames: Annotated[int, typer.Option(min=1, max=2000, help="Longest prompt, in frames at 20 fps.")] = 196,
    backend: Annotated[
        Backend,
        typer.Option(
            help="Who decomposes, composes and judges: the embedded grammar (no network, no model), an "
            "OpenAI-compatible endpoint, or a local model on Ray."
        ),
    ] = "grammar",
    model: Annotated[
        str | None, typer.Option(help="openai: the model's name at the endpoint; transformers: its directory.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="openai: the endpoint, up to /v1; its key is read from OPENAI_API_KEY."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, max=1024, help="openai: requests at a time; 8.")] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.001, help="openai: no more than these, retries included; no limit.")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="openai: price of a million tokens read, for the sum at the end.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="openai: price of a million tokens written, for the same.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="transformers: models at a time; 1.")] = None,
) -> None:
    """Build a pool of prompts from captions. What was interrupted goes on with the same command."""
    with guarded():
        options = {
            "--model": model,
            "--base-url": base_url,
            "--concurrency": concurrency,
            "--requests-per-minute": requests_per_minute,
            "--price-in": price_in,
            "--price-out": price_out,
            "--workers": workers,
        }
        given = {name: value for name, value in options.items() if value is not None}
        _refuse_foreign(backend, list(given))
        from rl_motion.prompts.build import Settings
        from rl_motion.prompts.build import build as run

        settings = Settings(tuple(source), tuple(exclude or ()), number, seed, max_frames)
        started = time.monotonic()
        with _author(backend, given) as author, _watching(Console(stderr=True)) as watch:
            built = run(settings, out, author, watch)
        _conclude(built, out, time.monotonic() - started)


@prompts.command()
def inspect(  # noqa: PLR0913, PLR0917 - options
    pool: Annotated[Path, typer.Argument(metavar="POOL", help="A pool's folder.")],
    show: Annotated[int, typer.Option(min=0, max=1000, help="So many prompts, drawn at random.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of that draw.")] = 0,
    split: Annotated[str | None, typer.Option(help="Only prompts of this split.")] = None,
    operation: Annotated[str | None, typer.Option(help="Only prompts that were made in this way.")] = None,
    where: Annotated[str | None, typer.Option(metavar="TEXT", help="Only prompts with these words.")] = None,
) -> None:
    """Show what is in a pool."""
    with guarded():
        from rl_motion.prompts import overview
        from rl_motion.prompts.review import known_texts
        from rl_motion.prompts.table import pool_folder, read_table

        table = read_table(pool)
        rows = overview.Filter(split, operation, where).of(table)
        typer.echo(f"{len(rows)} of {len(table.rows)} prompts")
        _show_overview(overview.overview(rows))
        _show_prompts(overview.some(rows, show, seed), known_texts(pool_folder(pool)))


prompts.command()(review)

_BELONGS = {
    "grammar": (),
    "openai": ("--model", "--base-url", "--concurrency", "--requests-per-minute", "--price-in", "--price-out"),
    "transformers": ("--model", "--workers"),
}
_NEEDED = {"grammar": (), "openai": ("--model", "--base-url"), "transformers": ("--model",)}


def _refuse_foreign(backend: Backend, given: Sequence[str]) -> None:
    for option in given:
        if option not in _BELONGS[backend]:
            owners = " or ".join(name for name, options in _BELONGS.items() if option in options)
            raise UserError(f"got {option} with --backend {backend}; want it with {owners} alone; leave it out")
    for option in _NEEDED[backend]:
        if option not in given:
            raise UserError(f"got --backend {backend} without {option}; want to know who is asked; give it")


@contextmanager
def _author(backend: Backend, given: Mapping[str, Any]) -> Iterator[Author]:
    """Whoever answers, with the options that were given; cheap until asked."""
    if backend == "openai":
        from rl_motion.prompts.openai_author import OpenAIAuthor

        yield OpenAIAuthor(
            given["--model"],
            given["--base-url"],
            concurrency=given.get("--concurrency", 8),
            requests_per_minute=given.get("--requests-per-minute"),
            prices=(given.get("--price-in", 0.0), given.get("--price-out", 0.0)),
        )
    elif backend == "transformers":
        from rl_motion.runtime.prompt_authors import RayAuthors

        with RayAuthors(given["--model"], workers=given.get("--workers", 1)) as authors:
            yield authors
    else:
        from rl_motion.prompts.grammar import GrammarAuthor

        yield GrammarAuthor()


@contextmanager
def _watching(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage on a terminal, else a plain line every ten seconds."""
    from rl_motion.runtime.progress import PLAIN_EVERY_S

    if not console.is_terminal:
        spoke = time.monotonic()
        reached: dict[str, str] = {}

        def say(stage: str, done: int, total: int) -> None:
            nonlocal spoke
            reached[stage] = f"{stage} {done}/{total}"
            if time.monotonic() - spoke >= PLAIN_EVERY_S:
                spoke = time.monotonic()
                console.print("  ".join(reached.values()), highlight=False, soft_wrap=True)

        yield say
        return
    with Progress(TextColumn("{task.description:<10}"), MofNCompleteColumn(), BarColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _conclude(built: Built, out: Path, seconds: float) -> None:
    """What came of it, what was set aside and why, and where to go from here."""
    from rl_motion.prompts.overview import overview
    from rl_motion.runtime.progress import duration

    if built.tally is None and built.unanswered:
        typer.echo(
            f"{out} is reviewed and stays as it is; {built.unanswered} questions of its build did not get through: "
            "another --out asks them again"
        )
    elif built.tally is None:
        typer.echo(f"{out} is built already, with these settings; nothing was done")
    else:
        counts = built.table.info["counts"]
        typer.echo(
            f"captions:     {counts['captions']} ({counts['repeated']} repeated, {counts['decomposable']} of several "
            f"motions, {counts['single']} of one)\n"
            f"meta-motions: {counts['meta_motions']} different ones of {counts['parts']}\n"
            f"orders:       {counts['orders']}"
        )
        _show_set_aside(built.tally)
        if built.unanswered:
            typer.echo(
                f"{built.unanswered} questions did not get through; the same command asks them again, as long as "
                "nobody reviewed the pool"
            )
    Console().print(_operations(overview(built.table.rows)))
    if (spent := built.usage) and spent["requests"]:
        typer.echo(
            f"asked: {spent['asked']} questions, {spent['requests']} requests, {spent['tokens_in']} tokens read, "
            f"{spent['tokens_out']} written, cost {spent['cost']:g} (all runs of the command together)"
        )
    typer.echo(
        f"pool:  {out} ({len(built.table.rows)} prompts, {duration(seconds)})\n"
        f"look:  rl-motion prompts inspect {shlex.quote(str(out))}\n"
        f"train: rl-motion train JOB --set {shlex.quote(f'prompts.sources={{{out}: 1}}')}"
    )


def _show_set_aside(tally: Tally) -> None:
    table = _table("Set aside", "stage", "reason", "such as", numbers=["count"])
    shown: dict[str, int] = {}
    for stage, reason, count, example in tally.by_reason():
        shown[stage] = shown.get(stage, 0) + 1
        if shown[stage] <= _REASONS:
            table.add_row(stage, _plain(_cut(reason)), _plain(_cut(example)), str(count))
        elif shown[stage] == _REASONS + 1:
            table.add_row(stage, "others, all in _build/set_aside.parquet", "", "")
    if shown:
        Console().print(table)


def _show_overview(seen: Overview) -> None:
    Console().print(_operations(seen))
    least, middle, most = seen.lengths
    easiest, usual, hardest = seen.difficulty
    typer.echo(
        f"review:     {', '.join(f'{count} {state}' for state, count in seen.by_review.items())}\n"
        f"length:     {least:g} to {most:g} frames, median {middle:g}\n"
        f"difficulty: {easiest:.2f} to {hardest:.2f}, median {usual:.2f}\n"
        f"verbs:      {printable(', '.join(f'{verb} {count}' for verb, count in seen.verbs))}\n"
        f"duplicates: {seen.duplicates} mean the same as another"
    )


def _operations(seen: Overview) -> Table:
    """Prompts by operation and split."""
    splits = sorted({split for _, split in seen.by_operation})
    operations = sorted({operation for operation, _ in seen.by_operation})
    table = _table("Prompts", "operation", numbers=[*splits, "all"])
    for name, of in [*((one, [one]) for one in operations), ("all", operations)]:
        counts = [sum(seen.by_operation.get((one, split), 0) for one in of) for split in splits]
        table.add_row(name, *map(str, [*counts, sum(counts)]))
    return table


def _show_prompts(rows: Sequence[Row], texts: dict[str, str]) -> None:
    if not rows:
        return
    table = _table("", "prompt", "made by", "of", numbers=["frames"])
    for row in rows:
        metas = "\n".join(_plain(texts.get(meta, meta)).plain for meta in row.metas)
        table.add_row(_plain(row.text), row.operation, Text(metas), str(row.length))
    Console().print(table)


def _table(title: str, *words: str, numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _plain(text: str) -> Text:
    """Foreign words for a terminal: no escapes, no markup."""
    return Text(printable(" ".join(text.split())))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
