"""The report: its contract, what it warns of, how it is written, and the page."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from rl_motion.config import EvaluationConfig, Job
from rl_motion.evaluation import report as report_module
from rl_motion.evaluation.charts import curves
from rl_motion.evaluation.evaluate import Evaluation, Record, Shown
from rl_motion.evaluation.format import interval, number
from rl_motion.evaluation.page import render
from rl_motion.evaluation.report import (
    before_after_table,
    build_report,
    evaluate_run,
)
from rl_motion.evaluation.selection import SPLITS
from rl_motion.evaluation.sentinels import Band, Bands
from rl_motion.evaluation.stored import read_records
from rl_motion.types import Prompt

JOB = Job(name="toy", evaluation=EvaluationConfig(prompts=4, samples_per_prompt=2, seed=1))
ESTIMATE = {"value", "low", "high", "n"}
BANDS = Bands("toy", 20.0, {name: Band(-0.2, 0.2, 0.0) for name in ("jerk", "foot_skate", "diversity")}, None)
"""Ratios from .82 to 1.22 are honest; of energy nothing is known."""


def evaluation(*, gain=1.0, jerk=1.0, diversity=1.0, drop=0.0, arms=("base", "tuned"), prompts=4):
    """Four prompts of two actions, two samples; the base does the first sample of each prompt right."""
    result = Evaluation(adapter_sha256={arm: arm * 2 for arm in arms}, bands=BANDS)
    for split in SPLITS:
        for arm in arms:
            for index in range(prompts):
                prompt = Prompt(f"{split}{index}", f"<b>walks</b> {index}", 5, "walk" if index < 2 else "wave")
                for sample in range(2):
                    base = arm == "base"
                    right = 1.0 - sample if base else min(1.0, 1.0 - sample + gain)
                    lost = 0.0 if base or split != "original" else drop
                    result.records.append(
                        Record(
                            split=split,
                            arm=arm,
                            prompt=prompt,
                            sample=sample,
                            oracle_success=right - lost,
                            reward=0.25 if base else 0.75,
                            sentinels={
                                "bone_drift": 0.01,
                                "jerk": 10.0 if base else 10.0 * jerk,
                                "foot_skate": 0.0,
                                "energy": 0.3 if base else 0.6,
                            },
                            rewards={"tmr": 0.25 if base else 0.75},
                            diversity=0.2 if base else 0.2 * diversity,
                        )
                    )
    return result


def build(job=JOB, **changes):
    return build_report(evaluation(**changes), job, wall_s=12.5)


def test_holds_the_contract_and_nothing_that_json_cannot_say():
    report = json.loads(json.dumps(build(), allow_nan=False))
    for block in ("base", "tuned", "difference"):
        assert set(report[block]) == {"held_out", "original", "train"}
        for split in report[block].values():
            assert set(split) == {"oracle_success", "reward"}
            assert all(set(estimate) == ESTIMATE for estimate in split.values())
    assert report["adapter_sha256"] == "tunedtuned"
    assert (report["seed"], report["wall_s"]) == (0, 12.5)
    assert report["evaluation"]["prompts"] == {"held_out": 4, "original": 4, "train": 4}


def test_figures_are_those_of_the_records():
    report = build()
    assert report["base"]["held_out"]["oracle_success"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 8}
    assert report["difference"]["held_out"]["oracle_success"] == {
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
        "n": 8,
    }
    assert report["difference"]["train"]["reward"]["value"] == 0.5
    assert report["classes"]["held_out"] == {
        "walk": {"base": 0.5, "tuned": 1.0, "n": 4, "prompts": 2},
        "wave": {"base": 0.5, "tuned": 1.0, "n": 4, "prompts": 2},
    }
    assert report["sentinels"]["held_out"]["jerk"]["ratio"]["value"] == 1.0
    assert report["sentinels"]["held_out"]["foot_skate"]["ratio"] is None
    assert report["sentinels"]["held_out"]["foot_skate"]["within"]
    # What has no band is shown.
    assert report["sentinels"]["held_out"]["energy"]["ratio"]["value"] == pytest.approx(2.0)
    assert "within" not in report["sentinels"]["held_out"]["energy"]
    assert report["diversity"]["original"]["ratio"]["value"] == pytest.approx(1.0)
    assert report["warnings"] == []


def test_difference_is_paired_and_not_a_difference_of_means_of_other_rows():
    mixed = evaluation()
    order = np.random.default_rng(0).permutation(8)
    tuned = [replace(r, oracle_success=float(i % 3 == 0)) for i, r in enumerate(mixed.of("held_out", "tuned"))]
    base = [
        replace(r, oracle_success=t.oracle_success) for r, t in zip(mixed.of("held_out", "base"), tuned, strict=True)
    ]
    rest = [r for r in mixed.records if r.split != "held_out"]
    mixed.records = rest + base + tuned
    same = build_report(mixed, JOB, wall_s=0)["difference"]["held_out"]["oracle_success"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    # Negative control: pair the rows wrongly and the interval is no longer nothing.
    wrong = [replace(base[i], prompt=b.prompt) for i, b in zip(order, base, strict=True)]
    mixed.records = rest + wrong + tuned
    other = build_report(mixed, JOB, wall_s=0)["difference"]["held_out"]["oracle_success"]
    assert other["low"] < 0 < other["high"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"jerk": 1.6}, "held_out: jerk"),
        ({"diversity": 0.4}, "held_out: diversity is 0.08, the base's 0.2: 0.41 times; honest ones are 0.82 to 1.22"),
        ({"drop": 0.6}, "forgets"),
    ],
)
def test_says_what_went_wrong(changes, words):
    assert any(words in warning for warning in build(**changes)["warnings"])


def test_what_leaves_its_band_is_an_alarm_and_without_bands_nothing_is_judged():
    shaken = build(jerk=3.0, diversity=0.5)
    jerk, diversity = shaken["sentinels"]["held_out"]["jerk"], shaken["diversity"]["held_out"]
    assert (jerk["within"], diversity["within"]) == (False, False)
    assert (jerk["low"], jerk["high"]) == (0.0, pytest.approx(math.exp(0.2)))  # less jerk is better
    assert (diversity["low"], diversity["high"]) == (pytest.approx(math.exp(-0.2)), pytest.approx(math.exp(0.2)))
    # In report.json's order the farthest is first: the ratios are of values with a floor, (30 + 10) / (10 + 10).
    assert [alarm["name"] for alarm in shaken["alarms"]["held_out"]] == ["jerk", "diversity"]
    assert shaken["alarms"]["held_out"][0]["ratio"] == pytest.approx(2.0)
    assert build()["alarms"] == {split: [] for split in SPLITS}
    unjudged = evaluation(jerk=3.0)
    unjudged.bands = None
    free = build_report(unjudged, JOB, wall_s=0)
    assert free["alarms"]["held_out"] == [] and "within" not in free["sentinels"]["held_out"]["jerk"]


def test_says_that_nothing_was_trained():
    same = evaluation()
    same.adapter_sha256 = {"base": "x", "tuned": "x"}
    assert any("nothing was trained" in warning for warning in build_report(same, JOB, wall_s=0)["warnings"])


def test_one_prompt_gives_nulls_not_a_false_certainty():
    report = build(prompts=1)
    assert report["difference"]["held_out"]["oracle_success"]["low"] is None
    assert "-" in text_of(before_after_table(report))
    render(report, [], metrics=[])


def test_the_adapter_on_variant_stands_beside_it():
    report = build(arms=("base", "tuned", "adapter_on"))
    assert report["adapter_on"]["held_out"]["reward"]["value"] == 0.75
    assert report["difference_adapter_on"]["held_out"]["reward"]["value"] == 0.5
    assert "adapter on in the last call" in render(report, [], metrics=[])


def text_of(table):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_table_on_the_terminal():
    text = text_of(before_after_table(build()))
    line = next(line for line in text.splitlines() if "held_out oracle success" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "held_out oracle success", "50.0", "100.0", "+50.0", "[+50.0, +50.0]", "8",
    ]  # fmt: skip


def test_numbers_never_show_a_minus_zero():
    assert number(-0.0001, percent=True, sign=True) == "+0.0"
    assert number(0.12345) == "0.123"
    assert interval({"low": -0.1, "high": 0.2}, percent=True, sign=True) == "[-10.0, +20.0]"


# --- files ------------------------------------------------------------


def test_a_run_gets_both_files(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "evaluate", lambda job, policies, bench: evaluation())
    report = evaluate_run(JOB, tmp_path, {}, wall_s=1.0, bench=object())
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation", "report.html", "report.json"]
    assert read_records(tmp_path) == evaluation().records


# --- the page ------------------------------------------------------------


class Tags(HTMLParser):
    """Open tags, in order; fails on a tag that is closed out of order."""

    void = frozenset({"meta", "input", "br", "polyline", "rect"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(**changes):
    joints = np.zeros((5, 22, 3), dtype=np.float32)
    shown = [
        Shown(
            Prompt("1", "a <script>alert(1)</script> walks", 5, "walk"),
            20.0,
            {"base": joints, "tuned": joints},
            {"base": False, "tuned": True},
        )
    ]
    lines = [{"iteration": i, "reward/total": 0.1 * i, "policy/kl": 0.01 * i, "learner/rows": 4.0} for i in range(5)]
    return render(build(**changes), shown, metrics=lines)


def test_page_is_well_formed_and_needs_nothing_from_elsewhere():
    tags = Tags()
    tags.feed(page(jerk=2.0))
    tags.close()
    assert tags.open == []
    assert not any(name in attrs for _, attrs in tags.seen for name in ("src", "href"))
    # The viewer takes every `section` for a row of motions: figures must not add one.
    assert [tag for tag, _ in tags.seen].count("section") == 1
    assert [tag for tag, _ in tags.seen].count("canvas") == 2


def test_foreign_text_is_escaped():
    text = page()
    assert "<script>alert" not in text
    assert "<b>walks" not in text


def test_page_says_what_it_shows():
    text = page(jerk=2.0)
    for words in ("policy/kl", "reward/total", "wave", "95 %", "honest ones are 0.00 to 1.22", "none was picked"):
        assert words in text


def test_curves_are_the_finite_values_of_the_metrics_that_matter():
    rows = [
        {
            "iteration": float(i),
            "reward/total": 2.0 * i,
            "policy/kl": math.nan if i else 1.0,
            "policy/kl_s01": 1.0,
        }
        for i in range(3)
    ]
    assert curves(rows) == {"reward/total": [(0, 0), (1, 2), (2, 4)]}
