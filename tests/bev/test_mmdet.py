"""The backbone for mmdet against stand-ins for its registry, its base module, and the detectors' calls.

mmdet3d itself does not install beside current torch; the stand-ins have the interface alone.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybrid_encoder import AdapterError, ConfigError, HybridDepthModel, InputError
from hybrid_encoder.bev import HybridBackbone, with_prior
from hybrid_encoder.bev.mmdet import IMG_MEAN, IMG_STD, register

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
BINS = {"near": 1.0, "far": 59.0, "count": 59}


def normalised(images: Tensor) -> Tensor:
    return (images * 255 - torch.tensor(IMG_MEAN).view(3, 1, 1)) / torch.tensor(IMG_STD).view(3, 1, 1)


class Registry:
    """What mmcv's and mmengine's registries have in common."""

    def __init__(self) -> None:
        self.classes: dict[str, type[Any]] = {}

    def register_module(self, name: str | None = None, force: bool = False, module: Any = None) -> Any:
        key = name or module.__name__
        if key in self.classes and not force:
            raise KeyError(f"{key} is already registered")
        self.classes[key] = module
        return module

    def build(self, config: dict[str, Any]) -> Any:
        settings = dict(config)
        return self.classes[settings.pop("type")](**settings)


class BaseModule(nn.Module):
    """A module that initialises its children, as mmengine's does when a model has been built."""

    def init_weights(self) -> None:
        for child in self.children():
            if hasattr(child, "init_weights"):
                child.init_weights()  # type: ignore[operator]


class Detector(BaseModule):
    """The image half of a detector: backbone, a neck of its own, and a view transformer's depth network."""

    def __init__(self, registry: Registry, backbone: dict[str, Any], in_channels: list[int]) -> None:
        super().__init__()
        self.img_backbone: Any = registry.build(backbone)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in in_channels)
        self.depthnet = nn.Conv2d(16, 59, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        batch, cameras = images.shape[:2]
        fine, coarse = self.img_backbone(images.flatten(0, 1))
        up = nn.functional.interpolate(self.lateral[1](coarse), fine.shape[-2:])
        x = self.lateral[0](fine) + up
        return x.unflatten(0, (batch, cameras)), with_prior(self.depthnet(x), self.img_backbone.depth)


def test_a_detector_builds_initialises_and_trains_it() -> None:
    registry = Registry()
    assert register(registry) is HybridBackbone and register(registry) is HybridBackbone
    config = {"type": "HybridBackbone", "weights": "tiny", "channels": [32, 48], "depth_bins": BINS, "with_cp": True}
    torch.manual_seed(0)
    detector = Detector(registry, config, [32, 48])
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.init_weights()
    after = detector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    features, depth = detector.train()(normalised(IMAGES)[None])
    assert features.shape == (1, 2, 16, 4, 6) and depth.shape == (2, 59, 4, 6)
    torch.testing.assert_close(depth.sum(1), torch.ones(2, 4, 6))
    (features.square().mean() + depth[:, 5].mean()).backward()
    parts = detector.img_backbone.model.part_parameters()
    for part in ("semantic", "spatial", "fusion", "decoder"):
        assert any(p.grad is not None and bool(p.grad.any()) for p in parts[part]), part
    assert all(p.grad is not None for p in detector.img_backbone.neck.parameters())


def test_the_encoder_sees_what_it_would_see_without_the_pipeline() -> None:
    backbone = HybridBackbone("tiny", channels=(8, 8)).eval()
    model = HybridDepthModel.from_pretrained("tiny")
    with torch.no_grad():
        expected = backbone.neck(model.encoder(IMAGES), (64, 96))
        for a, b in zip(backbone(normalised(IMAGES)), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
        backward = HybridBackbone("tiny", channels=(8, 8), bgr=True).eval()
        backward.neck.load_state_dict(backbone.neck.state_dict())
        given = (IMAGES.flip(1) * 255 - torch.tensor(IMG_MEAN).view(3, 1, 1)) / torch.tensor(IMG_STD).view(3, 1, 1)
        torch.testing.assert_close(backward(given)[0], expected[0], atol=1e-3, rtol=1e-3)


def test_maps_have_the_strides_and_channels_of_a_resnet() -> None:
    backbone = HybridBackbone("tiny", strides=(4, 8, 16, 32), channels=(16, 24, 32, 48)).eval()
    with torch.no_grad():
        maps = backbone(normalised(IMAGES))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 24), (24, 8, 12), (32, 4, 6), (48, 2, 3)]
    assert backbone.depth is None


def test_the_depth_is_the_models_own() -> None:
    backbone = HybridBackbone("tiny", channels=(8, 8), depth_bins={**BINS, "near": 0.5}, metres_per_unit=0.4).eval()
    with torch.no_grad():
        backbone(normalised(IMAGES))
        model = HybridDepthModel.from_pretrained("tiny")
        depth = 0.4 * model.to_depth(model(IMAGES))
        assert backbone.uncertainty is not None and backbone.bins is not None and backbone.depth is not None
        expected = backbone.uncertainty.spread(backbone.bins.from_depth(depth, (4, 6)))
    torch.testing.assert_close(backbone.depth, expected, atol=1e-2, rtol=1e-2)
    assert backbone.depth.sum(1).mean() > 0.5


def test_a_prior_is_what_the_logits_start_from() -> None:
    prior = torch.tensor([0.7, 0.3, 0.0]).view(1, 3, 1, 1)
    found = with_prior(torch.zeros(1, 3, 1, 1), prior)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.7, 0.3, 0.001]) / 1.001)
    with pytest.raises(InputError, match="set depth_bins and depth_stride"):
        with_prior(torch.zeros(1, 4, 1, 1), prior)


def test_frozen_parts_stay_frozen_in_training() -> None:
    backbone = HybridBackbone("tiny", channels=(8, 8), trainable={"semantic": False, "spatial": 1}).train()
    assert not any(p.requires_grad for p in backbone.model.part_parameters()["semantic"])
    assert not any(p.requires_grad for p in backbone.model.part_parameters()["decoder"])  # nothing reads it
    semantic = backbone.model.encoder.semantic
    assert semantic is not None and not semantic.training and backbone.neck.training


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="name the weights as weights"):
        HybridBackbone("tiny", init_cfg={"type": "Pretrained"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="RGB in"):
        HybridBackbone("tiny", channels=(8, 8))(IMAGES * 255)
    for name in ("mmdet3d", "mmdet3d.registry", "mmdet", "mmdet.registry", "mmdet.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AdapterError, match="install mmdet, or give the registry"):
        register()


def test_the_registry_of_an_older_mmdet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmdet3d", "mmdet3d.registry", "mmdet.registry"):
        monkeypatch.setitem(sys.modules, name, None)
    package, models = ModuleType("mmdet"), ModuleType("mmdet.models")
    registry = models.BACKBONES = Registry()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmdet", package)
    monkeypatch.setitem(sys.modules, "mmdet.models", models)
    register()
    assert registry.classes == {"HybridBackbone": HybridBackbone}
