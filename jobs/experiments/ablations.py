"""Ablations on validation combinations: what the paper chose, what it leaves open, what steadies training.

    python jobs/experiments/ablations.py                              # one seed; goes on where it stopped
    python jobs/experiments/ablations.py --table stability --seeds 3
    python jobs/experiments/ablations.py --table landing --model mdm-embedded-b --iterations 40

Every variant is the demo's job with the settings named, trained from the same seed and judged by the oracle on
target/val and source/val, base and tuned on the same prompts and noise. The test splits are not looked at.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rl_motion.config import UserError
from rl_motion.evaluation.over_runs import student_mean
from rl_motion.evaluation.statistics import Estimate, bootstrap_mean, paired_difference
from rl_motion.tracking.files import write_atomic

_FEW = Path(__file__).resolve().parent.parent / "few.txt"
"""96 captions of target/train: 80 iterations draw each 20 times, where all captions come once at most."""
_ONLY_FEW = f"prompts.sources={{{_FEW}: 1}}"


def _samples(each: int) -> list[str]:
    """As many samples an iteration and a unit as in the demo, of more or fewer prompts."""
    sizes = {"prompts_per_iteration": 192 // each, "samples_per_prompt": each, "prompts_per_unit": 48 // each}
    return [f"train.{name}={value}" for name, value in sizes.items()]


TABLES: dict[str, dict[str, list[str]]] = {
    "paper": {
        "as the demo": [],
        "order 1": ["policy.order=1"],
        "first transition alone": ["algorithm.transitions=1"],
        "first 4 transitions": ["algorithm.transitions=4"],
        "all 9 transitions": ["algorithm.transitions=null"],
        "guidance 2.5 in training": ["policy.guidance_scale=2.5"],
        "rank 16": ["adapter.rank=16", "adapter.alpha=32"],
        "full rank (96)": ["adapter.rank=96", "adapter.alpha=192"],
        "4 samples of 48 prompts": _samples(4),
        "16 samples of 12 prompts": _samples(16),
        "clip 1e-4": ["algorithm.clip_range=1e-4"],
        "clip 1e-5": ["algorithm.clip_range=1e-5"],
        "no KL": ["algorithm.kl_weight=0"],
        "KL 1": ["algorithm.kl_weight=1"],
        "96 prompts of the target": [f"prompts.sources={{{_FEW}: 2, source/train: 1}}"],
    },
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
        "few prompts, group": [_ONLY_FEW],
        "few prompts, running": [
            _ONLY_FEW,
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
    from rl_motion.runtime.build import Workshop, build_pool
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.loop import State, train
    from rl_motion.runtime.sampling import load_policy

    job = load_job("demo", settings, seed)
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
    row: dict[str, Any] = {"minutes": minutes, "reward": [m.get("reward/total") for m in history]}
    for split in SPLITS:
        before, after = found.of(split, BASE), found.of(split, TUNED)
        row[split] = {
            "ids": [record.prompt.id for record in before],
            "base": [record.oracle_success for record in before],
            "tuned": [record.oracle_success for record in after],
            "diversity": sum(r.diversity or 0 for r in after) / sum(r.diversity or 0 for r in before),
        }
    late = history[-LATE:]
    for metric in [m for m in late[0] if m.startswith(("policy/kl", "policy/clip_fraction", "policy/gradient_share"))]:
        having = [m[metric] for m in late if metric in m]  # an iteration whose steps were all skipped has none
        row[metric] = sum(having) / len(having)
    return row


def _alone(work: Callable[..., Any], *what: Any) -> Any:
    """Do it in a process of its own, so that one that is killed takes no other with it."""
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        return pool.submit(work, *what).result()


def _inputs(settings: list[str], seed: int) -> dict[str, Any]:
    """What a variant's numbers rest on: its settings, the prompts and the weights."""
    from rl_motion.config.load import load_job
    from rl_motion.runtime.build import build_pool, find_weights

    job = load_job("demo", settings, seed)
    numbers = job.model_dump(mode="json", exclude={"runtime": {"backend", "rollout_workers"}, "tracking": True})
    return {"job": numbers, "pool_sha256": build_pool(job).sha256, "weights_sha256": find_weights(job)}


def _refuse_other(file: Path, inputs: dict[str, Any]) -> None:
    """Refuse a result of other settings, prompts or weights: all may have changed under their names.

    Raises:
        UserError: names the file.
    """
    found = json.loads(file.read_text(encoding="utf-8")).get("inputs") or {}
    other = sorted(name for name in inputs if found.get(name) != inputs[name])
    if other:
        raise UserError(f"got {file}, a result of other {', '.join(other)}; want these; choose another --out")


Rows = Mapping[int, dict[str, Any]]
"""Of one variant, by seed."""


def _base(rows: Rows, split: str) -> Estimate:
    """Oracle success of the base, which is the same for all seeds."""
    row = next(iter(rows.values()))[split]
    return bootstrap_mean(row["base"], row["ids"], seed=0)


def change(rows: Rows, split: str) -> Estimate:
    """Tuned less base: with one seed over its prompts, with several over the seeds."""
    each = [
        paired_difference(row[split]["base"], row[split]["tuned"], row[split]["ids"], seed=0) for row in rows.values()
    ]
    return each[0] if len(each) == 1 else student_mean([one.value for one in each])


def against(reference: Rows, rows: Rows, split: str) -> Estimate:
    """What a variant gains less what the reference gains, paired: prompt by prompt of one seed, or seed by seed."""

    def gain(row: dict[str, Any]) -> np.ndarray:
        return np.asarray(row[split]["tuned"], float) - np.asarray(row[split]["base"], float)

    ids = next(iter(rows.values()))[split]["ids"]
    if len(rows) == 1:
        [one], [other] = reference.values(), rows.values()
        return paired_difference(gain(one), gain(other), ids, seed=0)
    return student_mean([float(gain(rows[seed]).mean() - gain(reference[seed]).mean()) for seed in rows])


def _points(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{100 * found.value:+.1f}"
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _mean(rows: Rows, *keys: str) -> float:
    def value(row: Any) -> float:
        for key in keys:
            row = row[key]
        return float(row)

    return float(np.mean([value(row) for row in rows.values()]))


def _steps(rows: Rows, metric: str) -> str:
    """A metric of each transition, the noisiest first."""
    names = sorted(name for name in next(iter(rows.values())) if name.startswith(f"policy/{metric}_s"))
    return " ".join(f"{_mean(rows, name):.2f}".removeprefix("0") for name in names)


def lines(variants: Mapping[str, Rows]) -> Iterator[str]:
    """The results as Markdown; every variant stands beside the first."""
    reference, *_ = variants.values()
    columns = ["variant", *(c for s in SPLITS.values() for c in (f"{s}: base", "change", "against the first"))]
    columns += ["diversity", "KL", "clip fraction", "minutes"]
    yield f"| {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * (len(columns) - 1)
    for name, rows in variants.items():
        parts = []
        for split in SPLITS:
            beside = "" if rows is reference else _points(against(reference, rows, split))
            parts.append(f"{100 * _base(rows, split).value:.1f} | {_points(change(rows, split))} | {beside}")
        parts += [f"{_mean(rows, 'target', 'diversity'):.2f}", f"{_mean(rows, 'policy/kl'):.1e}"]
        parts += [f"{_mean(rows, 'policy/clip_fraction'):.2f}", f"{_mean(rows, 'minutes'):.1f}"]
        yield f"| {name} | {' | '.join(parts)} |"
    seeds = len(reference)
    over = "over prompts, paired; one seed" if seeds == 1 else f"over {seeds} seeds, paired (Student's)"
    yield f"\nOracle success in %, change in points with its 95 % interval {over}.\n"
    yield "| variant | gradient share of each transition, noisiest first | clip fraction of each |"
    yield "| --- | --- | --- |"
    for name, rows in variants.items():
        yield f"| {name} | {_steps(rows, 'gradient_share')} | {_steps(rows, 'clip_fraction')} |"


def _settings(model: str, iterations: int, prompts: int, variant: Sequence[str]) -> list[str]:
    common = [f"model.name={model}", f"train.iterations={iterations}", f"evaluation.prompts={prompts}"]
    return [*common, "runtime.threads=1", *variant]


def main(  # noqa: PLR0913, PLR0917 - its options
    table: Annotated[str, typer.Option(help=f"One of {', '.join(TABLES)}.")] = "paper",
    model: Annotated[str, typer.Option(help="Base of every variant.")] = "mdm-embedded",
    out: Annotated[Path, typer.Option(help="Where the results go, one file a variant and seed.")] = Path(
        "runs/ablation"
    ),
    iterations: Annotated[int, typer.Option(min=1, help="Of every variant.")] = 80,
    seeds: Annotated[int, typer.Option(min=1, help="Of every variant: 0, 1, ...")] = 1,
    prompts: Annotated[int, typer.Option(min=2, help="Examined of each split.")] = 128,
    parallel: Annotated[int, typer.Option(min=1, help="Variants at a time; each takes one core.")] = 2,
) -> None:
    """Run what is missing, then print the table."""
    if table not in TABLES:
        typer.echo(f"error: got table {table!r}; want one of {', '.join(TABLES)}; choose one", err=True)
        raise typer.Exit(2)
    folder, settings = out / model, {n: _settings(model, iterations, prompts, v) for n, v in TABLES[table].items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = {(n, seed): _file(folder, n, iterations, seed) for n in settings for seed in range(seeds)}
    try:
        inputs = {(name, seed): _inputs(settings[name], seed) for name, seed in files}
        for key, file in files.items():
            if file.is_file():
                _refuse_other(file, inputs[key])
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    missing = sorted((key for key, file in files.items() if not file.is_file()), key=lambda key: key[1])
    failed = []
    with ThreadPoolExecutor(parallel) as pool:
        waiting = {pool.submit(_alone, _train, settings[name], seed): (name, seed) for name, seed in missing}
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                name, seed = waiting[future]
                left = f"{len(missing) - done} left"
                if (error := future.exception()) is not None:
                    failed.append(f"{name}, seed {seed}: failed with {type(error).__name__}: {error}")
                    typer.echo(f"{failed[-1]}; {left}", err=True)
                    continue
                row = future.result() | {"inputs": inputs[name, seed]}
                write_atomic(files[name, seed], (json.dumps(row) + "\n").encode())
                typer.echo(f"{name}, seed {seed}: done in {row['minutes']:.1f} min, {left}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        typer.echo(
            "\n".join([f"error: {len(failed)} of {len(missing)} failed; the others are kept", *failed]), err=True
        )
        raise typer.Exit(1)
    found = {
        name: {seed: json.loads(files[name, seed].read_text(encoding="utf-8")) for seed in range(seeds)}
        for name in settings
    }
    text = "\n".join(lines(found))
    write_atomic(folder / f"{table}-{iterations}.md", f"{text}\n".encode())
    typer.echo(text)


def _file(folder: Path, variant: str, iterations: int, seed: int) -> Path:
    name = "-".join(re.sub(r"[^\w.\s-]", "", variant).split())
    return folder / f"{name}-{iterations}-seed{seed}.json"


if __name__ == "__main__":
    typer.run(main)
