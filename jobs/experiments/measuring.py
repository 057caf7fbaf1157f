"""One arm on one part, in a process of its own: motions of its prompts, and what judges that never trained say of them.

    python jobs/experiments/measuring.py ASK.json MEASURED.npz ...        # running.py calls it

The file holds points of the evaluator, verdicts of the world's oracle and rewards; the metrics are made of files,
without models (figures.py). Real motion has such a file too. It is there as a whole or not at all.

Legend: P prompts, R samples of each (replications), N real motions, C channels, K captions to tell apart.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from parts import Part, distractors, prompts_of, real_motion, world_of

from rl_motion.config import UserError
from rl_motion.tracking.files import write_atomic

REAL = "real"
BATCH = 32
"""Captions that a motion of one action alone is told apart from, its own included."""
REAL_SEED = 40_000


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be measured: everything that the numbers depend on, so that who asks the same again finds them.

    job: resolved, as JSON; its model is measured, with the sampling of its evaluation. adapter: its folder, or none.
    arm: `real` for real motion, of which there are prompts x `real` clips. inputs: SHA-256 of weights, by role, and of
    the prompts, or of real motion and its captions.
    """

    arm: str
    part: str
    job: dict[str, Any]
    adapter: str | None
    evaluator: str
    prompts: int
    samples: int
    seed: int
    real: int
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a file of the same numbers says, wherever its adapter lies."""
        return asdict(self) | {"adapter": None}


def measure(ask: Ask) -> dict[str, Any]:
    """The arrays of one measurement (see `Measured`)."""
    import torch

    from rl_motion.config import Job

    torch.set_num_threads(1)
    part = Part.of(ask.part)
    return _real(ask, part) if ask.arm == REAL else _made(ask, Job.model_validate(ask.job), part)


def _real(ask: Ask, part: Part) -> dict[str, Any]:
    from rl_motion.models.device import device
    from rl_motion.models.zoo import load_evaluator

    judge = load_evaluator(ask.evaluator).to(device())
    world, motion, captions, groups, success = world_of(part), [], [], [], []
    for motions, prompts in real_motion(part, ask.prompts * ask.real, REAL_SEED):
        motion.append(judge.embed_motions(motions).cpu().numpy())
        captions += [prompt.text for prompt in prompts]
        groups += [prompt.group for prompt in prompts]
        success += _verdicts(world, motions, captions[-len(prompts) :])
    found = {
        "motion": np.concatenate(motion),
        "text": judge.embed_texts(captions).cpu().numpy(),
        "groups": np.asarray(groups),
        "success": np.asarray(success, np.float32),
    }
    return found | _others(judge, part, captions, ask.seed)


def _made(ask: Ask, job: Any, part: Part) -> dict[str, Any]:
    import torch

    from rl_motion.evaluation.selection import make_units
    from rl_motion.models.device import device
    from rl_motion.models.zoo import load_evaluator
    from rl_motion.rewards.combine import refuse_non_finite, score
    from rl_motion.rewards.of_job import job_terms
    from rl_motion.runtime.sampling import load_policy

    policy = load_policy(job, Path(ask.adapter) if ask.adapter else None)
    judge, world, terms = load_evaluator(ask.evaluator).to(device()), world_of(part), job_terms(job)
    prompts = prompts_of(part, ask.prompts, ask.seed, model_fps(job))
    evaluation = job.evaluation.model_copy(update={"samples_per_prompt": ask.samples, "seed": ask.seed})
    starts, motion, success, reward = hashlib.sha256(), [], [], []
    for unit in make_units(job.model_copy(update={"evaluation": evaluation}), prompts):
        with torch.no_grad():
            trajectory = policy.rollout(unit)
            motions = policy.decode(trajectory)
            motion.append(judge.embed_motions(motions).cpu().numpy())
            reward += refuse_non_finite(score(terms, motions, unit), unit).total_B.tolist()
        starts.update(trajectory.states[:, 0].cpu().numpy().tobytes())
        success += _verdicts(world, motions, [prompt.text for prompt in unit.row_prompts])
    rows = (len(prompts), ask.samples)
    found = {
        "motion": np.concatenate(motion).reshape(*rows, -1).swapaxes(0, 1),
        "text": judge.embed_texts([prompt.text for prompt in prompts]).cpu().numpy(),
        "success": np.asarray(success, np.float32).reshape(rows).T,
        "reward": np.asarray(reward, np.float32).reshape(rows).T,
        "start_sha256": np.asarray(starts.hexdigest()),
        "groups": np.asarray([prompt.group for prompt in prompts]),
    }
    return found | _others(judge, part, [prompt.text for prompt in prompts], ask.seed)


def _verdicts(world: Any, motions: Any, texts: Sequence[str]) -> list[float]:
    """The oracle's, of each motion for its text."""
    from rl_motion.motion.joints import motion_joints

    joints_BFJ3 = motion_joints(motions).cpu().numpy().astype(np.float64)
    rows = zip(texts, joints_BFJ3, motions.length_B.tolist(), strict=True)
    judge, form = world.success, motions.representation
    return [float(judge(form, text, joints_FJ3[:length], motions.fps)) for text, joints_FJ3, length in rows]


def _others(judge: Any, part: Part, texts: Sequence[str], seed: int) -> dict[str, Any]:
    """On an action alone: the captions that each of these texts is told apart from."""
    if not part.only:
        return {}
    rows = [distractors(part, text, BATCH - 1, seed) for text in texts]
    each = sorted({text for row in rows for text in row})
    point = dict(zip(each, judge.embed_texts(each).cpu().numpy(), strict=True))
    return {"others": np.asarray([[point[text] for text in row] for row in rows])}


def model_fps(job: Any) -> float:
    """Frames per second of what the job's model makes."""
    from rl_motion.models.zoo import DENOISERS, CheckpointConfig, locate

    config = locate(job.model.name, DENOISERS) / "config.json"
    return CheckpointConfig.model_validate_json(config.read_text(encoding="utf-8")).fps


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement read back.

    motion: of an arm motion_RPC, of real motion motion_NC. text: text_PC, or the own caption of each real motion.
    groups: the action of each. success, reward: [R, P], of real motion [N] and none. others: on an action alone,
    captions that each text is told apart from, [P, K - 1, C].
    start_sha256: of the noise that the arm's motions start from.
    """

    motion: np.ndarray
    text: np.ndarray
    groups: Sequence[str]
    success: np.ndarray | None = None
    reward: np.ndarray | None = None
    others: np.ndarray | None = None
    start_sha256: str = ""


def write(file: Path, ask: Ask, found: dict[str, Any]) -> None:
    """Write a measurement, and what was asked."""
    content = io.BytesIO()
    np.savez_compressed(content, ask=np.asarray(json.dumps(ask.identity, sort_keys=True)), **found)
    write_atomic(file, content.getvalue())


def is_measured(file: Path, ask: Ask) -> bool:
    """Whether the file is there.

    Raises:
        UserError: it is of something else: other weights, prompts or sizes.
    """
    if not file.is_file():
        return False
    with np.load(file, allow_pickle=False) as found:
        said = json.loads(str(found["ask"]))
    wanted = json.loads(json.dumps(ask.identity))
    other = sorted(key for key in wanted if said.get(key) != wanted[key])
    if other:
        raise UserError(
            f"got {file}, measured with other {', '.join(other)}; want those of this call; choose another --out"
        )
    return True


def read(file: Path) -> Measured:
    """A measurement read back."""
    with np.load(file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in ("motion", "text", "success", "reward", "others") if name in found}
        return Measured(
            **arrays,
            groups=found["groups"].tolist(),
            start_sha256=str(found["start_sha256"]) if "start_sha256" in found else "",
        )


if __name__ == "__main__":
    for question, answer in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        wanted = Ask(**json.loads(Path(question).read_text(encoding="utf-8")))
        write(Path(answer), wanted, measure(wanted))
