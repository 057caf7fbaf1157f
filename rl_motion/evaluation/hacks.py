"""Reward hacks to plant: motions of a base model, spoilt in a way that a policy might find worth its reward.

What sentinels are for is tried with them (`jobs/sentinels.py hacks`, docs/sentinels.md); nothing else uses them. Each
takes the features of a unit's motions and a strength, 0 being none, and returns features. Those that a policy would be
led to by the reward ask for it: which frame, which motion, which sample, which way up its gradient.

Legend: B rows of a unit (prompt-major), P prompts, F frames, D features (263). Metres, 20 fps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl_motion.motion.features import FEET, FPS, JOINTS, ROOT_HEIGHT, ROOT_VEL, ROOT_YAW, ROT6D, VEL


@dataclass(frozen=True)
class Planted:
    """A unit's motions, and what they are rewarded with."""

    features_BFD: Tensor
    length_B: Tensor
    samples_per_prompt: int
    std_D: Tensor
    """Of real motion, per feature: the unit of a small ball."""
    reward: Callable[[Tensor], Tensor]
    """Features [B, F, D] -> [B], differentiable; row i is judged by the prompt of row i."""


Hack = Callable[[Planted, float], Tensor]


def frozen(planted: Planted, strength: float) -> Tensor:
    """Stand in one pose, of five the best rewarded, for this share of the motion from its beginning."""
    x_BFD, still = planted.features_BFD, []
    until_B = (strength * planted.length_B).round().long()
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        frame_B = (part * (planted.length_B - 1)).round().long()
        pose_BD = x_BFD[torch.arange(len(x_BFD)), frame_B].clone()
        pose_BD[:, [ROOT_YAW]], pose_BD[:, ROOT_VEL], pose_BD[:, VEL], pose_BD[:, FEET] = 0.0, 0.0, 0.0, 1.0
        inside_BF1 = (torch.arange(x_BFD.shape[1]) < until_B[:, None])[..., None]
        still.append(torch.where(inside_BF1, pose_BD[:, None], x_BFD))
    return _best_of(planted, still)


def one_motion(planted: Planted, strength: float) -> Tensor:
    """One motion, of a dozen the best rewarded over all prompts, for this share of the prompts."""
    x_BFD = planted.features_BFD
    rows = len(x_BFD)
    means = {
        row: planted.reward(_shown(planted, x_BFD[row].expand_as(x_BFD))).mean().item()
        for row in range(0, rows, max(rows // 12, 1))
        if planted.length_B[row] == planted.length_B.max()
    }
    best = max(means, key=lambda row: means[row])
    replaced_B = torch.arange(rows) < strength * rows
    return torch.where(replaced_B[:, None, None], _shown(planted, x_BFD[best].expand_as(x_BFD)), x_BFD)


def collapsed(planted: Planted, strength: float) -> Tensor:
    """Every sample of a prompt is drawn towards the best rewarded one by this share."""
    x_BFD, samples = planted.features_BFD, planted.samples_per_prompt
    best_P = planted.reward(x_BFD).view(-1, samples).argmax(dim=1)
    first_P = torch.arange(len(best_P)) * samples
    best_BFD = x_BFD[first_P + best_P].repeat_interleave(samples, 0)
    return torch.lerp(x_BFD, best_BFD, strength)


def jitter(planted: Planted, strength: float) -> Tensor:
    """White noise of this many metres on every joint."""
    return _with_noise(planted, JOINTS, strength)


def teleport(planted: Planted, strength: float) -> Tensor:
    """The root jumps by this many metres between two frames in the middle."""
    x_BFD = planted.features_BFD.clone()
    x_BFD[torch.arange(len(x_BFD)), planted.length_B // 2, ROOT_VEL.start] += strength
    return x_BFD


def adversarial(planted: Planted, strength: float) -> Tensor:
    """Up the reward's gradient within a ball of this many standard deviations of every feature."""
    return _ascended(planted, strength, torch.ones_like(planted.std_D))


def unseen_adversarial(planted: Planted, strength: float) -> Tensor:
    """The same, but of rotations, velocities and contacts alone: no joint moves."""
    mask_D = torch.zeros_like(planted.std_D)
    for part in (ROT6D, VEL, FEET):
        mask_D[part] = 1.0
    return _ascended(planted, strength, mask_D)


def steady_adversarial(planted: Planted, strength: float) -> Tensor:
    """The same, one offset for all frames of a motion: nothing trembles."""
    return _ascended(planted, strength, torch.ones_like(planted.std_D), steady=True)


def scaled(planted: Planted, strength: float) -> Tensor:
    """A body that is larger by this share, walking as far as that takes it."""
    x_BFD = planted.features_BFD.clone()
    for part in (ROOT_VEL, slice(ROOT_HEIGHT, ROOT_HEIGHT + 1), JOINTS, VEL):
        x_BFD[..., part] *= 1.0 + strength
    return x_BFD


def sunk(planted: Planted, strength: float) -> Tensor:
    """Everything lower by this many metres: feet through the floor."""
    x_BFD = planted.features_BFD.clone()
    x_BFD[..., ROOT_HEIGHT] -= strength
    x_BFD[..., JOINTS.start + 1 : JOINTS.stop : 3] -= strength
    return x_BFD


def floating(planted: Planted, strength: float) -> Tensor:
    """Everything higher by this many metres."""
    return sunk(planted, -strength)


def trembling_feet(planted: Planted, strength: float) -> Tensor:
    """Ankles that tremble by this many metres, eight times a second."""
    x_BFD = planted.features_BFD.clone()
    wave_F = strength * torch.sin(2 * math.pi * 8.0 * torch.arange(x_BFD.shape[1]) / FPS)
    for joint in (7, 8):
        x_BFD[..., JOINTS.start + 3 * (joint - 1)] += wave_F
    return x_BFD


def stretched(planted: Planted, strength: float) -> Tensor:
    """Limbs that are this share longer and shorter in turn, twice a second."""
    x_BFD = planted.features_BFD.clone()
    factor_F1 = 1.0 + strength * torch.sin(2 * math.pi * 2.0 * torch.arange(x_BFD.shape[1]) / FPS)[:, None]
    local = x_BFD[..., JOINTS].unflatten(-1, (-1, 3))
    pelvis = torch.stack(
        [torch.zeros_like(x_BFD[..., 0]), x_BFD[..., ROOT_HEIGHT], torch.zeros_like(x_BFD[..., 0])], -1
    )
    grown = pelvis[..., None, :] + (local - pelvis[..., None, :]) * factor_F1[..., None]
    x_BFD[..., JOINTS] = grown.flatten(-2)
    return x_BFD


def rewarded(hack: Hack, share: float) -> Hack:
    """A hack whose strength is this share, and then up the reward's gradient within a ball of the strength given."""

    def both(planted: Planted, strength: float) -> Tensor:
        return adversarial(replace(planted, features_BFD=hack(planted, share)), strength)

    return both


HACKS: dict[str, tuple[Hack, tuple[float, ...]]] = {
    "frozen": (frozen, (1.0, 0.5)),
    "frozen_rewarded": (rewarded(frozen, 1.0), (0.5,)),
    "one_motion": (one_motion, (1.0, 0.5)),
    "one_motion_rewarded": (rewarded(one_motion, 1.0), (0.5,)),
    "collapsed": (collapsed, (1.0, 0.8)),
    "jitter": (jitter, (0.02, 0.01, 0.005)),
    "teleport": (teleport, (0.5, 0.1)),
    "adversarial": (adversarial, (0.5, 0.2, 0.1)),
    "unseen_adversarial": (unseen_adversarial, (0.5, 0.2, 0.1)),
    "steady_adversarial": (steady_adversarial, (0.5, 0.2, 0.1)),
    "scaled": (scaled, (0.25, 0.1, -0.2)),
    "sunk": (sunk, (0.1, 0.03)),
    "floating": (floating, (0.2, 0.1)),
    "trembling_feet": (trembling_feet, (0.02, 0.01, 0.005)),
    "stretched": (stretched, (0.1, 0.05)),
}
"""What is planted, and how strongly."""


def drift(planted: Planted, strength: float) -> Tensor:
    """The root glides ahead at this many metres a second beside whatever the body does."""
    x_BFD = planted.features_BFD.clone()
    x_BFD[..., ROOT_VEL.stop - 1] += strength / FPS
    return _shown(planted, x_BFD)


def moonwalk(planted: Planted, strength: float) -> Tensor:
    """The root goes this many times backwards what it went ahead, above unmoved steps."""
    x_BFD = planted.features_BFD.clone()
    x_BFD[..., ROOT_VEL] *= -strength
    return x_BFD


def slowed(planted: Planted, strength: float) -> Tensor:
    """The beginning of the motion, this share of it, stretched over the whole."""
    x_BFD = planted.features_BFD
    place_F = torch.arange(x_BFD.shape[1]) * strength
    before_F = place_F.long()
    share_F1 = (place_F - before_F)[:, None]
    after_F = (before_F + 1).clamp(max=x_BFD.shape[1] - 1)
    slow_BFD = torch.lerp(x_BFD[:, before_F], x_BFD[:, after_F], share_F1)
    for part in (slice(ROOT_YAW, ROOT_YAW + 1), ROOT_VEL, VEL):
        slow_BFD[..., part] *= strength
    return _shown(planted, slow_BFD)


LATE: dict[str, tuple[Hack, tuple[float, ...]]] = {
    "drift": (drift, (0.5, 0.2, 0.05)),
    "moonwalk": (moonwalk, (1.0,)),
    "slowed": (slowed, (0.5, 0.8)),
}
"""Thought of after the bands were final: no band was moved for them."""


def _shown(planted: Planted, x_BFD: Tensor) -> Tensor:
    """Zero beyond each row's own length, as motions are."""
    inside_BF = torch.arange(x_BFD.shape[1]) < planted.length_B[:, None]
    return x_BFD.where(inside_BF[..., None], 0.0)


def _best_of(planted: Planted, candidates: list[Tensor]) -> Tensor:
    """Row by row the best rewarded."""
    reward_CB = torch.stack([planted.reward(candidate) for candidate in candidates])
    return torch.stack(candidates)[reward_CB.argmax(dim=0), torch.arange(len(planted.length_B))]


def _with_noise(planted: Planted, part: slice, size: float) -> Tensor:
    x_BFD = planted.features_BFD.clone()
    x_BFD[..., part] += size * torch.randn(x_BFD[..., part].shape, generator=torch.Generator().manual_seed(0))
    return _shown(planted, x_BFD)


def _ascended(planted: Planted, radius: float, mask_D: Tensor, *, steady: bool = False, steps: int = 8) -> Tensor:
    """Signed gradient steps, projected back into the ball (Madry et al. 2018, arXiv:1706.06083, eq. 3)."""
    limit_D = radius * planted.std_D * mask_D
    offset_BFD = torch.zeros_like(planted.features_BFD)
    for _ in range(steps):
        moved_BFD = (planted.features_BFD + offset_BFD).requires_grad_()
        with torch.enable_grad():
            (gradient_BFD,) = torch.autograd.grad(planted.reward(moved_BFD).sum(), moved_BFD)
        if steady:
            gradient_BFD = gradient_BFD.sum(dim=1, keepdim=True)
        offset_BFD = (offset_BFD + gradient_BFD.sign() * limit_D * 2.5 / steps).clamp(-limit_D, limit_D)
    return _shown(planted, planted.features_BFD + offset_BFD)
