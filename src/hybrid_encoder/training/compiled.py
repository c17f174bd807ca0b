"""The parts of a stage, compiled while a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hybrid_encoder.errors import ConfigError
from hybrid_encoder.training.stage import Stage


@contextmanager
def compiled_parts(stage: Stage) -> Iterator[None]:
    """Run the parts of a stage that are worth it through ``torch.compile`` while the block runs; names stay.

    Raises:
        ConfigError: the stage has no such part, or nothing can be compiled here.
    """
    parts = stage.parts_to_compile()
    if not parts:
        raise ConfigError("compile is set, and the stage has no tower and no decoder; leave it out.")
    check_compiler(next(stage.parameters()).device)
    try:
        for part in parts:
            part.compile(dynamic=False)  # batches have one size
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def check_compiler(device: torch.device) -> None:
    """Compile and run a small function, so that a machine without a compiler is found before the first step.

    Raises:
        ConfigError: it cannot be compiled.
    """
    try:
        torch.compile(torch.sin, dynamic=False)(torch.zeros(1, device=device))
    except Exception as error:  # whatever dynamo, inductor and the compilers that they call raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"compile is set, and torch.compile does not work here ({said[0]}); install what it asks for (on a CPU a "
            "C++ compiler), or leave it out."
        ) from None
