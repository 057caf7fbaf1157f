"""Orders: deterministic, within bounds, never against the rules, and every operation does what it says."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.prompts import planner
from rl_motion.prompts.author import Operation
from rl_motion.prompts.compose import SWAPS, compose
from rl_motion.prompts.planner import PER_PAIR, Order, orders
from rl_motion.prompts.plausible import at_once, contradicts_itself, in_turn, judge
from tests.meta_motions import TEXTS, meta, metas

LONG = 10_000


@pytest.fixture(scope="module")
def planned() -> list[Order]:
    return list(orders(metas(), 0, LONG, 20.0))


def test_the_stream_ends_and_has_every_operation(planned: list[Order]) -> None:
    share = Counter(order.question.operation for order in planned)
    assert share.keys() == set(get_args(Operation))
    assert all(order.question.meta_motions == tuple(m.text for m in order.metas) for order in planned)


def test_a_pair_is_ordered_three_times_at_most(planned: list[Order]) -> None:
    pairs = Counter(frozenset(m.id for m in order.metas) for order in planned)
    assert max(pairs.values()) == PER_PAIR == 3
    assert len({order.question for order in planned}) == len(planned)


def _flaw(order: Order) -> str:
    facts = [m.facts for m in order.metas]
    alone = next(filter(None, map(contradicts_itself, facts)), "")
    if alone or len(facts) == 1:
        return alone
    return in_turn(*facts) if order.question.operation == "sequence" else at_once(*facts)


def test_no_order_is_against_the_rules(planned: list[Order], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(_flaw, planned))
    # Negative control: a planner that asks no rule.
    for rule in ("at_once", "in_turn", "contradicts_itself"):
        monkeypatch.setattr(planner, rule, lambda *_: "")
    assert sum(map(bool, map(_flaw, orders(metas(), 0, LONG, 20.0)))) > 100


def test_most_orders_pass_the_judge_once_composed(planned: list[Order]) -> None:
    reasons = Counter(judge(compose(order.question))[1] for order in planned)
    assert reasons[""] / len(planned) > 0.95, reasons


def test_the_same_orders_from_the_same_seed_in_whatever_order(planned: list[Order]) -> None:
    shuffled = metas()
    random.Random(1).shuffle(shuffled)
    assert list(orders(shuffled, 0, LONG, 20.0)) == planned
    assert list(islice(orders(metas(), 1, LONG, 20.0), 50)) != planned[:50]  # control: the seed counts


def test_frequent_ones_are_drawn_more_often() -> None:
    some = [meta(text, sources=tuple("abcdefgh") if n % 2 else ("a",)) for n, text in enumerate(TEXTS)]
    drawn = Counter(len(m.sources) for order in islice(orders(some, 0, LONG, 20.0), 200) for m in order.metas)
    assert drawn[8] > 1.3 * drawn[1]


@given(st.sets(st.sampled_from(TEXTS), max_size=3), st.integers(0, 5))
def test_few_meta_motions_make_few_orders(texts: set[str], seed: int) -> None:
    found = list(orders([meta(text) for text in texts], seed, LONG, 20.0))
    assert len(found) <= PER_PAIR * len(texts) * (len(texts) + 1) // 2


def test_none_makes_none() -> None:
    assert list(orders([], 0, LONG, 20.0)) == []


def test_one_alone_is_changed() -> None:
    found = list(orders([meta("a person raises their left arm")], 0, LONG, 20.0))
    assert 1 <= len(found) <= PER_PAIR
    assert {len(order.metas) for order in found} == {1}


def test_nothing_is_too_long(planned: list[Order]) -> None:
    short = list(orders(metas(), 0, 80, 20.0))
    assert short and max(order.frames for order in short) <= 80
    assert max(order.frames for order in planned) > 80  # control


@pytest.mark.parametrize(
    ("operation", "frames", "of"),
    [
        ("sequence", lambda own: max(round(0.6 * sum(own)), max(own) + 20), (60, 100)),
        ("simultaneous", max, (60, 100)),
        ("side", max, (60,)),
    ],
)
def test_frames(operation: str, frames, of: tuple[int, ...]) -> None:
    some = [meta(text, of[n % len(of)]) for n, text in enumerate(TEXTS)]
    found = [order for order in orders(some, 0, LONG, 20.0) if order.question.operation == operation]
    assert found
    for order in found:
        assert order.frames == frames([m.frames for m in order.metas])


def test_what_is_done_again_or_slowly_takes_longer(planned: list[Order]) -> None:
    by_detail = {order.question.detail: order.frames for order in planned}
    assert by_detail["twice"] == by_detail["two times"] == 96
    assert by_detail["three times"] == 132
    assert by_detail["slowly"] == 78
    assert by_detail["quickly"] == 60


def test_the_one_that_carries_the_body_leads(planned: list[Order]) -> None:
    for order in planned:
        if order.question.operation == "simultaneous":
            first, second = (m.facts.uses for m in order.metas)
            assert "root" in first or "root" not in second


def test_swaps_swap(planned: list[Order]) -> None:
    """The composed text has the other word, in the place of the one."""
    swapped = 0
    for order in planned:
        first, _, second = order.question.detail.partition(" to ")
        if (first, second) in SWAPS:
            before, after = order.metas[0].text.split(), compose(order.question).split()
            one, other = (first, second) if first in before else (second, first)
            assert one in before and other not in before
            assert other in after and one not in after
            swapped += 1
    assert swapped >= 5


def test_harder_is_rarer_more_and_at_once(planned: list[Order]) -> None:
    hard = {order.question.operation: order.difficulty for order in planned}
    assert 0 < hard["side"] < hard["sequence"] < hard["simultaneous"] <= 1
    rare = [meta(text, sources=("one",)) for text in TEXTS]
    assert {order.difficulty > hard[order.question.operation] for order in orders(rare, 0, LONG, 20.0)} == {True}


@pytest.mark.parametrize(
    ("text", "operation", "details"),
    [
        ("a person jumps", "repeat", {"twice", "three times", "two times"}),
        ("a person walks forward", "repeat", set()),
        ("a person jumps twice", "repeat", set()),
        ("a person walks forward", "speed", {"slowly", "quickly", "at a slow pace", "at a fast pace"}),
        ("a person claps", "speed", {"slowly", "quickly"}),
        ("a person slowly walks", "speed", set()),
        ("a person stands", "speed", set()),
        ("a person raises their left arm", "side", {"left to right"}),
        ("a person waves", "side", {"with the left hand", "with the right hand"}),
        ("a person punches", "side", {"with the left fist", "with the right fist"}),
        ("a person kicks", "side", {"with the left leg", "with the right leg"}),
        ("a person raises an arm", "side", {"on the left side", "on the right side"}),
        ("a person raises both arms", "side", set()),
        ("a person nods", "side", set()),
        ("a person walks forward", "direction", {"forward to backward"}),
        ("a person spins clockwise", "direction", {"clockwise to counterclockwise", "clockwise to anticlockwise"}),
        ("a person leans", "direction", {"to the left", "to the right"}),
        ("a person spins", "direction", {"clockwise", "counterclockwise"}),
        ("a person walks in a circle", "direction", {"clockwise", "counterclockwise"}),
        ("a person waves", "direction", set()),
        ("a person does a cartwheel", "style", set()),
    ],
)
def test_details(text: str, operation: str, details: set[str]) -> None:
    assert set(planner._DETAILS[operation](meta(text).facts)) == details


def test_styles_take_what_is_free() -> None:
    walks, claps = (set(planner._styles(meta(f"a person {t}").facts)) for t in ("walks", "claps"))
    assert walks == {*planner._FREE_ARMS, *planner._FREE_HEAD}
    assert claps == {*planner._FREE_LEGS, *planner._FREE_HEAD}
    assert not planner._styles(meta("a person walks happily").facts)
