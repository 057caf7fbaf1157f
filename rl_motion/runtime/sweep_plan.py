"""Which trials a sweep has: a grid over keys of the job, times draws from ranges; all validated before any starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import yaml

from rl_motion.config import Job, UserError, nearest
from rl_motion.config.load import change_job, dump_job

METRIC = "reward/total"
_MOST = 10_000
_OWN = ("name", "runtime.backend", "tracking.")
"""Keys that the sweep sets itself, and those that decide no number."""


@dataclass(frozen=True, slots=True)
class Search:
    """What varies, as typed: `grid` holds `a.b=v1,v2`, the others `a.b=lo:hi`."""

    grid: Sequence[str] = ()
    uniform: Sequence[str] = ()
    loguniform: Sequence[str] = ()
    samples: int = 1
    """Draws from the ranges, each with every point of the grid."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep: `fields` is what it has of its own."""

    name: str
    fields: Mapping[str, Any]
    job: Job = field(repr=False)


def plan(job: Job, search: Search) -> list[Trial]:
    """The trials in order; the same for the same job and search, as draws follow `train.seed`.

    Every trial is one process (`runtime.backend: local`, which gives the numbers of any other), so that trials, and
    not the workers of one, share the machine.

    Raises:
        UserError: nothing varies, a key is none of the schema, or a trial's job does not fit it.
    """
    found = [
        _trial(change_job(job, [*_sets(fields), f"name={job.name[:58]}-{number:03d}", "runtime.backend=local"]), fields)
        for number, fields in enumerate(islice(_variants(search, job.train.seed), _MOST + 1), start=1)
    ]
    if len(found) > _MOST:
        raise UserError(f"got more than {_MOST} trials; want fewer; vary fewer keys or values")
    alike = {dump_job(trial.job.model_copy(update={"name": "any"})): trial for trial in found}
    if len(alike) < len(found):
        raise UserError(
            f"got {len(found)} trials, of which {len(alike)} differ; want different ones; drop repeated values, or "
            "give --samples a range to draw from"
        )
    return found


def check_metric(metric: str, trials: Sequence[Trial]) -> None:
    """Refuse to choose by what is no training reward, or by one that means another thing in each trial.

    Raises:
        UserError: so it is.
    """
    known = set.intersection(*({f"reward/{reward.name}" for reward in trial.job.rewards} for trial in trials))
    if metric != METRIC and metric not in known:
        raise UserError(
            f"got --metric {metric!r}; want a training reward that all trials have, one of {sorted({METRIC} | known)}: "
            f"choosing by held-out results would spoil them; {nearest(metric, {METRIC} | known, 'change it')}"
        )
    changed = sorted({key for trial in trials for key in trial.fields if key.startswith(("rewards", "calibration"))})
    if metric == METRIC and changed:
        raise UserError(
            f"got --metric {METRIC} where {', '.join(changed)} varies: each trial would be judged by another sum; want "
            f"a reward that is the same in all; choose one of {sorted(known)}"
        )


def _sets(fields: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in fields.items()]


def _trial(job: Job, fields: Iterable[str]) -> Trial:
    """With its fields as the job has them: YAML's `3e-4` is a text."""
    tree = job.model_dump(mode="json")
    return Trial(job.name, {key: reduce(_into, key.split("."), tree) for key in fields}, job)


def _into(node: Any, part: str) -> Any:
    return node[int(part)] if isinstance(node, list) else node[part]


def _variants(search: Search, seed: int) -> Iterator[dict[str, Any]]:
    """Tune's own product of grids and draws."""
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    space: dict[str, Any] = {}
    for option, texts, made in (
        ("--grid", search.grid, lambda key, text: tune.grid_search(_values(key, text))),
        ("--uniform", search.uniform, _range("--uniform", tune.uniform)),
        ("--loguniform", search.loguniform, _range("--loguniform", tune.loguniform)),
    ):
        for typed in texts:
            key, text = _key(option, typed)
            if key in space:
                raise UserError(f"got {key} in two options; want it once; put its values into one")
            space[key] = made(key, text)
    if not space:
        raise UserError("got a sweep in which nothing varies; want a key; add --grid train.learning_rate=3e-4,7e-4")
    # A generator and not its seed, with which every key of every trial would get the same draw.
    generator = np.random.default_rng(seed)
    for _ in range(search.samples):
        for _, fields in generate_variants(space, random_state=generator):
            # Four digits are as good as seventeen, and can be typed again.
            yield {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in fields.items()}


def _key(option: str, typed: str) -> tuple[str, str]:
    key, equals, text = typed.partition("=")
    key = key.strip()
    if not equals or not key or not text.strip():
        form = "a.b=v1,v2" if option == "--grid" else "a.b=low:high"
        raise UserError(f"got {option} {typed!r}; want {form}; write it like --grid train.learning_rate=3e-4,7e-4")
    if key.startswith(_OWN) or key == "tracking":
        raise UserError(
            f"got {option} over {key!r}, which the sweep sets itself or which decides no number; want another key; use "
            "--set for one value of it in all trials"
        )
    return key, text


def _values(key: str, text: str) -> list[Any]:
    try:
        values = yaml.safe_load(f"[{text}]")
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not values:
        raise UserError(f"got --grid {key}={text}; want values between commas, each as in --set; correct it")
    return values


def _range(option: str, made: Callable[[float, float], Any]) -> Callable[[str, str], Any]:
    def parse(key: str, text: str) -> Any:
        low, colon, high = text.partition(":")
        try:
            ends = (float(low), float(high))
        except ValueError:
            ends = (1.0, 0.0)
        least = 0.0 if option == "--loguniform" else float("-inf")
        if not colon or not least < ends[0] < ends[1] < float("inf"):
            positive = "positive " if least == 0.0 else ""
            raise UserError(f"got {option} {key}={text}; want two {positive}numbers low:high; correct it")
        return made(*ends)

    return parse
