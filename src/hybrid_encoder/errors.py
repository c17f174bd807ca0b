"""The errors that this package raises; each message names the value, the rule and the fix."""

from __future__ import annotations

import re

MAX_LENGTH = 1000  # characters of a message: several paths in full, not a name of thousands


def visible(text: str) -> str:
    r"""Return the text on one line, with everything that does not show written as an escape such as ``\x1b``.

    Names in files come from strangers: a control character would reach the terminal, and an override of the direction
    of writing would show another name than the file's. What shows, in any script, stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shortened(text: str, length: int = MAX_LENGTH) -> str:
    """Return the text with the middle left out of words that no path is as long as, and of what exceeds ``length``."""
    text = re.sub(r"\S{401,}", lambda word: f"{word[0][:200]}...{word[0][-100:]}", text)
    if len(text) <= length:
        return text
    tail = length // 3  # the rule and the fix stand at the end
    return f"{text[: length - tail - 5]} ... {text[-tail:]}"


class HybridEncoderError(Exception):
    """Base class of the package's own errors: one sentence on one line, safe to print wherever its names came from."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(shortened(visible(arg)) if isinstance(arg, str) else arg for arg in args))


class ConfigError(HybridEncoderError, ValueError):
    """A configuration that cannot be built."""


class InputError(HybridEncoderError, ValueError):
    """Images or files that a model cannot take."""


class CheckpointError(HybridEncoderError, ValueError):
    """Weights that cannot be found, read, or matched to a model."""


class AdapterError(HybridEncoderError, RuntimeError):
    """A foreign codebase that lacks what an adapter needs."""
