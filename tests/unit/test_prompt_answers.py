"""The store of answers: nothing is asked twice, nothing that was answered is lost, foreign files are left alone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rl_motion.config import UserError
from rl_motion.prompts import answers as module
from rl_motion.prompts.answers import Answers
from rl_motion.prompts.author import (
    Answer,
    Decompose,
    Decomposition,
    Judge,
    Question,
    Refused,
    Unanswered,
    Verdict,
    question_id,
)
from rl_motion.prompts.chat import Usage


class Scripted:
    """Answers in reverse order, and writes down what it was asked; fails when it comes to `stop`."""

    name, model = "scripted", "1"

    def __init__(self, fingerprint: str = "f", stop: BaseException | None = None) -> None:
        self.fingerprint = fingerprint
        self.asked: list[Question] = []
        self.usage = Usage()
        self.closed = 0
        self._stop = stop

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refused]]:
        try:
            for index in reversed(range(len(questions))):
                if self._stop is not None and index == 0:
                    raise self._stop
                self.asked.append(questions[index])
                self.usage.requests += 2
                self.usage.tokens_in += 7
                self.usage.cost += 0.5
                yield index, self.one(questions[index])
        finally:
            self.closed += 1

    def one(self, question: Question) -> Answer | Refused:
        match question:
            case Decompose(caption="nobody answers"):
                return Unanswered(reason="away")
            case Decompose(caption="nonsense"):
                return Refused(reason="it is nonsense")
            case Decompose(caption=caption):
                return Decomposition(decomposable=False, meta_motions=(caption,))
            case _:
                return Verdict(plausible=False, reason="it flies")


def some(count: int) -> list[Question]:
    return [Decompose(caption=f"motion {number}") for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def test_every_question_is_asked_once_and_answers_come_in_order(path: Path) -> None:
    questions = [*some(3), Decompose(caption="nonsense"), Judge(text="a person flies"), *some(2)]
    author, told = Scripted(), []
    with Answers(path) as store:
        first = store.ask(author, questions, lambda index, answer: told.append((index, answer)))
    assert len(author.asked) == 5 and sorted(told) == list(enumerate(first))
    assert first[3:] == [
        Refused(reason="it is nonsense"),
        Verdict(plausible=False, reason="it flies"),
        Decomposition(decomposable=False, meta_motions=("motion 0",)),
        Decomposition(decomposable=False, meta_motions=("motion 1",)),
    ]
    told.clear()
    with Answers(path) as store:
        assert store.ask(author, questions, lambda index, answer: told.append((index, answer))) == first
        assert len(author.asked) == 5 and sorted(told) == list(enumerate(first))
        assert store.usage() == {
            "f": {
                "author": "scripted",
                "model": "1",
                "asked": 5,
                "from_store": 7,
                "requests": 10,
                "tokens_in": 35,
                "tokens_out": 0,
                "cost": 2.5,
            }
        }
        # Another fingerprint is another author.
        store.ask(Scripted("g"), questions)
        assert store.usage()["g"]["asked"] == 5
        key = question_id(questions[0], "f")
        assert store.get_many([key, "unknown"]) == {key: first[0]}


def test_a_question_that_did_not_get_through_is_asked_again(path: Path) -> None:
    author = Scripted()
    with Answers(path) as store:
        for _ in range(2):
            assert store.ask(author, [Decompose(caption="nobody answers"), *some(1)])[0] == Unanswered(reason="away")
    assert [question.caption for question in author.asked if isinstance(question, Decompose)].count("motion 0") == 1
    assert len(author.asked) == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), UserError("away"), RuntimeError("a bug")])
def test_what_ends_it_early_loses_nothing(path: Path, stop: BaseException) -> None:
    author = Scripted(stop=stop)
    with Answers(path) as store, pytest.raises(type(stop)):
        store.ask(author, some(50))
    again = Scripted()
    with Answers(path) as store:
        assert len(store.ask(again, some(50))) == 50
    assert again.asked == some(1)


def test_a_callback_that_fails_ends_the_author_and_keeps_what_came(path: Path) -> None:
    def fail(index: int, answer: Answer | Refused) -> None:
        if index == 3:
            raise KeyboardInterrupt

    author = Scripted()
    with Answers(path) as store:
        with pytest.raises(KeyboardInterrupt):
            store.ask(author, some(10), fail)
        assert author.closed == 1
        again = Scripted()
        store.ask(again, some(10))
    assert again.asked == some(3)[::-1]


def test_answers_are_on_the_disk_after_half_a_second_or_a_batch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> int:
        with sqlite3.connect(path) as db:
            return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])

    counts = []
    monkeypatch.setattr(module, "_BATCH", 4)
    with Answers(path) as store:
        store.ask(Scripted(), some(10), lambda index, answer: counts.append(seen()))
    assert counts == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    counts.clear()
    path.unlink()
    monkeypatch.setattr(module, "_BATCH", 500)
    monkeypatch.setattr(module, "_BATCH_S", 0.05)
    with Answers(path) as store:
        store.ask(Scripted(), some(4), lambda index, answer: (counts.append(seen()), time.sleep(0.03)))
    assert counts == [0, 0, 2, 2]


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")


def older(path: Path) -> None:
    with Answers(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")


def no_database(path: Path) -> None:
    path.write_bytes(b"id,caption\n" * 200)


def torn(path: Path) -> None:
    with Answers(path) as store:
        store.ask(Scripted(), some(500))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def odd_answer(path: Path) -> None:
    with Answers(path) as store:
        store.ask(Scripted(), some(1))
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE answers SET answer = '{"meta_motions": 1}'""")


def odd_kind(path: Path) -> None:
    with Answers(path) as store:
        store.ask(Scripted(), some(1))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE answers SET kind = 'prophecy'")


def test_what_was_spent_cannot_be_read_of_other_columns(path: Path) -> None:
    with Answers(path) as store:
        store.ask(Scripted(), some(1))
    for column in ("fingerprint", "requests"):
        with sqlite3.connect(path) as db:
            db.execute(f"ALTER TABLE usage RENAME COLUMN {column} TO odd")
        with pytest.raises(UserError, match="damaged"), Answers(path) as store:
            store.usage()
        with sqlite3.connect(path) as db:
            db.execute(f"ALTER TABLE usage RENAME COLUMN odd TO {column}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (foreign, "another program"),
        (older, "version 0; want 1"),
        (no_database, "damaged"),
        (torn, "damaged"),
        (odd_answer, "damaged"),
        (odd_kind, "damaged"),
        (Path.mkdir, "may read and write"),
    ],
)
def test_a_file_that_is_no_store_is_the_users_to_mend_and_left_as_it_is(path: Path, spoil: object, words: str) -> None:
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError, match="; want ") as error, Answers(path) as store:
        store.ask(Scripted(), some(1))
    assert words in str(error.value) and str(path) in str(error.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_full_disk_says_so(path: Path) -> None:
    with Answers(path) as store, pytest.raises(UserError, match=r"full.*room on the disk"):
        store._db.execute("PRAGMA max_page_count = 8")
        store.ask(Scripted(), [Decompose(caption=f"{number} {'x' * 900}") for number in range(100)])
