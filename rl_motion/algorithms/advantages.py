"""Advantages: how much better a sample is than its prompt lets one expect.

`algorithm.advantages` chooses the estimator. All of them see a whole iteration and return one advantage per row, in
float64, clipped; what one remembers between iterations is a flat dict of tensors, which the learner commits.

    group           (r - mean of the prompt's samples) / (scale + floor)
    running         the same, over the last rewards of the prompt, of this and of earlier iterations
    leave_one_out   r - mean of the prompt's other samples, divided by nothing

    scale = (1 - shrinkage) * std + shrinkage * base_std

`base_std` is the pooled std within prompts in the run's first iteration, whose samples are the base's own. Shrinking
towards it (and not towards the present one) keeps the differences of prompts that the policy has mastered small:
a group's own std blows them up to unit size.

A unit with a reward that is not finite has NaN for advantages, and those of the others are as if it were not there.

Legend: B rows of a unit, prompt-major; P prompts, N samples per prompt, M rewards remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rl_motion.config import AlgorithmConfig, RunFault
from rl_motion.types import Unit

Memory = Mapping[str, Tensor]
"""What an estimator remembers: `base_std` [], `rewards/<prompt id>` [M], oldest first; empty where it is nothing."""
Rewarded = Sequence[tuple[Unit, Tensor]]
"""The iteration's units in order, each with the total reward of its rows [B]."""
Estimator = Callable[[Rewarded, Memory, AlgorithmConfig], tuple[list[Tensor], Memory]]
"""(rewarded, memory, config) -> (advantages [B] of each unit, the memory afterwards); changes no argument."""

SETTINGS = frozenset({
    "advantages", "advantage_clip", "advantage_floor", "advantage_shrinkage", "advantage_buffer_size",
    "advantage_min_count",
})  # fmt: skip
"""What estimators read of `AlgorithmConfig`, and with them every algorithm that uses advantages."""
_BASE_STD, _REWARDS = "base_std", "rewards/"


def group_advantages(
    reward_B: Tensor, samples_per_prompt: int, config: AlgorithmConfig, base_std: float = 0.0
) -> Tensor:
    """(reward - mean) / (scale + floor) over the samples of each prompt, clipped; float64 [B].

    Per-prompt statistics as in DDPO (arXiv:2305.13301, section 5.2), from the current samples alone. The std
    is that of the group itself (not Bessel's); the floor keeps tiny differences from being blown up to unit
    size.

    Args:
        reward_B: total reward of each row of one unit, prompt-major.
        samples_per_prompt: N; divides B.
        config: `advantage_floor` (in units of the reward), `advantage_shrinkage` and `advantage_clip`.
        base_std: what the std is shrunk towards, in units of the reward.

    Raises:
        RunFault: a reward is not finite.
        ValueError: B is not a multiple of N.
    """
    reward_PN = _groups(reward_B, samples_per_prompt)
    std_P1 = reward_PN.std(dim=1, correction=0, keepdim=True)
    return _standardised(reward_PN - reward_PN.mean(dim=1, keepdim=True), std_P1, base_std, config)


def leave_one_out_advantages(reward_B: Tensor, samples_per_prompt: int, config: AlgorithmConfig) -> Tensor:
    """reward - mean of the prompt's other samples, clipped; float64 [B], in units of the reward.

    RLOO (arXiv:2402.14740, section 3.2): the baseline does not depend on the sample that it judges, so the gradient
    has no bias. The paper divides by nothing, so neither does this: floor and shrinkage do not enter, and a weight
    of the KL means more or less than with the others, as the rewards' std is below or above 1.

    Args:
        reward_B: total reward of each row of one unit, prompt-major.
        samples_per_prompt: N, at least 2; divides B.
        config: `advantage_clip`, here in units of the reward.

    Raises:
        RunFault: a reward is not finite.
        ValueError: B is not a multiple of N.
    """
    reward_PN = _groups(reward_B, samples_per_prompt)
    others_PN = (reward_PN.sum(dim=1, keepdim=True) - reward_PN) / (samples_per_prompt - 1)
    return (reward_PN - others_PN).clamp(-config.advantage_clip, config.advantage_clip).reshape(-1)


def group(rewarded: Rewarded, memory: Memory, config: AlgorithmConfig) -> tuple[list[Tensor], Memory]:
    """`group_advantages` of every unit."""
    memory = _calibrated(rewarded, memory, config)
    base_std = _base_std(memory)
    found = [group_advantages(reward_B, unit.samples_per_prompt, config, base_std) for unit, reward_B in rewarded]
    return found, memory


def running(rewarded: Rewarded, memory: Memory, config: AlgorithmConfig) -> tuple[list[Tensor], Memory]:
    """Mean and std over the prompt's last `advantage_buffer_size` rewards, the present ones included.

    The tracker of DDPO (arXiv:2305.13301, section 5.2; `PerPromptStatTracker` of kvablack/ddpo-pytorch): a prompt with
    fewer than `advantage_min_count` rewards in its buffer is judged by mean and std of the whole iteration. Differs:
    prompts are told apart by id (text and length), and the floor stands where the tracker adds 1e-6.
    """
    after = dict(_calibrated(rewarded, memory, config))
    groups = [_groups(reward_B, unit.samples_per_prompt) for unit, reward_B in rewarded]
    whole_M = torch.cat([reward_PN.reshape(-1) for reward_PN in groups])
    found = []
    for (unit, _), reward_PN in zip(rewarded, groups, strict=True):
        known = []
        for prompt, reward_N in zip(unit.prompts, reward_PN, strict=True):
            name = _REWARDS + prompt.id
            seen_M = torch.cat([after[name], reward_N]) if name in after else reward_N
            after[name] = seen_M[-config.advantage_buffer_size :].clone()
            known.append(after[name] if len(after[name]) >= config.advantage_min_count else whole_M)
        mean_P1 = torch.stack([known_M.mean() for known_M in known])[:, None]
        std_P1 = torch.stack([known_M.std(correction=0) for known_M in known])[:, None]
        found.append(_standardised(reward_PN - mean_P1, std_P1, _base_std(after), config))
    return found, after


def leave_one_out(rewarded: Rewarded, memory: Memory, config: AlgorithmConfig) -> tuple[list[Tensor], Memory]:
    """`leave_one_out_advantages` of every unit."""
    return [leave_one_out_advantages(reward_B, unit.samples_per_prompt, config) for unit, reward_B in rewarded], memory


ADVANTAGES: dict[str, Estimator] = {"group": group, "running": running, "leave_one_out": leave_one_out}
"""Every estimator by the name that jobs use."""


def estimate(rewarded: Rewarded, memory: Memory, config: AlgorithmConfig) -> tuple[list[Tensor], Memory]:
    """The advantages of every unit by the job's estimator, NaN in units with a reward that is not finite.

    Neither other units' advantages nor the memory depend on such a unit: `base_std` comes from the first iteration
    that has others, from these.
    """
    sound = [bool(torch.isfinite(reward_B).all()) for _, reward_B in rewarded]
    kept = [pair for pair, finite in zip(rewarded, sound, strict=True) if finite]
    found, after = ADVANTAGES[config.advantages](kept, memory, config) if kept else ([], memory)
    following = iter(found)
    advantages = [
        next(following) if finite else torch.full_like(reward_B, torch.nan, dtype=torch.float64)
        for (_, reward_B), finite in zip(rewarded, sound, strict=True)
    ]
    return advantages, after


def _groups(reward_B: Tensor, samples_per_prompt: int) -> Tensor:
    """The rewards as float64 [P, N], checked."""
    if len(reward_B) % samples_per_prompt:
        raise ValueError(
            f"got {len(reward_B)} rewards for {samples_per_prompt} samples per prompt; want whole groups; "
            "pass one whole unit"
        )
    if not bool(torch.isfinite(reward_B).all()):
        bad = int((~torch.isfinite(reward_B)).nonzero()[0])
        raise RunFault(
            f"got reward {reward_B[bad].item()} in row {bad}; want finite rewards; correct the reward and "
            "resume from the last commit"
        )
    return reward_B.double().reshape(-1, samples_per_prompt)


def _standardised(deviation_PN: Tensor, std_P1: Tensor, base_std: float, config: AlgorithmConfig) -> Tensor:
    """Deviations over their scale and the floor, clipped [B]; 0 / 0 is 0."""
    scale_P1 = (1.0 - config.advantage_shrinkage) * std_P1 + config.advantage_shrinkage * base_std
    advantage_PN = torch.nan_to_num(deviation_PN / (scale_P1 + config.advantage_floor), nan=0.0)
    return advantage_PN.clamp(-config.advantage_clip, config.advantage_clip).reshape(-1)


def _calibrated(rewarded: Rewarded, memory: Memory, config: AlgorithmConfig) -> Memory:
    """The memory with `base_std`, measured once: sqrt of the mean over prompts of the variance within a prompt."""
    if config.advantage_shrinkage == 0.0 or _BASE_STD in memory:
        return memory
    variances = [_groups(reward_B, unit.samples_per_prompt).var(dim=1, correction=0) for unit, reward_B in rewarded]
    return {**memory, _BASE_STD: torch.cat(variances).mean().sqrt()}


def _base_std(memory: Memory) -> float:
    return float(memory.get(_BASE_STD, 0.0))
