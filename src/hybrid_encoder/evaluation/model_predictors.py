"""This library's models as predictors: single-frame ones, flipped too, and multi-frame ones with their lookup frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hybrid_encoder.config.checking import shown
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.predictors import Prediction, Predictor, image_tensor
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.geometry.camera import disparity_to_depth, resized_intrinsics
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.models.base import in_evaluation
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.matching import HybridMatchingModel
from hybrid_encoder.models.sizes import WorkingSize

Resampling = Literal["lanczos", "model"]


class ModelPredictor(Predictor):
    """A single-frame model.

    Args:
        model: on any device.
        size: to predict at, as for ``infer``: by default the right one.
        flip: predict the mirrored image, too, and blend (:func:`blend_flipped`); twice the time. Of what the words
            say of the two, the mean is taken.
        resampling: how images come to that size: ``"lanczos"``, as Monodepth2's loader does, or ``"model"``, as
            ``infer`` and ``predict`` do.
        depth_range: (nearest, farthest) depth that disparity from 1 to 0 stands for, instead of the model's own; not
            for a model in metres, which keeps its own.
        name: what predicts, in words.
    """

    def __init__(
        self,
        model: HybridDepthModel,
        size: WorkingSize = None,
        *,
        flip: bool = False,
        resampling: Resampling = "lanczos",
        depth_range: tuple[float, float] | None = None,
        name: str | None = None,
    ) -> None:
        self.model, self.size, self.flip, self.resampling = model, size, flip, _checked(resampling)
        self.metric = model.config.metric
        self.depth_range = None if self.metric else depth_range
        self.name = name or type(model).__name__
        near, far = self.depth_range or (model.config.min_depth, model.config.max_depth)
        self.settings = {
            "size": list(size) if isinstance(size, tuple) else size,
            "flip": flip,
            "resampling": resampling,
            "depth_range": [near, far],
        }

    @torch.inference_mode()
    def predict(self, sample: Sample) -> Prediction:
        pixels = self._pixels(sample)
        if self.flip:
            pixels = torch.cat([pixels, pixels.flip(-1)])
        found, logits = in_evaluation(self.model).forward_words(pixels)
        scaled = (1 / self._depth(found.double().cpu()[:, 0])).numpy()
        values = blend_flipped(scaled[0], scaled[1, :, ::-1]) if self.flip else scaled[0]
        return Prediction(values, "disparity", None if logits is None else _said(logits))

    def _pixels(self, sample: Sample) -> Tensor:
        image = sample.read_image()
        if self.resampling == "model":
            return self.model.prepare(torch.from_numpy(np.array(image)).permute(2, 0, 1), self.size, sample.name).pixels
        working = self.model.working_size((image.shape[0], image.shape[1]), self.size)
        parameter = next(self.model.parameters())
        return image_tensor(image, working).to(parameter.device, parameter.dtype)

    def _depth(self, disparity: Tensor) -> Tensor:
        if self.depth_range is None:
            return self.model.to_depth(disparity)
        return disparity_to_depth(disparity, *self.depth_range)


class MatchingPredictor(Predictor):
    """A multi-frame model with the frame before as its lookup frame, as ManyDepth evaluates.

    Args:
        model: on any device.
        pose: takes the frame before and the frame, (1, 3, H, W) in [0, 1] each at the working size, to the axis-angle
            and translation between them, (1, 3) each in temporal order, as ``models.PoseNetwork`` does; or to the
            matrix ``lookup_T_current``, (1, 4, 4).
        size: to predict at, as for ``infer``: by default the right one.
        K: normalised intrinsics for all images, (3, 3), the first row as a share of the width and the second of the
            height, as ManyDepth has 0.58, 1.92, 0.5 and 0.5 for KITTI; by default each sample's own.
        missing: what is done with an image that has no frame before it: it is ``"left out"`` of the matching, as
            ManyDepth's training does, or matched with a ``"black"`` one, as its evaluation does.
        resampling, name: as for :class:`ModelPredictor`.
    """

    def __init__(
        self,
        model: HybridMatchingModel,
        pose: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]],
        size: WorkingSize = None,
        *,
        K: Tensor | None = None,
        missing: Literal["left out", "black"] = "left out",
        name: str | None = None,
    ) -> None:
        if missing not in ("left out", "black"):
            raise InputError(f"missing is {shown(missing)}; it must be 'left out' or 'black'.")
        self.model, self.pose, self.size, self.K, self.missing = model, pose, size, K, missing
        self.metric = model.config.metric
        self.name = name or type(model).__name__
        self.settings = {
            "size": list(size) if isinstance(size, tuple) else size,
            "lookup_frames": [-1],
            "missing": missing,
            "K": None if K is None else K.tolist(),
            "depth_range": [model.config.min_depth, model.config.max_depth],
        }

    def check(self, samples: Any) -> None:
        for sample in samples:
            if sample.read_lookup is None:
                raise InputError(f"{sample.name} is of no video; a multi-frame model needs the frame before.")
            if sample.K is None and self.K is None:
                raise InputError(f"{sample.name} has no intrinsics; give K.")

    @torch.inference_mode()
    def predict(self, sample: Sample) -> Prediction:
        assert sample.read_lookup is not None  # check asks for it
        image, before = sample.read_image(), sample.read_lookup()
        own = (image.shape[0], image.shape[1])
        working = self.model.working_size(own, self.size)
        parameter = next(self.model.parameters())
        black = np.zeros((*working, 3), np.uint8)
        current, lookup = (
            image_tensor(pixels, working).to(parameter.device, parameter.dtype)
            for pixels in (image, black if before is None else before)
        )
        if before is None and self.missing == "left out":
            lookup_T_current = torch.zeros(1, 4, 4)
        else:
            lookup_T_current = self._motion(lookup, current)
        K = self._intrinsics(sample, own, (working[0] // 4, working[1] // 4))
        poses, K, inv_K = (x.to(parameter.device, torch.float32) for x in (lookup_T_current, K, torch.linalg.inv(K)))
        inputs = (current, lookup[:, None], poses[:, None], K[None], inv_K[None])
        disparity, logits = in_evaluation(self.model).forward_words(*inputs)
        values = (1 / self.model.to_depth(disparity.double().cpu()))[0, 0].numpy()
        return Prediction(values, "disparity", None if logits is None else _said(logits))

    def _motion(self, before: Tensor, current: Tensor) -> Tensor:
        found = self.pose(before, current)
        return found if isinstance(found, Tensor) else pose_matrix(*found, invert=True)

    def _intrinsics(self, sample: Sample, own: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Return the intrinsics in pixels of this size, (4, 4)."""
        K = torch.eye(4, dtype=torch.float64)
        if self.K is not None:
            K[:3, :3] = self.K.double().cpu() * torch.tensor([[size[1]], [size[0]], [1]])
        else:
            assert sample.K is not None  # check asks for it
            K[:3, :3] = resized_intrinsics(sample.K.double().cpu(), own, size)
        return K


def _said(logits: Tensor) -> Tensor:
    """Return an image's logits, (n, h, w): of (1, n, h, w) as they are; with those of its mirror image, their mean."""
    image = logits[0].cpu()
    return image if len(logits) == 1 else (image + logits[1].cpu().flip(-1)) / 2


def blend_flipped(disparity: np.ndarray[Any, Any], flipped: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Blend the prediction of an image with that of its mirror image, mirrored back (Godard et al., CVPR 2017).

    At x from 0 at the left border to 1 at the right one, with l(x) = 1 - clip(20 (x - 0.05), 0, 1) and r(x) = l(1 - x),
    the result is r d + l d' + (1 - l - r) (d + d') / 2: the mirror image's at the left border, where things come into
    sight, the image's own at the right one, and their mean in between. A stereo-trained network shadows the left side
    of what it sees; for others it is an average of two.

    Args:
        disparity: d, (h, w).
        flipped: d', (h, w).

    Returns:
        (h, w), float64.
    """
    x = np.linspace(0, 1, disparity.shape[-1])
    left = 1 - np.clip(20 * (x - 0.05), 0, 1)
    right = left[::-1]
    blended: np.ndarray[Any, Any] = right * disparity + left * flipped + (1 - left - right) * (disparity + flipped) / 2
    return blended


def _checked(resampling: Resampling) -> Resampling:
    if resampling not in ("lanczos", "model"):
        raise InputError(f"resampling is {shown(resampling)}; it must be 'lanczos' or 'model'.")
    return resampling
