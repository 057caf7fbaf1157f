"""Losses of the retrieval model: closed forms, extra negatives, padding."""

import math

import pytest
import torch

from rl_motion.models.losses import (
    Gaussian,
    Negatives,
    info_nce,
    kl_divergence,
    reconstruction_loss,
    similarity_matrix,
    standard_normal_like,
)


def test_info_nce_of_orthogonal_pairs_has_a_closed_form():
    eye = torch.eye(4, dtype=torch.float64)
    want = math.log(1 + 3 * math.exp(-1 / 0.1))
    assert info_nce(eye, eye).item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("side", ["text_NC", "motion_NC"])
def test_extra_negatives_join_one_denominator_each(side):
    """Three extra columns of similarity 0 (temperature 1): log(e + 3) becomes log(e + 6) on one side."""
    latents = torch.eye(8)[:4]
    negatives = Negatives(**{side: torch.eye(8)[4:7]})
    plain = math.log(math.e + 3) - 1
    assert info_nce(latents, latents, temperature=1.0).item() == pytest.approx(plain, rel=1e-5)
    got = info_nce(latents, latents, temperature=1.0, negatives=negatives).item()
    assert got == pytest.approx((plain + math.log(math.e + 6) - 1) / 2, rel=1e-5)


def test_extra_negatives_are_pushed_away():
    torch.manual_seed(0)
    text, motion, wrong = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6, requires_grad=True)
    info_nce(text, motion, negatives=Negatives(motion_NC=wrong)).backward()
    moved = wrong.detach() - 0.01 * wrong.grad
    assert similarity_matrix(text, moved).logsumexp(1).sum() < similarity_matrix(text, wrong).logsumexp(1).sum()


def test_filtered_pairs_leave_the_denominator_but_never_the_diagonal():
    latents = torch.eye(3)
    same = Negatives(sentence_BC=torch.ones(3, 1))
    assert info_nce(latents, latents, negatives=same).item() == 0.0
    different = Negatives(sentence_BC=torch.eye(3))
    assert info_nce(latents, latents, negatives=different).item() > 0.0


def test_kl_is_zero_on_itself_and_known_against_the_prior():
    gaussian = Gaussian(torch.full((2, 3), 2.0), torch.full((2, 3), math.log(4.0)))
    assert kl_divergence(gaussian, gaussian).item() == 0.0
    want = 0.5 * (4 + 4 - 1 - math.log(4))
    assert kl_divergence(gaussian, standard_normal_like(gaussian)).item() == pytest.approx(want, rel=1e-6)


def test_reconstruction_ignores_padding_content_and_amount():
    predicted, target, length_B = torch.zeros(2, 6, 3), torch.full((2, 6, 3), 2.0), torch.tensor([4, 2])
    assert reconstruction_loss(predicted, target, length_B).item() == pytest.approx(1.5)
    target[0, 4:], target[1, 2:] = 50.0, -50.0
    assert reconstruction_loss(predicted, target, length_B).item() == pytest.approx(1.5)
    target[0, 3:] = 50.0
    assert reconstruction_loss(predicted, target, length_B).item() > 2
