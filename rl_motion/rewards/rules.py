"""Rules of physics as rewards: minus how badly a motion breaks one, in natural units, so that 0 is best.

ReinDiffuse (Han et al. 2024, arXiv:2410.07296) rewards motion for not skating, floating or penetrating the floor.
What the words mean is PhysDiff's (Yuan et al. 2022, arXiv:2212.02500, its physics metrics): how fast feet on the floor
move, how far the lowest point is above the floor, and how far below. Differs from both: joints stand for the
body's mesh, with tolerances to match (`rl_motion.motion.sentinels`); jerk is added, as RL makes motion tremble.

A motion that stands still breaks no rule: use them beside a reward that reads the text, with small weights.
`float` counts jumps too, which the samples of a prompt that asks for one share. A sentinel that is rewarded is no
longer a witness: judge such a run by the others.

Legend: B rows, F frames, J joints (22), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rl_motion.motion import sentinels
from rl_motion.motion.features import features_to_joints
from rl_motion.rewards.kind import HUMANML3D_UNNORMALISED, refuse_misread
from rl_motion.types import Motions, Prompt

Measure = Callable[[Tensor, Tensor, float], Tensor]
"""(joints [B, F, J, 3] in metres, valid frames [B], frames per second) -> how badly the rule is broken [B]."""

MEASURES: dict[str, Measure] = {
    "foot_skate": sentinels.foot_skate_B,
    "jerk": sentinels.jerk_B,
    "float": lambda joints_BFJ3, length_B, _: sentinels.floating_B(joints_BFJ3, length_B),
    "penetration": lambda joints_BFJ3, length_B, _: sentinels.penetration_B(joints_BFJ3, length_B),
}
"""By the reward's name: m/s of toes on the floor, m/s^3, metres, metres."""


class RuleReward:
    """Minus a measure of the motion's joints; NaN where a valid frame is not finite.

    Differentiable almost everywhere.
    """

    accepts = HUMANML3D_UNNORMALISED
    differentiable = True

    def __init__(self, name: str) -> None:
        """The rule of that name, one of `MEASURES`."""
        self._name = name
        self._measure = MEASURES[name]

    def __call__(self, motions: Motions, prompts: Sequence[Prompt], noise_level_B: Tensor | None = None) -> Tensor:
        """Reward [B], at most 0; the texts are not read.

        Raises:
            UserError: another form, noisy motions, or rows that do not match prompts.
        """
        refuse_misread(self._name, motions, prompts, noise_level_B)
        features_BFD = motions.features_BFD
        length_B = motions.length_B.to(features_BFD.device)
        reward_B = -self._measure(features_to_joints(features_BFD), length_B, motions.fps)
        padded_BF = torch.arange(features_BFD.shape[1], device=length_B.device) >= length_B[:, None]
        finite_BF = torch.isfinite(features_BFD).all(dim=-1)
        # A NaN is neither low nor fast: without this, what is no motion at all would skate least.
        return torch.where((finite_BF | padded_BF).all(dim=1), reward_B, torch.nan)
