"""`rl-motion data import` and `inspect`: what they say, and how mistakes end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion import cli_data
from rl_motion.cli import app
from rl_motion.data.datasets import Clip, humanml3d, kinds
from rl_motion.data.datasets.sources import Kind, Options, Source
from rl_motion.runtime import progress
from rl_motion.types import Representation
from tests.humanml3d_folder import LINE, lay


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    folder = lay(Path("HumanML3D"))
    np.save(folder / "new_joint_vecs" / "000004.npy", np.full((50, 263), np.nan))
    (folder / "texts" / "000005.txt").write_text(LINE + "\x1b[31m[red]#\n" + "a person waves#wave#0#0\n")


def test_import_then_inspect_say_what_is_in_and_what_is_not() -> None:
    ended = invoke("import", "HumanML3D", "--out", "my data")
    assert ended.exit_code == 0, ended.output
    shown = invoke("inspect", "my data")
    assert shown.exit_code == 0, shown.output
    for words in (
        "my data: humanml3d, humanml3d-263, 20 frames a second",
        "train │ 5 │ 0.2 │ 5 │ 50 to 50",
        "val │ 1 │ 0.0 │ 2 │ 50 to 50",
        "mean and deviation came with the data",
        "NaN or infinite values │ new_joint_vecs/000004.npy: 13150 of 13150 values │ 1",
        r"texts/000005.txt: line 2: 2 parts: '\x1b[31m[red]#' │ 1",
        "texts/000005.txt │ line 3: tokens that are not word/POS are left out: 'wave'",
    ):
        assert words in plain(ended.stdout) and words in plain(shown.stdout)
    assert "\x1b" not in ended.output + shown.output
    assert "rl-motion data inspect 'my data'" in ended.stdout
    assert "--set 'prompts.sources={my data: 1}'" in ended.stdout


def refused(*words: object) -> str:
    ended = invoke(*words)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    said: str = ended.stderr
    assert said.count("; want ") == 1 and ended.exception.__class__ is SystemExit
    return said


def test_a_place_that_is_taken_is_refused_and_what_to_do_is_said() -> None:
    invoke("import", "HumanML3D", "--out", "mine")
    before = sorted(Path("mine").rglob("*"))
    assert "choose one, or remove it" in refused("import", "HumanML3D", "--out", "mine")
    assert sorted(Path("mine").rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("import", "nowhere", "--out", "mine"), "check the path"),
        (("import", "HumanML3D/texts", "--out", "mine"), "of no kind that is known"),
        (("import", ".", "--out", "mine"), "give HumanML3D"),
        (("import", "HumanML3D", "--out", "n" * 201), "choose a shorter one"),
        (("import", "HumanML3D", "--out", "\udcff"), "no UTF-8"),
        (("import", "HumanML3D", "--kind", "bvh", "--names", "gone.yaml", "--out", "mine"), "check the path"),
        (("import", "HumanML3D", "--kind", "humanml3", "--out", "mine"), "did you mean 'humanml3d'?"),
        (("import", "HumanML3D/texts", "--kind", "humanml3d", "--out", "mine"), "without the folder new_joint_vecs"),
        (("inspect", "nowhere"), "rl-motion data import PATH --out DIR"),
        (("inspect", "HumanML3D"), "which holds no dataset.json"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words)
    assert [path.name for path in Path().iterdir()] == ["HumanML3D"]


def test_inspect_refuses_a_broken_data_set() -> None:
    invoke("import", "HumanML3D", "--out", "mine")
    path = Path("mine/motions-00000.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "motions-00000.parquet" in refused("inspect", "mine")


def ending(error: BaseException) -> Kind:
    def entries() -> Iterator[Clip]:
        yield Clip("a", "train", "a", np.zeros((40, 263), np.float32), ())
        raise error

    def read(path: Path, options: Options) -> Source:
        return Source(Representation.HUMANML3D_263, 20.0, entries())

    return Kind("made", humanml3d.recognise, read)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_ctrl_c_and_a_full_disk_leave_nothing_half_written(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    monkeypatch.setattr(kinds, "KINDS", {"made": ending(error)})
    ended = invoke("import", "HumanML3D", "--out", "deep/mine")
    assert ended.exit_code == code and "Traceback" not in ended.output
    assert [path.name for path in Path().iterdir()] == ["HumanML3D"]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    said = io.StringIO()
    with cli_data._watching(Console(file=said, force_terminal=terminal, width=100), 2) as watch:
        for _ in range(3):
            watch()
    assert ("3/3" if terminal else "read 3 of about 2") in said.getvalue()


def test_names_of_any_letters_are_written_as_text() -> None:
    ended = invoke("import", "HumanML3D", "--out", "\x1b" * 100)
    assert ended.exit_code == 0, ended.output
    assert r"\x1b\x1b" in ended.stdout
    assert invoke("inspect", "\x1b" * 100).exit_code == 0
