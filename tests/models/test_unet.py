"""The decoder of Monodepth2 and ManyDepth: its numbers, its sizes, and models that have it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import HybridDepthModel, HybridMatchingModel
from hybrid_encoder.checkpoints.described import Description
from hybrid_encoder.checkpoints.trained import read_decoder
from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig, HybridMatchingDepthConfig, NeckConfig
from hybrid_encoder.config.pyramids import UNetDecoderConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.unet import ReflectConv, UNetDecoder

from helpers.trained_folder import unet_weights, waves

CHANNELS = (3, 4, 5, 6, 7)
CHECKOUTS = {
    name: Path(os.environ.get(variable, ""), *folders, "networks/depth_decoder.py")
    for name, variable, folders in (
        ("monodepth2", "HYBRID_ENCODER_MONODEPTH2", ()),
        ("manydepth", "HYBRID_ENCODER_MANYDEPTH", ("manydepth",)),
    )
}
# What Monodepth2's decoder and ManyDepth's make of unet_weights and of these pyramids, both the same: by scale, the
# first value, the last, the one at row 3 and column 5, their mean and their standard deviation.
EXPECTED = {
    0: (0.318243, 0.302149, 0.413083, 0.418445, 0.396451),
    1: (0.442446, 0.485133, 0.554377, 0.479898, 0.117892),
    2: (0.596526, 0.614768, 0.61702, 0.604772, 0.010939),
    3: (0.336476, 0.340692, 0.30404, 0.32278, 0.018122),
}


class Fixed(nn.Module):
    """A pyramid in the neck's place."""

    def __init__(self, pyramid: list[Tensor]) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, maps: Any, image_size: Any) -> list[Tensor]:
        return self.pyramid


def _pyramid() -> list[Tensor]:
    return [waves((1, channels, 64 >> (i + 1), 96 >> (i + 1)), i) for i, channels in enumerate(CHANNELS)]


def _from_weights(weights: dict[str, Tensor]) -> UNetDecoder:
    """Our decoder with weights under the other names, on a fixed pyramid."""
    found = read_decoder(weights, Description("DepthEncoder", HybridEncoderConfig(), NeckConfig(CHANNELS)))
    assert not isinstance(found, str), found
    config, names = found
    assert isinstance(config, UNetDecoderConfig)
    decoder = UNetDecoder((1, 1, 1, 1), config)
    decoder.neck = Fixed(_pyramid())  # type: ignore[assignment]
    decoder.load_state_dict({ours: weights[name] for name, ours in names.items()})
    return decoder


@pytest.mark.parametrize("scales", [(0, 1, 2, 3), (3, 0), (2,)])
def test_numbers_are_those_of_the_codebases_decoders(scales: tuple[int, ...]) -> None:
    every = unet_weights(CHANNELS, (0, 1, 2, 3))
    weights = {name: value for name, value in every.items() if int(name.split(".")[1]) < 10}
    for k, scale in enumerate(scales):  # outputs are numbered in the order in which a trainer names the scales
        for kind in ("weight", "bias"):
            weights[f"decoder.{10 + k}.conv.{kind}"] = every[f"decoder.{10 + scale}.conv.{kind}"]
    decoder = _from_weights(weights)
    with torch.no_grad():
        outputs = decoder([], (64, 96))
    assert list(outputs) == sorted(scales)
    for scale, output in outputs.items():
        x = output[0, 0]
        found = torch.stack([x[0, 0], x[-1, -1], x[3, 5], x.mean(), x.std()])
        torch.testing.assert_close(found, torch.tensor(EXPECTED[scale]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("monodepth2", "manydepth")]
)
def test_every_pixel_is_that_of_a_checkouts_own_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CHECKOUTS[name]
    if not file.is_file():
        pytest.skip(f"no checkout of {name} is named")
    monkeypatch.syspath_prepend(str(file.parents[1]))
    monkeypatch.syspath_prepend(str(file.parents[2]))
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("_own_decoder", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        own = module.DepthDecoder(list(CHANNELS), [0, 1, 2, 3])
        ours = _from_weights(own.state_dict())
        with torch.no_grad():
            expected, outputs = own(_pyramid()), ours([], (64, 96))
    finally:
        for imported in set(sys.modules) - before:
            if imported.split(".")[0] in ("layers", "manydepth", "networks"):
                del sys.modules[imported]
    for scale, output in outputs.items():
        torch.testing.assert_close(output, expected["disp", scale], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (95, 130), (64, 33)])
def test_any_size_gives_every_scale_its_size_and_range(size: tuple[int, int]) -> None:
    decoder = UNetDecoder((5, 6, 7, 8), UNetDecoderConfig(scales=(2, 0, 1, 3)))
    maps = [waves((2, c, 4, 5), c) for c in (5, 6, 7, 8)]
    outputs = decoder(maps, size)
    assert {s: tuple(x.shape) for s, x in outputs.items()} == {
        s: (2, 1, size[0] // 2**s, size[1] // 2**s) for s in range(4)
    }
    assert all(((x > 0) & (x < 1)).all() for x in outputs.values())
    torch.stack([x.sum() for x in outputs.values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_a_side_of_one_pixel_is_repeated() -> None:
    conv = ReflectConv(1, 1)
    nn.init.constant_(conv.weight, 1.0)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    assert conv(torch.full((1, 1, 1, 1), 2.0)).item() == 18.0
    assert conv(torch.tensor([[[[1.0, 2.0, 4.0]]]])).tolist() == [[[[12.0, 21.0, 30.0]]]]


@pytest.mark.parametrize(
    ("kind", "config_class"),
    [(HybridDepthModel, HybridDepthConfig), (HybridMatchingModel, HybridMatchingDepthConfig)],
)
def test_a_model_with_it_is_saved_and_loaded(kind: Any, config_class: Any, tmp_path: Path) -> None:
    decoder = UNetDecoderConfig(NeckConfig((8, 8, 16, 16, 32)), (4, 4, 8, 8, 16), (0, 2))
    config = config_class.preset("tiny").replace(decoder=decoder)
    torch.manual_seed(0)
    model = kind(config, pretrained=False)
    model.decoder.set_bias(1.5)
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.config.decoder == decoder
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [head.bias.item() for head in loaded.decoder.heads.values()] == [1.5, 1.5]


def test_a_configuration_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"strides is \(4, 8\); this decoder reads \(2, 4, 8, 16, 32\)"):
        UNetDecoderConfig(NeckConfig((8, 8), (4, 8)))
    with pytest.raises(ConfigError, match=r"scales is \(4,\)"):
        UNetDecoderConfig(scales=(4,))
    with pytest.raises(ConfigError, match=r"neck\.channels is \(8,\); as many are needed as strides, 5"):
        NeckConfig((8,))
    with pytest.raises(ConfigError, match=r"neck\.strides is \(3,\)"):
        NeckConfig((8,), (3,))
    with pytest.raises(ConfigError, match="unknown field 'depth'"):
        HybridDepthConfig.from_dict({"decoder": {"neck": {}, "depth": 3}})
