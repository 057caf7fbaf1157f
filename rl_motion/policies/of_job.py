"""From a job to its policy: what its model's checkpoint gives, and how the loaded model becomes a policy.

Another kind of model is told apart here and in models/zoo.py, and nowhere above.
"""

from __future__ import annotations

from typing import NamedTuple

from rl_motion.config import PolicyConfig, UserError, nearest
from rl_motion.models.device import device_of
from rl_motion.models.zoo import DENOISERS, CheckpointConfig
from rl_motion.policies.diffusion import DiffusionPolicy, policy_tables
from rl_motion.protocols import Denoiser, MotionPolicy, Need
from rl_motion.types import MotionForm, Motions, Normalisation, Trajectory


class Given(NamedTuple):
    """What a model's policy gives: the form of its motion, and what an algorithm may need."""

    form: MotionForm
    offers: frozenset[Need]


def check_policy(name: str, checkpoint: CheckpointConfig, config: PolicyConfig) -> Given:
    """What a checkpoint's policy will give; builds no network.

    Args:
        name: of the model, for messages.
        checkpoint: its configuration.
        config: the job's `policy`.

    Raises:
        UserError: it is no motion model, or the settings give no policy.
    """
    if checkpoint.kind not in DENOISERS or checkpoint.schedule is None:
        raise UserError(
            f"got model {name!r} of kind {checkpoint.kind[:60]!r} with schedule {checkpoint.schedule}; want one of "
            f"{sorted(DENOISERS)} with a schedule; {nearest(checkpoint.kind, DENOISERS, 'choose a motion model')}"
        )
    policy_tables(checkpoint.schedule, config)
    # `Denoiser.decode` un-normalises, whatever the model.
    return Given(MotionForm(checkpoint.representation, Normalisation.NONE), DiffusionPolicy.offers)


def make_policy(model: Denoiser, config: PolicyConfig, *, replay_rows: int | None = None) -> MotionPolicy:
    """The model as a policy, with the adapter that its network carries; raises UserError as `check_policy`.

    `replay_rows`: the job's `train.replay_rows`.
    """
    return DiffusionPolicy(model, config, replay_rows=replay_rows)


def decode(model: Denoiser, trajectory: Trajectory) -> Motions:
    """A trajectory's final motion, un-normalised, by the model alone: whoever scores needs no policy."""
    device = device_of(model.network)
    return model.decode(trajectory.sample.to(device), trajectory.length_B.to(device))
