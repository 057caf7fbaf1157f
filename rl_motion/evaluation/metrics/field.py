"""The field's table: every metric over R replications, base beside tuned, real motion beside both.

Replication r is sample r of every prompt. All arms are compared on the same rows: the same batches, pairs and halves of
the real motion, so that differences between arms are paired.

    real motion   = two disjoint halves, drawn anew in every replication, with as many motions of an action as prompts
    FID of an arm = its motions against the first half
    FID of `real` = the second half against the first: the floor, what a perfect model would get

Legend: P prompts, R replications, C channels of an embedding, N real motions, K motions of a half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_motion.evaluation.metrics import diversity as over_all
from rl_motion.evaluation.metrics import fid as frechet
from rl_motion.evaluation.metrics import multimodal_distance as matching
from rl_motion.evaluation.metrics import multimodality as within_prompt
from rl_motion.evaluation.metrics import r_precision as precision
from rl_motion.evaluation.statistics import Estimate, bootstrap_mean

Floats = NDArray[np.floating]
Rows = NDArray[np.intp]

REAL, DIFFERENCE, NOT_MEASURED = "real", "difference", "not_measured"
FLOOR_DRAWS = 20
"""Halvings of the real motion behind the floor, or one a replication where those are more."""
CONVENTIONS = [
    frechet.CONVENTION,
    precision.CONVENTION,
    matching.CONVENTION,
    over_all.CONVENTION,
    within_prompt.CONVENTION,
    "field: replication r is sample r of every prompt; values are means over replications, with 1.96 standard "
    "deviations (ddof 0) over the root of their number, which is the field's interval: it says how sure they are for "
    "other samples of these prompts, not for other prompts, and is too narrow with few replications; null with one",
    f"field real: other real motion in the place of the model's, {FLOOR_DRAWS} draws or one a replication; its fid is "
    "the floor. Real motion is matched to the prompts by action",
]


@dataclass(frozen=True, slots=True)
class RealEmbeddings:
    """Real motion of a split under the evaluator: motions and their own captions [N, C], and the action of each."""

    motion_NC: Floats
    text_NC: Floats
    groups_N: Sequence[str]


@dataclass(frozen=True, slots=True)
class Halves:
    """One draw of disjoint real rows, each half matched to `prompts_K` by action."""

    prompts_K: Rows
    first_K: Rows
    second_K: Rows


@dataclass(frozen=True, slots=True)
class Draws:
    """Which rows are compared, the same in every arm: of each replication its batches, its pairs of motions and its
    halves; and the pairs of replicates."""

    order_RP: Sequence[Rows]
    pairs_R: Sequence[over_all.Pairs]
    replicates: over_all.Pairs
    halves_R: Sequence[Halves]


def field_metrics(
    arms: Mapping[str, Floats],
    text_PC: Floats,
    groups_P: Sequence[str],
    real: RealEmbeddings | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Every metric of every arm with its interval, and the paired differences of the later arms from the first.

    Args:
        arms: by name, embeddings of their motions [R, P, C]; the first is what the others are compared with.
        text_PC: embeddings of the prompts.
        groups_P: the prompts' actions, by which real motion is matched to them; all alike where there are none.
        real: None where there is no real motion.
        seed: of every draw.

    Returns:
        {arm: {metric: {value, low, high, n}}}, of `fid` with its `floor` beside it; `real` as an arm; `difference` (of
        the second arm from the first) and `difference_ARM` (of others) in the same form; and `not_measured`: what is
        missing -> why.

    Raises:
        ValueError: arms of different shapes, or embeddings that are not finite.
    """
    replications, prompts = _checked(arms, text_PC)
    rng = np.random.default_rng(seed)
    halves = [] if real is None else draw_halves(groups_P, real.groups_N, max(replications, FLOOR_DRAWS), rng)
    draws = Draws(
        [rng.permutation(prompts) for _ in range(replications)],
        [over_all.draw_pairs(prompts, over_all.PAIRS, rng) for _ in range(replications)],
        within_prompt.draw(replications, rng),
        halves,
    )
    measured = {arm: _measure(motion_RPC, text_PC, real, draws) for arm, motion_RPC in arms.items()}
    counts = _counts(prompts, halves)
    found: dict[str, Any] = {arm: _estimates(values, counts, seed) for arm, values in measured.items()}
    if real is not None and halves:
        found[REAL] = _estimates(_real(real, halves, rng), _counts(len(halves[0].second_K), halves), seed)
        for arm in arms:
            found[arm]["fid"]["floor"] = found[REAL]["fid"]
    first, *others = arms
    for arm in others:
        apart = {name: values - measured[first][name] for name, values in measured[arm].items()}
        name = DIFFERENCE if arm == others[0] else f"{DIFFERENCE}_{arm}"
        found[name] = _estimates(apart, counts, seed)
    return found | {NOT_MEASURED: _missing(replications, prompts, real, halves)}


def draw_halves(prompts_P: Sequence[str], real_N: Sequence[str], draws: int, rng: np.random.Generator) -> list[Halves]:
    """Disjoint halves of the real motion, both with as many motions of an action as there are prompts of it, or as its
    real motions suffice for; then as many prompts are drawn. Empty where that leaves fewer than two a half."""
    of_prompts, of_real = _by_group(prompts_P), _by_group(real_N)
    found = []
    for _ in range(draws):
        parts: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
        for group, rows in of_prompts.items():
            own = rng.permutation(of_real.get(group, np.empty(0, np.intp)))
            count = min(len(rows), len(own) // 2)
            chosen = rows if count == len(rows) else np.sort(rng.permutation(rows)[:count])
            for part, taken in zip(parts, (chosen, own[:count], own[count : 2 * count]), strict=True):
                part.append(taken)
        halves = Halves(*(np.concatenate(part) for part in parts))
        if len(halves.first_K) < 2:
            return []
        found.append(halves)
    return found


def estimate(values_R: Floats, n: int) -> Estimate:
    """Mean with 1.96 standard deviations (ddof 0) over the root of R: `get_metric_statistics` of the official code."""
    mean = float(values_R.mean())
    if len(values_R) < 2:
        return Estimate(mean, None, None, n)
    half = 1.96 * float(values_R.std()) / len(values_R) ** 0.5
    return Estimate(mean, mean - half, mean + half, n)


def _checked(arms: Mapping[str, Floats], text_PC: Floats) -> tuple[int, int]:
    """R and P, the same in all arms."""
    shape = next(iter(arms.values())).shape
    for arm, motion_RPC in arms.items():
        if motion_RPC.shape != shape or motion_RPC.ndim != 3 or motion_RPC.shape[1:] != text_PC.shape:
            raise ValueError(
                f"got {motion_RPC.shape} embeddings of arm {arm!r} and {text_PC.shape} of its texts; want [R, P, C], "
                "alike in every arm, and [P, C]; embed the same prompts and samples"
            )
        if not np.isfinite(motion_RPC).all() or not np.isfinite(text_PC).all():
            raise ValueError(f"got embeddings of arm {arm!r} that are not finite; want finite ones; mend the evaluator")
    return shape[0], shape[1]


def _measure(motion_RPC: Floats, text_PC: Floats, real: RealEmbeddings | None, draws: Draws) -> dict[str, Floats]:
    """Of one arm: each metric's value in every replication; of multimodality its value for every prompt."""
    rows: list[dict[str, float]] = []
    for motion_PC, order_P, pairs in zip(motion_RPC, draws.order_RP, draws.pairs_R, strict=True):
        values = _matched(text_PC, motion_PC, order_P, pairs)
        if real is not None and draws.halves_R:
            halves = draws.halves_R[len(rows)]
            values["fid"] = frechet.fid(real.motion_NC[halves.first_K], motion_PC[halves.prompts_K])
        rows.append(values)
    measured = _columns(rows)
    if len(motion_RPC) > 1:
        measured["multimodality"] = within_prompt.multimodality_P(motion_RPC.swapaxes(0, 1), draws.replicates)
    return measured


def _missing(replications: int, prompts: int, real: RealEmbeddings | None, halves: Sequence[Halves]) -> dict[str, str]:
    found = {}
    if real is None:
        found["fid"] = "there is no real motion of this split"
    elif not halves:
        found["fid"] = f"the {len(real.motion_NC)} real motions do not make two halves with the prompts' actions"
    if prompts < precision.BATCH:
        found["r_precision"] = f"{prompts} prompts are no batch of {precision.BATCH}; raise evaluation.prompts"
    if replications < 2:
        found["multimodality"] = "one motion per prompt has none; raise evaluation.samples_per_prompt"
    return found


def _matched(text_PC: Floats, motion_PC: Floats, order_P: Rows, pairs: over_all.Pairs) -> dict[str, float]:
    """What needs no real motion: texts against their motions, and motions against one another."""
    values = {
        "multimodal_distance": matching.multimodal_distance(text_PC, motion_PC),
        "diversity": over_all.diversity(motion_PC, pairs),
    }
    tops = precision.r_precision_K(text_PC, motion_PC, order_P)
    if tops is not None:
        values |= {f"r_precision_{top}": value for top, value in zip(precision.TOPS, tops, strict=True)}
    return values


def _real(real: RealEmbeddings, halves: Sequence[Halves], rng: np.random.Generator) -> dict[str, Floats]:
    """The metrics of each draw's second half, with its own captions, in the place of a model's motions."""
    rows = []
    for draw in halves:
        text_KC, motion_KC = real.text_NC[draw.second_K], real.motion_NC[draw.second_K]
        order, spread = rng.permutation(len(motion_KC)), over_all.draw_pairs(len(motion_KC), over_all.PAIRS, rng)
        values = _matched(text_KC, motion_KC, order, spread)
        rows.append(values | {"fid": frechet.fid(real.motion_NC[draw.first_K], motion_KC)})
    return _columns(rows)


def _counts(motions: int, halves: Sequence[Halves]) -> dict[str, int]:
    """Motions (or texts) of one replication behind each metric."""
    whole = motions // precision.BATCH * precision.BATCH
    return {
        "fid": len(halves[0].first_K) if halves else 0,
        "multimodal_distance": motions,
        "diversity": motions,
        "multimodality": motions,
        **{f"r_precision_{top}": whole for top in precision.TOPS},
    }


def _estimates(values: Mapping[str, Floats], counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    return {name: _estimate(name, value, counts[name], seed).as_dict() for name, value in values.items()}


def _estimate(name: str, values: Floats, n: int, seed: int) -> Estimate:
    """Over prompts where all replications make one value (multimodality), over replications else."""
    if name == "multimodality":
        return bootstrap_mean(values, [str(prompt) for prompt in range(len(values))], seed=seed)
    return estimate(values, n)


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _by_group(groups: Sequence[str]) -> dict[str, Rows]:
    found: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return {group: np.array(rows, np.intp) for group, rows in found.items()}
