"""Prompts in MLflow: data sets that a run names as its inputs, and tables that its page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rl_motion.tracking.files import write_atomic

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLES = "prompts"
"""A folder of this name holds tables, in its JSON files."""
MOST_ROWS = 5000
"""Of a table in MLflow, whose page reads all of it at once."""
_NAME, _DIGEST = 500, 36
"""Most characters that MLflow takes."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a run reads, as MLflow knows it: by name and digest, over all runs.

    digest: of the content. source: where it lies. columns: MLflow's type by name. profile: of the content too. context:
    what this run reads it for. tags: what is this run's own.
    """

    name: str
    digest: str
    source: str
    columns: Mapping[str, str]
    profile: Mapping[str, Any]
    context: Literal["training", "validation"]
    tags: Mapping[str, str] = field(default_factory=dict)


def log_data_sets(client: MlflowClient, run_id: str, data_sets: Sequence[DataSet]) -> None:
    """Name them as the run's inputs; those that are named already stay as they are."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    inputs = []
    for one in data_sets:
        schema = [{"name": name, "type": kind, "required": True} for name, kind in one.columns.items()]
        made = Dataset(
            name=one.name[:_NAME],
            digest=one.digest[:_DIGEST],
            source_type="local",
            source=json.dumps({"uri": one.source}),
            schema=json.dumps({"mlflow_colspec": schema}),
            profile=json.dumps(one.profile),
        )
        tags = {MLFLOW_DATASET_CONTEXT: one.context, **one.tags}
        inputs.append(DatasetInput(made, [InputTag(name, value) for name, value in tags.items()]))
    if inputs:
        client.log_inputs(run_id, inputs)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """The first `MOST_ROWS` rows, in the form of `MlflowClient.log_table`, which would append them to what is there."""
    data = [[row[column] for column in columns] for row in rows[:MOST_ROWS]]
    write_atomic(path, json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False).encode())


def show_tables(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Have MLflow's page of the run offer the tables of a folder that was logged under its own name."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    tables = [{"path": f"{folder.name}/{path.name}", "type": "table"} for path in sorted(folder.glob("*.json"))]
    client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps(tables))
