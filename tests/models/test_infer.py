"""``infer`` takes what people hold, in any mixture, and gives for it what it gives for tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.errors import InputError

from helpers.pictures import scene

PIXELS = scene(60, 90)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def model() -> HybridDepthModel:
    return HybridDepthModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def expected(model: HybridDepthModel) -> torch.Tensor:
    return model.infer(TENSOR).disparity


def _file(folder: Path) -> Path:
    Image.fromarray(PIXELS).save(folder / "a.png")
    return folder / "a.png"


def held(folder: Path) -> dict[str, Any]:
    """The same picture in every form."""
    return {
        "path": _file(folder),
        "str": str(_file(folder)),
        "PIL": Image.fromarray(PIXELS),
        "opened": Image.open(_file(folder)),
        "uint8": PIXELS,
        "uint16": PIXELS.astype(np.uint16) * 257,
        "float32": PIXELS.astype(np.float32) / 255,
        "float64": PIXELS / 255,
        "RGBA": np.dstack([PIXELS, np.zeros((60, 90), np.uint8)]),
        "strided": np.asfortranarray(PIXELS),
        "tensor": TENSOR,
        "bytes": torch.from_numpy(PIXELS).permute(2, 0, 1),
    }


def test_every_form_gives_the_same(model: HybridDepthModel, expected: torch.Tensor, tmp_path: Path) -> None:
    for name, image in held(tmp_path).items():
        prediction = model.infer(image)
        assert prediction.disparity.shape == (1, 60, 90), name
        torch.testing.assert_close(prediction.disparity, expected, msg=name)
        assert prediction.source is image


def test_grey_is_three_equal_channels(model: HybridDepthModel) -> None:
    grey = PIXELS[..., 0]
    expected = model.infer(np.dstack([grey] * 3)).disparity
    for image in (grey, grey[..., None], Image.fromarray(grey), grey / np.float32(255)):
        torch.testing.assert_close(model.infer(image).disparity, expected)


def test_a_list_of_mixed_kinds_and_sizes(model: HybridDepthModel, tmp_path: Path) -> None:
    images = [*held(tmp_path).values(), scene(40, 130), Image.fromarray(scene(90, 60)), torch.rand(3, 40, 130)]
    alone = [model.infer(image) for image in images]
    for batch_size in (None, 1, 2, 5):
        together = model.infer(images, batch_size=batch_size)
        assert [p.disparity.shape for p in together] == [p.disparity.shape for p in alone]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.disparity, other.disparity)
            assert one.source is other.source


def test_a_batch_is_split_as_asked(model: HybridDepthModel) -> None:
    seen: list[int] = []
    hook = model.decoder.register_forward_hook(lambda _, __, outputs: seen.append(len(next(iter(outputs.values())))))
    batch = torch.rand(5, 3, 40, 64)
    whole = model.infer(batch)
    split = model.infer(batch, batch_size=2)
    hook.remove()
    assert seen == [5, 2, 2, 1]
    torch.testing.assert_close(split.disparity, whole.disparity)
    assert len(whole) == 5
    for index, one in enumerate(whole):
        torch.testing.assert_close(one.disparity, model.infer(batch[index]).disparity)


def test_a_stream_is_read_a_batch_ahead_and_no_further(model: HybridDepthModel) -> None:
    read = 0

    def images() -> Iterator[torch.Tensor]:
        nonlocal read
        for _ in range(10):
            read += 1
            yield torch.rand(3, 40, 64)

    stream = model.infer_stream(images(), batch_size=3)
    next(stream)
    assert read == 3
    assert len(list(stream)) == 9 and read == 10


def test_it_works_at_the_right_size(model: HybridDepthModel) -> None:
    sizes: list[tuple[int, int]] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    model.infer(torch.rand(3, 375, 1242))
    model.infer(torch.rand(2, 3, 300, 400))
    model.infer(torch.rand(3, 64, 128), size="native")
    model.infer(torch.rand(3, 64, 128), size=(32, 64))
    hook.remove()
    assert model.config.size == (96, 320)
    assert sizes == [(96, 320), (154, 196), (64, 128), (32, 64)]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((3, 64, 96), np.uint8), "transpose it"),
        (np.zeros((64, 96, 2), np.uint8), r"\(H, W, 3\) or \(H, W\)"),
        (np.zeros((2, 64, 96, 3), np.uint8), r"\(H, W, 3\) or \(H, W\)"),
        (np.zeros((64, 96, 3), np.int32), "int32; uint8, uint16"),
        (np.zeros((64, 96, 3), bool), "bool; uint8, uint16"),
        (np.full((64, 96, 3), 255.0), "divide bytes by 255"),
        (np.full((64, 96, 3), np.nan), r"RGB in \[0, 1\]"),
        (np.zeros((8, 96, 3), np.uint8), "at least 32"),
        (Image.new("RGB", (96, 8)), "at least 32"),
        (Image.new("F", (96, 64)), "32 bits"),
        ("nowhere.png", "does not exist"),
        (None, "NoneType; a path, a PIL image"),
        (b"bytes", "a bytes; a path"),
        ([PIXELS, "nowhere.png"], "nowhere.png does not exist"),
        ([PIXELS, None], r"images\[1\] is a NoneType"),
    ],
)
def test_what_is_no_picture(model: HybridDepthModel, image: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        model.infer(image)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "4"])
def test_what_is_no_batch_size(model: HybridDepthModel, batch_size: Any) -> None:
    with pytest.raises(InputError, match=r"batch_size is .* from 1 up"):
        model.infer(TENSOR, batch_size=batch_size)


def test_an_array_that_may_not_be_written_to_stays_as_it_was(model: HybridDepthModel) -> None:
    for array in (PIXELS.copy(), PIXELS.astype(np.float32) / 255):
        before = array.copy()
        array.flags.writeable = False
        model.infer(array)
        assert np.array_equal(array, before)


def test_a_turned_photograph(model: HybridDepthModel, tmp_path: Path) -> None:
    image = Image.fromarray(scene(60, 90))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert model.infer(tmp_path / "turned.jpg").size == (90, 60)
    opened = Image.open(tmp_path / "turned.jpg")
    assert model.infer(opened).size == (90, 60)
    assert opened.size == (90, 60), "a person's image stays as it was"


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-5)])
def test_a_model_of_another_precision(dtype: torch.dtype, near: float) -> None:
    model = HybridDepthModel.from_pretrained("tiny")
    image = scene(70, 90)
    expected = model.infer(image).disparity
    other = model.to(dtype).infer(image)
    assert other.disparity.dtype == torch.float32
    torch.testing.assert_close(other.disparity, expected, rtol=0, atol=near)
