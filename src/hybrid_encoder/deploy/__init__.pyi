from .aoti import save_aoti
from .bev import export_bev_onnx, export_bev_program
from .compare import file_difference, load_file, onnx_difference, program_difference
from .export import describe, export_onnx, export_program, save_program
from .files import ExportedFile, export_file
from .openvino import save_openvino
from .quantize import quantize_int8
from .static import calibration_pictures, quantize_static

__all__ = [
    "ExportedFile",
    "calibration_pictures",
    "describe",
    "export_bev_onnx",
    "export_bev_program",
    "export_file",
    "export_onnx",
    "export_program",
    "file_difference",
    "load_file",
    "onnx_difference",
    "program_difference",
    "quantize_int8",
    "quantize_static",
    "save_aoti",
    "save_openvino",
    "save_program",
]
