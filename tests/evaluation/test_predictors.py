"""Predictors: what they give for an image, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hybrid_encoder import HybridDepthModel, InputError
from hybrid_encoder.evaluation import (
    FunctionPredictor,
    MatchingPredictor,
    ModelPredictor,
    Sample,
    SavedPredictions,
    blend_flipped,
)
from hybrid_encoder.geometry.camera import disparity_to_depth
from hybrid_encoder.geometry.pose import pose_matrix
from hybrid_encoder.models import HybridMatchingModel

HEIGHT, WIDTH = 75, 140
IMAGE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
BEFORE = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
K = torch.tensor([[80.0, 0, 69.5], [0, 80, 37], [0, 0, 1]])
SIZE = (64, 128)


def sample(index: int = 0, before: Any = BEFORE) -> Sample:
    truth = np.ones((HEIGHT, WIDTH), np.float32)
    return Sample(f"drive {index}", index, lambda: IMAGE, lambda: truth, lambda: before, K)


def lanczos(image: np.ndarray[Any, Any]) -> Tensor:
    """As Monodepth2's loader: resized on 8 bits."""
    small = np.array(Image.fromarray(image).resize((SIZE[1], SIZE[0]), Image.Resampling.LANCZOS))
    return torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255


def scaled(disparity: Tensor) -> np.ndarray[Any, Any]:
    """1 / depth between 0.1 and 100."""
    found: np.ndarray[Any, Any] = 0.01 + 9.99 * disparity.detach().double().numpy()[0, 0]
    return found


def test_a_model_sees_the_image_as_monodepth2_shows_it(tiny_model: HybridDepthModel) -> None:
    found = ModelPredictor(tiny_model, SIZE).predict(sample())
    with torch.no_grad():
        expected = scaled(tiny_model.eval()(lanczos(IMAGE)))
    assert found.gives == "disparity"
    assert found.values == pytest.approx(expected, rel=1e-5)


def test_a_model_may_see_the_image_as_predict_shows_it(tiny_model: HybridDepthModel) -> None:
    found = ModelPredictor(tiny_model, (HEIGHT, WIDTH), resampling="model").predict(sample())
    expected = tiny_model.infer(torch.from_numpy(IMAGE).permute(2, 0, 1), (HEIGHT, WIDTH)).disparity
    assert found.values == pytest.approx(scaled(expected[None]), rel=1e-5)
    small = ModelPredictor(tiny_model, SIZE, resampling="model").predict(sample())
    assert small.values.shape == SIZE
    assert np.abs(small.values / ModelPredictor(tiny_model, SIZE).predict(sample()).values - 1).max() > 1e-4


def test_disparity_stands_for_the_depth_that_the_protocol_or_the_model_says(tiny_model: HybridDepthModel) -> None:
    with torch.no_grad():
        disparity = tiny_model.eval()(lanczos(IMAGE))
    own = ModelPredictor(tiny_model, SIZE, depth_range=(1e-3, 10.0))
    expected = 1 / disparity_to_depth(disparity.double(), 1e-3, 10.0).numpy()[0, 0]
    assert not own.metric and own.predict(sample()).values == pytest.approx(expected, rel=1e-5)
    tiny_model.set_metric_scale(5.4)
    metric = ModelPredictor(tiny_model, SIZE, depth_range=(1e-3, 10.0))  # a model in metres knows its range
    assert metric.metric and metric.predict(sample()).values == pytest.approx(scaled(disparity) / 5.4, rel=1e-5)


def test_the_mirror_image_is_blended_in_as_monodepth_does(tiny_model: HybridDepthModel) -> None:
    found = ModelPredictor(tiny_model, SIZE, flip=True).predict(sample()).values
    with torch.no_grad():
        own = scaled(tiny_model.eval()(lanczos(IMAGE)))
        mirrored = scaled(tiny_model(lanczos(IMAGE).flip(-1)))[:, ::-1]
    for column in range(SIZE[1]):
        x = column / (SIZE[1] - 1)
        left = 1 - min(max(20 * (x - 0.05), 0), 1)
        right = 1 - min(max(20 * (1 - x - 0.05), 0), 1)
        mean = (own[:, column] + mirrored[:, column]) / 2
        expected = right * own[:, column] + left * mirrored[:, column] + (1 - left - right) * mean
        assert found[:, column] == pytest.approx(expected, rel=1e-5)
    ends = blend_flipped(np.ones((1, 50)), np.zeros((1, 50)))[0]
    assert ends[0] == 0 and ends[-1] == 1 and ends[25] == 0.5


def test_a_function_of_anybody_is_measured(tiny_model: HybridDepthModel) -> None:
    seen: list[Tensor] = []

    def guess(images: Tensor) -> Tensor:
        seen.append(images)
        return images.mean(1, keepdim=True) + 1

    found = FunctionPredictor(guess, "depth").predict(sample())
    assert torch.equal(seen[0], torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255)
    assert found.gives == "depth" and found.values == pytest.approx(IMAGE.mean(-1) / 255 + 1, rel=1e-5)
    predictor = FunctionPredictor(lambda images: images[0, 0].numpy(), "disparity", size=SIZE, name="red")
    assert np.array_equal(predictor.predict(sample()).values, lanczos(IMAGE)[0, 0].numpy()) and predictor.name == "red"
    assert FunctionPredictor(guess, "depth").name == "guess"
    wrong: Any = "metres"
    with pytest.raises(InputError, match="gives is 'metres'; it must be 'disparity'"):
        FunctionPredictor(guess, wrong)
    with pytest.raises(InputError, match=r"drive 0: the prediction is \(1, 3, 75, 140\) of float32; one map"):
        FunctionPredictor(lambda images: images, "depth").predict(sample()).disparity("drive 0")


@pytest.mark.parametrize("shape", [(3, 6, 10), (3, 1, 6, 10)])
def test_saved_predictions_are_read_in_their_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).random(shape, np.float32)
    np.save(tmp_path / "disps_eigen_split.npy", maps)
    predictor = SavedPredictions(tmp_path / "disps_eigen_split.npy")
    predictor.check([sample(index) for index in range(3)])
    for index in (2, 0):
        found = predictor.predict(sample(index))
        assert found.gives == "disparity" and np.array_equal(found.values, maps[index].reshape(6, 10))
    with pytest.raises(InputError, match="holds 3 predictions, and 2 images are evaluated; give the predictions of"):
        predictor.check([sample(index) for index in range(2)])


def test_files_that_hold_no_predictions_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (Path.touch, (tmp_path / "run",))  # type: ignore[return-value]

    np.save(tmp_path / "objects.npy", np.array([Trap()], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.ones((4, 4)))
    np.save(tmp_path / "empty.npy", np.ones((0, 4, 4)))
    np.save(tmp_path / "words.npy", np.full((1, 2, 2), "far"))
    np.savez(tmp_path / "many.npz", np.ones((1, 2, 2)))
    whole = (tmp_path / "flat.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-8])
    (tmp_path / "text.npy").write_text("no array")
    cases = {
        "gone.npy": "gone.npy is no file; give the .npy file",
        "objects.npy": r"cannot be read \(.*; an array of numbers \(N, H, W\) is needed",
        "flat.npy": r"holds \(4, 4\) of float64; an array of numbers",
        "empty.npy": r"holds \(0, 4, 4\)",
        "words.npy": "holds",
        "many.npz": "is an archive of arrays",
        "short.npy": "cannot be read",
        "text.npy": "cannot be read",
    }
    for name, says in cases.items():
        with pytest.raises(InputError, match=says):
            SavedPredictions(tmp_path / name)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def matching() -> HybridMatchingModel:
    torch.manual_seed(0)
    return HybridMatchingModel("tiny", pretrained=False).eval()


def motion(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """A motion that depends on both frames and on their order."""
    return 0.01 * first.mean((2, 3)), 0.1 * second.mean((2, 3)) - first.mean((2, 3))


@pytest.mark.parametrize("before", [BEFORE, None])
@pytest.mark.parametrize("missing", ["left out", "black"])
def test_a_multi_frame_model_sees_the_frame_before(matching: HybridMatchingModel, before: Any, missing: Any) -> None:
    found = MatchingPredictor(matching, motion, SIZE, missing=missing).predict(sample(before=before))
    lookup = torch.zeros(1, 3, *SIZE) if before is None else lanczos(before)
    pose = pose_matrix(*motion(lookup, lanczos(IMAGE)), invert=True)
    if before is None and missing == "left out":
        pose = torch.zeros_like(pose)
    quarter = torch.eye(4)  # pixel centres are at integers
    quarter[0, 0], quarter[1, 1] = 80 * 32 / WIDTH, 80 * 16 / HEIGHT
    quarter[0, 2], quarter[1, 2] = (69.5 + 0.5) * 32 / WIDTH - 0.5, (37 + 0.5) * 16 / HEIGHT - 0.5
    with torch.no_grad():
        disparity = matching(lanczos(IMAGE), lookup[:, None], pose[:, None], quarter[None], quarter.inverse()[None])
    assert found.values == pytest.approx(scaled(disparity), rel=1e-4)


def test_a_multi_frame_model_takes_manydepths_intrinsics_and_a_known_pose(matching: HybridMatchingModel) -> None:
    normalised = torch.tensor([[0.58, 0, 0.5], [0, 1.92, 0.5], [0, 0, 1]])
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = 0.3
    found = MatchingPredictor(matching, lambda *_: pose, SIZE, K=normalised).predict(sample())
    k = torch.eye(4)
    k[0, 0], k[1, 1], k[0, 2], k[1, 2] = 0.58 * 32, 1.92 * 16, 0.5 * 32, 0.5 * 16
    with torch.no_grad():
        disparity = matching(lanczos(IMAGE), lanczos(BEFORE)[:, None], pose[:, None], k[None], k.inverse()[None])
    assert found.values == pytest.approx(scaled(disparity), rel=1e-4)


def test_a_multi_frame_model_needs_videos_with_intrinsics(matching: HybridMatchingModel) -> None:
    predictor = MatchingPredictor(matching, motion, SIZE)
    predictor.check([sample()])
    still = Sample("still", 0, lambda: IMAGE, lambda: np.ones((2, 2), np.float32), None, K)
    unknown = Sample("unknown", 0, lambda: IMAGE, lambda: np.ones((2, 2), np.float32), lambda: None)
    with pytest.raises(InputError, match="still is of no video; a multi-frame model needs the frame before"):
        predictor.check([sample(), still])
    with pytest.raises(InputError, match="unknown has no intrinsics; give K"):
        predictor.check([unknown])
    wrong: Any = "guess"
    with pytest.raises(InputError, match="missing is 'guess'; it must be 'left out' or 'black'"):
        MatchingPredictor(matching, motion, missing=wrong)
    with pytest.raises(InputError, match="resampling is 'guess'; it must be 'lanczos' or 'model'"):
        ModelPredictor(HybridDepthModel("tiny", pretrained=False), resampling=wrong)
