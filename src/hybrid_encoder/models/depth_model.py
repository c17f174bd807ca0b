"""What the single-frame and the multi-frame model share: an encoder with a decoder, depth, and what the words say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.errors import InputError
from hybrid_encoder.geometry.camera import disparity_to_depth
from hybrid_encoder.geometry.plane_sweep import check_tensors
from hybrid_encoder.language.depth_words import bin_centers, language_depth
from hybrid_encoder.models.base import EncoderHolder
from hybrid_encoder.models.decoders import Decoder
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.image_checks import check_value_range
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.resizing import resized_images
from hybrid_encoder.models.sizes import Size, WorkingSize, working_size
from hybrid_encoder.models.words import DepthWords, prompt_names
from hybrid_encoder.similarity import at_least_float32


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

    def forward_words(self, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Return disparity as :meth:`forward` does, and what the words say in the same pass.

        Args:
            inputs: those of ``forward``.

        Returns:
            Disparity (B, 1, H, W), and the mean of the four levels' logits (B, n, h, w), float32 or finer, near before
            far along n; None without prompts.
        """
        found = self.encoder.forward_features(*inputs)
        hybrid = getattr(found, "hybrid", found)
        size = (inputs[0].shape[-2], inputs[0].shape[-1])
        disparity = self._finest(self.decoder(hybrid.maps, size), size)
        if hybrid.logits is None:
            return disparity, None
        return disparity, at_least_float32(torch.stack(list(hybrid.logits))).mean(0)

    @property
    def has_words(self) -> bool:
        """Whether there are prompts that say something."""
        return self._hybrid_encoder.prompts is not None

    def check_words(self) -> None:
        """Raise InputError unless there are prompts that say something."""
        if not self.has_words:
            raise InputError("the model has no prompts, so no words say anything; take weights with prompts.")

    def _words(self, logits: Tensor, images: Tensor) -> DepthWords:
        """Return what logits (B, n, h, w) of images at the size to work at say."""
        prompts = self._hybrid_encoder.config.prompts
        assert prompts is not None  # there are logits
        bins = bin_centers(logits.shape[1], self.config.min_depth, self.config.max_depth)
        image = at_least_float32(images)
        return DepthWords(logits, image, prompt_names(prompts), prompts.template, bins, self.config.metric)

    def _finest(self, outputs: Mapping[int, Tensor], size: tuple[int, int]) -> Tensor:
        """Return the decoder's finest scale, resized (bilinear) where that is not 0."""
        scale = min(outputs)
        if scale == 0:
            return outputs[scale]
        return F.interpolate(outputs[scale], size, mode="bilinear", align_corners=False)

    @property
    def _hybrid_encoder(self) -> HybridDepthEncoder:
        encoder: Any = self.encoder
        while not isinstance(encoder, HybridDepthEncoder):
            encoder = encoder.encoder
        return encoder

    def working_size(self, image_size: Size, size: WorkingSize = None) -> Size:
        """Return the (H, W) that :meth:`infer` works at for a picture of this (H, W)."""
        return working_size(size, image_size, self.config.size, self._hybrid_encoder.stride)

    @torch.inference_mode()
    def _resized(self, images: Tensor, size: Size) -> Tensor:
        """Return images on the model's device, of the model's type, at the size to work at."""
        parameter = next(self.parameters())
        exact = torch.promote_types(parameter.dtype, torch.float32)  # not every device resizes halves
        images = images.to(parameter.device, exact)
        if self._hybrid_encoder.check_values and size != (images.shape[-2], images.shape[-1]):
            check_value_range(images)  # clamping would hide it
        return resized_images(images, size).to(parameter.dtype)

    @torch.inference_mode()
    def _prediction(self, disparity: Tensor, source: Any = None, words: DepthWords | None = None) -> DepthPrediction:
        depth, metric = self.to_depth(disparity), self.config.metric
        return DepthPrediction(disparity, None if metric else depth, depth if metric else None, source, words)
