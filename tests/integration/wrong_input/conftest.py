"""The desk of a case, with a guard: no mistake that goes unnoticed may train for minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.runtime import checks, frontend, loop
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.frontend import Means
from tests.integration.wrong_input.desk import SECRET, SECRETS, Case, Desk, lay, listing, refused

STARTED = "the run started"


def _started(*_: object) -> None:
    raise AssertionError(STARTED)


@pytest.fixture
def desk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A working directory where all is right, an empty home and an empty place for temporary files."""
    for name in ("work", "home", "tmp"):
        (tmp_path / name).mkdir()
    lay(tmp_path / "work", model)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in SECRETS:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(checks, "CHECKPOINTS", {})
    monkeypatch.setattr(frontend, "MEANS", Means(Workshop(), _started))
    monkeypatch.setattr(loop, "train", _started)
    return Desk(tmp_path / "work", monkeypatch)


@pytest.fixture
def hold(desk: Desk, tmp_path: Path) -> Callable[[Case], None]:
    """Do what the case says and hold what comes of it to the standard."""

    def go(case: Case) -> None:
        if case.mishap is not None:
            case.mishap(desk)
        before = listing(tmp_path)
        ended = CliRunner().invoke(app, list(case.command))
        refused(ended, case.says, before, listing(tmp_path), case.code)

    return go
