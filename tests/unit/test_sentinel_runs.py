"""Sentinels of a run: measured with every validation, said where the reward rises outside their band, and a pause."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest
from pydantic import ValidationError
from rich.console import Console

from rl_motion.config import Job
from rl_motion.config.errors import Paused
from rl_motion.evaluation.sentinels import Band, Bands
from rl_motion.runtime import frontend, resuming, status_file
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.validate import validation_units
from tests import fakes
from tests.fakes import result, rows, toy_job


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)


def job(pause=False, bands="first", learning_rate=0.5):
    tree = toy_job(iterations=6).model_dump()
    tree["evaluation"] |= {"validate_every": 2, "validation_prompts": 4, "samples_per_prompt": 3}
    tree["sentinels"] |= {"pause": pause, "bands": bands}
    tree["train"] |= {"learning_rate": learning_rate}
    return Job.model_validate(tree)


def started(job, out):
    said = io.StringIO()
    return frontend.start(job, out, Console(file=said)).folder, said


def test_every_validation_has_them_beside_the_base(tmp_path):
    folder, _ = started(job(), tmp_path)
    validated = [row for row in rows(folder) if "validation/reward" in row]
    assert len(validated) == 3
    energies = [row["sentinel/energy"] for row in validated]
    base = {(row["sentinel/energy"] + 0.02) / row["sentinel/energy_ratio"] - 0.02 for row in validated}
    assert max(base) - min(base) < 1e-9, "the base is measured once, on the same prompts and noise"
    assert energies == sorted(energies)
    assert not any(
        name.startswith("sentinel/") for row in rows(folder) if "validation/reward" not in row for name in row
    )


def test_the_base_is_the_adapter_that_changes_nothing(tmp_path):
    asked = job()
    backend = LocalBackend(asked, fakes.WORKSHOP)
    untrained = backend.start().behaviour
    units = validation_units(asked, fakes.validation(asked), fakes.pool(asked))
    assert all(unit.watched for unit in units)
    rollouts = backend.ask(units, untrained)()
    wanted = sum(scored.sentinels["energy"].double().sum() for scored in rollouts.scored) / 12
    folder, _ = started(asked, tmp_path)
    row = next(row for row in rows(folder) if "validation/reward" in row)
    assert (row["sentinel/energy"] + 0.02) / row["sentinel/energy_ratio"] - 0.02 == pytest.approx(float(wanted))


def test_units_of_training_are_not_measured():
    asked = job()
    units = fakes.pool(asked).again(0, asked.train, [p.id for p in fakes.pool(asked).prompts[:4]])
    backend = LocalBackend(asked, fakes.WORKSHOP)
    assert all(scored.sentinels == {} for scored in backend.ask(units, backend.start().behaviour)().scored)


def test_a_rise_outside_the_band_is_said_and_the_run_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rl_motion"):
        folder, said = started(job(), tmp_path)
    alarmed = [row["sentinel/alarms"] for row in rows(folder) if "sentinel/alarms" in row]
    assert alarmed[-1] == 1.0
    assert len(rows(folder)) == 6
    assert "the validation reward rose by" in caplog.text and "energy is" in caplog.text
    assert "warning: the validation reward rose by" in said.getvalue()


@pytest.mark.parametrize("kind", ["inside", "unjudged", "falls"])
def test_it_is_silent_inside_the_band_without_one_and_where_the_reward_falls(kind, tmp_path, caplog, monkeypatch):
    wide = Bands("toy", 20.0, {"energy": Band(-9.0, 9.0, 0.0)}, None)
    if kind == "inside":
        monkeypatch.setattr(
            frontend, "MEANS", replace(fakes.MEANS, workshop=replace(fakes.WORKSHOP, bands=lambda _: wide))
        )
    if kind == "falls":
        monkeypatch.setattr(frontend, "MEANS", replace(fakes.MEANS, workshop=replace(fakes.WORKSHOP, rewards=worse)))
    with caplog.at_level(logging.WARNING, "rl_motion"):
        folder, said = started(job(pause=kind == "falls", bands=None if kind == "unjudged" else "first"), tmp_path)
    assert len(rows(folder)) == 6
    assert "rose" not in caplog.text + said.getvalue()
    last = rows(folder)[-1]
    assert last.get("sentinel/alarms") == {"inside": 0.0, "unjudged": None, "falls": 1.0}[kind]


def worse(job):
    """In validation the reward is minus the toy's: it falls as training goes on."""
    score = fakes.rewards(job)

    def scored(motions, unit):
        found = score(motions, unit)
        return replace(found, total_B=-found.total_B) if unit.watched else found

    return scored


def test_a_pause_ends_after_the_commit_and_its_resume_gives_the_bits_of_a_run_that_never_paused(tmp_path, monkeypatch):
    whole, _ = started(job(), tmp_path / "whole")
    with pytest.raises(Paused, match=r"paused: the validation reward rose .*energy is .*look at the motions") as caught:
        started(job(pause=True), tmp_path / "paused")
    notes = " ".join(caught.value.__notes__)
    folder = tmp_path / "paused" / "toy"
    done = len(rows(folder))
    assert 0 < done < 6 and done % 2 == 0
    assert f"saved: {done} iterations" in notes
    assert f"resume: rl-motion resume {folder}" in notes and "--set sentinels.pause=false" in notes
    assert isinstance(caught.value, KeyboardInterrupt), "exit code 130"
    assert status_file.read(folder).state == "KILLED"
    quiet = Console(file=io.StringIO())
    with pytest.raises(Paused):
        frontend.resume(folder, [], quiet)
    assert done < len(rows(folder)) <= 6, "each resume goes on to the next validation"
    frontend.resume(folder, ["sentinels.pause=false"], quiet)
    assert result(folder) == result(whole)


def test_a_pause_that_nothing_would_judge_is_refused():
    for wrong in ({"validate_every": None}, {"bands": None}):
        tree = job().model_dump()
        tree["sentinels"] |= {"pause": True} | {k: v for k, v in wrong.items() if k == "bands"}
        tree["evaluation"] |= {k: v for k, v in wrong.items() if k == "validate_every"}
        with pytest.raises(ValidationError, match=r"got sentinels.pause=true.*want validation and bands; set both"):
            Job.model_validate(tree)


def test_a_resume_may_change_what_is_warned_of():
    assert resuming._note("sentinels.pause") == resuming._note("sentinels.bands") == "what is warned of"
