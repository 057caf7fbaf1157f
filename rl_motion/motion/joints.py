"""Motion of any representation as the joints that viewer and sentinels read."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rl_motion.config import UserError
from rl_motion.motion import kit
from rl_motion.motion.features import features_to_joints
from rl_motion.motion.smplrifke import smplrifke_to_joints
from rl_motion.types import Motions, Normalisation, Representation


def _kit_to_joints(features_FD: Tensor) -> Tensor:
    return kit.from_kit_joints(kit.features_to_joints(features_FD)) / kit.MILLIMETRES_PER_METRE


TO_JOINTS: dict[Representation, Callable[[Tensor], Tensor]] = {
    Representation.HUMANML3D_263: features_to_joints,
    Representation.SMPLRIFKE_205: smplrifke_to_joints,
    Representation.KIT_251: _kit_to_joints,
}
"""Un-normalised features [..., F, D] -> joints [..., F, 22, 3] in metres, by representation: one body for all."""


def motion_joints(motions: Motions) -> Tensor:
    """Joints [B, F, 22, 3] in metres, Y up, in frame 0 over the origin facing Z+; meaningless beyond a length.

    Bones have the representation's own lengths. Differentiable, on the motion's device.

    Raises:
        UserError: the features are normalised.
    """
    if motions.normalisation is not Normalisation.NONE:
        raise UserError(
            f"got motion as {motions.form}; want it un-normalised; pass what the denoiser's `decode` returns"
        )
    return TO_JOINTS[motions.representation](motions.features_BFD)
