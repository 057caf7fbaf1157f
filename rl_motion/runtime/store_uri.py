"""URIs of stores: what is taken, and where in one a run is."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from rl_motion.config import UserError, nearest
from rl_motion.tracking.mlflow_tracker import holds_credentials

_SCHEMES = frozenset({"abfs", "abfss", "file", "gcs", "gs", "hdfs", "s3", "viewfs"})
"""PyArrow's."""
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""Names that runs' folders have."""


def check_uri(uri: str | None) -> None:
    """Refuse a URI that names no place in a store, or would put a key into job.yaml, MLflow and logs.

    Raises:
        UserError: says what instead; repeats nothing of a URI that may hold a key.
    """
    if uri is None:
        return
    if holds_credentials(uri):
        raise UserError(
            "runtime.commits_uri: got a user name, key or token; want none (no `@`, no `access_key=`), because "
            "job.yaml, MLflow and logs repeat the URI; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "GOOGLE_APPLICATION_CREDENTIALS, in the environment"
        )
    try:
        parts = urlsplit(uri)
        kind = parts.scheme
    except ValueError:  # whose words repeat the part that is wrong
        raise UserError("runtime.commits_uri: got no URI; want one like s3://bucket/folder; correct it") from None
    if kind not in _SCHEMES or "://" not in uri:
        raise UserError(
            f"runtime.commits_uri: got a URI of no file system that PyArrow knows; want one of {sorted(_SCHEMES)}, as "
            f"in s3://bucket/folder; {nearest(kind, _SCHEMES, 'correct it')}"
        )
    if bool(parts.netloc) == (kind == "file") or (kind == "file" and parts.path in ("", "/")):
        raise UserError(
            "runtime.commits_uri: got a URI that names no place; want a bucket, or file:/// and an absolute path; "
            "write it like s3://bucket/folder or file:///mnt/nfs/runs"
        )


def is_uri(run: str) -> bool:
    """Whether RUN is a place in a store and not a folder of this machine."""
    return "://" in run


def run_in(uri: str) -> tuple[str, str]:
    """The store's URI and the run's name, of the URI of a run.

    Raises:
        UserError: it names no run.
    """
    check_uri(uri)
    parts = urlsplit(uri)
    above, _, name = parts.path.rstrip("/").rpartition("/")
    if not _RUN.fullmatch(name):
        raise UserError(f"got RUN={uri}; want the URI of a run; write it like s3://bucket/folder/demo")
    store = urlunsplit(parts._replace(path=above))
    check_uri(store)
    return store, name
