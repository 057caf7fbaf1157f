"""Do more synthetic prompts teach more (InstructMotion, arXiv:2405.15541, figure 5b)? Judged by the oracle.

    python jobs/more_prompts.py --out runs/more-prompts      # five seeds over two bases; resumable; see docs/log.md

A pool is built from the captions of source/train alone, which never say which hand waves; what is held out (every
wording of both test and both val splits) is excluded by meaning, and no training prompt of a single action may read as
a held-out combination by the oracle's own reader, else the job stops. Pools of fewer prompts are the first ones of the
largest. Every run is the demo's job with fewer iterations: two thirds of the prompts from the pool, one third from
source/train; without a pool, all from source/train. Base and tuned meet the same prompts and noise.
"""

from __future__ import annotations

import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rl_motion.config import UserError

RUNS = ((0, "mdm-embedded"), (1, "mdm-embedded"), (2, "mdm-embedded"), (3, "mdm-embedded-b"), (4, "mdm-embedded-b"))
"""Seed and base of every run, as in close_the_gap.py."""
SIZES = (0, 64, 512, 3000)
"""Prompts of a pool, held-out ones included: some three quarters of them train."""
HELD_OUT = ("target/test", "target/val", "source/test", "source/val")
SPLITS = {"held_out": "target/test", "original": "source/test"}
FRAMES = 40
STUDENT_T_95 = 2.776
"""97.5 % quantile of Student's t at four degrees of freedom."""


def _pool(out: Path, size: int, exclude: tuple[str, ...] = HELD_OUT) -> Path:
    """The pool of so many prompts, built where it is not there yet; a test leaves out less.

    Raises:
        UserError: a training prompt reads as a held-out combination.
    """
    from rl_motion.data.embedded import splits
    from rl_motion.data.oracle_reading import read
    from rl_motion.prompts.build import Settings, build
    from rl_motion.prompts.grammar import GrammarAuthor

    settings = Settings(("source/train",), exclude, size, seed=0, max_frames=FRAMES)
    folder = out / f"pool-{size}"
    table = build(settings, folder, GrammarAuthor(), lambda _stage, _done, _total: None).table
    held_out = {astuple(claim) for split in HELD_OUT for claim in splits()[split]}
    for row in table.rows:
        # Of two actions at once the reader sees one: such a prompt is none of the world's combinations.
        if row.split == "train" and (len(row.metas) == 1 or "look" in row.text):
            try:
                said = astuple(read(row.text))
            except ValueError:
                continue
            if said in held_out:
                raise UserError(f"got {row.text!r} in {folder}, a held-out combination; want none; see HELD_OUT")
    return folder


def _settings(pool: Path | None, model: str, iterations: int) -> list[str]:
    sources = {"source/train": 1} if pool is None else {str(pool): 2, "source/train": 1}
    return [
        f"model.name={model}", f"train.iterations={iterations}", f"prompts.sources={json.dumps(sources)}",
        "evaluation.prompts=128", "runtime.threads=1",
    ]  # fmt: skip


def _inputs(settings: list[str]) -> dict[str, Any]:
    """Hashes of the prompts and the weights that a run's numbers rest on: both may be rebuilt under their names."""
    from rl_motion.config.load import load_job
    from rl_motion.runtime.build import build_pool, find_weights

    job = load_job("demo", settings)
    return {"pool_sha256": build_pool(job).sha256, "weights_sha256": find_weights(job)}


def _train(settings: list[str], seed: int) -> dict[str, Any]:
    """Train one run and measure it, in this process: paired change and success by split."""
    import torch

    from rl_motion.config.load import load_job
    from rl_motion.evaluation.evaluate import BASE, TUNED, embedded_bench, evaluate
    from rl_motion.evaluation.statistics import paired_difference
    from rl_motion.runtime.build import Workshop, build_pool
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.loop import State, train
    from rl_motion.runtime.sampling import load_policy

    job, started = load_job("demo", settings, seed), time.time()
    torch.set_num_threads(1)
    backend, history = LocalBackend(job, Workshop()), []
    begun = State(backend.start())
    last = train(job, build_pool(job), backend, begun, lambda _i, _s, metrics: history.append(metrics)).snapshot
    minutes = (time.time() - started) / 60
    with tempfile.TemporaryDirectory() as folder:
        for file, content in last.files.items():
            (Path(folder) / file).write_bytes(content)
        policies = {BASE: load_policy(job, None), TUNED: load_policy(job, Path(folder))}
        found = evaluate(job, policies, embedded_bench(job), SPLITS)
    row: dict[str, Any] = {"minutes": minutes, "adapter_sha256": last.sha256}
    row["kl"] = history[-1].get("policy/kl")
    for split in SPLITS:
        before, after = found.of(split, BASE), found.of(split, TUNED)
        ids = [record.prompt.id for record in before]
        base, tuned = ([r.oracle_success for r in records] for records in (before, after))
        row[split] = paired_difference(base, tuned, ids, seed=0).as_dict() | {
            "base": float(np.mean(base)),
            "tuned": float(np.mean(tuned)),
        }
    return row


def _interval(values: list[float]) -> str:
    """Mean and Student's 95 % interval over the seeds, in points."""
    mean, half = float(np.mean(values)), STUDENT_T_95 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{100 * mean:+.1f} [{100 * (mean - half):+.1f}, {100 * (mean + half):+.1f}]"


def table(rows: dict[tuple[int, int], dict[str, Any]]) -> str:
    """Change by size of the pool, and against the run without one of the same seed."""
    lines = ["| prompts in the pool | held_out: change | against no pool | original: change |"]
    lines.append("| --- | --- | --- | --- |")
    seeds = sorted({seed for _, seed in rows})
    for size in sorted({size for size, _ in rows}):
        change = [rows[size, seed]["held_out"]["value"] for seed in seeds]
        more = [rows[size, seed]["held_out"]["value"] - rows[0, seed]["held_out"]["value"] for seed in seeds]
        kept = [rows[size, seed]["original"]["value"] for seed in seeds]
        lines.append(f"| {size} | {_interval(change)} | {_interval(more) if size else ''} | {_interval(kept)} |")
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Where pools and results go.")] = Path("runs/more-prompts"),
    iterations: Annotated[int, typer.Option(min=1, help="Of every run.")] = 60,
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time; each takes one core.")] = 2,
) -> None:
    """Run what is missing, then print the table."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        pools = {size: _pool(out, size) if size else None for size in SIZES}
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    wanted = {(size, model): _inputs(_settings(pools[size], model, iterations)) for size in SIZES for _, model in RUNS}
    with ProcessPoolExecutor(parallel, max_tasks_per_child=1) as workers:
        waiting = {}
        for seed, model in RUNS:
            for size in SIZES:
                file = out / f"{size}-seed{seed}-{iterations}.json"
                if file.is_file():
                    rows[size, seed] = json.loads(file.read_text(encoding="utf-8"))
                    if rows[size, seed].get("inputs") != wanted[size, model]:
                        typer.echo(f"error: got {file}, of other prompts or weights; choose another --out", err=True)
                        raise typer.Exit(2)
                else:
                    waiting[size, seed, file] = workers.submit(_train, _settings(pools[size], model, iterations), seed)
        for (size, seed, file), future in waiting.items():
            rows[size, seed] = future.result() | {"inputs": wanted[size, dict(RUNS)[seed]]}
            file.write_text(json.dumps(rows[size, seed], indent=2) + "\n", encoding="utf-8")
            typer.echo(f"{size} prompts, seed {seed}: done in {rows[size, seed]['minutes']:.1f} min")
    typer.echo(table(rows))


if __name__ == "__main__":
    typer.run(main)
