"""The pool: prompts follow from (seed, iteration) alone, exactly in proportion, without repeats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.config import TrainConfig, UserError
from rl_motion.prompts.pool import PromptPool, make_prompt, read_prompts
from rl_motion.types import Prompt


def some(name: str, count: int) -> list[Prompt]:
    return [make_prompt(f"{name} {number}", 40) for number in range(count)]


def sizes(prompts: int, per_unit: int = 1) -> TrainConfig:
    return TrainConfig(prompts_per_iteration=prompts, prompts_per_unit=per_unit, samples_per_prompt=2)


def texts(pool: PromptPool, iteration: int, train: TrainConfig) -> list[str]:
    return [prompt.text for unit in pool.draw(iteration, train) for prompt in unit.prompts]


def test_an_iteration_does_not_depend_on_the_ones_before() -> None:
    made = [PromptPool({"a": some("a", 30)}, {"a": 1.0}, seed=3) for _ in range(2)]
    in_order = [made[0].draw(i, sizes(8, 4)) for i in range(9)]
    backwards = [made[1].draw(i, sizes(8, 4)) for i in reversed(range(9))]
    assert in_order == backwards[::-1]
    assert in_order != [PromptPool({"a": some("a", 30)}, {"a": 1.0}, seed=4).draw(i, sizes(8, 4)) for i in range(9)]


@given(
    weights=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=4),
    prompts=st.integers(8, 40),
    seed=st.integers(0, 10**9),
)
def test_proportions_are_exact_and_nothing_repeats(weights: list[float], prompts: int, seed: int) -> None:
    names = [f"s{number}" for number in range(len(weights))]
    weighted = dict(zip(names, weights, strict=True))
    pool = PromptPool({name: some(name, 90) for name in names}, weighted, seed)
    try:
        pool.check(sizes(prompts))
    except UserError:
        return  # a source so light that it would get nothing
    seen: dict[str, Counter[str]] = {name: Counter() for name in names}
    for iteration in range(2):
        drawn = texts(pool, iteration, sizes(prompts))
        assert len(set(drawn)) == len(drawn) == prompts
        counts = Counter(text.split()[0] for text in drawn)
        for name in names:
            assert abs(counts[name] - prompts * weighted[name] / sum(weights)) < 1
        for text in drawn:
            seen[text.split()[0]][text] += 1
    for name in names:
        per_iteration = sum(seen[name].values()) // 2
        if per_iteration * 2 <= 90:  # both iterations lie in one epoch
            assert max(seen[name].values()) == 1


def test_an_epoch_reaches_every_prompt_and_the_next_is_shuffled_anew() -> None:
    pool = PromptPool({"a": some("a", 12)}, {"a": 1.0}, seed=0)
    epochs = [[text for i in range(3) for text in texts(pool, 3 * e + i, sizes(4))] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(prompt.text for prompt in some("a", 12))
    assert epochs[0] != epochs[1]


def test_sources_are_interleaved() -> None:
    pool = PromptPool({"a": some("a", 8), "b": some("b", 8)}, {"a": 1.0, "b": 1.0}, seed=0)
    assert [text[0] for text in texts(pool, 0, sizes(8, 2))] == ["a", "b"] * 4


def test_units_carry_what_keys_their_noise() -> None:
    units = PromptPool({"a": some("a", 8)}, {"a": 1.0}, seed=5).draw(7, sizes(4, 2))
    assert [(unit.seed, unit.iteration, unit.index, unit.batch) for unit in units] == [
        (5, 7, 0, 4),
        (5, 7, 1, 4),
    ]


def test_hash_follows_content() -> None:
    base = PromptPool({"a": some("a", 8)}, {"a": 1.0}, seed=0).sha256
    assert base == PromptPool({"a": some("a", 8)}, {"a": 1.0}, seed=0).sha256
    assert base != PromptPool({"a": some("a", 9)}, {"a": 1.0}, seed=0).sha256
    assert base != PromptPool({"a": some("a", 8)}, {"a": 2.0}, seed=0).sha256


def test_what_cannot_be_served_is_refused() -> None:
    few = PromptPool({"a": some("a", 3)}, {"a": 1.0}, seed=0)
    with pytest.raises(UserError, match="got 3 different prompts in 'a'; want 8"):
        few.draw(0, sizes(8))
    light = PromptPool({"a": some("a", 9), "b": some("b", 9)}, {"a": 1.0, "b": 0.01}, seed=0)
    with pytest.raises(UserError, match=r"'b' with weight 0\.01 gets none"):
        light.check(sizes(8))
    with pytest.raises(UserError, match="weights"):
        PromptPool({"a": some("a", 3)}, {}, seed=0)
    with pytest.raises(UserError, match="no prompt of its own in 'b'"):
        PromptPool({"a": some("a", 3), "b": some("a", 2)}, {"a": 1.0, "b": 1.0}, seed=0)


def test_files_give_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a person  walks\n\nsomeone jumps twice#55\na person walks\n", encoding="utf-8")
    prompts = read_prompts(path, 40)
    assert [(p.text, p.length) for p in prompts] == [("a person walks", 40), ("someone jumps twice", 55)]
    assert prompts[0].id == make_prompt("a person walks", 40).id != make_prompt("a person walks", 41).id


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe\x00a", "not UTF-8"),
        (b"", "no prompts"),
        (b"\n  \n", "no prompts"),
        (b"a walk\x00\n", "line 1"),
        (b"fine\na walk#soon\n", "line 2: got 'soon'"),
        (b"a walk#0\n", "length of 0"),
        (b"a walk#99999\n", "length of 99999"),
        (b"#40\n", "printable"),
        (b"x" * 1001, "1001 characters"),
        (b"\x1b[31mred\n", "printable"),
    ],
)
def test_bad_files_teach(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_prompts(path, 40)
    assert word in str(caught.value)


def test_missing_file_teaches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt", 40)
