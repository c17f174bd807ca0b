"""How much memory this process has held at most, since a moment of one's own choice."""

from __future__ import annotations

import re
import resource
from pathlib import Path

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_peak() -> int:
    """Begin a new peak, where the system can (Linux), and return it in bytes, to be compared with :func:`peak`."""
    if REFERENCES.exists():
        REFERENCES.write_text("5")  # otherwise an earlier test's peak would hide this one's
    return peak()


def peak() -> int:
    """Return the peak in bytes."""
    if STATUS.is_file():
        found = re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
