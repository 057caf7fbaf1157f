"""Pools as sources of prompts: training sees `train`, validation `val`; what cannot be read is set aside."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rl_motion.config import Job, UserError
from rl_motion.prompts import table
from rl_motion.prompts.pool import make_prompt
from rl_motion.runtime import checks, frontend
from rl_motion.runtime.build import build_pool, build_validation, check_job
from rl_motion.runtime.frontend import Means
from rl_motion.runtime.submit import files_of
from tests import fakes
from tests.fakes import toy_job

QUIET = Console(file=io.StringIO())
LONG = " ".join(["person"] * 70)
MOST = 126
"""Frames that the reward of the embedded world reads, fewer than the model."""
STRANGE = "человек идёт, вперёд."


def row(text: str, split: str = "train", length: int = 40, review: str = "unreviewed", **known: Any) -> table.Row:
    made = make_prompt(text, length)
    decided = (table.Decision(decision=review, who="me", when="2026-01-31T12:00:00Z"),) if review == "rejected" else ()
    values = {"id": made.id, "text": made.text, "length": length, "split": split, "review": review, "history": decided}
    values |= {"fps": 20.0, "tokens": ("walk/VERB",), "sources": ("c1",), "metas": ("m1", "m2"), "plausibility": 1.0}
    values |= {"operation": "sequence", "author": "grammar", "model": "1", "fingerprint": "f", "difficulty": 0.5}
    return table.Row.model_validate(values | known)


TRAIN = [row(f"a person walks forward then jumps {n} times", difficulty=n / 8) for n in range(8)]
VAL = [row(f"a person turns and kicks {n} times", "val") for n in range(4)]
HELD = [row("a person bows slowly", "held_out_compositions"), row("a person claps twice", "held_out_metas")]
REJECTED = [row("a person sits while jumping", review="rejected"), row("a person naps", "val", review="rejected")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the pool `mine`."""
    monkeypatch.chdir(tmp_path)
    table.write_table(Path("mine"), [*TRAIN, *HELD, *VAL, *REJECTED], {})
    return tmp_path


def rewrite(rows: Sequence[table.Row]) -> None:
    table.write_table(Path("mine"), rows, {}, replaces=table.read_table("mine"))


def job(source: str = "mine", **prompts: Any) -> Job:
    sizes = {"prompts_per_iteration": 4, "prompts_per_unit": 2, "samples_per_prompt": 2, "iterations": 2}
    wanted = {"sources": {source: 1.0}, "validation": {source: 1.0}, **prompts}
    examined = {"validate_every": 1, "validation_prompts": 4}
    return Job.model_validate({"name": "pooled", "prompts": wanted, "train": sizes, "evaluation": examined})


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("source", ["mine", "mine/prompts.parquet"])
def test_training_takes_train_and_validation_takes_val(source: str) -> None:
    check_job(job(source))
    assert build_pool(job(source)).prompts == [row.prompt for row in TRAIN]
    assert build_validation(job(source)) == {source: [row.prompt for row in VAL]}
    assert build_pool(job(source)).set_aside == {}


@pytest.mark.usefixtures("desk")
def test_control_what_is_held_out_or_rejected_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a reader that forgets splits and reviews lets them through."""
    seen = {p.id for p in [*build_pool(job()).prompts, *build_validation(job())["mine"]]}
    kept_out = {row.id for row in [*HELD, *REJECTED]}
    assert not seen & kept_out
    monkeypatch.setattr(table, "prompts_of", lambda read, split: [row.prompt for row in read.rows])
    assert kept_out < {p.id for p in build_pool(job()).prompts}


@pytest.mark.usefixtures("desk")
def test_what_cannot_be_read_is_set_aside_and_counted() -> None:
    """In a pool; a text file's motion that is too long stays an error."""
    strange = [row(LONG), row(STRANGE), row("a person runs", length=MOST + 1), row("a person runs on", length=MOST + 2)]
    rewrite([*TRAIN, *strange, *VAL])
    check_job(job())
    pool = build_pool(job())
    assert pool.prompts == [row.prompt for row in TRAIN]
    assert pool.set_aside == {"mine": {checks.TOO_MANY: 1, checks.UNKNOWN: 1, checks.TOO_LONG: 2}}
    assert pool.unread == 4
    # Control: one frame less, or a word that is known, and they are there.
    rewrite([*TRAIN, row("a person runs", length=MOST), row(f"{STRANGE} walks"), *VAL])
    assert (build_pool(job()).unread, len(build_pool(job()).prompts)) == (0, 10)
    Path("mine.txt").write_text("".join(f"{row.text}\n" for row in TRAIN) + f"{STRANGE}\n{LONG}\n")
    assert build_pool(job("mine.txt")).set_aside == {"mine.txt": {checks.TOO_MANY: 1, checks.UNKNOWN: 1}}
    Path("mine.txt").write_text("".join(f"{row.text}\n" for row in TRAIN) + f"a person runs#{MOST + 1}\n")
    with pytest.raises(UserError, match=rf"got {MOST + 1} frames .*want at most {MOST}"):
        check_job(job("mine.txt").model_copy(update={"evaluation": toy_job().evaluation}))


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(LONG), row(STRANGE)], ["none can be read", "2 prompts", "at most 64 tokens", "without a word"]),
        ([row("a person runs", length=MOST + 1)], ["none can be read", f"at most {MOST} frames"]),
        (HELD, ["no prompts in its split 'train'", "want one at least"]),
        ([row("a person runs", review="rejected")], ["that were not rejected"]),
        (TRAIN[:3], ["got 3 different prompts in 'mine'; want 4"]),
    ],
)
def test_where_nothing_is_left_it_is_an_error(rows: list[table.Row], words: list[str]) -> None:
    rewrite([*rows, *VAL])
    with pytest.raises(UserError, match=r"got .*; want ") as caught:
        check_job(job())
    assert all(word in str(caught.value) for word in words)


@pytest.mark.usefixtures("desk")
def test_a_pool_without_val_rows_validates_nothing() -> None:
    rewrite(TRAIN)
    with pytest.raises(UserError, match=r"prompts\.validation: got the pool 'mine', which has no prompts in .* 'val'"):
        check_job(job())


@pytest.mark.usefixtures("desk")
def test_difficulty_comes_from_the_pool() -> None:
    made = job(curriculum="difficulty", curriculum_start=0.5, curriculum_iterations=100)
    drawn = {prompt.text for unit in build_pool(made).draw(0, made.train) for prompt in unit.prompts}
    assert drawn == {row.text for row in TRAIN[:4]}
    with pytest.raises(UserError, match=r"source 'target/train', whose prompts have none"):
        build_pool(job("target/train", curriculum="difficulty"))


@pytest.mark.usefixtures("desk")
def test_only_the_pools_file_travels() -> None:
    Path("mine/_build/answers.sqlite").write_bytes(b"much")
    Path("mine/notes.txt").write_text("mine")
    assert files_of(job()) == {"mine/prompts.parquet": Path("mine/prompts.parquet").read_bytes()}
    assert files_of(job("./mine/")) == files_of(job())
    assert files_of(job("mine/prompts.parquet")) == files_of(job())


def test_a_resume_over_a_changed_pool_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run trains with counts; what is held out may change."""
    reads = partial(fakes.with_model, name="mdm-embedded")
    means = Means(replace(fakes.WORKSHOP, pool=lambda job: build_pool(reads(job))), fakes.evaluate)
    monkeypatch.setattr(frontend, "MEANS", means)
    made = toy_job(iterations=1).model_copy(update={"prompts": job().prompts})
    folder = frontend.start(made, desk, QUIET).folder
    rewrite([*TRAIN, *HELD[:1], *VAL])
    frontend.resume(folder, ["train.iterations=2"], QUIET)
    for changed in ([*TRAIN[:-1], *VAL], [row(TRAIN[0].text, difficulty=0.9), *TRAIN[1:], *VAL]):
        rewrite(changed)
        with pytest.raises(UserError, match=r"got prompts with hash .*; want .*, those of the run"):
            frontend.resume(folder, ["train.iterations=3"], QUIET)
    rewrite([*TRAIN, *VAL])
    frontend.resume(folder, ["train.iterations=3"], QUIET)
