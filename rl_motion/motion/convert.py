"""Un-normalised motion of one representation as another, by way of joints (NumPy; not differentiable).

Features -> joints -> the other frame rate -> the other skeleton's joints -> its bones -> features. What is lost: joints
that one skeleton lacks (collars, spine1; mid-feet), the body's proportions, rotation about a bone's axis, and what
is faster than the lower rate. Where noisy features contradict themselves, joint positions decide.

Shape legend: B rows, F frames of the canvas, J joints, D features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.motion import features, kit
from rl_motion.motion.features import FeatureLayout, extract_features, recover_all_joints, uniform_joints
from rl_motion.motion.resample import resample, resampled_frames
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import HUMANML3D_OFFSETS_J3
from rl_motion.motion.smplrifke import smplrifke_to_joints
from rl_motion.types import Motions, Normalisation, Representation

_TARGETS: dict[Representation, tuple[FeatureLayout, FloatArray]] = {
    Representation.HUMANML3D_263: (features.LAYOUT, HUMANML3D_OFFSETS_J3),
    Representation.KIT_251: (kit.LAYOUT, kit.KIT_OFFSETS_J3),
}
"""What motion can be converted to: its features, and the skeleton that it gets by default."""


def convertible(given: Representation, wanted: Representation) -> bool:
    """Whether motion of the one can be had as the other."""
    return given == wanted or wanted in _TARGETS


def converted(
    motions: Motions,
    representation: Representation,
    fps: float,
    *,
    offsets_J3: FloatArray | None = None,
    own_heading: bool = True,
) -> Motions:
    """The same motion in another representation, at this rate; as it came where it has both already.

    L rows of HumanML3D or KIT features hold L + 1 frames, and all of them are used: motion lasts as long as before, but
    for less than one new frame. L rows of SMPL-RIFKE hold L frames. Beyond a row's length the result is zero. A row
    depends on itself alone. Same device, float32.

    Args:
        motions: un-normalised, lengths per row.
        representation: HumanML3D's or KIT's.
        fps: frames per second wanted.
        offsets_J3: the skeleton that every row gets, in the representation's unit (KIT: millimetres); by default
            `HUMANML3D_OFFSETS_J3` or `KIT_OFFSETS_J3`.
        own_heading: as the embedded worlds' features, and so the networks that read them, are made (ADR 3). Turn it off
            for networks that were trained on published features.

    Raises:
        UserError: normalised features, a representation that cannot be had, motion that is not finite, or too short to
            have a frame at the new rate.
        ValueError: a length outside the canvas, a rate that is not positive, or joints that coincide.
    """
    if motions.normalisation is not Normalisation.NONE:
        raise UserError(
            f"got motion as {motions.form}; want it un-normalised; pass what the denoiser's `decode` returns"
        )
    if motions.representation == representation and motions.fps == fps:
        return motions
    if not convertible(motions.representation, representation) or representation not in _TARGETS:
        known = ", ".join(_TARGETS)
        raise UserError(
            f"got {motions.representation} motion, to become {representation} at {fps:g} fps; want one of {known}; "
            "choose a network that reads one of these"
        )

    joints_BFJ3, frames_B = _joints(motions)
    canvas = joints_BFJ3.shape[1]
    joints_BFJ3 = resample(_held(joints_BFJ3, frames_B), motions.fps, fps)
    rows_B = resampled_frames(frames_B, motions.fps, fps) - 1
    if (short_B := np.flatnonzero(rows_B < 1)).size:
        raise UserError(
            f"got {int(motions.length_B[short_B[0]])} rows of motion at {motions.fps:g} fps in row {short_B[0]}; want "
            f"enough for two frames at {fps:g} fps; leave out motion that short"
        )
    layout, offsets = _TARGETS[representation]
    offsets_J3 = offsets if offsets_J3 is None else offsets_J3
    # A held last frame changes neither the floor nor the smoothed heading, so rows of all lengths go at once.
    joints_BFJ3 = _held(joints_BFJ3, rows_B + 1)
    if representation is Representation.KIT_251 and motions.representation is not representation:
        joints_BFJ3 = kit.to_kit_joints(joints_BFJ3)
    elif motions.representation is Representation.KIT_251 and representation is not motions.representation:
        # With the wanted body's bones first: joints that KIT lacks are placed between others by its proportions.
        joints_BFJ3 = kit.from_kit_joints(uniform_joints(kit.LAYOUT, joints_BFJ3, kit.in_kit_joints(offsets_J3)))
    features_BFD = extract_features(layout, joints_BFJ3, offsets_J3, own_heading=own_heading)
    rows = int(resampled_frames(canvas, motions.fps, fps)) - 1
    features_BFD[np.arange(rows) >= rows_B[:, None]] = 0.0
    device = motions.features_BFD.device
    return replace(
        motions,
        features_BFD=_finite(torch.from_numpy(features_BFD)).to(device),
        length_B=torch.from_numpy(rows_B).to(motions.length_B.device),
        fps=fps,
        representation=representation,
    )


def _joints(motions: Motions) -> tuple[FloatArray, NDArray[np.int64]]:
    """The representation's own joints [B, F', J, 3] in float64, and how many frames of them each row has."""
    length_B = motions.length_B.detach().cpu()
    valid_BF1 = (torch.arange(motions.features_BFD.shape[1]) < length_B[:, None])[..., None]
    # Whatever lies beyond a length is not read, not even a NaN.
    rows_BFD = torch.where(valid_BF1, motions.features_BFD.detach().cpu().double(), 0.0)
    rows_BFD = _finite(rows_BFD)
    if motions.representation is Representation.SMPLRIFKE_205:
        return smplrifke_to_joints(rows_BFD).numpy(), length_B.numpy()
    layout, _ = _TARGETS[motions.representation]
    return recover_all_joints(layout, rows_BFD, length_B).numpy(), length_B.numpy() + 1


def _finite(features_BFD: torch.Tensor) -> torch.Tensor:
    broken = (~torch.isfinite(features_BFD).flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"got motion that is not finite in {len(broken)} of {len(features_BFD)} rows, first in row {broken[0]}; "
            "want finite motion of a body that has a heading; leave those rows out"
        )
    return features_BFD


def _held(joints_BFJ3: FloatArray, frames_B: NDArray[np.int64]) -> FloatArray:
    """Each row's last frame in place of what comes after it."""
    frame_BF = np.minimum(np.arange(joints_BFJ3.shape[1]), frames_B[:, None] - 1)
    return joints_BFJ3[np.arange(len(joints_BFJ3))[:, None], frame_BF]
