"""Pictures on their way into a model, and depth on its way back to their size, for transformers' pipelines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch import cat as concatenated
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import DepthEstimatorOutput
from typing_extensions import Self

from hybrid_encoder.checkpoints.sources import HUB_OPTIONS
from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.conversion import to_image
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.integrations.transformers.configuration import HybridDepthConfig, shipped
from hybrid_encoder.models.image_checks import check_value_range
from hybrid_encoder.models.resizing import resized_images
from hybrid_encoder.models.sizes import Size, working_size

KINDS = ("relative", "metric")
SETTINGS = ("size", "patch_size", "depth_estimation_type", "do_resize")


class HybridDepthImageProcessor(BaseImageProcessor):
    """Brings pictures to RGB in [0, 1] at the size that suits the weights; the model normalises them itself.

    That size is chosen as :meth:`HybridDepthModel.infer <hybrid_encoder.models.depth.HybridDepthModel.infer>` does: the
    one that the weights were fitted at, or as many pixels at the picture's own aspect where it is a different one.

    Args:
        size: ``{"height": H, "width": W}`` that the weights were fitted at; None where they do not say.
        patch_size: pixels per cell of the model's maps.
        depth_estimation_type: ``"relative"`` where the model predicts disparity, ``"metric"`` where it does metres.
        do_resize: False leaves pictures at their own size.

    Raises:
        ConfigError: a value that cannot be.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(
        self,
        size: Mapping[str, int] | None = None,
        patch_size: int = 14,
        depth_estimation_type: str = "relative",
        do_resize: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if depth_estimation_type not in KINDS:
            raise ConfigError(f"depth_estimation_type is {shown(depth_estimation_type)}; it must be one of {KINDS}.")
        if type(patch_size) is not int or patch_size < 1:
            raise ConfigError(f"patch_size is {shown(patch_size)}; a whole number from 1 up is needed.")
        fitted = _size(size)
        self.size = None if fitted is None else {"height": fitted[0], "width": fitted[1]}
        self.patch_size = patch_size
        self.depth_estimation_type = depth_estimation_type
        self.do_resize = do_resize

    @classmethod
    def of_model(cls, config: HybridDepthConfig) -> Self:
        """Return the processor that suits a model."""
        fitted = getattr(config.hybrid, "size", None)
        return cls(
            size=None if fitted is None else {"height": fitted[0], "width": fitted[1]},
            patch_size=config.patch_size,
            depth_estimation_type=config.depth_estimation_type,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the options are as they are in every version
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> Any:
        """Read the processor of ``"tiny"``, a folder or a Hub id; where there is none, what suits the model there."""
        return super().from_pretrained(shipped(pretrained_model_name_or_path), **options)

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Return the settings that are there, or those that suit the model there; and the options that are left."""
        try:
            return super().get_image_processor_dict(pretrained_model_name_or_path, **options)
        except OSError as none:
            hub = {name: options.pop(name) for name in (*HUB_OPTIONS, "subfolder") if name in options}
            try:
                return cls.of_model(
                    HybridDepthConfig.from_pretrained(pretrained_model_name_or_path, **hub)
                ).to_dict(), options
            except OSError:
                raise none from None

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **options: Any) -> Any:
        """Build the processor of its settings, options in their place."""
        own = {name: options.pop(name) for name in SETTINGS if name in options}
        return super().from_dict({**image_processor_dict, **own}, **options)

    def preprocess(
        self,
        images: Any,
        size: Mapping[str, int] | Sequence[int] | None = None,
        do_resize: bool | None = None,
        return_tensors: str | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Bring pictures to what a model takes.

        Args:
            images: one picture, or several: paths, PIL images, arrays (H, W, 3) or (H, W), tensors (3, H, W), as
                :func:`~hybrid_encoder.data.conversion.to_image` takes them; or a batch, a tensor (B, 3, H, W).
            size: to work at, in the place of the one that suits.
            do_resize: False leaves pictures at their own size.
            return_tensors: ``"pt"`` for a tensor (B, 3, H, W), ``"np"`` for an array; None for a list of tensors.
            others: settings of other processors, which a pipeline may hand on; nothing is done with them.

        Raises:
            InputError: pictures of another kind; several that are worked at in different sizes, as one tensor; another
                ``return_tensors``.
        """
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f"return_tensors is {shown(return_tensors)}; 'pt', 'np' or None is needed.")
        several = isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.ndim == 4)
        ready = []
        for index, image in enumerate(images if several else [images]):
            name = f"images[{index}]" if several else "images"
            pixels = to_image(image, name)[None]
            pixels = pixels if pixels.dtype.itemsize >= 4 else pixels.float()  # not every device resizes halves
            check_value_range(pixels)
            ready.append(resized_images(pixels, self._working_size(pixels, size, do_resize)))
        if not ready:
            raise InputError("images is an empty list; at least one picture is needed.")
        if return_tensors is None:
            return BatchFeature({"pixel_values": [x[0] for x in ready]})
        if sizes := sorted({tuple(x.shape[-2:]) for x in ready})[1:]:
            first = tuple(ready[0].shape[-2:])
            raise InputError(
                f"the pictures are worked at in different sizes ({first} and {sizes[0]}), and one tensor has one: name "
                "a size=, or give them one by one."
            )
        batch = concatenated(ready)
        return BatchFeature({"pixel_values": np.asarray(batch) if return_tensors == "np" else batch})

    def _working_size(self, pixels: Tensor, asked: Any, do_resize: bool | None) -> Size:
        own = (pixels.shape[-2], pixels.shape[-1])
        resizes = self.do_resize if do_resize is None else do_resize
        return working_size(_size(asked) if resizes else "native", own, _size(self.size), self.patch_size)

    def post_process_depth_estimation(
        self, outputs: DepthEstimatorOutput, target_sizes: Sequence[Size] | Tensor | None = None
    ) -> list[dict[str, Tensor]]:
        """Bring depth back to the size of the pictures, as ``infer`` does.

        Args:
            outputs: of the model.
            target_sizes: (H, W) of each picture; None leaves depth at the size of the images.

        Returns:
            For each picture ``{"predicted_depth": (H, W)}``, float32.

        Raises:
            InputError: no depth, or another number of sizes than of pictures.
        """
        if outputs.predicted_depth is None:
            raise InputError("outputs have no predicted_depth; those of a depth model are needed.")
        predicted = outputs.predicted_depth.float()
        if target_sizes is not None and len(target_sizes) != len(predicted):
            raise InputError(f"target_sizes has {len(target_sizes)} sizes, and there are {len(predicted)} pictures.")
        results = []
        for index, depth in enumerate(predicted):
            if target_sizes is not None:
                height, width = (int(side) for side in target_sizes[index])
                depth = self._resized(depth, (height, width))
            results.append({"predicted_depth": depth})
        return results

    def _resized(self, depth: Tensor, size: Size) -> Tensor:
        """Resize depth (h, w), bilinear, in even steps of 1 / depth, in which disparity is linear."""
        if tuple(depth.shape) == size:
            return depth
        metric = self.depth_estimation_type == "metric"
        steps = 1 / depth if metric else depth
        there = F.interpolate(steps[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return 1 / there if metric else there


def _size(size: Any) -> Size | None:
    """Return (H, W) of a size as transformers writes it, or as a pair.

    Raises:
        ConfigError: something else.
    """
    if size is None:
        return None
    pair = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else size
    if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair):
        return pair[0], pair[1]
    raise ConfigError(f"size is {shown(size)}; {json.dumps({'height': 192, 'width': 640})} or (192, 640) is needed.")
