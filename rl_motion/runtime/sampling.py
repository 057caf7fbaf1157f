"""Motions for prompts, outside a run: by the policy that evaluation uses, with or without an adapter.

Legend: B rows, F frames, J joints.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rl_motion.config import Job, UserError
from rl_motion.config.load import load_job
from rl_motion.protocols import MotionPolicy
from rl_motion.tracking.files import write_together
from rl_motion.types import Prompt, Unit


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


def sample_page(policy: MotionPolicy, prompts: Sequence[Prompt], samples: int, *, seed: int, page: Path) -> Path:
    """Sample every prompt and write an HTML page of moving skeletons, with a NumPy file beside it.

    Args:
        policy: with its adapter, if any.
        prompts: one row of the page each.
        samples: motions per prompt.
        seed: of the noise; the same seed gives the same motions.
        page: the HTML file to write.

    Returns:
        The NumPy file: joints [B, F, J, 3] in metres, float32, zero beyond a motion's length, prompt-major.
    """
    from rl_motion.motion.joints import motion_joints
    from rl_motion.motion.viewer import Panel, Row, motion_page

    unit = Unit(seed=seed, iteration=0, index=0, prompts=tuple(prompts), samples_per_prompt=samples)
    with torch.no_grad():
        motions = policy.decode(policy.rollout(unit))
    lengths = motions.length_B.tolist()
    joints_BFJ3 = motion_joints(motions).cpu().numpy().astype(np.float32)
    for row, length in enumerate(lengths):
        joints_BFJ3[row, length:] = 0.0
    rows = []
    for number, prompt in enumerate(prompts):
        first = number * samples
        panels = [
            Panel(f"sample {row - first + 1}", joints_BFJ3[row, : lengths[row]], fps=motions.fps)
            for row in range(first, first + samples)
        ]
        rows.append(Row(prompt.text, panels))
    array = page.with_suffix(".npy")
    try:
        content = io.BytesIO()
        np.save(content, joints_BFJ3, allow_pickle=False)
        whole = motion_page("Samples", rows, f"seed {seed}").encode()
        write_together({page: whole, array: content.getvalue()})
    except OSError as error:
        raise UserError(
            f"got --out {page}, which cannot be written with {array.name} ({error.strerror}); want room and the right "
            "to write; choose another place"
        ) from None
    return array


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
