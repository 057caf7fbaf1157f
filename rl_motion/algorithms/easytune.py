"""EasyTune of MotionRFT (arXiv:2603.27185, section IV): the reward's own gradient, one denoising step at a time.

At every step k of the policy's own denoising, from pure noise on, with an optimiser step after each:

    loss_k = - mean of r(decode(x0_k)) + kl_weight / 2 * mean of (x0_k - x0_k of the base)^2

x0_k is predicted at sg(x_k), where sg stops the gradient: each loss reaches the parameters through one network call
alone, and the next one meets the new parameters. The second mean is over what the network can see. For a network that
predicts x0 that term is the exact KL of a first-order transition to the reference's, divided by the SNR gained, so that
it weighs alike at every step.

Sampling needs two motions of a prompt that score differently; a gradient does not. An action that the base never makes
gives DDPO nothing to choose from, while the reward still says which way it lies (docs/experiments.md). The price: every
reward has to be differentiable in the model's own representation, and a gradient finds a reward's blind spots faster
than sampling does, so watch the sentinels.

Differs from the paper: all stochastic transitions, or the noisiest `transitions` of them, where the paper takes the
last K of DDIM's; the policy's noise, where DDIM has none; LoRA, and the anchor to the base.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from rl_motion.algorithms.needs import unmet
from rl_motion.config import AlgorithmConfig
from rl_motion.protocols import DenoisingPolicy, MotionPolicy, Need, Objective
from rl_motion.types import Experience, Metrics


class EasyTune:
    """The losses above as an `Algorithm` (rl_motion.protocols). Neither advantages nor log-probs are read."""

    reads = frozenset({"inner_epochs", "kl_weight", "transitions"})

    def __init__(self, config: AlgorithmConfig, objective: Objective) -> None:
        """Keep the settings; `objective` is the job's total reward, on the graph."""
        self.needs: frozenset[Need] = frozenset({"denoising", "reward_gradient"})
        self.inner_epochs = config.inner_epochs
        self.state: dict[str, Tensor] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self._config = config
        self._objective = objective

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        """One optimiser step a denoising step.

        Metrics: `policy/predicted_reward` of x0 as it is predicted, and in total and per step (`_s00` is the noisiest)
        `policy/drift`, the mean squared distance of x0, normalised, to what the base predicts at the same latent.

        Raises:
            UserError: a policy that does not denoise.
        """
        if not isinstance(policy, DenoisingPolicy):
            raise unmet(self._config.name, "denoising")
        unit = batch.trajectory.unit
        walk = policy.denoising(unit)
        steps = min(self._config.transitions or len(walk.sigma), len(walk.sigma) - 1)
        x_BFD, x0_prev = walk.noise_BFD, None
        for k in range(steps):
            x0_BFD, next_BFD = walk.step(k, x_BFD, x0_prev)
            reward = self._objective(walk.decode(x0_BFD), unit).mean()
            square_B = (x0_BFD - walk.reference(k, x_BFD)).square().flatten(1).sum(dim=1)
            drift = (square_B / walk.elements_B.to(square_B)).mean()
            metrics = {"policy/predicted_reward": reward.item(), "policy/drift": drift.item()}
            metrics[f"policy/drift_s{k:02d}"] = drift.item()
            yield 0.5 * self._config.kl_weight * drift - reward, metrics
            x_BFD, x0_prev = next_BFD.detach(), x0_BFD.detach()

    def adapt(self, metrics: Metrics) -> None:
        """Nothing to adapt."""
