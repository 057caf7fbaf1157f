"""Splits of prompts: a function of their meta-motions alone that keeps the held-out ones apart."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from rl_motion.prompts.author import Operation
from rl_motion.prompts.splits import HELD_OUT_COMPOSITIONS, HELD_OUT_METAS, VAL, meta_is_held_out, split_of

KEYS = [f"motion {number}" for number in range(300)]
ONE: list[Operation] = ["repeat", "speed", "side", "direction", "style"]
TWO: list[Operation] = ["sequence", "simultaneous"]


@given(st.text(), st.text(), st.sampled_from(TWO), st.sampled_from(TWO))
def test_a_pair_is_in_one_split(a: str, b: str, one: Operation, other: Operation) -> None:
    assert split_of([a, b], one, "") == split_of([b, a], other, "anything")


@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2), st.sampled_from([*ONE, *TWO]), st.text(max_size=5))
def test_held_out_meta_motions_are_in_no_other_split(keys: list[str], operation: Operation, detail: str) -> None:
    held_out = any(map(meta_is_held_out, keys))
    assert (split_of(keys, operation, detail) == "held_out_metas") == held_out


def test_shares() -> None:
    held_out = sum(map(meta_is_held_out, KEYS)) / len(KEYS)
    assert abs(held_out - HELD_OUT_METAS) < 0.05
    pairs = Counter(split_of(pair, "sequence", "") for pair in combinations(KEYS, 2))
    known = pairs.total() - pairs["held_out_metas"]
    assert abs(pairs["held_out_compositions"] / known - HELD_OUT_COMPOSITIONS) < 0.01
    assert abs(pairs["val"] / known - VAL) < 0.01


def test_changes_of_one_meta_motion_are_compositions_of_their_own() -> None:
    known = next(key for key in KEYS if not meta_is_held_out(key))
    found = {split_of([known], operation, f"way {n}") for operation in ONE for n in range(30)}
    assert found == {"train", "val", "held_out_compositions"}


def test_the_splits_never_move() -> None:
    """What was trained on must not become held out later: these are part of the format."""
    letters = {"train": "t", "val": "v", "held_out_compositions": "c", "held_out_metas": "m"}
    single = "".join(letters[split_of([key], "repeat", "twice")] for key in KEYS[:60])
    pairs = "".join(letters[split_of(KEYS[n : n + 2], "sequence", "")] for n in range(60))
    assert single == "ttvctttttttttmvtttttmvttttttttttttttttttttttttttttmtttttvttt"
    assert pairs == "tvtttttttcttmmttcttmmctttttttttttttttctttttttttttmmttttttvtt"
