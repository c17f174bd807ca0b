"""ONNX with int8 layers whose scales were found beforehand, on calibration pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.errors import InputError
from hybrid_encoder.models.depth import HybridDepthModel

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_PICTURES = 128  # what is observed no longer changes much, and every picture is held in memory
OPERATORS = ["Conv", "MatMul", "Gemm"]


def calibration_pictures(model: HybridDepthModel, paths: Sequence[str | Path], size: tuple[int, int]) -> list[Tensor]:
    """Return pictures as ``infer`` would give them to the network at this size, (1, 3, H, W) each.

    Args:
        model: that will be exported.
        paths: image files; of more than 128, as many at even distances are taken.
        size: (H, W) of the export.

    Raises:
        InputError: no file, or one that is no picture.
    """
    if not paths:
        raise InputError("there is no picture to calibrate with; give some that look like those to predict on.")
    step = max(1.0, len(paths) / MAX_PICTURES)
    chosen = [paths[int(index * step)] for index in range(min(len(paths), MAX_PICTURES))]
    with torch.no_grad():
        return [model.prepare(path, size, name=str(path)).pixels.float().cpu() for path in chosen]


def quantize_static(proto: ModelProto, calibration: Iterable[Tensor]) -> ModelProto:
    """Quantise convolutions and linear layers by onnxruntime's static quantisation.

    Weights become int8 with one scale for each output channel. The input of a layer becomes uint8 with one scale, which
    is computed here from the least and greatest values on the calibration pictures, and is a constant of the file: no
    picture is measured while the model runs. The file says so with QuantizeLinear and DequantizeLinear ("QDQ"), which
    onnxruntime, OpenVINO and TensorRT read.

    Weights take seven of the eight bits, from -64 to 64, as in ``quantize_int8``.

    Args:
        proto: of ``export_onnx``, float32.
        calibration: prepared images, (B, 3, H, W), that the file accepts.

    Raises:
        ConfigError: packages of the extra ``export`` are missing.
    """
    check_packages("onnx", "onnxruntime")
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # no types
        def __init__(self) -> None:
            self.waiting: Iterator[Tensor] = iter(calibration)

        def get_next(self) -> dict[str, object] | None:
            images = next(self.waiting, None)
            return None if images is None else {"images": images.float().cpu().numpy()}

    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        given, prepared, target = (Path(folder) / name for name in ("float32.onnx", "prepared.onnx", "int8.onnx"))
        given.write_bytes(proto.SerializeToString())  # onnxruntime loses the weights of one in memory
        # The symbolic inference of shapes does not know all of torch's operators; onnx's own does.
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},  # products of two activations stay in float32
        )
        return onnx.load(target)
