"""What reaches the terminal: text as it is, without markup and without a control character of its own."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from hybrid_encoder.errors import visible


class PlainConsole(Console):
    """A console for text that comes from strangers: names of files, and what a file says.

    Everything is printed as it stands: ``[/x]`` is no markup, ``:x:`` no emoji, and control characters are escapes that
    show. What rich draws itself (progress bars, tables, styles) is as in any console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the pieces of an object, made visible: everything that is printed comes through here."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = segment.text.split("\n")  # line ends are the console's own
                yield Segment("\n".join(map(visible, lines)), segment.style)


def prepare_streams() -> None:
    """Let standard output and error write names that their encoding does not know, as escapes.

    One that was closed before the program began takes everything and keeps nothing.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_streams() -> None:
    """Send what Python would still flush when it ends nowhere, if standard output cannot take it (a full disk)."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # no file stands behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(sentence: str) -> None:
    """Print an error on standard error, on one line."""
    with contextlib.suppress(OSError):  # nobody is left to read it
        sys.stderr.write(f"error: {visible(sentence)}\n")
        sys.stderr.flush()
