"""The blind comparison: a page that knows no arms, answers that are foreign data, a tally against other oracles."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.evaluation.ab import Answers, Candidate, Key, KeyPair, make_trials, page_id, read_answers, read_key
from rl_motion.evaluation.ab_page import ab_page
from rl_motion.evaluation.ab_tally import as_markdown, count, pigeonhole_interval, sign_test, tally, wilson_interval
from rl_motion.evaluation.statistics import bootstrap_mean
from tests.report_runs import HOSTILE

NAN = float("nan")


def candidates(number: int = 30, *, swap: bool = False) -> list[Candidate]:
    """Prompt n: the first arm's figure stands at n + .1, the second's at n + .2; exchanged with `swap`."""
    found = []
    for n in range(number):
        one, two = (np.full((4, 22, 3), n + part, np.float32) for part in ((0.2, 0.1) if swap else (0.1, 0.2)))
        found.append(Candidate(f"id{n}", HOSTILE if n == 0 else f"text {n}", one, two, 20.0))
    return found


def made(number: int = 20, seed: int = 0, **changes: Any) -> tuple[list, Key]:
    trials, pairs = make_trials(candidates(**changes), number, seed)
    return trials, Key(page=page_id(trials), first="base", second="tuned", seed=seed, pairs=pairs)


# --- the draw ------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_key_says_what_the_page_shows(seed: int) -> None:
    trials, key = made(seed=seed)
    assert [trial.id for trial in trials] == [pair.id for pair in key.pairs] == [f"p{n:02d}" for n in range(1, 22)]
    for trial, pair in zip(trials, key.pairs, strict=True):
        n = int(pair.prompt_id.removeprefix("id"))
        a, b = (float(joints[0, 0, 0]) for joints in (trial.a_FJ3, trial.b_FJ3))
        assert (a, b) == pytest.approx((n + 0.1, n + 0.2) if pair.a == "first" else (n + 0.2, n + 0.1))
        assert trial.text == pair.text
    own = [pair.prompt_id for pair in key.pairs if pair.repeats is None]
    assert len(own) == len(set(own)) == 20


@pytest.mark.parametrize("seed", range(20))
def test_one_pair_comes_again_with_its_sides_exchanged(seed: int) -> None:
    _, key = made(seed=seed)
    (again,) = [pair for pair in key.pairs if pair.repeats]
    before = next(pair for pair in key.pairs if pair.id == again.repeats)
    assert again.prompt_id == before.prompt_id
    assert {again.a, before.a} == {"first", "second"}
    places = [pair.id for pair in key.pairs]
    assert places.index(before.id) < 7
    assert places.index(again.id) >= 14


def test_sides_and_order_are_drawn() -> None:
    keys = [made(seed=seed)[1] for seed in range(200)]
    firsts = [pair.a == "first" for key in keys for pair in key.pairs]
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.03)
    assert len({tuple(pair.prompt_id for pair in key.pairs) for key in keys}) == 200
    assert made(seed=3)[1] == made(seed=3)[1]


def test_small_pages_and_pages_that_are_too_large() -> None:
    for number in (2, 3, 30):
        assert len(made(number)[1].pairs) == number + 1
    with pytest.raises(UserError, match="30 prompts"):
        made(31)


# --- the page ------------------------------------------------------------


def test_the_page_is_a_function_of_what_is_shown_alone() -> None:
    """Other arms on the same sides: the same bytes. So no byte of it depends on which arm is where."""
    trials, key = made(seed=5)
    exchanged, other = make_trials(candidates(swap=True), 20, 5)
    turned = [
        type(one)(one.id, one.text, one.b_FJ3, one.a_FJ3, one.fps) for one in exchanged
    ]  # what was `first` is now `second`, on the sides where it was
    assert [pair.a for pair in key.pairs] == [pair.a for pair in other]
    assert ab_page(turned) == ab_page(trials)
    # Negative control: an arm's name in a text is seen.
    named = [
        type(one)(one.id, f"{one.text} {pair.a}", one.a_FJ3, one.b_FJ3, one.fps)
        for one, pair in zip(turned, other, strict=True)
    ]
    assert ab_page(named) != ab_page(trials)


def test_the_page_runs_its_own_scripts_alone() -> None:
    text = ab_page(made()[0])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert f"script-src {' '.join(f'{chr(39)}sha256-{digest}{chr(39)}' for digest in hashes)}" in text
    assert "default-src 'none'" in text
    assert "<script>alert" not in text
    assert not re.search(r"\b(src|href)=|url\(", text)


def test_pages_of_other_motions_or_sides_bear_other_names() -> None:
    trials, _ = made()
    turned = [type(one)(one.id, one.text, one.b_FJ3, one.a_FJ3, one.fps) for one in trials]
    assert len({page_id(trials), page_id(turned), page_id(made(seed=1)[0])}) == 3
    assert page_id(made()[0]) == page_id(trials)


# --- answers ------------------------------------------------------------


def answers(key: Key, rater: str = "Ann", **changes: Any) -> dict[str, Any]:
    given = {pair.id: {"realism": "A", "adherence": "same"} for pair in key.pairs}
    return {"format": 1, "page": key.page, "rater": rater, "saved": "2026-01-01", "answers": given} | changes


def saved(folder: Path, content: object, name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_answers_and_keys_come_back(tmp_path: Path) -> None:
    _, key = made()
    assert read_key(saved(tmp_path, key.model_dump_json(), "key.json")) == key
    partial = answers(key, answers={"p01": {"realism": "B"}, "p02": {}})
    (found,) = read_answers([saved(tmp_path, partial)], key)
    assert found.answers == {"p01": {"realism": "B"}, "p02": {}}


def broken(key: Key) -> dict[str, tuple[object, str]]:
    return {
        "no JSON": ("{", "no answers"),
        "deep": ("[" * 100_000, "no answers"),
        "another page": (answers(key, page="0" * 32), "answers of page"),
        "a page of no form": (answers(key, page="../../etc"), "no answers"),
        "another format": (answers(key, format=2), "no answers"),
        "no rater": (answers(key, rater=""), "no answers"),
        "a rater that never ends": (answers(key, rater="x" * 1000), "no answers"),
        "a rater that is a number": (answers(key, rater=3), "no answers"),
        "an unknown pair": (answers(key, answers={"p99": {"realism": "A"}}), "'p99'"),
        "an unknown question": (answers(key, answers={"p01": {"beauty": "A"}}), "no answers"),
        "an unknown choice": (answers(key, answers={"p01": {"realism": "tuned"}}), "no answers"),
        "an unknown key": (answers(key, votes=1), "no answers"),
        "nothing": (answers(key, answers={}), "no answer at all"),
        "nothing, pair by pair": (answers(key, answers={"p01": {}}), "no answer at all"),
    }


@pytest.mark.parametrize("name", broken(made()[1]))
def test_answers_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    _, key = made()
    content, words = broken(key)[name]
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        read_answers([saved(tmp_path, content)], key)
    assert len(str(refused.value)) < 600
    assert all(word in str(refused.value) for word in ("got", "want", ";"))


def test_nobody_answers_twice(tmp_path: Path) -> None:
    _, key = made()
    paths = [saved(tmp_path, answers(key, name), f"{n}.json") for n, name in enumerate(("Ann  B", "Ben", " ann b"))]
    assert len(read_answers(paths[:2], key)) == 2
    with pytest.raises(UserError, match="2 files"):
        read_answers(paths, key)


def test_a_key_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    _, key = made()
    whole = json.loads(key.model_dump_json())
    for pairs in ([], whole["pairs"] + whole["pairs"][:1], [whole["pairs"][0] | {"repeats": "p77"}]):
        with pytest.raises(UserError, match="no key"):
            read_key(saved(tmp_path, whole | {"pairs": pairs}, "key.json"))


# --- the tally ------------------------------------------------------------


def key_of(prompts: int) -> Key:
    """The second arm on side A in odd pairs; the last pair repeats the first, exchanged."""
    pairs = [
        KeyPair(id=f"p{n:02d}", prompt_id=f"id{n}", text="t", a="second" if n % 2 else "first", repeats=None)
        for n in range(1, prompts + 1)
    ]
    last = KeyPair(id=f"p{prompts + 1:02d}", prompt_id="id1", text="t", a="first", repeats="p01")
    return Key(page="0" * 32, first="base", second="tuned", seed=0, pairs=[*pairs, last])


def person(key: Key, rater: str, votes: str, again: str = "") -> Answers:
    """`votes`: a letter a prompt: s for the second arm, f for the first, = for no difference, . for nothing."""
    given = {}
    for pair, vote in zip(key.pairs, votes + again, strict=False):
        side = {"s": "A" if pair.a == "second" else "B", "f": "B" if pair.a == "second" else "A", "=": "same"}
        if vote != ".":
            given[pair.id] = {"realism": side[vote]}
    return Answers(format=1, page=key.page, rater=rater, saved="", answers=given)


def test_sides_are_turned_back_into_arms() -> None:
    key = key_of(4)
    result = tally([person(key, "Ann", "ssf=", "s"), person(key, "Ben", "s.ff", "f")], key)["realism"]
    assert (result.overall.second, result.overall.first, result.overall.same) == (3, 3, 1)
    assert (result.raters["Ann"].second, result.raters["Ann"].first, result.raters["Ann"].same) == (2, 1, 1)
    # The repeated pair is no vote; it says whether the same motion was chosen again.
    assert [(one.same_again, one.of) for one in result.steady.values()] == [(1, 1), (0, 1)]
    # By majority: prompt 1 for the second; prompts 3 and 4 against; prompt 2 for, of Ann alone.
    assert (result.overall.prompts_for, result.overall.prompts_against) == (2, 2)
    nothing = tally([person(key, "Ann", "ssss")], key)["adherence"]
    assert (nothing.overall.words, nothing.overall.share, nothing.steady["Ann"].of) == ("nobody answered", None, 0)


def test_wilsons_interval_and_the_sign_test_are_scipys() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for k, n in ((0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (300, 600)):
        wanted = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson_interval(k, n) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
        assert sign_test(k, n - k) == pytest.approx(binomtest(k, n).pvalue, rel=1e-12)
    assert sign_test(0, 0) == 1.0


def test_the_bootstrap_of_people_who_agree_is_that_over_prompts() -> None:
    votes = np.repeat(np.random.default_rng(1).choice([1.0, -1.0], size=(1, 20)), 2, axis=0)
    known = bootstrap_mean((votes[0] + 1) / 2, [f"{n}" for n in range(20)], seed=0)
    assert pigeonhole_interval(votes) == pytest.approx((known.low, known.high), abs=0.03)
    assert pigeonhole_interval(np.array([[1.0, NAN], [1.0, NAN]])) is None
    # One person alone, and one beside whom nobody decided.
    assert pigeonhole_interval(votes[:1]) is None
    assert pigeonhole_interval(np.stack([votes[0], np.zeros(20)])) is None


def test_the_bootstrap_holds_where_wilson_flatters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is better, but prompts and people lean: the interval must hold one half, which Wilson's does not."""
    monkeypatch.setattr("rl_motion.evaluation.ab_tally.RESAMPLES", 300)
    rng = np.random.default_rng(0)
    held, flattered = [], []
    for _ in range(150):
        lean = rng.normal(scale=1.0, size=(1, 20)) + rng.normal(scale=0.5, size=(12, 1))
        votes = np.sign(lean + rng.normal(size=(12, 20)))
        for found, (low, high) in (
            (held, pigeonhole_interval(votes)),
            (flattered, wilson_interval(int((votes > 0).sum()), votes.size)),
        ):
            found.append(low <= 0.5 <= high)
    assert np.mean(held) >= 0.93
    assert np.mean(flattered) < 0.75


@pytest.mark.parametrize(
    ("votes", "words"),
    [
        (["s" * 20] * 3, "tuned is preferred, over 3 people and 20 prompts"),
        (["f" * 20] * 3, "base is preferred, over 3 people and 20 prompts"),
        (["s" * 20, "s" * 20, "=" * 20], "tuned is preferred, over 2 people and 20 prompts"),
        (["s" * 11 + "f" * 9] * 3, "no preference that 20 prompts and 3 people can show"),
        (["s" * 12 + "." * 8] * 2, "tuned is preferred, over 2 people and 12 prompts"),
        # One person alone shows nothing of others, however sure of it.
        (["s" * 20], "no preference that 20 prompts and 1 person can show"),
        (["s" * 20, "=" * 20], "no preference that 20 prompts and 2 people can show"),
        (["s" * 2 + "=" * 18], "no preference that 20 prompts and 1 person can show"),
        (["=" * 20], "nobody saw a difference (20 prompts and 1 person)"),
    ],
)
def test_what_the_intervals_allow_is_said_in_words(votes: list[str], words: str) -> None:
    key = key_of(20)
    people = [person(key, f"r{n}", one) for n, one in enumerate(votes)]
    result = tally(people, key)
    assert result["realism"].overall.words == words
    assert f"realism: {words}" in as_markdown(result, key)


def test_a_share_of_one_half_is_not_hidden_by_ties() -> None:
    key = key_of(2)
    found = count(np.array([[1.0, 0.0], [NAN, -1.0]]), key)
    assert (found.share, found.second, found.first, found.same) == (0.5, 1, 1, 1)


def test_a_raters_name_starts_no_markup() -> None:
    key = key_of(2)
    text = as_markdown(tally([person(key, "| <b> |\n#", "ss")], key), key)
    assert "<b>" not in text
    assert {line.count(" | ") for line in text.splitlines() if line.startswith("|") and "---" not in line} == {8}
