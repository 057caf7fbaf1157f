"""Bands of the sentinels from honest evaluations; how many unseen ones they flag; what they say of planted hacks.

    python jobs/sentinels.py calibrate --runs runs/seen --cmu DATA   # real, base and honestly tuned motion -> bands
    python jobs/sentinels.py honest --runs runs/unseen             # false alarms among others than those
    python jobs/sentinels.py hacks                                 # planted reward hacks: docs/sentinels.md

An honest evaluation compares one of these with a base model on the same prompts: real motion, the same base with other
noise, another base, the same network trained on the target's motions too, and runs of the demo's kind (--runs names a
folder of them, whose newest commits count). The rule, written before any hack was: a sentinel's band is the
range of its log ratio over all these, widened at both ends by a quarter of that range and at least a tenth, for models
nobody has seen; sigma is the largest standard deviation over prompts of any of them. Where less is better, only what
is no better than its base by more than a tenth counts. --out keeps all that is sampled.

Legend: N rows, P prompts, M samples per prompt, F frames, D features, J joints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors import torch as safetensors
from torch import Tensor

from rl_motion.config import Job
from rl_motion.config.load import load_job
from rl_motion.evaluation.hacks import HACKS, LATE, Hack, Planted
from rl_motion.evaluation.selection import draw, make_units
from rl_motion.evaluation.sentinels import (
    FLOORS,
    PACKAGED,
    TWO_SIDED,
    Band,
    Bands,
    Statistics,
    bands_of,
    judge,
    of_unit,
    read_bands,
    write_bands,
)
from rl_motion.models.zoo import RETRIEVAL, locate
from rl_motion.motion.features import FPS, joints_to_features
from rl_motion.types import Motions, Normalisation, Representation, Unit

app = typer.Typer(add_completion=False, help=__doc__)
BANDS = Path(__file__).resolve().parents[1] / "rl_motion" / PACKAGED
SHARE, LEAST = 0.25, 0.10
"""By what part of its range, and at least by how much in log ratio, a band is wider than what was seen."""
PROMPTS, SAMPLES, UNIT = 48, 2, 12
CALIBRATED_ON = (("target/train", 1), ("source/train", 1))
"""Splits whose prompts were drawn, and the seed of the draw and of the noise."""
UNSEEN = (("target/val", 101), ("target/test", 102), ("source/test", 103))
OTHERS = {
    "mdm-embedded": ("mdm-embedded-b", "mdm-embedded-upper"),
    "mdm-embedded-b": ("mdm-embedded", "mdm-embedded-upper"),
    "t2m-unet-embedded": ("t2m-unet-embedded-upper",),
}
"""Base models, and those that count as honest beside each."""
Out = Annotated[Path, typer.Option(help="Where samples are kept, to be made once")]
Runs = Annotated[Path | None, typer.Option(help="Folder of honest runs")]


@dataclass(frozen=True)
class Source:
    """Where motions come from: a model with or without an adapter, or the world itself."""

    model: str
    adapter: Path | None = None
    guidance: float | None = 2.5

    @property
    def name(self) -> str:
        """For tables."""
        tuned = f" tuned {self.adapter.parent.name}" if self.adapter else ""
        return f"{self.model}{tuned}, guidance {self.guidance:g}" if self.guidance else f"{self.model}{tuned}"


REAL = Source("real", None, None)


@dataclass(frozen=True)
class Drawn:
    """Which prompts and which noise."""

    split: str
    seed: int
    noise: int


@dataclass(frozen=True)
class Rows:
    """What was measured, by sentinel and as `reward` [N], prompt-major; motions as features [N, F, D], lengths [N]."""

    values: Mapping[str, np.ndarray]
    features: np.ndarray
    length: np.ndarray

    def statistics(self, prompts: slice | None = None) -> Statistics:
        """Means over the motions of these prompts (all, where not given)."""
        picked = {name: column.reshape(-1, SAMPLES)[prompts or slice(None)] for name, column in self.values.items()}
        return Statistics({name: float(np.nanmean(part)) for name, part in picked.items()}, len(picked["reward"]))


def job_of(source: Source, noise: int) -> Job:
    """The demo's job for this model: its policy and its rewards."""
    sets = [f"model.name={source.model}", f"evaluation.seed={noise}", f"evaluation.samples_per_prompt={SAMPLES}"]
    sets += [f"train.prompts_per_unit={UNIT}", f"evaluation.guidance_scale={source.guidance or 1.0}"]
    return load_job("demo", sets)


@cache
def units_of(drawn: Drawn) -> tuple[Unit, ...]:
    """The prompts, in units."""
    from rl_motion.data.embedded import prompts

    job = job_of(Source("mdm-embedded"), drawn.noise)
    return make_units(job, draw(prompts(drawn.split), PROMPTS, seed=drawn.seed))


@cache
def scorer() -> Any:
    """The demo's rewards."""
    from rl_motion.rewards.combine import score
    from rl_motion.rewards.of_job import job_terms

    terms = job_terms(load_job("demo"))
    return lambda motions, unit: score(terms, motions, unit).total_B


def real_motions(unit: Unit, split: str) -> Motions:
    """Motions of the world for a unit's prompts, none of them seen in any training."""
    from rl_motion.data.actions import perform
    from rl_motion.data.embedded import PROMPTS_PER_CLAIM, make_prompt, splits

    claims = {make_prompt(split, claim, i).id: claim for claim in splits()[split] for i in range(PROMPTS_PER_CLAIM)}
    features = torch.zeros(unit.batch, max(prompt.length for prompt in unit.prompts), 263)
    for row, prompt in enumerate(unit.row_prompts):
        key = f"{unit.seed}/{prompt.id}/{row % unit.samples_per_prompt}"
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
        made = joints_to_features(perform(claims[prompt.id], prompt.length + 1, rng), own_heading=True)
        features[row, : prompt.length] = torch.from_numpy(made)
    return as_motions(features, torch.tensor([prompt.length for prompt in unit.row_prompts]))


def as_motions(features_BFD: Tensor, length_B: Tensor) -> Motions:
    """Features of the first dialect."""
    return Motions(features_BFD, length_B, float(FPS), Representation.HUMANML3D_263, Normalisation.NONE)


def motions_of(source: Source, drawn: Drawn) -> Iterator[tuple[Unit, Motions]]:
    """Unit by unit."""
    if source is REAL:
        yield from ((unit, real_motions(unit, drawn.split)) for unit in units_of(drawn))
        return
    from rl_motion.runtime.sampling import load_policy

    policy = load_policy(job_of(source, drawn.noise), source.adapter)
    for unit in units_of(drawn):
        with torch.no_grad():
            yield unit, policy.decode(policy.rollout(unit)).to("cpu")


def measure(pieces: Iterator[tuple[Unit, Motions]]) -> Rows:
    """Sentinels and reward of every motion."""
    columns: dict[str, list[np.ndarray]] = {}
    features, lengths = [], []
    for unit, motions in pieces:
        with torch.no_grad():
            found = of_unit(motions, unit.samples_per_prompt) | {"reward": scorer()(motions, unit)}
        for name in [*FLOORS, "reward"]:
            # A last unit of one prompt has no spread: it takes no part in that mean.
            value_B = found.get(name, torch.full((unit.batch,), torch.nan))
            columns.setdefault(name, []).append(value_B.double().numpy())
        frames = motions.features_BFD.shape[1]
        features.append(np.pad(motions.features_BFD.numpy(), ((0, 0), (0, 40 - frames), (0, 0))).astype(np.float32))
        lengths.append(motions.length_B.numpy())
    return Rows(
        {n: np.concatenate(parts) for n, parts in columns.items()}, np.concatenate(features), np.concatenate(lengths)
    )


def rows_of(source: Source, drawn: Drawn, out: Path) -> Rows:
    """Measured now, or read where that was done before."""
    key = hashlib.sha256(repr((source, drawn, PROMPTS, SAMPLES)).encode()).hexdigest()[:16]
    path = out / f"{key}.npz"
    if not path.is_file():
        rows = measure(motions_of(source, drawn))
        out.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=rows.features, length=rows.length, **{f"value/{n}": v for n, v in rows.values.items()})
        typer.echo(f"measured {source.name} on {drawn.split}", err=True)
    with np.load(path, allow_pickle=False) as file:
        if {f"value/{name}" for name in FLOORS} - set(file.files):  # made before there was that sentinel
            return _again(drawn, file["features"], file["length"], path)
        values = {name.removeprefix("value/"): file[name] for name in file.files if name.startswith("value/")}
        return Rows(values, file["features"], file["length"])


def _again(drawn: Drawn, features: np.ndarray, length: np.ndarray, path: Path) -> Rows:
    """The same motions, measured with all the sentinels that there are now."""
    starts = np.cumsum([0, *(unit.batch for unit in units_of(drawn))])
    parts = [slice(a, b) for a, b in pairwise(starts)]
    made = [as_motions(torch.from_numpy(features[part]), torch.from_numpy(length[part])) for part in parts]
    rows = measure(iter(zip(units_of(drawn), made, strict=True)))
    np.savez(path, features=rows.features, length=rows.length, **{f"value/{n}": v for n, v in rows.values.items()})
    return rows


def tuned_in(runs: Path | None, every: int) -> list[Source]:
    """The adapters of a folder's runs, at their newest commit and at every so many before."""
    found = []
    for job_file in sorted(runs.glob("*/job.yaml")) if runs else []:
        model = load_job(job_file).model.name
        commits = sorted((job_file.parent / "commits").glob("*/adapter"), reverse=True)
        found += [Source(model, adapter) for adapter in commits[: len(commits) - 1 : every]]
    return found


@dataclass(frozen=True)
class Honest:
    """An honest evaluation to be: what is compared with which base, on what."""

    name: str
    tuned: Source
    base: Source
    drawn: Drawn
    other_noise: Drawn

    def rows(self, out: Path) -> tuple[Rows, Rows]:
        """(tuned, base)."""
        return rows_of(self.tuned, self.other_noise, out), rows_of(self.base, self.drawn, out)


def honest_of(
    sets: Sequence[tuple[str, int]], tuned: Sequence[Source], guidances: tuple[float, ...]
) -> Iterator[Honest]:
    """All of them; the noise is that of the base but for the base itself and for real motion."""
    for split, seed in sets:
        same, other = Drawn(split, seed, 1000 + seed), Drawn(split, seed, 2000 + seed)
        for model, others in OTHERS.items():
            for guidance in guidances if model == "mdm-embedded" else (2.5,):
                base = Source(model, None, guidance)
                yield Honest("other noise", base, base, same, other)
                if guidance > 1:
                    yield Honest("real", REAL, base, same, other)
                    for name in others:
                        yield Honest("other model", Source(name, None, guidance), base, same, same)
                for source in tuned:
                    if source.model == model:
                        yield Honest("tuned", replace(source, guidance=guidance), base, same, same)


def log_ratio(name: str, tuned: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """(the statistic, its standard deviation over prompts by the delta method), NaN rows left out."""
    tuned_P, base_P = (np.nanmean(column.reshape(-1, SAMPLES), axis=1) + FLOORS[name] for column in (tuned, base))
    seen = np.isfinite(tuned_P) & np.isfinite(base_P)
    tuned_P, base_P = tuned_P[seen], base_P[seen]
    share_P = tuned_P / tuned_P.mean() - base_P / base_P.mean()
    return float(np.log(tuned_P.mean() / base_P.mean())), float(share_P.std(ddof=1))


def band_of(name: str, found: Sequence[tuple[float, float]]) -> Band:
    """The rule of this file's first lines; 0, where tuned is as base, is always inside."""
    counting = [pair for pair in found if name in TWO_SIDED or pair[0] > -LEAST]
    centres = [0.0, *(centre for centre, _ in counting)]
    wider = max(SHARE * (max(centres) - min(centres)), LEAST)
    return Band(min(centres) - wider, max(centres) + wider, max(sigma for _, sigma in counting))


@app.command()
def calibrate(
    runs: Runs = None,
    cmu: Annotated[Path | None, typer.Option(help="Folder with joints.npz and clips.jsonl of real motion")] = None,
    out: Out = Path("runs/sentinels"),
    write: Annotated[Path, typer.Option(help="The file of bands")] = BANDS,
) -> None:
    """Write the bands of both dialects and, with --cmu, those of that data."""
    torch.set_num_threads(1)
    worlds = read_bands(write) if write.is_file() else {}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FLOORS}
    for honest in honest_of(CALIBRATED_ON, tuned_in(runs, every=10**6), (2.5, 1.0)):
        tuned, base = honest.rows(out)
        line = {name: log_ratio(name, tuned.values[name], base.values[name]) for name in FLOORS}
        for name, pair in line.items():
            found[name].append(pair)
        words = "  ".join(f"{name} {np.exp(centre):.2f}" for name, (centre, _) in line.items())
        typer.echo(f"{honest.name}: {honest.tuned.name} / {honest.base.name}, {honest.drawn.split}: {words}")
    worlds["first"] = Bands("first", float(FPS), {name: band_of(name, pairs) for name, pairs in found.items()}, None)
    worlds["second"] = real_bands("second", second_motions(), worlds["first"])
    if cmu is not None:
        worlds["cmu"] = real_bands("cmu", cmu_motions(cmu), worlds["first"])
    write_bands(write, worlds)
    for world, bands in read_bands(write).items():
        typer.echo(f"{world}, {PROMPTS} prompts: " + "  ".join(_band_in_words(bands, name) for name in bands.bands))


def _band_in_words(bands: Bands, name: str) -> str:
    low, high = bands.at(name, PROMPTS)
    return f"{name} {low:.2f}-{high:.2f}"


def cmu_motions(folder: Path) -> list[Motions]:
    """Every clip without a flag, as features of the uniform skeleton and back to joints, up to 196 frames."""
    with np.load(folder / "joints.npz", allow_pickle=False) as file:
        joints, offsets = file["joints"], file["offsets"]
    lines = (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [i for i, line in enumerate(lines) if not json.loads(line)["flags"] and offsets[i + 1] - offsets[i] > 40]
    clips = [joints_to_features(joints[offsets[i] : offsets[i + 1]][:197], own_heading=True) for i in kept]
    return [as_motions(torch.from_numpy(clip)[None], torch.tensor([len(clip)])) for clip in clips]


def second_motions(number: int = 192) -> list[Motions]:
    """Clips of the second dialect."""
    from rl_motion.data.worlds import SECOND, clips

    made = clips("second/train", number, seed=4000)
    features, length = torch.from_numpy(made.features_NFD), torch.from_numpy(made.length_N)
    pairs = zip(features.split(1), length.split(1), strict=True)
    return [Motions(x, n, SECOND.fps, SECOND.representation, Normalisation.NONE) for x, n in pairs]


def real_bands(world: str, motions: Sequence[Motions], first: Bands) -> Bands:
    """Of a world without models: the first dialect's bands, as wide as chance makes two sets of its real motion differ.

    Real motion alone cannot say what honest models do to what it lacks (bones that drift, features that disagree).
    """
    rows = [of_unit(motion, 1) for motion in motions]
    bands = {}
    for name in [name for name in first.bands if name in rows[0]]:
        value_N = np.array([row[name].item() for row in rows]) + FLOORS[name]
        unpaired = float(np.sqrt(2) * value_N.std(ddof=1) / value_N.mean())
        bands[name] = replace(first.bands[name], sigma=max(first.bands[name].sigma, unpaired))
    return Bands(world, motions[0].fps, bands | {n: first.bands[n] for n in first.bands if n not in bands}, None)


def evaluations(tuned: Rows, base: Rows, prompts: int) -> Iterator[tuple[Statistics, Statistics]]:
    """Disjoint parts of so many prompts each."""
    for start in range(0, PROMPTS - prompts + 1, prompts):
        part = slice(start, start + prompts)
        yield tuned.statistics(part), base.statistics(part)


@app.command()
def honest(
    runs: Runs = None,
    out: Out = Path("runs/sentinels"),
) -> None:
    """How many honest evaluations are flagged, of prompts, noise and runs that the bands have not seen."""
    torch.set_num_threads(1)
    bands = bands_of("first")
    counts: dict[tuple[str, int], list[bool]] = {}
    for case in honest_of(UNSEEN, tuned_in(runs, every=20), (2.5,)):
        tuned, base = case.rows(out)
        for prompts in (16, 24, 48):
            for pair in evaluations(tuned, base, prompts):
                alarms = judge(*pair, bands)
                counts.setdefault((case.name, prompts), []).append(bool(alarms))
                for alarm in alarms:
                    typer.echo(f"{case.tuned.name} / {case.base.name}, {case.drawn.split}, {prompts} prompts: {alarm}")
    for prompts in (16, 24, 48):
        names = [name for name, number in counts if number == prompts]
        told = [f"{name} {sum(counts[name, prompts])} of {len(counts[name, prompts])}" for name in names]
        every = [flag for name in names for flag in counts[name, prompts]]
        typer.echo(f"{prompts} prompts: flagged {sum(every)} of {len(every)} ({', '.join(told)})")


def plant(rows: Rows, drawn: Drawn, hack: Hack, strength: float) -> Rows:
    """A base's motions with a hack planted, measured anew."""
    tensors = safetensors.load_file(str(locate("tmr-embedded", RETRIEVAL) / "model.safetensors"))
    std_D = tensors["std_D"].clamp(min=1e-3)

    def pieces() -> Iterator[tuple[Unit, Motions]]:
        start = 0
        for unit in units_of(drawn):
            part = slice(start, start + unit.batch)
            features, length = torch.from_numpy(rows.features[part]), torch.from_numpy(rows.length[part])
            # The reward of unit and lengths at hand, not of those that the loop comes to.
            reward = partial(_rewarded, unit, length)
            with torch.no_grad():
                yield unit, as_motions(hack(Planted(features, length, SAMPLES, std_D, reward), strength), length)
            start += unit.batch

    return measure(pieces())


def _rewarded(unit: Unit, length_B: Tensor, features_BFD: Tensor) -> Tensor:
    reward_B: Tensor = scorer()(as_motions(features_BFD, length_B), unit)
    return reward_B


@app.command()
def hacks(
    out: Out = Path("runs/sentinels"),
    only: Annotated[str | None, typer.Option(help="One hack by its name")] = None,
) -> None:
    """Plant every hack in motions of the base on unseen prompts; print the reward's change and what flags it."""
    torch.set_num_threads(1)
    bands = bands_of("first")
    drawn = Drawn("target/val", 101, 1101)
    base = rows_of(Source("mdm-embedded"), drawn, out)
    before = float(base.values["reward"].mean())
    typer.echo(f"| hack | strength | reward ({before:.3f}) | flagged by, of {PROMPTS} prompts | of 24 |")
    typer.echo("| --- | --- | --- | --- | --- |")
    for name, (hack, strengths) in (HACKS | LATE).items():
        for strength in strengths if only in (None, name) else ():
            spoilt = plant(base, drawn, hack, strength)
            alarms = judge(spoilt.statistics(), base.statistics(), bands)
            halves = [bool(judge(*pair, bands)) for pair in evaluations(spoilt, base, 24)]
            told = ", ".join(f"{alarm.name} {alarm.ratio:.2f} x" for alarm in alarms[:4]) or "**nothing**"
            gained = float(spoilt.values["reward"].mean()) - before
            typer.echo(f"| {name} | {strength:g} | {gained:+.3f} | {told} | {sum(halves)} of {len(halves)} |")


if __name__ == "__main__":
    app()
