"""Lengths come from captions of a single motion; a verb with few of them leans on the others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rl_motion.prompts.lengths import estimator


@dataclass(frozen=True)
class Caption:
    text: str
    frames: int | None


WALKS = [Caption("a person walks forward", frames) for frames in [100] * 50]
WAVES = [Caption("a person waves", frames) for frames in [40] * 50]


def test_a_verbs_own_median() -> None:
    frames_of = estimator([*WALKS, *WAVES])
    assert frames_of("a person walks in a circle") == round((50 * 100 + 5 * 70) / 55)
    assert frames_of("someone waves with the left hand") == round((50 * 40 + 5 * 70) / 55)


def test_one_odd_caption_counts_little() -> None:
    frames_of = estimator([*WALKS, Caption("a person kicks", 190)])
    assert frames_of("a person kicks") == 115
    assert frames_of("a person bows") == 100  # none of its own: as all


def test_several_motions_and_unknown_lengths_teach_nothing() -> None:
    others = [Caption("a person walks and then sits", 10), Caption("a person walks", None), Caption("no motion", 10)]
    assert estimator([*WALKS, *others * 60])("a person walks") == 100
    # Negative control: one motion of that length does.
    assert estimator([*WALKS, *[Caption("a person walks", 10)] * 60])("a person walks") < 50


@pytest.mark.parametrize(
    ("text", "frames"),
    [("a person walks", 90), ("a person waves", 60), ("a person sits down", 70), ("no motion at all", 60)],
)
def test_without_lengths_the_kind_decides(text: str, frames: int) -> None:
    assert estimator([])(text) == estimator([Caption("a person walks", None)])(text) == frames


def test_what_is_no_meta_motion_takes_as_long_as_all() -> None:
    assert estimator(WALKS)("nothing of that kind") == 100
