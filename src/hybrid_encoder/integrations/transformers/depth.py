"""The depth model of transformers, made of this library's encoder and decoder."""

from __future__ import annotations

import os
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import DepthEstimatorOutput
from typing_extensions import Self

from hybrid_encoder.checkpoints.filling import no_initialisation
from hybrid_encoder.config import HybridDepthConfig as ModelConfig
from hybrid_encoder.errors import CheckpointError, InputError
from hybrid_encoder.geometry.camera import disparity_to_depth
from hybrid_encoder.integrations.transformers.base import HybridDepthPreTrainedModel, asked
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig
from hybrid_encoder.integrations.transformers.image_processing import HybridDepthImageProcessor
from hybrid_encoder.integrations.transformers.losses import log_depth_loss
from hybrid_encoder.integrations.transformers.offloading import bring_in_at_once
from hybrid_encoder.models.depth import HybridDepthModel


class HybridDepthForDepthEstimation(HybridDepthPreTrainedModel):
    """:class:`~hybrid_encoder.models.depth.HybridDepthModel` as transformers' depth models are.

    Args:
        config: of a model with a decoder.

    Raises:
        ConfigError: of an encoder alone.
    """

    def __init__(self, config: HybridDepthConfig) -> None:
        super().__init__(config)
        model = HybridDepthModel(_whole(config), pretrained=False)
        self.encoder, self.decoder = model.encoder, model.decoder
        self.config.describe(model.config)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_hybrid(cls, model: HybridDepthModel) -> Self:
        """Return a model of transformers around this one's own encoder and decoder, not copies."""
        with no_initialisation():
            made = cls(HybridDepthConfig(model.config))
        made.encoder, made.decoder = model.encoder, model.decoder
        made._follow_encoder()
        made.train(model.training)
        return made

    def to_hybrid(self) -> HybridDepthModel:
        """Return a model of this library, with ``infer``, around this one's own encoder and decoder, not copies."""
        self._follow_encoder()
        bring_in_at_once(self.encoder)
        with no_initialisation():
            model = HybridDepthModel(_whole(self.config), encoder=self.encoder)
        model.decoder = self.decoder
        return model.train(self.training)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DepthEstimatorOutput | tuple[Any, ...]:
        """Predict depth, at the size of the images.

        Args:
            pixel_values: RGB in [0, 1], (B, 3, H, W) with H and W from 32 up, as the image processor gives it.
            labels: measured depth, (B, h, w) of any size, above 0 where it is known; in metres for a metric model.
            output_attentions: nothing is returned for it: the towers have no attention in common.
            output_hidden_states: return the four maps that the decoder reads, too.
            return_dict: False returns a tuple.

        Returns:
            ``predicted_depth``, (B, H, W), float32: metres where the scale is known
            (``config.depth_estimation_type`` is ``"metric"``), else disparity, 1 near and 0 far, as the relative models
            of DPT and Depth Anything have it. ``loss`` where there are labels, as
            :func:`~hybrid_encoder.integrations.transformers.losses.log_depth_loss` says.

        Raises:
            InputError: images or labels of another kind.
        """
        data = _whole(self.config)
        maps = self._encode(pixel_values)
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        outputs = self.decoder(maps, size)
        disparity = outputs[min(outputs)].float()
        if disparity.shape[-2:] != size:
            disparity = F.interpolate(disparity, size, mode="bilinear", align_corners=False)
        loss = None
        if labels is not None:
            if labels.ndim != 3 or len(labels) != len(disparity) or not labels.is_floating_point():
                raise InputError(
                    f"labels are {tuple(labels.shape)} of {labels.dtype}; depth (B, h, w) is needed, floating-point, "
                    f"with B = {len(disparity)}."
                )
            there = F.interpolate(disparity, labels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            depth = disparity_to_depth(there, data.min_depth, data.max_depth)
            loss = log_depth_loss(depth, labels.to(depth.device), scale_counts=data.metric)
        predicted = disparity_to_depth(disparity, data.min_depth, data.max_depth) if data.metric else disparity
        hidden = tuple(maps) if asked(output_hidden_states, self.config.output_hidden_states) else None
        output = DepthEstimatorOutput(loss=loss, predicted_depth=predicted[:, 0], hidden_states=hidden)
        return output if asked(return_dict, self.config.return_dict) else output.to_tuple()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **options: Any
    ) -> None:
        super().save_pretrained(save_directory, is_main_process, *args, **options)
        if is_main_process:
            HybridDepthImageProcessor.of_model(self.config).save_pretrained(save_directory)

    def _follow_encoder(self) -> None:
        self.config.describe(_whole(self.config).replace(encoder=self.encoder.config))


def _whole(config: HybridDepthConfig) -> ModelConfig:
    """Return the configuration of a model with a decoder.

    Raises:
        CheckpointError: of an encoder alone.
    """
    data = config.hybrid
    if isinstance(data, ModelConfig):
        return data
    raise CheckpointError(
        f"{config.name_or_path or 'the configuration'} is of a HybridDepthEncoder, which has no decoder; open it as a "
        "backbone (AutoBackbone), or take weights of a HybridDepthModel."
    )
