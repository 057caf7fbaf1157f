"""What a sweep runs, decided and checked before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config.errors import Paused
from rl_motion.config.load import load_job
from rl_motion.runtime import frontend, sweep
from rl_motion.runtime.sweep_plan import Search, plan

DEMO = load_job("demo")
GRID = ["--grid", "train.learning_rate=3e-4,7e-4"]


def test_a_grid_is_a_product_and_every_trial_a_job_of_its_own() -> None:
    search = Search(
        grid=["train.learning_rate=3e-4,7e-4", "rewards.0.name=tmr,tmr_contrastive", "algorithm.kl_target=null"]
    )
    trials = plan(DEMO, search)
    assert [trial.name for trial in trials] == ["demo-001", "demo-002", "demo-003", "demo-004"]
    got = {(trial.job.train.learning_rate, trial.job.rewards[0].name) for trial in trials}
    assert got == {(rate, name) for rate in (3e-4, 7e-4) for name in ("tmr", "tmr_contrastive")}
    assert trials[0].fields.keys() == {"train.learning_rate", "rewards.0.name", "algorithm.kl_target"}
    assert {trial.fields["train.learning_rate"] for trial in trials} == {3e-4, 7e-4}
    assert {(trial.job.runtime.backend, trial.job.train.seed) for trial in trials} == {("local", 0)}


def test_draws_follow_the_seed_stay_in_their_range_and_meet_every_point_of_the_grid() -> None:
    search = Search(
        ["algorithm.inner_epochs=1,2"],
        ["algorithm.clip_range=0.1:0.2"],
        ["train.learning_rate=1e-5:1e-2"],
        samples=20,
    )
    trials = plan(DEMO, search)
    assert trials == plan(DEMO, search)
    rates = [trial.job.train.learning_rate for trial in trials]
    assert len(set(rates)) == len(trials) == 40
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 8 < sum(rate < 3.16e-4 for rate in rates) < 32  # half the decades: uniform draws would have one below
    clips = [trial.job.algorithm.clip_range for trial in trials]
    assert all(0.1 <= clip <= 0.2 for clip in clips)
    assert abs(np.corrcoef(clips, np.log(rates))[0, 1]) < 0.4  # one draw for both would be 1
    assert [trial.job.algorithm.inner_epochs for trial in trials[:4]].count(1) == 2
    other = DEMO.model_copy(update={"train": DEMO.train.model_copy(update={"seed": 1})})
    assert [trial.fields for trial in plan(other, search)] != [trial.fields for trial in trials]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing varies", "--grid"]),
        (["--grid", "train.learning_rte=1,2"], ["unknown key", "did you mean 'train.learning_rate'"]),
        (["--grid", "train.learning_rate=1e-3,fast"], ["train.learning_rate", "'fast'", "valid number"]),
        (["--grid", "train.learning_rate"], ["a.b=v1,v2"]),
        (["--grid", "train.learning_rate=[1"], ["values between commas"]),
        (["--grid", "train.seed=1,1"], ["2 trials, of which 1 differ"]),
        ([*GRID, "--samples", "2"], ["4 trials, of which 2 differ", "--samples"]),
        ([*GRID, "--uniform", "train.learning_rate=0:1"], ["in two options"]),
        (["--uniform", "train.learning_rate=1:0"], ["low:high"]),
        (["--loguniform", "train.learning_rate=0:1"], ["two positive numbers"]),
        (["--uniform", "train.iterations=10:20"], ["train.iterations", "integer"]),
        (["--grid", "name=a,b"], ["sets itself"]),
        (["--grid", "tracking.experiment=a,b"], ["decides no number"]),
        ([*GRID, "--metric", "held_out/oracle_success"], ["training reward", "held-out", "reward/total"]),
        ([*GRID, "--metric", "reward/tmrr"], ["did you mean 'reward/tmr'"]),
        (["--grid", "rewards.0.weight=1,2"], ["judged by another sum", "reward/tmr"]),
        ([*GRID, "--set", "tracking.mlflow_uri=https://u:secret@h"], ["MLFLOW_TRACKING_PASSWORD"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_is_wrong_is_refused_before_anything_starts(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    ended = CliRunner().invoke(app, ["sweep", "demo", *arguments, "--out", str(tmp_path / "out")])
    assert ended.exit_code == 2, ended.output
    assert all(word in ended.stderr for word in ("got", "want", *words)), ended.stderr
    assert "secret" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_trial_that_paused_ends_with_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused is a KeyboardInterrupt: uncaught it would end the trial's process before it could say why."""
    told: list[dict] = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=SimpleNamespace(report=told.append)))

    def end_with(error: BaseException) -> None:
        def start(*_: object) -> None:
            raise error

        monkeypatch.setattr(frontend, "start", start)
        sweep._trial({"trial": "demo"}, {"demo": DEMO}, tmp_path, frontend.MEANS)

    end_with(Paused("jerk is outside its band"))
    end_with(OSError("no room"))
    assert told == [{"reason": "jerk is outside its band"}, {"reason": "OSError: no room"}]
    # Negative control: what a user's Ctrl-C raises goes on its way.
    with pytest.raises(KeyboardInterrupt):
        end_with(KeyboardInterrupt())
