"""Curricula: which prompts an iteration draws. The default draws what it always drew."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter

import pytest
from pydantic import ValidationError

from rl_motion.config import Job, PromptsConfig, TrainConfig, UserError
from rl_motion.prompts import curricula
from rl_motion.prompts.curricula import FLOOR, OPTIMISM, Curriculum
from rl_motion.prompts.pool import PromptPool, make_prompt
from rl_motion.runtime.build import build_pool

PROMPTS = [make_prompt(f"thing {number}", 40) for number in range(40)]
SIZES = TrainConfig(prompts_per_iteration=4, prompts_per_unit=2, samples_per_prompt=2)


def pool(name: str, count: int = 40, rated: bool = True, **settings: float) -> PromptPool:
    """Of thing 0, the easiest, and so on."""
    asked = PromptsConfig.model_validate({"curriculum": name, **settings})
    difficulty = {prompt.id: number / 40 for number, prompt in enumerate(PROMPTS)} if rated else {}
    return PromptPool({"a": PROMPTS[:count]}, {"a": 1.0}, 7, Curriculum(asked, difficulty))


def drawn(made: PromptPool, iteration: int, spread: dict[int, float] | None = None) -> list[int]:
    known = {PROMPTS[number].id: value for number, value in (spread or {}).items()}
    units = made.draw(iteration, SIZES, known)
    return [PROMPTS.index(prompt) for unit in units for prompt in unit.prompts]


def test_the_default_job_draws_what_it_always_drew() -> None:
    """Golden: written down before there were curricula."""
    job = Job(name="any")
    made = build_pool(job)
    ids = [p.id for i in (0, 1, 2, 17, 500) for unit in made.draw(i, job.train) for p in unit.prompts]
    golden = "45e6dbf77b6532fbf9a62c7d05ee6879aa59c5eef472e184b1b2f444644f2e31"
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == golden
    assert made.sha256 == "573c607068b589d42f73ed39bb58555fc9c928c5b2871c55babe1af9d2346313"
    two = {"a": [make_prompt(f"a {n}", 40) for n in range(10)], "b": [make_prompt(f"b {n}", 40) for n in range(7)]}
    sizes = TrainConfig(prompts_per_iteration=6, prompts_per_unit=3, samples_per_prompt=2)
    units = PromptPool(two, {"a": 2.0, "b": 1.0}, 7).draw(3, sizes)
    assert [p.text for unit in units for p in unit.prompts] == ["a 4", "b 3", "a 1", "a 8", "b 5", "a 0"]


@pytest.mark.parametrize("name", ["uniform", "difficulty", "signal"])
def test_draws_are_without_repeats_and_a_function_of_what_is_asked(name: str) -> None:
    spread = {number: number / 40 for number in range(20)}
    first = [drawn(pool(name), iteration, spread) for iteration in range(12)]
    assert first[::-1] == [drawn(pool(name), iteration, spread) for iteration in reversed(range(12))]
    assert all(len(set(one)) == 4 for one in first)
    assert len({tuple(one) for one in first}) == 12


def test_units_drawn_before_come_again() -> None:
    made = pool("signal")
    units = made.draw(3, SIZES)
    assert made.again(3, SIZES, [prompt.id for unit in units for prompt in unit.prompts]) == units


def test_the_easiest_come_first_and_the_share_grows_linearly() -> None:
    made = pool("difficulty", curriculum_start=0.25, curriculum_iterations=30)
    hardest = [max(max(drawn(made, i)) for i in range(start, start + 5)) for start in range(0, 30, 5)]
    for number, start in zip(hardest, range(0, 30, 5), strict=True):
        assert number < math.ceil(40 * (0.25 + 0.75 * (start + 4) / 30))
    assert hardest[-1] > 30 > 15 > hardest[0]
    # Control: uniform reaches for the hardest at once.
    assert max(max(drawn(pool("uniform"), i)) for i in range(5)) > 30
    # Grown, it draws as uniform does.
    assert [drawn(made, i) for i in (30, 31, 99)] == [drawn(pool("uniform"), i) for i in (30, 31, 99)]


def test_what_is_easy_is_drawn_evenly() -> None:
    made = pool("difficulty", curriculum_start=0.25, curriculum_iterations=1_000_000)
    counts = Counter(number for i in range(500) for number in drawn(made, i))
    assert set(counts) <= set(range(11)) and min(counts[n] for n in range(10)) > 130  # of 200 each, 4 of 10 or 11


def test_difficulty_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"got difficulty with the source 'a', whose prompts have none; want pools"):
        pool("difficulty", rated=False)
    pool("signal", rated=False)


def test_the_hash_follows_difficulty() -> None:
    assert pool("uniform").sha256 == pool("difficulty").sha256 != pool("uniform", rated=False).sha256


def test_what_scores_alike_fades_to_the_floor_and_never_to_nothing() -> None:
    """20 prompts with a signal and 20 without: frequencies follow the weights."""
    spread = {number: 1.0 if number < 20 else 0.0 for number in range(40)}  # 2 and 0 means
    counts = Counter(number for i in range(3000) for number in drawn(pool("signal"), i, spread))
    flat, telling = sum(counts[n] for n in range(20, 40)), sum(counts[n] for n in range(20))
    share = 20 * FLOOR / (20 * FLOOR + 20 * (FLOOR + 2))
    assert flat / (flat + telling) == pytest.approx(share, rel=0.15)  # a little above: without replacement
    assert min(counts[n] for n in range(20, 40)) > 0
    # Control: with no signal known, or the same of all, all come as often.
    for known in ({}, dict.fromkeys(range(40), 0.3), dict.fromkeys(range(40), 0.0)):
        even = Counter(number for i in range(1000) for number in drawn(pool("signal"), i, known))
        assert min(even.values()) > 60 and max(even.values()) < 140


def test_a_new_prompt_is_hoped_for() -> None:
    spread = dict.fromkeys(range(1, 40), 0.5)
    new = sum(0 in drawn(pool("signal"), i, spread) for i in range(3000)) / 3000
    each = 1 / (39 * (1 + FLOOR) / (OPTIMISM + FLOOR) + 1)
    assert new == pytest.approx(1 - (1 - each) ** 4, rel=0.15)
    assert new > 1.5 * 4 / 40


def test_a_prompts_chance_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyed by prompt: without those that are gone, the others come in the order they had."""
    whole, part = (curricula.signal(Curriculum(), draw) for draw in (asked(PROMPTS), asked(PROMPTS[::2])))
    assert [prompt for prompt in whole if prompt in PROMPTS[::2]] == part
    # Control: keyed by place, they do not.
    places = iter(range(1000))
    monkeypatch.setattr(curricula, "_unit", lambda key: 0.1 + 0.8 * ((next(places) * 0.618) % 1))
    whole, part = (curricula.signal(Curriculum(), draw) for draw in (asked(PROMPTS), asked(PROMPTS[::2])))
    assert [prompt for prompt in whole if prompt in PROMPTS[::2]] != part


def asked(prompts: list[curricula.Prompt]) -> curricula.Draw:
    return curricula.Draw(seed=1, source="a", prompts=prompts, iteration=5, count=len(prompts), spread={})


@pytest.mark.parametrize("name", ["uniform", "signal"])
@pytest.mark.parametrize("settings", [{"curriculum_start": 0.5}, {"curriculum_iterations": 10}])
def test_settings_that_nobody_reads_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="does not read it"):
        PromptsConfig.model_validate({"curriculum": name, **settings})
    PromptsConfig.model_validate({"curriculum": "difficulty", **settings})
