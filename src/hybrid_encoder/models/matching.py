"""The multi-frame models: lookup frames matched between the semantic tower's first and second map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_encoder.config import HybridEncoderConfig, HybridMatchingConfig, HybridMatchingDepthConfig
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.geometry.camera import resized_intrinsics
from hybrid_encoder.geometry.plane_sweep import (
    Spacing,
    check_features,
    check_geometry,
    check_tensors,
    confidence_mask,
    depth_bins,
    lowest_cost_disparity,
    sweep,
)
from hybrid_encoder.models._depth_bins import DepthBinsLoader
from hybrid_encoder.models.base import find_config, in_evaluation
from hybrid_encoder.models.decoders import build_decoder
from hybrid_encoder.models.depth_model import DepthModel
from hybrid_encoder.models.encoder import HybridDepthEncoder, HybridFeatures
from hybrid_encoder.models.prediction import DepthPrediction
from hybrid_encoder.models.resizing import resized_to
from hybrid_encoder.models.sizes import WorkingSize

Match = Literal["semantic", "spatial", "both"]


class MatchingFeatures(NamedTuple):
    """Everything that one forward pass of the matching encoder computed.

    Attributes:
        hybrid: what a ``HybridDepthEncoder`` returns; ``hybrid.maps`` are what a decoder reads.
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


class HybridMatchingEncoder(DepthBinsLoader):
    """The hybrid encoder with a cost volume over lookup frames.

    The features of the lookup frames are matched against the current ones (``plane_sweep_cost_volume``); the
    semantic tower's second to fourth map are made of its first one and that volume. The first fused level still has
    the map from before matching. Neither the lookup frames nor the volume carry a gradient.

    Source: ManyDepth, CVPR 2021, for the matching; Hybrid-depth, ICCV 2025, for what is matched.

    Args:
        encoder: a configuration of this encoder; an encoder, which becomes part of this one; an encoder's
            configuration; or a preset name, which stands for ``HybridMatchingConfig.preset`` of that name.
        pretrained: start the towers of a new encoder from the weights that the configuration names.
        num_depth_bins, depth_binning, min_depth_bin, max_depth_bin, adaptive_bins, match: in place of the
            configuration's (:class:`hybrid_encoder.config.HybridMatchingConfig` says what they mean); None leaves it.

    Raises:
        ConfigError: a semantic tower without stages (a ViT), a tower to match in that is not there, or a setting that
            cannot be.

    Example:
        >>> encoder = HybridMatchingEncoder("tiny", pretrained=False, num_depth_bins=8)
        >>> K = torch.eye(4).repeat(1, 1, 1)
        >>> K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = 14.0, 14.0, 12.0, 8.0  # of the maps, 16 x 24
        >>> images, poses = torch.rand(1, 3, 64, 96), torch.eye(4).repeat(1, 2, 1, 1)
        >>> maps, lowest_cost, confidence = encoder(images, torch.rand(1, 2, 3, 64, 96), poses, K, K.inverse())
        >>> lowest_cost.shape
        torch.Size([1, 16, 24])
    """

    config: HybridMatchingConfig
    config_class = HybridMatchingConfig
    encoder: HybridDepthEncoder
    own_part = "matching"
    depth_bins: Tensor

    def __init__(
        self,
        encoder: str | HybridMatchingConfig | HybridEncoderConfig | HybridDepthEncoder = "paper",
        *,
        pretrained: bool = True,
        num_depth_bins: int | None = None,
        depth_binning: Spacing | None = None,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
        adaptive_bins: bool | None = None,
        match: Match | None = None,
    ) -> None:
        super().__init__()
        settings = {
            "num_depth_bins": num_depth_bins,
            "depth_binning": depth_binning,
            "min_depth_bin": min_depth_bin,
            "max_depth_bin": max_depth_bin,
            "adaptive_bins": adaptive_bins,
            "match": match,
        }
        if isinstance(encoder, (HybridDepthEncoder, HybridEncoderConfig)):
            config = HybridMatchingConfig(encoder.config if isinstance(encoder, HybridDepthEncoder) else encoder)
        else:
            config = find_config(HybridMatchingConfig, encoder)
        config = config.replace(**{name: value for name, value in settings.items() if value is not None})
        if not isinstance(encoder, HybridDepthEncoder):
            encoder = HybridDepthEncoder(config.encoder, pretrained=pretrained)
        if encoder.semantic is None or encoder.semantic.kind == "vit":
            kind = "none" if encoder.semantic is None else "a ViT"
            raise ConfigError(
                f"the encoder's semantic tower is {kind}; matching sits between the stages of one: choose a ResNet, "
                "ConvNeXt or FastViT CLIP."
            )
        if config.match != "semantic" and encoder.spatial is None:
            raise ConfigError(f"match is {config.match!r}, and the encoder has no spatial tower; match in 'semantic'.")
        self.encoder = encoder
        self.config = config.replace(encoder=encoder.config)
        bins = depth_bins(config.min_depth_bin, config.max_depth_bin, config.num_depth_bins, config.depth_binning)
        self.register_buffer("depth_bins", bins)
        width = encoder.semantic.channels[0]
        volumes = config.num_volumes * config.num_depth_bins
        self.reduce = nn.Sequential(nn.Conv2d(width + volumes, width, 3, padding=1), nn.ReLU())

    @property
    def num_depth_bins(self) -> int:
        """How many depths are tried."""
        return self.config.num_depth_bins

    @property
    def feature_info(self) -> Any:
        """Channels and reduction of the four maps, in timm's convention."""
        return self.encoder.feature_info

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.reduce.parameters())

    @torch.no_grad()
    def compute_depth_bins(self, min_depth_bin: float, max_depth_bin: float) -> None:
        """Spread the bins over another range, and keep it.

        Raises:
            InputError: no positive, finite range.
        """
        self.depth_bins.copy_(self._bins(min_depth_bin, max_depth_bin))
        self.config = self.config.replace(min_depth_bin=float(min_depth_bin), max_depth_bin=float(max_depth_bin))

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
        """Return decoder-ready maps, lowest-cost disparity and confidence mask.

        Args:
            current_image: RGB in [0, 1], (B, 3, H, W) with H and W from 32 up.
            lookup_images: the same of N >= 1 lookup frames, (B, N, 3, H, W).
            poses: ``lookup_T_current``, (B, N, 4, 4); a matrix of zeros marks a frame that is missing.
            K, inv_K: intrinsics in pixels of the first map, a quarter of the image (ManyDepth's scale 2), and their
                inverse, (B, 4, 4).
            min_depth_bin, max_depth_bin: with ``adaptive_bins``, the range of the bins in this pass alone;
                ignored without. :meth:`compute_depth_bins` sets one that stays.

        Returns:
            Four maps (B, C_i, h, w); 1 / depth of the cheapest bin, (B, H/4, W/4); 1 where every depth was seen,
            else 0, (B, H/4, W/4).

        Raises:
            InputError: images or geometry of another shape, or values that cannot be.
        """
        found = self.forward_features(current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin)
        return found.hybrid.maps, found.lowest_cost, found.confidence

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

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
        """Run the same pass and return everything it computed."""
        encoder, semantic = self.encoder, self.encoder.semantic
        assert semantic is not None
        check_features(current_image, lookup_images, ("current_image", "lookup_images"))
        for images in (current_image, lookup_images.flatten(0, 1)):
            encoder.check_images(images)
        bins = self.depth_bins
        if self.config.adaptive_bins and min_depth_bin is not None and max_depth_bin is not None:
            bins = self._bins(min_depth_bin, max_depth_bin).to(bins)
        height, width = (side // semantic.strides[0] for side in current_image.shape[-2:])
        check_geometry(poses, K, inv_K, bins, lookup_images.shape[:2], (height, width))

        spatial, class_token = encoder.forward_spatial(current_image)
        first = semantic.first(current_image)
        volumes = []
        with torch.no_grad():
            if self.config.match != "spatial":
                lookup = semantic.first(lookup_images.flatten(0, 1)).unflatten(0, lookup_images.shape[:2])
                volumes.append(sweep(first, lookup, poses, K, inv_K, bins))
            if self.config.match != "semantic":
                size = (first.shape[-2], first.shape[-1])
                volumes.append(self._match_spatial(spatial[0], lookup_images, poses, K, inv_K, bins, size))
            masks = [confidence_mask(missing) for _, missing in volumes]
            masked = [cost * mask[:, None] for (cost, _), mask in zip(volumes, masks, strict=True)]
        matched = self.reduce(torch.cat([first, *(volume.to(first.dtype) for volume in masked)], dim=1))
        image_size = (current_image.shape[-2], current_image.shape[-1])
        hybrid = encoder.join([first, *semantic.rest(matched)], spatial, class_token, image_size)
        cost, missing = volumes[0]
        return MatchingFeatures(hybrid, cost, missing, lowest_cost_disparity(cost, bins), masks[0])

    def _bins(self, min_depth_bin: float, max_depth_bin: float) -> Tensor:
        return depth_bins(min_depth_bin, max_depth_bin, self.config.num_depth_bins, self.config.depth_binning)

    def _match_spatial(
        self,
        current: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        bins: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Match in DINO's first map, on its own grid; return cost and missing entries at the semantic map's size."""
        assert self.encoder.spatial is not None
        maps, _ = self.encoder.spatial(lookup_images.flatten(0, 1))
        lookup = maps[0].unflatten(0, lookup_images.shape[:2])
        scale = torch.ones(4, device=K.device)
        scale[0], scale[1] = current.shape[-1] / size[1], current.shape[-2] / size[0]
        cost, missing = sweep(current, lookup, poses, K * scale[:, None], inv_K / scale, bins)
        return F.interpolate(cost, size), F.interpolate(missing.float(), size).bool()


class HybridMatchingModel(DepthBinsLoader, DepthModel):
    """The multi-frame encoder with a decoder, DPT's or ManyDepth's.

    Args:
        config: a preset name (``"paper"``, ``"small"``, ``"large"``, ``"tiny"``) or a configuration.
        pretrained: start the towers from the weights that the configuration names; the rest starts from random ones.
        encoder: use this one, itself and not a copy, with an untrained decoder. The configuration's part for the
            encoder is not read then.
    """

    config: HybridMatchingDepthConfig
    config_class = HybridMatchingDepthConfig
    encoder: HybridMatchingEncoder

    def __init__(
        self,
        config: str | HybridMatchingDepthConfig = "paper",
        *,
        pretrained: bool = True,
        encoder: HybridMatchingEncoder | None = None,
    ) -> None:
        super().__init__()
        config = find_config(HybridMatchingDepthConfig, config)
        self.encoder = HybridMatchingEncoder(config.encoder, pretrained=pretrained) if encoder is None else encoder
        self.decoder = build_decoder(self.encoder.feature_info.channels(), config.decoder)
        self.config = config.replace(encoder=self.encoder.config)

    def forward(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
    ) -> Tensor:
        """Take images and geometry, as :meth:`HybridMatchingEncoder.forward` does, to disparity (B, 1, H, W)."""
        scales = self.forward_scales(current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin)
        return self._finest(scales, (current_image.shape[-2], current_image.shape[-1]))

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def forward_scales(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
    ) -> dict[int, Tensor]:
        """Return the disparity of every scale of the decoder: {s: (B, 1, H // 2**s, W // 2**s)}."""
        maps, _, _ = self.encoder(current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin)
        outputs: dict[int, Tensor] = self.decoder(maps, (current_image.shape[-2], current_image.shape[-1]))
        return outputs

    @torch.inference_mode()
    def infer(
        self,
        current_image: Tensor,
        lookup_images: Tensor,
        poses: Tensor,
        K: Tensor,
        inv_K: Tensor,
        min_depth_bin: float | None = None,
        max_depth_bin: float | None = None,
        size: WorkingSize = None,
    ) -> DepthPrediction:
        """Predict as in evaluation mode, at the size of the images; the model's own mode stays as it is.

        Args:
            current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin: those of the encoder's
                ``forward``, on any device; ``K`` belongs to the images as they are given.
            size: to work at, as in :meth:`HybridDepthModel.infer`: by default the right one.

        Raises:
            InputError: as ``forward``; a size that cannot be.
        """
        check_features(current_image, lookup_images, ("current_image", "lookup_images"))
        check_tensors(poses=poses, K=K, inv_K=inv_K)
        parameter = next(self.parameters())
        current_image, lookup_images = (x.to(parameter.device, parameter.dtype) for x in (current_image, lookup_images))
        poses, K, inv_K = (x.to(parameter.device) for x in (poses, K, inv_K))
        own = (current_image.shape[-2], current_image.shape[-1])
        working = self.working_size(own, size)
        source = current_image
        if working != own:
            current_image = self._resized(current_image, working)
            lookup_images = self._resized(lookup_images.flatten(0, 1), working).unflatten(0, lookup_images.shape[:2])
            K = K.clone()
            K[:, :3, :3] = resized_intrinsics(K[:, :3, :3], own, working)
            inv_K = torch.linalg.inv(K)
        model = in_evaluation(self)
        disparity = model(current_image, lookup_images, poses, K, inv_K, min_depth_bin, max_depth_bin).float()
        return self._prediction(resized_to(disparity, own), source)
