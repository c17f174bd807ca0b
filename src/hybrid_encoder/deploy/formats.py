"""The kinds of files that a model can be written as: their names, suffixes and packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hybrid_encoder.errors import ConfigError, InputError, shortened


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffix: what the file's name ends with; the first format of a suffix is meant where only a name is given.
        packages: what writes it, beside torch.
        runtime: the package that runs it, beside torch.
        extra: the extra of this package that installs both.
        int8: whether int8 layers are possible, by a scale of every call ("dynamic") or of calibration ("static").
    """

    suffix: str
    packages: tuple[str, ...] = ()
    runtime: str | None = None
    extra: str = "export"
    int8: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript"), "onnxruntime", int8=("dynamic", "static")),
    "program": Format(".pt2"),
    "openvino": Format(".xml", ("onnx", "onnxscript", "openvino"), "openvino", "openvino", int8=("static",)),
    "aoti": Format(".pt2"),
}
ALIASES = {"pt2": "program"}


def choose_format(path: Path, to: str | None = None) -> str:
    """Return the format that a file is written as: the one that is named, else the one of its suffix.

    Args:
        path: of the file.
        to: a name of ``FORMATS``; None leaves it to the suffix.

    Raises:
        InputError: a suffix of no format, or of another one than is named.
        ConfigError: no such format.
    """
    if to is None:
        name = next((name for name, format in FORMATS.items() if format.suffix == path.suffix), None)
        if name is None:
            known = ", ".join(f"{format.suffix} ({name})" for name, format in FORMATS.items() if name != "aoti")
            raise InputError(
                f"{shortened(str(path), 200)} does not end with a suffix that says its format; give one of {known}."
            )
        return name
    name = ALIASES.get(to, to)
    if name not in FORMATS:
        raise ConfigError(f"the format is {shortened(repr(to), 40)}; one of {', '.join(FORMATS)} is needed.")
    if path.suffix != FORMATS[name].suffix:
        raise InputError(
            f"{shortened(str(path), 200)} does not end with {FORMATS[name].suffix}, as a file of the format {name} "
            "does; give another name or another format."
        )
    return name
