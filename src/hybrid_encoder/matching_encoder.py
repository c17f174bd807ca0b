"""The multi-frame encoder: lookup frames matched between the semantic tower's first and second map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.config import IMAGENET_MEAN, IMAGENET_STD, HybridEncoderConfig
from hybrid_encoder.encoder import HybridDepthEncoder, HybridFeatures, build_groups
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.matching import (
    Spacing,
    check_features,
    check_geometry,
    confidence_mask,
    depth_bins,
    lowest_cost_disparity,
    sweep,
)

Match = Literal["semantic", "spatial", "both"]
PROMPTS = 128  # as published for several frames; the single-frame model has 256


class MatchingFeatures(NamedTuple):
    """Everything that one forward pass of the matching encoder knows.

    Attributes:
        hybrid: what a ``HybridDepthEncoder`` gives; ``hybrid.maps`` are what a decoder reads.
        cost: the (semantic, if there are two) cost volume before its mask, (B, D, H/4, W/4).
        missing: entries of it that no lookup frame sees, the same shape.
        lowest_cost: 1 / depth of its cheapest bin, (B, H/4, W/4).
        confidence: 1 where every depth was seen, else 0, (B, H/4, W/4).
    """

    hybrid: HybridFeatures
    cost: Tensor
    missing: Tensor
    lowest_cost: Tensor
    confidence: Tensor


class HybridMatchingEncoder(nn.Module):
    """The hybrid encoder with a cost volume over lookup frames.

    The features of the lookup frames are matched against the current ones (``plane_sweep_cost_volume``); the
    semantic tower's second to fourth map are made of its first one and that volume. The first fused level still has
    the map from before matching. Neither the lookup frames nor the volume carry a gradient.

    Source: ManyDepth, CVPR 2021, for the matching; Hybrid-depth, ICCV 2025, for what is matched.

    Args:
        encoder: an encoder, which becomes part of this one; a configuration; or a preset name, which stands for
            ``multi_frame_config`` of that preset.
        pretrained: start a new encoder from the public CLIP and DINO weights.
        num_depth_bins: D, how many depths are tried.
        depth_binning: ``"linear"`` or ``"inverse"`` (even steps of 1 / depth).
        min_depth_bin, max_depth_bin: range of the bins, in the unit of the poses.
        adaptive_bins: take a new range from every ``forward`` that brings one, as training from video without a
            known scale needs.
        match: in which tower's first map; ``"both"`` gives two volumes. DINO is published as off; matching in it
            runs DINO on the lookup frames too.

    Raises:
        ConfigError: a semantic tower without stages (a ViT), or a tower to match in that is not there.

    Example:
        >>> encoder = HybridMatchingEncoder("tiny", pretrained=False, num_depth_bins=8)
        >>> K = torch.eye(4).repeat(1, 1, 1)
        >>> K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = 14.0, 14.0, 12.0, 8.0  # of the maps, 16 x 24
        >>> images, poses = torch.rand(1, 3, 64, 96), torch.eye(4).repeat(1, 2, 1, 1)
        >>> maps, lowest_cost, confidence = encoder(images, torch.rand(1, 2, 3, 64, 96), poses, K, K.inverse())
        >>> lowest_cost.shape
        torch.Size([1, 16, 24])
    """

    depth_bins: Tensor

    def __init__(
        self,
        encoder: str | HybridEncoderConfig | HybridDepthEncoder = "paper",
        *,
        pretrained: bool = True,
        num_depth_bins: int = 96,
        depth_binning: Spacing = "linear",
        min_depth_bin: float = 0.1,
        max_depth_bin: float = 20.0,
        adaptive_bins: bool = False,
        match: Match = "semantic",
    ) -> None:
        super().__init__()
        if match not in ("semantic", "spatial", "both"):
            raise ConfigError(f"match is {match!r}; it must be one of 'semantic', 'spatial', 'both'.")
        bins = depth_bins(min_depth_bin, max_depth_bin, num_depth_bins, depth_binning)
        if isinstance(encoder, str):
            encoder = multi_frame_config(encoder)
        if isinstance(encoder, HybridEncoderConfig):
            encoder = HybridDepthEncoder(encoder, pretrained=pretrained)
        if encoder.semantic is None or encoder.semantic.kind == "vit":
            kind = "none" if encoder.semantic is None else "a ViT"
            raise ConfigError(
                f"the encoder's semantic tower is {kind}; matching sits between the stages of one: choose a ResNet or "
                "ConvNeXt CLIP."
            )
        if match != "semantic" and encoder.spatial is None:
            raise ConfigError(f"match is {match!r}, and the encoder has no spatial tower; match in 'semantic'.")
        self.encoder = encoder
        self.match = match
        self.depth_binning: Spacing = depth_binning
        self.adaptive_bins = adaptive_bins
        self.register_buffer("depth_bins", bins)
        width = encoder.semantic.channels[0]
        volumes = (2 if match == "both" else 1) * num_depth_bins
        self.reduce = nn.Sequential(nn.Conv2d(width + volumes, width, 3, padding=1), nn.ReLU())

    @property
    def num_depth_bins(self) -> int:
        """How many depths are tried."""
        return len(self.depth_bins)

    @property
    def feature_info(self) -> Any:
        """Channels and reduction of the four maps, in timm's convention."""
        return self.encoder.feature_info

    @torch.no_grad()
    def compute_depth_bins(self, min_depth_bin: float, max_depth_bin: float) -> None:
        """Spread the bins over another range.

        Raises:
            InputError: no positive, finite range.
        """
        self.depth_bins.copy_(depth_bins(min_depth_bin, max_depth_bin, self.num_depth_bins, self.depth_binning))

    def forward(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Decoder-ready maps, lowest-cost disparity and confidence mask.

        Args:
            current_image: RGB in [0, 1], (B, 3, H, W) with H and W from 32 up.
            lookup_images: the same of N >= 1 lookup frames, (B, N, 3, H, W).
            poses: ``lookup_T_current``, (B, N, 4, 4); a matrix of zeros marks a frame that is missing.
            K, inv_K: intrinsics in pixels of the first map, a quarter of the image (ManyDepth's scale 2), and their
                inverse, (B, 4, 4).
            min_depth_bin, max_depth_bin: a new range with ``adaptive_bins``, which stays; ignored without.

        Returns:
            Four maps (B, C_i, h, w); 1 / depth of the cheapest bin, (B, H/4, W/4); 1 where every depth was seen,
            else 0, (B, H/4, W/4).

        Raises:
            InputError: images or geometry of another shape, or values that cannot be.
        """
        found = self.forward_features(current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin)
        return found.hybrid.maps, found.lowest_cost, found.confidence

    def forward_features(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
    ) -> MatchingFeatures:
        """The same pass with everything it computed."""
        encoder, semantic = self.encoder, self.encoder.semantic
        assert semantic is not None
        check_features(current_image, lookup_images, ("current_image", "lookup_images"))
        for images in (current_image, lookup_images.flatten(0, 1)):
            encoder._check(images)
        if self.adaptive_bins and min_depth_bin is not None and max_depth_bin is not None:
            self.compute_depth_bins(min_depth_bin, max_depth_bin)
        height, width = (side // semantic.strides[0] for side in current_image.shape[-2:])
        check_geometry(poses, K, inv_K, self.depth_bins, lookup_images.shape[:2], (height, width))

        spatial, class_token = encoder.spatial(current_image) if encoder.spatial is not None else ([], None)
        first = semantic.first(current_image)
        volumes = []
        with torch.no_grad():
            if self.match != "spatial":
                lookup = semantic.first(lookup_images.flatten(0, 1)).unflatten(0, lookup_images.shape[:2])
                volumes.append(sweep(first, lookup, poses, K, inv_K, self.depth_bins))
            if self.match != "semantic":
                volumes.append(self._match_spatial(spatial[0], lookup_images, poses, K, inv_K, first.shape[-2:]))
            masks = [confidence_mask(missing) for _, missing in volumes]
            masked = [cost * mask[:, None] for (cost, _), mask in zip(volumes, masks, strict=True)]
        matched = self.reduce(torch.cat([first, *(volume.to(first.dtype) for volume in masked)], dim=1))
        grid = spatial[0].shape[-2:] if spatial else tuple(round(n / encoder.stride) for n in current_image.shape[-2:])
        fused = encoder.fusion([first, *semantic.rest(matched)], spatial, (grid[0], grid[1]))
        cost, missing = volumes[0]
        return MatchingFeatures(
            encoder.align(fused, class_token),
            cost,
            missing,
            lowest_cost_disparity(cost, self.depth_bins),
            masks[0],
        )

    def _match_spatial(
        self, current: Tensor, lookup_images: Tensor, poses: Tensor, K: Tensor, inv_K: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Cost and missing entries of DINO's first map, on its own grid and then at the size of the semantic one."""
        assert self.encoder.spatial is not None
        maps, _ = self.encoder.spatial(lookup_images.flatten(0, 1))
        lookup = maps[0].unflatten(0, lookup_images.shape[:2])
        scale = torch.ones(4, device=K.device)
        scale[0], scale[1] = current.shape[-1] / size[1], current.shape[-2] / size[0]
        cost, missing = sweep(current, lookup, poses, K * scale[:, None], inv_K / scale, self.depth_bins)
        return F.interpolate(cost, size), F.interpolate(missing.float(), size).bool()

    # -- what trains -------------------------------------------------------------------------------------

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by part: the encoder's, and ``matching``."""
        return {**self.encoder.part_parameters(), "matching": list(self.reduce.parameters())}

    def parameter_groups(
        self, lr: float, *, lr_scale: Mapping[str, float] | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Optimizer groups by part; no frozen parameter in them."""
        return build_groups(self.part_parameters(), lr, lr_scale, options)


def multi_frame_config(preset: str = "paper") -> HybridEncoderConfig:
    """A preset's encoder with the published settings for several frames: CLIP's input normalised with ImageNet's mean
    and std, the DINO input as the preset has it, and no more than 128 prompts.
    """
    config = HybridEncoderConfig.preset(preset)
    prompts = config.prompts and dataclasses.replace(config.prompts, count=min(PROMPTS, config.prompts.count))
    semantic = dataclasses.replace(config.semantic, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return config.replace(semantic=semantic, prompts=prompts)
