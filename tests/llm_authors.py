"""Ray workers with a tiny model, for tests: short answers, and deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from rl_motion.prompts import local_author
from rl_motion.prompts.author import Answer, Question, Refused
from rl_motion.prompts.chat import Usage
from rl_motion.runtime.prompt_authors import AuthorActor

SHORT = 16
"""Tokens of an answer."""


class ShortAuthor(AuthorActor):
    """Says little, and takes down who it is beside its model's folder."""

    def answer(self, questions: Sequence[Question]) -> tuple[list[tuple[int, Answer | Refused]], Usage]:
        local_author._SAMPLING["max_new_tokens"] = SHORT
        with (self.folder / "workers").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().answer(questions)

    @property
    def folder(self) -> Path:
        return Path(self._made[0]).parent


class DiesOnce(ShortAuthor):
    """The first that is asked is killed at work."""

    def answer(self, questions: Sequence[Question]) -> tuple[list[tuple[int, Answer | Refused]], Usage]:
        try:
            (self.folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return super().answer(questions)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class DiesOf(ShortAuthor):
    """Whoever is asked for `poison` is killed."""

    def answer(self, questions: Sequence[Question]) -> tuple[list[tuple[int, Answer | Refused]], Usage]:
        if any("poison" in question.model_dump_json() for question in questions):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(questions)


class NeverArrives(ShortAuthor):
    """Killed while it loads."""

    def arrive(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Another(ShortAuthor):
    """A worker whose node has other weights."""

    def arrive(self) -> str:
        return f"not {super().arrive()}"


class Slow(ShortAuthor):
    """Works for a minute."""

    def answer(self, questions: Sequence[Question]) -> tuple[list[tuple[int, Answer | Refused]], Usage]:
        if len(questions) == 1:
            time.sleep(60)
        return super().answer(questions)
