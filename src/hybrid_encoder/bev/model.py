"""Encoder, lift, pool and head: from the images of cameras on a vehicle to maps of the ground around it.

Source: Lift, Splat, Shoot, Philion and Fidler, ECCV 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hybrid_encoder.bev.depth_bins import DepthBins, DepthUncertainty, LearnedDepth
from hybrid_encoder.bev.grid import BevGrid
from hybrid_encoder.bev.head import BevHead
from hybrid_encoder.bev.lift import check_cameras, frustum_points
from hybrid_encoder.bev.pool import PoolPlan, plan_pool, sorted_pool
from hybrid_encoder.caching import TensorCache
from hybrid_encoder.config import BevConfig, NeckConfig
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.language.depth_words import bin_centers
from hybrid_encoder.models.base import EncoderHolder, find_config
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.encoder import HybridFeatures
from hybrid_encoder.models.neck import PyramidNeck

Size = tuple[int, int]
KITTI_FOCAL = 0.58  # of the width
FIXED = ("fixed_point", "fixed_feature", "fixed_cell", "fixed_first", "fixed_focal")


class BevModel(EncoderHolder):
    """A bird's-eye view of vehicles and road from one or several cameras.

    Features of every image times a depth distribution, lifted to the axes of the vehicle, added up in the cells of a
    grid, and read by a small network.

    Args:
        config: a preset name (``"paper"``, ``"small"``, ``"large"``, ``"tiny"``) or a configuration.
        pretrained: start the towers from the weights that the configuration names; the rest starts from random ones.
        encoder: use this depth model, itself and not a copy. The configuration's part for it is not read then.

    Attributes:
        grid: the cells of the maps.
        bins: the depths of the lift.

    Example:
        >>> model = BevModel("tiny", pretrained=False)
        >>> K = torch.tensor([[40.0, 0, 47.5], [0, 40, 31.5], [0, 0, 1]]).expand(1, 2, 3, 3)
        >>> forward = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
        >>> backward = torch.tensor([[0.0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
        >>> maps = model(torch.rand(1, 2, 3, 64, 96), K, torch.stack([forward, backward])[None])
        >>> {name: tuple(x.shape) for name, x in maps.items()}
        {'vehicle': (1, 1, 96, 96), 'road': (1, 1, 96, 96), 'centre': (1, 1, 96, 96)}
    """

    config: BevConfig
    config_class = BevConfig
    encoder: HybridDepthModel
    own_part = "bev"

    def __init__(
        self,
        config: str | BevConfig = "paper",
        *,
        pretrained: bool = True,
        encoder: HybridDepthModel | None = None,
    ) -> None:
        super().__init__()
        config = find_config(BevConfig, config)
        if encoder is None:
            encoder = HybridDepthModel(config.encoder, pretrained=pretrained)
        self.config = config = config.replace(encoder=encoder.config)
        self.encoder = encoder
        self.grid = BevGrid(config.x_range, config.y_range, config.z_range, config.cell)
        self.bins = DepthBins(config.near, config.far, config.num_depths, config.spacing)
        neck = NeckConfig((2 * config.channels,), (config.stride,))
        self.neck = PyramidNeck(encoder.encoder.feature_info.channels(), neck.channels, neck.strides)
        self.context = nn.Conv2d(2 * config.channels, config.channels, 1)
        self.learned_depth = LearnedDepth(2 * config.channels, self.bins.count) if config.depth == "learned" else None
        hybrid = config.depth.startswith("hybrid")
        self.uncertainty = DepthUncertainty(config.metres_per_unit, config.depth_width) if hybrid else None
        self.head = BevHead(config.channels, config.head_channels)
        self._plans = TensorCache()
        # The plan of cameras that stay (fix_cameras): buffers, so that it goes where the model goes.
        self._fixed_shapes: tuple[tuple[int, int, int, int, int], Size] | None = None
        for name in FIXED:
            self.register_buffer(name, None, persistent=False)

    def own_parameters(self) -> list[nn.Parameter]:
        parts = (self.neck, self.context, self.learned_depth, self.uncertainty, self.head)
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def forward(
        self,
        images: Tensor,
        K: Tensor | None = None,
        vehicle_T_cam: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Take images to logits of maps, x forward along the first axis and y left along the second one.

        Args:
            images: RGB in [0, 1], (B, N, 3, H, W) with H and W from 32 up.
            K: intrinsics in pixels of the images, (B, N, 3, 3); None takes the cameras of :meth:`fix_cameras`.
            vehicle_T_cam: takes points of each camera to the vehicle, in metres, (B, N, 4, 4).
            depth: z of every pixel in metres, (B, N, 1, H, W), which only the kind ``"exact"`` reads; 0 is unknown.

        Returns:
            ``"vehicle"`` (a cell is covered by one), ``"road"`` (it is drivable) and ``"centre"`` (of a vehicle), each
            (B, 1, X, Y), float32.

        Raises:
            InputError: images, cameras or depth of another shape or value range.
        """
        pooled = self.pool(images, K, vehicle_T_cam, depth)
        maps: dict[str, Tensor] = self.head(pooled)
        return maps

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    def pool(
        self,
        images: Tensor,
        K: Tensor | None = None,
        vehicle_T_cam: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> Tensor:
        """Return what the head reads, (B, C, X, Y); arguments as for :meth:`forward`."""
        if images.ndim != 5:
            raise InputError(f"images are {tuple(images.shape)}; (B, N, 3, H, W) is needed, N cameras.")
        batch, cameras = images.shape[:2]
        size = (images.shape[-2], images.shape[-1])
        plan, focal = self._plan(batch, cameras, size, K, vehicle_T_cam)
        flat = images.flatten(0, 1)
        found = self.encoder.encoder.forward_features(flat)
        (features,) = self.neck(found.maps, size)
        distribution = self._distribution(found, features, size, focal, depth)
        context = self.context(features)
        return sorted_pool(distribution.unflatten(0, (batch, cameras)), context.unflatten(0, (batch, cameras)), plan)

    def hybrid_depth(self, images: Tensor, K: Tensor) -> Tensor:
        """Return what a hybrid kind of depth takes for the depth of images, in metres, (B, N, 1, h, w).

        Args:
            images: as for :meth:`forward`; (h, w) are the decoder's, or those of the language maps.
            K: as for :meth:`forward`.

        Raises:
            ConfigError: a model whose depth is of another kind.
        """
        if self.uncertainty is None:
            raise ConfigError(f"the model's depth is {self.config.depth!r}; build it with a hybrid one to ask for it.")
        flat, size = images.flatten(0, 1), (images.shape[-2], images.shape[-1])
        found = self.encoder.encoder.forward_features(flat)
        if self.config.depth == "hybrid-disparity":
            outputs = self.encoder.decoder(found.maps, size)
            said = self.encoder.to_depth(outputs[min(outputs)].float())
        else:
            assert found.logits is not None  # the configuration was checked
            said = self.encoder.language_depth(found.logits).float()
        metres: Tensor = self.uncertainty.metres(said) * relative_focal(K, size[1]).view(-1, 1, 1, 1)
        return metres.view(*images.shape[:2], *metres.shape[1:])

    def feature_size(self, image_size: Size) -> Size:
        """Return the (h, w) of the feature maps of images (H, W)."""
        stride = self.config.stride
        return (image_size[0] + stride - 1) // stride, (image_size[1] + stride - 1) // stride

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def plan(self, K: Tensor, vehicle_T_cam: Tensor, image_size: Size) -> PoolPlan:
        """Return which cell every point of these cameras falls into; kept while their numbers stay.

        Args:
            K, vehicle_T_cam: as for :meth:`forward`.
            image_size: (H, W) of the images.

        Raises:
            InputError: cameras of another shape, or numbers that cannot be.
        """
        check_cameras(K, vehicle_T_cam)
        depths = self.bins.centres().to(K.device)
        size = self.feature_size(image_size)

        def make() -> PoolPlan:
            made: PoolPlan = plan_pool(frustum_points(K, vehicle_T_cam, depths, image_size, size), self.grid)
            return made

        return self._plans.get((*image_size, self.grid, self.bins), [K.detach(), vehicle_T_cam.detach()], make)

    def fix_cameras(self, K: Tensor, vehicle_T_cam: Tensor, image_size: Size) -> None:
        """Keep the cameras of a vehicle, for calls without any; what is compiled or exported has them as constants.

        Args:
            K: of the N cameras, in pixels of the images, (N, 3, 3).
            vehicle_T_cam: (N, 4, 4).
            image_size: (H, W) of the images.

        Raises:
            InputError: cameras of another shape, or numbers that cannot be.
        """
        plan = self.plan(K[None], vehicle_T_cam[None], image_size)
        device = self.context.weight.device
        self._fixed_shapes = plan.shape, plan.cells
        values = plan.point, plan.feature, plan.cell, plan.first, relative_focal(K, image_size[1])
        for name, value in zip(FIXED, values, strict=True):
            setattr(self, name, value.to(device))

    def _plan(
        self, batch: int, cameras: int, image_size: Size, K: Tensor | None, vehicle_T_cam: Tensor | None
    ) -> tuple[PoolPlan, Tensor]:
        """Return the plan of the cameras that were given, or else fixed, and their focal lengths, (B N,)."""
        if K is not None and vehicle_T_cam is not None:
            if tuple(K.shape[:2]) != (batch, cameras):
                raise InputError(f"K is {tuple(K.shape)}; {(batch, cameras, 3, 3)} is needed for these images.")
            made: PoolPlan = self.plan(K, vehicle_T_cam, image_size)
            return made, relative_focal(K, image_size[1]).flatten()
        if self._fixed_shapes is None:
            raise InputError("K and vehicle_T_cam are both needed, unless fix_cameras() was called before.")
        point, feature, cell, first, focal = (getattr(self, name) for name in FIXED)
        plan = PoolPlan(point, feature, cell, first, *self._fixed_shapes)
        return plan.repeated(batch), focal.repeat(batch)

    def _distribution(
        self, found: HybridFeatures, features: Tensor, image_size: Size, focal: Tensor, depth: Tensor | None
    ) -> Tensor:
        """Return the depth distributions, (B N, D, h, w)."""
        size = (features.shape[-2], features.shape[-1])
        if self.config.depth == "exact":
            if depth is None or depth.ndim != 5:
                raise InputError("depth (B, N, 1, H, W) is needed: the model's depth is 'exact'.")
            return self.bins.from_depth(depth.flatten(0, 1), size)
        if self.learned_depth is not None:
            return self.learned_depth(features)  # type: ignore[no-any-return]  # nn.Module's call
        if self.uncertainty is None:
            return self.bins.uniform(len(features), size, features.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.detach_depth):
            if self.config.depth == "hybrid-disparity":
                outputs = self.encoder.decoder(found.maps, image_size)
                said = self.encoder.to_depth(outputs[min(outputs)].float())
            else:
                assert found.logits is not None  # the configuration was checked
                said = torch.stack([logits.float() for logits in found.logits]).mean(0)
        if self.config.depth == "hybrid-disparity":
            metres = self.uncertainty.metres(said) * focal[:, None, None, None]
            return self.uncertainty.spread(self.bins.from_depth(metres, size))
        depths = bin_centers(said.shape[1], self.encoder.config.min_depth, self.encoder.config.max_depth)
        metres = self.uncertainty.metres(depths.to(said.device))
        return self.uncertainty.spread(self.bins.from_language(said, metres * focal[:, None], size))


def relative_focal(K: Tensor, width: int) -> Tensor:
    """Return how much longer the focal lengths of images of this width are than KITTI's, K.shape[:-2].

    A network that sees one image knows how large a thing is in it, not how far a lens has brought it near: depth that
    it has learned from one camera is as many times as far in another one.
    """
    return K[..., 0, 0].float() / (KITTI_FOCAL * width)
