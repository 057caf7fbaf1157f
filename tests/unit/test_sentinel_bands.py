"""Bands of sentinels: what is flagged and what is not, against closed forms; what a unit's motions have together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rl_motion.config import UserError
from rl_motion.evaluation.diversity import diversity_P
from rl_motion.evaluation.sentinels import (
    FLOORS,
    KL,
    TWO_SIDED,
    Band,
    Bands,
    Statistics,
    bands_of,
    exact_kl,
    judge,
    of_unit,
    packaged_bands,
    read_bands,
    statistics,
    to_other_prompts,
    write_bands,
)
from rl_motion.motion.sentinels import OF_FEATURES, OF_JOINTS
from rl_motion.types import Motions, Normalisation, Representation, Unit
from tests.fakes import TinyPolicy

BANDS = Bands("any", 20.0, {"jerk": Band(-0.2, 0.3, 1.0), "energy": Band(-0.2, 0.3, 0.5)}, 1e-5)
BASE = Statistics({"jerk": 190.0, "energy": 0.98, KL: 0.0}, 25)


def tuned(**means):
    return Statistics({**BASE.means, **means}, BASE.prompts)


def names(found):
    return [alarm.name for alarm in judge(found, BASE, BANDS)]


def test_a_band_widens_as_one_over_the_root_of_prompts():
    # Two sentinels share 5 %: z of 1.25 % at either end.
    z = 2.2414
    low, high = BANDS.at("energy", 25)
    assert math.log(high) == pytest.approx(0.3 + z * 0.5 / 5, abs=1e-4)
    assert math.log(low) == pytest.approx(-0.2 - z * 0.5 / 5, abs=1e-4)
    assert BANDS.at("energy", 10**9) == pytest.approx((math.exp(-0.2), math.exp(0.3)), abs=1e-3)
    assert BANDS.at("jerk", 25)[0] == 0.0, "less jerk is better"


def test_inside_is_silent_and_either_end_is_an_alarm():
    assert names(BASE) == []
    high_jerk, high_energy = (BANDS.at(name, 25)[1] for name in ("jerk", "energy"))
    low_energy = BANDS.at("energy", 25)[0]
    inside = tuned(jerk=200 * high_jerk * 0.999 - FLOORS["jerk"], energy=low_energy * 1.001 - FLOORS["energy"])
    assert names(inside) == []
    assert names(tuned(jerk=200 * high_jerk * 1.001 - FLOORS["jerk"])) == ["jerk"]
    assert names(tuned(energy=low_energy * 0.999 - FLOORS["energy"])) == ["energy"]
    assert names(tuned(energy=high_energy * 1.001 - FLOORS["energy"])) == ["energy"]
    assert names(tuned(jerk=0.0)) == []
    both = tuned(jerk=400.0 * high_jerk, energy=50.0)
    assert names(both) == ["energy", "jerk"], "the farthest first"
    assert "energy is 50, the base's 0.98: 50.02 times" in str(judge(both, BASE, BANDS)[0])
    assert judge(both, BASE, BANDS)[0].as_dict()["tuned"] == 50.0


def test_kl_has_a_limit_of_its_own_and_what_is_lacking_is_not_judged():
    assert names(tuned(kl=0.9e-5)) == []
    assert names(tuned(kl=1.1e-5)) == ["kl"]
    assert judge(tuned(kl=1.0), BASE, replace(BANDS, kl=None)) == []
    assert judge(Statistics({}, 25), BASE, BANDS) == judge(tuned(jerk=1e4), Statistics({}, 25), BANDS) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_an_alarm(value):
    assert names(tuned(jerk=value)) == ["jerk"]
    assert names(tuned(kl=value)) == ["kl"]


def motions(prompts=3, samples=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = 0.1 * torch.randn(prompts * samples, 12, 263, generator=generator)
    length = torch.tensor([12, 12, 10, 10, 11, 11])[: prompts * samples]
    return Motions(features, length, 20.0, Representation.HUMANML3D_263, Normalisation.NONE)


def test_a_unit_has_every_sentinel_by_row():
    found = of_unit(motions(), 2)
    assert set(found) == {*OF_JOINTS, *OF_FEATURES, "diversity", "spread", "twins", "copies"} == set(FLOORS)
    assert all(value_B.shape == (6,) for value_B in found.values())
    assert set(FLOORS) > TWO_SIDED
    alone = of_unit(motions(prompts=1, samples=1), 1)
    assert set(FLOORS) - set(alone) == {"diversity", "spread", "twins", "copies"}


def test_spread_is_the_distance_to_other_prompts_and_none_where_all_are_one():
    generator = torch.Generator().manual_seed(1)
    joints = torch.randn(6, 12, 22, 3, generator=generator).double()
    length = torch.tensor([12, 12, 10, 10, 11, 11])
    spread, nearest = to_other_prompts(joints, length, 2)
    # Each pair of prompts, sample by sample, is a "prompt" of two samples to `diversity_P`.
    for sample in (0, 1):
        rows = [0 + sample, 2 + sample, 4 + sample]
        for own in range(3):
            pairs = [torch.tensor([rows[own], rows[other]]) for other in range(3) if other != own]
            wanted = torch.stack([diversity_P(joints[pair], length[pair], 2)[0] for pair in pairs])
            assert spread[rows[own]].item() == pytest.approx(wanted.mean().item())
            assert nearest[rows[own]].item() == pytest.approx(wanted.min().item())
    assert (spread > 1.0).all()
    same = joints[:1].expand(6, -1, -1, -1) + torch.randn(6, 1, 1, 3, generator=generator)
    assert (to_other_prompts(same, length, 2)[0] < 1e-12).all(), "wherever it is"
    padded = torch.cat([joints, torch.full((6, 3, 22, 3), torch.nan).double()], dim=1)
    assert torch.allclose(to_other_prompts(padded, length, 2)[0], spread)
    assert to_other_prompts(joints, length, 6) is None


def test_twins_and_copies_are_seen_among_motions_that_differ_much():
    """One prompt whose samples are far apart hides in the mean of distances that all others are alike."""
    given = motions()
    close = given.features_BFD.clone()
    close[[1, 3]] = close[[0, 2]]
    before, after = of_unit(given, 2), of_unit(replace(given, features_BFD=close), 2)
    assert (after["twins"][:4] > 190.0).all() and torch.equal(after["twins"][4:], before["twins"][4:])
    copied = given.features_BFD.clone()
    copied[2:4] = copied[0:2]
    found = of_unit(replace(given, features_BFD=copied), 2)
    assert (found["copies"][:4] > 49.0).all() and (found["copies"][4:] < 10.0).all()
    assert (before["copies"] < 10.0).all()


def test_statistics_are_means_over_rows_and_not_over_units():
    found = statistics([{"jerk": torch.ones(3)}, {"jerk": torch.zeros(1), "energy": torch.ones(1)}], prompts=2)
    assert found == Statistics({"jerk": 0.75, "energy": 1.0}, 2)


def test_the_exact_kl_of_a_policy_to_its_base_is_zero_until_it_moves(monkeypatch):
    policy = TinyPolicy()
    unit = Unit(seed=0, iteration=0, index=0, prompts=tuple(prompts()), samples_per_prompt=3)
    assert exact_kl(policy, policy.rollout(unit)) == 0.0
    with torch.no_grad():
        policy.pull += 0.5
    # Gaussians of unit variance, a mean over features: half the squared distance of their means.
    assert exact_kl(policy, policy.rollout(unit)) == pytest.approx(0.5 * math.tanh(0.5) ** 2, rel=1e-6)


def prompts():
    from tests.fakes import pool, toy_job

    return pool(toy_job()).prompts[:2]


def test_packaged_bands_are_whole():
    first = bands_of("first")
    assert first.fps == 20.0
    assert set(first.bands) == set(FLOORS)
    assert all(first.at(name, 10**9)[1] < 1.5 for name in FLOORS if name not in {"diversity", "travel"})
    assert {name: bands.fps for name, bands in packaged_bands().items()} == {"first": 20.0, "cmu": 20.0, "second": 12.5}
    for other in packaged_bands().values():
        assert all(other.bands[name].sigma >= band.sigma for name, band in first.bands.items())


def test_bands_are_read_as_they_were_written_and_damaged_ones_refused(tmp_path):
    path = tmp_path / "bands.json"
    write_bands(path, packaged_bands())
    assert read_bands(path) == packaged_bands()
    assert bands_of(f"{path}:first") == bands_of("first")
    whole = path.read_text()
    for old, new in (('"sigma"', '"s"'), ('"low": -', '"low": 9'), ('"jerk"', '"jolt"'), ("{", ""), ("20.0", '"x"')):
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=r"got .*; want .*; (write it again|calibrate again)"):
            read_bands(path)
    for name in ("moon", f"{tmp_path / 'gone.json'}:first"):
        with pytest.raises(UserError, match=r"got .*; want "):
            bands_of(name)
