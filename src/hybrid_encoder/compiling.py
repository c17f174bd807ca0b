"""What code may ask while ``torch.compile`` or ``torch.export`` traces it.

Under a compiler sizes may be symbols. Comparing them outright ties the compiled graph to the answer, so the questions
here answer False wherever the answer is not known.
"""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Return whether ``torch.export`` traces."""
    # What torch.compiler.is_exporting returns; torch.compile of torch 2.8 and 2.9 answers that with True, always.
    return torch.compiler._is_exporting_flag


def has_autocast(device: str) -> bool:
    """Return whether a kind of device knows autocast; under ``torch.compile``, which cannot always ask, True."""
    return torch.compiler.is_dynamo_compiling() or bool(torch.amp.autocast_mode.is_autocast_available(device))


def known(fact: bool) -> bool:
    """Return whether a fact about sizes is known to be true; with symbolic sizes it often is not."""
    if not torch.compiler.is_compiling():
        return fact
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(fact)


def same_size(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether two sizes are equal, as far as that is known."""
    return known(a[0] == b[0]) and known(a[1] == b[1])
