"""What an answer must be to be believed; each flaw is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rl_motion.runtime.sound import flaw_of_scored, flaw_of_trajectory, size_bytes
from rl_motion.runtime.workers import Behaviour, RewardWorker, RolloutWorker
from rl_motion.types import Scored, Trajectory, Unit
from tests import fakes

JOB = fakes.toy_job()
UNIT = fakes.pool(JOB).draw(0, JOB.train)[1]


def made() -> tuple[Trajectory, Behaviour]:
    from safetensors import torch as safetensors

    from rl_motion.models.adapter import adapter_checksum

    adapter = fakes.policy(JOB).adapter_state()
    behaviour = Behaviour(3, adapter_checksum(adapter), safetensors.save(adapter))
    return RolloutWorker(JOB, fakes.WORKSHOP).sample(behaviour, UNIT), behaviour


def test_sound_answers_pass() -> None:
    trajectory, behaviour = made()
    assert flaw_of_trajectory(trajectory, UNIT, behaviour) is None
    assert flaw_of_scored(RewardWorker(JOB, fakes.WORKSHOP).score(trajectory), UNIT) is None
    assert size_bytes(trajectory) == sum(
        t.numel() * t.element_size()
        for t in (
            trajectory.states,
            trajectory.log_prob_BS,
            trajectory.drawn_BS,
            trajectory.sample,
            trajectory.length_B,
        )
    )


@pytest.mark.parametrize(
    ("spoil", "said", "of_numbers"),
    [
        (lambda t: replace(t, unit=replace(t.unit, index=9)), "trajectory of unit 9", False),
        (lambda t: replace(t, policy_version=2), "adapter version 2; want version 3", False),
        (lambda t: replace(t, adapter_sha256="0" * 64), "adapter version 3", False),
        (lambda t: replace(t, states=t.states[:-1]), "states of shape", False),
        (lambda t: replace(t, states=t.states[:, :-1]), "states of shape", False),
        (lambda t: replace(t, sample=t.sample[:2]), "sample of shape", False),
        (lambda t: replace(t, drawn_BS=t.drawn_BS[:, :0]), "drawn_BS of shape", False),
        (lambda t: replace(t, length_B=t.length_B[:1]), "length_B of shape", False),
        (lambda t: replace(t, log_prob_BS=t.log_prob_BS * float("nan")), "log_prob_BS that is not finite", True),
        (lambda t: replace(t, sample=t.sample / 0.0), "sample that is not finite", True),
    ],
)
def test_flaws_of_trajectories(spoil: Callable[[Trajectory], Trajectory], said: str, of_numbers: bool) -> None:
    trajectory, behaviour = made()
    flaw = flaw_of_trajectory(spoil(trajectory), UNIT, behaviour)
    assert flaw is not None and said in flaw.text and flaw.of_numbers is of_numbers


@pytest.mark.parametrize(
    ("scored", "said", "of_numbers"),
    [
        (lambda u: Scored(7, {"r": torch.zeros(u.batch)}, torch.zeros(u.batch)), "rewards of unit 7", False),
        (lambda u: Scored(u.index, {"r": torch.zeros(1)}, torch.zeros(u.batch)), "reward 'r' of shape (1,)", False),
        (lambda u: Scored(u.index, {}, torch.zeros(u.batch, 1)), "reward 'total' of shape", False),
        (
            lambda u: Scored(u.index, {"r": torch.full((u.batch,), torch.inf)}, torch.zeros(u.batch)),
            "not finite: r",
            True,
        ),
    ],
)
def test_flaws_of_rewards(scored: Callable[[Unit], Scored], said: str, of_numbers: bool) -> None:
    flaw = flaw_of_scored(scored(UNIT), UNIT)
    assert flaw is not None and said in flaw.text and flaw.of_numbers is of_numbers
