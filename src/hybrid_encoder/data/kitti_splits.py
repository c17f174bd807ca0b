"""The frames of KITTI raw that a training or a test uses: drives in a folder, and splits as text files."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from hybrid_encoder.data.kitti import KittiDrive
from hybrid_encoder.data.opening import expanded, is_file, is_folder, is_there
from hybrid_encoder.errors import InputError

CAMERAS = {"l": 2, "r": 3}  # the sides in the lines of a split
SIDES = {camera: side for side, camera in CAMERAS.items()}
ODOMETRY = {  # the sequences of KITTI's odometry benchmark: raw drives, and their first frames (its development kit)
    0: ("2011_10_03_drive_0027", 0),
    1: ("2011_10_03_drive_0042", 0),
    2: ("2011_10_03_drive_0034", 0),
    3: ("2011_09_26_drive_0067", 0),
    4: ("2011_09_30_drive_0016", 0),
    5: ("2011_09_30_drive_0018", 0),
    6: ("2011_09_30_drive_0020", 0),
    7: ("2011_09_30_drive_0027", 0),
    8: ("2011_09_30_drive_0028", 1100),
    9: ("2011_09_30_drive_0033", 0),
    10: ("2011_09_30_drive_0034", 0),
}


def find_drives(root: str | Path) -> list[Path]:
    """List the folders of all drives under a KITTI raw root, in order; a drive's own folder is its only drive.

    Raises:
        InputError: the folder does not exist, or holds no drive.
    """
    root = expanded(root)
    if not is_there(root):
        raise InputError(f"{root} does not exist; give the folder of KITTI's dates, or that of one drive.")
    if any(is_folder(root / f"image_0{camera}") for camera in CAMERAS.values()):
        return [root.absolute()]  # the calibration lies in its parent, and '.' has none
    folders = sorted(folder for folder in root.glob("*/*_drive_*_sync") if is_folder(folder)) if is_folder(root) else []
    if not folders:
        raise InputError(f"{root} holds no drive, <date>/<date>_drive_<number>_sync; give the folder of KITTI's dates.")
    return folders


def read_split(root: str | Path, file: str | Path) -> list[tuple[KittiDrive, int, str]]:
    """Read the frames of a split, a text file with lines ``<date>/<drive> <frame> <l or r>``.

    Returns:
        For each line the drive, the number of the frame, and "<file>, line <number>" for error messages.

    Raises:
        InputError: the file does not exist or is empty, a line is malformed, or its drive or image does not exist.
    """
    root, file = expanded(root), expanded(file)
    if not is_file(file):
        raise InputError(f"{file} does not exist; give a text file with lines <date>/<drive> <frame> <l or r>.")
    open_drive, frames = cache(KittiDrive), cache(frames_of)  # a split has many lines of few drives
    found = []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        parts = re.fullmatch(r"(\S+)\s+([0-9]{1,18})\s+([lr])", line.strip())
        if not parts:
            raise InputError(
                f"{place}: {line.strip()!r} is not a frame; write <date>/<drive> <frame> <l or r>, "
                "such as '2011_09_26/2011_09_26_drive_0057_sync 311 l'."
            )
        try:
            drive = open_drive(root / parts[1], CAMERAS[parts[3]])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if int(parts[2]) not in frames(drive):
            raise InputError(
                f"{place}: {drive.folder} has no image {parts[2]} of camera {drive.camera}; complete the drive, or "
                "remove the line."
            )
        found.append((drive, int(parts[2]), place))
    if not found:
        raise InputError(f"{file} names no frame; write lines <date>/<drive> <frame> <l or r>.")
    return found


def frame_name(drive: KittiDrive, frame: int) -> str:
    """Return the line of a split that names this frame."""
    side = next(side for side, camera in CAMERAS.items() if camera == drive.camera)
    return f"{drive.folder.parent.name}/{drive.folder.name} {frame} {side}"


def frames_of(drive: KittiDrive) -> frozenset[int]:
    """Return the numbers of the frames of a drive that have an image."""
    return frozenset(drive.frames)
