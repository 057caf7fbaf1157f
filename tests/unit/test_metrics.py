"""Each metric against the official code's numbers and an oracle of its own; what is drawn can be given as indices."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from rl_motion.evaluation import metrics
from rl_motion.evaluation.metrics import diversity, fid, multimodal_distance, multimodality, r_precision


@pytest.fixture(scope="module")
def golden(request):
    folder = request.config.rootpath / "tests/golden"
    files = ("fid_real", "fid_made", "batch")
    return {k: wide(v) for f in files for k, v in load_file(folder / f"guo_metrics_{f}.safetensors").items()}


def wide(array):
    return array.astype(np.float32) if array.dtype == np.float16 else array


def official(shared_dir, name):
    return {k: wide(v) for k, v in load_file(shared_dir / f"parity/guo_metrics_{name}.safetensors").items()}


# --- FID ------------------------------------------------------------


def test_fid_equals_the_official_code(golden):
    real, made = golden["in/gt"], golden["in/pred"]
    assert fid.fid(real, made) == pytest.approx(float(golden["out/fid_half_dim64"]), rel=1e-6)
    assert fid.fid(real, real) == pytest.approx(0, abs=1e-9)
    # Negative control: ddof 0, or without the covariances, is another number.
    apart = real.mean(0).astype(float) - made.mean(0)
    assert abs(fid.fid(real, made) - apart @ apart) > 1
    biased = fid.fid(real, made) * (len(real) - 1) / len(real)
    assert biased != pytest.approx(float(golden["out/fid_half_dim64"]), rel=1e-4)


def test_fid_equals_the_official_code_at_full_width(shared_dir):
    vectors = official(shared_dir, "fid_diversity")
    real, made = vectors["in/gt"], vectors["in/pred"]
    assert fid.fid(real, made) == pytest.approx(float(vectors["out/fid_gt_pred"]), rel=1e-7)
    assert fid.fid(real, real) == pytest.approx(float(vectors["out/fid_gt_gt"]), abs=1e-3)
    pairs = vectors["out/div_first"], vectors["out/div_second"]
    assert diversity.diversity(made, pairs) == pytest.approx(float(vectors["out/diversity_pred"]), rel=1e-6)


def test_fid_of_gaussians_that_share_axes_is_the_closed_form():
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(400, 5))
    cloud -= cloud.mean(0)
    cloud = np.linalg.qr(cloud)[0] * np.sqrt(399)  # exactly uncorrelated, deviation 1
    scale, shift = np.array([1, 2, 0.5, 3, 1.0]), np.array([0, 1, 0, -2, 0.5])
    want = (shift**2).sum() + ((scale - 1) ** 2).sum()
    assert fid.fid(cloud, cloud * scale + shift) == pytest.approx(want, rel=1e-5)


def test_fid_of_fewer_motions_than_channels_is_finite_and_symmetric():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(9, 40)), rng.normal(size=(12, 40)) + 1
    assert fid.fid(one, other) == pytest.approx(fid.fid(other, one), rel=1e-6)
    assert fid.fid(one, other) > 40


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.ones((1, 4)), np.ones((3, 4))),
        (np.ones((3, 4)), np.ones((3, 5))),
        (np.full((3, 4), np.nan), np.ones((3, 4))),
    ],
)
def test_fid_refuses_what_has_no_covariance(one, other):
    with pytest.raises(ValueError, match="want"):
        fid.fid(one, other)


# --- R-precision ------------------------------------------------------------


def test_r_precision_equals_the_official_code(golden):
    text, motion = golden["in/text"], golden["in/motion"]
    np.testing.assert_allclose(r_precision.distance_QN(text, motion), golden["out/dist_batch0"], atol=1e-3)
    found = r_precision.r_precision_K(text, motion)
    assert [round(32 * share) for share in found] == golden["out/r_precision_fn_sum_batch0"].tolist()
    assert 0 < found[0] < found[2] < 1
    # Negative control: motions and texts swapped ask another question.
    swapped = r_precision.r_precision_K(motion, text)
    assert swapped != pytest.approx(found)


def test_r_precision_and_the_others_equal_the_official_protocol(shared_dir):
    vectors = official(shared_dir, "rprecision_mm")
    text, motion = vectors["in/text"], vectors["in/motion"]
    assert r_precision.r_precision_K(text, motion) == vectors["out/r_precision_top123"].tolist()
    got = multimodal_distance.multimodal_distance(text, motion)
    assert got == pytest.approx(float(vectors["out/matching_score"]), abs=1e-4)
    pairs = vectors["out/mm_first"], vectors["out/mm_second"]
    got = multimodality.multimodality_P(vectors["in/mm"], pairs).mean()
    assert got == pytest.approx(float(vectors["out/multimodality"]), abs=1e-4)
    # Negative control: other pairs give another number.
    other = multimodality.multimodality_P(vectors["in/mm"], (pairs[0], pairs[0][::-1])).mean()
    assert other != pytest.approx(got, abs=1e-2)


def brute_force(text, motion, batches):
    """Sorts every batch by distance; no ties."""
    hits = []
    for rows in batches:
        for row in rows:
            near = sorted(rows, key=lambda other: float(((text[row] - motion[other]) ** 2).sum()))
            hits.append([row in near[:top] for top in (1, 2, 3)])
    return np.mean(hits, axis=0).tolist()


def test_r_precision_is_over_whole_batches_in_the_given_order():
    rng = np.random.default_rng(2)
    text = rng.normal(size=(75, 3))
    motion = text + 0.5 * rng.normal(size=text.shape)
    order = rng.permutation(75)
    want = brute_force(text, motion, [order[:32], order[32:64]])
    assert r_precision.r_precision_K(text, motion, order) == pytest.approx(want)
    # Negative control: one gallery of all is harder.
    assert brute_force(text, motion, [order])[0] < want[0]


def test_fewer_motions_than_a_batch_have_no_precision():
    assert r_precision.r_precision_K(np.ones((31, 2)), np.ones((31, 2))) is None
    assert r_precision.r_precision_K(np.ones((32, 2)), np.ones((32, 2))) is not None


def test_one_motion_for_every_text_has_no_precision():
    text = np.random.default_rng(3).normal(size=(32, 4))
    assert r_precision.r_precision_K(text, np.zeros((32, 4))) == [0, 0, 0]


# --- distances ------------------------------------------------------------


def test_multimodal_distance_equals_the_official_code(golden):
    got = multimodal_distance.distances_N(golden["in/text"], golden["in/motion"])
    np.testing.assert_allclose(got, golden["out/matching_score_fn"], atol=1e-3)


def test_diversity_is_the_mean_over_the_given_pairs():
    motion = np.array([[0.0, 0], [3, 4], [6, 8]])
    assert diversity.diversity(motion, (np.array([0, 1, 2]), np.array([1, 1, 0]))) == pytest.approx((5 + 0 + 10) / 3)


@pytest.mark.parametrize(("rows", "pairs"), [(1000, 300), (300, 300), (40, 40)])
def test_pairs_are_drawn_without_replacement_and_from_the_seed(rows, pairs):
    first, second = diversity.draw_pairs(rows, diversity.PAIRS, np.random.default_rng(4))
    again, _ = diversity.draw_pairs(rows, diversity.PAIRS, np.random.default_rng(4))
    assert len(set(first.tolist())) == len(first) == len(set(second.tolist())) == pairs
    assert (first == again).all()
    assert (first != second).any()


def test_multimodality_compares_the_same_replicates_of_every_prompt():
    motion = np.zeros((2, 3, 2))
    motion[0, 1], motion[1, 2] = [3, 4], [6, 8]
    pairs = np.array([0, 0]), np.array([1, 2])
    assert multimodality.multimodality_P(motion, pairs).tolist() == [2.5, 5]


def test_few_replicates_are_all_compared_and_none_with_itself():
    first, second = multimodality.draw(4, np.random.default_rng(0))
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    first, second = multimodality.draw(11, np.random.default_rng(0))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 10


def test_every_convention_is_said():
    words = " ".join(metrics.CONVENTIONS)
    for name in ("fid", "r_precision_1", "multimodal_distance", "diversity", "multimodality", "floor"):
        assert name in words
