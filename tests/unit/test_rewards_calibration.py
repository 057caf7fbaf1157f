"""Calibrations: what they measure, that they read back, and when they are refused."""

import json
import statistics

import pytest
import torch

from rl_motion.config import Job, PolicyConfig, RewardConfig, UserError
from rl_motion.rewards.calibration import Calibration, Spread, read_calibration, refuse_other, spreads
from rl_motion.rewards.combine import Term, build_terms, score
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit

WEIGHTS = {"model": "aa", "model.text_encoder": "bb", "reward.tmr": "cc"}
UNIT = Unit(seed=0, iteration=0, index=0, prompts=(Prompt("a", "walks", 4),), samples_per_prompt=4)
MOTIONS = Motions(torch.zeros(4, 4, 263), torch.full((4,), 4), 20.0, Representation.HUMANML3D_263, Normalisation.NONE)


def calibration(**changes):
    parts = {
        "model": "mdm-embedded",
        "weights_sha256": WEIGHTS | {"reward.other": "dd"},
        "policy": PolicyConfig(),
        "prompts_per_unit": 8,
        "seed": 3,
        "rewards": {"tmr": Spread(mean=0.1, std=0.2, n=32), "jerk": Spread(mean=-1 / 3, std=1e-3, n=32)},
    }
    return Calibration(**(parts | changes)).sealed()


def job(**changes):
    return Job.model_validate({"name": "x", "calibration": "c.json", **changes})


def test_mean_and_deviation_are_the_populations():
    numbers = [0.1, 0.4, 0.2, 0.9]
    found = spreads({"tmr": numbers})["tmr"]
    assert found.mean == pytest.approx(statistics.fmean(numbers))
    assert found.std == pytest.approx(statistics.pstdev(numbers))
    assert found.n == 4


@pytest.mark.parametrize("numbers", [[0.0] * 9, [0.3], [-1e6] * 3])
def test_a_reward_that_does_not_vary_is_refused(numbers):
    with pytest.raises(UserError, match=r"got 'float' = .*want one that varies"):
        spreads({"tmr": [0.0, 1.0], "float": numbers})


def test_it_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "c.json"
    calibration().write(path)
    assert read_calibration(path) == calibration()
    assert json.loads(path.read_text())["format"] == 1


def test_a_place_that_cannot_be_written_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another"):
        calibration().write(tmp_path / "file" / "c.json")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        (("rewards", "tmr", "mean"), 0.11, "hash"),
        (("rewards", "tmr", "n"), 33, "hash"),
        (("weights_sha256", "model"), "ee", "hash"),
        (("policy", "steps"), 11, "hash"),
        (("sha256",), "", "hash"),
        (("rewards", "tmr", "std"), 0.0, "rewards.tmr.std"),
        (("rewards", "tmr", "std"), float("nan"), "Invalid JSON|rewards.tmr.std"),
        (("format",), 2, "format"),
        (("more",), 1, "more"),
        (("rewards",), None, "rewards"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, key, value, word):
    path = tmp_path / "c.json"
    calibration().write(path)
    tree = json.loads(path.read_text())
    node = tree
    for part in key[:-1]:
        node = node[part]
    node[key[-1]] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=rf"(?s)got .*({word}).*want .*rl-motion calibrate"):
        read_calibration(path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b"1" * 2_000_000])
def test_what_is_no_calibration_is_refused(tmp_path, content):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"got .*c\.json.*want .*rl-motion calibrate"):
        read_calibration(path)


def test_a_folder_is_no_calibration(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_calibration(tmp_path)


def test_control_a_calibration_of_this_job_is_accepted():
    refuse_other(calibration(), job(), WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "weights", "words"),
    [
        ({}, {"model": "zz"}, r"other inputs \(model\)"),
        ({}, {"prompts": "zz"}, r"other inputs \(prompts\); want .*prompts"),
        ({}, {"reward.tmr": "zz"}, r"other inputs \(reward.tmr\)"),
        ({"rewards": [{"name": "float"}]}, {}, r"without \['float'\]"),
        ({"policy": {"guidance_scale": 2.5}}, {}, "policy.guidance_scale: got 1.0, want 2.5"),
        ({"train": {"prompts_per_unit": 4}}, {}, "train.prompts_per_unit: got 8, want 4"),
    ],
)
def test_a_calibration_of_something_else_is_refused(changes, weights, words):
    with pytest.raises(UserError, match=words):
        refuse_other(calibration(), job(**changes), WEIGHTS | weights)


class Constant:
    def __init__(self, *values):
        self.values = torch.tensor(values)

    def __call__(self, motions, prompts, noise_level_B=None):
        return self.values


def test_calibrated_rewards_count_in_deviations_and_are_recorded_in_their_own_units():
    made = {"cm": lambda: Constant(1.0, 2.0, 3.0, 4.0), "m": lambda: Constant(0.01, 0.02, 0.03, 0.04)}
    found = {"cm": Spread(mean=2.0, std=0.5, n=9), "m": Spread(mean=0.02, std=0.005, n=9)}
    terms = build_terms([RewardConfig(name="cm"), RewardConfig(name="m", weight=-1.0)], made, found)
    scored = score(terms, MOTIONS, UNIT)
    assert scored.rewards["m"].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04])
    # The same reward in other units: it cancels.
    assert scored.total_B.tolist() == pytest.approx([0, 0, 0, 0], abs=1e-5)
    alone = score(terms[:1], MOTIONS, UNIT).total_B.tolist()
    assert alone == pytest.approx([-2, 0, 2, 4])


def test_without_calibration_not_a_bit_changes():
    values = torch.randn(4, generator=torch.Generator().manual_seed(0)) * 1e-3
    total = score([Term("one", 0.3, Constant(*values.tolist()))], MOTIONS, UNIT).total_B
    assert torch.equal(total, torch.stack([0.3 * values]).sum(dim=0))
