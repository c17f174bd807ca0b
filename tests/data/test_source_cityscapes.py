"""Cityscapes' videos, in the layout of its archives, with a camera file as it is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import InputError
from hybrid_encoder.data.sequences import SourceSequences
from hybrid_encoder.data.sources.cityscapes import cityscapes_sources, is_cityscapes
from hybrid_encoder.training.trained_on import training_record

CAMERA = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
}
OTHER = {"extrinsic": {"baseline": 0.222126}, "intrinsic": {"fx": 2268.36, "fy": 2225.54, "u0": 1048.64, "v0": 519.28}}


def write_city(root: Path, city: str, snippets: dict[str, dict[int, dict[str, Any]]], frames: tuple[int, ...]) -> None:
    """Write snippets by sequence and number of the image with labels, of frames counted from it; only Aachen's are of
    full size.
    """
    for sequence, cameras in snippets.items():
        for middle, camera in cameras.items():
            folder = root / "camera" / "train" / city
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{city}_{sequence}_{middle:06d}_camera.json").write_text(json.dumps(camera))
            for frame in (middle + offset for offset in frames):
                for side in ("left", "right"):
                    folder = root / f"{side}Img8bit_sequence" / "train" / city
                    folder.mkdir(parents=True, exist_ok=True)
                    pixels = np.zeros(((1024, 2048, 3) if city == "aachen" else (32, 64, 3)), np.uint8)
                    pixels[:768] = frame % 100 + (100 if side == "right" else 0)  # the car below is black
                    image = Image.fromarray(pixels)
                    image.save(folder / f"{city}_{sequence}_{frame:06d}_{side}Img8bit.png", compress_level=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A snippet of Aachen, and two of Hamburg in one sequence, the second right behind the first."""
    write_city(tmp_path, "aachen", {"000003": {19: CAMERA}}, (-1, 0, 1))
    write_city(tmp_path, "hamburg", {"000000": {19: CAMERA, 49: OTHER}}, (-19, 9, 10))
    folder = tmp_path / "disparity" / "train" / "aachen"
    folder.mkdir(parents=True)
    disparity = np.zeros((1024, 2048), np.uint16)
    disparity[0, :3] = (256 * 20 + 1, 1, 12801)
    disparity[1023] = 9999  # the car
    Image.fromarray(disparity).save(folder / "aachen_000003_000019_disparity.png")
    return tmp_path


def test_a_snippet_is_a_recording_without_the_car(root: Path) -> None:
    assert is_cityscapes(root)
    source, *hamburg = cityscapes_sources(root)
    assert list(source.frames) == [18, 19, 20] and source.size == (768, 2048)
    K = np.array([[2262.52, 0, 1096.98], [0, 2265.3017905988554, 513.137], [0, 0, 1]], np.float32)
    assert source.K is not None and np.array_equal(source.K, K)
    np.testing.assert_allclose(source.image(19), np.full((3, 768, 2048), 19 / 255), atol=1e-7)
    assert source.file(19) == root.joinpath("leftImg8bit_sequence/train/aachen/aachen_000003_000019_leftImg8bit.png")
    np.testing.assert_allclose(source.right(20), np.full((3, 768, 2048), 120 / 255), atol=1e-7)
    assert source.baseline == 0.209313 and source.world_T_cam(19) is None
    assert source.frame_name(19) == "aachen aachen_000003_000019", "a line of ManyDepth's lists"
    assert [list(one.frames) for one in hamburg] == [[0, 28, 29], [30, 58, 59]]
    assert hamburg[0].camera == source.camera and source.camera != hamburg[1].camera and hamburg[1].baseline == 0.222126
    split = root / "leftImg8bit_sequence" / "train"
    assert is_cityscapes(split) and cityscapes_sources(split)[0].name == source.name
    whole = cityscapes_sources(root, crop_bottom=0, cities=["aachen"])[0]
    assert whole.size == (1024, 2048) and not whole.image(19)[:, 768:].any() and np.array_equal(np.asarray(whole.K), K)


def test_disparity_is_depth_in_metres(root: Path) -> None:
    source = cityscapes_sources(root)[0]
    depth = source.depth(19)
    assert depth is not None and depth.shape == (1, 768, 2048) and depth.dtype == np.float32
    np.testing.assert_allclose(depth[0, 0, :3], [0.209313 * 2262.52 / 20, 0, 0.209313 * 2262.52 / 50], rtol=1e-5)
    assert (depth > 0).sum() == 2, "0 is unknown, and the car is cut off"
    source.K = np.eye(3, dtype=np.float32)  # which a person says, or which are learned
    assert np.array_equal(np.asarray(source.depth(19)), depth)
    assert source.depth(18) is None, "the archive has that of images with labels alone"
    (root / "disparity").rename(root / "disparity_sequence")
    again = cityscapes_sources(root)[0].depth(19)
    assert again is not None and (again == depth).all()


def test_items_have_neighbours_of_their_snippet_alone(root: Path) -> None:
    items = SourceSequences(cityscapes_sources(root), (192, 512), stereo=True)
    assert [item[:2] for item in items.items] == [(0, 19)], "29 and 30 are of two snippets"
    item = items[0]
    np.testing.assert_allclose(item.images.mean((1, 2, 3)), np.array([19, 18, 20, 119]) / 255, atol=1e-6)
    np.testing.assert_allclose(item.K[0], [565.63, 0, (1096.98 + 0.5) / 4 - 0.5], rtol=1e-6)
    assert item.baseline == pytest.approx(0.209313)
    record = training_record("fine", items)
    assert record["known"] and record["drives"] == {"aachen_000003": {"": "19"}}, "as the test set names its frames"


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"split is 'all'; Cityscapes has train, val, test\."):
        cityscapes_sources(root, "all")
    with pytest.raises(
        InputError, match=r"not leftImg8bit_sequence/val; unpack leftImg8bit_sequence_trainvaltest\.zip"
    ):
        cityscapes_sources(root, "val")
    with pytest.raises(InputError, match=r"has no city bonn; it has aachen, hamburg\."):
        cityscapes_sources(root, cities=["bonn"])
    with pytest.raises(InputError, match=r"crop_bottom is 1; give a share of the height"):
        cityscapes_sources(root, crop_bottom=1)
    camera = root / "camera" / "train" / "aachen" / "aachen_000003_000019_camera.json"
    camera.write_text(json.dumps({"intrinsic": {"fx": 1}}))
    with pytest.raises(InputError, match=r"000019_camera\.json holds no 'intrinsic' with fx, fy, u0 and v0"):
        cityscapes_sources(root)
    camera.write_text(json.dumps({**CAMERA, "extrinsic": {"baseline": -3}}))
    with pytest.raises(InputError, match=r"holds a baseline of -3 m"):
        cityscapes_sources(root)
    camera.unlink()
    with pytest.raises(InputError, match=r"aachen_000003 has frame 18, and .* no camera file of an image from 8 to 37"):
        cityscapes_sources(root)
    (root / "camera").rename(root / "cameras")
    with pytest.raises(InputError, match=r"camera.train.aachen does not exist; unpack camera_trainvaltest\.zip"):
        cityscapes_sources(root)
    (tmp_path / "single" / "leftImg8bit").mkdir(parents=True)
    assert is_cityscapes(tmp_path / "single") and not is_cityscapes(tmp_path / "disparity")
    with pytest.raises(InputError, match=r"single holds leftImg8bit, not .*: single images have no neighbours in time"):
        cityscapes_sources(tmp_path / "single")


def test_an_image_of_another_size_does_not_go_with_the_camera(root: Path) -> None:
    source = cityscapes_sources(root)[0]
    file = root / "leftImg8bit_sequence" / "train" / "aachen" / "aachen_000003_000018_leftImg8bit.png"
    Image.new("RGB", (1024, 512)).save(file)
    with pytest.raises(InputError, match=r"is 512 x 1024, but the intrinsics are for 1024 x 2048"):
        source.image(18)
