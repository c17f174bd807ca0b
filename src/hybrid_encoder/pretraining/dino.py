"""A small DINO, trained from random weights by self-distillation: DINO on whole views, iBOT on their patches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from hybrid_encoder.config import SpatialConfig
from hybrid_encoder.config.checking import fits
from hybrid_encoder.data.transforms import jitter_colours, resize_images
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.losses.self_distillation import multi_crop_loss, self_distillation_loss, sinkhorn
from hybrid_encoder.towers.spatial import TimmTower, build_spatial
from hybrid_encoder.training.stage import Stage

CENTER_MOMENTUM = 0.9
TEACHER_TEMPERATURE = 0.04
Targets = Literal["sinkhorn", "center"]


class Views(NamedTuple):
    """Views of images: large ones, which the teacher sees too, and small ones."""

    large: Tensor  # (G, B, 3, H, W), RGB in [0, 1]
    small: Tensor  # (L, B, 3, h, w), RGB in [0, 1]
    names: tuple[str, ...] = ()


class MultiCrop(Dataset[tuple[Tensor, Tensor, str]]):
    """Views of images, drawn anew at every read from torch's own generator.

    Args:
        images: RGB, each (3, H, W), as tensors or arrays, in [0, 1] or as bytes.
        rendered: all of them, so that none can be of a recording that depth is tested on.
        large, small: (H, W) of the views in pixels. They are cut out with that aspect, so that the largest view of an
            image with that aspect is all of it. Two square views of a much wider image rarely overlap.
        num_large, num_small: how many of them.

    Raises:
        InputError: no images, fewer than two large views, or sides below 14.

    Source: DINO (Caron et al., ICCV 2021).
    """

    large_share, small_share = (0.3, 1.0), (0.08, 0.3)  # of the largest rectangle of that aspect in an image

    def __init__(
        self,
        images: Sequence[Any],
        large: tuple[int, int] = (70, 210),
        small: tuple[int, int] = (42, 126),
        num_large: int = 2,
        num_small: int = 4,
        rendered: bool = False,
    ) -> None:
        if not len(images):
            raise InputError("there are no images; give at least one.")
        sizes = all(fits(tuple[int, int], size) and min(size) >= 14 for size in (large, small))
        if num_large < 2 or num_small < 0 or not sizes:
            raise InputError(
                f"views are {num_large} of {large} and {num_small} of {small} pixels; two large ones at least are "
                "needed, and (H, W) with sides of 14 pixels at least."
            )
        self.images, self.sizes = images, (large,) * num_large + (small,) * num_small
        self.num_large, self.rendered = num_large, rendered

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        image = torch.as_tensor(self.images[index])
        if image.dtype == torch.uint8:
            image = image.float() / 255
        views = [
            self._view(image, size, self.large_share if number < self.num_large else self.small_share)
            for number, size in enumerate(self.sizes)
        ]
        small = torch.stack(views[self.num_large :]) if len(views) > self.num_large else image.new_zeros(0)
        return torch.stack(views[: self.num_large]), small, f"image {index}"

    def _view(self, image: Tensor, size: tuple[int, int], share: tuple[float, float]) -> Tensor:
        low, high = share
        whole = min(length / side for length, side in zip(image.shape[-2:], size, strict=True))
        scale = whole * (low + (high - low) * float(torch.rand(()))) ** 0.5
        # At least 8 pixels, and no more than there are.
        height, width = (
            min(max(8, round(side * scale)), length) for side, length in zip(size, image.shape[-2:], strict=True)
        )
        top = int(torch.randint(image.shape[-2] - height + 1, ()))
        left = int(torch.randint(image.shape[-1] - width + 1, ()))
        part = image[None, :, top : top + height, left : left + width]
        view = resize_images(part, size)
        return recolour(view.flip(-1) if torch.rand(()) < 0.5 else view)[0].clamp(0, 1)


def recolour(view: Tensor) -> Tensor:
    """Change the colours of a view, (1, 3, H, W), at random, or take them away."""
    if torch.rand(()) < 0.8:
        view = jitter_colours(view)
    return view.mean(1, keepdim=True).expand(-1, 3, -1, -1) if torch.rand(()) < 0.2 else view


def collate_views(items: Sequence[tuple[Tensor, Tensor, str]]) -> Views:
    """Join items of :class:`MultiCrop` into one batch."""
    large, small, names = zip(*items, strict=True)
    return Views(torch.stack(large, 1), torch.stack(small, 1), tuple(names))


class DinoHead(nn.Module):
    """From features to logits of prototypes: three layers, a unit sphere, and prototypes of length 1.

    Args:
        channels: of the features.
        prototypes: K.
        hidden, bottleneck: widths.

    Source: DINO (Caron et al., ICCV 2021).
    """

    def __init__(self, channels: int, prototypes: int = 1024, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, features: Tensor) -> Tensor:
        """Take (..., channels) to (..., K), cosines."""
        return F.normalize(self.layers(features), dim=-1) @ F.normalize(self.prototypes, dim=-1).T

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any


class DinoStage(Stage):
    """Train a DINO tower on views of images (:class:`Views`).

    The teacher is an exponential moving average of the student, moved before every optimizer step (``begin_step``); it
    sees the large views alone. The student says of every view what the teacher says of another one, and, of patches
    that are hidden from it, what the teacher says there.

    Args:
        config: of the tower, a DINO of timm with patches.
        prototypes: K of the heads.
        momentum: of the teacher, from 0 to 1.
        patch_weight: of the loss on hidden patches; 0 is DINO alone.
        hidden_share: of the patches of a large view that are hidden from the student.
        layer_scale: factor that the branches of the blocks start with; a random tower with DINOv2's 1e-5 has class
            tokens that are the same for all images, from which nothing can be distilled. None keeps the tower's own.
        targets: what keeps the teacher from saying the same of everything: ``"sinkhorn"`` balances what it says in a
            step over its prototypes, as in DINOv2, in each process by itself; ``"center"`` takes a running mean off, as
            in DINO.

    Raises:
        ConfigError: a tower of another kind, targets of no such name, or a number out of its range.

    Source: DINO (Caron et al., ICCV 2021), DINOv2 (Oquab et al., TMLR 2024); hidden patches as in iBOT (Zhou et al.,
    ICLR 2022).
    """

    class_center: Tensor
    patch_center: Tensor

    def __init__(
        self,
        config: SpatialConfig,
        prototypes: int = 1024,
        momentum: float = 0.996,
        patch_weight: float = 1.0,
        hidden_share: float = 0.3,
        layer_scale: float | None = 1.0,
        targets: Targets = "sinkhorn",
    ) -> None:
        super().__init__()
        for name, value in (("momentum", momentum), ("hidden_share", hidden_share)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; it must lie between 0 and 1.")
        if not patch_weight >= 0:
            raise ConfigError(f"patch_weight is {patch_weight}; it must be 0 or more.")
        if targets not in get_args(Targets):
            raise ConfigError(f"targets is {targets!r}; it must be one of {', '.join(get_args(Targets))}.")
        self.config = config
        self.student, self.teacher = _tower(config), _tower(config)
        if layer_scale is not None:
            for name, parameter in self.student.named_parameters():
                if name.endswith(".gamma"):
                    nn.init.constant_(parameter, layer_scale)
        channels = self.student.channels[-1]
        self.student_head, self.teacher_head = DinoHead(channels, prototypes), DinoHead(channels, prototypes)
        self.hidden = nn.Parameter(torch.zeros(channels))  # stands for a patch that the student does not see
        self.momentum, self.targets = momentum, targets
        self.patch_weight, self.hidden_share = patch_weight, hidden_share
        self.register_buffer("class_center", torch.zeros(prototypes))
        self.register_buffer("patch_center", torch.zeros(prototypes))
        for own, other in self._pairs():
            other.data.copy_(own.data)
            other.requires_grad_(False)

    def forward(self, batch: Views) -> dict[str, Tensor]:
        """Return ``loss``, and its parts ``views`` and ``patches``."""
        views, size, *_ = batch.large.shape
        large = batch.large.flatten(0, 1)
        with torch.no_grad():
            whole, patches = encode(self.teacher, large)
            wanted = self.teacher_head(whole).unflatten(0, (views, size))
            wanted_patches = self.teacher_head(patches)
        mask = torch.rand(patches.shape[:2], device=patches.device) < self.hidden_share
        with hidden_patches(self.student, mask, self.hidden):
            seen, seen_patches = encode(self.student, large)
        said = [self.student_head(seen).unflatten(0, (views, size))]
        if batch.small.numel():
            seen, _ = encode(self.student, batch.small.flatten(0, 1))
            said.append(self.student_head(seen).unflatten(0, batch.small.shape[:2]))
        centred = self.targets == "center"
        center = self.class_center if centred else None
        of_views = multi_crop_loss(torch.cat(said), wanted, center, teacher_temperature=TEACHER_TEMPERATURE)
        of_patches = of_views.new_zeros(())
        if bool(mask.any()):
            logits, hidden = self.student_head(seen_patches[mask]), wanted_patches[mask]
            center = self.patch_center if centred else None
            of_patches = self_distillation_loss(logits, hidden, center, teacher_temperature=TEACHER_TEMPERATURE).mean()
        if centred and self.training and torch.is_grad_enabled():
            self._move(self.class_center, wanted)
            self._move(self.patch_center, wanted_patches)
        return {
            "loss": of_views + self.patch_weight * of_patches,
            "views": of_views.detach(),
            "patches": of_patches.detach(),
        }

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's says Any

    @torch.no_grad()
    def begin_step(self) -> None:
        """Move the teacher towards the student: teacher = momentum x teacher + (1 - momentum) x student."""
        for own, other in self._pairs():
            other.lerp_(own, 1 - self.momentum)

    @torch.no_grad()
    def say(self, patches: Tensor) -> Tensor:
        """Return the teacher's probabilities of its prototypes, (n, K), of patches of its last map, (n, C)."""
        logits = self.teacher_head(patches)
        if self.targets == "sinkhorn":
            return sinkhorn(logits, TEACHER_TEMPERATURE)
        return ((logits - self.patch_center) / TEACHER_TEMPERATURE).softmax(-1)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.student.parameters(), self.teacher.parameters(), strict=True)
        yield from zip(self.student_head.parameters(), self.teacher_head.parameters(), strict=True)

    @torch.no_grad()
    def _move(self, center: Tensor, logits: Tensor) -> None:
        center.lerp_(logits.flatten(0, -2).mean(0).to(center), 1 - CENTER_MOMENTUM)


def _tower(config: SpatialConfig) -> TimmTower:
    tower = build_spatial(config, pretrained=False)
    if not isinstance(tower, TimmTower) or not tower.has_class_token:
        raise ConfigError(f"spatial.name is {config.name!r}; a DINO transformer of timm with a class token is needed.")
    return tower


def encode(tower: TimmTower, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class token, (B, C), and the last map's patches, (B, h * w, C)."""
    maps, class_token = tower(images)
    assert class_token is not None  # the tower was asked for one
    return class_token, maps[-1].flatten(2).transpose(1, 2)


@contextlib.contextmanager
def hidden_patches(tower: TimmTower, mask: Tensor, token: Tensor) -> Iterator[None]:
    """Put a token in the place of masked patches, (B, h * w), while the block runs."""

    def put(module: nn.Module, given: Any, patches: Tensor) -> Tensor:
        return torch.where(mask.view(*patches.shape[:-1], 1), token.to(patches.dtype), patches)

    handle = tower.model.patch_embed.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
