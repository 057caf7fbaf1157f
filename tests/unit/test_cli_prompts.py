"""`rl-motion prompts build` and `inspect`: what they say, and how mistakes end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl_motion import cli_prompts
from rl_motion.cli import app
from rl_motion.prompts import openai_author
from rl_motion.prompts.pool import prompt_id
from rl_motion.prompts.table import BUILD, FILE, Decision, read_table, write_table
from rl_motion.runtime import progress
from tests.llm_servers import Endpoint, Reply, right, serving

ROOT = Path(__file__).resolve().parents[2]


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["prompts", *map(str, words)])


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    first = ("walks forward", "jumps", "raises both arms", "turns around", "kicks with the left leg")
    second = ("waves with the right hand", "sits down", "claps their hands", "runs backward")
    lines = [{"captions": [f"a person {a} and then {b}"]} for a in first for b in second]
    Path("captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "not JSON\n[1]\n")


def build(*more: object) -> Any:
    return invoke("build", "--source", "captions.jsonl", "--out", "my pool", "--prompts", 30, *more)


def plain(text: str) -> str:
    return " ".join(text.split())


def test_build_says_what_came_of_it_and_where_to_go_from_here() -> None:
    ended = build()
    assert ended.exit_code == 0, ended.output
    said = plain(ended.stdout)
    rows = read_table(Path("my pool")).rows
    for words in (
        "captions: 22 (0 repeated, 20 of several motions, 0 of one)",
        "meta-motions: 9 different ones of 40",
        "│ read │ not JSON",
        "│ read │ not an object",
        f"pool: my pool ({len(rows)} prompts,",
        "look: rl-motion prompts inspect 'my pool'",
        "train: rl-motion train JOB --set 'prompts.sources={my pool: 1}'",
    ):
        assert words in said, f"no {words!r} in {said}"
    by_operation = re.findall(r"│ (sequence|simultaneous|all) .*?(\d+) │\n", ended.stdout)
    assert ("all", str(len(rows))) in by_operation
    assert "cost" not in said, "the grammar costs nothing"
    again = build()
    assert again.exit_code == 0 and "built already" in again.stdout


def test_progress_in_plain_lines_and_in_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    said = build().stderr.splitlines()
    assert "decompose 20/20" in said
    assert re.search(r"^decompose 20/20  compose \d+/\d+  judge \d+/\d+  prompts \d+/30$", said[-1])
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with cli_prompts._watching(terminal) as watch:
        watch("compose", 3, 7)
    assert isinstance(terminal.file, io.StringIO) and "3/7" in terminal.file.getvalue()


def test_inspect_shows_what_is_in_a_pool() -> None:
    build()
    ended = invoke("inspect", "my pool", "--show", 3)
    assert ended.exit_code == 0, ended.output
    said = plain(ended.stdout)
    rows = read_table(Path("my pool")).rows
    lengths = sorted(row.length for row in rows)
    for words in (
        f"{len(rows)} of {len(rows)} prompts",
        f"review: {len(rows)} unreviewed",
        f"length: {lengths[0]} to {lengths[-1]} frames",
        "difficulty: 0.",
        "verbs: ",
        "duplicates: 0 mean",
        "a person",
    ):
        assert words in said, f"no {words!r} in {said}"
    assert sum(row.text in said for row in rows) <= 3
    assert invoke("inspect", "my pool", "--show", 3).stdout == ended.stdout, "the same prompts again"
    assert invoke("inspect", "my pool", "--show", 3, "--seed", 1).stdout != ended.stdout
    assert invoke("inspect", f"my pool/{FILE}", "--show", 0).exit_code == 0


def test_inspect_chooses() -> None:
    build()
    rows = read_table(Path("my pool")).rows
    for words, number in (
        (["--operation", "sequence"], sum(row.operation == "sequence" for row in rows)),
        (["--split", "train"], sum(row.split == "train" for row in rows)),
        (["--where", "JUMP"], sum("jump" in row.text for row in rows)),
    ):
        assert 0 < number < len(rows)
        assert invoke("inspect", "my pool", *words).stdout.startswith(f"{number} of {len(rows)} prompts\n")


def test_inspect_counts_duplicates_and_lets_no_escape_through() -> None:
    build()
    table = read_table(Path("my pool"))
    first = table.rows[0]
    twin = first.model_copy(update={"length": first.length + 1, "id": prompt_id(first.text, first.length + 1)})
    write_table(Path("my pool"), [*table.rows, twin], table.info, replaces=table)
    (Path("my pool") / BUILD / "metas.parquet").write_bytes(b"\x1b[31mno Parquet")
    ended = invoke("inspect", "my pool", "--show", 1000)
    assert ended.exit_code == 0, ended.output
    assert "duplicates: 1 mean" in plain(ended.stdout)
    assert first.metas[0] in ended.stdout, "ids, where the texts are gone"
    assert cli_prompts._plain("a\x1b[31m [red]b\n").plain == "a\\x1b[31m [red]b"


RIGHT = ("build", "--source", "captions.jsonl", "--out", "p")
ENDPOINT = ("--backend", "openai", "--model")
MISTAKES: Sequence[tuple[Sequence[object], str]] = [
    (["build", "--out", "p"], "--source"),
    (["build", "--source", "captions.jsonl"], "--out"),
    ([*RIGHT, "--source", "missing.jsonl"], "missing.jsonl"),
    ([*RIGHT, "--source", "target/test"], "kept for evaluation"),
    ([*RIGHT, "--exclude", "target/tst"], "did you mean 'target/test'"),
    ([*RIGHT, "--out", "captions.jsonl"], "something else"),
    ([*RIGHT, "--out", "."], "something else"),
    ([*RIGHT, "--out", "captions.jsonl/x"], "something else"),
    ([*RIGHT, "--exclude", "captions.jsonl"], "2 lines that cannot be read"),
    ([*RIGHT, "--prompts", "0"], "--prompts"),
    ([*RIGHT, "--max-frames", "2001"], "--max-frames"),
    ([*RIGHT, "--backend", "oracle"], "--backend"),
    ([*RIGHT, "--model", "x"], "--model with --backend grammar"),
    ([*RIGHT, "--backend", "openai"], "without --model"),
    ([*RIGHT, *ENDPOINT, "m"], "without --base-url"),
    ([*RIGHT, *ENDPOINT, "m", "--workers", "2"], "--workers with --backend openai"),
    ([*RIGHT, *ENDPOINT, "m", "--base-url", "x"], "base URL"),
    ([*RIGHT, *ENDPOINT, "m", "--base-url", "http://h/v1?key=k"], "a query or a fragment"),
    ([*RIGHT, *ENDPOINT, "m" * 300, "--base-url", "http://h/v1"], "300 characters"),
    ([*RIGHT, "--backend", "transformers"], "without --model"),
    ([*RIGHT, "--backend", "transformers", "--model", "no/where"], "no/where"),
    (["inspect", "missing"], "see rl-motion prompts build --help"),
    (["inspect", "captions.jsonl"], "captions.jsonl"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES)
def test_mistakes_end_with_2_and_leave_nothing(words: Sequence[object], says: str) -> None:
    before = sorted(Path().rglob("*"))
    ended = invoke(*words)
    assert ended.exit_code == 2, ended.output
    assert "error: " in ended.stderr and says in ended.stderr, ended.stderr
    for word in ("got", "want", ";"):
        assert word in ended.stderr
    assert "Traceback" not in ended.output
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--split", "trian"], "did you mean 'train'"),
        (["--operation", "dance"], "choose one of them"),
        (["--where", "no such words"], "leave an option out"),
    ],
)
def test_inspect_refuses_what_no_prompt_fits(words: list[str], says: str) -> None:
    build()
    ended = invoke("inspect", "my pool", *words)
    assert ended.exit_code == 2 and says in ended.stderr, ended.output


def test_other_settings_are_refused() -> None:
    build()
    ended = build("--seed", 4)
    assert ended.exit_code == 2 and "made otherwise (seed)" in ended.stderr


def test_ctrl_c_says_how_to_go_on() -> None:
    slow = (
        "import time\n"
        "from rl_motion.prompts.grammar import GrammarAuthor\n"
        "one = GrammarAuthor._one\n"
        "def slowly(question):\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(0.2)\n"
        "    return one(question)\n"
        "GrammarAuthor._one = staticmethod(slowly)\n"
        "from rl_motion.cli import main\n"
        "main()\n"
    )
    words = ["prompts", "build", "--source", "captions.jsonl", "--out", "p"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", slow, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "asked\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted\nwhat was answered is kept; go on with the same command" in said
    assert not Path("p", FILE).exists()


def through(endpoint: Endpoint, *more: object) -> Any:
    firsts = ("walks forward", "jumps", "turns around", "kicks with the left leg")
    seconds = ("sits down", "waves with the right hand", "runs backward")
    lines = [f"a person {first}, then {second}\n" for first in firsts for second in seconds]
    Path("captions.txt").write_text("".join(lines))
    words = ["build", "--source", "captions.txt", "--out", "p", "--prompts", 12, *ENDPOINT, "m"]
    return invoke(*words, "--base-url", endpoint.url, *more)


def test_an_endpoint_is_asked_once_and_its_price_is_told() -> None:
    with serving(right) as endpoint:
        ended = through(endpoint, "--price-in", 1000, "--price-out", 100, "--concurrency", 3)
        assert ended.exit_code == 0, ended.output
        number = len(endpoint.asked)
        said = plain(ended.stdout)
        assert f"asked: {number} questions, {number} requests, {10 * number} tokens read, {5 * number} written" in said
        assert f"cost {number * (10 * 1000 + 5 * 100) / 1e6:g} " in said
        rows = read_table("p").rows
        assert len(rows) == 12 and {(row.author, row.model) for row in rows} == {("openai", "m")}
        Path("p", FILE).unlink()
        assert through(endpoint).exit_code == 0
        assert len(endpoint.asked) == number, "all answers were kept"
        assert read_table("p").rows == rows


def test_a_reviewed_pool_that_lacks_answers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_author, "FIRST_WAIT_S", 0.001)
    with serving(lambda asked: Reply(status=503) if "leg, then sits" in asked.text else right(asked)) as endpoint:
        ended = through(endpoint, "--concurrency", 1)
        assert "the same command asks them again" in plain(ended.stdout), ended.output
        table = read_table("p")
        decision = Decision(decision="rejected", who="eva", when="2026-01-31T12:00:00Z")
        first = table.rows[0].model_copy(update={"review": "rejected", "history": (decision,)})
        write_table(Path("p"), [first, *table.rows[1:]], table.info, replaces=table)
        said = plain(through(endpoint).stdout)
    assert "p is reviewed and stays as it is" in said and "another --out asks them again" in said
    assert "built already" not in said and "same command" not in said


def test_an_endpoint_that_goes_away_costs_nothing_that_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_author, "FIRST_WAIT_S", 0.001)
    with serving(right) as endpoint:
        endpoint.script = lambda asked: right(asked) if len(endpoint.asked) <= 15 else Reply(status=503)
        ended = through(endpoint)
        assert ended.exit_code == 2 and "what was answered is kept" in ended.stderr, ended.output
        assert not Path("p", FILE).exists()
        first = {json.dumps(asked.data) for asked in endpoint.asked[:15]}
        endpoint.asked.clear()
        endpoint.script = right
        assert through(endpoint).exit_code == 0
        assert not first & {json.dumps(asked.data) for asked in endpoint.asked}, "none is asked twice"


def test_help_is_quick() -> None:
    """Neither torch nor Arrow for a page of help."""
    probe = (
        "import sys\n"
        "from rl_motion import cli_prompts\n"
        "slow = {'torch', 'pyarrow', 'ray', 'openai', 'lemminflect', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imports {slow}' if slow else 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
