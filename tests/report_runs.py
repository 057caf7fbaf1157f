"""Folders of finished runs without a model: a report, rows, measured motions and their joints, as an evaluation leaves
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rl_motion.config import EvaluationConfig, Job, TrackingConfig, TrainConfig
from rl_motion.config.load import dump_job
from rl_motion.evaluation.evaluate import Motion, Record
from rl_motion.evaluation.stored import files_of
from rl_motion.tracking.files import write_together
from rl_motion.types import Prompt

HOSTILE = "a <script>alert(1)</script> | man `walks` ](x)"
SPLITS = ("held_out", "original", "train")
PROMPTS = 8


def estimate(value: float, half: float = 0.05, n: int = 16) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def report(gain: float = 0.1, half: float = 0.05, *, seed: int = 0, field: bool = True) -> dict[str, Any]:
    """The base is at .5 on everything, the tuned one better by `gain`, with intervals of +-half."""
    arms = {
        name: {split: {"oracle_success": estimate(value, half), "reward": estimate(value, half)} for split in SPLITS}
        for name, value in (("base", 0.5), ("tuned", 0.5 + gain), ("difference", gain))
    }
    compared = {"base": 1.0, "tuned": 1.1, "ratio": estimate(1.1)}
    found = {
        **arms,
        "sentinels": {
            split: {
                "jerk": compared | {"low": 0.8, "high": 1.25, "within": True},
                "float": dict(compared),
                "bone_drift": None,
            }
            for split in SPLITS
        },
        "diversity": dict.fromkeys(SPLITS, compared),
        "classes": {split: {"walk": {"base": 0.5, "tuned": 0.6, "n": 8, "prompts": 4}} for split in SPLITS},
        "evaluation": {
            "prompts": dict.fromkeys(SPLITS, PROMPTS),
            "samples_per_prompt": 2,
            "seed": 1,
            "rewards": {"tmr": 1.0},
        },
        "not_judged": {},
        "conventions": ["reward: of clean motions", HOSTILE],
        "adapter_sha256": f"{seed:064x}",
        "seed": seed,
        "wall_s": 60.0,
        "warnings": [],
    }
    if field:
        fid = {"base": 2.0, "tuned": 2.0 - gain, "real": 0.1, "difference": -gain}
        spread = {"base": 5.0, "tuned": 5.0 + gain, "real": 6.0, "difference": gain}
        of = {arm: {"fid": estimate(fid[arm], half), "diversity": estimate(spread[arm], half)} for arm in fid}
        judged = {"evaluator": {"auc": estimate(0.9)}, "tmr": {"auc": estimate(0.8), "within_success": estimate(0.4)}}
        found["agreement"] = {"held_out": {"base": judged, "tuned": judged}}
        found["field"] = {"held_out": {**of, "not_measured": {"r_precision": "8 prompts are no batch of 32"}}}
    return found


def prompts() -> list[Prompt]:
    texts = [HOSTILE, *(f"a man walks {n} steps" for n in range(1, PROMPTS))]
    return [Prompt(f"id{n}", text, 5, "walk" if n % 2 else "wave") for n, text in enumerate(texts)]


def records() -> list[Record]:
    """Prompt n's success rises by (n - 4) / 8 and its reward by n / 8, whatever the sample."""
    return [
        Record(
            split="held_out",
            arm=arm,
            prompt=prompt,
            sample=sample,
            oracle_success=0.5 + (arm == "tuned") * (n - 4) / 8,
            reward=sample + (arm == "tuned") * n / 8,
            diversity=0.1,
            sentinels={"jerk": 1.0},
        )
        for arm in ("base", "tuned")
        for n, prompt in enumerate(prompts())
        for sample in range(2)
    ]


def motions(shift: float = 0.0) -> list[Motion]:
    """Prompt n's figure stands at x = n, a tuned one a metre higher; each with noise of its own."""
    rng = np.random.default_rng(0)
    return [
        Motion(
            "held_out",
            prompt.id,
            12.5,
            {
                arm: (np.float32(up) + shift + n + rng.normal(scale=0.05, size=(5 + n % 2, 22, 3))).astype(np.float32)
                for arm, up in (("base", 0.0), ("tuned", 1.0))
            },
        )
        for n, prompt in enumerate(prompts())
    ]


def job(name: str = "toy", seed: int = 0, **changes: Any) -> Job:
    return Job(
        name=name,
        train=TrainConfig(seed=seed, **changes),
        evaluation=EvaluationConfig(prompts=PROMPTS, samples_per_prompt=2, seed=1),
        tracking=TrackingConfig(mlflow_uri=None),
    )


def make_run(folder: Path, of: Job | None = None, *, kept: bool = True, shift: float = 0.0, **changes: Any) -> Path:
    """A finished run; `changes` are those of `report`."""
    of = of or job()
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(dump_job(of))
    (folder / "report.json").write_text(json.dumps(report(seed=of.train.seed, **changes)))
    lines = [{"iteration": i, "reward/total": 0.1 * i, "validation/reward": 0.1 * i} for i in range(3)]
    lines = [line | {"validation/reward_low": 0.0, "validation/reward_high": 1.0} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if kept:
        write_together(files_of(folder, records(), motions(shift)))
    return folder
