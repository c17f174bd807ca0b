from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_encoder import ConfigError, DPTDecoder, PyramidNeck
from hybrid_encoder.models.decoder import DisparityHead, FusionBlock

WIDTHS: dict[str, Any] = {"features": 8, "channels": (6, 8, 10, 12), "head_channels": 4}


def _maps(channels=(5, 6, 7, 8), grid=(4, 7), batch=2) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, *grid, generator=generator) for c in channels]


@settings(max_examples=20, deadline=None)
@given(
    scales=st.sets(st.integers(0, 3), min_size=1),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    extra=st.integers(-6, 7),
)
def test_every_scale_has_its_size_and_range(scales: set[int], height: int, width: int, extra: int) -> None:
    decoder = DPTDecoder((5, 6, 7, 8), **WIDTHS, scales=sorted(scales), activation="sigmoid", out_channels=2)
    size = (height * 14 + extra, width * 14 + extra)
    outputs = decoder(_maps(grid=(height, width)), size)
    assert {s: tuple(x.shape) for s, x in outputs.items()} == {
        s: (2, 2, size[0] // 2**s, size[1] // 2**s) for s in scales
    }
    assert all(((x > 0) & (x < 1)).all() for x in outputs.values())


def test_relu_disparity_is_never_negative_and_gradients_reach_everything() -> None:
    torch.manual_seed(0)
    decoder = DPTDecoder((5, 6, 7, 8), **WIDTHS, scales=(0, 1, 2, 3))
    outputs = decoder(_maps(), (56, 98))
    assert all((x >= 0).all() for x in outputs.values())
    torch.stack([x.sum() for x in DPTDecoder.forward(decoder, _maps(), (56, 98)).values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_a_fusion_block_convolves_before_it_resizes_and_it_is_the_same() -> None:
    torch.manual_seed(0)
    block = FusionBlock(6, skip=True)
    path, skip = torch.randn(1, 6, 5, 7), torch.randn(1, 6, 5, 7)
    assert block.skip is not None
    after = F.interpolate(block.refine(path + block.skip(skip)), size=(10, 14), mode="bilinear", align_corners=True)
    torch.testing.assert_close(block(path, skip, (10, 14)), block.out(after), atol=1e-5, rtol=1e-5)


def test_the_head_follows_its_formula() -> None:
    torch.manual_seed(0)
    head = DisparityHead(8, 4, 1)
    path = torch.randn(1, 8, 5, 6)
    x = F.interpolate(head.reduce(path), (16, 20), mode="bilinear", align_corners=True)
    torch.testing.assert_close(head(head.reduce(path), (16, 20)), head.out(F.relu(head.hidden(x))))


def test_a_wrong_decoder_is_named() -> None:
    with pytest.raises(ConfigError, match="one or more of 0, 1, 2, 3"):
        DPTDecoder((5, 6, 7, 8), scales=(0, 5))
    with pytest.raises(ConfigError, match="activation is 'tanh'"):
        DPTDecoder((5, 6, 7, 8), activation="tanh")


@pytest.mark.parametrize("size", [(64, 96), (192, 640), (70, 101)])
def test_the_neck_gives_the_sizes_of_a_strided_network(size: tuple[int, int]) -> None:
    neck = PyramidNeck((5, 6, 7, 8), (4, 4, 8, 16, 32))
    maps = neck(_maps(), size)
    x = torch.zeros(1, 1, *size)
    for features, channels in zip(maps, neck.num_ch_enc, strict=True):
        x = F.conv2d(x, torch.ones(1, 1, 3, 3), stride=2, padding=1)
        assert features.shape == (2, channels, *x.shape[2:])
    torch.stack([m.square().mean() for m in maps]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_the_neck_gives_the_strides_it_is_asked_for() -> None:
    neck = PyramidNeck((5, 6, 7, 8), strides=(4, 8, 16))
    assert neck.num_ch_enc == (64, 128, 256)
    assert [tuple(m.shape[1:]) for m in neck(_maps(), (64, 96))] == [(64, 16, 24), (128, 8, 12), (256, 4, 6)]
    with pytest.raises(ConfigError, match=r"strides is \(3,\); each must be one of 2, 4, 8"):
        PyramidNeck((5, 6, 7, 8), strides=(3,))
    with pytest.raises(ConfigError, match="2 strides need as many channels"):
        PyramidNeck((5, 6, 7, 8), (1, 2, 3), (4, 8))
