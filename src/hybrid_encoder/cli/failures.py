"""Which failures are not bugs, and the one sentence that says what to do about each."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import Any

from hybrid_encoder.errors import HybridEncoderError, shortened

FULL = "free some space, or write to another place"
DENIED = "write to a place that you may change, or check the permissions"
HANDLES = "close some programs, raise the limit (ulimit -n), or take fewer --workers"
MEMORY = "take a smaller --size or batch, fewer --workers, or close other programs"

FIXES: Mapping[int, str] = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another place",
    errno.EROFS: DENIED,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EMFILE: HANDLES,
    errno.ENFILE: HANDLES,
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or take fewer --workers",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give the path of a file",
    errno.EEXIST: "give another path",
    errno.ENOTEMPTY: "give another path",
    errno.ELOOP: "check the links on its path",
    errno.ENETUNREACH: "check the connection, or download the weights first and name their folder",
    errno.EIO: "check the disk",
}
# How libraries that are not written in Python word the same failures.
WORDINGS = {
    errno.ENOSPC: r"No space left|os error 28\b|file write failed|unexpected pos \d+ vs|Disk quota exceeded",
    errno.EFBIG: r"File too large|os error 27\b",
    errno.EROFS: r"Read-only file system|os error 30\b",
    errno.EACCES: r"Permission denied|os error 13\b",
    errno.EMFILE: r"Too many open files|os error 24\b|received \d+ items of ancdata",
    errno.ENOMEM: r"out of memory|can't allocate memory|not enough memory|[Cc]annot allocate memory|os error 12\b",
    errno.ENOENT: r"os error 2\b",
    errno.ENETUNREACH: r"Failed to download|locate the file on the Hub|outgoing traffic has been disabled",
    errno.EAGAIN: r"can't start new thread|Resource temporarily unavailable",
}


def sentence_of(error: BaseException) -> str | None:
    """Return what stopped the program, and what to do about it, in one sentence; None for what can only be a bug."""
    if isinstance(error, HybridEncoderError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"the memory is not enough: {MEMORY}."
    if hasattr(error, "format_message"):  # of typer's parser, whose classes are its own or click's by its version
        return _of_usage(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return f"a name or text cannot be encoded ({error}); use other characters."
    return _of_library(error)


def _of_usage(error: Any) -> str:
    """Return what was typed wrong; nothing where the parser has shown the help instead."""
    message = shortened(" ".join(error.format_message().split()).rstrip("."))
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help." if message and context else message


def _of_system(error: OSError) -> str:
    number = error.errno or 0
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = f"{shortened(' -> '.join(names), 600)}: " if names else ""
    return f"{where}{error.strerror or os.strerror(number)}; {FIXES.get(number, 'nothing more was done')}."


def _of_library(error: BaseException) -> str | None:
    """Return the sentence of an error that tells only in words what the system said."""
    # The class of safetensors' errors is known only once it is loaded.
    if not (isinstance(error, RuntimeError | OSError | ImportError) or type(error).__name__ == "SafetensorError"):
        return None
    for number, wording in WORDINGS.items():
        if re.search(wording, str(error)):
            if isinstance(error.__context__, OSError) and error.__context__.errno in FIXES:  # the system's own word
                return _of_system(error.__context__)
            first = next(iter(str(error).splitlines()), "").rstrip(". ")
            return f"{os.strerror(number)} ({shortened(first, 300)}); {FIXES[number]}."
    return None
