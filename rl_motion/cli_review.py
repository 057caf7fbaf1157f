"""`rl-motion prompts review`: people look at a pool's prompts, on a page or in a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rl_motion.cli_guard import guarded, printable
from rl_motion.config.errors import UserError

if TYPE_CHECKING:
    from rl_motion.prompts.review import ReviewDesk
    from rl_motion.prompts.table import Row


def review(  # noqa: PLR0913, PLR0917 - options
    pool: Annotated[Path, typer.Argument(metavar="POOL", help="A pool's folder.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page, on 127.0.0.1.")] = 8767,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; default: the login name.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, metavar="N", help="N prompts at random; default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    only_unreviewed: Annotated[
        bool, typer.Option("--only-unreviewed", help="Leave out what was decided before.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.csv", help="Write the prompts for a spreadsheet; no page.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Take decisions from such a file; no page.")
    ] = None,
) -> None:
    """Accept, reject and edit prompts one by one on a page for this machine alone, or as CSV with a team.

    Every decision is in the pool at once, with who and when. Rejected prompts are never drawn.
    """
    with guarded():
        if import_ is not None and (export is not None or sample is not None or only_unreviewed):
            raise UserError(
                "got --import with --export, --sample or --only-unreviewed; want --import alone: a file says which "
                "prompts it is about; leave the others out"
            )
        from rl_motion.prompts.review import ReviewDesk, chosen, login_name

        desk = ReviewDesk(pool, who if who is not None else login_name())
        if import_ is not None:
            _take_in(desk, import_)
            return
        rows = chosen(desk.rows, sample, seed, only_unreviewed)
        if not rows:
            raise UserError(f"{pool}: got no prompt that is unreviewed; want some; leave --only-unreviewed out")
        if export is not None:
            from rl_motion.prompts import spreadsheet

            spreadsheet.export(export, rows)
            _say(f"{export}: {len(rows)} prompts", f"then: rl-motion prompts review {pool} --import {export}")
            return
        _serve(desk, rows, port)
        desk.refresh()
        _say(_state(desk.counts()), f"go on: rl-motion prompts review {pool} --only-unreviewed")


def _serve(desk: ReviewDesk, rows: list[Row], port: int) -> None:
    """The page, until Ctrl-C."""
    from threading import Thread

    from rl_motion.prompts.review import MOST, known_texts
    from rl_motion.prompts.review_server import ReviewServer

    if len(rows) > MOST:
        raise UserError(f"got {len(rows)} prompts to look at; want {MOST} at most; choose --sample N")
    with ReviewServer(desk, rows, known_texts(desk.folder), port) as server, suppress(KeyboardInterrupt):
        _say(f"{server.address} (Ctrl-C ends it)")
        Thread(target=desk.prepare, daemon=True).start()
        server.serve_forever()


def _take_in(desk: ReviewDesk, path: Path) -> None:
    from rl_motion.prompts import spreadsheet

    done = spreadsheet.take_in(path, desk.folder, desk.who)
    _say(f"{path}: decisions recorded: {done.decided}; known before: {done.known}; lines without one: {done.empty}")
    desk.refresh()
    _say(_state(desk.counts()))


def _state(found: Mapping[str, int]) -> str:
    total = sum(found.values())
    states = ", ".join(f"{found[state]} {state}" for state in ("accepted", "edited", "rejected"))
    return f"reviewed {total - found['unreviewed']} of {total}: {states}"


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(printable(line))
