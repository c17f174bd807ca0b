"""What export, quantisation and comparison share: packages of the extras, and silence while they work."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.quiet import quiet

LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
WARNING_MODULES = ("torch", "onnxscript", "onnx_ir", "onnxruntime", "openvino")


def check_packages(*names: str, extra: str = "export") -> None:
    """Import packages of an extra, so that a missing one is found before any work is done.

    Args:
        names: of the packages.
        extra: the extra of this package that installs them.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the package {error.name} is missing, and {'ONNX' if extra == 'export' else 'OpenVINO'} needs it; install "
            f"the extra: pip install 'hybrid-encoder[{extra}]'."
        ) from None


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Drop what the exporters say about their own deprecations and optimisations.

    Only messages and warnings of these libraries are dropped; those of other code pass. The root logger keeps its
    level, and levels and warning filters are restored afterwards.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.ERROR))
        with quiet("onnxruntime", "onnxscript", "onnx_ir", "torch"), warnings.catch_warnings():
            for module in WARNING_MODULES:
                warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
            # Of torch's own pytrees, attributed to the standard library's copyreg.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
