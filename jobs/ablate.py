"""Ablation of what the paper leaves open (alpha, learning rate, clip, advantages ...), on validation combinations.

    python jobs/ablate.py --out runs/ablation            # resumable; docs/log.md has the first seven

Every variant is the demo's job with the settings named, trained from the same seed and judged by the oracle on
target/val and source/val, base and tuned on the same prompts and noise. The test splits are not looked at.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

VARIANTS: dict[str, list[str]] = {
    "as the demo": [],
    "alpha 4": ["adapter.alpha=4"],
    "alpha 16": ["adapter.alpha=16"],
    "learning rate 6e-4": ["train.learning_rate=6e-4"],
    "learning rate 2.4e-3": ["train.learning_rate=2.4e-3"],
    "2 inner epochs": ["algorithm.inner_epochs=2"],
    "clip 1e-5": ["algorithm.clip_range=1e-5"],
    "no balance": ["algorithm.balance=none"],
    "running statistics": ["algorithm.advantages=running"],
    "leave one out": ["algorithm.advantages=leave_one_out"],
    "floor 0.01": ["algorithm.advantage_floor=0.01"],
    "shrinkage 0.5, no floor": ["algorithm.advantage_shrinkage=0.5", "algorithm.advantage_floor=0"],
    "KL target 5e-6": ["algorithm.kl_target=5e-6"],
    "gradient clip 1e-3": ["train.max_grad_norm=1e-3"],
    "EMA 0.95": ["train.ema_decay=0.95"],
}
SPLITS = {"target": "target/val", "source": "source/val"}


def _train(name: str, iterations: int, seed: int) -> dict[str, Any]:
    """Train and measure one variant, in this process."""
    import torch

    from rl_motion.config.load import load_job
    from rl_motion.evaluation.evaluate import BASE, TUNED, embedded_bench, evaluate
    from rl_motion.evaluation.statistics import bootstrap_mean, paired_difference
    from rl_motion.runtime.build import Workshop, build_pool
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.loop import train
    from rl_motion.runtime.sampling import load_policy

    sets = [*VARIANTS[name], f"train.iterations={iterations}", "evaluation.prompts=128", "runtime.threads=1"]
    job = load_job("demo", sets, seed)
    torch.set_num_threads(1)
    backend, history, started = LocalBackend(job, Workshop()), [], time.time()
    last = train(job, build_pool(job), backend, backend.start(), lambda _i, _s, metrics: history.append(metrics))
    minutes = (time.time() - started) / 60
    with tempfile.TemporaryDirectory() as folder:
        for file, content in last.files.items():
            (Path(folder) / file).write_bytes(content)
        policies = {BASE: load_policy(job, None), TUNED: load_policy(job, Path(folder))}
        found = evaluate(job, policies, embedded_bench(job), SPLITS)
    row: dict[str, Any] = {"minutes": minutes}
    for split in SPLITS:
        before, after = found.of(split, BASE), found.of(split, TUNED)
        ids = [record.prompt.id for record in before]
        base, tuned = ([r.oracle_success for r in records] for records in (before, after))
        row[f"{split} base"] = bootstrap_mean(base, ids, seed=0).as_dict()
        row[split] = paired_difference(base, tuned, ids, seed=0).as_dict()
        row[f"{split} diversity"] = sum(r.diversity or 0 for r in after) / sum(r.diversity or 0 for r in before)
    late = history[-20:]
    for metric in ("policy/kl", "policy/clip_fraction"):
        row[metric] = sum(m[metric] for m in late) / len(late)
    return row


def _lines(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| variant | target/val | source/val | diversity | KL | clip fraction | minutes |"
    yield "| --- |" + " --- |" * 6
    for name, row in rows.items():
        changes = [
            f"{100 * row[s]['value']:+.1f} [{100 * row[s]['low']:+.1f}, {100 * row[s]['high']:+.1f}]" for s in SPLITS
        ]
        yield (
            f"| {name} | {' | '.join(changes)} | {row['target diversity']:.2f} | {row['policy/kl']:.1e} | "
            f"{row['policy/clip_fraction']:.2f} | {row['minutes']:.1f} |"
        )
    first = next(iter(rows.values()))
    bases = ", ".join(f"{100 * first[f'{s} base']['value']:.1f} % on {SPLITS[s]}" for s in SPLITS)
    yield f"\nChange in points of oracle success, 95 % paired bootstrap over prompts; base {bases}; one seed."


def main(
    out: Annotated[Path, typer.Option(help="Where the results go, one file a variant.")] = Path("runs/ablation"),
    iterations: Annotated[int, typer.Option(min=1, help="Of every variant.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Of every variant.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Variants at a time; each takes one core.")] = 2,
) -> None:
    """Run what is missing, then print the table."""
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"{'-'.join(name.split())}-{iterations}-seed{seed}.json" for name in VARIANTS}
    missing = [name for name, file in files.items() if not file.is_file()]
    with ProcessPoolExecutor(parallel, max_tasks_per_child=1) as pool:
        waiting = {name: pool.submit(_train, name, iterations, seed) for name in missing}
        for name, future in waiting.items():
            files[name].write_text(json.dumps(future.result(), indent=2) + "\n", encoding="utf-8")
            typer.echo(f"{name}: done")
    rows = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    typer.echo("\n".join(_lines(rows)))


if __name__ == "__main__":
    typer.run(main)
