"""The longer job on five seeds over two base checkpoints: how much of the gap to the supervised upper bound it closes.

    python jobs/build_zoo.py denoiser --name mdm-embedded-b --seed 1   # the second base is not packaged
    python jobs/close_the_gap.py --out runs/gap          # resumable: runs that have a report are not run again

Each run is `rl-motion train first-light --seed N --set model.name=BASE`. The upper bound is the same network trained on
the target's motions too, on the same prompts and noise. Writes gap.json and prints the table of the README.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

RUNS = ((0, "mdm-embedded"), (1, "mdm-embedded"), (2, "mdm-embedded"), (3, "mdm-embedded-b"), (4, "mdm-embedded-b"))
UPPER = "mdm-embedded-upper"
STUDENT_T_95 = {2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom: intervals over few seeds."""


def _run(seed: int, model: str, out: Path, sets: list[str]) -> Path:
    folder = out / f"{model}-seed{seed}"
    if not (folder / "report.json").is_file():
        if (folder / "job.yaml").is_file():
            words = ["resume", str(folder)]
        else:
            chosen = [f"name={folder.name}", f"model.name={model}", *sets]
            words = ["train", "first-light", "--out", str(out), "--seed", str(seed)]
            words += [part for value in chosen for part in ("--set", value)]
        subprocess.run([sys.executable, "-m", "rl_motion.cli", *words], check=True)
    return folder


def _upper_bound(folder: Path) -> dict[str, float]:
    """Oracle success of the upper bound on the prompts and noise of a run's own evaluation."""
    import torch

    from rl_motion.config.load import load_job
    from rl_motion.evaluation.evaluate import BASE, TUNED, embedded_bench, evaluate
    from rl_motion.runtime.sampling import load_policy

    job = load_job(folder / "job.yaml")
    torch.set_num_threads(job.runtime.threads)
    upper = job.model_copy(update={"model": job.model.model_copy(update={"name": UPPER})})
    found = evaluate(job, {BASE: load_policy(job, None), TUNED: load_policy(upper, None)}, embedded_bench(job))
    return {s: float(np.mean([r.oracle_success for r in found.of(s, TUNED)])) for s in ("held_out", "original")}


def _row(report: dict[str, Any], upper: dict[str, float]) -> dict[str, float]:
    base, tuned = (report[arm]["held_out"]["oracle_success"]["value"] for arm in ("base", "tuned"))
    return {
        "base": base,
        "tuned": tuned,
        "upper": upper["held_out"],
        "gap_closed": (tuned - base) / (upper["held_out"] - base),
        "original_base": report["base"]["original"]["oracle_success"]["value"],
        "original_tuned": report["tuned"]["original"]["oracle_success"]["value"],
        "diversity_ratio": report["diversity"]["held_out"]["ratio"]["value"],
        "minutes": report["wall_s"] / 60,
    }


def _interval(values: list[float]) -> str:
    mean, n = float(np.mean(values)), len(values)
    half = STUDENT_T_95[n - 1] * float(np.std(values, ddof=1)) / n**0.5 if n > 2 else float("nan")
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/gap"),
    sets: Annotated[list[str] | None, typer.Option("--set", help="As for `rl-motion train`.")] = None,
) -> None:
    """Run what is missing, then print the table."""
    rows: dict[str, dict[str, float]] = {}
    uppers: dict[str, dict[str, float]] = {}
    for seed, model in RUNS:
        folder = _run(seed, model, out, sets or [])
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        # Every run is evaluated on the same prompts and noise, so the upper bound is measured once.
        upper = uppers.setdefault("all", _upper_bound(folder) if not uppers else {})
        rows[folder.name] = _row(report, upper)
    columns = list(next(iter(rows.values())))
    lines = ["| run | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |" for name, row in rows.items()]
    summary = {c: _interval([row[c] for row in rows.values()]) for c in columns}
    lines.append("| mean [95 %] | " + " | ".join(summary.values()) + " |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "gap.json").write_text(json.dumps({"runs": rows, "mean": summary}, indent=2) + "\n", encoding="utf-8")
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
