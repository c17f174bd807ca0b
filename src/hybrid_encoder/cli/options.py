"""What several commands make of what is typed: sizes, devices, folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    import torch


def parse_size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` as both numbers.

    Raises:
        InputError: another form, or less than 32 pixels.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(int(found[1]), int(found[2])) < MIN_SIZE:
        raise InputError(f"--size is {text!r}; give HEIGHTxWIDTH with both at least {MIN_SIZE}, for example 224x672.")
    return int(found[1]), int(found[2])


def pick_device(name: str) -> torch.device:
    """The device of this name; ``auto`` takes an accelerator where there is one.

    Raises:
        InputError: none that can be used here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device is {name!r}, which cannot be used here ({reason}); try auto or cpu.") from None
    return device


def make_folder(path: Path) -> None:
    """A folder with all that lies above it, which may be there already.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); give another folder.") from None
