"""Asynchronous runs: an iteration is sampled with the adapter of k updates before, always exactly that one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, RunFault
from rl_motion.runtime import frontend, loop
from rl_motion.runtime.local import LocalBackend
from tests import fakes
from tests.fakes import result, rows, toy_job


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def run(job: Job, out: Path) -> Path:
    return frontend.start(job, out, Console(file=io.StringIO())).folder


def job(staleness: int, iterations: int = 6, **runtime: Any) -> Job:
    return toy_job(iterations=iterations, mode="async", staleness=staleness, **runtime)


@pytest.mark.parametrize("staleness", [1, 3])
def test_every_sample_is_as_old_as_it_says(staleness: int, tmp_path: Path) -> None:
    found = [row["policy/staleness"] for row in rows(run(job(staleness), tmp_path))]
    assert found == [float(min(iteration, staleness)) for iteration in range(6)]


def test_ratios_are_against_the_behaviour_policy(tmp_path: Path) -> None:
    """In the first inner epoch a synchronous ratio is 1; an asynchronous one is not, once the adapter has moved on."""
    sync, stale = (rows(run(one, tmp_path)) for one in (toy_job(iterations=3), job(1, iterations=3)))
    assert [row["policy/abs_dlogp"] for row in sync] == [0.0] * 3
    assert [row["policy/abs_dlogp"] > 0 for row in stale] == [False, True, True]


def test_it_learns(tmp_path: Path) -> None:
    for staleness in (1, 4):
        found = [row["reward/total"] for row in rows(run(job(staleness, iterations=40), tmp_path))]
        assert sum(found[-10:]) / 10 > sum(found[:10]) / 10 + 0.2


def test_the_learner_refuses_what_is_older_than_the_bound() -> None:
    """The loop never asks for it: admission control, not discarding."""
    made = job(1)
    backend = LocalBackend(made, fakes.WORKSHOP)
    first = backend.start()
    pool = fakes.pool(made)
    old = backend.ask(pool.draw(0, made.train), first.behaviour)()
    backend.learn(old)
    second = backend.learn(backend.ask(pool.draw(1, made.train), first.behaviour)())
    assert second.snapshot.version == 2
    with pytest.raises(RunFault, match=r"got units of adapter version 0 .* at version 2 .*at most 1 updates before"):
        backend.learn(backend.ask(pool.draw(2, made.train), first.behaviour)())


def test_at_most_so_many_iterations_are_asked_ahead() -> None:
    class Counting(LocalBackend):
        open = most = 0

        def ask(self, *arguments: Any) -> Any:
            answer = super().ask(*arguments)
            self.open += 1
            self.most = max(self.most, self.open)

            def take() -> Any:
                self.open -= 1
                return answer()

            return take

    made = job(3)
    backend = Counting(made, fakes.WORKSHOP)
    loop.train(made, fakes.pool(made), backend, loop.State(backend.start()), lambda *_: None)
    assert (backend.most, backend.open) == (4, 0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("staleness", "workers"), [(1, 1), (2, 3)])
def test_ray_gives_the_bits_of_local(staleness: int, workers: int, tmp_path: Path) -> None:
    local = result(run(job(staleness), tmp_path))
    assert result(run(job(staleness, backend="ray", rollout_workers=workers), tmp_path)) == local
    assert local != result(run(toy_job(iterations=6), tmp_path))
