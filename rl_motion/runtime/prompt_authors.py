"""Local language models as Ray actors, for clusters without an endpoint. Ray is placement: nothing here computes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

from rl_motion.config import RunFault, UserError
from rl_motion.prompts.author import Answer, Question, Refused, Unanswered
from rl_motion.prompts.chat import Usage
from rl_motion.prompts.checks import printable
from rl_motion.prompts.local_author import LocalAuthor, fingerprint_of
from rl_motion.runtime.cluster import connect
from rl_motion.runtime.pool import ATTEMPTS, SAY_S, SystemFault
from rl_motion.runtime.ray_calls import get, resources

_log = logging.getLogger(__name__)


class AuthorActor:
    """A local author whose caller learns what its answers took."""

    def __init__(self, path: str, batch: int) -> None:
        """Cheap; `arrive` does the work."""
        self._made = path, batch
        self._author: LocalAuthor | None = None

    def arrive(self) -> str:
        """Load the model; the author's fingerprint."""
        path, batch = self._made
        self._author = LocalAuthor(path, batch=batch)
        self._author.load()
        return self._author.fingerprint

    def answer(self, questions: Sequence[Question]) -> tuple[list[tuple[int, Answer | Refused]], Usage]:
        """All answers, and what they took."""
        assert self._author is not None, "it has arrived"
        self._author.usage = Usage()
        return list(self._author.answer(questions)), replace(self._author.usage)


@dataclass(slots=True)
class _HandOut:
    """Questions that go to a worker together."""

    places: list[int]
    tries: int = 0


class RayAuthors:
    """As many workers as wanted; whoever is free takes the next batch. A context manager, which keeps them meanwhile.

    The batch of a worker that died goes to another, and a new worker takes the dead one's place.
    """

    name = "transformers"

    def __init__(self, path: str | Path, *, workers: int = 1, threads: int = 1, batch: int = 8) -> None:
        """Hashes the model's files; Ray and the workers start with the first question.

        Args:
            path: see `LocalAuthor`; the same files at the same place on every node.
            workers: how many; where the cluster has GPUs, each has one for itself.
            threads: cores of each.
            batch: questions at a time of each.

        Raises:
            UserError: there is no such directory.
        """
        self._path = Path(path).resolve()
        self.model = self._path.name
        self.fingerprint = fingerprint_of(self._path)
        self.usage = Usage()
        self._wanted = workers
        self._threads = threads
        self._batch = batch
        self._owns_cluster = False
        self._deaths = 0
        """In a row, since the last answer."""
        self._answered = False
        self._waiting: deque[_HandOut] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _HandOut | None]] = {}
        """By reference: the worker, and what it answers; None while it arrives."""

    def __enter__(self) -> Self:
        """The author."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the workers go; shut Ray down where this started it."""
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            ray.kill(worker)
        self._idle.clear()
        self._busy.clear()
        if self._owns_cluster:
            ray.shutdown()

    def answer(self, questions: Sequence[Question]) -> Generator[tuple[int, Answer | Refused]]:
        """(index, answer), as batches are done.

        Raises:
            UserError: a worker cannot load the model, or has another one at this place.
            RunFault: workers die, whatever they are asked.
        """
        self._owns_cluster |= connect()
        every = range(len(questions))
        self._waiting = deque(_HandOut(list(every[at : at + self._batch])) for at in every[:: self._batch])
        try:
            while self._waiting or any(hand_out for _, hand_out in self._busy.values()):
                self._fill(questions)
                for ref in self._done():
                    worker, hand_out = self._busy.pop(ref)
                    try:
                        brought = get(ref)
                    except SystemFault as fault:
                        yield from self._again(hand_out, fault)
                    else:
                        self._idle.append(worker)
                        yield from self._taken(brought, hand_out)
        finally:
            self._end_busy()

    def _fill(self, questions: Sequence[Question]) -> None:
        """Make the workers that are missing, and give work to those that have none."""
        while len(self._idle) + len(self._busy) < self._wanted:
            worker = self._spawned()
            self._busy[worker.arrive.remote()] = worker, None
        while self._waiting and self._idle:
            worker, hand_out = self._idle.pop(), self._waiting.popleft()
            ref = worker.answer.remote([questions[place] for place in hand_out.places])
            self._busy[ref] = worker, hand_out

    def _done(self) -> list[Any]:
        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=SAY_S)
        if not done:  # a cluster may take minutes to grow
            _log.warning("waiting for %d authors; the cluster offers %s", len(self._busy), resources())
        return list(done)

    def _taken(self, brought: Any, hand_out: _HandOut | None) -> list[tuple[int, Answer | Refused]]:
        """What a worker brings: its fingerprint where it has arrived, else answers."""
        if hand_out is None:
            if brought != self.fingerprint:
                raise UserError(
                    f"got a worker with another language model at {str(self._path)!r}; want the same files on every "
                    "node; copy them again"
                )
            return []
        answers, usage = brought
        self._deaths, self._answered = 0, True
        self.usage = Usage(**{name: value + getattr(usage, name) for name, value in asdict(self.usage).items()})
        return [(hand_out.places[index], answer) for index, answer in answers]

    def _again(self, hand_out: _HandOut | None, fault: SystemFault) -> list[tuple[int, Answer | Refused]]:
        """After a death: the batch waits behind the others, or is set aside if too many workers died over it."""
        self._deaths += 1
        _log.warning("an author died: %s", fault)
        if hand_out is not None:
            hand_out.tries += 1
        given_up = hand_out is not None and hand_out.tries == ATTEMPTS
        if self._deaths == ATTEMPTS * (self._wanted + 1) or (given_up and not self._answered):
            raise RunFault(
                f"got {self._deaths} authors in a row that died ({fault}); want nodes with room for "
                f"{str(self._path)!r}; use larger ones or a smaller batch, and run again: what was answered is kept"
            )
        if hand_out is None:
            return []
        if not given_up:
            self._waiting.append(hand_out)
            return []
        reason = f"{ATTEMPTS} workers died over the batch of this question: {printable(str(fault))}"
        return [(place, Unanswered(reason=reason)) for place in hand_out.places]

    def _spawned(self) -> Any:
        offered = resources()
        options: dict[str, Any] = {"num_cpus": self._threads, "scheduling_strategy": "SPREAD"}
        if offered.get("GPU", 0.0) > 0:
            options["num_gpus"] = 1
        elif offered.get("CPU", 0.0) < self._threads * self._wanted:
            options["num_cpus"] = 0  # on a small machine fewer cores change the speed alone
        actor: Any = ray.remote(AuthorActor).options(**options).remote(str(self._path), self._batch)
        return actor

    def _end_busy(self) -> None:
        """Workers at work on what nobody waits for are made anew when there is something to answer."""
        for ref, (worker, hand_out) in list(self._busy.items()):
            if hand_out is not None:
                ray.kill(worker)
                del self._busy[ref]
