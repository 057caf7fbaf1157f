"""The pipeline of the prompt pool.

    captions -> Decompose -> meta-motions -> orders -> Compose -> rules -> Judge -> novel? -> POOL/prompts.parquet

What is decided follows from the captions, the settings and the author's answers alone, and answers are kept as they
come (`_build/answers.sqlite`). A build that ended anyhow is run again: it asks only what has no answer yet, decides
everything as before, and writes the pool last and as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rl_motion.config.errors import UserError
from rl_motion.prompts import planner, reading
from rl_motion.prompts.answers import Answers
from rl_motion.prompts.author import Author
from rl_motion.prompts.decisions import excluded_key
from rl_motion.prompts.sources import FPS, Captions, read_captions
from rl_motion.prompts.splits import meta_is_held_out
from rl_motion.prompts.stages import Desk, MetaMotion, Prompts, Watch, meta_motions
from rl_motion.prompts.table import BUILD, FILE, Overtaken, PoolTable, Row, is_pool, read_table, write_table
from rl_motion.prompts.tally import Tally, parquet
from rl_motion.tracking.files import write_together

ANSWERS, CAPTIONS, METAS, SET_ASIDE = "answers.sqlite", "captions.parquet", "metas.parquet", "set_aside.parquet"
"""In `_build`: what the author said; texts of captions and of meta-motions by id; what came to nothing, and why."""
_CHUNK = 1000
"""Most orders at a time."""
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""A file in a folder's place or above it, a link to nothing, a folder in a file's place, links in a circle."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a pool is made of. max_frames: of the longest prompt, at 20 fps."""

    sources: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    prompts: int = 20_000
    seed: int = 0
    max_frames: int = 196


@dataclass(frozen=True)
class Built:
    """A pool.

    tally: what was set aside; None where the pool was there already. unanswered: questions that did not get through to
    its author. usage: what that was asked, in all runs of the build (`Answers.usage`).
    """

    table: PoolTable
    tally: Tally | None
    unanswered: int
    usage: Mapping[str, str | int | float]


def build(settings: Settings, out: Path, author: Author, watch: Watch) -> Built:
    """Build the pool `out`, go on with it, or leave it as it is where it is there already.

    A pool some of whose questions did not get through to the author is made anew with their answers, as long as nobody
    reviewed it.

    Raises:
        UserError: a source cannot be read, or not every line of what is to be excluded; another build is at work, or
            somebody reviews the pool meanwhile; `out` holds something else or a pool that was made otherwise; the
            author cannot be asked or named; or no prompt comes of the captions.
        KeyboardInterrupt: with a note that says how to go on.
    """
    if not (author.model.isprintable() and 1 <= len(author.model) <= 200):
        raise UserError(
            f"got a model with a name of {len(author.model)} characters; want 1 to 200 printable ones, which the pool "
            "records; rename it"
        )
    captions = read_captions(settings.sources)
    excluded = _excluded(settings.exclude)
    made_of = _made_of(settings, captions, excluded, author)
    with _alone(out):
        there = _as_it_is(out, made_of) if is_pool(out) else None
        if there is not None:
            unanswered = there.info["counts"]["unanswered"]
            if not unanswered or any(row.history for row in there.rows):
                return Built(there, None, unanswered, {})
        tally = Tally()
        try:
            with Answers(out / BUILD / ANSWERS) as answers:
                desk = Desk(answers, author, watch)
                metas, rows, counts = _run(settings, captions, excluded, desk, tally)
                usage = answers.usage().get(author.fingerprint, {})
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("what was answered is kept; go on with the same command")
            raise
        made = {CAPTIONS: _captions_table(captions), METAS: _metas_table(metas), SET_ASIDE: tally.parquet()}
        # Before the pool, which says that all is there; ids are hashes of content, so they fit an older pool as well.
        write_together({out / BUILD / name: content for name, content in made.items()})
        if not rows:
            mostly = ", ".join(f"{count} x {reason}" for _, reason, count, _ in islice(tally.by_reason(), 3))
            raise UserError(
                f"got {captions.found} captions, of which {len(metas)} meta-motions and no prompt could be made "
                f"({mostly or 'nothing to combine within --max-frames'}); want captions of motions (the grammar reads "
                f"English) that fit --max-frames; see {out / BUILD / SET_ASIDE} for all that was set aside"
            )
        meanings = {reading.meaning(caption.text) for caption in excluded.captions}
        info = {"settings": made_of, "counts": counts, "excluded": sorted(map(excluded_key, meanings))}
        try:
            table = write_table(out, rows, info, there)
        except Overtaken:
            raise UserError(
                f"got --out {out}, which was reviewed meanwhile; want a pool that nobody touches during a build; it "
                "stays as it is: run again to see it"
            ) from None
        return Built(table, tally, desk.unanswered, usage)


def _excluded(names: Sequence[str]) -> Captions:
    """What no prompt may mean; raises UserError where a line of it cannot be read: it would keep nothing out."""
    if not names:
        return Captions((), 0, ())
    excluded = read_captions(names, "--exclude")
    if excluded.bad:
        first = excluded.bad[0]
        raise UserError(
            f"got --exclude with {len(excluded.bad)} lines that cannot be read, the first {first.where} "
            f"({first.reason}); want every line of it, or a prompt could mean what it says; mend or remove them"
        )
    return excluded


def _run(
    settings: Settings, captions: Captions, excluded: Captions, desk: Desk, tally: Tally
) -> tuple[list[MetaMotion], list[Row], dict[str, Any]]:
    """All stages: the meta-motions, the pool's rows and what was counted."""
    for line in captions.bad:
        tally.add("read", line.reason, line.text, [line.where])
    not_these = {reading.meaning(caption.text): "an excluded caption" for caption in excluded.captions}
    metas, counts = meta_motions(captions.captions, not_these, desk, tally)
    known = {reading.meaning(caption.text): "a caption of the sources" for caption in captions.captions} | not_these
    prompts = Prompts(metas, known, settings.prompts)
    orders = planner.orders([one.meta for one in metas], settings.seed, settings.max_frames, FPS)
    # Not many more than are missing: an answer that turns out not to be needed may have been paid for.
    while prompts.missing and (chunk := list(islice(orders, min(_CHUNK, prompts.missing * 5 // 4 + 8)))):
        prompts.take(chunk, desk, tally)
        desk.watch("prompts", len(prompts.rows), settings.prompts)
    totals = {"captions": captions.found, "repeated": captions.repeats, **counts, "meta_motions": len(metas)}
    told = {"orders": prompts.orders, "unanswered": desk.unanswered, "set_aside": tally.by_stage()}
    return metas, prompts.rows, totals | told


def _captions_table(captions: Captions) -> bytes:
    """The captions' texts, by each of their ids."""
    import pyarrow as pa

    pairs = [(one, caption.text) for caption in captions.captions for one in caption.ids]
    names, texts = zip(*pairs, strict=True)
    return parquet(pa.table({"id": pa.array(names, pa.string()), "text": pa.array(texts, pa.string())}))


def _metas_table(metas: Sequence[MetaMotion]) -> bytes:
    """The meta-motions: id, text, meaning, frames, ids of all their captions, and whether they are held out."""
    import pyarrow as pa

    split = ["held_out_metas" if meta_is_held_out(one.meaning) else "" for one in metas]
    columns = {
        "id": pa.array([one.meta.id for one in metas], pa.string()),
        "text": pa.array([one.meta.text for one in metas], pa.string()),
        "key": pa.array([one.meaning for one in metas], pa.string()),
        "frames": pa.array([one.meta.frames for one in metas], pa.int32()),
        "sources": pa.array([one.meta.sources for one in metas], pa.list_(pa.string())),
        "split": pa.array(split, pa.string()),
    }
    return parquet(pa.table(columns))


def _made_of(settings: Settings, captions: Captions, excluded: Captions, author: Author) -> dict[str, Any]:
    """All that the pool depends on."""

    def content(of: Captions) -> str:
        return hashlib.sha256(repr([(one.ids, one.text, one.frames) for one in of.captions]).encode()).hexdigest()

    return {
        "sources_sha256": content(captions),
        "exclude_sha256": content(excluded),
        "prompts": settings.prompts,
        "seed": settings.seed,
        "max_frames": settings.max_frames,
        "author": author.name,
        "model": author.model,
        "fingerprint": author.fingerprint,
    }


def _as_it_is(out: Path, made_of: Mapping[str, Any]) -> PoolTable:
    """The pool that is there; raises UserError where it was made otherwise, or does not say how."""
    table = read_table(out)
    there, counts = table.info.get("settings"), table.info.get("counts")
    unanswered = counts.get("unanswered") if isinstance(counts, dict) else None
    if not isinstance(there, dict) or not isinstance(unanswered, int):
        raise UserError(
            f"got --out {out}, a pool that does not say how it was made; want one as rl-motion built it; choose "
            "another --out"
        )
    other = [name for name in made_of if there.get(name) != made_of[name]]
    if other:
        raise UserError(
            f"got --out {out}, a pool that was made otherwise ({', '.join(other)}); want a pool of its own for other "
            "settings; choose another --out"
        )
    return table


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the pool's folder against other builds; the lock goes with the process.

    Raises:
        UserError: another build holds it, or it holds something else than a pool.
    """
    other = UserError(f"got --out {out}, which holds something else; want a new folder or a pool; choose another --out")
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or {BUILD, FILE} & set(os.listdir(out)))):
        raise other
    try:
        (out / BUILD).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / BUILD / "building", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise other from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"got --out {out}, which another build is working on; want one at a time; wait for it or choose another "
            "--out"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
