"""Wrong input: rewards of one's own. What shows only on motion is a fault of the run: exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.runtime import frontend
from rl_motion.runtime import loop as loops
from rl_motion.runtime.build import build_rewards
from rl_motion.runtime.frontend import Means
from tests import fakes
from tests.integration.wrong_input.desk import Case, Desk, refused, table, train

VALUE = "motions.features_BFD.mean(dim=(1, 2))"


def named(case: str, name: str, *says: str, mishap: Callable[[Desk], object] | None = None) -> Case:
    return Case(case, train(f'rewards=[{{name: "{name}"}}]'), says, mishap)


def code(case: str, old: str, new: str, *says: str) -> Case:
    """The right plugin but for one place."""
    return named(case, "mine.py:Mine", "mine.py:Mine", *says, mishap=lambda desk: desk.plugin(old, new))


def source(case: str, content: str | bytes, *says: str) -> Case:
    return named(case, "mine.py:Mine", "mine.py:Mine", *says, mishap=lambda desk: desk.write("mine.py", content))


def link_out(desk: Desk) -> None:
    target = desk.work.parent / "elsewhere.py"
    target.write_bytes(desk.path("mine.py").read_bytes())
    desk.path("link.py").symlink_to(target)


@table(
    named("no file", "gone.py:Mine", "'gone.py:Mine'", "No such file"),
    named("no class of that name", "mine.py:Mien", "'Mien'", "['Mine']"),
    named("no class named", "mine.py:", "'mine.py:'", "FILE.py:CLASS"),
    named("a method", "mine.py:Mine.load", "FILE.py:CLASS"),
    named("a module's name", "mine:Mine", "FILE.py:CLASS"),
    named("out of the directory", "../mine.py:Mine", "working directory"),
    named("an absolute path", "/tmp/mine.py:Mine", "working directory"),
    named("a folder", "zoo.py:Mine", "zoo.py", mishap=lambda d: d.path("zoo.py").mkdir()),
    named("a link out of the directory", "link.py:Mine", "link", "elsewhere.py", mishap=link_out),
    named("a loop of links", "loop.py:Mine", "loop.py", mishap=lambda d: Path("loop.py").symlink_to("loop.py")),
    named("a name with a NUL", "a\\0b.py:Mine", "FILE.py:CLASS"),
    named("a name that is too long", f"{'p' * 600}.py:Mine", "File name too long"),
    source("empty", "", "no class 'Mine'"),
    source("binary", bytes(range(256)), "SyntaxError"),
    source("a syntax error", "class Mine:\n    def __call__(self:\n", "SyntaxError", "line 2"),
    source("an error in its import", "import no_such_package\n", "ModuleNotFoundError", "line 1"),
    source("an exit in its import", "import sys\nsys.exit(0)\n", "SystemExit", "line 2"),
    source("without end of recursion", "def f(): return f()\nf()\n", "RecursionError"),
    source("an escape in its error", "raise ValueError('\\x1b[31mred')\n", "ValueError"),
    source("a function in its place", "def Mine(motions, prompts): return 0\n", "no class 'Mine'"),
    source("too large", b"#" * 1_100_000, "1000000 bytes"),
    code("does not say what it reads", "accepts =", "reads =", "accepts=None"),
    code("reads something else", "Normalisation.NONE", "Normalisation.DATASET", "normalised by dataset"),
    code(
        "reads nothing",
        "frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})",
        "frozenset()",
        "accepts",
    ),
    code("says not whether it has a gradient", "differentiable = True", "differentiable = 'yes'", "'yes'"),
    code("wants arguments", "    differentiable", "    def __init__(self, size): ...\n    differentiable", "__init__"),
    code(
        "fails when it is made",
        "    differentiable",
        "    def __init__(self): raise OSError('no weights')\n    differentiable",
        "no weights",
    ),
    code("no __call__", "def __call__", "def score", "no __call__"),
    code("another __call__", "motions, prompts, noise_level_B=None", "motions", "another __call__"),
)
def test_plugins(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("motions.features_BFD", ["shape", "want one value for each"]),
        ("3.0", ["float", "Tensor"]),
        ("None", ["NoneType", "Tensor"]),
        (f"{VALUE}.long()", ["int64", "Tensor"]),
        (f"{VALUE}.detach().tolist()", ["list", "Tensor"]),
    ],
)
def test_what_shows_on_motion_alone_is_a_fault(desk: Desk, value: str, words: list[str]) -> None:
    refused(ended_with(desk, value), ["mine.py:Mine", *words, *SAVED], {}, {}, code=1)


@pytest.mark.parametrize(("value", "words"), [("* float('nan')", "got nan from"), ("+ float('inf')", "got inf from")])
def test_a_reward_that_is_not_finite_is_named_and_its_step_skipped(desk: Desk, value: str, words: str) -> None:
    ended = ended_with(desk, f"{VALUE} {value}", "train.max_skipped_steps=1")
    refused(ended, ["got 4 of 4 rewards that are not finite in iteration 0, unit 0", *SAVED], {}, {}, code=1)
    assert f"WARNING: iteration 0, unit 0: {words} reward 'mine.py:Mine' for prompt" in ended.stderr


def ended_with(desk: Desk, value: str, *sets: str) -> Result:
    means = Means(replace(fakes.WORKSHOP, rewards=build_rewards), fakes.evaluate)
    desk.monkeypatch.setattr(frontend, "MEANS", means)
    desk.monkeypatch.setattr(loops, "train", LOOP)
    desk.plugin(VALUE, value)
    return CliRunner().invoke(app, train('rewards=[{name: "mine.py:Mine"}]', *sets))


LOOP = loops.train
SAVED = ("saved: 0 iterations", "rl-motion resume runs/right")
