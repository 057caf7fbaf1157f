"""What a person sees while trials run: a line where one starts or ends, and how far they are, every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console

from rl_motion.evaluation.format import interval, number
from rl_motion.runtime.progress import PLAIN_EVERY_S
from rl_motion.runtime.sweep_record import Record


class Watch(TrialProgressCallback):
    """Writes down and says how trials end, in the place of Tune's own. Tune calls it; `trial` is Tune's."""

    def __init__(self, record: Record, iterations: Mapping[str, int], out: Path, console: Console) -> None:
        """Starts counting now; `iterations` is how many each trial has."""
        super().__init__()
        self._record, self._iterations, self._out, self._console = record, iterations, out, console
        self._running: set[str] = set()
        self._spoke = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune saves its callbacks for a resume that is not ours, and a console cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial has a place."""
        entry = self._record.entry(trial.config["trial"])
        self._running.add(entry.name)
        self._say(f"{entry.name}: {' '.join(f'{key}={value}' for key, value in entry.fields.items())}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial has ended, well or with a reason."""
        self._end(trial.config["trial"], result["reason"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """After its result, which said all."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process has ended before it could say why."""
        name = trial.config["trial"]
        self._end(name, f"its process died; look at {self._out / name}/logs/run.log and at the machine's memory")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Tune has looked at its trials again."""
        if self._running and time.monotonic() - self._spoke >= PLAIN_EVERY_S:
            self._say("  ".join(f"{name} {self._done(name)}" for name in sorted(self._running)))

    def _end(self, name: str, reason: str | None) -> None:
        self._running.discard(name)
        entry = self._record.end(name, reason, self._out)
        over = sum(entry.state != "waiting" for entry in self._record.trials)
        if entry.value is None:
            told = f"failed: {entry.reason}"
        else:
            told = f"{self._record.metric} {number(float(entry.value['value'] or 0.0))} {interval(entry.value)}"
        self._say(f"{name}: {told}  ({over} of {len(self._record.trials)} over)")

    def _done(self, name: str) -> str:
        rows = self._out / name / "metrics.jsonl"
        done = rows.read_bytes().count(b"\n") if rows.exists() else 0
        return f"iteration {done}/{self._iterations[name]}"

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
