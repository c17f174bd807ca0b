"""Random changes of colour: the same draws and, up to rounding, the same colours as torchvision's."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torchvision.transforms.v2.functional import adjust_hue

from hybrid_encoder.data.transforms import COLOUR_JITTER, jitter_colours, turn_hue


def _images() -> torch.Tensor:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 16, 24)
    images[0, :, :4] = images[0, :1, :4]  # greys
    images[1, :, 0], images[1, :, 1] = 0, 1
    images[1, :2, 2], images[1, 1:, 3], images[1, ::2, 4] = 1, 0.5, 0.25  # two channels alike
    return images


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_hue_turns_as_in_torchvision_and_colorsys(turn: float) -> None:
    images = _images()
    before = images.clone()
    turned = turn_hue(images, turn)
    torch.testing.assert_close(turned, adjust_hue(images, turn), atol=5e-6, rtol=0)
    assert torch.equal(images, before)
    for place in ((0, 9, 3), (2, 1, 5)):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[place[0], :, place[1], place[2]].tolist())
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert turned[place[0], :, place[1], place[2]].tolist() == pytest.approx(expected, abs=1e-5)


def test_all_frames_change_alike_and_as_torchvision_draws() -> None:
    images = _images()
    for seed in range(4):  # the order is drawn, too
        torch.manual_seed(seed)
        ours, after = jitter_colours(images), torch.rand(())
        torch.manual_seed(seed)
        torch.testing.assert_close(ours, COLOUR_JITTER(images), atol=1e-5, rtol=0)
        assert torch.rand(()) == after  # as many random numbers were drawn


def test_each_frame_changes_by_itself() -> None:
    images = _images()[:1].expand(3, -1, -1, -1)
    torch.manual_seed(5)
    ours = jitter_colours(images, "per_frame")
    torch.manual_seed(5)
    torch.testing.assert_close(ours, torch.stack([COLOUR_JITTER(image) for image in images]), atol=1e-5, rtol=0)
    assert (ours[0] - ours[1]).abs().max() > 0.01
