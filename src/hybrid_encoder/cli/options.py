"""Options that several commands have, and what is made of them: sizes, devices, folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    import torch

Source = Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, a stage-1 .ckpt file, or a Hub id.")]
Weights = Annotated[str, typer.Option(help="'tiny' (ships with the package), a checkpoint folder, or a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
OnCpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is an accelerator.")]

console = Console()


def parse_size(text: str) -> tuple[int, int]:
    """Return the height and the width of ``HEIGHTxWIDTH``.

    Raises:
        InputError: another form, or less than 32 pixels.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(int(found[1]), int(found[2])) < MIN_SIZE:
        raise InputError(f"--size is {text!r}; give HEIGHTxWIDTH with both at least {MIN_SIZE}, for example 224x672.")
    return int(found[1]), int(found[2])


def pick_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` takes an accelerator where there is one.

    Raises:
        InputError: a device that cannot be used here.
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
    """Make a folder and those above it, unless it exists.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); give another folder.") from None
