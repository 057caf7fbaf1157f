"""kill -9 of a build, again and again, in the middle of anything: the pool ends as one that nobody killed.

`POINTS` kills, each of another process. To try more: POINTS=40 pytest tests/integration/test_prompts_kill.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rl_motion.prompts.build import ANSWERS, CAPTIONS, METAS, SET_ASIDE
from rl_motion.prompts.table import BUILD, FILE

ROOT = Path(__file__).resolve().parents[2]
POINTS = int(os.environ.get("POINTS", "8"))
SEED = 20_262
NEVER = 10**9
KINDS = {"answer": 60, "commit": 6, "sync": 6, "rename": 4}
"""Calls before which the process may end, and how many of them it makes at most until then: an answer, a batch of
answers in the store, a file on the disk (the sixth: the pool is in its place), a file in its place (the fourth: the
pool)."""
ANSWERS_IN_A_BATCH = 10

BUILD_AND_DIE = f"""
import itertools, os, signal, sys
from pathlib import Path
kind, at, *words = sys.argv[1:]
calls = itertools.count(1)

def dying(name, call):
    def wrapped(*given, **named):
        if name != kind:
            return call(*given, **named)
        if next(calls) == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return wrapped

from rl_motion.prompts import answers, build
from rl_motion.prompts.grammar import GrammarAuthor
answers._BATCH = {ANSWERS_IN_A_BATCH}
build._CHUNK = 60
GrammarAuthor._one = staticmethod(dying("answer", GrammarAuthor._one))
answers.Answers._keep = dying("commit", answers.Answers._keep)
os.fsync = dying("sync", os.fsync)
Path.replace = dying("rename", Path.replace)
build.build(build.Settings((words[0],), prompts=300), Path(words[1]), GrammarAuthor(), lambda *seen: None)
"""


def captions() -> str:
    who = ("a person", "a man", "the woman")
    first = ("walks forward", "jumps", "raises both arms", "turns around", "kicks with the left leg", "squats")
    second = ("waves with the right hand", "sits down", "claps their hands", "runs backward", "shakes their head")
    dice = random.Random(1)
    return "".join(
        json.dumps({"id": f"{n}", "captions": [f"{dice.choice(who)} {a} and then {b}"], "n_frames": 60 + 9 * n}) + "\n"
        for n, (a, b) in enumerate((a, b) for a in first for b in second)
    )


def run(folder: Path, out: str, kind: str = "none", at: int = NEVER) -> int:
    words = [sys.executable, "-c", BUILD_AND_DIE, kind, str(at), str(folder / "captions.jsonl"), str(folder / out)]
    ended = subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode


def result(pool: Path) -> dict[str, bytes]:
    files = {name: (pool / BUILD / name).read_bytes() for name in (CAPTIONS, METAS, SET_ASIDE)}
    return files | {FILE: (pool / FILE).read_bytes()}


def kept(pool: Path) -> tuple[int, int]:
    """(answers in the store, answers that were ever put in it)."""
    with sqlite3.connect(pool / BUILD / ANSWERS) as store:
        (rows,) = store.execute("SELECT count(*) FROM answers").fetchone()
        (asked,) = store.execute("SELECT sum(asked) FROM usage").fetchone()
    store.close()
    return rows, asked


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_undisturbed(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(captions())
    assert run(tmp_path, "straight") == 0
    straight, answers = result(tmp_path / "straight"), kept(tmp_path / "straight")
    assert answers[0] == answers[1] > 100
    dice = random.Random(SEED)
    pools, killed, halves = [tmp_path / "pool0"], 0, 0
    for number in range(POINTS):
        kind = list(KINDS)[number % len(KINDS)]
        killed += run(tmp_path, pools[-1].name, kind, dice.randint(1, KINDS[kind])) != 0
        if (pools[-1] / FILE).exists():
            pools.append(tmp_path / f"pool{len(pools)}")
        else:
            halves += 1
    assert killed >= POINTS * 3 // 4 and halves >= POINTS // 2
    for pool in pools:
        assert run(tmp_path, pool.name) == 0
        assert result(pool) == straight, "the same pool, to the byte"
        assert kept(pool) == answers, "no answer is missing, none was put there twice"
        assert not list(pool.glob("**/*.partial"))
