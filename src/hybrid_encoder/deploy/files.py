"""A model written as a file of any format, which is kept only if it agrees with the model."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hybrid_encoder.deploy.aoti import check_compiler, save_aoti
from hybrid_encoder.deploy.compare import difference, load_file
from hybrid_encoder.deploy.export import export_onnx, save_program
from hybrid_encoder.deploy.folding import writable_path
from hybrid_encoder.deploy.formats import FORMATS, choose_format
from hybrid_encoder.deploy.openvino import save_openvino, writable_pair
from hybrid_encoder.deploy.tools import check_packages
from hybrid_encoder.errors import ConfigError, InputError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.writing import replace_files, replace_together

TOLERANCE = 1e-3  # of the model's largest disparity, which is 0.03 with the weights `tiny`
Int8 = Literal["dynamic", "static"]


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and compared.

    Attributes:
        path: of the file; a second one with the weights may lie beside it.
        num_bytes: of all its files.
        largest, mean: absolute difference of disparity, which is in [0, 1], from the model's in float32.
        compared_on: what both were run on, in words.
        disparity: the model's largest, against which the differences are judged.
    """

    path: Path
    num_bytes: int
    largest: float
    mean: float
    compared_on: str
    disparity: float


def check_export(path: Path, to: str | None = None, int8: Int8 | None = None) -> str:
    """Find what makes an export impossible, before the work, and return the format's name.

    Args:
        path, to: as for ``choose_format``.
        int8: how layers become int8; None leaves them in float32.

    Raises:
        InputError: a suffix of another format or of none; a file cannot stand there.
        ConfigError: no such format; int8 layers that it does not have; a package or the compiler is missing.
    """
    name = choose_format(path, to)
    if int8 is not None and int8 not in FORMATS[name].int8:
        able = " or ".join(other for other, format in FORMATS.items() if int8 in format.int8)
        raise ConfigError(f"{int8} int8 layers are for {able}, and the format is {name}; leave one of the two out.")
    writable_pair(path) if name == "openvino" else writable_path(path)
    format = FORMATS[name]
    check_packages(*format.packages, *([format.runtime] if format.runtime else []), extra=format.extra)
    if int8 is not None:
        check_packages("onnxruntime")  # of the extra export, whatever the format is
    if name == "aoti":
        check_compiler()
    return name


def export_file(
    model: HybridDepthModel,
    path: str | Path,
    size: tuple[int, int],
    *,
    to: str | None = None,
    dynamic_size: bool = False,
    int8: Int8 | None = None,
    calibration: Sequence[Tensor] | None = None,
) -> ExportedFile:
    """Write the model as a file, compare the file with the model, and only then give it its name.

    What stood under that name before stays until then. Files with int8 layers are kept however far they are.

    Args:
        model, size, dynamic_size: as for ``export_program``.
        path, to, int8: as for :func:`check_export`.
        calibration: prepared images of the size (``calibration_pictures``), for ``int8="static"``; the file is compared
            on them.

    Raises:
        InputError: a size out of its range; as :func:`check_export`.
        ConfigError: as for ``export_program``; disparity of float32 layers that is further away from the model's
            than 1e-3 of its largest; static int8 without calibration, or the other way round; as :func:`check_export`.
    """
    path = Path(path)
    name = check_export(path, to, int8)
    if (int8 == "static") != (calibration is not None):
        raise ConfigError("calibration pictures and static int8 layers belong together; give both or neither.")
    if calibration is not None and not calibration:
        raise InputError("calibration holds no picture; give some that look like those to predict on.")
    # A file that exists under the final name may be a good one: it is replaced only by one that agrees with the model.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / path.name
        if name == "onnx":
            export_onnx(
                model, written, size, dynamic_size=dynamic_size, int8=int8 == "dynamic", calibration=calibration
            )
        elif name == "openvino":
            save_openvino(model, written, size, dynamic_size=dynamic_size, calibration=calibration)
        elif name == "aoti":
            save_aoti(model, written, size, dynamic_size=dynamic_size)
        else:
            save_program(model, written, size, dynamic_size=dynamic_size)
        batches = _batches(calibration or _made_up(size), dynamic_size)
        largest, mean, disparity = _compare(_in_float32(model), written, name, batches)
        _refuse_bad(largest, mean, disparity, None if int8 else TOLERANCE)
        files = _files(written, name)
        num_bytes = sum(file.stat().st_size for file in files)
        move = replace_files if len(files) == 1 else replace_together
        move(written.parent, path.parent, [file.name for file in files])
    on = "made-up images" if calibration is None else f"the {len(calibration)} calibration pictures"
    return ExportedFile(path, num_bytes, largest, mean, on, disparity)


def _files(path: Path, name: str) -> list[Path]:
    """Return the files of an export, the one that a reader opens last."""
    return [path.with_suffix(".bin"), path] if name == "openvino" else [path]


def _compare(model: HybridDepthModel, path: Path, name: str, batches: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return the largest and the mean difference on batches, and the model's largest disparity."""
    run = load_file(path, name)
    found = torch.tensor([difference(model, images, run) for images in batches])
    return float(found[:, 0].max()), float(found[:, 1].mean()), float(found[:, 2].max())  # NaN where one of them is


def _in_float32(model: HybridDepthModel) -> HybridDepthModel:
    """Return the model as it computes in float32, which is what files compute in, whatever its own type is."""
    own = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    return model if own == {torch.float32} else copy.deepcopy(model).float()


def _refuse_bad(largest: float, mean: float, disparity: float, tolerance: float | None) -> None:
    """Raise ConfigError where a file is too far from the model, or gives what is no number."""
    if not math.isfinite(mean):
        raise ConfigError(
            "the exported file gives disparity that is not finite, so it was not kept: export another format, and look "
            "at what the model gives for a picture."
        )
    if tolerance is not None and largest > tolerance * disparity:
        raise ConfigError(
            f"the exported file gives disparity up to {largest:.2g} away from the model, whose largest is "
            f"{disparity:.2g}; at most {tolerance:g} of that is allowed, so it was not kept: try a fixed size or "
            "another format."
        )


def _batches(images: Sequence[Tensor], dynamic_size: bool) -> list[Tensor]:
    """Return what a file is compared on: images (1, 3, H, W), and three of them at once.

    It was traced with two. A dynamic size is tried on a second one, too, which the file was not traced with.
    """
    several = torch.cat([*images, *images, *images][:3])
    if dynamic_size:
        several = interpolate(several, (several.shape[-2] + 33, several.shape[-1] + 19), mode="bilinear")
    return [*images, several]


def _made_up(size: tuple[int, int]) -> list[Tensor]:
    """Return images with edges and smooth parts, as pictures have: upsampled noise."""
    coarse = torch.rand(3, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    return list(interpolate(coarse, size, mode="bilinear").split(1))
