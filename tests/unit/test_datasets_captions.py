"""A data set's captions as prompts: train trains, val validates, nothing else is anybody's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rl_motion.config import Job, UserError
from rl_motion.data.datasets import Caption, Clip, captions, write_dataset
from rl_motion.prompts.pool import make_prompt
from rl_motion.runtime import checks
from rl_motion.runtime.prompt_sources import Use, file_of, read_source
from rl_motion.runtime.submit import files_of
from rl_motion.types import Representation

GOT_WANT_DO = r"(?s)got .*; want .*; \w+ .*"
SAID = {
    "train": [("a person walks", 40), ("a person walks", 40), ("a person walks", 60), ("he jumps", 33), ("long", 199)],
    "val": [("A person  walks.", 44), ("she turns", 50)],
    "test": [("somebody kneels", 40)],
}


def clips(said: dict[str, list[tuple[str, int]]]) -> list[Clip]:
    return [
        Clip(f"{split}{n}", split, f"{split}{n}", np.zeros((frames, 263), np.float32), (Caption(text),))
        for split, rows in said.items()
        for n, (text, frames) in enumerate(rows)
    ]


def write(folder: Path, said: dict[str, list[tuple[str, int]]]) -> Path:
    write_dataset(folder, clips(said), representation=Representation.HUMANML3D_263, fps=20.0, kind="made")
    return folder


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The data set `mine` of the working directory."""
    monkeypatch.chdir(tmp_path)
    return str(write(Path("mine"), SAID))


@pytest.mark.parametrize("name", ["mine", "mine/texts.parquet"])
@pytest.mark.usefixtures("mine")
def test_training_takes_train_each_as_long_as_its_motion(name: str) -> None:
    found = read_source(name, "train", 40, 20.0)
    texts = [("a person walks", 40), ("a person walks", 60), ("he jumps", 32), ("long", 196)]
    assert found.prompts == [make_prompt(*one) for one in texts]
    assert found.any_length and not found.rows


def test_validation_takes_what_of_val_is_worded_as_nothing_of_train(mine: str) -> None:
    assert [prompt.text for prompt in read_source(mine, "val", 40, 20.0).prompts] == ["she turns"]


def test_test_is_nobodys_prompt(mine: str) -> None:
    uses: tuple[Use, ...] = ("train", "val")
    assert "somebody kneels" not in {prompt.text for use in uses for prompt in read_source(mine, use, 40, 20.0).prompts}
    with pytest.raises(ValueError, match="train or val"):
        captions.caption_prompts(mine, "test", 20.0)


def test_lengths_are_in_the_frames_of_the_model_in_whole_fours(mine: str) -> None:
    assert [prompt.length for prompt in read_source(mine, "train", 40, 12.5).prompts] == [24, 36, 20, 124]
    assert [prompt.length for prompt in read_source(mine, "train", 40, 1.0).prompts] == [4, 4, 8]
    assert read_source(mine, "train", 40, 1000.0).prompts[-1].length == 2000  # no prompt is longer


def test_what_is_longer_than_a_model_reads_is_set_aside_not_a_mistake(
    mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_max_frames", lambda _: 50)
    monkeypatch.setattr(checks, "_config", lambda _: None)
    monkeypatch.setattr(checks, "text_encoder_of", lambda *_: Path("text"))
    monkeypatch.setattr(checks, "_read_by", lambda *_: checks._Reading(64, {}, set()))
    kept, aside = checks.readable([Path("model")], read_source(mine, "train", 40, 20.0), mine)
    assert [prompt.length for prompt in kept] == [40, 32] and aside == {checks.TOO_LONG: 2}


def test_a_submitted_job_takes_the_captions_along_and_nothing_else(mine: str, tmp_path: Path) -> None:
    job = Job.model_validate({"name": "x", "prompts": {"sources": {mine: 1.0}}})
    sent = files_of(job)
    assert set(sent) == {file_of(mine)} == {"mine/texts.parquet"}
    there = tmp_path / "there" / "mine"
    there.mkdir(parents=True)
    (there / "texts.parquet").write_bytes(sent["mine/texts.parquet"])
    assert read_source(str(there), "train", 40, 20.0) == read_source(mine, "train", 40, 20.0)


@pytest.mark.parametrize("said", [{"train": [("walk", 40)]}, {"train": [("walk", 40)], "val": [("Walk!", 40)]}])
def test_nothing_for_a_use_is_a_mistake(tmp_path: Path, said: dict[str, list[tuple[str, int]]]) -> None:
    with pytest.raises(UserError, match=GOT_WANT_DO):
        read_source(str(write(tmp_path / "mine", said)), "val", 40, 20.0)


def plain(folder: Path) -> None:
    table = pq.read_table(folder / "texts.parquet")
    pq.write_table(table.replace_schema_metadata({}), folder / "texts.parquet")


def slow(folder: Path) -> None:
    table = pq.read_table(folder / "texts.parquet")
    pq.write_table(
        table.replace_schema_metadata({b"rl_motion.dataset": b'{"version": 1, "fps": 0}'}), folder / "texts.parquet"
    )


def empty(folder: Path) -> None:
    (folder / "texts.parquet").write_bytes(b"")


@pytest.mark.parametrize("damage", [plain, slow, empty])
def test_broken_captions_are_refused_in_words(mine: str, damage: Any) -> None:
    damage(Path(mine))
    with pytest.raises(UserError, match=GOT_WANT_DO):
        read_source(mine, "train", 40, 20.0)
