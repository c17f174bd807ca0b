"""Our numbers beside those of Monodepth2's own evaluation, on real KITTI frames.

The licence of that code is non-commercial: it is read from the user's own checkout, never kept here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybrid_encoder import HybridDepthModel
from hybrid_encoder.evaluation import (
    PROTOCOLS,
    Evaluation,
    ModelPredictor,
    Predictor,
    Sample,
    SavedPredictions,
    evaluate,
    kitti_samples,
)

from helpers.checkouts import DATA, DRIVE, Checkout

CHECKOUT = os.environ.get("HYBRID_ENCODER_MONODEPTH2", "")
PACKAGES = os.environ.get("HYBRID_ENCODER_FAMILY", "")
DRIVER = Path(__file__).parents[1] / "helpers" / "monodepth2_evaluation.py"
SIZE = (96, 320)
FRAMES = [int(file.stem) for file in sorted((DATA / DRIVE / "velodyne_points" / "data").glob("*.bin"))]

pytestmark = [
    pytest.mark.monodepth2,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(CHECKOUT, "evaluate_depth.py").is_file(),
        reason="HYBRID_ENCODER_MONODEPTH2 names no Monodepth2 checkout",
    ),
    pytest.mark.skipif(not FRAMES, reason=f"no KITTI frames at {DATA} (HYBRID_ENCODER_DATA)"),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the repository found, in a folder."""
    folder = tmp_path_factory.mktemp("monodepth2")
    checkout = Checkout(CHECKOUT, folder / "checkout")
    (folder / "split.txt").write_text("".join(f"{DRIVE} {frame} l\n" for frame in FRAMES))
    os.environ["PACKAGES"] = str(Path(PACKAGES, "site")) if PACKAGES else ""
    arguments = [folder, DATA, folder / "split.txt", "tiny", *SIZE]
    checkout.run(str(DRIVER), *map(str, arguments))
    checkout.assert_unmodified()
    return folder


def frames(theirs: Path, archive: str, numbers: list[int]) -> list[Sample]:
    """The repository's ground truth."""
    truths = np.load(theirs / archive)["data"]
    assert len(truths) == len(numbers)

    def image(frame: int) -> Any:
        return np.asarray(Image.open(DATA / DRIVE / "image_02" / "data" / f"{frame:010d}.png").convert("RGB"))

    return [
        Sample(f"{DRIVE} {frame} l", index, lambda frame=frame: image(frame), lambda index=index: truths[index])  # type: ignore[misc]
        for index, frame in enumerate(numbers)
    ]


def assert_equal(found: Evaluation, theirs: Path, name: str) -> None:
    expected = json.loads((theirs / "errors.json").read_text())[name]
    ours = [list(image.metrics.as_dict().values()) for image in found.images]
    pixels = np.array([[image.metrics.num_valid] for image in found.images])
    difference = np.abs(np.array(ours) - expected) / np.maximum(np.abs(expected), 1)
    errors, shares = difference[:, :4], np.rint(difference[:, 4:] * pixels)  # of pixels below a threshold
    print(f"{name}: {len(ours)} images, largest difference {errors.max():.2g}, {shares.sum():.0f} pixels")
    assert errors.max() < 1e-6
    assert shares.sum() <= 1  # the repository's ratios are float32: one may round to the other side
    assert list(found.mean.as_dict().values())[:4] == pytest.approx(np.mean(expected, axis=0)[:4], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("flip", {}),
        ("stereo", {"factor": 5.4}),
        ("unscaled", {"factor": 2.0, "median_scaling": False}),
    ],
)
@pytest.mark.parametrize("source", ["saved", "model"])
def test_eigen_gives_the_numbers_of_its_evaluation(
    theirs: Path, name: str, options: dict[str, Any], source: str
) -> None:
    samples = frames(theirs, "gt_eigen.npz", FRAMES)
    predictor: Predictor
    if source == "saved":
        predictor = SavedPredictions(theirs / ("flip.npy" if name == "flip" else "plain.npy"))
    else:
        predictor = ModelPredictor(HybridDepthModel.from_pretrained("tiny"), SIZE, flip=name == "flip")
    assert_equal(evaluate(predictor, samples, "eigen", **options), theirs, name)


def test_eigen_improved_gives_the_numbers_of_its_evaluation(theirs: Path) -> None:
    samples = frames(theirs, "gt_eigen_benchmark.npz", [5])
    assert_equal(evaluate(SavedPredictions(theirs / "annotated.npy"), samples, "eigen-improved"), theirs, "annotated")
    predictor = ModelPredictor(HybridDepthModel.from_pretrained("tiny"), SIZE)
    assert_equal(evaluate(predictor, samples, "eigen-improved"), theirs, "annotated")


@pytest.mark.parametrize(
    ("protocol", "archive", "name"),
    [("eigen", "gt_eigen.npz", "flip"), ("eigen-improved", "gt_eigen_benchmark.npz", "annotated")],
)
def test_nothing_of_the_repository_is_needed_for_its_numbers(
    theirs: Path, protocol: str, archive: str, name: str
) -> None:
    """Our reader, ground truth, model and arithmetic, from the files of KITTI on."""
    truth: Any = PROTOCOLS[protocol].truth
    samples = kitti_samples(DATA, theirs / "split.txt" if name == "flip" else None, truth=truth)
    expected = np.load(theirs / archive)["data"]
    assert len(expected) == len(samples)
    for sample, depth in zip(samples, expected, strict=True):
        assert np.array_equal(sample.read_truth(), depth), sample.name
    predictor = ModelPredictor(HybridDepthModel.from_pretrained("tiny"), SIZE, flip=name == "flip")
    assert_equal(evaluate(predictor, samples, protocol), theirs, name)
