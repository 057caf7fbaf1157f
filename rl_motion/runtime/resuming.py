"""What a resume compares: settings, inputs and the learner's state with those that a commit was made with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from rl_motion.config import Job, RunFault, UserError
from rl_motion.runtime.commit import Best, Manifest
from rl_motion.runtime.workers import Snapshot
from rl_motion.tracking.mlflow_tracker import flatten

_FREE = {
    "evaluation.": "what is measured beside training",
    "name": "a name",
    "prompts.validation.": "what is measured beside training",
    "runtime.commits_uri": "where commits go",
    "runtime.keep_commits": "how many commits stay",
    "runtime.": "speed only",
    "sentinels.": "what is warned of",
    "tracking.": "records only",
    "train.iterations": "how far it goes",
    "train.max_skipped_steps": "when it gives up",
    "train.replay_rows": "memory and speed only",
    "train.publish": "which adapter is published",
}
"""Settings, or their beginnings, that a resume may change, and what they change instead of the run's numbers. The first
that fits counts."""
_BOUND = frozenset({"runtime.mode", "runtime.threads"})
"""Settings that change the numbers all the same."""
_MEASURE = ("evaluation.samples_per_prompt", "evaluation.seed", "evaluation.validation_prompts", "prompts.validation.")
"""What a validation reward depends on beside the adapter."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """Settings that differ from the commit's, one line each: those that may, and those that are refused."""

    free: tuple[str, ...]
    refused: tuple[str, ...]


def settings_of(job: Job) -> dict[str, str]:
    """Every setting by dotted name, as text; `runtime.mode` says what it comes to."""
    whole = job.model_dump(mode="json")
    # Runs from before a reward could name its weights have no such entry.
    rewards = [{key: value for key, value in r.items() if (key, value) != ("model", None)} for r in whole["rewards"]]
    flat = flatten(whole | {"rewards": rewards})
    del flat["runtime.staleness"]
    return flat | {"runtime.mode": f"async, staleness {job.runtime.lag}" if job.runtime.lag else "sync"}


def measure_of(job: Job) -> dict[str, str]:
    """The settings that a validation reward depends on."""
    return {name: value for name, value in settings_of(job).items() if name.startswith(_MEASURE)}


def changes(manifest: Manifest, before: Job, job: Job) -> Changes:
    """Compare setting by setting.

    Args:
        manifest: of the commit to go on from.
        before: as job.yaml has it, for what the commit does not say.
        job: asked for now.
    """
    got = settings_of(job)
    known = {name: str(value) for name, value in manifest.job.items()} | {"runtime.threads": str(manifest.threads)}
    stood = {name: value for name, value in settings_of(before).items() if _note(name) is not None}
    want = _defaults(got) | stood | known
    differing = [name for name in sorted(want.keys() | got.keys()) if want.get(name) != got.get(name)]
    refused = [_refusal(name, got, want) for name in differing if _note(name) is None]
    if manifest.best is not None and job.evaluation.validate_every is not None:
        refused += _not_as_measured(manifest.best, got)
    free = [f"{n}: {want.get(n)} -> {got.get(n)} ({note})" for n in differing if (note := _note(n)) is not None]
    return Changes(tuple(free), tuple(refused))


def refuse(found: Changes, run: str) -> None:
    """Raises UserError where a change is refused."""
    if found.refused:
        lines = "\n".join(f"  {line}" for line in found.refused)
        raise UserError(
            f"{run}: the job differs from the one that the run was started with\n{lines}\n"
            "a resumed run goes on bit for bit; leave these as they were, or start a new run: rl-motion train"
        )


def check_inputs(
    manifest: Manifest, pool_sha256: str, weights_sha256: Mapping[str, str], validation_sha256: str
) -> None:
    """Compare the prompts and frozen weights of this machine; `validation_sha256` is empty where nothing validates.

    Raises:
        UserError: they are not those of the run.
    """
    best = manifest.best.prompts_sha256 if manifest.best and validation_sha256 else validation_sha256
    for kind, got, want in (
        ("prompts", pool_sha256, manifest.pool_sha256),
        ("prompts of validation", validation_sha256, best),
    ):
        if got != want:
            raise UserError(
                f"got {kind} with hash {got[:12]}; want {want[:12]}, those of the run; "
                "put the prompt files back as they were, or start a new run"
            )
    there, here = manifest.weights_sha256, weights_sha256
    roles = sorted(role for role in there.keys() | here.keys() if there.get(role) != here.get(role))
    if roles:
        found = "; ".join(f"{r}: got {here.get(r, 'none')[:12]}, want {there.get(r, 'none')[:12]}" for r in roles)
        raise UserError(
            f"the frozen weights, or what the rewards read, are not those that the run was started with ({found}); put "
            "the checkpoints back, and the rewards' files, as they were, or start a new run"
        )


def check_state(manifest: Manifest, snapshot: Snapshot) -> None:
    """Compare the learner that came back from a commit; warns where this machine rounds differently.

    Raises:
        RunFault: it has another adapter.
    """
    if snapshot.sha256 != manifest.adapter_sha256:
        raise RunFault(
            f"got adapter {snapshot.sha256[:12]} from the commit; want {manifest.adapter_sha256[:12]}; "
            "the model may have changed since; put it back and resume"
        )
    here, there = snapshot.environment, (manifest.device, manifest.cpu_capability, manifest.torch)
    if (here.device, here.cpu_capability, here.torch) != there:
        _log.warning(
            "the run was made on device %s with CPU capability %s and torch %s, here are %s, %s and %s: it goes on, "
            "but not bit for bit",
            *there,
            here.device,
            here.cpu_capability,
            here.torch,
        )


def _note(name: str) -> str | None:
    """What a setting changes beside the numbers; None where it changes them."""
    if name in _BOUND:
        return None
    return next((note for start, note in _FREE.items() if name.startswith(start)), None)


def _defaults(got: Mapping[str, str]) -> dict[str, str]:
    """Settings that an older commit may lack, as their defaults have them: a new one changes no other job."""
    defaults = settings_of(Job(name="any"))
    return {name: value for name, value in defaults.items() if name in got and not name.startswith("prompts.sources.")}


def _not_as_measured(best: Best, got: Mapping[str, str]) -> list[str]:
    now = {name: value for name, value in got.items() if name.startswith(_MEASURE)}
    names = sorted(name for name in now.keys() | best.measured.keys() if now.get(name) != best.measured.get(name))
    why = f", by which iteration {best.iteration} is the best so far"
    return [_refusal(name, now, best.measured) + why for name in names]


def _refusal(name: str, got: Mapping[str, str], want: Mapping[str, str]) -> str:
    return f"{name}: got {got.get(name)}; want {want.get(name)}"
