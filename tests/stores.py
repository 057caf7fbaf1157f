"""Stores for tests: an S3 server on loopback, and a file system that fails on demand."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "runs"
_COUNTED = ("create_dir", "delete_dir", "delete_file", "get_file_info", "open_input_stream", "open_output_stream")


class Failing:
    """A file system of PyArrow's whose every request first asks `before`, by its number, from 1 on.

    Writing and closing a file are requests of their own; one that fails within a file leaves half of it behind.
    """

    def __init__(self, filesystem: Any, before: Callable[[int], object]) -> None:
        self._filesystem = filesystem
        self._before = before
        self.requests = 0

    def count(self) -> None:
        self.requests += 1
        self._before(self.requests)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._filesystem, name)
        if name not in _COUNTED:
            return found

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count()
            made = found(*arguments, **options)
            return self._halving(made) if name == "open_output_stream" else made

        return counted

    @contextmanager
    def _halving(self, file: Any) -> Iterator[Any]:
        with file:
            yield _Half(self, file)
            self.count()


class _Half:
    def __init__(self, owner: Failing, file: Any) -> None:
        self._owner = owner
        self._file = file

    def write(self, content: bytes) -> None:
        self._file.write(content[: len(content) // 2])
        self._owner.count()
        self._file.write(content[len(content) // 2 :])


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket on a server of this process, reached through the environment as on AWS."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    try:
        for path in ("moto-api/reset", BUCKET):
            method = "PUT" if path == BUCKET else "POST"
            request = urllib.request.Request(f"http://{host}:{port}/{path}", method=method)
            urllib.request.urlopen(request).close()
        yield f"s3://{BUCKET}/some/folder"
    finally:
        server.stop()
