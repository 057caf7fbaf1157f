"""Wrong input: files of prompts, and prompts on the command line. Texts that are too long are set aside and counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from tests.integration.wrong_input.conftest import STARTED
from tests.integration.wrong_input.desk import Case, Desk, sample, table, train

LONG = " ".join(["person"] * 70)
"""72 tokens; the encoder takes 64."""
RIGHT = "".join(f"a person does thing number {n}#12\n" for n in range(6))


def file(case: str, content: str | bytes, *says: str) -> Case:
    return Case(case, train(), ["prompts.txt", *says], lambda desk: desk.write("prompts.txt", content))


def source(case: str, name: str, *says: str, mishap: Callable[[Desk], object] | None = None) -> Case:
    return Case(case, train(f'prompts.sources={{"{name}": 1}}'), says, mishap)


def validation(case: str, name: str, *says: str, content: str | None = None) -> Case:
    settings = ("evaluation.validate_every=1", "evaluation.validation_prompts=2", f'prompts.validation={{"{name}": 1}}')
    mishap = None if content is None else lambda desk: desk.write(name, content)
    return Case(case, train(*settings), ["prompts.validation" if content is None else name, *says], mishap)


def as_folder(desk: Desk) -> None:
    desk.remove("prompts.txt")
    desk.path("prompts.txt").mkdir()


@table(
    file("empty", "", "no prompts"),
    file("blank lines alone", "\n  \n\t\n", "no prompts"),
    file("a byte order mark alone", b"\xef\xbb\xbf", "no prompts"),
    file("binary", bytes(range(256)) * 10, "UTF-8"),
    file("UTF-16", RIGHT.encode("utf-16"), "UTF-8"),
    file("a NUL", f"{RIGHT}a walk\0\n", "line 7", "printable"),
    file("an escape", f"{RIGHT}\x1b[31mred\x1b[0m\n", "line 7", "printable"),
    file("a bell", "a walk\a\n", "line 1", "printable"),
    file("text that runs right to left", "a \u202ewalk\n", "line 1", "printable"),
    file("no text before the length", "#40\n", "line 1", "printable"),
    file("a length in words", f"{RIGHT}a walk#soon\n", "line 7", "'soon'"),
    file("a length of 0", "a walk#0\n", "line 1", "length of 0"),
    file("a negative length", "a walk#-4\n", "line 1", "'-4'"),
    file("a length of half a frame", "a walk#0.5\n", "line 1", "'0.5'"),
    file("an absurd length", "a walk#999999999\n", "line 1", "length of 999999999"),
    file("a length of 5000 digits", f"a walk#{'9' * 5000}\n", "line 1", "number of frames"),
    file("a length with a superscript", "a walk#4\u00b2\n", "line 1"),
    file("1001 characters", f"{RIGHT}{'x' * 1001}\n", "line 7", "1001 characters"),
    file("10 MB in a line", b"walk " * 2_000_000, "line 1", "characters"),
    file("all repeats of one", "a walk#12\n" * 9, "1 different prompts"),
    file("all longer than the encoder takes", f"{LONG}\n{LONG} again\n", "2 prompts", "at most 64", "shorten"),
    Case("missing", train(), ["prompts.txt", "No such file"], lambda desk: desk.remove("prompts.txt")),
    Case("a folder", train(), ["prompts.txt", "a folder"], as_folder),
    Case(
        "a frame too many",
        train(),
        ["60 frames", "at most 59"],
        lambda desk: desk.write("prompts.txt", f"{RIGHT}a walk#60\n"),
    ),
    source("an empty name", "", "a folder"),
    source("a name with a NUL", "a\\0b", "null"),
    source("a name that is too long", "p" * 600, "File name too long"),
    source("a loop of links", "loop", "'loop'", mishap=lambda d: Path("loop").symlink_to("loop")),
    source("without end", "/dev/zero", "/dev/zero", "a device"),
    source("a file that cannot be read", "/proc/self/mem", "/proc/self/mem", "Input/output error"),
    source("a path through a file", "job.yaml/prompts.txt", "Not a directory"),
    source("a validation split", "source/val", "not for training", "source/train"),
    Case(
        "the same prompts twice",
        train("prompts.sources={prompts.txt: 1, ./prompts.txt: 1}"),
        ["'./prompts.txt'", "of its own"],
    ),
    Case(
        "calibrate, empty file",
        ["calibrate", "job.yaml", "--out", "c.json"],
        ["no prompts"],
        lambda d: d.write("prompts.txt", ""),
    ),
    Case("resume, no prompts left", ["resume", "runs/right"], ["job.yaml"]),
    Case("sample, empty", sample("--prompt", ""), ["printable"]),
    Case("sample, blanks", sample("--prompt", " \t "), ["printable"]),
    Case("sample, a bell", sample("--prompt", "a \a walk"), ["printable"]),
    Case("sample, 1001 characters", sample("--prompt", "x" * 1001), ["1001 characters"]),
    Case("sample, too many tokens", sample("--prompt", LONG), ["72 tokens", "at most 64"]),
    Case("sample, no frames", sample("--length", "0"), ["length of 0"]),
    Case("sample, a frame too many", sample("--length", "60"), ["60 frames", "at most 59"]),
    Case("sample, an absurd length", sample("--length", str(10**30)), ["length of"]),
)
def test_prompts(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


def test_texts_that_are_too_long_are_set_aside_and_counted(desk: Desk) -> None:
    desk.write("prompts.txt", f"{RIGHT}{LONG}\n{LONG} again\n")
    ended = CliRunner().invoke(app, train())
    assert STARTED in ended.stderr, ended.output
    assert "set aside 2 prompts of prompts.txt" in ended.stderr
    assert "set aside 2 prompts of prompts.txt" in Path("runs/right/logs/run.log").read_text()


@pytest.mark.usefixtures("desk")
def test_control_nothing_is_set_aside_without_need() -> None:
    assert "set aside" not in CliRunner().invoke(app, train()).stderr


def test_a_pipe_is_refused(desk: Desk, hold: Callable[[Case], None]) -> None:
    """A pipe that nobody writes to must not hang the command."""
    os.mkfifo("pipe")
    hold(source("a pipe", "pipe", "'pipe'"))


@table(
    validation("validation on a test split", "target/test", "'target/test'", "use target/val"),
    validation("validation on a train split", "source/train", "'source/train'", "use source/val"),
    validation("validation on what is trained with", "prompts.txt", "'prompts.txt'", "6 are trained with", "number 0"),
    validation("too few to validate with", "val.txt", "1 prompts of its own", "2 to take", content="a new one#12\n"),
    validation("validation on texts too long", "val.txt", "1 prompts", "at most 64", content=f"{LONG}#12\n"),
    Case(
        "validation on motion too long",
        train("evaluation.validate_every=1", "prompts.validation={val.txt: 1}"),
        ["60 frames", "at most 59"],
        lambda desk: desk.write("val.txt", "a walk#60\n"),
    ),
    Case(
        "no file to validate with",
        train("evaluation.validate_every=1", "prompts.validation={gone.txt: 1}"),
        ["gone.txt", "No such file", "target/val"],
    ),
)
def test_prompts_of_validation(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)
