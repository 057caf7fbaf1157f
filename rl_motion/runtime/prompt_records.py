"""What people see of a run's prompts: its data sets in MLflow, and tables in RUN/prompts.

    pool.json       the prompts that it trains and validates with, as MLflow shows a table
    ledger.json     what it learned of those that it trains with, likewise
    ledger.parquet  the same

MLflow reads a table at once: of prompts that are too many, the first two hold some, and their names say which.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_motion.config import Job
from rl_motion.data.names import SPLIT
from rl_motion.prompts.pool import PromptPool
from rl_motion.prompts.table import Row
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.prompt_sources import Use, file_of, take_rows
from rl_motion.tracking.files import write_atomic
from rl_motion.tracking.mlflow_data import MOST_ROWS, TABLES, DataSet, write_table
from rl_motion.types import Prompt

LEDGER = "ledger.parquet"
_OF_PROMPT = ("text", "operation", "length", "split", "source", "difficulty", "review")
_LEARNED = ("times_drawn", "reward_first", "reward_last", "trend", "variance", "variance_smoothed", "version")
_SHOWN = ("text", *_LEARNED, "set_aside", *_OF_PROMPT[1:])
_TYPES = {"length": "int32", "times_drawn": "int64", "version": "int64"} | dict.fromkeys(
    ("difficulty", "reward_first", "reward_last", "trend", "variance", "variance_smoothed"), "float64"
)
"""Of the ledger's columns in Parquet; the others are text."""


class PromptRecords:
    """Of one run."""

    def __init__(self, job: Job, pool: PromptPool, validation: Mapping[str, Sequence[Prompt]]) -> None:
        """Takes what else is known of a pool's prompts from where they were read, right after that.

        Args:
            job: that has the sources.
            pool: of training.
            validation: prompts by source; empty where nothing validates.
        """
        self.data_sets: list[DataSet] = []
        self._rows: list[dict[str, Any]] = []
        uses: Mapping[Use, Mapping[str, Sequence[Prompt]]] = {"train": pool.sources, "val": validation}
        for use, sources in uses.items():
            for name, prompts in sources.items():
                known = take_rows(name, use)
                tags: dict[str, str] = {}
                if use == "train":
                    tags["rl_motion.weight"] = str(job.prompts.sources.get(name))
                    tags["rl_motion.set_aside"] = json.dumps(pool.set_aside.get(name, {}))
                self.data_sets.append(_data_set(name, use, prompts, known, tags))
                self._rows += _described(name, use, prompts, known)

    def write_pool(self, folder: Path) -> None:
        """The prompts; raises OSError."""
        write_table(folder / TABLES / self._named("pool", "first"), _OF_PROMPT, self._rows)

    def write_ledger(self, folder: Path, ledger: Ledger) -> None:
        """What was learned of the prompts, those that taught most often first; raises OSError."""
        rows = [row | _learned(row["id"], ledger) for row in self._rows if row["split"] == "train"]
        rows.sort(key=lambda row: -int(row["times_drawn"]))
        write_atomic(folder / TABLES / LEDGER, _parquet(rows))
        write_table(folder / TABLES / self._named("ledger", "most_drawn"), _SHOWN, rows)

    def _named(self, what: str, which: str) -> str:
        """By what the run reads, not by what it has drawn so far: a resumed run writes the same files."""
        return f"{what}.json" if len(self._rows) <= MOST_ROWS else f"{what}_{MOST_ROWS}_{which}.json"


def _described(name: str, use: Use, prompts: Sequence[Prompt], known: Mapping[str, Row]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        row = {"id": prompt.id, "text": prompt.text, "length": prompt.length, "split": use, "source": name}
        of_pool = known.get(prompt.id)
        rows.append(row | {key: getattr(of_pool, key, None) for key in ("operation", "difficulty", "review")})
    return rows


def _learned(prompt_id: str, ledger: Ledger) -> dict[str, Any]:
    aside, got = ledger.set_aside.get(prompt_id), ledger.rewards.get(prompt_id)
    numbers = [None] * 6 if got is None else [got.first, got.last, got.trend, got.variance, got.smoothed, got.version]
    found = dict(zip(_LEARNED, [ledger.taught[prompt_id], *numbers], strict=True))
    return found | {"set_aside": aside.reason if aside else None}


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, getattr(pa, _TYPES.get(name, "string"))()) for name in ("id", *_SHOWN)])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd")
    return buffer.getvalue()


def _data_set(
    name: str, use: Use, prompts: Sequence[Prompt], known: Mapping[str, Row], tags: Mapping[str, str]
) -> DataSet:
    """The prompts that the job reads.

    A review that changes none of them changes neither digest nor profile: a resumed run must find its data set again.
    """
    columns = {"text": "string", "length": "long"}
    profile: dict[str, Any] = {"num_rows": len(prompts)}
    content: list[list[Any]] = [[prompt.id, prompt.group] for prompt in prompts]
    if known:
        columns |= {"operation": "string", "difficulty": "float", "review": "string"}
        rows = [known[prompt.id] for prompt in prompts]
        content = [[row.id, row.operation, row.difficulty] for row in rows]
        profile["operations"] = dict(sorted(Counter(row.operation for row in rows).items()))
        tags = {**tags, "rl_motion.reviews": json.dumps(dict(sorted(Counter(row.review for row in rows).items())))}
    where = f"rl_motion.data.worlds:{name}" if SPLIT.fullmatch(name) else file_of(name)
    return DataSet(
        name=f"{name}/{use}" if known else name,
        digest=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16],
        source=where,
        columns=columns,
        profile=profile,
        context="training" if use == "train" else "validation",
        tags=tags,
    )
