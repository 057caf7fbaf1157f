"""How much memory each stage takes: every figure from a process of its own, which does nothing else.

    python jobs/bench/memory.py --out bench            # four minutes; bench.py calls it

What is told is the high-water mark of the process's resident memory, in MB, before the stage (model and libraries
loaded) and after it. Whether a replay's memory grows with the number of steps is asked of MDM with 8 motions of 64
frames and a fixed `train.replay_rows` of one network call: what a stage adds at 20 steps over what it adds at 5. States
grow with the steps, whatever a replay does: they are told beside it. There glibc gives back at once what is freed: what
its heap keeps for later is as much as half of the rest, another share in every run, and hides what a replay holds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from apart import apart
from cases import STEPS as ALL_STEPS
from cases import Case, make_models
from goals import Goal
from ray_part import THREADS, Measured, Say, run_part

from rl_motion.config import RunFault
from rl_motion.types import Unit

FRAMES = 64
STEPS = (5, 20)
GROWTH = 1.1
"""Of what a stage adds: a tenth is the states', which are stored whatever a replay does."""
STAGES = ("rollout", "learner", "straightforward rollout", "straightforward learner")
_ONE = "one"
_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
"""glibc's settings: every block of this size is the system's again once it is freed."""


def high_water_mb() -> float:
    """The most memory that this process has had resident."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RunFault("got no VmHWM in /proc/self/status; want Linux; measure memory there")


def shortened(unit: Unit, frames: int) -> Unit:
    """The unit with motions of so many frames."""
    return replace(unit, prompts=tuple(replace(prompt, length=frames) for prompt in unit.prompts))


def run_stage(stage: str, kind: str, steps: int | None, models: Path) -> dict[str, float]:
    """Load, then do a stage once, in this process; `steps`: of the job, where replay has its memory bounded."""
    from arms import advantages, experience, whole_job
    from straightforward import PaddedText, Straightforward, library_adapter

    from rl_motion.models.zoo import load_denoiser
    from rl_motion.runtime.build import build_training

    case = Case(kind)  # type: ignore[arg-type]
    # A second pass takes no more memory, nor does a further transition where one is learned from at a time.
    job, unit = whole_job(case, models, 2 if stage == "straightforward learner" else ALL_STEPS, epochs=1), case.unit
    if steps is not None:
        unit = shortened(unit, FRAMES)
        bounded = {"replay_rows": 2 * unit.batch}
        changes = {"policy": job.policy.model_copy(update={"steps": steps})}
        job = job.model_copy(update=changes | {"train": job.train.model_copy(update=bounded)})
    if stage.startswith("straightforward"):
        denoiser = load_denoiser(job.model.name)
        library_adapter(denoiser.network, job.adapter)
        loop = Straightforward(denoiser, PaddedText(job.model.name), job)
        samples = loop.sample(unit) if "learner" in stage else None
        before = high_water_mb()
        if samples is None:
            samples = loop.sample(unit)
        else:
            loop.update(samples, advantages(unit))
        states = samples.latents_BTFD.nbytes
    else:
        training = build_training(job)
        learner: Any = training.learner
        trajectory = training.policy.rollout(unit) if stage == "learner" else None
        before = high_water_mb()
        if trajectory is None:
            trajectory = training.policy.rollout(unit)
        else:
            learner.step([experience(trajectory)])
        states = trajectory.states.nbytes
    after = high_water_mb()
    return {"loaded": before, "peak": after, "added": after - before, "states": states / 2**20}


def measured(stage: str, kind: str, models: Path, steps: int | None = None) -> dict[str, float]:
    """A stage in a process of its own; of so many steps, what it holds.

    Raises:
        RunFault: the process failed.
    """
    words = [_ONE, stage, "--kind", kind, "--models", str(models)]
    if steps is None:
        return apart("memory.py", f"{stage} of {kind}", *words)
    return apart("memory.py", f"{stage} of {kind}", *words, "--steps", str(steps), **_GIVEN_BACK)


app = typer.Typer(add_completion=False, no_args_is_help=False, help=__doc__, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="The benchmark's folder: OUT/parts/memory.json; OUT/models is kept.")
    ] = Path("bench"),
    quick: Annotated[bool, typer.Option("--quick", help="The embedded model alone, for tests.")] = False,
) -> None:
    """Measure the peak memory of rollout and learner, ours and the straightforward loop's, and whether it grows."""
    if context.invoked_subcommand is None:
        run_part("memory", out, quick, lambda quick, say: measure(out / "models", quick, say))


def measure(models: Path, quick: bool, say: Say) -> Measured:
    """Every stage of every model in a process of its own."""
    folder = models if quick else make_models(models)
    found: dict[str, Any] = {}
    for kind in ("embedded",) if quick else ("mdm", "unet"):
        for stage in STAGES[:2] if quick else STAGES:
            say(f"{stage} of {kind}")
            found.setdefault(kind, {})[stage] = measured(stage, kind, folder)
    grown = {}
    for steps in STEPS:
        say(f"learner of {steps} steps")
        grown[steps] = measured("learner", "embedded" if quick else "mdm", folder, steps)
    found["learner by steps"] = {str(steps): row for steps, row in grown.items()}
    few, many = (max(grown[steps]["added"], 1.0) for steps in STEPS)
    note = (
        f"what a learner's step adds at {STEPS[1]} steps ({many:.0f} MB) over {STEPS[0]} ({few:.0f} MB), MDM, 8 "
        f"motions of {FRAMES} frames, replay_rows of one call"
    )
    return [Goal("memory/replay_growth", many / few, GROWTH, False, "x", note)], found


@app.command(_ONE, hidden=True)
def one(
    stage: str,
    kind: Annotated[str, typer.Option()],
    models: Annotated[Path, typer.Option()],
    steps: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Do one stage in this process and print what it took."""
    torch.set_num_threads(THREADS)
    sys.stdout.write(json.dumps(run_stage(stage, kind, steps, models)) + "\n")


if __name__ == "__main__":
    app()
