"""A model in OpenVINO's own format: the graph as ``.xml``, the weights beside it as ``.bin``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hybrid_encoder.deploy.export import describe, export_program, onnx_model
from hybrid_encoder.deploy.folding import writable_path
from hybrid_encoder.deploy.formats import FORMATS
from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.writing import replace_together

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

SECTION = "hybrid_encoder"  # of the file's rt_info


def save_openvino(
    model: HybridDepthModel,
    path: str | Path,
    size: tuple[int, int],
    *,
    dynamic_size: bool = False,
    calibration: Sequence[Tensor] | None = None,
    via: Literal["program", "onnx"] | None = None,
) -> Path:
    """Write the model for OpenVINO: ``model.xml``, and ``model.bin`` beside it, both or neither.

    Input ``images`` and output ``disparity`` are those of ``export_program``. The metadata of ``export_onnx`` are in
    ``rt_info`` under ``hybrid_encoder``. Weights are float32. What a device computes in is its plugin's choice: on
    processors with bfloat16 units OpenVINO takes bfloat16 unless it is told ``INFERENCE_PRECISION_HINT: f32``.

    Args:
        model, size, dynamic_size: as for ``export_program``.
        path: of the ``.xml`` file; its folder must exist.
        calibration: prepared images, for int8 layers with fixed scales, as for ``export_onnx``.
        via: what OpenVINO converts: the exported program, or ONNX. By default the program, where it can: OpenVINO
            knows no open size in a program, and int8 layers are ONNX's.

    Returns:
        The path.

    Raises:
        InputError: a size out of its range, a folder that does not exist.
        ConfigError: as for ``export_program``; ``via="program"`` with an open size or calibration; packages of the
            extra ``openvino`` are missing.
    """
    path = writable_pair(path)
    check_packages(*FORMATS["openvino"].packages, extra="openvino")
    import openvino

    only_onnx = dynamic_size or calibration is not None
    if via == "program" and only_onnx:
        raise ConfigError(
            "OpenVINO converts no program with an open size, and int8 layers are ONNX's; take via='onnx', or leave it "
            "out."
        )
    if via == "onnx" or only_onnx:
        converted = _of_onnx(onnx_model(model, size, dynamic_size=dynamic_size, calibration=calibration))
    else:
        converted = _of_program(export_program(model, size), size)
    weights = "float32" if calibration is None else "int8"
    for name, value in {**describe(model, None if dynamic_size else size), "weights": weights}.items():
        converted.set_rt_info(value, [SECTION, name])
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        written = Path(folder) / path.name
        openvino.save_model(converted, written, compress_to_fp16=False)
        replace_together(written.parent, path.parent, [path.with_suffix(".bin").name, path.name])
    return path


def writable_pair(path: str | Path) -> Path:
    """Return the path of an ``.xml`` file to write to; raise InputError where it, or its ``.bin``, cannot stand there.

    A ``.bin`` without its ``.xml`` is of something else, and is not replaced.
    """
    path = writable_path(path)
    weights = writable_path(path.with_suffix(".bin"))
    if os.path.lexists(weights) and not os.path.lexists(path):
        raise InputError(
            f"{weights} is there without {path}, so that it is of something else, and the file's weights would replace "
            "it; give another name, or move it away."
        )
    return path


def metadata_of(path: str | Path) -> Mapping[str, str]:
    """Return what a file of :func:`save_openvino` says about itself.

    Args:
        path: of the ``.xml`` file.
    """
    import openvino

    told = openvino.Core().read_model(str(path)).get_rt_info([SECTION])
    return {name: str(value) for name, value in told.value.items()}


def _of_program(program: ExportedProgram, size: tuple[int, int]) -> Any:
    """Convert a program; names and sizes, which OpenVINO does not take over, are put back."""
    import openvino

    _remove_whole_slices(program)
    with quiet_exporters():
        converted = openvino.convert_model(program)
    converted.inputs[0].get_tensor().set_names({"images"})
    converted.outputs[0].get_tensor().set_names({"disparity"})
    converted.reshape({"images": openvino.PartialShape([-1, 3, *size])})
    return converted


def _remove_whole_slices(program: ExportedProgram) -> None:
    """Remove ``x[:]``, which torch before 2.9 leaves in programs and OpenVINO cannot convert."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.slice.Tensor and len(node.args) == 1 and not node.kwargs:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _of_onnx(proto: ModelProto) -> Any:
    import openvino

    with tempfile.TemporaryDirectory() as folder, quiet_exporters():
        file = Path(folder) / "model.onnx"
        file.write_bytes(proto.SerializeToString())
        return openvino.convert_model(file)
