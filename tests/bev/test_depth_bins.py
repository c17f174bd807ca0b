"""Depth distributions: by hand, against NumPy, and with what is unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hybrid_encoder import ConfigError, InputError
from hybrid_encoder.bev import DepthBins, DepthUncertainty, LearnedDepth
from hybrid_encoder.language.depth_words import bin_centers


def mean_depth(bins: DepthBins, distribution: torch.Tensor) -> torch.Tensor:
    return (distribution * bins.centres()[:, None, None]).sum(1)


def test_centres_are_even_in_depth_or_in_its_logarithm() -> None:
    torch.testing.assert_close(DepthBins(1, 4, 4).centres(), torch.tensor([1.0, 2, 3, 4]))
    torch.testing.assert_close(DepthBins(1, 8, 4, "log").centres(), torch.tensor([1.0, 2, 4, 8]))
    for bins in (DepthBins(2, 50, 30), DepthBins(2, 50, 30, "log")):
        torch.testing.assert_close(bins.position(bins.centres()), torch.arange(30.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("spacing", ["uniform", "log"])
def test_a_depth_is_split_between_its_neighbours(spacing: str) -> None:
    bins = DepthBins(2, 32, 5, spacing)  # type: ignore[arg-type]
    a, b = bins.centres()[1:3].tolist()
    depth = 0.25 * a + 0.75 * b if spacing == "uniform" else math.exp(0.25 * math.log(a) + 0.75 * math.log(b))
    found = bins.from_depth(torch.full((1, 1, 3, 3), depth), (3, 3))
    torch.testing.assert_close(found[0, :, 1, 1], torch.tensor([0, 0.25, 0.75, 0, 0]), atol=1e-5, rtol=0)


def test_a_cell_has_the_mean_of_its_pixels_as_numpy_says() -> None:
    generator = torch.Generator().manual_seed(0)
    bins = DepthBins(1, 20, 12)
    depth = torch.rand(2, 1, 7, 10, generator=generator) * 30 - 3  # some out of range on both sides
    depth[0, 0, 0, 0] = math.nan
    depth[0, 0, 6, 9] = math.inf
    h, w = 3, 4
    expected = np.zeros((2, 12, h, w))
    count = np.zeros((h, w))
    step = 19 / 11
    for row in range(7):
        for column in range(10):
            i, j = row * h // 7, column * w // 10
            count[i, j] += 1
            for item in range(2):
                z = float(depth[item, 0, row, column])
                if not (z > 0 and 1 - step / 2 <= z <= 20 + step / 2):
                    continue
                for d in range(12):
                    expected[item, d, i, j] += max(0.0, 1 - abs((min(max(z, 1), 20) - 1) / step - d))
    found = bins.from_depth(depth, (h, w))
    np.testing.assert_allclose(found.numpy(), expected / count, atol=1e-5)
    assert found.sum(1).max() <= 1 + 1e-6 and found.sum(1).min() < 1


def test_the_gradient_moves_the_mean_depth() -> None:
    bins = DepthBins(1, 20, 39)
    depth = torch.full((1, 1, 4, 4), 7.3, requires_grad=True)
    mean_depth(bins, bins.from_depth(depth, (2, 2))).sum().backward()
    torch.testing.assert_close(depth.grad, torch.full((1, 1, 4, 4), 0.25))  # a quarter of a cell each


def test_words_say_what_their_depths_are() -> None:
    bins = DepthBins(1, 16, 16)
    depths = torch.tensor([0.2, 1.0, 4.25, 16.0, 100.0])
    logits = torch.full((1, 5, 2, 2), -50.0)
    logits[:, 2] = 50
    found = bins.from_language(logits, depths, (4, 4))
    torch.testing.assert_close(found[0, 3:5, 1, 1], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 4, 4))
    evenly = bins.from_language(torch.zeros(1, 5, 2, 2), depths, (2, 2))
    torch.testing.assert_close(evenly.sum(1), torch.full((1, 2, 2), 0.6))  # two prompts are outside of the bins
    for spacing in ("uniform", "log"):
        with pytest.raises(InputError, match=r"\(B, n, h, w\)"):
            DepthBins(1, 16, 16, spacing).from_language(logits, bin_centers(4), (4, 4))


def test_uniform_and_learned_add_up_to_one() -> None:
    torch.testing.assert_close(DepthBins(1, 5, 5).uniform(2, (3, 4)), torch.full((2, 5, 3, 4), 0.2))
    learned = LearnedDepth(8, 5)
    features = torch.randn(2, 8, 3, 4)
    found = learned(features)
    weight, bias = learned.logits.weight[:, :, 0, 0], learned.logits.bias
    assert bias is not None
    torch.testing.assert_close(found[1, :, 2, 3], (weight @ features[1, :, 2, 3] + bias).softmax(0))


def test_uncertainty_scales_and_blurs_without_loss() -> None:
    uncertainty = DepthUncertainty(scale=4.0, width=2.0)
    torch.testing.assert_close(uncertainty.metres(torch.tensor([2.5])), torch.tensor([10.0]))
    distribution = torch.zeros(1, 41, 1, 2)
    distribution[0, 20, 0, 0] = 1  # in the middle
    distribution[0, 0, 0, 1] = 0.5  # at the end
    found = uncertainty.spread(distribution)
    torch.testing.assert_close(found.sum(1), torch.tensor([[[1.0, 0.5]]]))
    place = torch.arange(41.0) - 20
    torch.testing.assert_close((found[0, :, 0, 0] * place.square()).sum().sqrt(), torch.tensor(2.0), atol=1e-3, rtol=0)
    found.square().sum().backward()
    assert uncertainty.log_width.grad is not None and uncertainty.log_width.grad < 0  # wider is flatter


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((1.0, 60.0, 1), "1 depths from 1.0 to 60.0 m"),
        ((5.0, 5.0, 4), "0 < near < far"),
        ((0.0, 5.0, 4), "0 < near < far"),
        ((1.0, 5.0, 4, "inverse"), "spacing is 'inverse'"),
    ],
)
def test_bins_that_cannot_be(arguments: tuple[float, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DepthBins(*arguments)  # type: ignore[arg-type]


def test_a_depth_map_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="at least 4 x 4 pixels"):
        DepthBins().from_depth(torch.ones(1, 1, 3, 8), (4, 4))
