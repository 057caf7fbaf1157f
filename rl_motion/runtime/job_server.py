"""Ray's job server on a head node: reach it, hand it a command, follow what that says, list and stop.

Its client raises what HTTP, asyncio and Ray happen to raise; here all of it becomes got, want, do.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import re
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rl_motion.config import RunFault, UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_PROBE_S = 10.0
_POLL_S = 0.5
_PATIENCE_S = 60.0
_STOP_S = 60
"""What a stopped command has to end by itself, before it is killed: an iteration's commit and the adapter."""
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_STOP_AS_CTRL_C = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)}
_HERE = "want the job server of a Ray head node"


@dataclass(frozen=True, slots=True)
class Submission:
    """A shell command for a cluster, with what goes there beside it."""

    name: str
    """Its job id is this and six random digits."""
    entrypoint: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Its working directory, by relative path; workers see it too. None: nothing is sent."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Of the command and its workers; may be secret."""
    cpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    """What the command itself claims, custom resources by name. With none of either it runs on the head node."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over; `exit_code` as of `rl-motion` itself: 0, 1 or 2."""

    exit_code: int
    reason: str
    """Empty where all went well."""


class JobServer:
    """One address."""

    def __init__(self, address: str) -> None:
        """Reach it.

        Args:
            address: such as http://head:8265.

        Raises:
            UserError: it is no such address, nothing answers there, or what does wants another token or is no Ray.
        """
        self.address = check_address(address)
        _probe(self.address)
        with self._answers():
            self._client = make_client(self.address)

    def submit(self, submission: Submission) -> str:
        """Start it; returns the job's id.

        Raises:
            UserError: the server refuses it.
        """
        job_id = f"{submission.name[:100]}-{secrets.token_hex(3)}"
        runtime_env: dict[str, Any] = {"env_vars": {**_STOP_AS_CTRL_C, **submission.environment}}
        with tempfile.TemporaryDirectory() as folder:
            for name, content in submission.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if submission.files:
                runtime_env["working_dir"] = folder
            request = {
                "entrypoint": submission.entrypoint,
                "submission_id": job_id,
                "runtime_env": runtime_env,
                "entrypoint_num_cpus": submission.cpus or None,
                "entrypoint_resources": dict(submission.resources) or None,
            }
            with self._answers():
                self._send(request)
        return job_id

    def _send(self, request: Mapping[str, Any]) -> None:
        """A head that has just started answers before it can run jobs."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._client.submit_job(**request)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def jobs(self) -> list[JobDetails]:
        """All that were submitted since the head started, newest first."""
        with self._answers():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0, reverse=True)

    def logs(self, job_id: str) -> str:
        """What a job has said so far.

        Raises:
            UserError: there is no such job.
        """
        self._details(job_id)
        with self._answers(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, show: Callable[[str], None]) -> Ended:
        """Show what a job says, from its beginning until it has ended; a connection that breaks is made again.

        Raises:
            UserError: there is no such job.
            RunFault: the server is gone.
        """
        shown = 0

        async def tail() -> None:
            nonlocal shown
            seen = 0
            async for text in self._client.tail_job_logs(job_id):
                new = text[max(0, shown - seen) :]
                seen += len(text)
                if new:
                    show(new)
                    shown += len(new)

        details = self._details(job_id)
        while True:
            with suppress(OSError, RuntimeError, _client_error()):
                asyncio.run(tail())
            # Known to have ended before what it said was read: all of it has been shown.
            if details.status.is_terminal():
                return _ended(details)
            time.sleep(_POLL_S)
            details = self._details_in_time(job_id)

    def stop(self, job_id: str) -> bool:
        """End a job as Ctrl-C would, and wait until it has; False where it had ended before.

        Raises:
            UserError: there is no such job.
            RunFault: it does not end.
        """
        if self._details(job_id).status.is_terminal():
            return False
        with self._answers(job_id):
            self._client.stop_job(job_id)
        deadline = time.monotonic() + 2 * _STOP_S
        while not self._details(job_id).status.is_terminal():
            if time.monotonic() > deadline:
                raise RunFault(f"got no end of job {job_id} in {2 * _STOP_S} s; want one; look at its node, try again")
            time.sleep(_POLL_S)
        return True

    def _details(self, job_id: str) -> JobDetails:
        if not _JOB_ID.fullmatch(job_id):
            raise _unknown(job_id, self.address)
        with self._answers(job_id):
            details: JobDetails = self._client.get_job_info(job_id)
            return details

    def _details_in_time(self, job_id: str) -> JobDetails:
        """The same of a server that answered before, and may be away for a moment."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._details(job_id)
            except UserError as error:
                if time.monotonic() > deadline:
                    raise RunFault(f"{error}; job {job_id} may go on without its server") from None
            time.sleep(_POLL_S)

    @contextmanager
    def _answers(self, job_id: str = "") -> Iterator[None]:
        """Turn what the client raises into got, want, do."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            held = "another token" if "invalid or incorrect" in str(error) else "no token"
            raise UserError(
                f"got {held} for {self.address}, which lets nobody in without its own; want the cluster's token; set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
            ) from None
        except (
            OSError,
            RuntimeError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:  # the last of what is no Ray's JSON
            said = " ".join(str(error).split())
            if job_id and "status code 404" in said:
                raise _unknown(job_id, self.address) from None
            if "Package size" in said:
                raise UserError(
                    f"got files that are too large to be sent ({said[:100]}); want prompts of some MB; put them where "
                    "all nodes see them and name them by their absolute path"
                ) from None
            raise UserError(
                f"got {said[:300]!r} from {self.address}; {_HERE} with this release of Ray; check the address"
            ) from None


def make_client(address: str) -> Any:
    """Ray's client of an address: of this one, whatever the environment says, to which Ray would give way."""
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        if type(handler).__module__.startswith("ray."):  # others may be anybody's
            handler.setLevel(logging.ERROR)
    hidden = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    try:
        return JobSubmissionClient(address)
    finally:
        os.environ.update(hidden)


def check_address(address: str) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: it is none; repeats nothing of what may hold a password.
    """
    do = f"{_HERE}, without a password; write it like http://head:8265"
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in address or parts.query or parts.fragment or not address.isprintable() or " " in address:
        raise UserError(f"got --address {'...' if '@' in address else repr(address[:200])}; {do}")
    return address.rstrip("/")


def _probe(address: str) -> None:
    """Ray's client would wait for minutes where nothing answers."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=_PROBE_S).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = str(getattr(error, "reason", error))[:200]
        raise UserError(
            f"got no answer from {address} ({said}); {_HERE} that this machine can reach; start the cluster, or check "
            "the address"
        ) from None


def _unknown(job_id: str, address: str) -> UserError:
    return UserError(
        f"got job id {job_id[:200]!r}, which {address} does not know; want one that was submitted there since its head "
        f"started; choose one: rl-motion jobs list --address {address}"
    )


def _client_error() -> type[Exception]:
    from aiohttp import ClientError

    return ClientError


def _ended(details: JobDetails) -> Ended:
    """How a job's end is told to whoever followed it."""
    code = details.driver_exit_code
    if details.status.value == "SUCCEEDED":
        return Ended(0, "")
    if details.status.value == "STOPPED":
        return Ended(1, "it was stopped")
    if code == 127:
        return Ended(
            1,
            "got no command `rl-motion` where the job runs (exit code 127); want the package there; install it, or "
            "start Ray from the environment that has it",
        )
    if code is None:
        return Ended(1, f"Ray ended it: {' '.join((details.message or 'no reason given').split())[:500]}")
    return Ended(code if code == 2 else 1, f"it ended with exit code {code}; its last lines say why")
