"""Answers of Ray's actors, and what their failures mean for a run: code's errors, or those of machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray
from ray import exceptions
from ray._private.state import state

from rl_motion.config import RunFault, UserError
from rl_motion.runtime.pool import SAY_S, SystemFault

_SYSTEM_ERRORS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
)
_TICK_S = 0.5
_log = logging.getLogger(__name__)


class RayCalls:
    """`Calls` (rl_motion.runtime.pool) made to Ray's actors."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def wait(self, refs: Collection[Any], timeout_s: float) -> list[Any]:
        """Those that are done, after this time at the latest."""
        every = list(refs)
        done, _ = ray.wait(every, num_returns=1, timeout=timeout_s, fetch_local=False)
        return done and list(ray.wait(every, num_returns=len(every), timeout=0, fetch_local=False)[0])

    def get(self, ref: Any) -> Any:
        """The value, or the error that the user should see."""
        return get(ref)

    def end(self, actor: Any) -> None:
        """Kill it, dead or alive."""
        ray.kill(actor)

    def draining(self) -> Collection[str]:
        """Nodes that will soon be taken away: preempted ones, and those that an autoscaler gives back."""
        # What Ray Train asks for the same purpose; Ray has no public way.
        return list(state.get_draining_nodes())


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
        return SystemFault(error, lost=isinstance(error, exceptions.ObjectLostError))
    _log.error("a worker could not be made: %s", error)
    reason = str(error).strip().splitlines()[-1]
    return RunFault(
        f"got {reason!r} where a worker was made; want this code and its packages on every node; install them there, "
        "or start from the directory that the workers' code lies in, then resume the run"
    )


def all_of(
    refs: Sequence[Any], deadline_s: float = float("inf"), check: Callable[[], None] = lambda: None
) -> list[Any]:
    """All values; the first error at once, whosever it is, since the others may work for long.

    Args:
        refs: what to wait for.
        deadline_s: together.
        check: called now and then; may raise what ends the waiting.

    Raises:
        SystemFault: the deadline passed, or a machine failed.
    """
    missing, started, said = list(refs), time.monotonic(), 0.0
    while missing:
        done, _ = ray.wait(missing, num_returns=1, timeout=_TICK_S, fetch_local=False)
        for ref in done:
            get(ref)
            missing.remove(ref)
        check()
        waited = time.monotonic() - started
        if missing and waited > deadline_s:
            raise SystemFault(f"no answer within {deadline_s:g} s, runtime.deadline_s")
        if missing and waited - said > SAY_S:  # a cluster may take minutes to grow
            said = waited
            _log.warning("waiting for %d answers; the cluster offers %s", len(missing), resources())
    return [get(ref) for ref in refs]


def resources() -> dict[str, float]:
    """What the cluster offers."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def nodes_resources() -> list[dict[str, float]]:
    """What each node offers that is alive."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
