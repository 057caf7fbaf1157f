"""What a run logs: `run.log` for people, and the same records as JSON lines in `run.jsonl` for machines.

Both are written: a person reads along with `tail -f`, and no person reads JSON; a machine should not have to take
sentences apart. A line of `run.jsonl` says which run, and where known which iteration, unit, role and worker.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from rl_motion.runtime.run_log import RunLog

FIELDS = ("run", "iteration", "unit", "role", "worker")
"""What a record may be about. From `extra=` of the call that logs, else from `about` around it."""
_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Characters; a shorter value would black out words of the log that are none."""
_USER_IN_URI = re.compile(r"(?<=://)[^/\s@]+@")
_NOTHING: Mapping[str, object] = MappingProxyType({})
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=_NOTHING)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """What is logged within, by this thread, is about these `FIELDS`."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def go_on_to(**fields: object) -> None:
    """From here on this thread is about these `FIELDS`; what it was about before stays, where it is not named."""
    _about.set({**_about.get(), **fields})


class Context(logging.Filter):
    """Lets every record pass, with what it is about."""

    def __init__(self, run: str) -> None:
        """A handler's; `run` is the name of the run's folder."""
        super().__init__()
        self._run = run

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that the record lacks."""
        for name, value in {"run": self._run, **_about.get()}.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class Discreet(logging.Formatter):
    """Lines for people, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, its traceback below it."""
        return without_secrets(super().format(record))


class JsonLine(logging.Formatter):
    """One JSON object a record, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (Unix seconds), level, logger, message, what it is about, and the traceback if there is one."""
        tree: dict[str, object] = {
            "unix_s": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                tree[name] = value if isinstance(value, int) else without_secrets(str(value))
        if record.exc_info:
            tree["traceback"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(tree)


def without_secrets(text: str) -> str:
    """The text without the values of secret environment variables and without users and passwords of URIs."""
    for name, value in os.environ.items():
        if (
            _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and "/" not in value[:1]
        ):  # a file's path is none
            text = text.replace(value, f"<{name}>")
    return _USER_IN_URI.sub("...@", text)


@contextmanager
def logging_to(folder: Path, run: str) -> Iterator[None]:
    """Write what the package logs into this folder."""
    formats = {"run.log": Discreet(_PLAIN), "run.jsonl": JsonLine()}
    logger = logging.getLogger("rl_motion")
    handlers: list[RunLog] = []
    try:
        for name, formatter in formats.items():
            handler = RunLog(folder / name, formatter)
            handler.addFilter(Context(run))
            logger.addHandler(handler)
            handlers.append(handler)
        token = _about.set(_NOTHING)  # not what an earlier run of this process was about
        try:
            yield
        finally:
            _about.reset(token)
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        for handler in handlers:
            handler.close()
