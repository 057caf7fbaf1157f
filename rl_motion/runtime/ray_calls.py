"""Answers of Ray's actors, and what their failures mean for a run: code's errors, or those of machines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray import exceptions

from rl_motion.config import RunFault, UserError

ATTEMPTS = 4
"""How often one call is tried before a run gives up on its system errors."""

_SYSTEM_ERRORS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
)
_PATIENCE_S = 60.0
_log = logging.getLogger(__name__)


class SystemFault(RunFault):
    """A call failed because of machines, not because of code; `lost`: an object it needed is gone."""

    def __init__(self, cause: BaseException) -> None:
        """Keep what Ray said."""
        super().__init__(str(cause).strip().splitlines()[0])
        self.lost = isinstance(cause, exceptions.ObjectLostError)


def get(ref: Any) -> Any:
    """The value, or the error that the user should see."""
    try:
        return ray.get(ref)
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, _SYSTEM_ERRORS):
            raise _fault(cause) from None
        if isinstance(cause, UserError | RunFault):
            raise cause from None
        raise
    except _SYSTEM_ERRORS as error:
        raise _fault(error) from None


def _fault(error: BaseException) -> RunFault:
    """What a system error means for the run: an actor that could not even be made would fail again."""
    if not (isinstance(error, exceptions.RayActorError) and error.actor_init_failed):
        return SystemFault(error)
    _log.error("a worker could not be made: %s", error)
    reason = str(error).strip().splitlines()[-1]
    return RunFault(
        f"got {reason!r} where a worker was made; want this code and its packages on every node; install them there, "
        "or start from the directory that the workers' code lies in, then resume the run"
    )


def any_of(refs: list[Any]) -> list[Any]:
    """Those that are done, at least one; says what it waits for, as a cluster may take minutes to grow."""
    while True:
        done, missing = ray.wait(refs, num_returns=1, timeout=_PATIENCE_S, fetch_local=False)
        if done:
            return done
        _log.warning("waiting for %d answers; the cluster offers %s", len(missing), resources())


def all_of(refs: Sequence[Any]) -> list[Any]:
    """All values; the first error at once, whosever it is, since the others may work for long."""
    missing = list(refs)
    while missing:
        for ref in any_of(missing):
            get(ref)
            missing.remove(ref)
    return [get(ref) for ref in refs]


def resources() -> dict[str, float]:
    """What the cluster offers."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def given_up(what: str) -> RunFault:
    """The error after `ATTEMPTS` system errors."""
    return RunFault(
        f"{what} failed {ATTEMPTS} times because workers or nodes died; look at `ray status` and resume the run"
    )
