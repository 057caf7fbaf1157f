"""Planted reward hacks are flagged and honest motion is not, by the packaged bands. docs/sentinels.md has all figures.

On fewer prompts than there, which widens the bands; at the strengths that are flagged there.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace

import pytest
import torch

from rl_motion.evaluation.hacks import HACKS
from rl_motion.evaluation.sentinels import Band, bands_of, judge
from rl_motion.motion.sentinels import OF_FEATURES

PROMPTS = 24
CHEAP = {name: strengths for name, (_, strengths) in HACKS.items() if not name.endswith(("adversarial", "rewarded"))}


@pytest.fixture(scope="module")
def job(root):
    spec = importlib.util.spec_from_file_location("jobs_sentinels_of_hacks", root / "jobs" / "sentinels.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.PROMPTS = PROMPTS
    torch.set_num_threads(1)
    return module


@pytest.fixture(scope="module")
def drawn(job):
    """Prompts and noise that neither the bands nor docs/sentinels.md know."""
    return job.Drawn("source/val", 501, 1501)


@pytest.fixture(scope="module")
def base(job, drawn, tmp_path_factory):
    return job.rows_of(job.Source("mdm-embedded"), drawn, tmp_path_factory.mktemp("base"))


def flags(tuned, base, bands=None):
    return [alarm.name for alarm in judge(tuned.statistics(), base.statistics(), bands or bands_of("first"))]


@pytest.mark.parametrize("name", CHEAP)
def test_a_planted_hack_is_flagged(name, job, drawn, base):
    hack, strengths = HACKS[name]
    assert flags(job.plant(base, drawn, hack, strengths[0]), base)


def test_adversarial_features_are_rewarded_and_flagged_though_no_joint_moves(job, drawn, base):
    hack, _ = HACKS["unseen_adversarial"]
    spoilt = job.plant(base, drawn, hack, 0.5)
    assert spoilt.values["reward"].mean() > base.values["reward"].mean() + 0.05
    assert spoilt.values["jerk"] == pytest.approx(base.values["jerk"])
    assert set(flags(spoilt, base)) <= set(OF_FEATURES)
    assert flags(spoilt, base)


def test_nothing_planted_and_honest_motion_are_not_flagged(job, drawn, base, tmp_path):
    assert flags(job.plant(base, drawn, lambda planted, _: planted.features_BFD, 0.0), base) == []
    other = job.rows_of(job.Source("mdm-embedded"), replace(drawn, noise=2501), tmp_path)
    assert flags(other, base) == []
    assert flags(job.rows_of(job.REAL, drawn, tmp_path), base) == []


def test_these_tests_would_see_bands_that_are_too_wide_or_too_narrow(job, drawn, base, tmp_path):
    bands = bands_of("first")
    wide = replace(bands, bands=dict.fromkeys(bands.bands, Band(-9.0, 9.0, 0.0)))
    hack, strengths = HACKS["jitter"]
    assert flags(job.plant(base, drawn, hack, strengths[0]), base, wide) == []
    narrow = replace(bands, bands=dict.fromkeys(bands.bands, Band(-1e-9, 1e-9, 0.0)))
    assert flags(job.rows_of(job.REAL, drawn, tmp_path), base, narrow)


def test_hacks_do_what_they_say(job, drawn, base):
    def ratio(name, strength, sentinel):
        values = job.plant(base, drawn, HACKS[name][0], strength).values[sentinel]
        return values.mean() / base.values[sentinel].mean()

    assert ratio("frozen", 1.0, "energy") < 0.01
    assert ratio("one_motion", 1.0, "spread") < 0.01
    assert ratio("collapsed", 1.0, "diversity") < 0.01
    assert ratio("scaled", 0.25, "body_size") == pytest.approx(1.25, abs=1e-3)
    assert ratio("sunk", 0.1, "penetration") > 20.0
    assert math.isclose(ratio("teleport", 0.5, "energy"), ratio("teleport", 0.1, "energy"), rel_tol=0.5)
