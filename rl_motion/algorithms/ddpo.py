"""DDPO with importance sampling (arXiv:2305.13301 eq. 8) and the PPO clip (arXiv:1707.06347 eq. 7).

One ratio per step, a diffusion's transition or a sequence's token:

    l_t   = (log p_new(x_t+1 | x_t) - log p_old(x_t+1 | x_t)) / c_t
    loss  = - mean of min(exp(l_t) A, clip(exp(l_t), 1 - eps, 1 + eps) A) + kl_weight * mean of KL_t / c_t

The means are sums over what was drawn, divided by rows times S. A sequence that ended early adds fewer terms and is
divided by as much: every token weighs the same, whatever else is in its unit (Dr. GRPO, arXiv:2503.20783, section 3.2,
of lengths).

`balance: snr` sets c_t to how many stds the mean moves per unit of what the network predicts (s before, t after):

    x0       k_t = alpha_t sqrt(1 - exp(-2h)) / sigma_t, the square root of the SNR gained
    epsilon  k_t sigma_s / alpha_s = sqrt(exp(2h) - 1)
    v        k_t sigma_s

The gradient of log p with respect to the prediction is c_t times a standard normal: undivided, k_t^2 spans three to
four orders of magnitude over ten steps (50 cosine, 1000 linear timesteps), and one clip range freezes the late steps
of an x0 network and starves the early ones.
Of an epsilon network the steps are near balance as they are, but for a last one that lands near zero; divided by
k_t instead its first ratios overflow (docs/landing.md). `none` sets c_t = 1, all there is for tokens.

KL_t is the exact KL of a transition to the reference's (adapter off), averaged or summed over elements as the
log-probs are. It is divided by the same c_t: each transition's objective A l_t - kl_weight KL_t is weighted
by 1 / c_t as a whole, so that the exchange rate between reward and KL is the same at every step and the one
that `kl_weight` names. With a `kl_target` that weight is only the first one: after every iteration the controller of
algorithms/kl.py adapts it to the iteration's mean KL_t, which is undivided, as `policy/kl` records it.

`transitions` keeps the first few alone. Their terms are exact; the others' are left out, so the gradient is that of
the first steps' choices, which is where nearly all of its signal was measured (docs/log.md).

Differs from the paper: the balance, the solver, by default advantages from the group alone, and the KL term.

Legend: B rows, S stochastic steps, N steps drawn by all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rl_motion.algorithms import advantages
from rl_motion.algorithms.kl import adapted_kl_weight
from rl_motion.algorithms.needs import unmet
from rl_motion.config import AlgorithmConfig
from rl_motion.protocols import MotionPolicy, Need, Replay
from rl_motion.types import Experience, Metrics, Trajectory

_KL_WEIGHT = "kl_weight"
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, slots=True)
class _Held:
    """The reference's replay of a trajectory, and how many passes have read it."""

    trajectory: Trajectory
    reference: Replay
    passes: int


class DDPO:
    """The loss above as an `Algorithm` (rl_motion.protocols)."""

    reads = advantages.SETTINGS | {"clip_range", "inner_epochs", "kl_weight", "kl_target", "balance", "transitions"}

    def __init__(self, config: AlgorithmConfig) -> None:
        """Keep the settings."""
        self.needs: frozenset[Need] = frozenset({"snr"} if config.balance == "snr" else ())
        self.inner_epochs = config.inner_epochs
        self.parameters: dict[str, nn.Parameter] = {}
        self._config = config
        self._held: dict[int, _Held] = {}
        self.state: dict[str, Tensor] = {}
        if config.kl_target is not None:
            self.state[_KL_WEIGHT] = torch.tensor(config.kl_weight, dtype=torch.float64)

    @property
    def kl_weight(self) -> float:
        """The weight in force: the job's, or where the controller has taken it."""
        return float(self.state.get(_KL_WEIGHT, self._config.kl_weight))

    def adapt(self, metrics: Metrics) -> None:
        """Adapt the weight of the KL to its target, where there is one; `metrics` are the iteration's means."""
        if self._config.kl_target is not None:
            weight = adapted_kl_weight(self.kl_weight, metrics["policy/kl"], self._config.kl_target)
            self.state = {_KL_WEIGHT: torch.tensor(weight, dtype=torch.float64)}

    def losses(self, policy: MotionPolicy, batch: Experience) -> Iterator[tuple[Tensor, Metrics]]:
        """One optimiser step a pass."""
        yield self.loss(policy, batch)

    def loss(self, policy: MotionPolicy, batch: Experience) -> tuple[Tensor, Metrics]:
        """Mean loss over one unit's rows and steps, and what to record about it.

        Metrics, in total (a mean as the loss is) and per step (over the rows that have it, left out where none has;
        `_s00` is the first drawn, a diffusion's noisiest): `policy/clip_fraction` (ratio outside the range),
        `policy/kl` (exact, to the reference, unbalanced) and `policy/abs_dlogp` (unbalanced); per step alone
        `policy/gradient_share`, 0 where no row has it; with a `kl_target` also `policy/kl_weight`.

        Raises:
            UserError: `balance: snr` and a policy whose steps have no SNR.
        """
        first = self._config.transitions
        replay = policy.replay(batch.trajectory, first=first)
        log_prob_BS = replay.log_prob_BS
        advantage_B1 = batch.advantage_B.to(log_prob_BS)[:, None]
        steps = log_prob_BS.shape[1]
        drawn_BS = batch.trajectory.drawn_BS[:, :steps].to(log_prob_BS.device)
        log_ratio_BS = log_prob_BS - batch.trajectory.log_prob_BS[:, :steps].to(log_prob_BS)
        balance_S = self._balance(replay)
        ratio_BS = torch.exp(log_ratio_BS / balance_S)
        clip = self._config.clip_range
        clipped_BS = ratio_BS.clamp(1.0 - clip, 1.0 + clip)
        policy_loss = -_mean(torch.minimum(ratio_BS * advantage_B1, clipped_BS * advantage_B1), drawn_BS)

        kl_BS = replay.kl(self._reference(policy, batch.trajectory))
        loss = policy_loss
        if self.kl_weight > 0.0:
            loss = loss + self.kl_weight * _mean(kl_BS / balance_S, drawn_BS)

        per_step = {
            "clip_fraction": ((ratio_BS - 1.0).abs() > clip).double(),
            "kl": kl_BS.detach(),
            "abs_dlogp": log_ratio_BS.detach().abs(),
        }
        metrics = {"policy/loss": policy_loss.item(), "policy/ratio_max": ratio_BS[drawn_BS].max().item()}
        metrics |= {f"policy/{name}": value.item() for name, value in self.state.items()}
        share_S = drawn_BS.double().mean(dim=0)
        for name, value_BS in per_step.items():
            value_S = torch.where(drawn_BS, value_BS, 0.0).mean(dim=0)
            metrics[f"policy/{name}"] = value_S.sum().item() / steps
            metrics |= _by_step(name, value_S, share_S)
        norm_S = replay.gradient_norm(policy_loss)
        metrics |= _by_step("gradient_share", norm_S / norm_S.sum().clamp_min(_TINY), torch.ones_like(share_S))
        return loss, metrics

    def _reference(self, policy: MotionPolicy, trajectory: Trajectory) -> Replay:
        """Of the first pass: neither base nor states change until the last, after which it is let go.

        With several inner epochs that takes as much memory as the states of all units together.
        """
        held = self._held.pop(trajectory.unit.index, None)
        if held is None or held.trajectory is not trajectory:
            with torch.no_grad():
                held = _Held(trajectory, policy.replay(trajectory, adapter=False, first=self._config.transitions), 0)
        if held.passes + 1 < self.inner_epochs:
            self._held[trajectory.unit.index] = replace(held, passes=held.passes + 1)
        return held.reference

    def _balance(self, replay: Replay) -> Tensor:
        """c_t [S]."""
        if self._config.balance == "none":
            return replay.log_prob_BS.new_ones(replay.log_prob_BS.shape[1])
        if replay.gain_S is None:
            raise unmet(self._config.name, "snr")
        return replay.gain_S


def _mean(value_BS: Tensor, drawn_BS: Tensor) -> Tensor:
    """Over rows and steps, 0 where nothing was drawn: means of units add up by their rows, however rows are packed."""
    return value_BS[drawn_BS].sum() / drawn_BS.numel()


def _by_step(name: str, value_S: Tensor, share_S: Tensor) -> Metrics:
    """Means over all rows become those over the share of rows that have the step; nothing where none has."""
    pairs = enumerate(zip(value_S.tolist(), share_S.tolist(), strict=True))
    return {f"policy/{name}_s{step:02d}": value / share for step, (value, share) in pairs if share > 0.0}
