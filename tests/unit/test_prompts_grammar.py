"""The embedded author: an answer of the right form to every question, and a fingerprint of all it depends on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from rl_motion.prompts import grammar
from rl_motion.prompts.author import (
    ANSWERS,
    Compose,
    Composition,
    Decompose,
    Decomposition,
    Judge,
    Refused,
    Verdict,
)
from rl_motion.prompts.grammar import GrammarAuthor

HERE = Path(grammar.__file__).parent


def test_answers_in_order_in_the_right_form() -> None:
    asked = [
        Decompose(caption="a person walks forward, then waves."),
        Judge(text="a person sits down and then jumps"),
        Compose(operation="repeat", meta_motions=("a person jumps",), detail="twice"),
        Judge(text="a person walks forward"),
        Decompose(caption="a person walks."),
    ]
    answers = dict(GrammarAuthor().answer(asked))
    assert list(answers) == list(range(5))
    assert all(isinstance(answers[n], ANSWERS[question.kind]) for n, question in enumerate(asked))
    assert answers[0] == Decomposition(decomposable=True, meta_motions=("a person walks forward", "a person waves"))
    assert answers[1] == Verdict(plausible=False, reason="from sit to stand without a way there")
    assert isinstance(answers[2], Composition) and answers[2].text.endswith("jumps twice")
    assert answers[3] == Verdict(plausible=True)
    assert answers[4] == Decomposition(decomposable=False, meta_motions=("a person walks",))


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Decompose(caption="7 & 8"), "no motion found"),
        (Compose(operation="repeat", meta_motions=("jumps",), detail="twice"), "want a performer and a motion"),
        (
            Compose(operation="side", meta_motions=("a person jumps",), detail="left to right"),
            "want left or right in it",
        ),
    ],
)
def test_what_has_no_answer_is_refused(question: Decompose | Compose, reason: str) -> None:
    [(_, answer)] = GrammarAuthor().answer([question])
    assert isinstance(answer, Refused)
    assert reason in answer.reason


def test_eight_meta_motions_at_most() -> None:
    [(_, answer)] = GrammarAuthor().answer([Decompose(caption="a person " + ", ".join(["walks", "waves"] * 6))])
    assert isinstance(answer, Decomposition)
    assert len(answer.meta_motions) == 8


def _imported(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "rl_motion.prompts":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("rl_motion.prompts."):
            found.add(str(node.module).rpartition(".")[2])
    return found


def test_the_fingerprint_covers_every_module_that_answers_come_from() -> None:
    wanted, reached = {"grammar"}, set()
    while wanted:
        module = wanted.pop()
        reached.add(module)
        wanted |= _imported(module) - reached
    assert set(grammar._RULES) == reached
    assert {"vocabulary", "cutter", "bodies"} <= reached  # control: the walk goes all the way down


def test_other_rules_are_another_author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in grammar._RULES:
        (tmp_path / f"{module}.py").write_bytes((HERE / f"{module}.py").read_bytes())
    monkeypatch.setattr(grammar, "__file__", str(tmp_path / "grammar.py"))
    assert GrammarAuthor().fingerprint == (same := GrammarAuthor().fingerprint)
    for module in grammar._RULES:
        before = (tmp_path / f"{module}.py").read_bytes()
        (tmp_path / f"{module}.py").write_bytes(before + b"\n")
        assert GrammarAuthor().fingerprint != same, module
        (tmp_path / f"{module}.py").write_bytes(before)


def test_answers_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "from rl_motion.prompts.planner import orders\n"
        "from rl_motion.prompts.compose import compose\n"
        "from tests.meta_motions import metas\n"
        "from hashlib import sha256\n"
        "texts = [compose(order.question) for order in orders(metas(), 0, 1000, 20.0)]\n"
        "print(len(texts), sha256(repr(texts).encode()).hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
