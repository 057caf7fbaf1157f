"""RUN/control.json: a request to a run that is under way, and how its answer is waited for.

Needs neither torch nor ray.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rl_motion.config import Job, RunFault, RuntimeConfig, UserError
from rl_motion.config.load import load_job
from rl_motion.config.schema import Workers
from rl_motion.runtime import status_file
from rl_motion.runtime.held import is_held
from rl_motion.runtime.status import Role
from rl_motion.runtime.status_file import RunStatus
from rl_motion.tracking.files import read_whole, write_atomic

PATIENCE_S = 30.0
"""For a run that looks once a second."""
_POLL_S = 0.2
_MAX_BYTES = 10_000


class Request(BaseModel):
    """From now on so many workers; None: as many as before."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    id: str
    rollout_workers: Workers | None = None
    reward_workers: Workers | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> Request:
        if not self.sizes:
            raise ValueError("got no number of workers; want one")
        return self

    @property
    def sizes(self) -> dict[Role, int]:
        """By role, those that change."""
        given: dict[Role, int | None] = {"rollout": self.rollout_workers, "reward": self.reward_workers}
        return {role: workers for role, workers in given.items() if workers is not None}


def path_of(folder: Path) -> Path:
    """Where a request lies until the run has taken it."""
    return folder / "control.json"


def read(path: Path) -> Request:
    """A request that lies there.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is something else.
    """
    try:
        return Request.model_validate_json(read_whole(path, _MAX_BYTES))
    except ValidationError as error:
        names = sorted({".".join(map(str, item["loc"])) or "the whole" for item in error.errors()})
        raise ValueError(
            f"got a control.json with mistakes in {names[:5]}; want what `rl-motion scale` writes"
        ) from None


def resized(job: Job, sizes: Mapping[Role, int]) -> Job:
    """The job with pools of these sizes.

    Raises:
        UserError: its other settings do not allow them.
    """
    runtime = job.runtime.model_dump() | {f"{role}_workers": workers for role, workers in sizes.items()}
    try:
        return job.model_copy(update={"runtime": RuntimeConfig.model_validate(runtime)})
    except ValidationError as error:
        said = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        raise UserError(f"runtime: {said}") from None


def scale(
    folder: Path, sizes: Mapping[Role, int], waiting: Callable[[float], None], patience_s: float = PATIENCE_S
) -> tuple[dict[Role, int], dict[Role, int]]:
    """Ask a run for pools of these sizes and wait until it has taken that over.

    Args:
        folder: the run's.
        sizes: workers wanted, by role.
        waiting: is told the seconds that have passed, several times a second.
        patience_s: how long to wait at most.

    Returns:
        What was wanted before and what is wanted now, by role.

    Raises:
        UserError: there is no such run, it is not under way, or it refuses.
        RunFault: it does not answer.
    """
    before = _under_way(folder, sizes)
    request = Request(id=uuid.uuid4().hex, rollout_workers=sizes.get("rollout"), reward_workers=sizes.get("reward"))
    deadline = time.monotonic() + patience_s
    _hand_over(path_of(folder), request, deadline)
    try:
        while True:
            now = status_file.read(folder)
            if now.answer is not None and now.answer.id == request.id:
                break
            if time.monotonic() > deadline:
                raise RunFault(
                    f"{folder}: got no answer within {patience_s:.0f} s (the run last said something "
                    f"{max(time.time() - now.unix_s, 0.0):.0f} s ago); want one within seconds; look at it: rl-motion "
                    f"status {folder}, and ask again"
                )
            waiting(patience_s - (deadline - time.monotonic()))
            time.sleep(_POLL_S)
    finally:
        _take_back(path_of(folder), request)
    if now.answer.refused is not None:
        raise UserError(now.answer.refused)
    return _wanted(before), _wanted(now)


def _under_way(folder: Path, sizes: Mapping[Role, int]) -> RunStatus:
    status = status_file.read(folder)
    sets = " ".join(f"--set runtime.{role}_workers={workers}" for role, workers in sizes.items())
    if status.backend == "local":
        raise UserError(
            f"got {folder}, a run in one process; want one on Ray; end it and resume it: rl-motion resume {folder} "
            f"--set runtime.backend=ray {sets}"
        )
    if status.state == "EVALUATING":
        raise UserError(f"got {folder}, which has trained and is being evaluated; want a run that trains; let it end")
    if status.state in status_file.OVER or not is_held(folder):
        raise UserError(
            f"got {folder}, a run that no process is working on; want one under way; resume it with these sizes: "
            f"rl-motion resume {folder} {sets}"
        )
    if status.state == "STARTING":
        raise UserError(
            f"got {folder}, whose workers are being made; want a run that trains; wait for it and ask again"
        )
    resized(load_job(folder / "job.yaml"), sizes)
    return status


def _hand_over(path: Path, request: Request, deadline: float) -> None:
    """Lay the request down; one of somebody else's, which the run is about to take, is waited for."""
    while path.exists():
        if time.monotonic() > deadline:
            raise RunFault(
                f"got {path}, another request that the run does not take; want the run to look once a second; look at "
                "it: rl-motion status, then remove the file"
            )
        time.sleep(_POLL_S)
    write_atomic(path, request.model_dump_json().encode())


def _take_back(path: Path, request: Request) -> None:
    """Nobody waits for its answer any more, so that it must not be obeyed later."""
    try:
        if json.loads(read_whole(path, _MAX_BYTES)).get("id") == request.id:
            path.unlink()
    except (OSError, ValueError, AttributeError):
        return


def _wanted(status: RunStatus) -> dict[Role, int]:
    pools = status.workers.pools if status.workers else ()
    return {pool.role: pool.wanted for pool in pools if pool.role in get_args(Role)}
