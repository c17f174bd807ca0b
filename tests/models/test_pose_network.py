"""Networks for camera motion."""

from __future__ import annotations

import torch

from hybrid_encoder.models import ClassTokenPoseHead


def test_the_head_is_one_linear_layer_on_both_tokens() -> None:
    head = ClassTokenPoseHead(8)
    first, second = torch.randn(3, 8), torch.randn(3, 8)
    axis_angle, translation = head(first, second)
    expected = 0.01 * head.linear(torch.cat([first, second], 1))
    torch.testing.assert_close(torch.cat([axis_angle, translation], 1), expected)
    assert not torch.equal(head(second, first)[0], axis_angle), "the order in time matters"
