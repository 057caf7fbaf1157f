"""Which prompts are drawn, how arms are paired, what is measured: with policies whose motion is known."""

import hashlib
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_motion.config import EvaluationConfig, Job, RunFault, TrainConfig, UserError
from rl_motion.evaluation.diversity import diversity_P
from rl_motion.evaluation.embedding import Real
from rl_motion.evaluation.evaluate import Bench, evaluate
from rl_motion.evaluation.guarantees import Seen
from rl_motion.evaluation.oracle_success import Judging, success_B
from rl_motion.evaluation.report import build_report
from rl_motion.evaluation.selection import SPLITS, draw, make_units
from rl_motion.models.zoo import ZOO
from rl_motion.motion.features import FPS, JOINTS, ROOT_HEIGHT
from rl_motion.motion.skeleton import STANDING_OFFSETS_J3
from rl_motion.rewards.combine import Term
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Trajectory

FRAMES = 8
JOB = Job(
    name="toy",
    train=TrainConfig(prompts_per_iteration=3, prompts_per_unit=3, samples_per_prompt=2),
    evaluation=EvaluationConfig(prompts=7, samples_per_prompt=2, page_prompts=4, seed=11),
)


def pool(split, groups=("walk", "wave", "jump"), each=5):
    return [
        Prompt(f"{split}-{group}-{index}", f"{group} {index} of {split}", FRAMES, group)
        for group in groups
        for index in range(each)
    ]


def standing_BFD(batch, sway_B):
    """A person who stands, its right wrist `sway` metres further right in each later frame."""
    where = np.zeros((22, 3))
    parents = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
    for joint in range(1, 22):
        where[joint] = where[parents[joint]] + STANDING_OFFSETS_J3[joint]
    where[:, 1] -= where[:, 1].min()
    features = torch.zeros(batch, FRAMES, 263)
    features[..., ROOT_HEIGHT] = float(where[0, 1])
    local = torch.tensor(where[1:] - [where[0, 0], 0, where[0, 2]], dtype=torch.float32)
    joints = local.repeat(batch, FRAMES, 1, 1)
    joints[:, :, 20, 0] -= sway_B[:, None] * torch.arange(FRAMES)
    features[..., JOINTS] = joints.flatten(2)
    return features


class FakePolicy:
    """Sways by a number that the unit's noise decides, times `gain`."""

    schedule_hash = "h"

    def __init__(self, gain, sha="0", noise=0):
        self.gain, self.sha, self.noise, self.units = gain, sha, noise, []

    def rollout(self, unit, *, policy_version=0):
        self.units.append(unit)
        seeds = [
            zlib.crc32(f"{unit.seed}/{prompt.id}/{sample}/{self.noise}".encode())
            for prompt in unit.prompts
            for sample in range(unit.samples_per_prompt)
        ]
        noise = torch.stack([torch.randn(FRAMES, 1, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return Trajectory(
            unit=unit,
            states=noise[:, None],
            log_prob_BS=torch.zeros(unit.batch, 1),
            drawn_BS=torch.ones(unit.batch, 1, dtype=torch.bool),
            sample=noise,
            length_B=torch.tensor([prompt.length for prompt in unit.row_prompts]),
            policy_version=policy_version,
            adapter_sha256=self.sha,
            schedule_hash=self.schedule_hash,
        )

    def decode(self, trajectory):
        sway_B = self.gain * trajectory.sample[:, 0, 0].abs() * 0.01
        features = standing_BFD(trajectory.unit.batch, sway_B)
        return Motions(features, trajectory.length_B, float(FPS), Representation.HUMANML3D_263, Normalisation.NONE)


class Sway:
    accepts = frozenset(Representation)
    differentiable = True

    def __call__(self, motions, prompts, noise_level_B=None):
        return -motions.features_BFD[:, 1, JOINTS].unflatten(-1, (21, 3))[:, 20, 0]


def sways(caption, joints_FJ3, fps):
    return bool(abs(joints_FJ3[-1, 21, 0] - joints_FJ3[0, 21, 0]) > 0.06)


JUDGING = Judging(lambda representation: sways, frozenset({Representation.HUMANML3D_263}))


def bench(**changes):
    known = Bench(prompts=pool, terms=(Term("sway", 2.0, Sway()),), judging=lambda split: JUDGING)
    return replace(known, **changes)


def run(**policies):
    arms = {"base": FakePolicy(1.0, "a"), "tuned": FakePolicy(3.0, "b")} | policies
    return evaluate(JOB, arms, bench())


# --- which prompts ------------------------------------------------------------


def test_groups_share_the_draw_evenly_whatever_the_order_of_the_pool():
    prompts = pool("s")
    drawn = draw(prompts, 7, seed=0)
    counts = sorted(sum(prompt.group == group for prompt in drawn) for group in ("walk", "wave", "jump"))
    assert counts == [2, 2, 3]
    assert len({prompt.group for prompt in drawn[:3]}) == 3
    assert draw(prompts[::-1], 7, seed=0) == drawn
    assert draw(prompts, 7, seed=1) != drawn
    # Negative control: the first of the pool would all be of one or two groups.
    assert len({prompt.group for prompt in prompts[:7]}) == 2


def test_a_small_group_gives_what_it_has_and_others_fill_up():
    drawn = draw([*pool("s", ("walk",), 9), *pool("s", ("bow",), 1)], 6, seed=0)
    assert sorted(prompt.group for prompt in drawn) == ["bow"] + ["walk"] * 5
    assert len(draw(pool("s"), 100, seed=0)) == 15


@pytest.mark.parametrize(("prompts", "message"), [([], "no prompts"), (pool("s") * 2, "share ids")])
def test_a_pool_that_cannot_be_drawn_from(prompts, message):
    with pytest.raises(UserError, match=message):
        draw(prompts, 3, seed=0)


def test_units_are_of_the_training_size_and_carry_the_evaluation_seed():
    units = make_units(JOB, draw(pool("s"), 7, seed=0))
    assert [len(unit.prompts) for unit in units] == [3, 3, 1]
    assert [unit.index for unit in units] == [0, 1, 2]
    assert {(unit.seed, unit.samples_per_prompt) for unit in units} == {(11, 2)}


# --- how arms are paired ------------------------------------------------------------


def test_every_split_is_what_its_name_says_and_arms_get_the_same_units():
    base, tuned = FakePolicy(1.0, "a"), FakePolicy(3.0, "b")
    result = run(base=base, tuned=tuned)
    assert base.units == tuned.units
    for split, source in SPLITS.items():
        before, after = result.of(split, "base"), result.of(split, "tuned")
        assert len(before) == len(after) == 14
        assert [(r.prompt, r.sample) for r in before] == [(r.prompt, r.sample) for r in after]
        assert all(record.prompt.id.startswith(source) for record in before)
    assert SPLITS == {"held_out": "target/test", "original": "source/test", "train": "target/train"}
    assert result.adapter_sha256 == {"base": "a", "tuned": "b"}


def test_unpaired_noise_is_refused():
    with pytest.raises(RunFault, match="noise"):
        run(tuned=FakePolicy(3.0, "b", noise=1))


def test_another_unit_is_refused():
    class Other(FakePolicy):
        def rollout(self, unit, *, policy_version=0):
            return replace(super().rollout(unit), unit=replace(unit, index=unit.index + 1))

    with pytest.raises(RunFault, match="prompts and the noise"):
        run(tuned=Other(3.0, "b"))


def test_an_adapter_that_changes_on_the_way_is_refused():
    class Learning(FakePolicy):
        def rollout(self, unit, *, policy_version=0):
            return replace(super().rollout(unit), adapter_sha256=str(len(self.units)))

    with pytest.raises(RunFault, match="changed during evaluation"):
        run(tuned=Learning(3.0))


def test_arms_must_be_the_same_policy():
    other = FakePolicy(3.0)
    other.schedule_hash = "other"
    with pytest.raises(ValueError, match="different schedules"):
        run(tuned=other)
    with pytest.raises(ValueError, match="at least"):
        evaluate(JOB, {"base": other}, bench())


def test_the_adapter_on_variant_is_measured_beside_tuned_where_the_policy_has_one():
    class Frozen(FakePolicy):
        def adapter_to_the_end(self, trajectory):
            return replace(trajectory, sample=2 * trajectory.sample)

    result = run(base=Frozen(1.0, "a"), tuned=Frozen(3.0, "b"))
    assert result.arms == ["base", "tuned", "adapter_on"]
    on, off = result.of("train", "adapter_on"), result.of("train", "tuned")
    assert [r.diversity for r in on] == pytest.approx([2 * r.diversity for r in off], rel=1e-3)
    assert set(result.shown[0].joints_by_arm) == {"base", "tuned"}

    class Stop(FakePolicy):
        def adapter_to_the_end(self, trajectory):
            return None

    assert run(tuned=Stop(3.0, "b")).arms == ["base", "tuned"]
    assert run().arms == ["base", "tuned"]


# --- what is measured ------------------------------------------------------------


def test_records_hold_what_the_motion_shows():
    result = run()
    for before, after in zip(result.of("held_out", "base"), result.of("held_out", "tuned"), strict=True):
        assert after.reward > before.reward
        assert after.oracle_success >= before.oracle_success
        assert after.diversity == pytest.approx(3 * before.diversity, rel=1e-3)
        assert after.value("bone_drift") > before.value("bone_drift")
        assert after.rewards == {"sway": pytest.approx(after.reward / 2)}
        assert {"jerk", "foot_skate", "energy"} <= after.sentinels.keys()
    assert 0 < sum(record.oracle_success for record in result.of("held_out", "base")) < 14


def test_what_is_shown_is_the_first_draw_uncut():
    result = run()
    assert [item.prompt for item in result.shown] == list(draw(pool("target/test"), 4, seed=11))
    shown = result.shown[3]
    assert shown.joints_by_arm["tuned"].shape == (FRAMES, 22, 3)
    record = next(r for r in result.of("held_out", "tuned") if r.prompt == shown.prompt and r.sample == 0)
    assert shown.success_by_arm["tuned"] == bool(record.oracle_success)


def test_a_motion_that_is_not_finite_is_a_fault_that_names_its_prompt():
    class Broken(FakePolicy):
        def decode(self, trajectory):
            motions = super().decode(trajectory)
            motions.features_BFD[1, 2, 3] = torch.nan
            return motions

    with pytest.raises(RunFault, match="of target/test"):
        run(tuned=Broken(3.0, "b"))


def test_normalised_motion_is_refused():
    class Normalised(FakePolicy):
        def decode(self, trajectory):
            return replace(super().decode(trajectory), normalisation=Normalisation.DATASET)

    with pytest.raises(ValueError, match="un-normalised"):
        run(tuned=Normalised(3.0))


def test_motion_of_another_skeleton_is_measured_by_what_knows_it_and_the_rest_is_said():
    class Other(FakePolicy):
        def decode(self, trajectory):
            motions = super().decode(trajectory)
            return replace(
                motions, features_BFD=motions.features_BFD[..., :205], representation=Representation.SMPLRIFKE_205
            )

    result = run(base=Other(1.0, "a"), tuned=Other(3.0, "b"))
    assert set(result.not_judged) == {"oracle_success", "bone_drift"}
    assert all("gives smplrifke-205" in why for why in result.not_judged.values())
    assert {(r.oracle_success, r.value("bone_drift")) for r in result.records} == {(None, None)}
    assert all(np.isfinite([*r.sentinels.values(), r.diversity, r.reward]).all() for r in result.records)
    assert result.shown[0].success_by_arm == {"base": None, "tuned": None}
    # Control: HumanML3D's motion is judged whole.
    assert run().not_judged == {}


def test_a_split_that_is_too_small_is_said():
    result = evaluate(
        JOB,
        {"base": FakePolicy(1.0), "tuned": FakePolicy(3.0)},
        bench(prompts=lambda split: pool(split)[:4]),
    )
    assert len(result.of("train", "base")) == 8
    assert any("only 4 prompts" in warning for warning in result.warnings)


def test_the_judge_sees_valid_frames_and_the_rows_own_caption():
    seen = []

    def judge(caption, joints_FJ3, fps):
        seen.append((caption, len(joints_FJ3), fps))
        return caption == "b"

    prompts = [Prompt("1", "a", 3), Prompt("2", "b", 5)]
    verdicts = success_B(torch.zeros(2, 6, 22, 3), torch.tensor([3, 5]), prompts, fps=12.5, judge=judge)
    assert verdicts == [False, True]
    assert seen == [("a", 3, 12.5), ("b", 5, 12.5)]


# --- under an evaluator ------------------------------------------------------------


class Swing:
    """Sees how far the right wrist goes; texts ask for 0.2 m."""

    sha256 = "0" * 64

    def embed_motions(self, motions):
        wrist_BF = -motions.features_BFD[..., JOINTS].unflatten(-1, (21, 3))[:, :, 20, 0]
        far_B = wrist_BF[:, FRAMES - 1] - wrist_BF[:, 0]
        return torch.stack([far_B, torch.zeros_like(far_B)], dim=-1)

    def embed_texts(self, texts):
        return torch.tensor([[0.2, 0.1]]).repeat(len(texts), 1)


def real(split, prompts):
    """Two swings of 0.2 m and more for every prompt."""
    groups = [prompt.group for prompt in prompts for _ in range(2)]
    sway_B = 0.02 + 0.01 * torch.rand(len(groups), generator=torch.Generator().manual_seed(0))
    length_B = torch.full((len(groups),), FRAMES)
    features = standing_BFD(len(groups), sway_B)
    motions = Motions(features, length_B, float(FPS), Representation.HUMANML3D_263, Normalisation.NONE)
    return Real(motions, ["swings"] * len(groups), groups)


def test_every_arm_is_embedded_by_the_evaluator_of_its_split_beside_real_motion():
    asked = []

    def evaluator(split):
        asked.append(split)
        return None if split == "source/test" else Swing()

    examined = bench(evaluator=evaluator, real=real)
    result = evaluate(JOB, {"base": FakePolicy(1.0, "a"), "tuned": FakePolicy(3.0, "b")}, examined)
    assert asked == list(SPLITS.values())
    assert set(result.embedded) == {"held_out", "train"}
    table = result.embedded["held_out"].metrics(seed=0)
    assert table["difference"]["fid"]["value"] < 0
    assert table["difference"]["multimodal_distance"]["value"] < 0
    assert table["tuned"]["fid"]["floor"] == table["real"]["fid"]
    assert table["tuned"]["fid"]["n"] == 7
    assert "no batch of 32" in table["not_measured"]["r_precision"]
    # Rows are prompt-major: replication r is sample r of every prompt.
    record = result.of("held_out", "tuned")[3]
    embedded_RPC = np.concatenate(result.embedded["held_out"].motions["tuned"]).reshape(7, 2, -1).swapaxes(0, 1)
    assert record.sample == 1
    assert record.distance == pytest.approx(np.linalg.norm(embedded_RPC[1, 1] - [0.2, 0.1]), rel=1e-5)
    assert {r.distance for r in result.of("original", "base")} == {None}


def test_an_evaluator_that_is_the_reward_is_refused_before_anything_is_sampled():
    class Goal(Swing):
        sha256 = hashlib.sha256((ZOO / "tmr-embedded" / "model.safetensors").read_bytes()).hexdigest()

    base = FakePolicy(1.0, "a")
    with pytest.raises(UserError, match="reward 'tmr' reads too"):
        evaluate(JOB, {"base": base, "tuned": FakePolicy(3.0, "b")}, bench(evaluator=lambda split: Goal()))
    assert base.units == []


def test_prompts_that_were_read_are_refused_and_their_combinations_left_out():
    policies = {"base": FakePolicy(1.0, "a"), "tuned": FakePolicy(3.0, "b")}
    leak = pool("target/test")[3]
    with pytest.raises(UserError, match="1 prompts of target/test"):
        evaluate(JOB, policies, bench(seen=Seen(trained=[leak])))
    # `walk 1 of target/test` in other words: the first two tell what is asked for.
    reads = lambda text: text.split()[:2] == ["walk", "1"] or None  # noqa: E731
    other = Prompt("x", "walk 1 target/test", FRAMES)
    result = evaluate(JOB, policies, bench(seen=Seen(trained=[other]), combination=lambda split: reads))
    assert "walk-1" not in {r.prompt.id[-6:] for r in result.of("held_out", "base")}
    assert any("left out 1 prompts of target/test" in warning for warning in result.warnings)
    # What is trained with is measured all the same, as `train`.
    own = pool("target/train")[0]
    assert evaluate(JOB, policies, bench(seen=Seen(trained=[own]))).of("train", "base")


def test_splits_without_a_judge_are_measured_by_the_rest():
    result = evaluate(
        JOB,
        {"base": FakePolicy(1.0, "a"), "tuned": FakePolicy(3.0, "b")},
        bench(judging=lambda split: None if split == "target/test" else JUDGING),
    )
    assert "no rules" in result.not_judged["oracle_success"]
    report = build_report(result, JOB, wall_s=0)
    assert report["base"]["held_out"]["oracle_success"] is None
    assert report["base"]["original"]["oracle_success"] is not None
    assert report["difference"]["held_out"]["reward"]["value"] > 0


def test_the_first_sample_of_every_prompt_and_arm_is_kept():
    result = run()
    kept = [motion for motion in result.motions if motion.split == "held_out"]
    assert [motion.prompt_id for motion in kept] == [p.id for p in draw(pool("target/test"), 7, seed=11)]
    np.testing.assert_array_equal(kept[0].joints_by_arm["tuned"], result.shown[0].joints_by_arm["tuned"])
    assert {motion.split for motion in result.motions} == set(SPLITS)


# --- diversity ------------------------------------------------------------


def test_diversity_is_the_mean_distance_over_pairs_in_metres():
    joints = torch.zeros(6, 4, 22, 3)
    joints[1, :, 1:, 1] = 1.0
    joints[2, :, 1:, 1] = 3.0
    spread = diversity_P(joints, torch.full((6,), 4), 3)
    assert spread.tolist() == pytest.approx([(1 + 3 + 2) / 3 * 21 / 22, 0.0])


def test_diversity_ignores_where_a_motion_goes_and_what_pads_it():
    joints = torch.randn(1, 4, 22, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    joints[1] += torch.tensor([5.0, 0.0, 2.0])
    joints[1, 3] = 99.0 * torch.arange(22)[:, None]
    assert float(diversity_P(joints, torch.tensor([3, 3]), 2)) == pytest.approx(0.0, abs=1e-5)
    # Negative control: with the padding it would not be zero.
    assert float(diversity_P(joints, torch.tensor([4, 4]), 2)) > 1


def test_one_sample_has_no_diversity():
    assert diversity_P(torch.zeros(2, 4, 22, 3), torch.tensor([4, 4]), 1) is None
