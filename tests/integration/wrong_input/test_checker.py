"""The checker of wrong input can fail: a command that breaks one rule of the standard is caught, one rule at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from tests.integration.wrong_input.conftest import STARTED
from tests.integration.wrong_input.desk import SECRET, Case, Desk, Finished, listing, refused, table, train

RIGHT = Finished(2, "", "error: thing.yaml: got 3; want 4; change it\n")


def said(text: str) -> Finished:
    return replace(RIGHT, stderr=f"error: {text}\n")


def test_control_what_is_right_passes() -> None:
    refused(RIGHT, ["thing.yaml"], {"a": "1"}, {"a": "1"})


@pytest.mark.parametrize(
    "ended",
    [
        replace(RIGHT, exit_code=1),
        replace(RIGHT, exit_code=0),
        replace(RIGHT, stderr=f"Traceback (most recent call last):\n{RIGHT.stderr}"),
        replace(RIGHT, stdout="Traceback (most recent call last):"),
        replace(RIGHT, stderr=""),
        replace(RIGHT, stdout=RIGHT.stderr, stderr=""),
        replace(RIGHT, stderr=f"{RIGHT.stderr}WARNING: the token is {SECRET}\n"),
        said("thing.yaml: got 3; change it"),
        said("thing.yaml: want 4; change it"),
        said("thing.yaml: got 3; want 4"),
        said("thing.yaml: got 3; want 4; as everybody knows"),
        said("got 3; want 4; change it"),
        said("thing.yaml: got \x1b[31m3; want 4; change it"),
        said(f"thing.yaml: got {'3' * 5000}; want 4; change it"),
    ],
    ids=lambda ended: repr(ended)[:100],
)
def test_a_broken_rule_is_caught(ended: Finished) -> None:
    with pytest.raises(AssertionError):
        refused(ended, ["thing.yaml"], {}, {})


@pytest.mark.parametrize("after", [{"a": "2"}, {}, {"a": "1", "b.partial": "3"}])
def test_what_is_written_or_removed_is_caught(after: dict[str, str]) -> None:
    with pytest.raises(AssertionError, match="written or removed"):
        refused(RIGHT, [], {"a": "1"}, after)


def test_a_listing_sees_content_links_and_empty_folders(tmp_path: Path) -> None:
    seen = [listing(tmp_path)]
    steps: list[Callable[[], object]] = [
        (tmp_path / "folder").mkdir,
        lambda: (tmp_path / "folder" / "file").write_text("one"),
        lambda: (tmp_path / "folder" / "file").write_text("two"),
        lambda: (tmp_path / "link").symlink_to("nowhere"),
    ]
    for step in steps:
        step()
        seen.append(listing(tmp_path))
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])


def test_ids_are_unique() -> None:
    with pytest.raises(AssertionError, match="twice"):
        table(Case("twice", [], []), Case("twice", [], []))


@pytest.mark.usefixtures("desk")
def test_control_the_desk_is_right() -> None:
    """Without a mistake the same command line gets as far as training: what a case is refused for is its mistake."""
    ended = CliRunner().invoke(app, train())
    assert ended.exit_code == 1 and STARTED in ended.stderr, ended.output


def test_control_a_mistake_that_goes_unnoticed_is_caught(desk: Desk, hold: Callable[[Case], None]) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        hold(Case("nothing wrong", train(), []))
