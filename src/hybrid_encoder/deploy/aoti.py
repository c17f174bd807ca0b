"""A model compiled ahead of time by AOTInductor: machine code and weights in one package, for C++ and Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from hybrid_encoder.deploy.export import describe, export_program
from hybrid_encoder.deploy.folding import writable_path
from hybrid_encoder.deploy.tools import quiet_exporters
from hybrid_encoder.errors import ConfigError
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.writing import write_whole


def save_aoti(model: HybridDepthModel, path: str | Path, size: tuple[int, int], *, dynamic_size: bool = False) -> Path:
    """Compile the model for this machine's processor, and write it as a ``.pt2`` package, whole or not at all.

    Input and output are those of ``export_program``. ``torch._inductor.aoti_load_package`` runs the package in Python,
    ``torch::inductor::AOTIModelPackageLoader`` in C++. It holds machine code: it is run by a torch of the same version,
    on a processor with the same vector instructions. The package's metadata (``get_metadata()``) are those of
    ``export_onnx``.

    Args:
        model, size, dynamic_size: as for ``export_program``.
        path: of the file; its folder must exist.

    Returns:
        The path.

    Raises:
        InputError: a size out of its range, a folder that does not exist.
        ConfigError: as for ``export_program``; no C++ compiler.
    """
    path = writable_path(path)
    check_compiler()
    program = export_program(model, size, dynamic_size=dynamic_size)
    metadata = {**describe(model, None if dynamic_size else size), "weights": "float32"}
    # Inductor writes a package in steps, so that it is made elsewhere.
    with tempfile.TemporaryDirectory() as folder, quiet_exporters(), torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder) / "model.pt2"),
            inductor_configs={"aot_inductor.metadata": metadata},
        )
        write_whole(path, Path(package).read_bytes())
    return path


def check_compiler() -> None:
    """Find the C++ compiler that AOTInductor calls, before any work is done.

    Raises:
        ConfigError: there is none.
    """
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as error:  # inductor's own, of which there are several
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"AOTInductor compiles C++ and finds no compiler ({said.strip()}); install g++ or clang++, or name one in "
            "the environment variable CXX."
        ) from None
