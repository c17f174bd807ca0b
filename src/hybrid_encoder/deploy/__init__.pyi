from .export import (
    describe,
    export_onnx,
    export_program,
    onnx_difference,
    program_difference,
    quantize_int8,
    save_program,
)

__all__ = [
    "describe",
    "export_onnx",
    "export_program",
    "onnx_difference",
    "program_difference",
    "quantize_int8",
    "save_program",
]
