"""Any OpenAI-compatible endpoint (vLLM, Ollama, a hosted one), through the official client.

The client's own retries are off: every attempt has to pass the rate limit, a server's `Retry-After` holds back all
requests instead of one, and jitter is full, so that the requests of one moment do not come back together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

from rl_motion.config import UserError
from rl_motion.prompts import chat
from rl_motion.prompts.author import Answer, Question, Refused
from rl_motion.prompts.chat import Chat, Losses, Usage
from rl_motion.prompts.checks import printable

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

TRIES = 7
"""Of one request, before its question counts as lost: half a minute of waits on average."""
FIRST_WAIT_S = 1.0
_MOST_WAIT_S = 30.0
_MOST_RETRY_AFTER_S = 120.0
_AGAIN = (408, 409, 425, 429)
_CLOSING_S = 10.0
_NO_KEY = "none"
_SAMPLING: dict[str, Any] = {"temperature": 0, "seed": chat.SEED, "max_tokens": chat.MAX_TOKENS}
_log = logging.getLogger(__name__)

_Came = tuple[int, Answer | Refused] | BaseException | None
"""What the event loop hands over: an answer, what ended it, or that all is answered."""


class OpenAIAuthor:
    """A model behind an endpoint, asked several questions at a time by an event loop in a thread of its own."""

    name = "openai"

    def __init__(  # noqa: PLR0913 - options
        self,
        model: str,
        base_url: str,
        *,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        timeout_s: float = 60.0,
        prices: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Connects to nothing yet. The key comes from OPENAI_API_KEY; local servers need none.

        Args:
            model: as the endpoint calls it.
            base_url: up to and with `/v1`.
            concurrency: requests under way at most.
            requests_per_minute: evenly spaced, retries included; None: no limit.
            timeout_s: of one request as a whole.
            prices: of a million tokens read and of a million written, for `usage.cost`.

        Raises:
            UserError: the address or the key can be none.
        """
        if not _is_address(base_url):
            # A name, a query or a fragment may hold a key, which is not to be printed.
            shown = "..." if set(base_url) & set("@?#") else printable(base_url)
            raise UserError(
                f"got the base URL {shown!r}; want http://HOST[:PORT]/v1 or https://HOST/v1, without a name, a "
                "password, a query or a fragment; mend it, and give a key as OPENAI_API_KEY"
            )
        self._key = os.environ.get("OPENAI_API_KEY", "").strip() or _NO_KEY
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise UserError("got an OPENAI_API_KEY that can be no key; want printable ASCII; set it again")
        self.model = model
        self.fingerprint = chat.fingerprint(model, _SAMPLING)
        self.usage = Usage()
        self._base_url = base_url
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._prices = prices
        self._pace = _Pace(60.0 / requests_per_minute if requests_per_minute else 0.0)
        self._form = _Form()
        self._proven: set[_Form] = set()

    def answer(self, questions: Sequence[Question]) -> Generator[tuple[int, Answer | Refused]]:
        """(index, answer), as they come. Closing the generator, as Ctrl-C does, ends the requests under way.

        Raises:
            UserError: the endpoint is away, or refuses the key or the model.
        """
        came: queue.SimpleQueue[_Came] = queue.SimpleQueue()
        started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = queue.SimpleQueue()

        async def work() -> None:
            task = asyncio.current_task()
            assert task is not None
            started.put((asyncio.get_running_loop(), task))
            await self._answer_all(questions, came)

        def run() -> None:
            try:
                asyncio.run(work())
            except BaseException as error:
                came.put(error)
            else:
                came.put(None)

        thread = threading.Thread(target=run, name="openai-author", daemon=True)
        thread.start()
        loop, task = started.get()
        try:
            while (item := came.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            with suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(task.cancel)
            thread.join(_CLOSING_S)

    async def _answer_all(self, questions: Sequence[Question], came: queue.SimpleQueue[_Came]) -> None:
        from openai import AsyncOpenAI

        waiting, losses = iter(enumerate(questions)), Losses()

        async def work(client: AsyncOpenAI) -> None:
            for index, question in waiting:
                came.put((index, await self._answer_one(client, question, losses)))

        async with AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, max_retries=0, timeout=self._timeout_s
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._concurrency, len(questions))):
                        group.create_task(work(client))
            except* UserError as errors:
                first: BaseException = errors
                while isinstance(first, BaseExceptionGroup):
                    first = first.exceptions[0]
                raise first from None
        losses.close()

    async def _answer_one(self, client: AsyncOpenAI, question: Question, losses: Losses) -> Answer | Refused:
        talk = Chat(question)
        while talk.outcome is None:
            try:
                said = await self._say(client, talk)
            except _LostError as error:
                return losses.lost(error)
            losses.answered()
            talk.hear(said)
        return talk.outcome

    async def _say(self, client: AsyncOpenAI, talk: Chat) -> str:
        """What the model says next; raises _LostError after TRIES, UserError where nobody gets an answer."""
        tries = 0
        while True:
            try:
                return await self._request(client, talk, self._form)
            except _SimplerError:
                continue
            except _AgainError as error:
                reason = str(error)
            tries += 1
            if tries == TRIES:
                raise self._lost(f"{reason}, {TRIES} times")
            wait_s = random.uniform(0.0, min(_MOST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1)))
            _log.info("%s: %s; asking again in %.1f s", self._base_url, reason, wait_s)
            await asyncio.sleep(wait_s)

    async def _request(self, client: AsyncOpenAI, talk: Chat, form: _Form) -> str:
        """One attempt; raises _AgainError or _SimplerError where another may do better."""
        import openai

        await self._pace.turn()
        self.usage.requests += 1
        options: dict[str, Any] = {"model": self.model, "messages": talk.messages, **form.options(talk.question.kind)}
        try:
            async with asyncio.timeout(self._timeout_s):
                completion = await client.chat.completions.create(**options)
        except (openai.APITimeoutError, TimeoutError):
            raise _AgainError(f"no answer within {self._timeout_s:g} s") from None
        except openai.APIConnectionError:
            raise _AgainError("no connection, or one that broke off") from None
        except openai.APIStatusError as error:
            if self._concede(form, error):
                raise _SimplerError from None
            raise self._refusal(error) from None
        except (openai.OpenAIError, ValueError) as error:
            raise _AgainError(f"a response that is none of the protocol ({type(error).__name__})") from None
        self._proven.add(form)
        return self._said(completion)

    def _concede(self, form: _Form, error: APIStatusError) -> bool:
        """Whether to ask again in a simpler form: the server knows not all that this one asks for.

        A form that was answered once is kept: then the request is at fault for another reason.
        """
        if error.status_code not in (400, 422) or form in self._proven:
            return False
        if form == self._form:
            simpler = form.simpler(error.param)
            if simpler is None:
                return False
            _log.info("%s does not know all of %s; going on with %s", self._base_url, form, simpler)
            self._form = simpler
        return True  # too, where another request has learnt it meanwhile

    def _refusal(self, error: APIStatusError) -> UserError | _AgainError:
        """What an error status means: that it may pass, that this question is lost, or that all are."""
        status, said = error.status_code, printable(self._scrubbed(error.message))
        if status == 401:  # no words of the server's: hosted ones repeat parts of the key
            return UserError(
                f"got status 401 from {self._base_url}; want OPENAI_API_KEY to hold a key that it knows; set it and "
                "run again"
            )
        if status in (403, 404) or error.code == "insufficient_quota":
            return UserError(
                f"got {said!r} from {self._base_url} for the model {self.model!r}; want a model, a path and a quota "
                "that this key may use; choose among those of GET .../models, or mend the base URL"
            )
        if status not in _AGAIN and status < 500:
            return self._lost(repr(said))
        wait_s = _retry_after_s(error.response.headers.get("retry-after", ""))
        if wait_s > _MOST_RETRY_AFTER_S:
            return UserError(
                f"got {said!r} from {self._base_url}, which wants {wait_s:.0f} s of rest; want at most "
                f"{_MOST_RETRY_AFTER_S:g} s; run again then: what was answered is kept"
            )
        self._pace.pause(wait_s)
        return _AgainError(repr(said))

    def _lost(self, reason: str) -> _LostError:
        return _LostError(
            f"got {reason} from {self._base_url}; want an endpoint that answers; check that it runs, the base URL and "
            "the time limit, and run again: what was answered is kept"
        )

    def _said(self, completion: Any) -> str:
        """The message's text, after counting what it took. Servers send what they like: nothing is sure to be there."""
        spent, count = self.usage, getattr(completion, "usage", None)
        read, written = (getattr(count, name, 0) for name in ("prompt_tokens", "completion_tokens"))
        if _is_count(read) and _is_count(written):
            spent.tokens_in += read
            spent.tokens_out += written
            spent.cost += (read * self._prices[0] + written * self._prices[1]) / 1e6
        try:
            message = completion.choices[0].message
            said = message.content or message.refusal or ""
        except (AttributeError, IndexError, TypeError):
            said = None
        if not isinstance(said, str):
            raise _AgainError("a response without a message")
        return self._scrubbed(said)

    def _scrubbed(self, text: str) -> str:
        """Without the key, which a server that should not be trusted may repeat."""
        return text if self._key == _NO_KEY else text.replace(self._key, "[key]")


class _LostError(UserError):
    """One question did not get through."""


class _AgainError(Exception):
    """The attempt failed for a reason that may pass."""


class _SimplerError(Exception):
    """The request goes out again at once, in the simpler form that was found."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a request is written. Servers know more or less of structured output, reasoning models less of settings."""

    output: str = "json_schema"
    without: frozenset[str] = frozenset()

    def options(self, kind: str) -> dict[str, Any]:
        """What goes with the messages."""
        options = {name: value for name, value in _SAMPLING.items() if name not in self.without}
        if "max_tokens" in self.without:
            options["max_completion_tokens"] = chat.MAX_TOKENS
        if self.output == "json_schema":
            form = {"name": kind, "strict": True, "schema": chat.schema(kind)}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        elif self.output == "json_object":
            options["response_format"] = {"type": "json_object"}
        return options

    def simpler(self, named: str | None) -> _Form | None:
        """Without the setting that the server named, else with less structure; None: there is nothing to leave out."""
        if named in _SAMPLING and named not in self.without:
            return replace(self, without=self.without | {named})
        less = {"json_schema": "json_object", "json_object": "text"}.get(self.output)
        return replace(self, output=less) if less else None


class _Pace:
    """Requests evenly apart; a server's wish for rest holds for all of them."""

    def __init__(self, apart_s: float) -> None:
        self._apart_s = apart_s
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until a request may go out."""
        while (wait_s := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        self._next = time.monotonic() + self._apart_s

    def pause(self, seconds: float) -> None:
        """No request before then."""
        self._next = max(self._next, time.monotonic() + seconds)


def _is_address(base_url: str) -> bool:
    """Whether it names a server and a path there, and nothing else."""
    try:
        parts = urlsplit(base_url)
        host = parts.port != 0 and parts.hostname
    except ValueError:  # a bracket that is not closed, a port that is no number
        return False
    return bool(host) and parts.scheme in {"http", "https"} and not set(base_url) & set("@?#")


def _is_count(value: object) -> TypeGuard[int]:
    """Whether a server can mean it as a number of tokens; a larger one would not even fit into the store's column."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _retry_after_s(header: str) -> float:
    """Seconds of a Retry-After header, which has seconds or a date; 0 where it has neither."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # NaN too
