"""The main tables of "No MoCap Needed" on the embedded worlds: cross-dataset both ways, leave-one-out, forgetting.

    python jobs/experiments/tables.py                    # five seeds of every row; goes on where it stopped
    python jobs/experiments/tables.py --rows leave-out-knee --seeds 2 --out runs/knee
    python jobs/experiments/tables.py --smoke            # the same path in a minute; its figures mean nothing

Every run is `rl-motion train` with the row's YAML beside this script; every arm is then examined on the same prompts
and noise of test splits, by an evaluator that is no reward and by the world's oracle. Two processes of one thread at a
time. Writes results/experiments/tables.json and .md, with commit, seeds, command and time (docs/experiments.md).
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from figures import CONVENTIONS, Table, figures, summary
from measuring import REAL, REAL_SEED, Ask, model_fps, read
from parts import Part, asked_sha256, prompts_of, real_sha256, refuse_leak, refuse_other_than, world_of
from running import HERE, ROOT, Step, Training, measuring_step, provenance, see_through, training_step

from rl_motion.config import EvaluationConfig, Job, RuntimeConfig, TrainConfig, UserError
from rl_motion.evaluation.guarantees import refuse_goal
from rl_motion.runtime.build import build_pool, find_weights
from rl_motion.tracking.files import write_atomic

BASE, FULL = "base", "full model"


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment. exam: where it is measured. kept: what must not be forgotten.

    full: the model trained on everything, or none. paper: figures of base and ours (StableMoFusion) by metric.
    """

    title: str
    exam: str
    kept: str
    paper: tuple[dict[str, float], dict[str, float]]
    source: str
    full: str = ""

    @property
    def changes(self) -> dict[str, str]:
        """The paper's relative changes, in words."""
        return relative_changes(*self.paper)


def relative_changes(base: dict[str, float], ours: dict[str, float]) -> dict[str, str]:
    """In % of the base, by metric."""
    return {name: f"{100 * (ours[name] / base[name] - 1):+.1f} %" for name in base}


def _figures(*values: float) -> dict[str, float]:
    names = (
        "r_precision_1",
        "r_precision_2",
        "r_precision_3",
        "fid",
        "multimodal_distance",
        "diversity",
        "multimodality",
    )
    return dict(zip(names, values, strict=True))


_FORGETTING = (
    _figures(0.492, 0.686, 0.787, 0.500, 3.104, 8.876, 1.955),
    _figures(0.502, 0.696, 0.796, 0.400, 3.053, 8.984, 1.852),
)
ROWS = {
    "cross-to-second": Row(
        "Cross-dataset, first to second world", "second/test", "source/test",
        paper=(
            _figures(0.362, 0.553, 0.664, 1.860, 3.104, 8.603, 2.497),
            _figures(0.413, 0.618, 0.732, 1.291, 2.830, 8.730, 1.812),
        ),
        source="table 1(a), HumanML3D to KIT-ML",
    ),
    "cross-to-first": Row(
        "Cross-dataset, second to first world", "source/test+target/test", "second/test",
        paper=(
            _figures(0.327, 0.488, 0.589, 2.465, 4.355, 8.424, 1.210),
            _figures(0.391, 0.594, 0.711, 1.799, 3.263, 8.833, 1.194),
        ),
        source="table 1(b), KIT-ML to HumanML3D",
    ),
    "leave-out-knee": Row(
        "Leave-one-out, lifting a knee", "source/test:knee", "source/test:-knee", full="mdm-embedded",
        paper=(
            _figures(0.331, 0.509, 0.617, 0.714, 3.121, 7.442, 1.832),
            _figures(0.351, 0.528, 0.639, 0.615, 2.939, 7.626, 1.804),
        ),
        source="table 2(a), object manipulation; its ours against its full model: R@1 +2.0 %, FID +5.3 %",
    ),
    "leave-out-squat": Row(
        "Leave-one-out, squats", "source/test:squat", "source/test:-squat", full="mdm-embedded",
        paper=(
            _figures(0.378, 0.563, 0.668, 0.432, 2.930, 7.082, 1.554),
            _figures(0.424, 0.608, 0.720, 0.335, 2.734, 7.553, 1.468),
        ),
        source="table 2(b), posture and balance; its ours against its full model: R@1 +10.7 %, FID -16.3 %",
    ),
}  # fmt: skip
KEPT = ("table 3, StableMoFusion on the data set that it was trained on", _FORGETTING)


@dataclass(frozen=True, slots=True)
class Sizes:
    """prompts x samples (replications) of an arm on a part, and how many real motions for each prompt."""

    prompts: int = 128
    samples: int = 20
    real: int = 5
    seed: int = 20_000


SMOKE = Sizes(prompts=32, samples=2, real=3)
_SMOKE_SETS = (
    "train.iterations=1", "train.prompts_per_iteration=3", "train.prompts_per_unit=3", "train.units_per_step=1",
    "train.samples_per_prompt=2", "evaluation.prompts=3", "evaluation.samples_per_prompt=1",
    "evaluation.page_prompts=0", "tracking.mlflow_uri=null",
)  # fmt: skip
_SAMPLE_S, _MOTION_S, _START_S = 2.5 / 192, 0.022, 15.0
"""A sample of training, a motion of an examination, a process: guesses for what is left, for the first steps alone."""


@dataclass(frozen=True)
class Experiment:
    """One row as it is to be done: its runs by seed, and where everything lies."""

    name: str
    row: Row
    runs: dict[int, Training]
    out: Path
    sizes: Sizes

    @property
    def job(self) -> Job:
        """Of the first seed: what is the same for all."""
        return next(iter(self.runs.values())).resolved()

    @property
    def parts(self) -> dict[str, Part]:
        """Where every arm is examined, by the name of the table."""
        return {"exam": Part.of(self.row.exam), "kept": Part.of(self.row.kept)}

    def file(self, arm: str, part: str) -> Path:
        """Of a measurement."""
        return self.out / "measured" / self.name / f"{arm.replace(' ', '-')}-{part}.npz"

    def check(self, use: str = "test") -> None:
        """Refuse splits of another use, prompts that were trained on, a judge that is the goal, missing weights.

        Raises:
            UserError: names it.
        """
        refuse_other_than(use, self.parts.values())
        job = self.job
        trained = build_pool(job).prompts
        for name, part in self.parts.items():
            refuse_goal(evaluator_sha256(world_of(part).evaluator), job)
            refuse_leak(self.name, trained, part, model_fps(job), new=name == "exam")

    def ask(self, arm: str, part: str, job: Job | None = None, adapter: Path | None = None) -> Ask:
        """What is to be measured of an arm; `job` of a model, none for real motion."""
        evaluator = world_of(self.parts[part]).evaluator
        inputs = {"evaluator": evaluator_sha256(evaluator), "prompts": self._asked(self.parts[part], job)}
        inputs |= find_weights(job) if job else {}
        if adapter is not None:
            inputs["adapter"] = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
        return Ask(
            arm=arm,
            part=str(self.parts[part]),
            job=examination(job).model_dump(mode="json") if job else {},
            adapter=str(adapter.resolve()) if adapter else None,
            evaluator=evaluator,
            prompts=self.sizes.prompts,
            samples=self.sizes.samples if job else 0,
            seed=self.sizes.seed,
            real=0 if job else self.sizes.real,
            inputs=inputs,
        )

    def frozen_lines(self) -> list[list[Step]]:
        """Real motion, the base and the full model: measured once."""
        models = {BASE: self.job, **({FULL: self._full()} if self.row.full else {})}
        lines = [[self._step(REAL, lambda part: self.ask(REAL, part), self.parts, 0.03 * self.sizes.real)]]
        for arm, job in models.items():
            parts = self.parts if arm == BASE else ["exam"]
            lines.append([self._step(arm, lambda part, a=arm, j=job: self.ask(a, part, j), parts)])
        return lines

    def seed_line(self, seed: int) -> list[Step]:
        """Train, then measure."""
        run, job = self.runs[seed], self.runs[seed].resolved()
        samples = job.train.iterations * job.train.prompts_per_iteration * job.train.samples_per_prompt
        arm = f"seed{seed}"
        measured = self._step(arm, lambda part: self.ask(arm, part, job, run.adapter), self.parts, adapter=run.adapter)
        return [training_step(run, _START_S + samples * _SAMPLE_S), measured]

    def tables(self) -> list[Table]:
        """From the measurements: what was learned, and what was kept."""
        tables = []
        for part, spoken in self.parts.items():
            models = [FULL, BASE] if self.row.full and part == "exam" else [BASE]
            arms = {arm: read(self.file(arm, part)) for arm in (*models, *(f"seed{seed}" for seed in self.runs))}
            found = figures(arms, read(self.file(REAL, part)), self.sizes.seed)
            source, paper = (
                (self.row.source, self.row.changes) if part == "exam" else (KEPT[0], relative_changes(*KEPT[1]))
            )
            table = Table(
                title=self.row.title if part == "exam" else f"{self.row.title}: forgetting",
                examined=f"`{spoken}`, {len(arms[BASE].text)} prompts x {len(arms[BASE].motion)} replications; base "
                f"`{self.job.model.name}`" + (f", full model `{self.row.full}`" if len(models) > 1 else "") + ".",
                real=found[REAL],
                models={arm: found[arm] for arm in models},
                ours={seed: found[f"seed{seed}"] for seed in self.runs},
                paper=paper,
                paper_source=source,
            )
            tables.append(table)
        return tables

    def _asked(self, part: Part, job: Job | None) -> str:
        """Hash of the prompts of an arm, or of real motion and its captions: a world may come to say something else."""
        sizes = self.sizes
        if job is None:
            return real_sha256(part, sizes.prompts * sizes.real, REAL_SEED)
        return asked_sha256(part, prompts_of(part, sizes.prompts, sizes.seed, model_fps(job)), sizes.seed)

    def _full(self) -> Job:
        job = self.job
        return job.model_copy(update={"model": job.model.model_copy(update={"name": self.row.full})})

    def _step(
        self,
        arm: str,
        ask: Callable[[str], Ask],
        parts: Sequence[str],
        each_s: float | None = None,
        adapter: Path | None = None,
    ) -> Step:
        each_s = self.sizes.samples * _MOTION_S if each_s is None else each_s
        files = {self.file(arm, part): (lambda p=part: ask(p)) for part in parts}
        expected_s = _START_S + len(files) * self.sizes.prompts * each_s
        return measuring_step(f"measure {self.name} {arm}", files, expected_s, adapter)


def examination(job: Job) -> Job:
    """What an examination depends on of a job: how long it trained, say, is its adapter's affair."""
    size = job.train.prompts_per_unit
    return Job(
        name="examination",
        model=job.model,
        policy=job.policy,
        rewards=job.rewards,
        calibration=job.calibration,
        train=TrainConfig(prompts_per_iteration=size, prompts_per_unit=size),
        runtime=RuntimeConfig(threads=job.runtime.threads),
        evaluation=EvaluationConfig(guidance_scale=job.evaluation.guidance_scale),
    )


@cache
def evaluator_sha256(name: str) -> str:
    """Of an evaluator's weights."""
    from rl_motion.models.zoo import load_evaluator

    return str(load_evaluator(name).sha256)


def plan(rows: Sequence[str], seeds: Sequence[int], out: Path, sizes: Sizes, sets: Sequence[str]) -> list[Experiment]:
    """The experiments of these rows."""
    return [
        Experiment(
            name,
            ROWS[name],
            {seed: Training(HERE / f"{name}.yaml", f"{name}-seed{seed}", out, seed, tuple(sets)) for seed in seeds},
            out,
            sizes,
        )
        for name in rows
    ]


def lines_of(experiments: Sequence[Experiment], seeds: Sequence[int]) -> list[list[Step]]:
    """What is measured once, then the seeds in turn, so that all rows get theirs alike."""
    frozen = [line for experiment in experiments for line in experiment.frozen_lines()]
    return frozen + [experiment.seed_line(seed) for seed in seeds for experiment in experiments]


def results(tables: Sequence[Table], about: dict[str, Any]) -> tuple[str, str]:
    """The JSON and the Markdown of all tables."""
    content = {"about": about, "conventions": list(CONVENTIONS), "tables": [table.as_dict() for table in tables]}
    lines = ["# The main tables", "", "Written by a job; docs/experiments.md explains it.", ""]
    lines += [f"- {key}: {value if value != [] else 'none'}" for key, value in about.items()]
    lines += ["", "## Relative changes", "", *summary(tables), "", "## Tables", ""]
    for table in tables:
        lines += [*table.lines(), ""]
    lines += ["## Conventions", "", *(f"- {line}" for line in CONVENTIONS), ""]
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "\n".join(lines)


def main(  # noqa: PLR0913, PLR0917 - its options
    out: Annotated[Path, typer.Option(help="Where runs and measurements go.")] = Path("runs/tables"),
    rows: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(ROWS)}; repeatable; default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of every row.")] = 5,
    parallel: Annotated[int, typer.Option(min=1, help="Processes at a time; each takes one core.")] = 2,
    sets: Annotated[list[str] | None, typer.Option("--set", help="As for `rl-motion train`, for every run.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny sizes, to see whether everything is there.")] = False,
) -> None:
    """Do what is missing, then write the tables."""
    began, names, out = time.monotonic(), list(dict.fromkeys(rows or ROWS)), out.resolve()
    numbers = range(min(seeds, 2) if smoke else seeds)
    settings = [*(_SMOKE_SETS if smoke else ()), *(sets or [])]
    try:
        if unknown := [name for name in names if name not in ROWS]:
            raise UserError(f"got the row {unknown[0]!r}; want one of {', '.join(ROWS)}; choose one")
        experiments = plan(names, numbers, out, SMOKE if smoke else Sizes(), settings)
        with chdir(ROOT):  # where the jobs' text files are
            for experiment in experiments:
                experiment.check()
            out.mkdir(parents=True, exist_ok=True)
            try:
                see_through(lines_of(experiments, numbers), parallel, typer.echo)
            finally:
                wall_s = spent(out, time.monotonic() - began)
            tables = [table for experiment in experiments for table in experiment.tables()]
    except (UserError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UserError) else 1) from None
    about = provenance(["python", *map(shlex.quote, sys.argv)], numbers, wall_s) | {"settings": settings}
    folder = out / "results" if smoke else ROOT / "results" / "experiments"
    name = "tables" if len(names) == len(ROWS) else f"tables-{'+'.join(names)}"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in zip((".json", ".md"), results(tables, about), strict=True):
        write_atomic(folder / f"{name}{suffix}", content.encode())
    typer.echo("\n".join(summary(tables)))
    typer.echo(f"written: {folder / name}.md")


def spent(out: Path, seconds: float) -> float:
    """Seconds of all calls with this folder, this one's added."""
    file = out / "wall_s.json"
    total = seconds + (float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0)
    write_atomic(file, json.dumps(total).encode())
    return total


if __name__ == "__main__":
    typer.run(main)
