"""Small pools for tests of what reads, reviews and draws from them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_motion.prompts.pool import prompt_id
from rl_motion.prompts.review import ReviewDesk, known_texts
from rl_motion.prompts.review_server import ReviewServer
from rl_motion.prompts.table import PoolTable, Row, write_table

TEXTS = ("a person walks forward and then jumps", "a man waves while walking", "someone sits down slowly")


def pool_row(text: str = TEXTS[0], length: int = 96, **changes: Any) -> Row:
    """A row with this text."""
    values: dict[str, Any] = {
        "id": prompt_id(text, length),
        "text": text,
        "length": length,
        "fps": 20.0,
        "tokens": tuple(f"{word}/NOUN" for word in text.split()),
        "sources": ("captions.txt/1/0",),
        "metas": ("m-walk", "m-jump"),
        "operation": "sequence",
        "author": "grammar",
        "model": "grammar-1",
        "fingerprint": "f" * 64,
        "difficulty": 0.3,
        "plausibility": 0.9,
        "split": "train",
    }
    return Row.model_validate(values | changes)


def pool_in(folder: Path, *rows: Row) -> PoolTable:
    """A pool of these rows, or of three."""
    return write_table(folder, rows or [pool_row(text) for text in TEXTS], {"settings": {"seed": 0}})


def decided(row: Row) -> list[tuple[str, str, str]]:
    """A row's history: what, who, and the text before."""
    return [(entry.decision, entry.who, entry.before) for entry in row.history]


@contextmanager
def serving(folder: Path, who: str) -> Iterator[ReviewServer]:
    """The review page of a pool, served from a thread; every decision comes a minute after the one before."""
    minutes = itertools.count()
    desk = ReviewDesk(folder, who, lambda: f"2026-01-31T12:{next(minutes):02}:00Z")
    with ReviewServer(desk, list(desk.rows), known_texts(folder), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
