"""Local models on Ray workers: the same answers as in one process, whoever dies."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import pytest

from rl_motion.config import RunFault, UserError
from rl_motion.prompts import local_author
from rl_motion.prompts.answers import Answers
from rl_motion.prompts.author import Answer, Decompose, Question, Refused, Unanswered
from rl_motion.prompts.local_author import LocalAuthor
from rl_motion.runtime import prompt_authors
from rl_motion.runtime.prompt_authors import RayAuthors
from tests.llm_authors import SHORT, Another, DiesOf, DiesOnce, NeverArrives, ShortAuthor, Slow
from tests.llm_servers import tiny_llama

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

QUESTIONS: list[Question] = [Decompose(caption=f"a person walks {n} steps") for n in range(9)]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny")


@pytest.fixture
def alone(llama: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Answer | Refused]:
    """What one process answers."""
    authors = LocalAuthor(llama, batch=2)
    monkeypatch.setitem(local_author._SAMPLING, "max_new_tokens", SHORT)
    given = dict(authors.answer(QUESTIONS))
    monkeypatch.undo()
    return given


def made_of(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_authors, "ATTEMPTS", 2)
    monkeypatch.setattr(prompt_authors, "AuthorActor", kind)


def test_two_workers_of_which_one_is_killed_answer_like_one_process(
    llama: Path, alone: dict[int, Answer | Refused], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made_of(DiesOnce, monkeypatch)
    with RayAuthors(llama, workers=2, batch=2) as author, Answers(tmp_path / "a.sqlite") as store:
        assert author.fingerprint == LocalAuthor(llama).fingerprint
        assert dict(enumerate(store.ask(author, QUESTIONS))) == alone
        assert (tmp_path / "died").exists()
        assert author.usage.requests == 4 * len(QUESTIONS)
        before = asdict(author.usage)
        # The workers stay for the next questions, and what is kept is asked of nobody.
        first = (tmp_path / "workers").read_text().split()
        assert dict(enumerate(store.ask(author, QUESTIONS))) == alone and asdict(author.usage) == before
        assert dict(author.answer(QUESTIONS)) == alone
        second = (tmp_path / "workers").read_text().split()[len(first) :]
        assert set(first) & set(second)


def test_a_batch_that_no_worker_survives_is_set_aside_and_asked_again(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of(DiesOf, monkeypatch)
    questions = [*QUESTIONS[:4], Decompose(caption="a person drinks poison"), *QUESTIONS[4:6]]
    with RayAuthors(llama, workers=2, batch=1) as author:
        given = dict(author.answer(questions))
    assert isinstance(given[4], Unanswered) and "2 workers died" in given[4].reason
    assert [index for index, answer in given.items() if isinstance(answer, Unanswered)] == [4]
    assert sorted(given) == list(range(7))


def test_workers_that_all_die_end_the_run(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(NeverArrives, monkeypatch)
    with RayAuthors(llama, workers=1) as author, pytest.raises(RunFault, match=r"in a row that died .*; want .*; "):
        list(author.answer(QUESTIONS))


def test_a_worker_with_other_weights_or_none_is_the_users_to_mend(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(Another, monkeypatch)
    with RayAuthors(llama) as author, pytest.raises(UserError, match="another language model"):
        list(author.answer(QUESTIONS))
    made_of(ShortAuthor, monkeypatch)
    with RayAuthors(llama) as author:
        (llama / "config.json").unlink()
        with pytest.raises(UserError, match=r"no config\.json"):
            list(author.answer(QUESTIONS))


def test_leaving_early_does_not_wait_for_those_at_work(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(Slow, monkeypatch)
    with RayAuthors(llama, workers=2, batch=2) as author:
        stream = author.answer(QUESTIONS[:3])
        assert next(stream)[0] in (0, 1)
        started = time.monotonic()
        stream.close()
        assert len(dict(author.answer(QUESTIONS[:2]))) == 2
        assert time.monotonic() - started < 40
