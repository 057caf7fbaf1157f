"""What a policy of Gaussian steps says of a trajectory.

Legend: B rows, S stochastic transitions, F frames, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_motion.diffusion import kl_divergence


@dataclass(frozen=True, slots=True)
class GaussianReplay:
    """Transitions with fixed stds as a `Replay` (rl_motion.protocols).

    log_prob_BS [B, S], float64; mean_BSFD [B, S, F, D], zero beyond the scored frames (a row's length, or the whole
    canvas where the model has one); std_S [S], the same for every row and for the reference.
    gain_S [S]: stds that the mean moves, in first order, per unit of what the network predicts, x0, the noise or v
    (`SolverTables.raw_gain`).
    scale_B [B]: factor of a row's sum over elements (1 for `sum`, 1 / (scored frames * D) for `mean`).
    """

    log_prob_BS: Tensor
    mean_BSFD: Tensor
    std_S: Tensor
    gain_S: Tensor
    scale_B: Tensor

    def kl(self, reference: GaussianReplay) -> Tensor:
        """(mean - reference)^2 / (2 std^2), summed or averaged over elements as the log-probs are; [B, S]."""
        return kl_divergence(self.mean_BSFD, reference.mean_BSFD, self.std_S) * self.scale_B[:, None]

    def gradient_norm(self, loss: Tensor) -> Tensor:
        """Norm [S] of the gradient with respect to a transition's mean, times d mean / d prediction = std gain.

        That is the share of the network's own output (x0, noise or v) at that step, in first order.
        """
        (gradient_BSFD,) = torch.autograd.grad(loss, self.mean_BSFD, retain_graph=True)
        # One after the other: in float64 all at once they would take four times what the states do.
        norms = [gradient_BFD.double().square().sum().sqrt() for gradient_BFD in gradient_BSFD.unbind(dim=1)]
        return torch.stack(norms) * self.std_S * self.gain_S
