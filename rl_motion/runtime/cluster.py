"""Which Ray cluster a run works on: that of a submitted job, that of RAY_ADDRESS, or one of its own."""

from __future__ import annotations

import logging
import os
import platform
import socket
from typing import Any

import ray
from ray._private import ray_constants

from rl_motion.config import UserError

_PROBE_S = 10.0
_log = logging.getLogger(__name__)


def connect() -> bool:
    """Join the cluster of a submitted job or of RAY_ADDRESS, else start one on this machine.

    Returns:
        True where this process started the cluster and has to end it.

    Raises:
        UserError: the cluster is away, or runs another release.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS") or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        _join(quiet)
        _log.info("joined the cluster at %s", ray.get_runtime_context().gcs_address)
        return False
    # A cluster on loopback for this process alone: no token, no usage report, no dashboard.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # On Linux Ray replaces 127.0.0.1 by the machine's own address, unless it believes, as on macOS, that there can be
    # no other machines.
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, **quiet)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    _log.info("started a cluster on this machine")
    return True


def _join(options: dict[str, Any]) -> None:
    where = os.environ.get("RAY_ADDRESS") or "auto"
    host, _, port = where.rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:
            # Ray itself would ask for minutes.
            socket.create_connection((host, int(port)), timeout=_PROBE_S).close()
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())[:400]
        raise UserError(
            f"got the Ray cluster {where!r}, which cannot be joined ({said}); want one that "
            f"runs, with Ray {ray.__version__} and Python {platform.python_version()}; start it, unset RAY_ADDRESS, or "
            "install what it runs with"
        ) from None
