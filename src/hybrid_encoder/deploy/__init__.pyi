from .bev import export_bev_onnx, export_bev_program
from .compare import onnx_difference, program_difference
from .export import describe, export_onnx, export_program, save_program
from .quantize import quantize_int8

__all__ = [
    "describe",
    "export_bev_onnx",
    "export_bev_program",
    "export_onnx",
    "export_program",
    "onnx_difference",
    "program_difference",
    "quantize_int8",
    "save_program",
]
