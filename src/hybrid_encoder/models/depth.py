"""Encoder and decoder: from an image to disparity and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.config import HybridDepthConfig
from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import disparity_to_depth
from hybrid_encoder.geometry.plane_sweep import check_tensors
from hybrid_encoder.language.depth_words import bin_centers, language_depth
from hybrid_encoder.models.base import EncoderHolder, check_working_size, find_config, in_evaluation
from hybrid_encoder.models.decoders import Decoder, build_decoder
from hybrid_encoder.models.encoder import HybridDepthEncoder, check_images


class DepthPrediction(NamedTuple):
    """What ``infer`` returns, all at the size of the images; the name of each field says its scale.

    Attributes:
        disparity: (B, 1, H, W), 1 near and 0 far (Monodepth2's ``disp``).
        relative_depth: (B, 1, H, W), scale unknown; None where the scale is known.
        depth_m: (B, 1, H, W) in metres; None where the scale is unknown.
    """

    disparity: Tensor
    relative_depth: Tensor | None
    depth_m: Tensor | None


class DepthModel(EncoderHolder):
    """An encoder with a decoder: what the single-frame and the multi-frame model share.

    Attributes:
        decoder: reads the encoder's maps.
    """

    config: Any  # a DepthScale, as each subclass says
    decoder: Decoder
    own_part = "decoder"

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def to_depth(self, disparity: Tensor) -> Tensor:
        """Return depth = 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) x disparity)."""
        return disparity_to_depth(disparity, self.config.min_depth, self.config.max_depth)

    def set_metric_scale(self, factor: float) -> None:
        """Say how many metres one unit of depth is: from now on predictions are in metres, and so they are saved.

        Disparity stays as it is. So do the depth bins of a multi-frame model, which are in the unit of the poses that
        it is given.

        Args:
            factor: multiplies depth, as :mod:`hybrid_encoder.evaluation` fits it.

        Raises:
            ConfigError: a factor that is no positive number, or that takes the range beyond 1e-6 to 1e9 m.
        """
        self.config = self.config.in_metres(factor)

    def language_depth(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the depth that the words say, whatever the decoder makes of them.

        Args:
            logits: of ``encoder.forward_features``, each (B, n, h, w); their mean is read.

        Returns:
            (B, 1, h, w), from ``min_depth`` to ``max_depth``; the prompts stand for depths evenly spaced in log-depth.

        Raises:
            InputError: no maps.
        """
        if not isinstance(logits, (list, tuple)) or not logits:
            raise InputError(f"logits is {type(logits).__name__}; maps (B, n, h, w) are needed, of one size.")
        for level, x in enumerate(logits):
            check_tensors(**{f"logits[{level}]": x})
        centers = bin_centers(logits[0].shape[1], self.config.min_depth, self.config.max_depth)
        return language_depth(torch.stack(list(logits)).mean(0), centers.to(logits[0].device))

    def _finest(self, outputs: Mapping[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Return the decoder's finest scale, resized (bilinear) where that is not 0."""
        scale = min(outputs)
        if scale == 0:
            return outputs[scale]
        return F.interpolate(outputs[scale], size, mode="bilinear", align_corners=False)

    def _prediction(self, disparity: Tensor) -> DepthPrediction:
        depth, metric = self.to_depth(disparity), self.config.metric
        return DepthPrediction(disparity, None if metric else depth, depth if metric else None)


class HybridDepthModel(DepthModel):
    """The hybrid encoder with a decoder, DPT's or Monodepth2's.

    Args:
        config: a preset name (``"paper"``, ``"tiny"``) or a configuration.
        pretrained: start the encoder from the public CLIP and DINO weights; the decoder starts from random ones.
        encoder: use this one, itself and not a copy, with an untrained decoder: a stage-1 result, say. The
            configuration's part for the encoder is not read then.
    """

    config: HybridDepthConfig
    config_class = HybridDepthConfig
    encoder: HybridDepthEncoder

    def __init__(
        self,
        config: str | HybridDepthConfig = "paper",
        *,
        pretrained: bool = True,
        encoder: HybridDepthEncoder | None = None,
    ) -> None:
        super().__init__()
        config = find_config(HybridDepthConfig, config)
        self.encoder = HybridDepthEncoder(config.encoder, pretrained=pretrained) if encoder is None else encoder
        self.decoder = build_decoder(self.encoder.feature_info.channels(), config.decoder)
        self.config = config.replace(encoder=self.encoder.config)

    def forward(self, images: Tensor) -> Tensor:
        """Take RGB in [0, 1], (B, 3, H, W) with H and W from 32 up, to disparity (B, 1, H, W).

        It is the decoder's finest scale, resized (bilinear) where that is not 0.
        """
        return self._finest(self.forward_scales(images), (images.shape[-2], images.shape[-1]))

    def forward_scales(self, images: Tensor) -> dict[int, Tensor]:
        """Return the disparity of every scale of the decoder: {s: (B, 1, H // 2**s, W // 2**s)}."""
        outputs: dict[int, Tensor] = self.decoder(self.encoder(images), (images.shape[-2], images.shape[-1]))
        return outputs

    @torch.inference_mode()
    def infer(self, images: Tensor, size: tuple[int, int] | None = None) -> DepthPrediction:
        """Predict as in evaluation mode, at the size of the images; the model's own mode stays as it is.

        Args:
            images: RGB in [0, 1], (3, H, W) or (B, 3, H, W), on any device.
            size: height and width to work at, from 32 up; the images' own by default.

        Raises:
            InputError: images of another shape, type or value range; a size that cannot be.
        """
        if size is not None:
            check_working_size(size)
        batch = images[None] if isinstance(images, Tensor) and images.ndim == 3 else images
        check_images(batch)
        own = (batch.shape[-2], batch.shape[-1])
        parameter = next(self.parameters())
        batch = batch.to(parameter.device, parameter.dtype)
        if size is not None and tuple(size) != own:
            batch = F.interpolate(batch, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        disparity = in_evaluation(self)(batch).float()
        if disparity.shape[-2:] != own:
            disparity = F.interpolate(disparity, own, mode="bilinear", align_corners=False)
        return self._prediction(disparity[0] if images.ndim == 3 else disparity)
