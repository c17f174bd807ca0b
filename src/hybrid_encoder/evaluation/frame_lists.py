"""Lists of video frames: which recording a line means and which frame, and many of them in few characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_encoder.config.checking import shown
from hybrid_encoder.data.kitti_splits import ODOMETRY
from hybrid_encoder.data.opening import expanded, is_file
from hybrid_encoder.errors import InputError

LINE = re.compile(r"(?P<folder>\S+)\s+(?P<number>0*[0-9]{1,9})(?:\s+(?P<side>[lr]))?(?:\s.*)?", re.ASCII)
KITTI_IMAGE = re.compile(
    r"(?P<folder>[0-9]{4}_[0-9]{2}_[0-9]{2}_drive_[0-9]{4}_(?:sync|extract))[/\\](?:proj_depth[/\\]\w+[/\\])?"
    r"image_0(?P<camera>[0-3])[/\\](?:data[/\\])?(?P<number>0*[0-9]{1,9})\.\w+",
    re.ASCII,
)
SPANS = re.compile(r"[0-9]{1,9}(?:-[0-9]{1,9})?(?:,[0-9]{1,9}(?:-[0-9]{1,9})?)*", re.ASCII)
MOST_FRAMES = 2_000_000  # of a record: a stranger's may claim any number, and each takes memory


class Frame(NamedTuple):
    """One frame of a recording.

    Args:
        drive: name of the recording, as :func:`drive_name` returns it.
        number: in the recording.
        side: ``"l"`` or ``"r"``, the camera; empty where there is one, or where it is not known.
    """

    drive: str
    number: int
    side: str = ""

    def __str__(self) -> str:
        return " ".join([self.drive, str(self.number), *([self.side] if self.side else [])])


def drive_name(folder: str) -> str:
    """Return the name by which a recording is known, whatever folder it stands in: its last part, without ``_sync``."""
    return re.split(r"[/\\]", folder.rstrip("/\\"))[-1].removesuffix("_sync")


def parse_frame(line: str) -> Frame | None:
    """Return the frame that a line of a list means; None where it means none.

    Known are lines ``<folder> <frame> <l or r>``, as Monodepth2's splits have them, with or without the date or the
    side; those of KITTI's odometry benchmark, whose sequences are raw drives; and paths of KITTI's images.
    """
    if frame := frame_of_path(line):
        return frame
    found = LINE.fullmatch(line.strip())
    if found is None:
        return None
    drive, number = drive_name(found["folder"]), int(found["number"])
    if re.fullmatch("[0-9]{1,2}", drive) and int(drive) in ODOMETRY:
        drive, first = ODOMETRY[int(drive)]
        number += first
    return Frame(drive, number, found["side"] or "")


def frame_of_path(path: str) -> Frame | None:
    """Return the frame of an image in one of KITTI's folders; None for any other path."""
    found = KITTI_IMAGE.search(path)
    if found is None:
        return None
    return Frame(drive_name(found["folder"]), int(found["number"]), "lr"[int(found["camera"]) % 2])


def read_frame_list(file: str | Path) -> list[Frame]:
    """Read the frames of a list, one a line, as :func:`parse_frame` understands them. No image needs to exist.

    Raises:
        InputError: the file does not exist or names no frame, or a line means none.
    """
    file = expanded(file)
    if not is_file(file):
        raise InputError(f"{file} is no file; give a text file with lines <date>/<drive> <frame> <l or r>.")
    frames = []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        frame = parse_frame(line)
        if frame is None:
            raise InputError(
                f"{file}, line {number}: {line.strip()!r} is no frame; write <date>/<drive> <frame> <l or r>."
            )
        frames.append(frame)
    if not frames:
        raise InputError(f"{file} names no frame; write lines <date>/<drive> <frame> <l or r>.")
    return frames


def pack_frames(frames: Iterable[Frame]) -> dict[str, dict[str, str]]:
    """Return frames as JSON has them: by drive and side, as numbers and spans of them such as ``"1-4,7"``."""
    numbers: dict[str, dict[str, set[int]]] = {}
    for frame in frames:
        numbers.setdefault(frame.drive, {}).setdefault(frame.side, set()).add(frame.number)
    return {
        drive: {side: _spans(sorted(found)) for side, found in sorted(sides.items())}
        for drive, sides in sorted(numbers.items())
    }


def unpack_frames(packed: Any) -> list[Frame]:
    """Return the frames that :func:`pack_frames` has written.

    Raises:
        InputError: it is something else, or more frames than any training has.
    """
    frames: list[Frame] = []
    if not isinstance(packed, Mapping):
        raise InputError(f"a record of frames is {shown(packed)}; drives with their frames are needed.")
    for drive, sides in packed.items():
        for side, spans in sides.items() if isinstance(sides, Mapping) else [("", sides)]:
            if not isinstance(spans, str) or not SPANS.fullmatch(spans):
                raise InputError(f"a record of frames has {shown(spans)} of {drive!r}; such as '1-4,7' is needed.")
            for span in spans.split(","):
                first, _, last = span.partition("-")
                numbers = range(int(first), int(last or first) + 1)
                if len(frames) + len(numbers) > MOST_FRAMES:
                    raise InputError(f"a record names more than {MOST_FRAMES} frames; no training has as many.")
                frames += [Frame(drive, number, str(side)) for number in numbers]
    return frames


def _spans(numbers: Sequence[int]) -> str:
    """Write rising numbers, with ``first-last`` where they follow each other."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
