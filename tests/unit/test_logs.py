"""run.log for people, run.jsonl for machines: the same records, with what they are about, without secrets."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from rl_motion.runtime.logs import about, go_on_to, logging_to, without_secrets

LOG = logging.getLogger("rl_motion.toy")


@pytest.fixture(autouse=True)
def _listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("rl_motion"), "level", logging.INFO)
    logging.getLogger("rl_motion")._cache.clear()  # type: ignore[attr-defined]
    LOG._cache.clear()  # type: ignore[attr-defined]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]


def test_both_files_have_every_record(tmp_path: Path) -> None:
    with logging_to(tmp_path, "demo"):
        LOG.info("made %d units", 3)
        LOG.warning("line\nbreak")
    LOG.info("nobody hears this")
    assert [line["message"] for line in lines(tmp_path)] == ["made 3 units", "line\nbreak"]
    assert lines(tmp_path)[0].items() >= {"level": "INFO", "logger": "rl_motion.toy", "run": "demo"}.items()
    assert "INFO rl_motion.toy: made 3 units" in (tmp_path / "run.log").read_text()


def test_records_say_what_they_are_about(tmp_path: Path) -> None:
    with logging_to(tmp_path, "demo"):
        go_on_to(iteration=7)
        LOG.info("a", extra={"unit": 3, "role": "rollout", "worker": "abc", "other": "not told"})
        with about(unit=5, iteration=8):
            LOG.info("b")
            LOG.info("c", extra={"unit": 6})
        LOG.info("d")
        other = threading.Thread(target=LOG.info, args=["e"])
        other.start()
        other.join()
    told = [{name: line.get(name) for name in ("iteration", "unit", "role", "worker")} for line in lines(tmp_path)]
    assert told[0] == {"iteration": 7, "unit": 3, "role": "rollout", "worker": "abc"}
    assert [(line["iteration"], line["unit"]) for line in told[1:4]] == [(8, 5), (8, 6), (7, None)]
    assert told[4]["iteration"] is None  # another thread says itself what it is about
    assert "other" not in lines(tmp_path)[0]
    with logging_to(tmp_path, "next"):
        LOG.info("f")
    assert "iteration" not in lines(tmp_path)[-1]


def test_a_file_that_cannot_be_opened_leaves_no_handler(tmp_path: Path) -> None:
    before = list(logging.getLogger("rl_motion").handlers)
    (tmp_path / "run.jsonl").mkdir()
    with pytest.raises(IsADirectoryError), logging_to(tmp_path, "demo"):
        pass
    assert logging.getLogger("rl_motion").handlers == before


def test_secrets_are_in_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/motion/.ray/auth_token")
    with logging_to(tmp_path, "demo"):
        LOG.info("sent correct-horse to http://me:hunter2@host/x", extra={"worker": "correct-horse"})
        try:
            raise ValueError("correct-horse")
        except ValueError as error:
            LOG.error("read /home/motion/.ray/auth_token", exc_info=error)
    for name in ("run.log", "run.jsonl"):
        text = (tmp_path / name).read_text()
        assert "correct-horse" not in text and "hunter2" not in text
        assert "<MLFLOW_TRACKING_PASSWORD>" in text and "http://...@host/x" in text
        assert "/home/motion/.ray/auth_token" in text
    assert "Traceback" in lines(tmp_path)[1]["traceback"]


def test_what_is_no_secret_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a")
    text = "a unit of mail@example.org, http://host:8265/x@y"
    assert without_secrets(text) == text
