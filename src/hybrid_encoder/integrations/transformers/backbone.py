"""The backbone of transformers, made of this library's encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hybrid_encoder.config import find_encoder_config
from hybrid_encoder.integrations.transformers.base import HybridDepthPreTrainedModel, asked
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig
from hybrid_encoder.models.encoder import HybridDepthEncoder


class HybridDepthBackbone(BackboneMixin, HybridDepthPreTrainedModel):
    """:class:`~hybrid_encoder.models.encoder.HybridDepthEncoder` as a backbone of transformers.

    Four stages, ``"stage1"`` to ``"stage4"``, all on one grid: the maps that a decoder reads, prompts' logits among
    their channels.

    Args:
        config: of a model with or without a decoder, which is left out.
    """

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # noqa: RUF012  # of a whole model, whose encoder this is

    def __init__(self, config: HybridDepthConfig) -> None:
        config = copy.deepcopy(config)  # it is about to say less than the caller's
        super().__init__(config)
        self.encoder = HybridDepthEncoder(find_encoder_config(config.hybrid), pretrained=False)
        self.num_features = list(self.encoder.feature_info.channels())
        self._follow_encoder()
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Return the maps of the stages in ``out_features``.

        Args:
            pixel_values: RGB in [0, 1], (B, 3, H, W) with H and W from 32 up.
            output_hidden_states: return the maps of all four stages, too.
            output_attentions: nothing is returned for it.
            return_dict: False returns a tuple.
            others: for heads that hand on what they were given; nothing is done with it.

        Returns:
            ``feature_maps``: maps (B, C, h, w); or, with ``reshape_hidden_states=False``, tokens (B, 1 + h * w, C) of
            whole cells, h = H // patch_size, of which the first is the mean of the others: these maps have no class
            token.

        Raises:
            InputError: images of another kind.
        """
        if not self.config.reshape_hidden_states:
            patch = self.encoder.stride
            whole = tuple(max(1, side // patch) * patch for side in pixel_values.shape[-2:])
            if whole != pixel_values.shape[-2:]:
                self.encoder.check_images(pixel_values)
                pixel_values = F.interpolate(pixel_values, whole, mode="bilinear", align_corners=False)
        maps = self._encode(pixel_values)
        if not self.config.reshape_hidden_states:
            rows = [x.flatten(2).transpose(1, 2) for x in maps]
            maps = [torch.cat([x.mean(1, keepdim=True), x], dim=1) for x in rows]
        chosen = tuple(x for x, name in zip(maps, self.stage_names, strict=True) if name in self.out_features)
        hidden = tuple(maps) if asked(output_hidden_states, self.config.output_hidden_states) else None
        output = BackboneOutput(feature_maps=chosen, hidden_states=hidden)  # type: ignore[arg-type]  # it holds several
        return output if asked(return_dict, self.config.return_dict) else output.to_tuple()

    def _follow_encoder(self) -> None:
        self.config.describe(self.encoder.config)

    def _named_as_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("encoder."): value for name, value in state.items()}
