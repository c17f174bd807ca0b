from .drive import (
    RenderedDrive,
    SyntheticBatch,
    SyntheticDrive,
    SyntheticFrame,
    render_drives,
    synthetic_batch,
    write_tusimple,
)
from .surround import SurroundFrame, SyntheticSurround

__all__ = [
    "RenderedDrive",
    "SurroundFrame",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "SyntheticSurround",
    "render_drives",
    "synthetic_batch",
    "write_tusimple",
]
