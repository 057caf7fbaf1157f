"""The jobs at the papers' settings: "No MoCap Needed", section 5, on the schedules of the published models."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_motion.config import ScheduleConfig
from rl_motion.config.load import load_job
from rl_motion.policies.diffusion import policy_tables

JOBS = Path(__file__).resolve().parents[2] / "jobs" / "papers"
PUBLISHED = {
    "stablemofusion": (ScheduleConfig(betas="linear", timesteps=1000), 2.5),
    "mdm": (ScheduleConfig(betas="cosine", timesteps=50), 2.5),
    "mdm-smpl": (ScheduleConfig(betas="cosine", timesteps=100), 5.0),
}


def test_every_model_of_the_paper_has_its_job() -> None:
    assert {path.stem for path in JOBS.glob("*.yaml")} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_papers_and_the_steps_fit_the_models_schedule(name: str) -> None:
    job, (schedule, guidance) = load_job(str(JOBS / f"{name}.yaml")), PUBLISHED[name]
    train = job.train
    assert (job.name, job.policy.guidance_scale, job.policy.steps) == (name, guidance, 10)
    assert (train.prompts_per_iteration, train.samples_per_prompt, train.iterations) == (64, 4, 30_000)
    assert (job.algorithm.inner_epochs, job.adapter.rank) == (4, 4)
    called = policy_tables(schedule, job.policy).timestep_K
    assert len(set(called)) == len(called) == 10


def test_stablemofusion_is_called_at_its_own_timesteps() -> None:
    job = load_job(str(JOBS / "stablemofusion.yaml"))
    assert policy_tables(PUBLISHED["stablemofusion"][0], job.policy).timestep_K == (
        999, 937, 864, 775, 663, 511, 301, 102, 18, 0,
    )  # fmt: skip
