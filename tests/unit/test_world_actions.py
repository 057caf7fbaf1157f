"""The embedded world's mover: finite, grounded, of one body, varied, and a function of its seed alone."""

import numpy as np
import pytest

from rl_motion.data.actions import ACTIONS, perform
from rl_motion.data.grammar import VERBS, source_claims, target_claims
from rl_motion.motion.skeleton import HUMANML3D, STANDING_OFFSETS_J3

CLAIMS = (*source_claims(), *target_claims())


def moved(claim, seed=0, frames=41):
    return perform(claim, frames, np.random.default_rng([424_242, seed]))


def test_every_action_of_the_grammar_can_be_performed():
    assert ACTIONS.keys() == VERBS.keys()


@pytest.mark.parametrize("frames", [39, 41])
def test_motions_are_finite_grounded_and_of_one_body(frames):
    want_J = np.linalg.norm(np.asarray(STANDING_OFFSETS_J3)[1:], axis=-1)
    for claim in CLAIMS:
        joints_FJ3 = moved(claim, frames=frames)
        assert joints_FJ3.shape == (frames, 22, 3)
        assert joints_FJ3.dtype == np.float64
        assert np.isfinite(joints_FJ3).all()
        bones = joints_FJ3[:, 1:] - joints_FJ3[:, HUMANML3D.parents[1:]]
        np.testing.assert_allclose(np.linalg.norm(bones, axis=-1), np.broadcast_to(want_J, bones.shape[:2]), atol=1e-9)
        lowest = joints_FJ3[:, [7, 8, 10, 11], 1].min(1)
        assert lowest.min() >= -1e-9
        # Only what leaves the floor by its nature does.
        assert (lowest.max() < 1e-9) == (claim.action not in ("jump", "jack", "run")), claim


def test_the_seed_alone_decides_and_style_varies():
    for claim in CLAIMS[::5]:
        first = moved(claim, 1)
        assert np.array_equal(first, moved(claim, 1))
        assert np.abs(first - moved(claim, 2)).max() > 0.01


def test_an_unsaid_side_is_drawn_from_both():
    claim = next(c for c in CLAIMS if c.action == "kick" and c.side == "" and c.count == 1)
    higher = [moved(claim, n)[:, 7, 1].max() > moved(claim, n)[:, 8, 1].max() for n in range(30)]
    assert 5 < sum(higher) < 25
