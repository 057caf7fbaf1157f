"""Are the motions of an evaluation still natural? Its sentinels against a band that honest evaluations stay in.

    of_unit        every sentinel of a unit's motions, one number per row
    statistics     their means over an evaluation
    judge          the tuned model's means over the base's, on the same prompts and noise, against the bands
    exact_kl       how far the tuned policy is from its base

Sentinels are never optimised, so a reward that was gamed instead of earned shows in them. A statistic is the logarithm
of (tuned + floor) / (base + floor), the means being over motions and `floor` a smallness in the sentinel's own unit.
Its band was measured on honest evaluations alone (`jobs/sentinels.py`, docs/sentinels.md) and widens with fewer
prompts: [low - z sigma / sqrt(P), high + z sigma / sqrt(P)], where sigma is over prompts and z shares 5 % of false
alarms among all sentinels (Bonferroni).

Legend: B rows of a unit (prompt-major), P prompts, M samples per prompt, F frames, J joints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.evaluation.diversity import diversity_P
from rl_motion.motion.joints import motion_joints
from rl_motion.motion.sentinels import measures_of
from rl_motion.protocols import MotionPolicy
from rl_motion.types import Motions, Trajectory

FLOORS: Mapping[str, float] = {
    "bone_drift": 0.005,
    "bone_wobble": 0.005,
    "body_size": 0.01,
    "jerk": 10.0,
    "ankle_tremor": 0.5,
    "ankle_shake": 5.0,
    "root_jolt": 1.0,
    "energy": 0.02,
    "travel": 0.02,
    "foot_skate": 0.02,
    "floating": 0.005,
    "penetration": 0.002,
    "velocity_gap": 0.02,
    "rotation_gap": 0.01,
    "velocity_tremor": 1.0,
    "rotation_tremor": 0.5,
    "diversity": 0.002,
    "spread": 0.005,
    "twins": 5.0,
    "copies": 2.0,
}
"""By sentinel, in its unit: a change of this size from nothing counts as a factor of two. Also the order of reports."""
TWO_SIDED = frozenset({"body_size", "energy", "travel", "diversity", "spread"})
"""Too little of these is as bad as too much; of the others, less is better."""
TWIN_M, COPY_M = 0.005, 0.02
"""Motions of one prompt, and of two, that are this close count half as much as equal ones."""
KL = "kl"
"""The exact KL, judged by a limit of its own: the base's is 0."""
FALSE_ALARMS = 0.05
"""Share of honest evaluations that may be flagged, all sentinels together."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """An evaluation's sentinels: means over motions by name, of that many prompts."""

    means: Mapping[str, float]
    prompts: int


@dataclass(frozen=True, slots=True)
class Band:
    """Where the log ratio of a sentinel lies in honest evaluations of endless prompts; `sigma` is over prompts."""

    low: float
    high: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Bands:
    """Those of one world: by sentinel, and the largest exact KL of an honest run (None: it is not judged).

    The packaged ones have none: it depends on `policy.log_prob`, on the steps that count and on how long a run is.
    """

    world: str
    fps: float
    bands: Mapping[str, Band]
    kl: float | None

    def at(self, name: str, prompts: int) -> tuple[float, float]:
        """The (low, high) ratio of a sentinel that so many prompts allow; low is 0 where less is better."""
        band = self.bands[name]
        z = NormalDist().inv_cdf(1.0 - FALSE_ALARMS / (2 * len(self.bands)))
        wider = z * band.sigma / math.sqrt(max(prompts, 1))
        return math.exp(band.low - wider) if name in TWO_SIDED else 0.0, math.exp(band.high + wider)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A sentinel that left its band: means of tuned and base, their ratio, and what the ratio may be."""

    name: str
    tuned: float
    base: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """In words, for logs and reports."""
        if self.name == KL:
            return f"kl is {self.tuned:.3g}; honest runs stay below {self.high:.3g}"
        return (
            f"{self.name} is {self.tuned:.3g}, the base's {self.base:.3g}: {self.ratio:.2f} times; honest ones are "
            f"{self.low:.2f} to {self.high:.2f} times"
        )

    def as_dict(self) -> dict[str, Any]:
        """The form of report.json."""
        return asdict(self)


def of_unit(motions: Motions, samples_per_prompt: int) -> dict[str, Tensor]:
    """Every sentinel of a unit's motions [B], float, by name.

    Beside those of single motions: `diversity`, the mean distance in metres between two samples of the row's prompt
    (left out with one sample), and `spread`, that between the row and the same sample of the unit's other prompts
    (left out with one prompt): one motion for every prompt has none. A few prompts with very different samples hide the
    others in a mean of distances, so nearness is measured too, in 1/m: `twins` is 1 / (diversity + 5 mm), `copies` is
    1 / (distance to the nearest motion of another prompt + 2 cm).

    Args:
        motions: un-normalised, prompt-major.
        samples_per_prompt: M.
    """
    joints_BFJ3 = motion_joints(motions)
    found = measures_of(motions)
    diversity = diversity_P(joints_BFJ3, motions.length_B, samples_per_prompt)
    if diversity is not None:
        found["diversity"] = diversity.repeat_interleave(samples_per_prompt)
        found["twins"] = 1.0 / (found["diversity"] + TWIN_M)
    others = to_other_prompts(joints_BFJ3, motions.length_B, samples_per_prompt)
    if others is not None:
        found["spread"], nearest_B = others
        found["copies"] = 1.0 / (nearest_B + COPY_M)
    return found


def to_other_prompts(joints_BFJ3: Tensor, length_B: Tensor, samples_per_prompt: int) -> tuple[Tensor, Tensor] | None:
    """(mean, least) distance [B] in metres between a motion and the same sample of every other prompt.

    The mean over frames and joints, centred on the root as `diversity_P` is, over the frames that both have. None where
    there is one prompt.

    Args:
        joints_BFJ3: prompt-major, joint 0 is the root.
        length_B: valid frames.
        samples_per_prompt: M.
    """
    prompts = len(joints_BFJ3) // samples_per_prompt
    if prompts < 2:
        return None
    centred_PMFJ3 = (joints_BFJ3 - joints_BFJ3[:, :, :1]).unflatten(0, (prompts, samples_per_prompt))
    length_PM = length_B.view(prompts, samples_per_prompt).to(joints_BFJ3.device)
    frames_F = torch.arange(joints_BFJ3.shape[1], device=joints_BFJ3.device)
    found = []
    for shift in range(1, prompts):
        distance_PMF = (centred_PMFJ3 - centred_PMFJ3.roll(shift, 0)).norm(dim=-1).mean(-1)
        shared_PM = torch.minimum(length_PM, length_PM.roll(shift, 0))
        inside_PMF = frames_F < shared_PM[..., None]
        found.append(distance_PMF.where(inside_PMF, 0.0).sum(-1) / shared_PM.clamp(min=1))
    distance_OB = torch.stack(found).flatten(1)
    return distance_OB.mean(0), distance_OB.amin(0)


def statistics(units: Iterable[Mapping[str, Tensor]], prompts: int) -> Statistics:
    """Means over the rows of all units; a sentinel that a unit lacks is the mean of the others."""
    columns: dict[str, list[Tensor]] = {}
    for unit in units:
        for name, value_B in unit.items():
            columns.setdefault(name, []).append(value_B.double())
    return Statistics({name: torch.cat(parts).mean().item() for name, parts in columns.items()}, prompts)


def log_ratio(name: str, tuned: float, base: float) -> float:
    """The statistic that a band is of."""
    return math.log((tuned + FLOORS[name]) / (base + FLOORS[name]))


def judge(tuned: Statistics, base: Statistics, bands: Bands) -> list[Alarm]:
    """Every sentinel that left its band, farthest first; what either side lacks is not judged.

    Args:
        tuned: the model that may be gaming its reward; `kl` among its means is its exact KL to the base.
        base: on the same prompts with the same noise.
        bands: of the world that the motions are of.
    """
    alarms = []
    for name in [name for name in bands.bands if name in tuned.means and name in base.means]:
        ratio = math.exp(log_ratio(name, tuned.means[name], base.means[name]))
        low, high = bands.at(name, min(tuned.prompts, base.prompts))
        # Not finite is never natural; `not <=` sees NaN.
        if not low <= ratio <= high:
            alarms.append(Alarm(name, tuned.means[name], base.means[name], ratio, low, high))
    far = sorted(alarms, key=lambda alarm: -_outside(alarm))
    kl = tuned.means.get(KL)
    if bands.kl is not None and kl is not None and not kl <= bands.kl:
        far.append(Alarm(KL, kl, 0.0, kl / bands.kl, 0.0, bands.kl))
    return far


def _outside(alarm: Alarm) -> float:
    """How far, as a factor's logarithm."""
    if alarm.ratio > alarm.high:
        return math.log(alarm.ratio / alarm.high)
    return math.log(alarm.low / alarm.ratio) if alarm.ratio < alarm.low else math.inf


def exact_kl(policy: MotionPolicy, trajectory: Trajectory) -> float:
    """The policy's exact KL to its base (adapter off) on a trajectory: the mean over the steps that its rows have."""
    with torch.no_grad():
        kl_BS = policy.replay(trajectory).kl(policy.replay(trajectory, adapter=False))
    return float(kl_BS.sum() / trajectory.drawn_BS.sum())


PACKAGED = "motion/sentinel_bands.json"


@cache
def packaged_bands() -> Mapping[str, Bands]:
    """Those that the package brings, by world."""
    return read_bands(Path(str(files("rl_motion") / PACKAGED)))


def bands_of(name: str) -> Bands:
    """The bands of a world: packaged ones by its name, others as `FILE.json:WORLD`.

    Raises:
        UserError: there are none.
    """
    path, _, world = name.rpartition(":")
    known = read_bands(Path(path)) if path else packaged_bands()
    if world not in known:
        raise UserError(
            f"got sentinels.bands={name!r}, where there are none; want one of {sorted(known)}; name one, or calibrate "
            "bands of its own: python jobs/sentinels.py calibrate"
        )
    return known[world]


def bands_at(name: str | None, fps: float) -> Bands | None:
    """The bands that a job names, if they are of motion at this rate; None otherwise, and where it names none.

    Raises:
        UserError: there are none of that name.
    """
    found = bands_of(name) if name else None
    return found if found and found.fps == fps else None


def read_bands(path: Path) -> dict[str, Bands]:
    """Bands by world, from a file that `jobs/sentinels.py` wrote.

    Raises:
        UserError: the file cannot be read, or its numbers are no bands.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        found = {
            world: Bands(
                world,
                float(told["fps"]),
                {name: Band(**band) for name, band in told["bands"].items()},
                None if told["kl"] is None else float(told["kl"]),
            )
            for world, told in tree.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"got {path}, which has no bands of sentinels ({error}); want a file of `python jobs/sentinels.py "
            "calibrate`; write it again"
        ) from None
    for world, bands in found.items():
        for name, band in bands.bands.items():
            if name not in FLOORS or not (band.low <= 0.0 <= band.high and 0.0 <= band.sigma < math.inf):
                raise UserError(
                    f"{path}: got band {name!r} = {band} of {world!r}; want a sentinel of {list(FLOORS)} with low <= 0 "
                    "<= high and a sigma of 0 or more; calibrate again"
                )
    return found


def write_bands(path: Path, worlds: Mapping[str, Bands]) -> None:
    """The file that `read_bands` reads; numbers rounded to four digits."""
    tree = {
        world: {
            "fps": bands.fps,
            "kl": bands.kl,
            "bands": {n: {k: round(v, 4) for k, v in asdict(band).items()} for n, band in bands.bands.items()},
        }
        for world, bands in worlds.items()
    }
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
