"""A model as a file that other runtimes read: ``torch.export``, and ONNX with float32 or int8 layers.

What does not depend on the images is a constant in the file: the prompts' matrix, so that there is no text tower, and,
at a fixed size, the resampled positions.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

import hybrid_encoder
from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.deploy.folding import folded_copy, freeze_positions, writable_path, write_metadata
from hybrid_encoder.deploy.quantize import quantize_int8
from hybrid_encoder.deploy.static import quantize_static
from hybrid_encoder.deploy.tools import check_packages, quiet_exporters
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.models.base import check_working_size
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

DYNAMIC_MIN, DYNAMIC_MAX = 64, 8192  # pixels a side; from 64 on no map of the semantic tower is a single cell
OPEN_SIZES = "2.11"  # torch: before, tracing ties the maps of most pairs of towers to one size
ONNX_LIMIT = 2**31  # bytes in one file of Protocol Buffers


def export_program(model: HybridDepthModel, size: tuple[int, int], *, dynamic_size: bool = False) -> ExportedProgram:
    """Trace the model as a graph of torch's operators: images to disparity, in evaluation mode, float32, on the CPU.

    The graph takes ``images``, RGB in [0, 1], (B, 3, H, W) with any B, and returns ``disparity``, (B, 1, H, W), 1 near
    and 0 far. It does not check its input. The model is not changed, and the graph shares those of its weights that are
    float32 on the CPU.

    Args:
        model: trained or not, in any mode and on any device.
        size: (H, W), at least 32 each.
        dynamic_size: leave H and W open, from 64 to 8192 each; ``size`` is then only used for tracing.

    Returns:
        ``program.module()`` runs it; ``torch.export.save(program, "model.pt2")`` writes it.

    Raises:
        InputError: a size out of its range.
        ConfigError: ``dynamic_size`` with towers whose graph depends on the size; not a ``HybridDepthModel``.

    Example:
        >>> model = HybridDepthModel.from_pretrained("tiny")
        >>> program = export_program(model, (64, 96))
        >>> program.module()(torch.rand(3, 3, 64, 96)).shape
        torch.Size([3, 1, 64, 96])
    """
    _check_model(model)
    _check_size(size, dynamic_size)
    images = torch.rand(2, 3, *size)
    with torch.no_grad(), quiet_exporters():
        folded = folded_copy(model)
        if not dynamic_size:
            folded(images[:1])  # resamples the positions, which are then kept
            freeze_positions(folded)
        try:
            # strict=False traces without Dynamo, whose rules on Python code do not matter here.
            return torch.export.export(
                folded, (images,), dynamic_shapes={"images": _open_axes(dynamic_size)}, strict=False
            )
        except Exception as error:  # torch has a dozen exception classes for this
            if not dynamic_size:
                raise
            spatial = folded.encoder.spatial
            rule = "none" if spatial is None else spatial.position_rule
            name = "none" if spatial is None else model.config.encoder.spatial.name
            older = torch.__version__ < OPEN_SIZES and rule != "rope"
            newer = f", or install torch {OPEN_SIZES} or later" if older else ""
            raise ConfigError(
                f"the size cannot be left open with spatial.name {name!r} (positions by the rule {rule!r}) and "
                f"semantic.name {model.config.encoder.semantic.name!r}: the graph of a tower depends on the size that "
                f"it is traced with; export a fixed size, one file for each that is needed{newer}."
            ) from error


def export_onnx(
    model: HybridDepthModel,
    path: str | Path,
    size: tuple[int, int],
    *,
    dynamic_size: bool = False,
    int8: bool = False,
    calibration: Sequence[Tensor] | None = None,
) -> Path:
    """Write the model as one ONNX file, whole or not at all.

    Input ``images`` and output ``disparity`` are those of ``export_program``. The file's metadata describe both in
    words and hold ``min_depth``, ``max_depth`` and ``metric``, with which disparity becomes depth
    (``HybridDepthModel.to_depth``).

    Args:
        model, size, dynamic_size: as for ``export_program``.
        path: of the file; its folder must exist.
        int8: weights and inputs of the linear layers in int8 (``quantize_int8``), which changes the numbers.
        calibration: prepared images (``calibration_pictures``): weights and inputs of convolutions and linear layers in
            int8, with the scales that these images need (``quantize_static``), which changes the numbers.

    Returns:
        The path.

    Raises:
        InputError: a size out of its range, a folder that does not exist.
        ConfigError: as for ``export_program``; a model of 2 GiB or more; packages of the extra ``export`` are missing;
            ``int8`` and ``calibration`` both.
    """
    path = writable_path(path)
    proto = onnx_model(model, size, dynamic_size=dynamic_size, int8=int8, calibration=calibration)
    write_whole(path, proto.SerializeToString())
    return path


def onnx_model(
    model: HybridDepthModel,
    size: tuple[int, int],
    *,
    dynamic_size: bool = False,
    int8: bool = False,
    calibration: Sequence[Tensor] | None = None,
) -> ModelProto:
    """Return what ``export_onnx`` writes; arguments and errors are its own."""
    if int8 and calibration is not None:
        raise ConfigError("int8 and calibration are two ways to quantise; leave one of them out.")
    quantised = int8 or calibration is not None
    check_packages("onnx", "onnxscript", *(["onnxruntime"] if quantised else []))
    _check_model(model)
    parts = model.part_parameters()
    num_bytes = 4 * sum(p.numel() for name, parameters in parts.items() if name != "text" for p in parameters)
    if num_bytes >= ONNX_LIMIT:
        raise ConfigError(
            f"the model's weights are {num_bytes / 2**30:.1f} GiB; one ONNX file holds less than 2: export a program "
            "(pt2), which has no such limit."
        )
    proto = translate(export_program(model, size, dynamic_size=dynamic_size))
    weights = "float32"
    if int8:
        proto, weights = quantize_int8(proto), "int8 linear layers"
    elif calibration is not None:
        proto, weights = quantize_static(proto, calibration), "int8 convolutions and linear layers, static"
    write_metadata(proto, {**describe(model, None if dynamic_size else size), "weights": weights})
    return proto


def save_program(
    model: HybridDepthModel, path: str | Path, size: tuple[int, int], *, dynamic_size: bool = False
) -> Path:
    """Write the model as a ``.pt2`` file for ``torch.export.load``, whole or not at all.

    The metadata are those of ``export_onnx``, in the extra file ``metadata.json``.

    Raises:
        InputError: a size out of its range, a folder that does not exist.
        ConfigError: as for ``export_program``.
    """
    path = writable_path(path)
    program = export_program(model, size, dynamic_size=dynamic_size)
    buffer = io.BytesIO()
    metadata = json.dumps({**describe(model, None if dynamic_size else size), "weights": "float32"})
    with quiet_exporters():
        torch.export.save(program, buffer, extra_files={"metadata.json": metadata})
    write_whole(path, buffer.getvalue())
    return path


def translate(program: ExportedProgram) -> ModelProto:
    """Translate a program of ``export_program`` to ONNX."""
    with quiet_exporters():
        translated = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["disparity"], external_data=False, verbose=False
        )
    assert translated is not None
    proto = translated.model_proto
    _name_axes(proto)
    return proto


def describe(model: HybridDepthModel, size: tuple[int, int] | None) -> dict[str, str]:
    """Return the metadata of a file; ``size`` is None where it is open."""
    config = model.config
    sides = f"H and W from {DYNAMIC_MIN} up" if size is None else f"H = {size[0]}, W = {size[1]}"
    return {
        "min_depth": repr(config.min_depth),
        "max_depth": repr(config.max_depth),
        "metric": json.dumps(config.metric),
        "input": f"images: float32 (B, 3, H, W), RGB in [0, 1], not normalised; {sides}",
        "input_range": "[0, 1]",
        "output": "disparity: float32 (B, 1, H, W), 1 near and 0 far",
        "depth": "1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disparity), "
        + ("in metres" if config.metric else "of unknown scale"),
        "producer": f"hybrid-encoder {hybrid_encoder.__version__}",
    }


def _check_model(model: object) -> None:
    if not isinstance(model, HybridDepthModel):
        raise ConfigError(f"the model is a {type(model).__name__}; a HybridDepthModel, with its decoder, is needed.")


def _check_size(size: tuple[int, int], dynamic_size: bool) -> None:
    check_working_size(size)
    smallest = DYNAMIC_MIN if dynamic_size else MIN_SIZE
    if min(size) < smallest or (dynamic_size and max(size) > DYNAMIC_MAX):
        rule = f"between {smallest} and {DYNAMIC_MAX} with a dynamic size" if dynamic_size else f"at least {smallest}"
        raise InputError(f"the size is {size[0]} x {size[1]}; height and width must be {rule}: give another one.")


def _open_axes(dynamic_size: bool) -> dict[int, Dim]:
    """Return the axes of the images that may have another length than in the traced ones."""
    axes = {0: Dim("batch")}
    if dynamic_size:
        height, width = (Dim(name, min=DYNAMIC_MIN, max=DYNAMIC_MAX) for name in ("height", "width"))
        axes.update({2: height, 3: width})
    return axes


def _name_axes(proto: ModelProto) -> None:
    """Give the open axes their names in place of torch's symbols."""
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    names = {shape[axis].dim_param: name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    names.pop("", None)  # of axes that are not open
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), axis.dim_param)
