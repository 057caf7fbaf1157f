"""From measurements to tables: metrics over replications, ours over seeds, relative gains beside the paper's.

Legend: P prompts, R replications (sample r of every prompt), N real motions, C channels, K captions to tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import BATCH, Measured
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.evaluation.metrics import CONVENTIONS as FIELD
from rl_motion.evaluation.metrics import RealEmbeddings, field_metrics
from rl_motion.evaluation.metrics.field import REAL, estimate
from rl_motion.evaluation.metrics.r_precision import TOPS
from rl_motion.evaluation.over_runs import student_mean
from rl_motion.evaluation.statistics import Estimate

METRICS = {
    "r_precision_1": "R@1 ↑",
    "r_precision_2": "R@2 ↑",
    "r_precision_3": "R@3 ↑",
    "fid": "FID ↓",
    "multimodal_distance": "MM Dist ↓",
    "diversity": "Diversity →",
    "multimodality": "MModality ↑",
    "success": "oracle, % ↑",
    "reward": "reward",
}
"""Columns, with the arrows of the paper; the last two are not in it."""
ABSOLUTE = {"success", "reward"}
"""Whose change is a difference."""
CONVENTIONS = (
    *FIELD,
    f"r_precision on one action alone: share of motions whose own caption is among the nearest of {BATCH} captions, "
    "one a combination, the action's other combinations among them; a batch of one action's captions would hold each "
    "combination many times",
    "oracle: share of motions that do what their caption says by the world's rules; no reward, no model. reward: the "
    "one that was optimised, for comparison only",
    "ours: mean over training seeds with Student's 95 % interval. Changes: of each seed against the same base, same "
    "prompts and noise, relative (of the oracle in points), with Student's 95 % interval over seeds: they say nothing "
    "of other bases",
)

Floats = NDArray[np.floating]
Figures = dict[str, Estimate]
"""Of one arm, by metric."""


def figures(arms: Mapping[str, Measured], real: Measured, seed: int) -> dict[str, Figures]:
    """Every metric of every arm, and of real motion as `real`, on the same draws; what cannot be measured is left out.

    Raises:
        UserError: the arms do not start from the same noise.
    """
    starts = {arm.start_sha256 for arm in arms.values()}
    if len(starts) > 1:
        raise UserError(
            f"got the arms {sorted(arms)} with {len(starts)} kinds of noise; want the same prompts and noise for all; "
            "measure them again in one --out"
        )
    first = next(iter(arms.values()))
    embedded = RealEmbeddings(real.motion, real.text, real.groups)
    motion = {name: arm.motion for name, arm in arms.items()}
    found = field_metrics(motion, first.text, first.groups, embedded, seed=seed)
    # Too little real motion has no halves, and no row.
    rows = {name: _estimates(found.get(name, {})) for name in (*arms, REAL)}
    for name, arm in arms.items():
        for metric, values_RP in (("success", arm.success), ("reward", arm.reward)):
            if values_RP is not None:
                rows[name][metric] = estimate(values_RP.mean(axis=1), values_RP.shape[1])
        if arm.others is not None:
            shares_RK = np.array([nearest_K(motion_PC, arm.text, arm.others) for motion_PC in arm.motion])
            rows[name] |= {f"r_precision_{top}": estimate(shares_RK[:, k], len(arm.text)) for k, top in enumerate(TOPS)}
    if real.success is not None:
        rows[REAL]["success"] = Estimate(float(real.success.mean()), None, None, len(real.success))
    if real.others is not None:
        shares_K = nearest_K(real.motion, real.text, real.others)
        rows[REAL] |= {
            f"r_precision_{top}": Estimate(shares_K[k], None, None, len(real.text)) for k, top in enumerate(TOPS)
        }
    return rows


def nearest_K(motion_PC: Floats, text_PC: Floats, others_PKC: Floats) -> list[float]:
    """Share of motions whose own caption is among the 1, 2, 3 nearest of its own and the others; a tie counts as the
    average of its ranks."""
    own_P = np.linalg.norm(motion_PC - text_PC, axis=-1)
    other_PK = np.linalg.norm(motion_PC[:, None] - others_PKC, axis=-1)
    rank_P = (other_PK < own_P[:, None]).sum(axis=1) + (other_PK == own_P[:, None]).sum(axis=1) / 2
    return [float((rank_P < top).mean()) for top in TOPS]


def change(metric: str, base: Figures, ours: Sequence[Figures]) -> Estimate:
    """How far the seeds come from the base: relative (the base is not zero); of oracle and reward absolute."""
    before = base[metric].value
    scale = 1.0 if metric in ABSOLUTE else before
    return student_mean([(seed[metric].value - before) / scale for seed in ours])


@dataclass(frozen=True, slots=True)
class Table:
    """One table: real motion, models of one measurement each (base last), and ours, one a seed.

    paper: relative change of the paper by metric, in words, and where it stands.
    """

    title: str
    examined: str
    real: Figures
    models: Mapping[str, Figures]
    ours: Mapping[int, Figures]
    paper: Mapping[str, str]
    paper_source: str

    @property
    def base(self) -> Figures:
        """What ours started from."""
        return list(self.models.values())[-1]

    @property
    def metrics(self) -> list[str]:
        """The columns: what the base has, in order."""
        return [name for name in METRICS if name in self.base]

    @property
    def over_seeds(self) -> Figures:
        """Ours, by metric."""
        return {name: student_mean([seed[name].value for seed in self.ours.values()]) for name in self.metrics}

    def changes(self, against: Figures | None = None) -> dict[str, Estimate]:
        """Of ours, by metric, against the base or another model; of zero there is no relative change."""
        ours, before = list(self.ours.values()), against or self.base
        return {n: change(n, before, ours) for n in self.metrics if n in ABSOLUTE or before[n].value != 0.0}

    def as_dict(self) -> dict[str, Any]:
        """For the results' JSON."""
        return {
            "title": self.title,
            "examined": self.examined,
            "real": _as_dicts(self.real),
            "models": {name: _as_dicts(found) for name, found in self.models.items()},
            "ours": _as_dicts(self.over_seeds),
            "ours_by_seed": {
                str(seed): {name: found[name].value for name in self.metrics} for seed, found in self.ours.items()
            },
            "change": _as_dicts(self.changes()),
            "change_against": {name: _as_dicts(self.changes(found)) for name, found in list(self.models.items())[:-1]},
            "paper": dict(self.paper),
            "paper_source": self.paper_source,
        }

    def lines(self) -> Iterator[str]:
        """As Markdown."""
        yield f"### {self.title}\n"
        yield f"{self.examined}\n"
        yield f"| | {' | '.join(METRICS[name] for name in self.metrics)} |"
        yield "| --- |" + " --- |" * len(self.metrics)
        yield self._line("ground truth (FID: floor)", self.real)
        for name, found in self.models.items():
            yield self._line(name, found)
        yield self._line(f"**ours** ({len(self.ours)} seeds)", self.over_seeds)
        against = {"base": None} | dict(list(self.models.items())[:-1])
        for name, found in against.items():
            changes = self.changes(found)
            cells = [relative(metric, changes[metric]) if metric in changes else "–" for metric in self.metrics]
            yield f"| ours against the {name} | {' | '.join(cells)} |"
        if self.paper:
            cells = [self.paper.get(metric, "") for metric in self.metrics]
            yield f"| the paper, its ours against its base | {' | '.join(cells)} |"
        yield f"\n{self._in_words()}"
        if "multimodal_distance" in self.base and "fid" not in self.real:
            yield "No FID and no floor: there is too little real motion for two halves with the prompts' actions."
        if self.paper_source:
            yield f"Paper: {self.paper_source}."

    def _line(self, name: str, row: Mapping[str, Estimate]) -> str:
        return f"| {name} | {' | '.join(shown(m, row[m]) if m in row else '–' for m in self.metrics)} |"

    def _in_words(self) -> str:
        unclear = [
            METRICS[name].rstrip(" ↑↓→").removesuffix(", %") for name, e in self.changes().items() if not is_shown(e)
        ]
        if len(self.ours) < 2:
            return "One seed: no interval, and nothing is shown."
        return (
            f"No difference between ours and the base that {len(self.ours)} seeds can show: {', '.join(unclear)}."
            if unclear
            else f"Every difference between ours and the base is one that {len(self.ours)} seeds can show."
        )


def is_shown(estimate: Estimate) -> bool:
    """Whether the interval leaves out zero."""
    return estimate.low is not None and estimate.high is not None and not estimate.low <= 0.0 <= estimate.high


def shown(metric: str, estimate: Estimate) -> str:
    """A value with its interval."""
    scale, digits = (100, 1) if metric == "success" else (1, 3)
    value = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def relative(metric: str, estimate: Estimate) -> str:
    """A change with its interval: in %, of the oracle in points, of the reward as it is."""
    scale, digits, unit = (1, 3, "") if metric == "reward" else (100, 1, "" if metric == "success" else " %")
    value = f"{scale * estimate.value:+.{digits}f}{unit}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:+.{digits}f}, {scale * estimate.high:+.{digits}f}]"


def summary(tables: Sequence[Table]) -> Iterator[str]:
    """All relative changes in one table, ours above the paper's."""
    columns = [name for name in METRICS if name != "reward"]
    yield f"| relative change, ours against base | {' | '.join(METRICS[name] for name in columns)} |"
    yield "| --- |" + " --- |" * len(columns)
    for table in tables:
        changes = table.changes()
        cells = [relative(name, changes[name]) if name in changes else "–" for name in columns]
        yield f"| {table.title} | {' | '.join(cells)} |"
        if table.paper:
            yield f"| *the paper* | {' | '.join(table.paper.get(name, '') for name in columns)} |"


def _estimates(found: Mapping[str, Mapping[str, Any]]) -> Figures:
    return {metric: Estimate(e["value"], e["low"], e["high"], e["n"]) for metric, e in found.items()}


def _as_dicts(found: Figures) -> dict[str, Any]:
    return {metric: value.as_dict() for metric, value in found.items()}
