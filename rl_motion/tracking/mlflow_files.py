"""Files for a run in MLflow that ended long ago: what is made of it later, such as a report."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rl_motion.tracking.mlflow_tracker import KEY_TAG

FOLDER = "report"
"""Of a run's artifacts."""
_PATIENCE_S = "10"
_log = logging.getLogger(__name__)


def add_files(uri: str, experiment: str, key: str, files: Sequence[Path]) -> bool:
    """Log files as artifacts of a run; whether MLflow has them.

    An MLflow that is away, or does not have the run, is told in a warning and is no fault. No database is made.

    Args:
        uri: of the store, `{out}` replaced.
        experiment: the run's.
        key: of the run over its resumes, as `MlflowSettings.key`.
        files: by their names below `FOLDER`.
    """
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("sqlite:") and not database.is_file():
        _log.warning("MLflow does not get the report: its database is not where the run had it")
        return False
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _PATIENCE_S)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        there = client.get_experiment_by_name(experiment)
        found = there and client.search_runs([there.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not found:
            _log.warning("MLflow does not get the report: it does not have the run")
            return False
        for path in files:
            client.log_artifact(found[0].info.run_id, str(path), FOLDER)
    except Exception as error:  # whatever a server or a database answers: the files themselves are written
        _log.warning("MLflow does not get the report (%s)", " ".join(str(error).split())[:200])
        return False
    return True
