"""Rewards and their weighted sum, with retrieval models small enough to know the answer."""

import pytest
import torch

from rl_motion.config import RewardConfig, RunFault, UserError
from rl_motion.protocols import Reward
from rl_motion.rewards import REWARDS, TMRReward
from rl_motion.rewards.combine import Term, build_terms, non_finite, refuse_non_finite, score
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit

PROMPTS = (Prompt("a", "walks", 4), Prompt("b", "jumps", 4))
UNIT = Unit(seed=0, iteration=0, index=5, prompts=PROMPTS, samples_per_prompt=2)


def motions(batch=4, normalisation=Normalisation.NONE, representation=Representation.HUMANML3D_263):
    features = torch.zeros(batch, 4, 263)
    features[:, 0, 0] = torch.arange(batch)
    return Motions(features, torch.full((batch,), 4), 20.0, representation, normalisation)


class FakeTMR:
    """Similarity is the first feature, negated for jumps."""

    representation = Representation.HUMANML3D_263

    def similarity(self, motions, texts):
        sign = torch.tensor([-1.0 if text == "jumps" else 1.0 for text in texts])
        return motions.features_BFD[:, 0, 0] * sign


class Constant:
    accepts = frozenset(Representation)
    differentiable = False

    def __init__(self, *values):
        self.values = torch.tensor(values)

    def __call__(self, motions, prompts, noise_level_B=None):
        return self.values


def test_tmr_is_the_plain_cosine_of_each_row_with_its_own_prompt():
    reward = TMRReward(FakeTMR())
    assert isinstance(reward, Reward)
    assert reward.differentiable
    assert reward(motions(), UNIT.row_prompts).tolist() == [0, 1, -2, -3]


def test_tmr_keeps_the_graph():
    clip = motions()
    clip.features_BFD.requires_grad_()
    TMRReward(FakeTMR())(clip, UNIT.row_prompts).sum().backward()
    assert clip.features_BFD.grad[:, 0, 0].tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize(
    ("clip", "prompts", "noise", "message"),
    [
        (motions(normalisation=Normalisation.DATASET), UNIT.row_prompts, None, "un-normalised"),
        (motions(representation="smpl-205"), UNIT.row_prompts, None, "smpl-205"),
        (motions(batch=3), UNIT.row_prompts, None, "one prompt per row"),
        (motions(), UNIT.row_prompts, torch.zeros(4), "clean motions"),
    ],
)
def test_tmr_refuses_what_it_would_misread(clip, prompts, noise, message):
    with pytest.raises(UserError, match=message):
        TMRReward(FakeTMR())(clip, prompts, noise)


def test_total_is_the_weighted_sum_and_the_parts_stay_unweighted():
    terms = [Term("one", 2.0, Constant(1.0, 2.0, 3.0, 4.0)), Term("two", -0.5, Constant(2.0, 0.0, 0.0, 2.0))]
    scored = score(terms, motions(), UNIT)
    assert scored.unit_index == 5
    assert scored.total_B.tolist() == [1, 4, 6, 7]
    assert scored.rewards["two"].tolist() == [2, 0, 0, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_not_finite_is_named_and_never_looks_finite(bad):
    """Its total is not finite either, not even with weight 0: training skips it, evaluation refuses it."""
    terms = [
        Term("fine", 1.0, Constant(0.0, 0.0, 0.0, 0.0)),
        Term("broken", 0.0, Constant(0.0, 0.0, bad, 0.0)),
    ]
    scored = score(terms, motions(), UNIT)
    assert scored.total_B.isfinite().tolist() == [True, True, False, True]
    (line,) = non_finite(scored, UNIT)
    assert line == f"got {bad} from reward 'broken' for prompt 'jumps' (row 2; 1 of 4 rows are not finite)"
    with pytest.raises(RunFault, match=r"broken.*jumps"):
        refuse_non_finite(scored, UNIT)
    sound = score(terms[:1], motions(), UNIT)
    assert non_finite(sound, UNIT) == []
    assert refuse_non_finite(sound, UNIT) is sound


def test_a_reward_of_another_shape_is_refused():
    with pytest.raises(RunFault, match=r"\(2,\).*short"):
        score([Term("short", 1.0, Constant(0.0, 0.0))], motions(), UNIT)


def test_terms_come_from_a_visible_dict():
    assert "tmr" in REWARDS
    registry = {"toy": lambda: Constant(1.0)}
    (term,) = build_terms([RewardConfig(name="toy", weight=3.0)], registry)
    assert (term.name, term.weight) == ("toy", 3.0)


@pytest.mark.parametrize(
    ("names", "message"), [(["tmr2"], r"one of \['toy'\]"), (["toy", "toy"], "2 times"), ([], "no reward")]
)
def test_terms_that_cannot_be_built(names, message):
    with pytest.raises(UserError, match=message):
        build_terms([RewardConfig(name=name) for name in names], {"toy": lambda: Constant(1.0)})
