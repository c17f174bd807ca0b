"""A model as a file that other runtimes read: ``torch.export``, ONNX, and ONNX with int8 linear layers.

What does not depend on the images is a constant in the file: the prompts (no text tower) and, at a fixed size, the
resampled positions.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import hybrid_encoder
from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.towers.base import Tower
from hybrid_encoder.writing import write_whole

if TYPE_CHECKING:
    from onnx import ModelProto

DYNAMIC_MIN, DYNAMIC_MAX = 64, 8192  # pixels a side; with 64 no map of the semantic tower is a single cell
ONNX_LIMIT = 2**31  # bytes in one file of Protocol Buffers


def export_program(model: HybridDepthModel, size: tuple[int, int], *, dynamic_size: bool = False) -> ExportedProgram:
    """The model as a graph of torch's operators: images to disparity, in evaluation mode, float32, on the CPU.

    The graph takes ``images``, RGB in [0, 1], (B, 3, H, W) with any B, and gives ``disparity``, (B, 1, H, W), 1 near
    and 0 far. It checks no values. The model stays as it is, and the graph shares its weights where they already are
    float32 on the CPU.

    Args:
        model: any trained or untrained one.
        size: H and W, from 32 up.
        dynamic_size: leave H and W open, from 64 to 8192 each; ``size`` is then only what is traced with.

    Returns:
        ``program.module()`` runs it; ``torch.export.save(program, "model.pt2")`` keeps it.

    Raises:
        InputError: a size that is too small.
        ConfigError: towers that tie their graph to one size, with ``dynamic_size``; no ``HybridDepthModel``.

    Example:
        >>> model = HybridDepthModel.from_pretrained("tiny")
        >>> program = export_program(model, (64, 96))
        >>> program.module()(torch.rand(3, 3, 64, 96)).shape
        torch.Size([3, 1, 64, 96])
    """
    if not isinstance(model, HybridDepthModel):
        raise ConfigError(f"the model is a {type(model).__name__}; a HybridDepthModel, with its decoder, is needed.")
    smallest = DYNAMIC_MIN if dynamic_size else MIN_SIZE
    if min(size) < smallest or (dynamic_size and max(size) > DYNAMIC_MAX):
        rule = f"between {smallest} and {DYNAMIC_MAX} with a dynamic size" if dynamic_size else f"at least {smallest}"
        raise InputError(f"the size is {size[0]} x {size[1]}; height and width must be {rule}: give another one.")
    batch, height, width = Dim("batch"), *(Dim(n, min=DYNAMIC_MIN, max=DYNAMIC_MAX) for n in ("height", "width"))
    dynamic = {0: batch, 2: height, 3: width} if dynamic_size else {0: batch}
    images = torch.rand(2, 3, *size)
    with torch.no_grad(), _quiet():
        folded = _fold(model)
        if not dynamic_size:
            folded(images[:1])
            for module in folded.modules():
                if isinstance(module, Tower):
                    module.freeze_positions()
        try:
            # Not through Dynamo, whose own rules on Python objects are no matter here: torch's default from 2.7 on.
            return torch.export.export(folded, (images,), dynamic_shapes={"images": dynamic}, strict=False)
        except Exception as error:  # torch names its reasons in a dozen classes
            if not dynamic_size:
                raise
            spatial = folded.encoder.spatial
            rule = "none" if spatial is None else spatial.position_rule
            name = "none" if spatial is None else model.config.encoder.spatial.name
            raise ConfigError(
                f"the size cannot be left open with spatial.name {name!r} (positions by the rule {rule!r}) and "
                f"semantic.name {model.config.encoder.semantic.name!r}: a tower ties its graph to the size it is "
                "traced with; export a fixed size, one file for each that is needed."
            ) from error


def export_onnx(
    model: HybridDepthModel, path: str | Path, size: tuple[int, int], *, dynamic_size: bool = False, int8: bool = False
) -> Path:
    """``export_program`` as one ONNX file, written whole or not at all.

    Input ``images`` and output ``disparity`` are as there. The file's metadata hold ``min_depth``, ``max_depth`` and
    ``metric``, with which disparity becomes depth (``HybridDepthModel.to_depth``), and say in words what goes in and
    comes out.

    Args:
        model, size, dynamic_size: as for ``export_program``.
        path: of the file; its folder is there.
        int8: weights and inputs of the linear layers in int8 (``quantize_int8``); the numbers move.

    Returns:
        The path.

    Raises:
        InputError: a size that is too small, a folder that is not there.
        ConfigError: as ``export_program``; a model of 2 GiB and more; packages of the extra ``export`` missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder; make it first, or give another path.")
    check_packages("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    weights = sum(p.numel() for part, ps in _parts(model).items() if part != "text" for p in ps) * 4
    if weights >= ONNX_LIMIT:
        raise ConfigError(
            f"the model's weights are {weights / 2**30:.1f} GiB; one ONNX file holds less than 2: export a program "
            "(pt2), which has no such limit."
        )
    program = export_program(model, size, dynamic_size=dynamic_size)
    with _quiet():
        translated = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["disparity"], external_data=False, verbose=False
        )
    assert translated is not None
    proto = translated.model_proto
    _name_axes(proto)
    if int8:
        proto = quantize_int8(proto)
    values = {**describe(model, None if dynamic_size else size), "weights": "int8 linear layers" if int8 else "float32"}
    del proto.metadata_props[:]
    for name, value in values.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value
    write_whole(path, proto.SerializeToString())
    return path


def save_program(
    model: HybridDepthModel, path: str | Path, size: tuple[int, int], *, dynamic_size: bool = False
) -> Path:
    """``export_program`` as a ``.pt2`` file for ``torch.export.load``, written whole or not at all.

    The same metadata as in ONNX lie in its extra file ``metadata.json``.

    Raises:
        InputError, ConfigError: as ``export_program``; a folder that is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder; make it first, or give another path.")
    program = export_program(model, size, dynamic_size=dynamic_size)
    buffer = io.BytesIO()
    described = json.dumps({**describe(model, None if dynamic_size else size), "weights": "float32"})
    with _quiet():
        torch.export.save(program, buffer, extra_files={"metadata.json": described})
    write_whole(path, buffer.getvalue())
    return path


def quantize_int8(proto: ModelProto) -> ModelProto:
    """onnxruntime's dynamic quantisation of the linear layers (MatMul and Gemm with constant weights).

    Weights are int8 with a scale for each output channel; a layer's input gets one scale as it comes, and sums are in
    int32. Convolutions stay in float32. The error depends on the weights, so look at your own: with those of ``tiny``,
    on eight synthetic frames of 96 x 320, disparity (up to 0.25 there) moves by 1.3e-4 at most and 5e-6 on average
    (measured by ``onnx_difference``).

    Raises:
        ConfigError: packages of the extra ``export`` missing.
    """
    check_packages("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(target)


def program_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """As ``onnx_difference``, of a ``.pt2`` file."""
    with torch.no_grad(), _quiet():
        theirs: Tensor = torch.export.load(path).module()(images.float().cpu())
    return _apart(model, images, theirs)


def onnx_difference(model: HybridDepthModel, path: str | Path, images: Tensor) -> tuple[float, float]:
    """Largest and mean absolute difference of disparity between onnxruntime on a file and the model.

    Args:
        model: in whatever mode; it is compared in evaluation mode.
        path: of an exported file.
        images: RGB in [0, 1], (B, 3, H, W), of a size that the file takes.

    Raises:
        ConfigError: packages of the extra ``export`` missing.
    """
    check_packages("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": images.float().cpu().numpy()})
    return _apart(model, images, torch.from_numpy(theirs))


def _apart(model: HybridDepthModel, images: Tensor, theirs: Tensor) -> tuple[float, float]:
    apart = (theirs - model.infer(images).disparity.cpu()).abs()
    return float(apart.max()), float(apart.mean())


def describe(model: HybridDepthModel, size: tuple[int, int] | None) -> dict[str, str]:
    """What a file says about itself; ``size`` is None where it is open."""
    config = model.config
    sides = "H and W from 64 up" if size is None else f"H = {size[0]}, W = {size[1]}"
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


def check_packages(*names: str) -> None:
    """Raises ConfigError unless these packages of the extra ``export`` are there."""
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the package {error.name} is missing, and ONNX needs it; install the extra: "
            "pip install 'hybrid-encoder[export]'."
        ) from None


def _fold(model: HybridDepthModel) -> HybridDepthModel:
    """A copy to trace: the same weights (float32, CPU, without gradients), prompts computed, no text tower."""
    # What the memo holds under an object's id, deepcopy takes in its place.
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", torch.float32), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", torch.float32 if buffer.is_floating_point() else None)
    folded = copy.deepcopy(model, memo).eval()
    folded.encoder.fold_prompts()
    return folded


def _parts(model: HybridDepthModel) -> dict[str, list[nn.Parameter]]:
    return {**model.encoder.part_parameters(), "decoder": list(model.decoder.parameters())}


def _name_axes(proto: ModelProto) -> None:
    """The open axes by their names, in place of torch's symbols."""
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    names = {shape[at].dim_param: name for at, name in ((0, "batch"), (2, "height"), (3, "width"))}
    names.pop("", None)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), axis.dim_param)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell about their own deprecations and optimisations."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "root", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
