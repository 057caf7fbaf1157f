"""Ablations on validation combinations: what the paper leaves open, what steadies training, where the policy lands.

    python jobs/ablate.py --table stability              # resumable; docs/log.md has the results
    python jobs/ablate.py --table landing --model mdm-embedded-b --iterations 40

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

from rl_motion.config import UserError

_FEW = f"prompts.sources={{{Path(__file__).resolve().with_name('few.txt')}: 1}}"
"""96 captions of target/train: 80 iterations draw each 20 times, where all captions come once at most."""
TABLES: dict[str, dict[str, list[str]]] = {
    "settings": {
        "as the demo": [],
        "alpha 4": ["adapter.alpha=4"],
        "alpha 16": ["adapter.alpha=16"],
        "learning rate 6e-4": ["train.learning_rate=6e-4"],
        "learning rate 2.4e-3": ["train.learning_rate=2.4e-3"],
        "2 inner epochs": ["algorithm.inner_epochs=2"],
        "clip 1e-5": ["algorithm.clip_range=1e-5"],
    },
    "stability": {
        "as the demo": [],
        "no KL": ["algorithm.kl_weight=0"],
        "no balance": ["algorithm.balance=none"],
        "running statistics": ["algorithm.advantages=running"],
        "leave one out": ["algorithm.advantages=leave_one_out"],
        "floor 0.01": ["algorithm.advantage_floor=0.01"],
        "shrinkage 0.5, no floor": ["algorithm.advantage_shrinkage=0.5", "algorithm.advantage_floor=0"],
        "KL target 5e-6": ["algorithm.kl_target=5e-6"],
        "gradient clip 1e-3": ["train.max_grad_norm=1e-3"],
        "EMA 0.95": ["train.ema_decay=0.95"],
    },
    "staleness": {
        "synchronous": [],
        "1 update old": ["runtime.mode=async", "runtime.staleness=1"],
        "4 updates old": ["runtime.mode=async", "runtime.staleness=4"],
        "16 updates old": ["runtime.mode=async", "runtime.staleness=16"],
    },
    "tracker": {
        "few prompts, group": [_FEW],
        "few prompts, running": [
            _FEW,
            "algorithm.advantages=running",
            "algorithm.advantage_min_count=16",
            "algorithm.advantage_buffer_size=64",
        ],
    },
    "landing": {
        "frozen, last timestep, first 2 transitions": [],
        "frozen, last timestep": ["algorithm.transitions=null"],
        "frozen, sigma 0.1": ["algorithm.transitions=null", "policy.landing=0.1"],
        "frozen, sigma_min": ["algorithm.transitions=null", "policy.landing=sigma_min"],
        "stop, sigma 0.1": ["algorithm.transitions=null", "policy.last_step=stop", "policy.landing=0.1"],
        "stop, sigma_min": ["algorithm.transitions=null", "policy.last_step=stop"],
    },
}
SPLITS = {"target": "target/val", "source": "source/val"}
LATE = 20
"""Iterations over which metrics are averaged, the last ones."""


def _train(settings: list[str], seed: int) -> dict[str, Any]:
    """Train and measure one variant, in this process."""
    import torch

    from rl_motion.config.load import load_job
    from rl_motion.evaluation.evaluate import BASE, TUNED, embedded_bench, evaluate
    from rl_motion.evaluation.statistics import bootstrap_mean, paired_difference
    from rl_motion.runtime.build import Workshop, build_pool
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.loop import State, train
    from rl_motion.runtime.sampling import load_policy

    job = load_job("demo", [*settings, "evaluation.prompts=128", "runtime.threads=1"], seed)
    torch.set_num_threads(1)
    backend, history, started = LocalBackend(job, Workshop()), [], time.time()
    begun = State(backend.start())
    last = train(job, build_pool(job), backend, begun, lambda _i, _s, metrics: history.append(metrics)).snapshot
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
    late = history[-LATE:]
    for metric in [m for m in late[0] if m.startswith(("policy/kl", "policy/clip_fraction", "policy/gradient_share"))]:
        having = [m[metric] for m in late if metric in m]  # an iteration whose steps were all skipped has none
        row[metric] = sum(having) / len(having)
    row["reward"] = [m.get("reward/total") for m in history]
    return row


def _inputs(settings: list[str], seed: int) -> dict[str, Any]:
    """Hashes of the prompts and the weights that a variant's numbers rest on."""
    from rl_motion.config.load import load_job
    from rl_motion.runtime.build import build_pool, find_weights

    job = load_job("demo", settings, seed)
    return {"pool_sha256": build_pool(job).sha256, "weights_sha256": find_weights(job)}


def _refuse_others(files: dict[str, Path], inputs: dict[str, dict[str, Any]]) -> None:
    """Refuse results of other prompts or weights: both may have been rebuilt under their names.

    Raises:
        UserError: names the first file.
    """
    for name, file in files.items():
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("inputs") != inputs[name]:
            raise UserError(f"got {file}, a result of other prompts or weights; want these; choose another --out")


def _points(row: dict[str, Any], split: str) -> str:
    change = row[split]
    return f"{100 * change['value']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"


def _steps(row: dict[str, Any], metric: str) -> str:
    """A metric of each transition, the noisiest first."""
    return " ".join(f"{row[m]:.2f}".removeprefix("0") for m in sorted(row) if m.startswith(f"policy/{metric}_s"))


def _lines(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    columns = ["variant", *(c for s in SPLITS.values() for c in (f"{s}: base", "change"))]
    columns += ["diversity", "KL", "clip fraction", "minutes"]
    yield f"| {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * (len(columns) - 1)
    for name, row in rows.items():
        parts = [f"{100 * row[f'{s} base']['value']:.1f} | {_points(row, s)}" for s in SPLITS]
        yield (
            f"| {name} | {' | '.join(parts)} | {row['target diversity']:.2f} | {row['policy/kl']:.1e} | "
            f"{row['policy/clip_fraction']:.2f} | {row['minutes']:.1f} |"
        )
    yield "\nOracle success in %, change in points with its 95 % paired bootstrap over prompts; one seed.\n"
    yield "| variant | gradient share of each transition, noisiest first | clip fraction of each |"
    yield "| --- | --- | --- |"
    for name, row in rows.items():
        yield f"| {name} | {_steps(row, 'gradient_share')} | {_steps(row, 'clip_fraction')} |"


def main(  # noqa: PLR0913, PLR0917 - its options
    table: Annotated[str, typer.Option(help=f"One of {', '.join(TABLES)}.")] = "stability",
    model: Annotated[str, typer.Option(help="Base of every variant.")] = "mdm-embedded",
    out: Annotated[Path, typer.Option(help="Where the results go, one file a variant.")] = Path("runs/ablation"),
    iterations: Annotated[int, typer.Option(min=1, help="Of every variant.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Of every variant.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, help="Variants at a time; each takes one core.")] = 2,
) -> None:
    """Run what is missing, then print the table."""
    if table not in TABLES:
        typer.echo(f"error: got table {table!r}; want one of {', '.join(TABLES)}; choose one", err=True)
        raise typer.Exit(2)
    folder = out / model
    folder.mkdir(parents=True, exist_ok=True)
    variants, common = TABLES[table], [f"model.name={model}", f"train.iterations={iterations}"]
    files = {n: folder / f"{'-'.join(n.replace(',', '').split())}-{iterations}-seed{seed}.json" for n in variants}
    try:
        inputs = {name: _inputs([*common, *variants[name]], seed) for name in variants}
        _refuse_others(files, inputs)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    missing = [name for name, file in files.items() if not file.is_file()]
    with ProcessPoolExecutor(parallel, max_tasks_per_child=1) as pool:
        waiting = {name: pool.submit(_train, [*common, *variants[name]], seed) for name in missing}
        for name, future in waiting.items():
            row = future.result() | {"inputs": inputs[name]}
            files[name].write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
            typer.echo(f"{name}: done")
    rows = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    typer.echo("\n".join(_lines(rows)))


if __name__ == "__main__":
    typer.run(main)
