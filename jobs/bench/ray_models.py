"""Models for the parts that need real work: MDM in the shape of the authors' checkpoint, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rl_motion.config import Job, ScheduleConfig
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.text import TinyBertConfig, create_tiny_bert
from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint
from rl_motion.prompts.pool import PromptPool, make_prompt

MOTIONS = 8
"""Of a unit: two prompts, four samples of each."""
LEARNS = {"transitions": 2, "inner_epochs": 1}
"""As the packaged jobs."""
CAPTIONS = [f"a person walks number {number} and turns to the left" for number in range(64)]


def save_mdm(folder: Path, *, quick: bool) -> Path:
    """A checkpoint of MDM (17.9 M parameters, 512 channels, 8 layers), and a small text encoder as wide as CLIP's.

    `quick`: two layers of 64 channels.
    """
    text = folder / "text"
    create_tiny_bert(CAPTIONS, text, TinyBertConfig(hidden=64 if quick else 512))
    small: dict[str, Any] = {"latent_dim": 64, "ff_size": 128, "num_layers": 2, "text_dim": 64} if quick else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MDM(MDMConfig(**small, dropout=0.0, mask_frames=True))
    features = network.config.features
    space = MotionSpace(torch.zeros(features), torch.ones(features))
    config = CheckpointConfig(
        kind="mdm", network=network_shape(network), text_encoder="text", schedule=ScheduleConfig()
    )
    save_checkpoint(folder / "mdm", network, config, space)
    return folder / "mdm"


def mdm_job(model: Path, frames: int, *, units: int = 1, learns: Mapping[str, int] = LEARNS, **runtime: object) -> Job:
    """A job on MDM with one worker of each role and one thread each: ten steps, guidance as MDM's.

    Args:
        model: the checkpoint.
        frames: of every motion.
        units: of an iteration, which all make one optimiser step.
        learns: `transitions` of a trajectory and `inner_epochs`, passes over a unit.
        runtime: settings of that section.
    """
    return Job.model_validate(
        {
            "name": "bench",
            "model": {"name": str(model)},
            "policy": {"steps": 10, "guidance_scale": 2.5},
            "prompts": {"default_length": frames},
            "rewards": [{"name": "jerk", "weight": -1.0}],
            "algorithm": dict(learns),
            "train": {
                "iterations": 1,
                "prompts_per_iteration": 2 * units,
                "prompts_per_unit": 2,
                "samples_per_prompt": 4,
                "units_per_step": units,
            },
            "runtime": {"threads": 1, **runtime},
            "tracking": {"mlflow_uri": None},
        }
    )


def prompts(job: Job) -> PromptPool:
    """As many prompts as are ever asked for, of the job's length."""
    made = [make_prompt(caption, job.prompts.default_length) for caption in CAPTIONS]
    return PromptPool({"bench": made}, {"bench": 1.0}, job.train.seed)
