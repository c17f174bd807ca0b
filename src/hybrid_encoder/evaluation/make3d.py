"""Make3D as a test set: the 134 images of Saxena et al., TPAMI 2009, cropped as Monodepth (CVPR 2017) crops them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.data.images import open_image
from hybrid_encoder.data.kitti_files import read_text
from hybrid_encoder.data.opening import expanded, is_file, is_folder, listed
from hybrid_encoder.errors import InputError, shortened
from hybrid_encoder.evaluation.samples import Sample

SIZE, TRUTH_SIZE = (2272, 1704), (55, 305)  # (H, W) of the images and of the laser's grid
ROWS, TRUTH_ROWS = slice(710, 1562), slice(17, 38)  # the middle, twice as wide as high: the others see sky and floor
GRID = "Position3DGrid"
MAX_BYTES = 2 * 2**20  # of a laser file, which may be compressed; the numbers of its grid are half a million bytes


def make3d_samples(root: str | Path) -> list[Sample]:
    """List the test images of Make3D with their laser depth, both cropped to the middle, in the order of their names.

    Args:
        root: the folder with ``Test134`` (``img-<name>.jpg``) and ``Gridlaserdata`` (``depth_sph_corr-<name>.mat``), as
            the archives unpack. A file ``make3d_test_files.txt`` in it, with the name of an image a line, gives another
            order.

    Raises:
        InputError: a folder or a laser file is missing, or scipy is, which reads these files.
    """
    try:
        import scipy.io  # noqa: F401
    except ImportError:
        raise InputError(
            "the package scipy is missing, and Make3D's laser files need it; install the extra: "
            "pip install 'hybrid-encoder[make3d]'."
        ) from None
    folder = expanded(root)
    images, lasers = folder / "Test134", folder / "Gridlaserdata"
    for place in (images, lasers):
        if not is_folder(place):
            raise InputError(f"{place} is not a folder; unpack Test134.tar.gz and Test134Depth.tar.gz of Make3D there.")
    order = folder / "make3d_test_files.txt"
    if is_file(order):
        files = [images / line.strip() for line in read_text(order).splitlines() if line.strip()]
    else:
        files = [file for file in listed(images.iterdir(), (".jpg",)) if file.name.startswith("img-")]
    if not files:
        raise InputError(f"{images} holds no img-<name>.jpg; unpack Test134.tar.gz of Make3D there.")
    samples = []
    for index, file in enumerate(files):
        laser = lasers / f"depth_sph_corr-{file.stem.removeprefix('img-')}.mat"
        for needed in (file, laser):
            if not is_file(needed):
                raise InputError(f"{needed} does not exist; unpack the archives of Make3D again.")
        samples.append(Sample(file.stem, index, partial(_image, file), partial(_laser_depth, laser), file=file))
    return samples


def _image(file: Path) -> NDArray[np.uint8]:
    image = np.asarray(open_image(file))
    if image.shape[:2] != SIZE:
        raise InputError(f"{file} is {image.shape[0]} x {image.shape[1]}; images of Make3D's test are 2272 x 1704.")
    return image[ROWS]


def _laser_depth(file: Path) -> NDArray[np.float32]:
    from scipy.io import loadmat

    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{file} has {file.stat().st_size:,} bytes; a laser file of Make3D has less than two million.")
    try:
        grid: Any = loadmat(file, variable_names=[GRID])[GRID]
    except Exception as error:  # damaged bytes make errors of every kind in the reader
        raise InputError(f"{file} cannot be read ({shortened(str(error), 200)}); unpack it again.") from None
    if grid.shape != (*TRUTH_SIZE, 4) or grid.dtype.kind not in "fiu":
        raise InputError(f"{file} holds {GRID} {grid.shape} of {grid.dtype}; numbers (55, 305, 4) are needed.")
    depth: NDArray[np.float32] = grid[TRUTH_ROWS, :, 3].astype(np.float32)
    return depth
