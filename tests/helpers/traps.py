"""Harmless stand-ins for what a hostile file would do: run code, reach the network, start another program."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class _MakesFolder:
    """Unpickling this makes a folder: code that ran, and left a trace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        import os

        return os.makedirs, (str(self.folder),)


@dataclass
class Traps:
    """What would be left behind by code that ran, and what was asked of the network.

    Attributes:
        sprung: a folder that :meth:`pickle` makes once its bytes are unpickled.
        ghostscript: a file that the stand-in for ``gs`` writes once it is started.
        requests: what was asked of sockets, each refused.
    """

    sprung: Path
    ghostscript: Path
    requests: list[str] = field(default_factory=list)

    def pickle(self) -> bytes:
        """Return a pickle that makes a folder when it is read without care."""
        return pickle.dumps(_MakesFolder(self.sprung))

    def trap(self) -> Any:
        """Return an object that pickles to :meth:`pickle`, to be hidden inside something larger."""
        return _MakesFolder(self.sprung)

    def check(self) -> None:
        """Assert that nothing ran and nothing was asked of the network."""
        assert not self.sprung.exists(), "a file ran code"
        assert not self.ghostscript.exists(), "a picture started ghostscript"
        assert not self.requests, f"the network was asked: {self.requests}"


@contextmanager
def closed_network(requests: list[str]) -> Iterator[None]:
    """Refuse every connection and every name, and note what was asked; sockets of one machine's processes stay."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def refuse_connection(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX:
            return connect(self, address)
        requests.append(f"connection to {address}")
        raise ConnectionRefusedError(f"the network is closed in this test: {address}")

    def refuse_name(host: Any, *args: Any, **options: Any) -> Any:
        requests.append(f"name {host}")
        raise socket.gaierror(f"the network is closed in this test: {host}")

    socket.socket.connect = refuse_connection  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = refuse_name
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.getaddrinfo = lookup


def put_ghostscript(folder: Path, written: Path) -> None:
    """Put a program ``gs`` into a folder that does nothing but write a file when it is started."""
    folder.mkdir(exist_ok=True)
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\necho started > '{written}'\nexit 1\n")
    program.chmod(0o755)
