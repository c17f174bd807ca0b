from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_encoder.config import FusionConfig
from hybrid_encoder.models.fusion import Fusion

GRID = (5, 9)


def _semantic(channels: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, 64 // s, 96 // s, generator=generator) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_interp_conv1x1_resizes_then_convolves() -> None:
    fusion = Fusion((8, 16, 24, 32), (6,) * 4, FusionConfig(channels=8))
    assert fusion.channels == (14,) * 4
    assert isinstance(fusion.align[0], nn.Identity), "the first map has the width already"
    semantic, spatial = _semantic((8, 16, 24, 32)), [torch.randn(2, 6, *GRID) for _ in range(4)]
    for level, fused in enumerate(fusion(semantic, spatial, GRID)):
        expected = fusion.align[level](F.interpolate(semantic[level], GRID, mode="nearest"))
        torch.testing.assert_close(fused, torch.cat([spatial[level], expected], 1), atol=1e-5, rtol=1e-5)


def test_convs2_interp_convolves_then_resizes() -> None:
    fusion = Fusion((8, 16, 24, 32), (), FusionConfig("convs2_interp", 8))
    kinds = [(type(layer).__name__, layer.kernel_size[0], layer.stride[0]) for layer in fusion.align]  # type: ignore[index]
    assert kinds == [("Conv2d", 3, 2), ("Conv2d", 3, 2), ("Conv2d", 1, 1), ("ConvTranspose2d", 3, 2)]
    semantic = _semantic((8, 16, 24, 32))
    for level, fused in enumerate(fusion(semantic, [], GRID)):
        torch.testing.assert_close(fused, F.interpolate(fusion.align[level](semantic[level]), GRID))


@pytest.mark.parametrize("width", [8, 12])
def test_one_tower_passes_alone(width: int) -> None:
    spatial = [torch.randn(1, 6, *GRID) for _ in range(4)]
    fusion = Fusion((), (6,) * 4, FusionConfig(channels=width))
    assert not list(fusion.parameters())
    assert all(a is b for a, b in zip(fusion([], spatial, GRID), spatial, strict=True))
