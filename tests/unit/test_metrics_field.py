"""The field's table: replications and their intervals, the floor, what is paired, and what cannot be measured."""

import numpy as np
import pytest

from rl_motion.evaluation.metrics import RealEmbeddings, field_metrics
from rl_motion.evaluation.metrics.field import draw_halves, estimate
from rl_motion.evaluation.metrics.multimodality import multimodality_P

GROUPS = ["walk", "wave", "jump", "turn"]


def world(prompts=64, replications=4, real=256, noise=0.3, channels=6, seed=0):
    """Motions near their texts, which lie near their action; `base` is shifted away from what is real."""
    rng = np.random.default_rng(seed)
    centre = {group: 3 * rng.normal(size=channels) for group in GROUPS}

    def texts(count):
        groups = [GROUPS[n % len(GROUPS)] for n in range(count)]
        return groups, np.array([centre[group] for group in groups]) + rng.normal(size=(count, channels))

    groups, text = texts(prompts)
    real_groups, real_text = texts(real)
    tuned = text + noise * rng.normal(size=(replications, prompts, channels))
    base = tuned + 0.8 * rng.normal(size=tuned.shape) + 0.5
    own = RealEmbeddings(real_text + noise * rng.normal(size=real_text.shape), real_text, real_groups)
    return {"base": base, "tuned": tuned}, text, groups, own


def found(seed=7, **changes):
    return field_metrics(*world(**changes), seed=seed)


def test_the_better_arm_is_better_in_every_metric_and_near_the_real():
    table = found()
    for metric, sign in (("fid", -1), ("r_precision_1", 1), ("r_precision_3", 1), ("multimodal_distance", -1)):
        gain = table["difference"][metric]
        assert sign * gain["value"] > 0, metric
        assert gain["value"] == pytest.approx(table["tuned"][metric]["value"] - table["base"][metric]["value"])
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert table["real"]["fid"] == table["tuned"]["fid"]["floor"]
    assert table["tuned"]["fid"]["value"] < 3 * table["real"]["fid"]["value"] < table["base"]["fid"]["value"]
    assert {e["n"] for e in table["tuned"].values()} == {64}
    assert table["not_measured"] == {}


def test_a_model_that_gives_real_motion_is_at_the_floor():
    """The floor is what such a model gets, at its number of motions: neither more nor less."""
    _, text, groups, own = world(real=2000)
    rng = np.random.default_rng(5)
    rows = {g: np.flatnonzero([other == g for other in own.groups_N]) for g in GROUPS}
    perfect = np.stack([own.motion_NC[[rng.choice(rows[g]) for g in groups]] for _ in range(20)])
    table = field_metrics({"perfect": perfect}, text, groups, own, seed=0)
    floor = table["real"]["fid"]
    assert table["perfect"]["fid"]["value"] == pytest.approx(floor["value"], rel=0.15)
    assert floor["low"] < floor["value"] < floor["high"]
    # Negative control: the floor of twice as many motions is lower.
    twice = field_metrics({"p": np.tile(perfect, (1, 2, 1))}, np.tile(text, (2, 1)), groups * 2, own, seed=0)
    assert twice["real"]["fid"]["high"] < floor["low"]


def test_arms_are_compared_on_the_same_rows():
    arms, *rest = world()
    table = field_metrics({"base": arms["base"], "tuned": arms["base"]}, *rest, seed=7)
    assert all((e["value"], e["low"], e["high"]) == (0, 0, 0) for e in table["difference"].values())
    assert table["base"] == table["tuned"]
    third = field_metrics(arms | {"adapter_on": arms["tuned"]}, *rest, seed=7)
    assert third["difference_adapter_on"] == third["difference"]


def test_figures_are_of_the_seed_alone():
    assert found(seed=1) == found(seed=1)
    assert found(seed=1)["base"]["fid"]["value"] != found(seed=2)["base"]["fid"]["value"]


def test_intervals_are_the_fields():
    values = np.array([1.0, 2, 4, 5])
    got = estimate(values, 9)
    half = 1.96 * np.sqrt(((values - 3) ** 2).mean()) / 2
    assert (got.value, got.low, got.high, got.n) == pytest.approx((3, 3 - half, 3 + half, 9))
    assert estimate(values[:1], 9).low is None


def test_multimodality_is_of_all_samples_with_an_interval_over_prompts():
    arms, text, groups, own = world(replications=3)
    table = field_metrics(arms, text, groups, own, seed=3)
    every = (np.array([0, 0, 1]), np.array([1, 2, 2]))
    got = table["base"]["multimodality"]
    assert got["value"] == pytest.approx(multimodality_P(arms["base"].swapaxes(0, 1), every).mean())
    assert got["low"] < got["value"] < got["high"]
    assert table["difference"]["multimodality"]["value"] < 0


# --- halves of the real motion ------------------------------------------------------------


def test_halves_are_disjoint_and_have_the_prompts_actions():
    prompts = ["a"] * 5 + ["b"] * 3
    real = ["b"] * 10 + ["a"] * 30 + ["c"] * 10
    for halves in draw_halves(prompts, real, 4, np.random.default_rng(0)):
        assert not set(halves.first_K) & set(halves.second_K)
        assert sorted(halves.prompts_K) == list(range(8))
        for rows in (halves.first_K, halves.second_K):
            assert [real[row] for row in rows] == ["a"] * 5 + ["b"] * 3
    first, second = draw_halves(prompts, real, 2, np.random.default_rng(0))
    assert set(first.first_K) != set(second.first_K)


def test_where_real_motion_is_scarce_fewer_prompts_are_compared():
    (halves,) = draw_halves(["a"] * 5 + ["b"] * 3, ["a"] * 7 + ["b"] * 6, 1, np.random.default_rng(0))
    assert len(halves.first_K) == len(halves.second_K) == len(halves.prompts_K) == 6
    assert draw_halves(["a"] * 5, ["b"] * 90, 1, np.random.default_rng(0)) == []
    table = found(real=48)
    assert table["tuned"]["fid"]["n"] == 24


# --- what cannot be measured ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "missing", "words"),
    [
        ({"prompts": 31}, "r_precision", "no batch of 32"),
        ({"replications": 1}, "multimodality", "samples_per_prompt"),
        ({"real": 3}, "fid", "two halves"),
    ],
)
def test_what_cannot_be_measured_is_left_out_with_its_reason(changes, missing, words):
    table = found(**changes)
    assert set(table["not_measured"]) == {missing}
    assert words in table["not_measured"][missing]
    assert not any(name.startswith(missing) for name in table["tuned"])
    if "replications" in changes:
        assert table["tuned"]["fid"]["low"] is None


def test_without_real_motion_there_is_no_fid():
    arms, text, groups, _ = world()
    table = field_metrics(arms, text, groups, None, seed=0)
    assert "no real motion" in table["not_measured"]["fid"]
    assert "real" not in table
    assert "fid" not in table["tuned"]
    assert "r_precision_1" in table["tuned"]


@pytest.mark.parametrize("spoil", ["shape", "nan"])
def test_embeddings_that_do_not_fit_are_refused(spoil):
    arms, text, groups, own = world()
    arms["tuned"] = arms["tuned"][:2] if spoil == "shape" else np.where(arms["tuned"] > 0, np.nan, arms["tuned"])
    with pytest.raises(ValueError, match="want"):
        field_metrics(arms, text, groups, own, seed=0)
