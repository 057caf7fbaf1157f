"""A run whose replay differs from its rollout ends at the audit, and nothing of the update is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import AuditError, Job, RunFault
from rl_motion.config.load import dump_job
from rl_motion.learner import Rounds
from rl_motion.protocols import MotionPolicy
from rl_motion.rewards.of_job import RewardFiles
from rl_motion.runtime import frontend
from rl_motion.runtime.build import Training, Workshop, build_policy, build_training
from rl_motion.runtime.commit import Commits
from rl_motion.runtime.frontend import Means
from rl_motion.types import AdapterState, Experience, Motions, Scored, Unit
from tests import fakes
from tests.fakes import real_job, result, rows

Mishap = Callable[[MotionPolicy], None]
QUIET = Console(file=io.StringIO())


def nothing(policy: MotionPolicy) -> None:
    """The control."""


def nudge(policy: MotionPolicy) -> None:
    """One adapter weight, by a thousandth. Of a B matrix: an A matrix acts only once its B is no longer 0."""
    name = next(name for name in policy.adapter_parameters() if ".lora_B." in name)
    with torch.no_grad():
        policy.adapter_parameters()[name].view(-1)[0] += 1e-3


def leave_dropout_on(policy: MotionPolicy) -> None:
    """What a stray `train()` does."""
    policy._denoiser.network.train()  # type: ignore[attr-defined]


@dataclass
class Meddled:
    """A learner whose policy changes after everything was sampled and checked, just before it replays."""

    training: Training
    mishap: Mishap

    def rounds(self, units: Sequence[Unit], own: Sequence[Experience], behaviour: AdapterState | None = None) -> Rounds:
        self.mishap(self.training.policy)
        return self.training.learner.rounds(units, own, behaviour)

    @property
    def skipped(self) -> Sequence[str]:
        return self.training.learner.skipped

    def state_dict_tensors(self) -> dict[str, Tensor]:
        return self.training.learner.state_dict_tensors()

    def load_state_dict_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.training.learner.load_state_dict_tensors(tensors)


def before_replay(mishap: Mishap) -> Workshop:
    def training(job: Job, files: RewardFiles | None = None) -> Training:
        made = build_training(job, files)
        return replace(made, learner=Meddled(made, mishap))

    return replace(fakes.REAL_POLICY.workshop, training=training)


def in_rollout(mishap: Mishap) -> Workshop:
    def policy(job: Job) -> MotionPolicy:
        made = build_policy(job)
        mishap(made)
        return made

    return replace(fakes.REAL_POLICY.workshop, policy=policy)


def before_learning(mishap: Mishap) -> Workshop:
    """While the rewards are computed: the learner can still see that its adapter is not the rollout's."""
    held: list[MotionPolicy] = []

    def training(job: Job, files: RewardFiles | None = None) -> Training:
        made = build_training(job, files)
        held.append(made.policy)
        return made

    def rewards(job: Job) -> Callable[[Motions, Unit], Scored]:
        scorer = fakes.rewards(job)

        def score(motions: Motions, unit: Unit) -> Scored:
            if unit.index == 0:
                mishap(held[0])
            return scorer(motions, unit)

        return score

    return replace(fakes.REAL_POLICY.workshop, training=training, rewards=rewards)


def use(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", Means(workshop, fakes.evaluate))


def assert_nothing_was_learned(folder: Path) -> None:
    """Only the starting point is on disk, as its commit and as the adapter."""
    assert [path.name for path in sorted((folder / "commits").iterdir())] == ["00000000"]
    commit = Commits(folder / "commits", 1).newest()
    assert commit is not None
    assert commit.manifest.iteration == 0
    assert rows(folder) == []
    published = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert published == commit.files["adapter/adapter_model.safetensors"]
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("workshop", "message"),
    [
        (before_replay(nudge), "send the learner's adapter"),
        (before_replay(leave_dropout_on), "dropout left on"),
        (in_rollout(leave_dropout_on), "dropout left on"),
    ],
    ids=["adapter weight", "dropout in replay", "dropout in rollout"],
)
def test_a_run_stops_at_the_audit(
    workshop: Workshop, message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(workshop, monkeypatch)
    with pytest.raises(AuditError, match=rf"(?s)want exactly 0.*{message}.*Nothing was updated") as caught:
        frontend.start(real_job(model, threads=1), tmp_path, QUIET)
    folder = tmp_path / "toy"
    assert any("0 iterations" in note for note in caught.value.__notes__)
    assert_nothing_was_learned(folder)


def test_the_command_line_says_so_and_ends_with_1(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(before_replay(nudge), monkeypatch)
    (tmp_path / "job.yaml").write_text(dump_job(real_job(model, threads=1)))
    ended = CliRunner().invoke(app, ["train", str(tmp_path / "job.yaml"), "--out", str(tmp_path)])
    assert ended.exit_code == 1
    assert "log-prob difference" in ended.stderr
    assert "Nothing was updated" in ended.stderr
    assert_nothing_was_learned(tmp_path / "toy")


def test_an_adapter_that_changes_before_the_learner_starts_is_seen_by_its_checksum(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(before_learning(nudge), monkeypatch)
    with pytest.raises(RunFault, match=r"got units of adapter version 0 .* at version 0 .*; want the present one"):
        frontend.start(real_job(model, threads=1), tmp_path, QUIET)
    assert_nothing_was_learned(tmp_path / "toy")


@pytest.mark.parametrize("make", [before_replay, in_rollout, before_learning])
def test_control_without_the_mishap_the_run_is_as_always(
    make: Callable[[Mishap], Workshop], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = real_job(model, threads=1)
    use(fakes.REAL_POLICY.workshop, monkeypatch)
    plain = result(frontend.start(job, tmp_path / "plain", QUIET).folder)
    use(make(nothing), monkeypatch)
    assert result(frontend.start(job, tmp_path / "meddled", QUIET).folder) == plain
    assert len(plain[1]) == 2
