"""A run is seen once a second, obeys requests, and goes on whatever fails in being watched."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl_motion.config import RunFault, UserError
from rl_motion.config.load import dump_job, load_job
from rl_motion.runtime import control, status_file, watcher
from rl_motion.runtime import held as held_module
from rl_motion.runtime.held import held, is_held
from rl_motion.runtime.rates import Rates
from rl_motion.runtime.status import Status
from rl_motion.runtime.watcher import watching_run
from tests.fakes import toy_job
from tests.watching import QUIET, Seen

JOB = toy_job(backend="ray", rollout_workers=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that this process holds, watched often."""
    monkeypatch.setattr(watcher, "_PERIOD_S", 0.02)
    run = tmp_path / "toy"
    run.mkdir()
    (run / "job.yaml").write_text(dump_job(JOB))
    with held(run):
        yield run


def wait_for(true: Callable[[], Any], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def trains(folder: Path) -> bool:
    return status_file.path_of(folder).exists() and status_file.read(folder).state == "RUNNING"


def pools_of(status: status_file.RunStatus) -> dict[str, int]:
    assert status.workers is not None
    return {pool.role: pool.wanted for pool in status.workers.pools}


def test_status_says_how_a_run_is_doing(folder: Path) -> None:
    with watching_run(folder, JOB, Seen(), behind=lambda: 3) as seen:
        wait_for(status_file.path_of(folder).exists)
        assert status_file.read(folder).state == "STARTING"
        seen.begin(1)
        seen.iteration(1, {"reward/total": 0.5, "time/wait_s": 2.0, "policy/ratio_max": 1.0})
        wait_for(lambda: status_file.read(folder).done == 2)
        now = status_file.read(folder)
    assert (now.state, now.run, now.iterations, now.mlflow_behind) == ("RUNNING", "toy", 4, 3)
    assert now.metrics == {"reward/total": 0.5, "time/wait_s": 2.0}
    assert now.workers == QUIET
    assert now.iteration_s is not None and now.left_s == pytest.approx(2 * now.iteration_s)
    assert status_file.read(folder).state == "EVALUATING"
    status_file.ended(folder, "FINISHED", 5.0)
    assert (status_file.read(folder).state, status_file.read(folder).unix_s) == ("FINISHED", 5.0)


def test_numbers_that_are_not_finite_do_not_reach_the_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Seen(replace(QUIET, oldest_s=float("nan")))
    with watching_run(folder, JOB, broken) as seen:
        seen.begin(0)
        seen.iteration(0, {"reward/total": float("nan"), "time/wait_s": float("inf")})
        wait_for(lambda: status_file.path_of(folder).exists() and status_file.read(folder).done == 1)
    text = status_file.path_of(folder).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert status_file.read(folder).metrics == {"reward/total": None, "time/wait_s": None}
    assert status_file.read(folder).workers is None
    assert "not finite" in caplog.text


def test_readers_never_see_half_a_file(folder: Path) -> None:
    with watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        stop = time.monotonic() + 0.5
        while time.monotonic() < stop:
            status_file.read(folder)


def test_what_fails_in_watching_is_logged_once_and_the_run_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Seen(RuntimeError("no answer"))
    with watching_run(folder, JOB, backend) as seen:
        seen.begin(0)
        wait_for(lambda: backend.looks > 5)
        backend.said = QUIET
        wait_for(lambda: status_file.read(folder).workers == QUIET)
    warned = [r for r in caplog.records if r.levelno == logging.WARNING and r.name == watcher.__name__]
    assert len(warned) == 1 and "the run goes on" in warned[0].getMessage()


def test_a_backend_that_hangs_does_not_hold_up_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "_JOIN_S", 0.1)
    forever = threading.Event()

    class Hanging(Seen):
        def status(self) -> Status:
            forever.wait()
            return super().status()

    started = time.monotonic()
    with watching_run(folder, JOB, Hanging()):
        pass
    assert time.monotonic() - started < 2.0
    forever.set()


def test_a_run_that_fails_is_not_said_to_be_evaluated(folder: Path) -> None:
    with pytest.raises(RunFault), watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        raise RunFault("no more")
    assert status_file.read(folder).state == "RUNNING"
    status_file.ended(folder, "FAILED", 1.0)
    assert status_file.read(folder).state == "FAILED"


def test_a_run_that_is_over_is_not_written_again(folder: Path) -> None:
    with pytest.raises(RunFault), watching_run(folder, JOB, Seen()):
        wait_for(status_file.path_of(folder).exists)
        raise RunFault("discarded")
    status_file.path_of(folder).unlink()
    time.sleep(0.1)
    assert not status_file.path_of(folder).exists()
    status_file.ended(folder, "FAILED", 1.0)
    assert not status_file.path_of(folder).exists()


def test_scaling_reaches_backend_and_job_file(folder: Path) -> None:
    backend = Seen()
    with watching_run(folder, JOB, backend) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        before, after = control.scale(folder, {"rollout": 5, "reward": 2}, lambda passed: None, 5.0)
    assert (before["rollout"], after["rollout"], before["reward"], after["reward"]) == (2, 5, 1, 2)
    assert backend.scaled == [("rollout", 5, "rl-motion scale"), ("reward", 2, "rl-motion scale")]
    kept = load_job(folder / "job.yaml")
    assert (kept.runtime.rollout_workers, kept.runtime.reward_workers) == (5, 2)
    assert kept.model_copy(update={"runtime": JOB.runtime}) == JOB
    assert not control.path_of(folder).exists()


def test_what_the_backend_refuses_is_told_and_not_kept(folder: Path) -> None:
    with watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        with pytest.raises(UserError, match="want luck"):
            control.scale(folder, {"rollout": 13}, lambda passed: None, 5.0)
        with pytest.raises(UserError, match="a bug in scaling"):
            control.scale(folder, {"rollout": 666}, lambda passed: None, 5.0)
        assert pools_of(status_file.read(folder))["rollout"] == 2
    assert load_job(folder / "job.yaml") == JOB


def test_a_size_above_the_jobs_own_maximum_is_refused_before_it_is_asked_for(folder: Path) -> None:
    job = toy_job(backend="ray", rollout_workers=2, max_rollout_workers=4)
    (folder / "job.yaml").write_text(dump_job(job))
    backend = Seen()
    with watching_run(folder, job, backend) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        with pytest.raises(UserError, match="max_rollout_workers=4 and rollout_workers=5"):
            control.scale(folder, {"rollout": 5}, lambda passed: None, 5.0)
    assert backend.scaled == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"id": "a"}',
        '{"id": "a", "rollout_workers": "4"}',
        '{"id": "a", "rollout_workers": 0}',
        '{"id": "a", "rollout_workers": 4097}',
        '{"id": "a", "rollout_workers": 2.5}',
        '{"id": "a", "rollout_workers": true}',
        '{"id": "a", "learner_workers": 2}',
        '{"id": "a", "rollout_workers": 2, "format": 2}',
        " " * 20_000,
    ],
)
def test_other_requests_are_put_aside(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    backend = Seen()
    with watching_run(folder, JOB, backend) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        control.path_of(folder).write_text(text)
        wait_for(lambda: not control.path_of(folder).exists())
        wait_for(lambda: "put aside" in caplog.text)
    assert backend.scaled == []


def test_requests_wait_until_training_and_old_ones_are_not_obeyed(folder: Path) -> None:
    control.path_of(folder).write_text('{"id": "old", "rollout_workers": 7}')
    backend = Seen()
    with watching_run(folder, JOB, backend) as seen:
        assert not control.path_of(folder).exists()
        control.path_of(folder).write_text('{"id": "new", "rollout_workers": 3}')
        looks = backend.looks
        wait_for(lambda: backend.looks > looks + 2)
        assert backend.scaled == []
        seen.begin(0)
        wait_for(lambda: backend.scaled)
    assert [workers for _, workers, _ in backend.scaled] == [3]


def test_who_gets_no_answer_takes_the_request_back(folder: Path) -> None:
    with watching_run(folder, JOB, Seen()):  # never begins to train
        wait_for(status_file.path_of(folder).exists)
        with pytest.raises(UserError, match="workers are being made"):
            control.scale(folder, {"rollout": 5}, lambda passed: None, 0.3)
    status_file.ended(folder, "RUNNING", time.time())  # and now it does not listen
    with pytest.raises(RunFault, match="no answer within"):
        control.scale(folder, {"rollout": 5}, lambda passed: None, 0.3)
    assert not control.path_of(folder).exists()


def test_a_request_is_waited_for_as_long_as_it_may_be(folder: Path) -> None:
    with watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
        passed: list[float] = []
        control.scale(folder, {"rollout": 5}, passed.append, 5.0)
        assert all(0.0 <= seconds < 5.0 for seconds in passed)


def test_somebody_elses_request_is_not_overwritten(folder: Path) -> None:
    with watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
    status_file.ended(folder, "RUNNING", time.time())  # it does not listen any more
    control.path_of(folder).write_text('{"id": "other", "rollout_workers": 3}')
    with pytest.raises(RunFault, match="another request"):
        control.scale(folder, {"rollout": 5}, lambda passed: None, 0.3)
    assert json.loads(control.path_of(folder).read_text())["id"] == "other"


def test_only_a_run_under_way_is_asked(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no status\.json"):
        control.scale(folder, {"rollout": 5}, lambda passed: None)
    with watching_run(folder, JOB, Seen()) as seen:
        seen.begin(0)
        wait_for(lambda: trains(folder))
    with pytest.raises(UserError, match="is being evaluated"):
        control.scale(folder, {"rollout": 5}, lambda passed: None)
    status_file.ended(folder, "KILLED", time.time())
    with pytest.raises(UserError, match=r"resume .*runtime\.rollout_workers=5"):
        control.scale(folder, {"rollout": 5}, lambda passed: None)
    local = status_file.read(folder).model_copy(update={"backend": "local", "state": "RUNNING"})
    status_file.write(folder, local)
    with pytest.raises(UserError, match="a run in one process"):
        control.scale(folder, {"rollout": 5}, lambda passed: None)


def test_a_held_run_can_be_told_from_one_that_is_gone(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with held(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(UserError, match="another process"), held(tmp_path):
            pass
    assert not is_held(tmp_path)


def test_looking_does_not_keep_a_run_from_being_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path):
        pass

    def while_looked_at() -> None:
        looking = os.open(tmp_path / "logs" / "lock", os.O_RDONLY)
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, os.close, [looking]).start()
        with held(tmp_path):
            pass

    while_looked_at()
    monkeypatch.setattr(held_module, "_PATIENCE_S", 0.0)
    with pytest.raises(UserError, match="another process"):
        while_looked_at()
    time.sleep(0.3)


def test_rates_are_of_the_last_minutes() -> None:
    rates, rollout = Rates(), QUIET.pools[0]

    def at(now_s: float, busy: int, rows: int) -> Any:
        pool = replace(rollout, busy=busy, rows=rows)
        return rates.look(replace(QUIET, pools=(pool,)), now_s).get("rollout")

    assert at(0.0, 2, 0) is None
    first = at(10.0, 0, 100)  # two of two were busy for ten seconds
    assert (first.utilisation, first.rows_per_s, first.rows_per_worker_s) == (1.0, 10.0, 5.0)
    assert at(20.0, 0, 100).utilisation == 0.5
    for second in range(21, 400):
        last = at(float(second), 1, 100 + 4 * (second - 20))
    assert last.utilisation == pytest.approx(0.5, abs=0.01)  # what was long ago is forgotten
    assert last.rows_per_s == pytest.approx(4.0)
