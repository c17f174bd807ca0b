"""Our networks behind the interfaces of Monodepth2's and ManyDepth's ``networks``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hybrid_encoder.checkpoints.described import Description
from hybrid_encoder.config import DecoderConfig
from hybrid_encoder.errors import AdapterError, ConfigError
from hybrid_encoder.models.base import HybridModel
from hybrid_encoder.models.decoder import DPTDecoder
from hybrid_encoder.models.encoder import HybridDepthEncoder
from hybrid_encoder.models.matching import HybridMatchingEncoder
from hybrid_encoder.models.neck import PyramidNeck
from hybrid_encoder.models.pose_network import ClassTokenPoseHead

from .loading import StrictLoading


def _is_for_replicas(caller: FrameType) -> bool:
    """Return whether torch's DataParallel asks, which looks up every parameter that a network has in the list."""
    return caller.f_globals.get("__name__") == "torch.nn.parallel.replicate"


class Features(StrictLoading):
    """Hands on a model's four maps as a codebase's decoders read them.

    With a neck the features are the maps of its strides. Without one they are the model's four maps,
    and before them an empty one, (B, 0, H, W): the decoder reads the image size off it, and being a tensor
    it is split, moved and gathered with the others.

    ``parameters()`` leaves out what the configuration or ``set_trainable`` froze, and what was frozen by hand before
    the model came here. Trainers hand that list to an optimizer as it is, where a frozen parameter has no place. Flags
    that change later do not count: a trainer that freezes and later releases this module, by ``parameters()`` or by
    ``requires_grad_``, gets the same parameters both times. ``state_dict``, ``to`` and ``named_parameters`` see every
    parameter.

    Args:
        channels: of the four maps.
        neck: brings them to a pyramid.

    Attributes:
        num_ch_enc: channels of the features, fine to coarse. Some trainers assign those that the codebase's own encoder
            has: a pyramid must agree; the four maps keep theirs, and ``assigned_channels`` remembers what was assigned.
    """

    def __init__(self, channels: Sequence[int], neck: PyramidNeck | None) -> None:
        super().__init__()
        self.neck = neck
        self._frozen_by_hand: set[str] = set()
        self._num_ch_enc = tuple(int(c) for c in (neck.num_ch_enc if neck is not None else (0, *channels)))
        self.assigned_channels: tuple[int, ...] | None = None

    @property
    def num_ch_enc(self) -> np.ndarray[Any, np.dtype[np.int_]]:
        return np.array(self._num_ch_enc)

    @num_ch_enc.setter
    def num_ch_enc(self, channels: Sequence[int]) -> None:
        assigned = tuple(int(c) for c in channels)
        if self.neck is not None and assigned != self._num_ch_enc:
            raise AdapterError(
                f"num_ch_enc is assigned {assigned}, and the hybrid encoder's pyramid has {self._num_ch_enc}: give "
                f"recipe=CodebaseRecipe(..., channels={assigned}), so that the decoder gets what it reads."
            )
        self.assigned_channels = assigned

    def has_channels(self, channels: Sequence[int]) -> bool:
        """Return whether channels that a decoder was handed are this network's: its own, or the assigned ones."""
        handed = tuple(int(c) for c in channels)
        return handed in (self._num_ch_enc, self.assigned_channels)

    @property
    def model(self) -> HybridModel:
        """The model that gives the maps."""
        raise NotImplementedError

    def describe(self) -> Description:
        neck = None if self.neck is None else self.neck.config
        return Description(type(self).__name__, self.model.config, neck)

    def features(self, images: Tensor, maps: list[Tensor]) -> list[Tensor]:
        """Return the features of images (B, 3, H, W) and their maps, (B, num_ch_enc[i], h_i, w_i) each."""
        if self.neck is None:
            return [images[:, :0], *maps]
        features: list[Tensor] = self.neck(maps, image_size=(images.shape[-2], images.shape[-1]))
        return features

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return those that are meant to train, whether or not they are frozen at the moment."""
        if _is_for_replicas(sys._getframe(1)):
            yield from super().parameters(recurse)
            return
        frozen = {id(parameter) for parameter in self.model.frozen_parameters()}
        for name, parameter in self.named_parameters(recurse=recurse):
            by_hand = name in self._frozen_by_hand and not parameter.requires_grad
            if id(parameter) not in frozen and not by_hand:
                yield parameter

    def _remember_frozen(self) -> None:
        """Note what is frozen now; called when the model is in place."""
        self._frozen_by_hand = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}


class DepthEncoder(Features):
    """A hybrid encoder behind the interface of ``networks.ResnetEncoder``.

    Args:
        encoder: gives four maps on one grid.
        neck: brings them to a pyramid.
        mean: what the caller subtracts from RGB in [0, 1], by channel.
        std: by which the caller then divides.
    """

    normalisation: Tensor

    def __init__(
        self,
        encoder: HybridDepthEncoder,
        neck: PyramidNeck | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(encoder.feature_info.channels(), neck)
        self.encoder = encoder
        self._remember_frozen()
        self.normalised = any(mean) or set(std) != {1.0}
        self.register_buffer("normalisation", torch.tensor([mean, std])[:, :, None, None], persistent=False)

    @property
    def model(self) -> HybridDepthEncoder:
        return self.encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Take the caller's RGB, (B, 3, H, W), to features (B, num_ch_enc[i], h_i, w_i).

        Raises:
            AdapterError: several images at once, as a pose encoder reads them.
        """
        if images.ndim == 4 and images.shape[1] in (6, 9):
            raise AdapterError(
                f"a depth encoder is given {images.shape[1] // 3} images at once, as a pose network "
                "is: say which argument gives their number, with recipe=CodebaseRecipe(..., frames=...)."
            )
        if self.normalised:
            mean, std = self.normalisation
            images = images * std + mean
        return self.features(images, self.encoder(images))


class MatchingEncoder(Features):
    """A matching encoder behind the interface of ManyDepth's ``networks.ResnetEncoderMatching``.

    Args:
        matching: with or without adaptive depth bins.
        neck: brings its maps to a pyramid.
    """

    def __init__(self, matching: HybridMatchingEncoder, neck: PyramidNeck | None = None) -> None:
        super().__init__(matching.feature_info.channels(), neck)
        self.matching = matching
        self._remember_frozen()

    @property
    def model(self) -> HybridMatchingEncoder:
        return self.matching

    def compute_depth_bins(self, min_depth_bin: float, max_depth_bin: float) -> None:
        """Spread the depth bins over another range, and keep it."""
        self.matching.compute_depth_bins(min_depth_bin, max_depth_bin)

    def forward(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        invK: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return what ``HybridMatchingEncoder.forward`` does, with features for the decoder in place of the maps."""
        maps, lowest_cost, confidence = self.matching(
            current_image, lookup_images, poses, K, invK, min_depth_bin, max_depth_bin
        )
        return self.features(current_image, maps), lowest_cost, confidence


class PoseEncoder(StrictLoading):
    """DINO's class tokens of two frames behind the interface of the pose encoder.

    The tower belongs to the depth encoder, which hands it to the optimizer and which freezes and releases it.
    ``parameters()`` is therefore empty: a tower listed twice would be refused by an optimizer, and freezing the pose
    encoder would freeze the depth encoder with it. ``state_dict``, ``to`` and ``named_parameters`` see the tower.

    Args:
        encoder: the depth encoder; its DINO tower is used itself, not a copy of it.

    Raises:
        ConfigError: an encoder without that tower.
    """

    def __init__(self, encoder: HybridDepthEncoder) -> None:
        super().__init__()
        if encoder.spatial is None:
            raise ConfigError(
                f"towers is {encoder.config.towers!r}; pose='class_token' reads DINO's class token: "
                "take an encoder with that tower, or pose='repository'."
            )
        encoder.spatial.check_class_token()
        self.spatial = encoder.spatial
        self.num_ch_enc = np.array([2 * encoder.spatial.channels[-1]])
        self._config = encoder.config

    def describe(self) -> Description:
        return Description("PoseEncoder", self._config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Take two frames in temporal order, RGB in [0, 1], (B, 6, H, W), to one feature (B, 2 C, 1, 1)."""
        tokens = self.spatial.class_token(torch.cat(images.split(3, dim=1)))
        return [torch.cat(tokens.chunk(2), dim=1)[..., None, None]]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return none, as the depth encoder hands the tower to the optimizer."""
        if _is_for_replicas(sys._getframe(1)):
            yield from super().parameters(recurse)


class PoseDecoder(StrictLoading):
    """One linear layer on two class tokens behind the interface of ``networks.PoseDecoder``.

    Args:
        num_ch_enc: of a :class:`PoseEncoder`.
    """

    def __init__(self, num_ch_enc: Sequence[int]) -> None:
        super().__init__()
        self.head = ClassTokenPoseHead(int(num_ch_enc[-1]) // 2)

    def forward(self, features: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """Take one pair's features to axis-angle and translation, both (B, 1, 1, 3)."""
        first, second = features[0][-1].flatten(1).chunk(2, dim=1)
        axis_angle, translation = self.head(first, second)
        return axis_angle[:, None, None], translation[:, None, None]


class DepthDecoder(StrictLoading):
    """A DPT decoder behind the interface of ``networks.DepthDecoder``.

    Args:
        num_ch_enc: of a :class:`DepthEncoder` without a neck.
        scales: output scales; scale s is 1 / 2**s of the image size.
        num_output_channels: channels of each output.
        config: widths.
        num_prompts: how many depth prompts there are whose logits, with which every map begins, are handed on to the
            language loss; 0 hands on none.
    """

    def __init__(
        self,
        num_ch_enc: Sequence[int],
        scales: Iterable[int],
        num_output_channels: int,
        config: DecoderConfig,
        num_prompts: int = 0,
    ) -> None:
        super().__init__()
        self.num_prompts = num_prompts
        self.num_output_channels = num_output_channels
        self.config = dataclasses.replace(config, scales=tuple(scales), activation="sigmoid")
        in_channels = [int(channels) for channels in num_ch_enc[1:]]
        self.dpt = DPTDecoder.from_config(in_channels, self.config, out_channels=num_output_channels)

    def describe(self) -> Description:
        return Description("DepthDecoder", self.config, num_outputs=self.num_output_channels)

    def forward(self, features: Sequence[Tensor]) -> dict[tuple[str, int], Tensor]:
        """Return ``{("disp", s): (B, num_output_channels, H // 2**s, W // 2**s)}``, in [0, 1].

        With prompts, also ``{("language", level): (B, num_prompts, h, w)}``.
        """
        size, *maps = features
        outputs = self.dpt(maps, image_size=(size.shape[-2], size.shape[-1]))
        result = {("disp", scale): output for scale, output in outputs.items()}
        if self.num_prompts:
            result |= {("language", level): x[:, : self.num_prompts] for level, x in enumerate(maps)}
        return result
