"""Exported files compared with the model that they were made from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.models.depth import HybridDepthModel


def onnx_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """Return the largest and the mean absolute difference of disparity between an ONNX file and the model.

    The file runs in onnxruntime on the CPU.

    Args:
        model: in any mode and on any device; it is compared in evaluation mode.
        path: of the exported file.
        images: RGB in [0, 1], (B, 3, H, W), of a size that the file accepts.

    Raises:
        ConfigError: packages of the extra ``export`` are missing.
    """
    check_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (disparity,) = session.run(None, {"images": images.float().cpu().numpy()})
    return _difference(model, images, torch.from_numpy(disparity))


def program_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """Return the largest and the mean difference for a ``.pt2`` file; arguments as for ``onnx_difference``."""
    with torch.no_grad(), quiet_exporters():
        disparity: Tensor = torch.export.load(path).module()(images.float().cpu())
    return _difference(model, images, disparity)


def _difference(model: HybridDepthModel, images: Tensor, disparity: Tensor) -> tuple[float, float]:
    difference = (disparity - model.infer(images, "native").disparity.cpu()).abs()
    return float(difference.max()), float(difference.mean())
