"""What is measured of a model, or of what knows nothing of the image, on held-out frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.learning.settings import Settings
from benchmarks.learning.words import (
    at_pixels,
    mean_word,
    word_positions,
    words_apart,
    words_explained,
    words_spread,
)
from benchmarks.learning.worlds import HeldOut, concatenated
from hybrid_encoder.data.transforms import resize_images
from hybrid_encoder.evaluation.baselines import Priors, constant, fitted_plane, image_row, mean_map
from hybrid_encoder.evaluation.kitti_listing import frames_with_lidar
from hybrid_encoder.evaluation.metrics import depth_metrics, median
from hybrid_encoder.evaluation.ordering import order_shares
from hybrid_encoder.evaluation.protocols import PROTOCOLS
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.losses.coarse import patch_features
from hybrid_encoder.similarity import LOGIT_SCALE

READ = ("logits", "fused")  # what is beside each other in a decoder's input
OF = ((0, ""), (1, "_row_wrong"))
FAR = 80.0  # metres: what is beyond is not measured
MEASURES = {  # name: title in the table, and whether more is better
    "abs_rel": ("abs_rel", False),
    "a1": ("δ < 1.25", True),
    "rmse_log": ("rmse_log", False),
    "depth_order": ("depth in order", True),
    "row_wrong": ("depth, row wrong", True),
    "taught": ("taught", True),
    "taught_row_wrong": ("taught, row wrong", True),
    "handover": ("words before", True),
    "handover_row_wrong": ("words before, row wrong", True),
    "words": ("words after", True),
    "words_row_wrong": ("words after, row wrong", True),
    "textureless": ("textureless", False),
    "hidden": ("hidden", False),
    "moving": ("moving", False),
    "spread": ("std of logits", True),
    "apart": ("words apart", True),
    "explained": ("explained by the map", False),
    "zeroed": ("logits zeroed", False),
    "other_words": ("logits of another image", False),
    "kitti": ("KITTI", False),
}
Numbers = dict[str, float]
Priorities = Callable[[Priors, Any], Any]


@torch.no_grad()
def measure_model(model: Any, measured: HeldOut, kitti: str | Path | None = None) -> Numbers:
    """Return all numbers of a trained model: of its depth, its words, and how much its decoder reads these.

    Args:
        model: a ``HybridDepthModel``, or what stands in for one; left in evaluation mode.
        measured: the held-out frames.
        kitti: folder of KITTI raw; its frames with lidar are a check on real images.
    """
    model.eval()
    device, size = next(model.parameters()).device, (measured.images.shape[-2], measured.images.shape[-1])
    features = [model.encoder.forward_features(image[None].to(device)) for image in measured.images]
    numbers = measure_depth(_decoded(model, [one.maps for one in features], size), measured)
    if features[0].logits is not None:
        words = measure_words([one.logits for one in features], measured)
        numbers |= {"words": words[0], "words_row_wrong": words[1]}
        numbers |= {"spread": 0.0, "apart": 0.0, "explained": 0.0}
        levels = range(len(features[0].fused))
        for level in levels:
            said, seen = (torch.cat([getattr(one, name)[level] for one in features]).cpu() for name in READ)
            numbers["spread"] += words_spread(said) / len(levels)
            numbers["apart"] += words_apart(said) / len(levels)
            numbers["explained"] += words_explained(said, seen) / len(levels)
        logits = [[x[:, : one.logits[0].shape[1]] for x in one.maps] for one in features]
        for name, given in (
            ("zeroed", [[torch.zeros_like(x) for x in one] for one in logits]),
            ("other_words", [*logits[1:], logits[0]]),
        ):
            maps = [
                [torch.cat([said, x[:, said.shape[1] :]], 1) for said, x in zip(instead, one.maps, strict=True)]
                for instead, one in zip(given, features, strict=True)
            ]
            numbers[name] = measure_depth(_decoded(model, maps, size), measured)["abs_rel"]
    if kitti is not None:
        numbers["kitti"] = measure_kitti(model, kitti, size)
    return numbers


def _decoded(model: Any, maps: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
    """Return depth for each image's maps, (N, 1, H, W), on the CPU."""
    found = []
    for one in maps:
        outputs = model.decoder(one, size)
        disparity = F.interpolate(outputs[min(outputs)].float(), size, mode="bilinear", align_corners=False)
        found.append(model.to_depth(disparity).cpu())
    return torch.cat(found)


def measure_words(logits: list[Any], measured: HeldOut) -> tuple[float, float]:
    """Return how often words put pairs in order: all pairs, and those whose row is wrong.

    Args:
        logits: of every frame, four (1, n, h, w) each.
        measured: the held-out frames.
    """
    joined = [torch.cat([one[level] for one in logits]).cpu() for level in range(len(logits[0]))]
    return order_shares(word_positions(joined, measured), measured.row_wrong)


@torch.no_grad()
def measure_encoder(encoder: Any, measured: HeldOut) -> Numbers:
    """Return the order of an encoder's words as it stands before the fine stage.

    Returns:
        ``taught``, by the coarse stage's own readout at the same cells, and ``handover``, by the logits that the fine
        stage starts from; each also over the pairs whose row is wrong.
    """
    encoder.eval()
    device, size = next(encoder.parameters()).device, (measured.images.shape[-2], measured.images.shape[-1])
    logits, positions = [], torch.zeros(len(measured.pairs), 2, dtype=torch.float64)
    for number, image in enumerate(measured.images):
        features = encoder.forward_features(image[None].to(device))
        logits.append(features.logits)
        use, prompts = measured.index == number, features.prompt_embeddings
        pairs, first = measured.pairs[use].to(device), torch.zeros(int(use.sum()), dtype=torch.int64, device=device)
        patches = patch_features(features.fused, pairs, first, size, prompts.shape[1])
        positions[use] = mean_word((LOGIT_SCALE * patches @ prompts.T).cpu(), -1)
    taught = order_shares(positions, measured.row_wrong)
    handover = measure_words(logits, measured)
    return {f"{name}{of}": found[i] for name, found in (("taught", taught), ("handover", handover)) for i, of in OF}


def measure_depth(depth: Tensor, measured: HeldOut) -> Numbers:
    """Return what depth (N, 1, H, W) of any scale is worth.

    Returns:
        ``abs_rel`` and ``a1``, each frame scaled by medians; ``depth_order`` and ``row_wrong``, the share of pairs in
        order; and for every region the mean relative error of its pixels, in all frames together.
    """
    found = depth_metrics(depth, measured.depth, measured.valid, median_scaling=True, max_depth=FAR)
    order, row_wrong = order_shares(at_pixels(depth[:, 0], measured), measured.row_wrong)
    numbers = {"abs_rel": found.abs_rel, "a1": found.a1, "rmse_log": found.rmse_log}
    numbers |= {"depth_order": order, "row_wrong": row_wrong}
    scaled = torch.stack([_scaled(*one) for one in zip(depth, measured.depth, measured.valid, strict=True)])
    error = (scaled - measured.depth).abs() / measured.depth
    for name, mask in measured.regions.items():
        numbers[name] = float(error[mask].double().mean())  # NaN where there is no such pixel
    return numbers


def _scaled(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    counts = valid & (truth < FAR)
    return (depth * (median(truth[counts]) / median(depth[counts]))).clamp(1e-3, FAR)


@torch.no_grad()
def measure_kitti(model: Any, root: str | Path, size: tuple[int, int]) -> float:
    """Return abs_rel on the frames of KITTI raw that have lidar, by Garg's crop, each scaled by medians."""
    device, found = next(model.parameters()).device, []
    for drive, frame in frames_with_lidar(root):
        image = resize_images(torch.as_tensor(drive.image(frame))[None], size)
        truth = torch.as_tensor(drive.lidar_depth(frame)).float()[None]
        disparity = F.interpolate(model(image.to(device)).float(), truth.shape[-2:], mode="bilinear")
        depth = model.to_depth(disparity).cpu()
        found.append(depth_metrics(depth, truth, median_scaling=True, crop="garg").abs_rel)
    return mean(found)


def measure_baseline(name: str, training: list[list[Any]], measured: HeldOut, settings: Settings) -> Numbers:
    """Return the numbers of what knows nothing of an image.

    Args:
        name: ``"constant"``, ``"image row"`` (the median depth of every row in the drives that are trained on),
            ``"mean map"`` (the mean depth at every place in these), or ``"plane"``, 1 / depth linear in the row,
            fitted to the truth of each held-out frame itself.
        training: drives that are trained on.
        measured: the held-out frames.
        settings: say the size.
    """
    if name == "plane":
        fitted = [fitted_plane(*one) for one in zip(measured.depth, measured.valid, strict=True)]
        return measure_depth(torch.stack(fitted), measured)
    made: dict[str, Priorities] = {"constant": constant, "image row": image_row, "mean map": mean_map}
    frames = concatenated(training)
    samples = [
        Sample(str(i), i, _no_image, lambda f=f: np.where(f.valid, f.depth, 0)[0])  # type: ignore[misc]
        for i, f in enumerate(frames)
    ]
    priors = Priors.of(samples, PROTOCOLS["lidar"].changed(crop=None))
    depth = torch.from_numpy(made[name](priors, np.ones(len(frames), bool)))[None, None].float()
    # Interpolated, a constant would be one up to rounding only.
    whole = depth if depth.numel() == 1 else F.interpolate(depth, settings.size, mode="bilinear", align_corners=False)
    return measure_depth(whole.expand_as(measured.depth), measured)


def _no_image() -> Any:
    raise AssertionError("a baseline does not look at images")


def finite(numbers: Numbers) -> dict[str, float | None]:
    """Return numbers as JSON has them: None where there is none."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
