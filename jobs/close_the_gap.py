"""The longer job on five seeds over two base checkpoints: how much of the gap to the supervised upper bound it closes.

    python jobs/close_the_gap.py --out runs/gap          # resumable; a run that has its report is not run again
    python jobs/close_the_gap.py --family t2m_unet       # three seeds with StableMoFusion's U-Net

Each run is `rl-motion train first-light --seed N --set model.name=BASE` in one process, as many at a time as --parallel
says (the numbers are those of any other backend). The upper bound is the same network trained on the target's motions
too, measured on the same prompts and noise. Writes gap-FAMILY.json and prints the table of the README.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.runtime.build import build_pool, find_weights
from rl_motion.runtime.commit import Commits

RUNS = {
    "mdm": (
        (0, "mdm-embedded"), (1, "mdm-embedded"), (2, "mdm-embedded"), (3, "mdm-embedded-b"), (4, "mdm-embedded-b"),
    ),
    "t2m_unet": ((0, "t2m-unet-embedded"), (1, "t2m-unet-embedded"), (2, "t2m-unet-embedded")),
}  # fmt: skip
"""Seed and base of every run, by family of networks."""
UPPER = {"mdm": "mdm-embedded-upper", "t2m_unet": "t2m-unet-embedded-upper"}
STUDENT_T_95 = {2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom: intervals over few seeds."""
PERCENT = ("base", "tuned", "upper", "gap_closed", "original_base", "original_change")


def _sets(name: str, model: str, sets: list[str]) -> list[str]:
    return [f"name={name}", f"model.name={model}", "runtime.backend=local", *sets]


def _same_numbers(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude={"runtime", "tracking"})


def _same_inputs(folder: Path) -> bool:
    """Whether a run, finished or not, rests on the prompts and weights that are here: they may have been rebuilt."""
    job = load_job(folder / "job.yaml")
    commit = Commits(folder / "commits", job.runtime.keep_commits).newest()
    rests_on = commit and (commit.manifest.pool_sha256, commit.manifest.weights_sha256)
    return rests_on in (None, (build_pool(job).sha256, find_weights(job)))


def _command(seed: int, model: str, out: Path, sets: list[str]) -> tuple[Path, list[str]]:
    """One run's folder, and the words that make it or go on with it.

    Raises:
        UserError: the folder holds a run of another job.
    """
    name = f"{model}-seed{seed}"
    folder, wanted = out / name, _sets(name, model, sets)
    words = ["train", "first-light", "--out", str(out), "--seed", str(seed)]
    words += [part for value in wanted for part in ("--set", value)]
    if (folder / "job.yaml").is_file():
        if _same_numbers(load_job(folder / "job.yaml")) != _same_numbers(load_job("first-light", wanted, seed)):
            raise UserError(f"got {folder}, a run of another job; want that of this call; choose another --out")
        if not _same_inputs(folder):
            raise UserError(f"got {folder}, a run on other prompts or weights; want these; choose another --out")
        words = ["resume", str(folder)]
    return folder, words


def _run(folder: Path, words: list[str]) -> Path:
    """The folder, with its report: made, resumed, or found.

    Raises:
        RuntimeError: the run failed; its log says why.
    """
    if not (folder / "report.json").is_file():
        name, log, started = folder.name, folder.with_name(f"{folder.name}.log"), time.time()
        typer.echo(f"{name}: {words[0]}, log in {log}")
        with log.open("ab") as file:
            ended = subprocess.run(
                [sys.executable, "-m", "rl_motion.cli", *words], stdout=file, stderr=subprocess.STDOUT, check=False
            )
        if ended.returncode:
            raise RuntimeError(f"{name} ended with exit code {ended.returncode}; see {log}; the same command goes on")
        typer.echo(f"{name}: done in {(time.time() - started) / 60:.0f} min")
    return folder


def _upper_bound(folder: Path, name: str) -> float:
    """Oracle success on held_out of the upper bound, on the prompts and noise of a run's own evaluation."""
    import torch

    from rl_motion.evaluation.evaluate import BASE, TUNED, embedded_bench, evaluate
    from rl_motion.runtime.sampling import load_policy

    job = load_job(folder / "job.yaml")
    torch.set_num_threads(job.runtime.threads)
    upper = job.model_copy(update={"model": job.model.model_copy(update={"name": name})})
    found = evaluate(job, {BASE: load_policy(job, None), TUNED: load_policy(upper, None)}, embedded_bench(job))
    return float(np.mean([r.oracle_success for r in found.of("held_out", TUNED)]))


def _row(report: dict[str, Any], upper: float) -> dict[str, float]:
    base, tuned = (report[arm]["held_out"]["oracle_success"]["value"] for arm in ("base", "tuned"))
    original = report["base"]["original"]["oracle_success"]["value"]
    return {
        "base": base,
        "tuned": tuned,
        "upper": upper,
        "gap_closed": (tuned - base) / (upper - base),
        "original_base": original,
        "original_change": report["tuned"]["original"]["oracle_success"]["value"] - original,
        "diversity_ratio": report["diversity"]["held_out"]["ratio"]["value"],
        "bone_drift_ratio": report["sentinels"]["held_out"]["bone_drift"]["ratio"]["value"],
        "jerk_ratio": report["sentinels"]["held_out"]["jerk"]["ratio"]["value"],
        "training_minutes": report["wall_s"] / 60,
    }


def _number(column: str, value: float) -> str:
    return f"{100 * value:.1f}" if column in PERCENT else f"{value:.2f}"


def _interval(column: str, values: list[float]) -> str:
    """Mean and Student's 95 % interval over the runs; two bases are too few for an interval over bases."""
    mean, n = float(np.mean(values)), len(values)
    half = STUDENT_T_95[n - 1] * float(np.std(values, ddof=1)) / n**0.5
    return f"{_number(column, mean)} [{_number(column, mean - half)}, {_number(column, mean + half)}]"


def main(
    family: Annotated[str, typer.Option(help=f"Which networks: {' or '.join(RUNS)}.")] = "mdm",
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/gap"),
    sets: Annotated[list[str] | None, typer.Option("--set", help="As for `rl-motion train`.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time; each takes one core.")] = 2,
) -> None:
    """Run what is missing, then print the table."""
    if family not in RUNS:
        typer.echo(f"error: got family {family!r}; want {' or '.join(RUNS)}; choose one", err=True)
        raise typer.Exit(2)
    out.mkdir(parents=True, exist_ok=True)
    try:
        commands = [_command(seed, model, out, sets or []) for seed, model in RUNS[family]]
        with ThreadPoolExecutor(parallel) as pool:
            folders = list(pool.map(lambda command: _run(*command), commands))
    except (UserError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UserError) else 1) from None
    # Every run is evaluated on the same prompts and noise, so the upper bound is measured once.
    upper = _upper_bound(folders[0], UPPER[family])
    reports = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in folders]
    rows = {folder.name: _row(report, upper) for folder, report in zip(folders, reports, strict=True)}
    columns = list(next(iter(rows.values())))
    lines = ["| run | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_number(c, row[c]) for c in columns) + " |")
    summary = {c: _interval(c, [row[c] for row in rows.values()]) for c in columns}
    lines.append("| mean [95 %] | " + " | ".join(summary.values()) + " |")
    (out / f"gap-{family}.json").write_text(
        json.dumps({"runs": rows, "mean": summary}, indent=2) + "\n", encoding="utf-8"
    )
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
