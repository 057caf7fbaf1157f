"""How large each reward is and how far it spreads on the base model's motions: one versioned JSON file.

Rewards come in their own units: cosines, nats, metres. With a calibration a job's weights compare like with like:
each reward counts as (value - mean) / std, both measured before training. The file says which model, weights and
policy it was measured with, and on which prompts, and is refused with any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rl_motion.config import Job, PolicyConfig, UserError
from rl_motion.tracking.files import read_whole, write_atomic

_AGAIN = "measure again: rl-motion calibrate JOB --out FILE"
_MAX_BYTES = 1_000_000
PROMPTS = "prompts"
"""The role of the prompts among the hashes."""


class Spread(BaseModel):
    """One reward on the base model's motions, in its own units; `std` is that of the population of n motions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: Annotated[float, Field(allow_inf_nan=False)]
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    n: Annotated[int, Field(ge=2)]


class Calibration(BaseModel):
    """The file. `rewards` by name; `weights_sha256` by role, as a run's manifest has them, with that of the prompts.

    `prompts_per_unit` is kept because a contrastive reward depends on it, `policy` because the base model's
    motions do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    weights_sha256: dict[str, str]
    policy: PolicyConfig
    prompts_per_unit: int
    seed: int
    rewards: dict[str, Spread]
    sha256: str = ""
    """Of everything above; filled in by `sealed`."""

    def sealed(self) -> Self:
        """With its own hash."""
        return self.model_copy(update={"sha256": self._digest()})

    def write(self, path: Path) -> None:
        """Write the file, as a whole or not at all.

        Raises:
            UserError: the place cannot be written.
        """
        try:
            write_atomic(path, f"{self.sealed().model_dump_json(indent=2)}\n".encode())
        except OSError as error:
            raise UserError(
                f"got --out {path}, which cannot be written ({error.strerror}); want a file; choose another"
            ) from None

    def _digest(self) -> str:
        content = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        UserError: there is none, it is of another format, or it was changed by hand.
    """
    try:
        calibration = Calibration.model_validate_json(read_whole(path, _MAX_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"calibration: got {path}, where {where[:200]!r} is wrong ({first['msg'][:200]}); want a file of format 1; "
            f"{_AGAIN}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"calibration: got {str(path)[:200]!r}, which cannot be read ({reason}); want a file; {_AGAIN}"
        ) from None
    if calibration.sha256 != calibration.sealed().sha256:
        raise UserError(
            f"calibration: got {path}, whose content does not have the hash it names; want it as it was measured; "
            f"{_AGAIN}"
        )
    return calibration


def refuse_other(calibration: Calibration, job: Job, weights_sha256: Mapping[str, str]) -> None:
    """Refuse a calibration that was measured with other means than the job's.

    Args:
        calibration: as read.
        job: that wants to use it.
        weights_sha256: of the job's model, rewards, text encoders and prompts, by role.

    Raises:
        UserError: another model, other weights or prompts, another policy, or a reward that it lacks.
    """
    missing = [reward.name for reward in job.rewards if reward.name not in calibration.rewards]
    if missing:
        raise UserError(
            f"calibration: got {job.calibration} without {missing}; want every reward of the job, it has "
            f"{sorted(calibration.rewards)}; {_AGAIN}"
        )
    roles = [role for role, value in weights_sha256.items() if calibration.weights_sha256.get(role) != value]
    if roles:
        raise UserError(
            f"calibration: got {job.calibration}, measured with model {calibration.model!r} and other inputs "
            f"({', '.join(sorted(roles))}); want {job.model.name!r} with the job's rewards and prompts; {_AGAIN}"
        )
    got = _settings(calibration.policy, calibration.prompts_per_unit)
    want = _settings(job.policy, job.train.prompts_per_unit)
    names = [name for name in want if got[name] != want[name]]
    if names:
        differences = "; ".join(f"{name}: got {got[name]}, want {want[name]}" for name in names)
        raise UserError(f"calibration: {job.calibration} was measured with another policy ({differences}); {_AGAIN}")


def spreads(values: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Mean and standard deviation of every reward's values.

    Raises:
        UserError: a reward that does not vary, or too few motions.
    """
    found = {}
    for name, numbers in values.items():
        n = len(numbers)
        mean = sum(numbers) / max(n, 1)
        std = (sum((x - mean) ** 2 for x in numbers) / max(n, 1)) ** 0.5
        if n < 2 or std <= 1e-9 * max(1.0, abs(mean)):
            raise UserError(
                f"rewards: got {name!r} = {mean:.6g} for all of {n} motions of the base model; want one that varies; "
                "measure more motions, or do without calibration and choose its weight in its own units"
            )
        found[name] = Spread(mean=mean, std=std, n=n)
    return found


def _settings(policy: PolicyConfig, prompts_per_unit: int) -> dict[str, Any]:
    named = {f"policy.{name}": value for name, value in policy.model_dump(mode="json").items()}
    return named | {"train.prompts_per_unit": prompts_per_unit}
