"""The grammar against captions labelled one by one (tests/golden/prompt_captions.md): no worse than it was.

Floors are a point or two below what jobs/prompt_quality.py prints: rules that fall below one are mended.
"""

from __future__ import annotations

import pytest

from rl_motion.prompts import clauses, words
from tests.unit.test_jobs import load

FLOORS = {
    # of the first 90 captions, of the last 90
    "decomposable, precision": (0.91, 0.91),
    "decomposable, recall": (0.93, 0.91),
    "meta-motions, precision": (0.945, 0.90),
    "meta-motions, recall": (0.96, 0.89),
    "whole captions right": (0.88, 0.73),
    "word and tag right": (0.97, 0.95),
    "tag right": (0.97, 0.96),
}


@pytest.fixture(scope="module")
def quality(root):
    return load(root, "prompt_quality")


def below(quality) -> set[tuple[str, int]]:
    """(measure, 0 first or 1 last) of those that are worse than their floor."""
    labels = quality.gold()
    halves = [quality.measure(part) for part in (labels[: quality.FIRST], labels[quality.FIRST :])]
    return {(name, n) for name in FLOORS for n in (0, 1) if halves[n][name].value < FLOORS[name][n]}


def test_no_measure_is_below_its_floor(quality) -> None:
    assert len(quality.gold()) == 180
    assert FLOORS.keys() == quality.MEASURES.keys()
    assert below(quality) == set()


def test_control_a_grammar_that_never_cuts_is_found_out(quality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clauses, "decompose", lambda caption: [caption])
    assert {("decomposable, recall", n) for n in (0, 1)} | {("meta-motions, recall", n) for n in (0, 1)} <= below(
        quality
    )


def test_control_a_grammar_that_cuts_at_every_and_is_found_out(quality, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clauses, "decompose", lambda caption: caption.split(" and "))
    assert {("meta-motions, precision", n) for n in (0, 1)} <= below(quality)


def test_control_a_tagger_without_adverbs_is_found_out(quality, monkeypatch: pytest.MonkeyPatch) -> None:
    right = words.tag
    monkeypatch.setattr(words, "tag", lambda text: [(w, "ADJ" if pos == "ADV" else pos) for w, pos in right(text)])
    assert below(quality) == {(name, n) for name in ("word and tag right", "tag right") for n in (0, 1)}


def test_meta_motions_are_matched_one_to_one(quality) -> None:
    walks, waves = "a person walks forward slowly", "a person waves"
    assert quality.matches([walks, waves], ["a man waves", "he walks slowly forward"]) == 2
    assert quality.matches([walks], [walks, walks]) == 1
    assert quality.matches([walks], ["a person walks backward"]) == 0
    assert quality.matches([], [walks]) == 0


def test_near_duplicates_are_counted(quality) -> None:
    apart = [f"a person walks {word}" for word in ("forward", "backward", "slowly", "quickly")]
    assert quality.near_duplicates(apart).value == 0
    assert quality.near_duplicates([*apart, "the man walks forward"]).value == pytest.approx(2 / 5)
    # The same but for one lemma of twenty, and of five.
    for size, share in ((20, 1), (5, 0)):
        longer = " ".join(f"w{n}" for n in range(size))
        assert quality.near_duplicates([longer, f"{longer} more", "a person waves"]).value == pytest.approx(
            share * 2 / 3
        )
