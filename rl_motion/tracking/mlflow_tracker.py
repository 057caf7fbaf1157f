"""MLflow beside metrics.jsonl: a background thread that follows the file and never holds training up.

The file is the queue. The thread reads what is new, sends it, and moves on only once the server has it;
while the server is away it tries again, and what is still missing when the process ends is sent by the next
one, which asks the server which iterations it has. So nothing is lost and no step comes twice, however often
a run is resumed.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from rl_motion.config import UserError, nearest
from rl_motion.tracking.files import write_synced
from rl_motion.tracking.jsonl import ITERATION, TIME, JsonlTracker
from rl_motion.tracking.mlflow_data import TABLES, DataSet, log_data_sets, show_tables
from rl_motion.types import Metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY_TAG = "rl_motion.run_id"
_PARAM_LENGTH = 500
"""Of a parameter's value, in characters; the job's own file, logged beside it, has the whole."""
_BATCH = 900
"""Metrics per request; MLflow takes 1000."""
_RETRY_S = (1.0, 60.0)
"""First and longest pause between two tries."""
_HEAD_START_S = 8.0
"""So long, or until the first row, the start of the run goes first: importing mlflow holds the interpreter's lock."""
_STORES = frozenset({"databricks", "http", "https", "mssql", "mysql", "postgresql", "sqlite"})
"""Schemes of MLflow's own stores that are no folder of files; a database's may name a driver after a plus."""
_CREDENTIALS = re.compile(
    r"(?<![a-z])(user|uid|[a-z_-]*(pass|pwd|secret|token|credential|auth|signature|api_?key|access_?key)|key|sig)"
    r"[a-z_-]*\s*=",
    re.IGNORECASE,
)
"""A name that a query gives a password or its owner; `sslkey=`, a file, is none."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MlflowSettings:
    """Where to and as what a run is recorded.

    `key` names our run on the server, over all its resumes, `parent` that of the run that it is nested in;
    `artifacts` is where a database without a server keeps files; `params` are logged once, as `data_sets` are, which
    the run reads.
    """

    uri: str
    experiment: str
    run_name: str
    key: str
    artifacts: Path
    params: Mapping[str, str]
    tags: Mapping[str, str]
    parent: str | None = None
    data_sets: Sequence[DataSet] = ()


class MlflowTracker:
    """One run's follower of its metrics.jsonl."""

    def __init__(self, settings: MlflowSettings, rows: JsonlTracker, files: Sequence[Path]) -> None:
        """Starts the thread; mlflow is imported in it.

        Args:
            settings: where to.
            rows: the file to follow; must have been rewound before.
            files: files and folders to log at the start.
        """
        self.run_id: str | None = None
        """MLflow's name of the run, once it is known."""
        self._settings = settings
        self._rows = rows
        self._files = list(files)
        self._client: MlflowClient | None = None
        self._sent: set[int] = set()
        self._offset = 0
        self._status: str | None = None
        self._warned = False
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new row; returns at once."""
        self._wake.set()

    def behind(self) -> int:
        """Rows that the server lacks, as far as is known here."""
        return self._rows.count_from(self._offset)

    def finish(self, status: str, files: Sequence[Path], timeout_s: float) -> bool:
        """Send what is left and close the run on the server.

        Args:
            status: FINISHED, FAILED or KILLED.
            files: files and folders to log.
            timeout_s: how long to wait at most.

        Returns:
            Whether the server has everything.
        """
        self._files += files
        self._status = status
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        self._wake.wait(_HEAD_START_S)
        delay_s = _RETRY_S[0]
        while True:
            closing = self._status
            try:
                self._send(closing)
            except Exception as error:
                self._warn(error)
                # New rows do not hurry a server that is away; only the end of the run does, once.
                (time.sleep if closing else self._ending.wait)(delay_s)
                delay_s = min(2 * delay_s, _RETRY_S[1])
                continue
            if closing is not None:
                return
            delay_s = _RETRY_S[0]
            self._wake.wait()
            self._wake.clear()

    def _send(self, closing: str | None) -> None:
        """Everything that the server does not have yet; raises whatever mlflow raises."""
        client = self._client or self._connect()
        assert self.run_id is not None
        while (step := self._rows.read(self._offset)) is not None:
            row, end = step
            if int(row[ITERATION]) not in self._sent:
                self._log_row(client, self.run_id, row)
                self._sent.add(int(row[ITERATION]))
            self._offset = end
        while self._files:
            path = self._files[0]
            if path.is_dir():
                client.log_artifacts(self.run_id, str(path), path.name)
                if path.name == TABLES:
                    show_tables(client, self.run_id, path)
            else:
                client.log_artifact(self.run_id, str(path))
            self._files.pop(0)
        if closing is not None:
            client.set_terminated(self.run_id, closing)

    @staticmethod
    def _log_row(client: MlflowClient, run_id: str, row: Metrics) -> None:
        from mlflow.entities import Metric

        # The row's own time: a row sent twice, because the answer was lost, is one and the same row to
        # MLflow.
        when, step = int(row[TIME]), int(row[ITERATION])
        metrics = [Metric(name, value, when, step) for name, value in sorted(row.items())]
        # `iteration` goes last and alone: it says that the row is there.
        rest = [metric for metric in metrics if metric.key != ITERATION]
        for start in range(0, len(rest), _BATCH):
            client.log_batch(run_id, metrics=rest[start : start + _BATCH])
        client.log_batch(run_id, metrics=[Metric(ITERATION, float(step), when, step)])

    def _connect(self) -> MlflowClient:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
        # We try again ourselves: MLflow's own seven tries would hold a row back for minutes after the server is back.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        settings = self._settings
        make_database(settings.uri)
        client = MlflowClient(tracking_uri=settings.uri)
        experiment_id = _experiment(client, settings)
        run = _find(client, experiment_id, settings.key)
        if run is not None:
            client.update_run(run.info.run_id, status="RUNNING")
            history = client.get_metric_history(run.info.run_id, ITERATION)
            self._sent = {int(metric.step) for metric in history}
        else:
            tags = {KEY_TAG: settings.key, **settings.tags, **_nesting(client, experiment_id, settings.parent)}
            run = client.create_run(experiment_id, tags=tags, run_name=settings.run_name)
        for name, value in settings.params.items():
            if _allowed(name) not in run.data.params:
                client.log_param(run.info.run_id, _allowed(name), value[:_PARAM_LENGTH])
        log_data_sets(client, run.info.run_id, settings.data_sets)
        self.run_id = run.info.run_id
        self._client = client
        return client

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "MLflow (tracking.mlflow_uri) does not answer (%s); training goes on, metrics.jsonl has everything, "
                "and MLflow gets it once it is back",
                " ".join(str(error).split())[:200],
            )


def check_uri(uri: str | None) -> None:
    """Refuse a URI that would put a password into job.yaml, MLflow and logs, or that names a folder of files.

    Raises:
        UserError: says what instead; repeats nothing of the URI, as any part of it may be the password.
    """
    if uri is None:
        return
    if holds_credentials(uri):
        raise UserError(
            "tracking.mlflow_uri: got a user name, password or token; want none (no `@`, no `password=`), because "
            "job.yaml, MLflow and logs repeat the URI; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, in the environment"
        )
    try:
        parts = urlsplit(uri)
        kind = parts.scheme.partition("+")[0]
        port = None if kind == "databricks" else parts.port  # there a profile stands in its place
    except ValueError:  # whose words repeat the part that is wrong
        raise UserError(
            "tracking.mlflow_uri: got no URI, as its host or its port is none; want sqlite: or http(s):; correct it"
        ) from None
    if kind in ("", "file"):
        raise UserError(
            "tracking.mlflow_uri: got a folder of files; want a database or a server; write it like "
            "sqlite:///{out}/mlflow.db"
        )
    if kind not in _STORES:
        raise UserError(
            f"tracking.mlflow_uri: got a scheme that MLflow does not know; want one of {sorted(_STORES)}; "
            f"{nearest(kind, _STORES, 'correct it')}"
        )
    if port == 0 or (kind != "databricks" and not (parts.path if kind == "sqlite" else parts.hostname)):
        raise UserError(
            "tracking.mlflow_uri: got a URI that names no place; want a host, or a file after sqlite:///; add it"
        )


def holds_credentials(uri: str) -> bool:
    """Whether a URI names a user or gives a password, key or token, or may."""
    told = unquote(uri)
    return "@" in told or _CREDENTIALS.search(told) is not None


def make_database(uri: str) -> None:
    """Make the file of a sqlite URI where there is none, whole or not at all.

    MLflow makes its tables in many steps, and refuses for ever a file in which a kill left them half made.
    """
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not uri.startswith("sqlite:///") or path.exists() or not path.parent.is_dir():
        return
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments()
        whole = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            write_synced(whole, fresh.read_bytes())
            with suppress(FileExistsError):  # another run was faster
                os.link(whole, path)
        finally:
            whole.unlink(missing_ok=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A resolved job as one level: dotted names, values as text."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and `_-. /:` in names; a prompt file's path may hold others."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)[:250]


def _find(client: MlflowClient, experiment_id: str, key: str) -> Run | None:
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def _nesting(client: MlflowClient, experiment_id: str, parent: str | None) -> dict[str, str]:
    """The tag that nests a run in its parent.

    Raises:
        LookupError: the server does not have the parent yet; whoever follows this run tries again.
    """
    if parent is None:
        return {}
    run = _find(client, experiment_id, parent)
    if run is None:
        raise LookupError("the sweep's own run is not there yet")
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    return {MLFLOW_PARENT_RUN_ID: run.info.run_id}


def _experiment(client: MlflowClient, settings: MlflowSettings) -> str:
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    here = settings.uri.startswith("sqlite:")
    location = settings.artifacts.resolve().as_uri() if here else None
    return str(client.create_experiment(settings.experiment, artifact_location=location))
