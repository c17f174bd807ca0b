from .drive import (
    RenderedDrive,
    SyntheticBatch,
    SyntheticDrive,
    SyntheticFrame,
    synthetic_batch,
    write_tusimple,
)

__all__ = [
    "RenderedDrive",
    "SyntheticBatch",
    "SyntheticDrive",
    "SyntheticFrame",
    "synthetic_batch",
    "write_tusimple",
]
