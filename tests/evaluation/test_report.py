"""The report of an evaluation: its numbers, its pictures, and the folder that it may be written into."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation.baselines import evaluate_baselines
from hybrid_encoder.evaluation.evaluating import Compared, compare, evaluate
from hybrid_encoder.evaluation.pictures import UNKNOWN, error_map
from hybrid_encoder.evaluation.predictors import FunctionPredictor, Prediction
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.report import check_report_folder, weight_hashes, write_report
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.evaluation.tables import images_csv

WHOLE = Protocol("whole", "for tests", "lidar")
SIZE = (48, 96)


def sample(index: int, depth: float, name: str = "") -> Sample:
    """A sample whose image is as bright as its place, and whose truth is known in its lower half."""
    truth = np.zeros(SIZE, np.float32)
    truth[24:] = depth
    image = np.full((*SIZE, 3), 10 * index, np.uint8)
    return Sample(name or f"frame {index}", index, lambda: image, lambda: truth, drive=f"drive {index}", frame=0)


def ten(image: torch.Tensor) -> torch.Tensor:
    return torch.full(image.shape[-2:], 10.0)


SAMPLES = [sample(index, depth) for index, depth in enumerate([10.0, 20.0, 8.0, 40.0, 10.5])]
PREDICTOR = FunctionPredictor(ten, "depth", metric=True, name="ten | metres")


def written(folder: Path, samples: Iterable[Sample] = SAMPLES, **options: Any) -> dict[str, Any]:
    samples = list(samples)
    evaluation = evaluate(PREDICTOR, samples, WHOLE)
    write_report(folder, evaluation, samples, PREDICTOR, WHOLE, **options)
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def test_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("a list")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "weights" / "config.json").write_bytes(b"{}")
    found, made_from = evaluate_baselines(SAMPLES, WHOLE, median_scaling=False)
    said = written(
        tmp_path / "report", baselines=found, about={"baselines_made_from": made_from, "leak": {"known": False}},
        split=tmp_path / "split.txt", weights=tmp_path / "weights",
    )  # fmt: skip
    errors = [0, 0.5, 0.25, 0.75, 0.5 / 10.5]
    assert [image["abs_rel"] for image in said["images"]] == pytest.approx(errors, abs=1e-7)
    assert said["mean"]["abs_rel"] == pytest.approx(sum(errors) / 5) and said["num_images"] == 5
    assert said["mean"]["num_valid"] == 5 * 24 * 96
    # 20 m and 40 m begin a range.
    parts = {name: (part["abs_rel"], part["num_images"]) for name, part in said["parts"].items()}
    assert parts["0-10 m"] == (pytest.approx(0.25), 1) and parts["20-40 m"] == (pytest.approx(0.5), 1)
    assert parts["10-20 m"] == (pytest.approx(0.5 / 10.5 / 2), 2) and parts["40-80 m"] == (pytest.approx(0.75), 1)
    assert list(said["baselines"]) == ["constant", "image row", "mean map"]
    # Without the image itself: medians of (8, 10.5, 20, 40), (8, 10, 10.5, 40), (10, 10.5, 20, 40), ...
    constants = [15.25, 10.25, 15.25, 10.25, 15]
    truths = [10, 20, 8, 40, 10.5]
    expected = np.mean([abs(c - t) / t for c, t in zip(constants, truths, strict=True)])
    assert said["baselines"]["constant"]["mean"]["abs_rel"] == pytest.approx(expected)
    assert said["baselines_made_from"].startswith("made from the truths of other recordings") and said["leak"]
    assert said["sha256"]["split"] == hashlib.sha256(b"a list").hexdigest()
    hashes = {"model.safetensors": b"weights", "config.json": b"{}"}
    assert said["sha256"]["weights"] == {name: hashlib.sha256(data).hexdigest() for name, data in hashes.items()}
    assert weight_hashes("tiny").keys() == hashes.keys()
    assert said["settings"]["protocol"]["name"] == "whole" and said["versions"]["torch"] == torch.__version__

    rows = list(csv.DictReader(io.StringIO((tmp_path / "report" / "images.csv").read_text())))
    assert [float(row["abs_rel"]) for row in rows] == pytest.approx(errors, abs=1e-7)
    assert rows[1]["name"] == "frame 1" and rows[1]["num_valid"] == "2304" and rows[1]["scale"] == "1.0"
    assert rows[1]["abs_rel 0-10 m"] == "" and float(rows[1]["abs_rel 20-40 m"]) == pytest.approx(0.5)
    table = (tmp_path / "report" / "table.md").read_text()
    assert "| ten \\| metres | 0.310 |" in table and "| constant | 0.6" in table and "| 10-20 m (2) |" in table


def test_the_worst_and_the_best(tmp_path: Path) -> None:
    written(tmp_path / "report", examples=2)
    sheet = np.asarray(Image.open(tmp_path / "report" / "worst_best.png"))
    left = [int(pixel[0]) for pixel in sheet[:, 100] if len(set(pixel.tolist())) == 1]
    shown = [value for value, before in zip(left[1:], left, strict=False) if value != before and value % 10 == 0]
    # Images 3 and 1 are the worst, and 0 is the best; the letters of the text are black, too.
    assert [value for value in shown if value in (10, 20, 30, 40)] == [30, 10, 40]
    one = tmp_path / "one"
    written(one, SAMPLES[:1], error_maps=True)  # a single image is the worst, and not also the best
    assert (one / "error_maps" / "00000.png").is_file()
    assert np.asarray(Image.open(one / "worst_best.png")).shape[0] < 300
    written(one, SAMPLES, examples=0)
    assert sorted(path.name for path in one.iterdir()) == ["images.csv", "report.json", "table.md"]


def compared(depth: NDArray[np.float64], truth: NDArray[np.float64]) -> Compared:
    return compare(Prediction(depth, "depth"), truth, WHOLE, median_scaling=False)


def test_an_error_map() -> None:
    truth = np.zeros((40, 80))
    truth[4, 8], truth[30, 60], truth[31, 60] = 10, 10, 20
    depth = np.full((40, 80), 10.0)
    drawn = error_map(compared(depth, truth))
    assert drawn.shape == (40, 80, 3) and (drawn != UNKNOWN).any(axis=-1).sum() == 3
    right, wrong = drawn[4, 8].astype(int), drawn[31, 60].astype(int)
    assert right[2] > right[0] and wrong[0] > wrong[2] + 50  # blue and red
    np.testing.assert_array_equal(drawn[30, 60], drawn[4, 8])
    half = error_map(compared(depth, truth), width=40)
    assert half.shape == (20, 40, 3)
    np.testing.assert_array_equal(half[15, 30], wrong)  # of two errors in one pixel the larger one is seen
    assert (half[0] == UNKNOWN).all() and (half[1:4, 3:6] == right).all()  # a point is seen from afar


def test_names_are_no_formulas() -> None:
    names = ["=1+1", "+a", "-b", "@c", "\t=d", "e=f", 'with, "comma"']
    samples = [sample(index, 10.0, name) for index, name in enumerate(names)]
    text = images_csv(evaluate(PREDICTOR, samples, WHOLE).images)
    found = [row["name"] for row in csv.DictReader(io.StringIO(text))]
    assert found == ["'=1+1", "'+a", "'-b", "'@c", r"\t=d", "e=f", 'with, "comma"']


def test_the_folder_of_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    written(folder, error_maps=True)
    written(folder, SAMPLES[:3])  # takes the place of the one before
    assert len(json.loads((folder / "report.json").read_text())["images"]) == 3
    assert not (folder / "error_maps").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no part of a report"):
        written(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    assert check_report_folder(tmp_path / "other") == tmp_path / "other"
    (tmp_path / "other" / "report.json").write_text("{}")
    with pytest.raises(InputError, match="holds no report"):
        check_report_folder(tmp_path / "other")
    with pytest.raises(InputError, match="is no folder"):
        check_report_folder(folder / "notes.txt")


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    before = written(folder)
    evaluation = evaluate(PREDICTOR, SAMPLES, WHOLE)

    def broken(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_report(folder, evaluation, SAMPLES, FunctionPredictor(broken, "depth"), WHOLE)
    assert json.loads((folder / "report.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
