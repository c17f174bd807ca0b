from .drive import (
    RenderedDrive,
    SyntheticBatch,
    SyntheticDrive,
    SyntheticFrame,
    render_drives,
    synthetic_batch,
    write_tusimple,
)

__all__ = [
    "RenderedDrive",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "render_drives",
    "synthetic_batch",
    "write_tusimple",
]
