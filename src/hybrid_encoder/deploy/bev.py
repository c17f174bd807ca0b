"""A bird's-eye view of one vehicle as a file that other runtimes read: its cameras are constants in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import ExportedProgram

import hybrid_encoder
from hybrid_encoder.bev.head import CLASSES
from hybrid_encoder.bev.model import BevModel
from hybrid_encoder.deploy.folding import folded_copy, freeze_positions, writable_path, write_metadata
from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.base import check_working_size
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from onnx import ModelProto


def export_bev_program(model: BevModel, K: Tensor, vehicle_T_cam: Tensor, size: tuple[int, int]) -> ExportedProgram:
    """Trace a bird's-eye view as a graph of torch's operators, in evaluation mode, float32, on the CPU.

    The graph takes ``images``, RGB in [0, 1], (1, N, 3, H, W), and returns ``vehicle``, ``road`` and ``centre``, logits
    (1, 1, X, Y). Which cell every point falls into is in it as numbers: a file serves vehicles with these cameras. The
    model is not changed.

    Args:
        model: trained or not; its depth may be of any kind but ``"exact"``.
        K: intrinsics of the cameras in pixels of the images, (N, 3, 3).
        vehicle_T_cam: takes points of each camera to the vehicle, in metres, (N, 4, 4).
        size: (H, W), at least 32 each.

    Raises:
        InputError: a size out of its range, cameras that cannot be.
        ConfigError: not a ``BevModel``, or one that is given its depth.
    """
    if not isinstance(model, BevModel):
        raise ConfigError(f"the model is a {type(model).__name__}; a BevModel is needed.")
    if model.config.depth == "exact":
        raise ConfigError("the model's depth is 'exact', which no camera gives; export one of another kind.")
    check_working_size(size)
    images = torch.rand(1, len(K), 3, *size)
    with torch.no_grad(), quiet_exporters():
        folded = folded_copy(model)
        folded.fix_cameras(K.cpu(), vehicle_T_cam.cpu(), size)
        folded(images)  # resamples the positions, which are then kept
        freeze_positions(folded)
        return torch.export.export(folded, (images,), strict=False)


def export_bev_onnx(model: BevModel, path: str | Path, K: Tensor, vehicle_T_cam: Tensor, size: tuple[int, int]) -> Path:
    """Write a bird's-eye view as one ONNX file, whole or not at all.

    Input and outputs are those of :func:`export_bev_program`. The file's metadata describe them in words and hold the
    grid, with which cells become metres.

    Args:
        model, K, vehicle_T_cam, size: as for :func:`export_bev_program`.
        path: of the file; its folder must exist.

    Returns:
        The path.

    Raises:
        InputError: as for :func:`export_bev_program`; a folder that does not exist.
        ConfigError: as for :func:`export_bev_program`; packages of the extra ``export`` are missing.
    """
    path = writable_path(path)
    check_packages("onnx", "onnxscript")
    program = export_bev_program(model, K, vehicle_T_cam, size)
    with quiet_exporters():
        translated = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=list(CLASSES), external_data=False, verbose=False
        )
    assert translated is not None
    proto: ModelProto = translated.model_proto
    config = model.config
    cameras = len(K)
    write_metadata(
        proto,
        {
            "input": f"images: float32 (1, {cameras}, 3, {size[0]}, {size[1]}), RGB in [0, 1], not normalised",
            "output": f"{', '.join(CLASSES)}: logits, float32 (1, 1, X, Y), X forward and Y left",
            "grid": json.dumps({name: getattr(config, name) for name in ("x_range", "y_range", "z_range", "cell")}),
            "K": json.dumps(K.tolist()),
            "vehicle_T_cam": json.dumps(vehicle_T_cam.tolist()),
            "depth": config.depth,
            "producer": f"hybrid-encoder {hybrid_encoder.__version__}",
        },
    )
    write_whole(path, proto.SerializeToString())
    return path
