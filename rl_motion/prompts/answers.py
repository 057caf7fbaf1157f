"""Answers that were paid for once: a SQLite file, so that a killed build goes on and a re-run costs nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from rl_motion.config import UserError
from rl_motion.prompts.author import ANSWERS, Answer, Author, Question, Refused, Unanswered, question_id
from rl_motion.prompts.chat import Usage

_APPLICATION = 0x726C6D61  # "rlma": says in SQLite's header whose file it is
_VERSION = 1
_TABLES = """
CREATE TABLE answers (key TEXT PRIMARY KEY, kind TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE usage (
    fingerprint TEXT PRIMARY KEY, author TEXT NOT NULL, model TEXT NOT NULL,
    asked INTEGER NOT NULL DEFAULT 0, from_store INTEGER NOT NULL DEFAULT 0, requests INTEGER NOT NULL DEFAULT 0,
    tokens_in INTEGER NOT NULL DEFAULT 0, tokens_out INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_USAGE = ("author", "model", "asked", "from_store", "requests", "tokens_in", "tokens_out", "cost")
_KEYS_AT_ONCE = 500
_BATCH = 500
_BATCH_S = 0.5
_WAIT_S = 30.0
_REFUSED = "refused"


class Answers:
    """A store of answers by `question_id`, for one process at a time. A context manager.

    What a kill at any point costs is the last batch: answers of half a second, or 500.
    """

    def __init__(self, path: str | Path) -> None:
        """Open, or create, the file.

        Raises:
            UserError: it cannot be opened, is damaged, or is no store of this version.
        """
        self._path = Path(path)
        self._batch: list[tuple[str, str, str]] = []
        with self._errors():
            self._db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        """The store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._db.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, Answer | Refused]:
        """The answers that are there, by key.

        Raises:
            UserError: the file cannot be read, or holds what is no answer.
        """
        found: dict[str, Answer | Refused] = {}
        with self._errors():
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[start : start + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT key, kind, answer FROM answers WHERE key IN ({marks})", some)
                found |= {key: _read(kind, answer) for key, kind, answer in rows}
        return found

    def ask(
        self,
        author: Author,
        questions: Sequence[Question],
        on_answer: Callable[[int, Answer | Refused], None] | None = None,
    ) -> list[Answer | Refused]:
        """The answers, in the questions' order: from the store, and of the author what is not there yet.

        Whatever ends this early, Ctrl-C or an error, what was answered until then is kept.

        Args:
            author: asked once for questions that are the same.
            questions: any number.
            on_answer: called with (index, answer) for every question, once its answer is kept or on its way to be.

        Raises:
            UserError: the author cannot be asked, or the file cannot be used.
        """
        tell = on_answer or (lambda index, answer: None)
        places: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            places.setdefault(question_id(question, author.fingerprint), []).append(index)
        answers = self.get_many(list(places))
        for key, answer in answers.items():
            for index in places[key]:
                tell(index, answer)
        missing = [key for key in places if key not in answers]
        self._count(author, from_store=sum(len(places[key]) for key in answers))
        with closing(self._fresh(author, missing, [questions[places[key][0]] for key in missing])) as fresh:
            for place, answer in fresh:
                answers[missing[place]] = answer
                for index in places[missing[place]]:
                    tell(index, answer)
        return [answers[key] for key in (question_id(question, author.fingerprint) for question in questions)]

    def usage(self) -> dict[str, dict[str, str | int | float]]:
        """What every author was asked since the file is there, by fingerprint.

        Keys: author, model, asked (answered questions), from_store, requests, tokens_in, tokens_out, cost.

        Raises:
            UserError: the file cannot be read.
        """
        with self._errors():
            cursor = self._db.execute("SELECT * FROM usage")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
            return {row["fingerprint"]: {name: row[name] for name in _USAGE} for row in rows}

    def _fresh(
        self, author: Author, keys: Sequence[str], questions: Sequence[Question]
    ) -> Generator[tuple[int, Answer | Refused]]:
        """Ask the author, and keep what it says in batches."""
        kept, spent = time.monotonic(), _spent(author)
        stream = author.answer(questions) if questions else iter(())
        try:
            for place, answer in stream:
                if not isinstance(answer, Unanswered):
                    kind = _REFUSED if isinstance(answer, Refused) else questions[place].kind
                    self._batch.append((keys[place], kind, answer.model_dump_json()))
                yield place, answer
                if len(self._batch) >= _BATCH or time.monotonic() - kept >= _BATCH_S:
                    spent = self._keep(author, spent)
                    kept = time.monotonic()
        finally:
            try:
                # An author with a request under way is told to stop, rather than when somebody collects the garbage.
                if isinstance(stream, Generator):
                    stream.close()
            finally:
                self._keep(author, spent)

    def _keep(self, author: Author, before: Usage) -> Usage:
        """Write the batch and what it took since `before`; what was spent in all."""
        now = _spent(author)
        requests, tokens_in, tokens_out, cost = (
            new - old for new, old in zip(astuple(now), astuple(before), strict=True)
        )
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", self._batch)
                self._add(
                    author,
                    asked=len(self._batch),
                    requests=requests,
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                    cost=cost,
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._batch.clear()
        return now

    def _count(self, author: Author, from_store: int) -> None:
        with self._errors():
            self._add(author, from_store=from_store)

    def _add(self, author: Author, **counts: float) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO usage (fingerprint, author, model) VALUES (?, ?, ?)",
            (author.fingerprint, author.name, author.model),
        )
        sums = ", ".join(f"{name} = {name} + ?" for name in counts)
        self._db.execute(f"UPDATE usage SET {sums} WHERE fingerprint = ?", (*counts.values(), author.fingerprint))

    def _open(self) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not (application or version or tables):
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        elif application != _APPLICATION:
            raise UserError(
                f"{self._path}: got a SQLite file of another program; want a store of answers; name another file"
            )
        elif version != _VERSION:
            raise UserError(
                f"{self._path}: got a store of answers of version {version}; want {_VERSION}; move it away, "
                "and what it holds is asked again"
            )
        # With WAL a kill loses nothing that was committed, and loss of power at most the last batches.
        self._db.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as the user's."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self._path}: got {str(error)!r} from the store of answers; want a file that this process may "
                "read and write, and room on the disk; mend that and run again"
            ) from None
        except (sqlite3.DatabaseError, ValidationError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._path}: got a damaged store of answers ({reason}); want the one that was written; restore "
                "it, or move it away, and what it holds is asked again"
            ) from None


def _read(kind: str, answer: str) -> Answer | Refused:
    return (Refused if kind == _REFUSED else ANSWERS[kind]).model_validate_json(answer)


def _spent(author: Author) -> Usage:
    """What the author spent so far; authors that cost nothing have no `usage`."""
    return replace(getattr(author, "usage", Usage()))
