"""The files of the benchmark: goals, parts, and what joins them."""

import json
import math

import pytest

from rl_motion.config import UserError
from tests.unit.test_jobs import load


@pytest.fixture(scope="module")
def goals(root):
    return load(root, "bench/goals")


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(1.3, True, True), (1.299, True, False), (1.3, False, True), (1.301, False, False)]
)
def test_a_goal_is_met_exactly_or_not(goals, value, at_least, met):
    assert goals.Goal("rollout/x", value, 1.3, at_least).met is met


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_was_not_measured_is_no_figure(goals, value):
    with pytest.raises(ValueError, match="want finite numbers"):
        goals.Goal("rollout/x", value, 1.3, True)


def test_parts_come_back_and_join(goals, tmp_path):
    one = goals.Part("rollout", (goals.Goal("rollout/x", 1.5, 1.3, True, note="8 motions"),), {"a": 1}, 2.0)
    other = goals.Part("startup", (goals.Goal("startup/help", 0.7, 0.5, False, "s"),), {}, 1.0, machine={"cores": 2})
    for part in (one, other):
        goals.write_part(tmp_path / f"{part.name}.json", part)
        assert goals.read_part(tmp_path / f"{part.name}.json") == part
    content = goals.write_bench(tmp_path / "bench.json", [one, other], "abc")
    assert content == json.loads((tmp_path / "bench.json").read_text())
    assert {name: entry["met"] for name, entry in content["goals"].items()} == {
        "rollout/x": True,
        "startup/help": False,
    }
    assert content["goals"]["rollout/x"] == {
        "value": 1.5,
        "goal": 1.3,
        "met": True,
        "at_least": True,
        "unit": "x",
        "note": "8 motions",
        "part": "rollout",
    }


def test_two_figures_of_one_name_are_refused(goals):
    part = goals.Part("rollout", (goals.Goal("x", 1.5, 1.3, True),), {}, 2.0)
    with pytest.raises(ValueError, match="got the goal x twice"):
        goals.joined([part, part], None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"goals": []}', '{"goals": [{"name": "x"}]}'])
def test_a_file_that_is_no_part_is_said(goals, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="no part of a benchmark"):
        goals.read_part(tmp_path / "x.json")
