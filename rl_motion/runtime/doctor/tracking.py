"""Whether MLflow answers and lets us write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rl_motion.runtime.doctor.findings import Case, Finding, failed, fine, skipped
from rl_motion.tracking.mlflow_tracker import check_uri

_QUICK = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}


def check_mlflow(case: Case) -> Finding:
    """Writes a run with one metric into the job's experiment, and deletes it again. Repeats nothing of the URI."""
    given = case.job.tracking.mlflow_uri
    if given is None:
        return skipped("tracking.mlflow_uri is null: metrics.jsonl is the record")
    check_uri(given)
    uri = given.replace("{out}", str(case.out.resolve()))
    if uri.startswith("sqlite:"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            return fine(f"{database} will be made by the first run")
    with _environment(_QUICK):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        try:
            experiment = client.get_experiment_by_name(case.job.tracking.experiment)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment("rl_motion doctor")
            run_id = client.create_run(experiment_id, run_name="doctor").info.run_id
            client.log_metric(run_id, "written", 1.0)
            client.delete_run(run_id)
        except Exception as error:  # whatever mlflow, requests or a database raise
            return failed(
                f"{type(error).__name__} from MLflow ({_place(uri)})",
                "a server that answers and takes a run",
                "start it, check tracking.mlflow_uri and MLFLOW_TRACKING_TOKEN (or _USERNAME and _PASSWORD); training "
                "would go on without it, and send all later",
            )
    return fine(f"{_place(uri)} took a run with one metric, deleted again")


def _place(uri: str) -> str:
    """Host or file of a URI."""
    parts = urlsplit(uri)
    return parts.hostname or parts.path.removeprefix("//")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
