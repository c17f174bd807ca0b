"""The size that a model works at, where nobody says another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_encoder.errors import InputError
from hybrid_encoder.models.sizes import UNKNOWN_PIXELS, right_size, working_size

KITTI = (192, 640)
SIDES = st.integers(32, 20_000)


@pytest.mark.parametrize(
    ("image", "fitted", "right"),
    [
        ((375, 1242), KITTI, KITTI),  # aspect 3.31 against 3.33
        ((240, 640), KITTI, KITTI),  # 2.67: at the limit of 25 %
        ((241, 640), KITTI, (210, 574)),  # just beyond it
        ((3000, 4000), KITTI, (308, 406)),
        ((4000, 3000), KITTI, (406, 308)),
        ((64, 64), KITTI, (350, 350)),  # a small one is seen as large as the others
        ((32, 8000), KITTI, (42, 2926)),  # a panorama: no side below 32, and no more pixels
        ((1080, 1920), (518, 518), (392, 686)),
        ((100, 200), None, (100, 200)),
        ((3000, 4000), None, (308, 406)),
    ],
)
def test_known_cases(image: tuple[int, int], fitted: tuple[int, int] | None, right: tuple[int, int]) -> None:
    assert right_size(image, fitted, 14) == right


@given(SIDES, SIDES, st.integers(32, 1024), st.integers(32, 2048), st.sampled_from([14, 16, 32]))
def test_pixels_patches_and_aspect(height: int, width: int, h: int, w: int, patch: int) -> None:
    size = right_size((height, width), (h, w), patch)
    if size == (h, w):
        return
    rows, columns = size[0] / patch, size[1] / patch
    assert rows.is_integer() and columns.is_integer() and min(size) >= 32
    pixels, fewest = h * w / patch**2, -(-32 // patch)  # in patches
    exact = [(pixels * width / height) ** 0.5, (pixels * height / width) ** 0.5]
    most = max((exact[0] + 0.5) * (exact[1] + 0.5), pixels + fewest, fewest**2)
    assert rows * columns <= most * (1 + 1e-9), "as many pixels, up to half a patch on each side"
    if min(size) > 4 * patch:
        ratio = (size[1] / size[0]) / (width / height)
        assert max(ratio, 1 / ratio) < 1.3, "its own aspect, up to whole patches"


def test_what_is_asked_for() -> None:
    assert working_size(None, (375, 1242), KITTI, 14) == KITTI
    assert working_size("native", (375, 1242), KITTI, 14) == (375, 1242)
    assert working_size((64, 96), (375, 1242), KITTI, 14) == (64, 96)
    with pytest.raises(InputError, match="must be 'native'"):
        working_size("big", (375, 1242), KITTI, 14)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="64 megapixels"):
        working_size("native", (9000, 9000), KITTI, 14)


def test_without_a_fitted_size_small_pictures_stay() -> None:
    height, width = right_size((2000, 3000), None, 14)
    assert abs(height * width / UNKNOWN_PIXELS - 1) < 0.05
