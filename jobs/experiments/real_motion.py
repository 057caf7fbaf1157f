"""Real motion: a base trained on some actions, adapted to others by their captions alone, judged on held-out trials.

    python jobs/experiments/real_motion.py DATA --out runs/real-motion      # resumable; every stage is made once

DATA is a folder of real motion (rl_motion/data/folder.py says how it looks). Trials are split by hash into train, val
and test, and the categories of --target are kept from the base. Made on one thread: a text encoder, TMR (the reward)
and an independent evaluator on the train motion of both domains, a base on that of the source, the supervised upper
bound on both, and post-training on train captions, one run a seed. Examined are captions of test trials that no
training caption is worded as, with the field's metrics, the reward and the sentinels; there is no oracle for real
motion. Few minutes of motion train a weak evaluator: what it makes of real motion stands in the table, and where that
is near chance it judges nothing.

Legend: P prompts, R samples of each (replications), N real windows, F frames.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from figures import CONVENTIONS, Table, figures
from measuring import REAL, Measured
from real_stages import (
    BASE,
    EVALUATOR,
    SEEDS,
    SMOKE,
    TEXT,
    TMR_NAME,
    TRAIN,
    UPPER,
    Sizes,
    World,
    core_seconds,
    described,
    make_adapter,
    make_denoiser,
    make_evaluator,
    make_prompts,
    make_text,
    make_tmr,
    read_whole,
    refuse_leaks,
    sizes_of,
    stage,
)
from running import SPEED_ALONE, provenance

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.data.folder import category, cut_windows, read_folder, split_clips, split_prompts
from rl_motion.evaluation.guarantees import refuse_goal
from rl_motion.evaluation.selection import draw, make_units
from rl_motion.evaluation.statistics import paired_difference
from rl_motion.models.text import TextEncoder
from rl_motion.models.zoo import load_evaluator, load_tmr
from rl_motion.motion.features import FPS, features_to_joints
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.sentinels import measures_of
from rl_motion.motion.viewer import Panel, Row, motion_page
from rl_motion.runtime.sampling import load_policy
from rl_motion.tracking.files import write_atomic
from rl_motion.types import Motions, Normalisation, Prompt, Representation

EXAMINED = {"target/test": "Held-out actions", "source/test": "Source actions (forgetting)"}
TARGET = ("animal", "dance", "fight", "jump")
"""Categories kept from the base; chosen for having captions by people, before anything was trained."""
WEIGHTS = {"target/train": 2, "source/train": 1}
SHOWN = 12
"""Prompts on the page."""
_JOB = Path(__file__).with_suffix(".yaml")
_SEED = 0
"""Of the metrics' draws and of the bootstrap."""


@dataclass(frozen=True)
class Arm:
    """One split under one arm: what the metrics read, reward and sentinels by name (R x P, of real motion N), and first
    samples."""

    measured: Measured
    scalars: Mapping[str, np.ndarray]
    joints_PFJ3: np.ndarray
    length_P: np.ndarray


def post_training(zoo: Path, prompts: Path, sizes: Sizes, seed: int) -> Job:
    """The job of one seed."""
    sources = {str((prompts / f"{name.replace('/', '-')}.txt").resolve()): weight for name, weight in WEIGHTS.items()}
    sets = [
        f"model.name={zoo.resolve() / BASE}", f"prompts.sources={json.dumps(sources)}",
        f"rewards={json.dumps([{'name': 'tmr', 'model': str(zoo.resolve() / TMR_NAME)}])}",
        f"evaluation.samples_per_prompt={sizes.samples}", *sizes.job,
    ]  # fmt: skip
    return load_job(_JOB, sets, seed)


def settings_of(job: Job) -> dict[str, Any]:
    """All of a job that changes a number, but where its files lie: what is in them has keys of its own."""
    sources = {Path(name).name: weight for name, weight in job.prompts.sources.items()}
    paths = {"model": {"name"}, "rewards": {"__all__": {"model"}}, "prompts": {"sources"}}
    settings = job.model_dump(mode="json", exclude={**paths, "runtime": SPEED_ALONE, "tracking": True})
    return settings | {"prompts": settings["prompts"] | {"sources": sources}}


def measure(job: Job, adapter: Path | None, zoo: Path, prompts: Mapping[str, Sequence[Prompt]], folder: Path) -> None:
    """The motions of one arm for every prompt of every split, as judge, reward and sentinels see them.

    Raises:
        UserError: the judge is the reward.
    """
    judge, reward = load_evaluator(zoo / EVALUATOR), load_tmr(zoo / TMR_NAME)
    refuse_goal(judge.sha256, job)
    policy = load_policy(job, adapter)
    for split, examined in prompts.items():
        made: list[Motions] = []
        scalars: dict[str, list[float]] = {}
        starts = hashlib.sha256()
        for unit in make_units(job, examined):
            with torch.no_grad():
                trajectory = policy.rollout(unit)
                motions = policy.decode(trajectory).to("cpu")
            starts.update(trajectory.states[:, 0].numpy().tobytes())
            made.append(motions)
            texts = [prompt.text for prompt in unit.row_prompts]
            found = {"reward": reward.similarity(motions, texts), **measures_of(motions)}
            for name, value_B in found.items():
                scalars.setdefault(name, []).extend(value_B.tolist())
        rows = (len(examined), job.evaluation.samples_per_prompt)
        motion = np.concatenate([judge.embed_motions(motions).numpy() for motions in made])
        first = [motions.features_BFD[:: rows[1]] for motions in made]
        longest = max(features.shape[1] for features in first)
        padded = torch.cat([torch.nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in first])
        _write(folder / _file(split), {
            "motion": motion.reshape(*rows, -1).swapaxes(0, 1),
            "text": judge.embed_texts([prompt.text for prompt in examined]).numpy(),
            "groups": np.asarray([prompt.group for prompt in examined]),
            "joints": features_to_joints(padded).numpy().astype(np.float32),
            "length": np.asarray([prompt.length for prompt in examined]),
            "start_sha256": np.asarray(starts.hexdigest()),
            **{f"scalar_{name}": np.asarray(values, np.float32).reshape(rows).T for name, values in scalars.items()},
        })  # fmt: skip


def measure_real(world: World, zoo: Path, folder: Path) -> None:
    """Real motion of the test splits in the place of an arm: every window with one of its captions."""
    judge, reward, encoder = load_evaluator(zoo / EVALUATOR), load_tmr(zoo / TMR_NAME), TextEncoder(zoo / TEXT)
    group = {prompt.text: prompt.group for name in EXAMINED for prompt in _prompts(world, encoder, name, every=True)}
    for split in EXAMINED:
        windows = cut_windows(world.splits[split], world.sizes.frames, world.sizes.frames)
        said = [[text for text in texts if text in group] for texts in windows.captions]
        kept = [n for n, texts in enumerate(said) if texts]
        captions = [said[n][n % len(said[n])] for n in kept]
        features, length = torch.from_numpy(windows.features_NFD[kept]), torch.from_numpy(windows.length_N[kept])
        motions = Motions(features, length, FPS, Representation.HUMANML3D_263, Normalisation.NONE)
        scalars = {"reward": reward.similarity(motions, captions), **measures_of(motions)}
        _write(folder / _file(split), {
            "motion": judge.embed_motions(motions).numpy(),
            "text": judge.embed_texts(captions).numpy(),
            "groups": np.asarray([group[text] for text in captions]),
            "joints": motion_joints(motions).numpy().astype(np.float32),
            "length": length.numpy(),
            **{f"scalar_{name}": value.numpy() for name, value in scalars.items()},
        })  # fmt: skip


def read_arm(folder: Path, split: str) -> Arm:
    """A measurement read back."""
    with np.load(folder / _file(split), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    scalars = {name.removeprefix("scalar_"): a for name, a in arrays.items() if name.startswith("scalar_")}
    start = str(arrays.get("start_sha256", ""))
    measured = Measured(arrays["motion"], arrays["text"], arrays["groups"].tolist(), start_sha256=start)
    return Arm(measured, scalars, arrays["joints"], arrays["length"])


def compare(arms: Mapping[str, Arm], split: str, prompts: Sequence[Prompt]) -> tuple[Table, dict[str, Any]]:
    """The field's table of one split, and means of reward and sentinels, the reward's change with its interval."""
    measured = {name: arm.measured for name, arm in arms.items() if name != REAL}
    rows = figures(measured, arms[REAL].measured, _SEED)
    tuned = {int(name.removeprefix("seed")): rows[name] for name in arms if name.startswith("seed")}
    real = len(arms[REAL].measured.motion)
    examined = (
        f"{split}: {len(prompts)} captions, {len(measured[BASE].motion)} motions each; {real} windows of real motion. "
        "By chance R@1, R@2, R@3 are .031, .062, .094."
    )
    models = {"upper bound": rows[UPPER], BASE: rows[BASE]}
    table = Table(EXAMINED[split], examined, rows[REAL], models, tuned, {}, "")
    means = {arm: {name: float(values.mean()) for name, values in found.scalars.items()} for arm, found in arms.items()}
    ids = [prompt.id for prompt in prompts]
    change = {
        arm: paired_difference(
            arms[BASE].scalars["reward"].mean(axis=0), arms[arm].scalars["reward"].mean(axis=0), ids, seed=_SEED
        ).as_dict()
        for arm in measured
        if arm != BASE
    }  # fmt: skip
    return table, {"means": means, "reward_change": change}


def scalar_lines(found: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[str]:
    """Means of reward and sentinels by arm, that of all seeds together."""
    means = found["means"]
    names = list(means[BASE])
    yield f"| | {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "| --- |" + " --- |" * len(names)
    tuned = {name: float(np.mean([means[f"seed{seed}"][name] for seed in seeds])) for name in names}
    for arm, row in ((REAL, means[REAL]), ("upper bound", means[UPPER]), (BASE, means[BASE]), ("**ours**", tuned)):
        yield f"| {arm} | {' | '.join(f'{row[name]:.3g}' for name in names)} |"
    for seed in seeds:
        change = found["reward_change"][f"seed{seed}"]
        yield (
            f"\nReward, seed {seed} against the base: {change['value']:+.3f} "
            f"[{change['low']:+.3f}, {change['high']:+.3f}], bootstrap over prompts."
        )


def described_data(world: World, left_out: Mapping[str, int]) -> dict[str, Any]:
    """What was read, and how it was split."""
    named = [text for texts in world.captions("source/train") for text in texts if category([text]) in TARGET]
    return {
        "sha256": world.sha256,
        "left_out": dict(left_out),
        "clips": {name: len(clips) for name, clips in world.splits.items()},
        "trials": {name: len({clip.trial for clip in clips}) for name, clips in world.splits.items()},
        "minutes": {n: round(sum(len(c.joints_FJ3) for c in cs) / FPS / 60, 1) for n, cs in world.splits.items()},
        "captions_of_source_train_that_name_a_target": len(set(named)),
    }


def page(world: World, arms: Mapping[str, Arm], prompts: Sequence[Prompt]) -> str:
    """Real motion, base, the first seed and the upper bound side by side, for some captions of the target."""
    seed, rows = next(arm for arm in arms if arm.startswith("seed")), []
    for prompt in draw(prompts, SHOWN, seed=_SEED):
        number = prompts.index(prompt)
        clip = next(c for c in world.splits["target/test"] if prompt.text in c.captions)
        real = torch.from_numpy(cut_windows([clip], world.sizes.frames, world.sizes.frames).features_NFD[0])
        panels = [Panel("real, its first window", features_to_joints(real)[: prompt.length].numpy())]
        panels += [
            Panel(label, arms[arm].joints_PFJ3[number, : arms[arm].length_P[number]])
            for label, arm in (("base", BASE), ("tuned", seed), ("upper bound", UPPER))
        ]
        rows.append(Row(prompt.text, panels, note=prompt.group))
    return motion_page("Real motion: held-out actions", rows, "One motion each, the first; nothing was selected.")


def _prompts(world: World, encoder: TextEncoder, split: str, *, every: bool = False) -> list[Prompt]:
    """The prompts of a split that the encoder reads whole; `every`: also those worded as what was trained on."""
    splits = {split: world.splits[split]} if every else world.splits
    found = split_prompts(splits, split, world.sizes.frames)
    whole = set(read_whole(encoder, [prompt.text for prompt in found]))
    return [prompt for prompt in found if prompt.text in whole]


def _file(split: str) -> str:
    return f"{split.replace('/', '-')}.npz"


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomic(path, content.getvalue())


def _networks(world: World, zoo: Path) -> dict[str, str]:
    """Train what is missing; the key of every network."""
    steps = world.sizes.text_steps
    key = stage(zoo / TEXT, described(world, steps=steps, seed=SEEDS[TEXT]), partial(make_text, world, steps))
    keys = {TEXT: key}
    for name, make in ((TMR_NAME, make_tmr), (EVALUATOR, make_evaluator)):
        inputs = described(world, text=key, seed=SEEDS[name], **sizes_of(world, f"{name}_steps"))
        keys[name] = stage(zoo / name, inputs, partial(make, world, zoo))
    for name, splits in ((BASE, TRAIN[:1]), (UPPER, TRAIN)):
        inputs = described(world, text=key, seed=SEEDS[name], trained_on=splits, **sizes_of(world, "denoiser_steps"))
        keys[name] = stage(zoo / name, inputs, partial(make_denoiser, world, zoo, splits))
    return keys


def _train(world: World, out: Path, seed: int, held_out: Sequence[Prompt], keys: Mapping[str, str]) -> tuple[Job, str]:
    """Post-train one seed where that is missing; its job and its key."""
    zoo, listed = out / "zoo", out / "prompts"
    prompts = stage(listed, described(world, text=keys[TEXT], **sizes_of(world)), partial(make_prompts, world, zoo))
    job = post_training(zoo, listed, world.sizes, seed)
    inputs = {"base": keys[BASE], "reward": keys[TMR_NAME], "prompts": prompts, "job": settings_of(job)}
    return job, stage(out / "runs" / f"seed{seed}", inputs, partial(make_adapter, job, held_out))


def _arms(
    world: World, out: Path, seeds: int, prompts: Mapping[str, Sequence[Prompt]], keys: Mapping[str, str]
) -> list[str]:
    """Post-train and measure what is missing; the names of the arms, real motion's among them."""
    zoo, measured = out / "zoo", out / "measured"
    held_out = [prompt for found in prompts.values() for prompt in found]
    runs: dict[str, tuple[Job, Path | None, str]] = {}
    for seed in range(seeds):
        job, key = _train(world, out, seed, held_out, keys)
        runs[f"seed{seed}"] = (job, out / "runs" / f"seed{seed}" / "adapter", key)
    job = runs["seed0"][0]
    upper = job.model_copy(update={"model": job.model.model_copy(update={"name": str(zoo.resolve() / UPPER)})})
    runs |= {BASE: (job, None, keys[BASE]), UPPER: (upper, None, keys[UPPER])}
    judges = {name: keys[name] for name in (TEXT, TMR_NAME, EVALUATOR)}
    for name, (made, adapter, key) in runs.items():
        asked = {split: [[prompt.id, prompt.group] for prompt in found] for split, found in prompts.items()}
        sampling = [made.sampling_policy.model_dump(mode="json"), made.evaluation.model_dump(mode="json")]
        inputs = {"arm": key, "judges": judges, "prompts": asked, "sampling": sampling}
        stage(measured / name, inputs, partial(measure, made, adapter, zoo, prompts))
    stage(measured / REAL, described(world, judges=judges, **sizes_of(world)), partial(measure_real, world, zoo))
    return [*runs, REAL]


def run(data: Path, out: Path, target: Sequence[str], seeds: int, sizes: Sizes) -> str:
    """Make what is missing, write real_motion.json, .md and page.html; returns the Markdown."""
    torch.set_num_threads(1)
    folder = read_folder(data)
    world = World(split_clips(folder.clips, target), folder.sha256, sizes)
    keys = _networks(world, out / "zoo")
    encoder = TextEncoder(out / "zoo" / TEXT)
    prompts = {split: _prompts(world, encoder, split) for split in EXAMINED}
    refuse_leaks(
        [text for texts in world.captions(*TRAIN) for text in texts], [p for found in prompts.values() for p in found]
    )
    names = _arms(world, out, seeds, prompts, keys)
    tables, scalars, lines = {}, {}, []
    for split in EXAMINED:
        arms = {name: read_arm(out / "measured" / name, split) for name in names}
        tables[split], scalars[split] = compare(arms, split, prompts[split])
        lines += [*tables[split].lines(), "", *scalar_lines(scalars[split], range(seeds)), ""]
        if split == "target/test":
            write_atomic(out / "page.html", page(world, arms, prompts[split]).encode())
    stages = [
        *(out / "zoo" / name for name in keys),
        *(out / part / name for name in names for part in ("measured", "runs")),
    ]
    spent = core_seconds([out / "prompts", *stages])
    where = provenance(sys.argv, range(seeds), sum(spent.values()))
    result = {
        "provenance": where, "target": list(target), "data": described_data(world, folder.left_out),
        "prompts": {split: Counter(p.group for p in found) for split, found in prompts.items()},
        "tables": {split: table.as_dict() for split, table in tables.items()}, "scalars": scalars,
        "core_seconds": spent, "conventions": list(CONVENTIONS),
    }  # fmt: skip
    text = "\n".join([
        f"## Real motion: {', '.join(target)} adapted to by captions alone\n",
        f"Commit {where['commit']}, seeds {where['seeds']}, {sum(spent.values()) / 60:.0f} core-minutes, "
        f"`{where['command']}`.\n", *lines,
    ])  # fmt: skip
    write_atomic(out / "real_motion.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    write_atomic(out / "real_motion.md", f"{text}\n".encode())
    return text


def main(
    data: Annotated[Path, typer.Argument(help="A folder with joints.npz and clips.jsonl.")],
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/real-motion"),
    target: Annotated[list[str] | None, typer.Option(help=f"Category to hold out; default: {TARGET}.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of post-training.")] = 3,
    smoke: Annotated[bool, typer.Option(help="A few steps of everything; the numbers mean nothing.")] = False,
) -> None:
    """Make what is missing, then print the tables."""
    try:
        typer.echo(run(data, out, target or TARGET, seeds, SMOKE if smoke else Sizes()))
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
