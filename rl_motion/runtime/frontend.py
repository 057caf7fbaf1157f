"""What the commands do: start or resume a run, see it through, evaluate it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rl_motion.config import Job, RunFault, UserError
from rl_motion.prompts.pool import PromptPool
from rl_motion.rewards.of_job import RewardFiles, read_files
from rl_motion.runtime import loop, opening, text_features
from rl_motion.runtime.backend import make_backend
from rl_motion.runtime.build import Workshop, seen_by
from rl_motion.runtime.commit import LEARNER_FILE
from rl_motion.runtime.progress import watching
from rl_motion.runtime.prompt_records import PromptRecords
from rl_motion.runtime.run import Run
from rl_motion.runtime.store_uri import is_uri, run_in
from rl_motion.runtime.validate import Validation, paused, units_sha256, validation_units
from rl_motion.runtime.watcher import watching_run
from rl_motion.types import Metrics, Prompt

Report = Mapping[str, Any]
Evaluate = Callable[[Job, Path, float], Report]
"""(job, run folder with its adapter, seconds of training) -> report; writes report.json and report.html."""
_log = logging.getLogger(__name__)


def evaluate_adapter(job: Job, folder: Path, wall_s: float) -> Report:
    """Base beside tuned on held-out prompts, which the job has not read; the adapter is the one in the run's folder.

    Prompts that the model or a reward does not read whole are left out, and that is said.
    """
    from rl_motion.evaluation.bench import bench_of
    from rl_motion.evaluation.report import evaluate_run
    from rl_motion.runtime import checks
    from rl_motion.runtime.sampling import load_policy

    bench = bench_of(job)

    def prompts(split: str) -> Sequence[Prompt]:
        kept, every = checks.examined(job, split), bench.prompts(split)
        if len(kept) < len(every):
            _log.warning("evaluation leaves out %d prompts of %s, too long to read", len(every) - len(kept), split)
        return kept

    policies = {"base": load_policy(job, None), "tuned": load_policy(job, folder / "adapter")}
    fresh = replace(bench, prompts=prompts, seen=seen_by(job))
    return evaluate_run(job, folder, policies, wall_s=wall_s, bench=fresh)


@dataclass(frozen=True)
class Means:
    """How a run's parts are made and judged."""

    workshop: Workshop = field(default_factory=Workshop)
    evaluate: Evaluate = evaluate_adapter


MEANS = Means()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over."""

    folder: Path
    report: Report
    wall_s: float
    mlflow_uri: str | None
    """As the job has it."""


def start(job: Job, out: Path, console: Console) -> Outcome:
    """A new run in `out`; see `_see_through`."""
    MEANS.workshop.check(job)
    with opening.create(job, out) as new:
        console.print(f"run: {new.folder}", highlight=False, soft_wrap=True)
        return _see_through(new, console)


def resume(where: str | Path, overrides: Sequence[str], console: Console, out: Path = Path("runs")) -> Outcome:
    """Go on with a run from its newest whole commit; see `_see_through`.

    Args:
        where: its folder, or its URI in a store, from which the folder is rebuilt in `out`.
        overrides: `a.b=c` strings.
        console: says which settings changed.
        out: not read where `where` is a folder.
    """
    folder = Path(where)
    if is_uri(str(where)):
        console.print(f"fetching {where}", highlight=False, soft_wrap=True)
        folder = opening.fetch(str(where), out)
        # The run goes on where it came from, which a copied store's job.yaml does not say.
        overrides = [f"runtime.commits_uri={run_in(str(where))[0]}", *overrides]
    with opening.reopen(folder, overrides) as old:
        MEANS.workshop.check(old.job)
        done = old.commit.manifest.iteration if old.commit else 0
        console.print(f"run: {folder}, after {done} iterations", highlight=False, soft_wrap=True)
        for line in old.changed:
            console.print(f"changed: {line}", highlight=False, soft_wrap=True)
            _log.info("changed: %s", line)
        return _see_through(old, console)


def pool_of(job: Job) -> PromptPool:
    """The job's prompts; says how many were set aside, and why."""
    pool = MEANS.workshop.pool(job)
    for name, reasons in pool.set_aside.items():
        total = len(pool.sources[name]) + sum(reasons.values())
        for reason, count in reasons.items():
            _log.warning("set aside %d prompts of %s, which has %d: %s", count, name, total, reason)
    return pool


def _see_through(held: Run, console: Console) -> Outcome:
    """Train, then evaluate.

    Raises:
        UserError, RunFault, KeyboardInterrupt, and whatever a worker's code raises: each with a note that
        says what
            was saved and how to resume.
    """
    with _explained(held):
        files = _train(held, console)
        published = held.publish_adapter()
        wall_s = held.wall_s
        if read_files(held.job) != files:
            raise UserError(
                "got rewards' files (a plugin or the calibration) that changed while the run trained; want those it "
                "trained with, to evaluate it; put them back as they were and resume"
            )
        console.print(f"adapter: {published}", highlight=False, soft_wrap=True)
        _log.info("published the adapter %s", published)
        console.print("evaluating base and tuned on held-out prompts", highlight=False)
        report = MEANS.evaluate(held.job, held.folder, wall_s)
        held.end("FINISHED")
    return Outcome(held.folder, report, wall_s, held.job.tracking.mlflow_uri)


def _train(held: Run, console: Console) -> RewardFiles:
    """Train to the last iteration; returns what the rewards were made of."""
    job = held.job
    pool = pool_of(job)
    validates = job.evaluation.validate_every is not None
    validation = MEANS.workshop.validation(job) if validates else {}
    examined = validation_units(job, validation, pool) if validates else ()
    bands = MEANS.workshop.bands(job) if validates else None
    # Read once: what is hashed here is what every worker runs.
    files = read_files(job)
    held.rest_on(pool.sha256, MEANS.workshop.weights(job) | files.sha256, units_sha256(examined))
    prompts = [*pool.prompts, *(prompt for source in validation.values() for prompt in source)]
    text_features.fill(job, MEANS.workshop, prompts, console)
    with (
        closing(make_backend(job, MEANS.workshop.carrying(files))) as backend,
        watching_run(held.folder, job, backend, held.iterations or 0, held.mlflow_behind) as watcher,
    ):
        snapshot = backend.start()
        measured = Validation(job, examined, backend, snapshot.behaviour, bands)
        if held.commit is not None:
            snapshot = backend.restore(held.commit.manifest.iteration, held.commit.files[LEARNER_FILE])
        state = held.begin(snapshot, PromptRecords(job, pool, validation))
        watcher.begin(snapshot.version)
        with watching(console, snapshot.version, job.train.iterations) as watch:

            def record(iteration: int, after: loop.State, metrics: Metrics) -> None:
                metrics = metrics | measured.metrics(after.snapshot.behaviour)
                held.record(iteration, after, metrics)
                watch.show(iteration, metrics)
                watcher.iteration(iteration, metrics)
                for alarm in measured.alarms:
                    watch.warn(alarm)
                if measured.alarms and job.sentinels.pause:
                    raise paused(measured.alarms)

            loop.train(job, pool, backend, state, record)
    return files


@contextmanager
def _explained(held: Run) -> Iterator[None]:
    """Add what was saved and how to go on to whatever ends a run early."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | UserError):
            _log.info("the run ended early", exc_info=error)
        if held.iterations is None:
            opening.discard(held)
            error.add_note("nothing was trained yet, and no run folder is kept")
        else:
            error.add_note(f"saved: {held.iterations} iterations and their adapter in {held.folder}")
            error.add_note(f"resume: rl-motion resume {held.folder}")
            try:
                held.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            except (OSError, RunFault) as after:
                error.add_note(f"adapter/ is not up to date ({after}); resume the run")
        raise
