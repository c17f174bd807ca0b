"""Options that several commands have, and what is made of them: sizes, devices, folders."""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_encoder.cli.terminal import PlainConsole
from hybrid_encoder.config import MIN_SIZE
from hybrid_encoder.errors import ConfigError, InputError, shortened

if TYPE_CHECKING:
    import torch

    from hybrid_encoder.models.depth import HybridDepthModel
    from hybrid_encoder.models.sizes import WorkingSize

Source = Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, a stage-1 .ckpt file, or a Hub id.")]
Weights = Annotated[str, typer.Option(help="'tiny' (ships with the package), a checkpoint folder, or a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
OnCpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is an accelerator.")]

MAX_SIZE = 8192  # pixels: far above what a vision transformer can work at

console = PlainConsole()


def parse_size(text: str, name: str = "--size") -> tuple[int, int]:
    """Return the height and the width of ``HEIGHTxWIDTH``; ``name`` is what an error calls the text.

    Raises:
        InputError: another form, less than 32 pixels or more than 8192.
    """
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
        raise InputError(
            f"{name} is {shortened(repr(text), 40)}; give HEIGHTxWIDTH with both at least {MIN_SIZE} and at most "
            f"{MAX_SIZE}, for example 224x672."
        )
    return size


def parse_working_size(text: str | None) -> WorkingSize:
    """Return a size as ``infer`` takes it: ``HEIGHTxWIDTH`` as (H, W), ``native`` and None as they are.

    Raises:
        InputError: as :func:`parse_size`.
    """
    return text if text is None or text == "native" else parse_size(text)  # type: ignore[return-value]  # "native"


def parse_intrinsics(text: str | None) -> Any:
    """Return ``fx,fy,cx,cy``, or the 3x3 matrix in a file, as a list of three rows; None where none is given.

    Raises:
        InputError: neither four numbers nor a .json, .txt or .npy file with three rows of three.
    """
    if text is None:
        return None
    import numpy as np

    from hybrid_encoder.data.opening import expanded, is_file, is_there

    parts = text.split(",")
    if len(parts) == 4:
        try:
            fx, fy, cx, cy = map(float, parts)
        except ValueError:
            raise InputError(f"--intrinsics is {shortened(text, 80)!r}; fx,fy,cx,cy are four numbers.") from None
        return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
    path = expanded(text)
    if is_there(path) and not is_file(path):  # a pipe may never end
        raise InputError(f"{path} is not a regular file; give fx,fy,cx,cy or a .json, .txt or .npy file.")
    readers: dict[str, Any] = {
        ".json": lambda: json.loads(path.read_text(encoding="utf-8")),
        ".txt": lambda: np.loadtxt(path),
        ".npy": lambda: np.load(path, allow_pickle=False),
    }
    try:
        matrix = np.asarray(readers[path.suffix.lower()](), dtype=np.float64).reshape(3, 3)
    except KeyError:
        raise InputError(
            f"--intrinsics is {shortened(text, 80)!r}; give fx,fy,cx,cy or a .json, .txt or .npy file."
        ) from None
    except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or shortened(str(error), 120)
        raise InputError(f"{path} holds no 3x3 matrix of intrinsics ({reason}); give three rows of three.") from None
    return matrix.tolist()


def describe_weights(source: str, model: HybridDepthModel, size: WorkingSize) -> str:
    """Return a line that says which weights work, and at which size."""
    name = f"{source}, a toy for rendered streets: take real weights for photographs" if source == "tiny" else source
    from hybrid_encoder.models.sizes import UNKNOWN_PIXELS

    fitted = model.config.size
    if size == "native":
        works = "at each picture's own size"
    elif size is not None:
        works = f"at {size[0]} x {size[1]}"
    elif fitted is None:
        works = f"at up to {UNKNOWN_PIXELS:,} pixels, as the weights do not say what they were fitted at"
    else:
        works = f"at {fitted[0]} x {fitted[1]}, or as many pixels at another aspect"
    scale = "depth in metres" if model.config.metric else "depth without a scale"
    return f"weights: {name}; working {works}; {scale}"


def check_finite(option: str, value: float | None) -> None:
    """Raise InputError where an option was given something that is no number, or an infinite one."""
    if value is not None and not math.isfinite(value):
        raise InputError(f"{option} is {value}; give a finite number.")


def pick_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` takes an accelerator where there is one.

    Raises:
        InputError: a device that cannot be used here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that torch will give up
            device = torch.device(name)
            torch.zeros(1, device=device).add(1).item()  # "meta" makes tensors, and computes nothing
    except Exception as error:  # each backend has its own
        reason = shortened(next(iter(str(error).splitlines()), type(error).__name__), 200)
        raise InputError(f"--device is {name!r}, which cannot be used here ({reason}); try auto or cpu.") from None
    return torch.device("cpu") if device.type == "cpu" else device  # "cpu:5" is no other one


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it exists, and check that files can be made in it.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); give another folder.") from None
    _check_writable(path, "folder")


def check_file(path: Path, example: str) -> None:
    """Check, before the work, that a file can be written: what fails in the end would cost the work.

    Args:
        path: the file to write.
        example: a name for it, should the path be that of a folder.

    Raises:
        InputError: its folder is missing or not to be written to, or something that is no file has its name.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the path of a file, for example {path / example}.")
        if path.exists() and not path.is_file():  # a device, a pipe: it would be replaced
            raise InputError(f"{path} is no regular file; give another path.")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a folder; make it first, or give another path.")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give another path.") from None
    _check_writable(path.parent, "path")


def _check_writable(folder: Path, other: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); give another {other}.") from None


def refuse_unused(context: typer.Context, unused: Mapping[str, str]) -> None:
    """Raise ConfigError where an option was given that changes nothing.

    Args:
        context: of the command.
        unused: why options would change nothing, by the names of their parameters.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in unused and source is not None and source.name != "DEFAULT" and context.params[name] is not None:
            raise ConfigError(f"{parameter.opts[0]} would change nothing: {unused[name]}; leave it out.")
