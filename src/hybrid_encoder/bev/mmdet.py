"""The hybrid encoder as the image backbone of BEVDet, BEVDepth and other detectors of mmdet3d.

Nothing here imports mmdet: :func:`register` does, where it is asked to. docs/bevdet.md says where what goes.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybrid_encoder.bev.depth_bins import DepthBins, DepthUncertainty
from hybrid_encoder.errors import AdapterError, ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.neck import PyramidNeck

# ImageNet's, times 255, as the detectors' own configurations have them.
IMG_MEAN, IMG_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
REGISTRIES = (("mmdet3d.registry", "MODELS"), ("mmdet.registry", "MODELS"), ("mmdet.models", "BACKBONES"))


class HybridBackbone(nn.Module):
    """The hybrid encoder with a pyramid, as mmdet's detectors build and call an image backbone.

    Args:
        weights: what ``HybridDepthModel.from_pretrained`` reads: ``"tiny"``, a folder, a Hub id.
        strides: of the maps that come out, each one of 2, 4, 8, 16 and 32, fine to coarse.
        channels: of these maps; a ResNet-50's are 256, 512, 1024 and 2048 at strides 4 to 32.
        img_mean, img_std: what the data pipeline normalised bytes with, and is undone here: the towers take RGB in
            [0, 1] and normalise it themselves.
        bgr: whether the channels come as blue, green, red.
        depth_bins: settings of :class:`hybrid_encoder.bev.DepthBins`, those of the detector (``near``, ``far``,
            ``count``); with them :attr:`depth` is kept for its view transformer.
        metres_per_unit: what the learned scale of that depth begins with; 1 for weights in metres.
        depth_stride: of the view transformer's maps.
        with_cp: recompute the towers' activations in the backward pass, as mmdet's backbones call it.
        trainable: what trains of the encoder by part (``HybridDepthModel.set_trainable``).
        init_cfg: taken so that configurations may have it, and must be None: weights come from ``weights``.

    Attributes:
        depth: the depth distributions of the last images, (B N, D, h, w); None without ``depth_bins``.

    Raises:
        CheckpointError: weights that are not found or not of a depth model.
        ConfigError: an ``init_cfg``, or a pyramid that cannot be.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        strides: Sequence[int] = (16, 32),
        channels: Sequence[int] = (1024, 2048),
        img_mean: Sequence[float] = IMG_MEAN,
        img_std: Sequence[float] = IMG_STD,
        bgr: bool = False,
        depth_bins: Mapping[str, Any] | None = None,
        metres_per_unit: float = 1.0,
        depth_stride: int = 16,
        with_cp: bool = False,
        trainable: Mapping[str, Any] | None = None,
        init_cfg: None = None,
    ) -> None:
        super().__init__()
        if init_cfg is not None:
            raise ConfigError(f"init_cfg is {init_cfg!r}; it must be None: name the weights as weights.")
        self.model = HybridDepthModel.from_pretrained(weights)
        self.model.set_trainable(**dict(trainable or {}))
        self.model.set_grad_checkpointing(with_cp)
        self.neck = PyramidNeck(self.model.encoder.feature_info.channels(), channels, strides)
        self.bgr = bgr
        self.register_buffer("img_mean", torch.tensor(img_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("img_std", torch.tensor(img_std).view(3, 1, 1), persistent=False)
        self.bins = None if depth_bins is None else DepthBins(**depth_bins)
        self.uncertainty = None if depth_bins is None else DepthUncertainty(metres_per_unit)
        self.depth_stride = depth_stride
        self.depth: Tensor | None = None
        if self.bins is None:
            self.model.set_trainable(decoder=False)  # nothing reads it, and some optimizers mind
        self.train()

    img_mean: Tensor
    img_std: Tensor

    def init_weights(self) -> None:
        """Keep the weights. mmdet calls this after building; the towers have methods of that name which would not."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Take images as the data pipeline normalised them to the maps of the pyramid, fine to coarse.

        Args:
            x: (B N, 3, H, W).

        Returns:
            One for each stride: (B N, channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Raises:
            InputError: images of another shape, or normalised by another mean and std than these.
        """
        images = (x * self.img_std + self.img_mean) / 255
        images = images.flip(1) if self.bgr else images
        size = (x.shape[-2], x.shape[-1])
        maps = self.model.encoder(images)
        if self.bins is not None and self.uncertainty is not None:
            outputs = self.model.decoder(maps, size)
            metres = self.uncertainty.metres(self.model.to_depth(outputs[min(outputs)].float()))
            cells = (-(-size[0] // self.depth_stride), -(-size[1] // self.depth_stride))
            self.depth = self.uncertainty.spread(self.bins.from_depth(metres, cells))
        return tuple(self.neck(maps, size))


def with_prior(logits: Tensor, prior: Tensor, least: float = 1e-3) -> Tensor:
    """Return a depth distribution learned on top of another one: softmax(logits + log prior).

    Where the logits are 0 it is the prior, as far as that is above the least.

    Args:
        logits: of the detector's depth network, (B N, D, h, w).
        prior: of :attr:`HybridBackbone.depth`, the same shape.
        least: what every depth has at least, so that a wrong prior can be overruled.

    Raises:
        InputError: other shapes.
    """
    if logits.shape != prior.shape:
        raise InputError(
            f"logits are {tuple(logits.shape)} and the prior {tuple(prior.shape)}; both must have the detector's "
            "depths and stride: set depth_bins and depth_stride."
        )
    return (logits + prior.clamp(min=least).log().to(logits.dtype)).softmax(1)


def register(registry: Any = None) -> type[HybridBackbone]:
    """Make ``type="HybridBackbone"`` known to mmdet.

    Args:
        registry: of backbones; None takes that of mmdet3d or mmdet, whichever is installed.

    Returns:
        The class.

    Raises:
        AdapterError: neither is installed.
    """
    if registry is None:
        registry = _find_registry()
    registry.register_module(module=HybridBackbone, force=True)
    return HybridBackbone


def _find_registry() -> Any:
    for module, name in REGISTRIES:
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    names = ", ".join(f"{module}.{name}" for module, name in REGISTRIES)
    raise AdapterError(f"no registry of backbones was found ({names}); install mmdet, or give the registry.")
