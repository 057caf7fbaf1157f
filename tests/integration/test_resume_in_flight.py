"""A resumed run asks again for the units that were in flight, with the adapters they had; set aside stays set aside."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rl_motion.config import Job
from rl_motion.runtime import frontend, resuming, run
from rl_motion.runtime.backend import Rollouts
from rl_motion.runtime.commit import Commit
from rl_motion.runtime.ledger import Ledger
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.loop import State
from rl_motion.runtime.workers import Behaviour, Snapshot
from rl_motion.types import Unit
from tests import fakes
from tests.fakes import result, rows, toy_job

QUIET = Console(file=io.StringIO())


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys, whose mishap is part of their name; apart from it the jobs are the same."""
    original = resuming.settings_of
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.setattr(resuming, "settings_of", lambda job: original(fakes.with_model(job, "toy")))


def straight(job: Job, out: Path) -> Path:
    return frontend.start(job, out / "straight", QUIET).folder


def interrupted(job: Job, out: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        frontend.start(fakes.with_model(job, f"toy:interrupt={at}"), out, QUIET)
    return out / job.name


def resumed(folder: Path) -> Path:
    return frontend.resume(folder, ["model.name=toy"], QUIET).folder


def committed(folder: Path) -> dict[str, bytes]:
    """What the last commit holds, its manifest apart."""
    last = sorted((folder / "commits").iterdir())[-1]
    files = [path for path in last.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(last)): path.read_bytes() for path in files}


def ahead(staleness: int) -> Job:
    return toy_job(iterations=7, mode="async", staleness=staleness)


@pytest.mark.parametrize("staleness", [1, 3])
def test_units_in_flight_are_sampled_with_the_adapters_they_had(staleness: int, tmp_path: Path) -> None:
    whole = straight(ahead(staleness), tmp_path)
    assert result(whole)[0] != result(straight(toy_job(iterations=7), tmp_path / "sync"))[0]
    for at in (1, 2, 3, 5):
        folder = interrupted(ahead(staleness), tmp_path / str(at), at)
        manifest = json.loads((folder / "commits" / f"{at:08d}" / "manifest.json").read_text())
        assert list(manifest["behaviour"]) == [str(v) for v in range(max(0, at - staleness), at)]
        assert result(resumed(folder)) == result(whole)
        assert committed(folder) == committed(whole)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_units_in_flight_may_move_to_ray(tmp_path: Path) -> None:
    whole = straight(ahead(2), tmp_path)
    folder = interrupted(ahead(2), tmp_path, 3)
    frontend.resume(folder, ["model.name=toy", "runtime.backend=ray", "runtime.rollout_workers=2"], QUIET)
    assert result(folder) == result(whole)


@pytest.mark.parametrize("staleness", [1, 3])
def test_control_without_the_older_adapters_the_bits_differ(
    staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the units in flight are sampled with the newest adapter instead."""
    whole = result(straight(ahead(staleness), tmp_path))
    original = run._state

    def forgetful(commit: Commit, snapshot: Snapshot) -> State:
        state = original(commit, snapshot)
        newest = snapshot.behaviour
        return replace(state, older=[Behaviour(o.version, newest.sha256, newest.adapter) for o in state.older])

    folder = interrupted(ahead(staleness), tmp_path, 3)
    monkeypatch.setattr(run, "_state", forgetful)
    assert result(resumed(folder))[0] != whole[0]


def picky(self: LocalBackend, units: Sequence[Unit], behaviour: Behaviour) -> Callable[[], Rollouts]:
    """Cannot work on one of the prompts."""
    bad = {prompt.id: "too hard" for unit in units for prompt in unit.prompts if prompt.text[-1] == "7"}
    kept = [unit for unit in units if not any(prompt.id in bad for prompt in unit.prompts)]
    return lambda: replace(self._collect(kept, behaviour), set_aside=bad)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_prompts_that_were_set_aside_stay_so(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalBackend, "ask", picky)
    job = toy_job(iterations=6, mode=mode)
    whole = straight(job, tmp_path)
    folder = resumed(interrupted(job, tmp_path, 3))
    assert result(folder) == result(whole)
    assert committed(folder) == committed(whole)
    ledger = Ledger.from_bytes(committed(folder)["ledger.json"])
    assert len(ledger.set_aside) == 1 == rows(folder)[-1]["prompts/set_aside"]
    assert ledger.taught.total() == sum(row["reward/count"] for row in rows(folder)) / 4 < 24


def test_control_without_the_ledger_what_was_set_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the loop forgets whom it set aside, and the ledger forgets what taught."""
    monkeypatch.setattr(LocalBackend, "ask", picky)
    whole = straight(toy_job(iterations=6), tmp_path)
    folder = interrupted(toy_job(iterations=6), tmp_path, 3)
    monkeypatch.setattr(Ledger, "from_bytes", lambda content: Ledger())
    assert committed(resumed(folder))["ledger.json"] != committed(whole)["ledger.json"]


def as_in_the_first_format(folder: Path) -> None:
    """Make a run's commits what they were before there was a ledger."""
    for path in folder.glob("commits/*/manifest.json"):
        content = json.loads(path.read_text()) | {"format": 1}
        numbers = ("adapter.", "algorithm.", "calibration", "model.", "policy.", "prompts.sources", "rewards", "train.")
        kept = {n: v for n, v in content["job"].items() if n.startswith(numbers)}
        del kept["train.iterations"], kept["train.publish"]
        content["job"] = kept
        for newer in ("behaviour", "best"):
            del content[newer]
        del content["files"]["ledger.json"]
        (path.parent / "ledger.json").unlink()
        path.write_text(json.dumps(content))


def test_a_run_of_the_first_format_goes_on(tmp_path: Path) -> None:
    whole = straight(toy_job(), tmp_path)
    folder = interrupted(toy_job(), tmp_path, 2)
    as_in_the_first_format(folder)
    (adapter, got), (same, want) = result(resumed(folder)), result(whole)
    drawn = [row.pop("prompts/drawn") for row in got], [row.pop("prompts/drawn") for row in want]
    assert (adapter, got) == (same, want)
    assert drawn == ([4, 8, 4, 8], [4, 8, 8, 9])  # from its first ledger on
    taught = Ledger.from_bytes(committed(folder)["ledger.json"]).taught
    assert sum(taught.values()) == 2 * 4  # of the two iterations since


def test_a_commit_without_an_older_adapter_is_passed_over(tmp_path: Path) -> None:
    """It could not be gone on from: the one before is read, and what it lacked is made again."""
    whole = straight(ahead(1), tmp_path)
    folder = interrupted(ahead(1), tmp_path, 4)
    shutil.rmtree(folder / "commits" / "00000004" / "behaviour")
    assert result(resumed(folder)) == result(whole)
