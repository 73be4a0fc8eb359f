"""Losses are the published formulas."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from metasdf.errors import InputError
from metasdf.losses import (
    SURFACES,
    ColourLoss,
    CompositeLoss,
    DistanceLoss,
    build_loss,
    misclassified_percentage,
    psnr,
)


def test_inner_distance_losses_average_over_points_per_task():
    prediction = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    target = torch.zeros(2, 2, 1)
    assert DistanceLoss("l1").inner(prediction, target).tolist() == [2.0, 0.0]
    assert DistanceLoss("l2").inner(prediction, target).tolist() == [5.0, 0.0]
    assert DistanceLoss("l2", "l1").outer(prediction, target).item() == 1.0


def test_clamped_losses_count_distances_only_near_the_surface():
    prediction = torch.tensor([[[0.5], [-0.3], [0.05], [0.3]]], requires_grad=True)
    target = torch.tensor([[[0.2], [0.4], [0.02], [-0.04]]])
    errors = [0.0, 0.2, 0.03, 0.14]  # with distances of at most 0.1
    loss = build_loss("l1", clamp=0.1)
    assert loss.inner(prediction, target).item() == pytest.approx(sum(errors) / 4)
    assert loss.outer(prediction, target).item() == pytest.approx(sum(errors) / 4)
    squares = build_loss("l2", clamp=0.1).inner(prediction, target)
    assert squares.item() == pytest.approx(sum(e * e for e in errors) / 4)
    loss.outer(prediction, target).backward()
    assert prediction.grad.flatten().tolist() == pytest.approx([0, 0, 0.25, 0])


def test_the_composite_loss_knows_no_clamp():
    with pytest.raises(InputError, match="clamp: goes with training_mode l1 or l2"):
        build_loss("multitask", clamp=0.1)


def test_only_the_composite_loss_is_sharp():
    with pytest.raises(InputError, match="sharpness: goes with training_mode multitask"):
        build_loss("l1", sharpness=50.0)


@pytest.mark.parametrize("sharpness", [1.0, 40.0, 300.0])
def test_the_best_logit_of_soft_targets_is_the_sharpness_times_the_distance(sharpness):
    distance = torch.tensor([[[-0.3], [-0.01], [0.0], [0.004], [0.9]]], dtype=torch.float64)
    best = sharpness * distance
    loss = CompositeLoss(sharpness)
    for offset in (0.0, -1.0, 1.0):
        logit = (best + offset).requires_grad_()
        prediction = torch.cat([logit, distance], dim=-1)
        error = loss.surface_error(prediction, distance)
        share = torch.sigmoid(best[..., 0])  # of "outside"
        p = torch.sigmoid(logit[..., 0]).detach()
        divergence = torch.special.xlogy(share, share / p)
        divergence += torch.special.xlogy(1 - share, (1 - share) / (1 - p))
        usable = (p > 0) & (p < 1)
        assert torch.allclose(error[usable], divergence[usable], atol=1e-9)
        (gradient,) = torch.autograd.grad(error.sum(), logit)
        assert torch.allclose(gradient[..., 0], p - share, atol=1e-12)
        # The weighted sum has that error in place of the cross-entropy.
        assert loss.inner(prediction, distance).item() == pytest.approx(error.mean().item() / 2)


def test_a_point_on_the_surface_asks_for_a_logit_of_zero_only_with_soft_targets():
    prediction = torch.zeros(1, 1, 2, requires_grad=True)
    for loss, pull in ((CompositeLoss(), 0.5), (CompositeLoss(100.0), 0.0)):
        (gradient,) = torch.autograd.grad(
            loss.surface_error(prediction, torch.zeros(1, 1, 1)).sum(), prediction
        )
        assert gradient[0, 0, 0].item() == pytest.approx(pull)


def test_a_wrong_side_is_an_error():
    prediction = torch.tensor([[[2.0, 9.0], [-2.0, 9.0]]])
    right, wrong = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    assert DistanceLoss.side_error(prediction, right).tolist() == [[0.0, 0.0]]
    assert DistanceLoss.side_error(prediction, wrong).tolist() == [[2.0, 2.0]]
    small, large = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert CompositeLoss.side_error(prediction, right)[0].tolist() == pytest.approx([small] * 2)
    assert CompositeLoss.side_error(prediction, wrong)[0].tolist() == pytest.approx([large] * 2)


def composite_by_hand(logit, distance, target, s0, s1):
    bce = math.log1p(math.exp(-logit if target > 0 else logit))
    return bce / (2 * s0**2) + abs(distance - target) / (2 * s1**2) + math.log(s0 * s1)


def test_composite_loss_is_the_uncertainty_weighted_sum():
    loss = CompositeLoss()
    with torch.no_grad():
        loss.sigma.copy_(torch.tensor([0.5, 2.0]))
        loss.sigma_outer.copy_(torch.tensor([1.5, 0.7]))
    prediction, target = torch.tensor([[[0.3, 0.2]]]), torch.tensor([[[-0.4]]])
    inner, outer = loss.inner(prediction, target), loss.outer(prediction, target)
    assert inner.item() == pytest.approx(composite_by_hand(0.3, 0.2, -0.4, 0.5, 2.0))
    assert outer.item() == pytest.approx(composite_by_hand(0.3, 0.2, -0.4, 1.5, 0.7))


def test_outer_composite_counts_distances_of_exactly_minus_one_as_zero_as_the_original_does():
    loss = CompositeLoss()
    prediction = torch.tensor([[[2.0, 0.5], [-2.0, 9.0]]])
    target = torch.tensor([[[0.3], [-1.0]]])
    bce, l1 = math.log1p(math.exp(-2.0)), (0.2 + 0.0) / 2
    assert loss.outer(prediction, target).item() == pytest.approx(bce / 2 + l1 / 2)


def test_a_composite_network_means_sign_times_distance():
    prediction = torch.tensor([[[-3.0, 0.2], [4.0, -0.1]]])
    assert CompositeLoss.signed_distance(prediction).flatten().tolist() == pytest.approx(
        [-0.2, 0.1]
    )


def test_the_surface_is_that_of_the_signed_distance_or_of_the_smooth_logit():
    prediction = torch.tensor([[[-3.0, 0.2], [4.0, -0.1]]])
    loss = CompositeLoss()
    composite, logit = (loss.surface(prediction, kind).flatten().tolist() for kind in SURFACES)
    assert composite == pytest.approx([-0.2, 0.1])
    assert logit == [-3.0, 4.0]
    distances = DistanceLoss().surface(prediction[..., 1:], "logit").flatten().tolist()
    assert distances == pytest.approx([0.2, -0.1])


def test_misclassified_percentage_counts_wrong_signs():
    prediction = torch.tensor([[[1.0], [-1.0], [1.0], [-1.0]]])
    target = torch.tensor([[[0.1], [0.1], [0.1], [-0.1]]])
    assert misclassified_percentage(prediction, target).item() == 25.0


def test_an_unknown_training_mode_is_an_input_error():
    with pytest.raises(InputError, match="choose one of multitask, l1, l2"):
        build_loss("l3")


# Colours


def test_colour_losses_average_over_points_and_channels():
    prediction = torch.tensor([[[0.0, 0.0, 0.6], [0.3, 0.0, 0.0]], [[0.0] * 3, [-0.9, 0.9, 0.0]]])
    target = torch.zeros(2, 2, 3)
    loss = ColourLoss("l2", "l2")
    assert loss.out_features == 3
    assert loss.inner(prediction, target).tolist() == pytest.approx([0.45 / 6, 1.62 / 6])
    assert loss.outer(prediction, target).item() == pytest.approx(2.07 / 12)
    loss = ColourLoss("l1", "l1")
    assert loss.inner(prediction, target).tolist() == pytest.approx([0.9 / 6, 1.8 / 6])
    assert loss.outer(prediction, target).item() == pytest.approx(2.7 / 12)


def test_psnr_is_that_of_each_task_averaged_with_colours_as_they_can_be_shown():
    target = torch.tensor([[[1.0, -1.0, 0.0]], [[0.5, 0.5, 0.5]]])
    prediction = torch.tensor([[[7.0, -1.5, 0.3]], [[0.3, 0.7, 0.5]]])  # shown as 1, -1, 0.3
    by_hand = [10 * math.log10(4 / (0.09 / 3)), 10 * math.log10(4 / (0.08 / 3))]
    assert psnr(prediction, target).item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert psnr(prediction[:1], target[:1]).item() == pytest.approx(by_hand[0], rel=1e-5)
    assert math.isfinite(psnr(target, target).item())


def test_psnr_is_that_of_eight_bit_images():
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    theirs = peak_signal_noise_ratio(image, other, data_range=255)
    colours = [torch.from_numpy(i.reshape(1, -1, 3) / 127.5 - 1) for i in (other, image)]
    assert psnr(*colours).item() == pytest.approx(theirs, rel=1e-6)


def test_every_loss_says_how_predictions_are_scored():
    x, y = torch.tensor([[[0.5], [-0.5]]]), torch.tensor([[[0.5], [0.5]]])
    assert build_loss("l1").score.of(x, y).item() == 50
    assert build_loss("multitask").score.unit == "% misclassified"
    score = ColourLoss().score
    assert (score.name, score.unit) == ("PSNR", "dB PSNR")
    assert score.of(x, y) == psnr(x, y)
