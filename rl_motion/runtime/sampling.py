"""Motions for prompts, outside a run: by the policy that evaluation uses, with or without an adapter.

Legend: B rows, F frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.protocols import MotionPolicy
from rl_motion.runtime.progress import counting
from rl_motion.types import Motions, Prompt, Unit

_ROWS_AT_ONCE = 64
"""Motions that are computed as one batch; the noise of each is its own."""


def load_policy(job: Job, adapter: Path | None) -> MotionPolicy:
    """The job's sampling policy, its base where `adapter` is None; sets the job's number of torch threads.

    Raises:
        UserError: there is no adapter in that folder, or it belongs to another model.
    """
    from rl_motion.models.adapter import load_adapter
    from rl_motion.models.device import device
    from rl_motion.models.zoo import load_denoiser
    from rl_motion.policies.of_job import make_policy

    torch.set_num_threads(job.runtime.threads)
    if adapter is not None:
        _refuse_other_base(adapter, job.model.name)
    denoiser = load_denoiser(job.model.name)
    if adapter is not None:
        try:
            load_adapter(denoiser.network, adapter)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(str(error)) from None
    return make_policy(denoiser.to(device()), job.sampling_policy)


def job_of(adapter: Path | None, model: str | None) -> Job:
    """The job an adapter was trained by, where it lies in its run's folder; else the packaged demo's.

    Args:
        adapter: its folder, or None for a base policy.
        model: takes precedence over the model that the adapter was trained on; `load_policy` refuses another.

    Raises:
        UserError: there is no adapter in that folder.
    """
    beside = adapter.parent / "job.yaml" if adapter else None
    job = load_job(beside if beside and beside.is_file() else "demo")
    name = model or (_base_of(adapter) if adapter else None)
    if name is not None:
        job = job.model_copy(update={"model": job.model.model_copy(update={"name": name})})
    return job


def check_prompts(job: Job, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that are too long, as motion or as text, for the job's model; raises UserError."""
    from rl_motion.models.zoo import DENOISERS, locate
    from rl_motion.runtime import checks

    checks.check_prompts([locate(job.model.name, DENOISERS)], prompts)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Motions of some prompts, row = prompt * samples + sample.

    Attributes:
        prompts: whose motions they are.
        samples: motions per prompt.
        seed: of the noise.
        motions: un-normalised, on the CPU.
        joints_BFJ3: metres, zero beyond a motion's length.
    """

    prompts: tuple[Prompt, ...]
    samples: int
    seed: int
    motions: Motions
    joints_BFJ3: NDArray[np.float32]

    def __len__(self) -> int:
        """Motions."""
        return len(self.joints_BFJ3)

    def clip(self, row: int) -> NDArray[np.float32]:
        """The joints [F, J, 3] of one motion in metres, as long as it is."""
        clip_FJ3: NDArray[np.float32] = self.joints_BFJ3[row, : int(self.motions.length_B[row])]
        return clip_FJ3


def sample_motions(
    policy: MotionPolicy, prompts: Sequence[Prompt], samples: int, *, seed: int, console: Console
) -> Sampled:
    """Sample every prompt, some prompts at once.

    Args:
        policy: with its adapter, if any.
        prompts: at least one.
        samples: motions per prompt.
        seed: of the noise; the same seed gives the same motions.
        console: shows how many are done, where they are many.
    """
    from rl_motion.motion.joints import motion_joints

    at_once = max(_ROWS_AT_ONCE // samples, 1)
    parts = []
    with counting(console, "sampling motions", len(prompts) * samples) as count:
        for first in range(0, len(prompts), at_once):
            some = tuple(prompts[first : first + at_once])
            unit = Unit(seed=seed, iteration=0, index=first, prompts=some, samples_per_prompt=samples)
            with torch.no_grad():
                parts.append(policy.decode(policy.rollout(unit)))
            count((first + len(some)) * samples)
    frames = max(part.features_BFD.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(p.features_BFD, (0, 0, 0, frames - p.features_BFD.shape[1])) for p in parts]
    length_B = torch.cat([part.length_B for part in parts]).cpu()
    motions = replace(parts[0], features_BFD=torch.cat(padded).cpu(), length_B=length_B)
    joints_BFJ3 = motion_joints(motions).numpy().astype(np.float32)
    for row, length in enumerate(length_B.tolist()):
        joints_BFJ3[row, length:] = 0.0
    return Sampled(tuple(prompts), samples, seed, motions, joints_BFJ3)


def _base_of(adapter: Path) -> str | None:
    from rl_motion.models.adapter import base_model_of

    try:
        return base_model_of(adapter)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None


def _refuse_other_base(adapter: Path, model: str) -> None:
    from rl_motion.models.zoo import DENOISERS, locate

    base = _base_of(adapter)
    if base is None or base == model:
        return
    try:
        same = locate(base, DENOISERS).resolve() == locate(model, DENOISERS).resolve()
    except UserError:
        same = False
    if not same:
        raise UserError(
            f"got model {model!r} for the adapter in {adapter}; want {base!r}, which it was trained on; leave out "
            "--model or, where that model only moved, correct base_model_name_or_path in its adapter_config.json"
        )
