"""What ``evaluate`` does: its images found, what predicts for them, and what is shown and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_encoder.cli.options import console, describe_weights, pick_device
from hybrid_encoder.errors import InputError
from hybrid_encoder.evaluation import ground_truth
from hybrid_encoder.evaluation.cityscapes import cityscapes_samples
from hybrid_encoder.evaluation.evaluating import Compared
from hybrid_encoder.evaluation.leaks import refuse_leak
from hybrid_encoder.evaluation.make3d import make3d_samples
from hybrid_encoder.evaluation.model_predictors import ModelPredictor
from hybrid_encoder.evaluation.nyu import nyu_samples
from hybrid_encoder.evaluation.predictors import Gives, Prediction, Predictor, SavedPredictions
from hybrid_encoder.evaluation.protocols import Protocol
from hybrid_encoder.evaluation.report import file_hash, weight_hashes
from hybrid_encoder.evaluation.results import Evaluation
from hybrid_encoder.evaluation.samples import Sample
from hybrid_encoder.evaluation.tables import ORDER_COLUMNS, ROW_WRONG, order_rows, order_title
from hybrid_encoder.models.depth import HybridDepthModel
from hybrid_encoder.models.sizes import WorkingSize
from hybrid_encoder.writing import write_whole, written_whole


def find_samples(
    root: Path, protocol: Protocol, split: Path | None, camera: int | None, depths: Path | None
) -> list[Sample]:
    """Return the test set that a protocol is for.

    Raises:
        InputError: no image that has what it needs, or an option that the data set does not have.
    """
    if protocol.truth in ("eigen", "annotated", "lidar"):
        if depths is not None:
            return ground_truth.archive_samples(root, depths, split, camera)
        return ground_truth.kitti_samples(root, split, camera, truth=protocol.truth)
    if camera is not None:
        raise InputError(f"--camera is {camera}, which is for KITTI; leave it out with --protocol {protocol.truth}.")
    if protocol.truth == "make3d":
        for option, value in (("--split", split), ("--depths", depths)):
            if value is not None:
                raise InputError(f"{option} is {value}, and Make3D's test is all of its folders; leave it out.")
        return make3d_samples(root)
    if split is None:
        raise InputError(f"--split is missing; give the list of the test images, as {protocol.truth} needs.")
    builder = nyu_samples if protocol.truth == "nyu" else cityscapes_samples
    return builder(root, split, depths)


def model_predictor(
    weights: str,
    size: WorkingSize,
    samples: Sequence[Sample],
    protocol: Protocol,
    *,
    flip: bool,
    allow_leak: bool,
    device: str,
) -> tuple[Predictor, dict[str, Any]]:
    """Return a model as a predictor, and what is to be written down about it.

    Raises:
        CheckpointError: weights that are not there, or of another model.
        InputError: weights that were trained on a test frame.
    """
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    console.print(describe_weights(weights, model, size))
    leak = refuse_leak(model.training_history, samples, weights, allow=allow_leak)
    console.print(str(leak))
    predictor = ModelPredictor(
        model, size, flip=flip, resampling=protocol.resampling, depth_range=protocol.depth_range, name=weights
    )
    return predictor, {"weights": weights, "weights_sha256": weight_hashes(weights), "leak": leak.as_dict()}


def saved_predictor(file: Path, gives: Gives, samples: Sequence[Sample]) -> tuple[Predictor, dict[str, Any]]:
    """Return saved predictions as a predictor, and what is to be written down about them.

    Raises:
        InputError: a file that holds something else, or for another number of images.
    """
    predictor = SavedPredictions(file, gives)
    predictor.check(samples)
    return predictor, {"predictions_sha256": file_hash(predictor.file)}


def save_depths(samples: Sequence[Sample], file: Path) -> None:
    """Write the ground truth as Monodepth2 reads it."""
    ground_truth.export_depths(samples, file)


class Saved:
    """Predictions, kept as they come and written in the end."""

    def __init__(self) -> None:
        self.maps: list[NDArray[np.float32]] = []

    def __call__(self, sample: Sample, prediction: Prediction, compared: Compared) -> None:
        disparity = prediction.disparity(sample.name).numpy().astype(np.float32)
        if self.maps and disparity.shape != self.maps[0].shape:
            raise InputError(
                f"{sample.name} is predicted at {disparity.shape}, and the images before at {self.maps[0].shape}; one "
                "file holds one size: give --size."
            )
        self.maps.append(disparity)

    def write(self, file: Path) -> None:
        """Write them, (N, h, w), whole or not at all."""
        with written_whole(file) as path, open(path, "wb") as opened:
            np.save(opened, np.stack(self.maps), allow_pickle=False)


def show(found: Evaluation, beside: Sequence[Evaluation], protocol: Protocol, about: dict[str, Any]) -> None:
    """Print the numbers, and what they were made with."""
    from rich.table import Table

    scaling = "median scaling" if found.settings["median_scaling"] else "no scaling"
    if found.settings["factor"] != 1:
        scaling += f", depth times {found.settings['factor']:g}"
    crop = "none" if protocol.crop is None else protocol.crop
    count = len(found.images)
    caption = f"{scaling}, crop {crop}, up to {protocol.max_depth:g} m"
    title = f"{found.protocol}, {count} image{'s' if count > 1 else ''}"
    table = Table("", *protocol.metrics, title=title, caption=caption)
    for one in (found, *beside):
        numbers = protocol.numbers(one.mean)
        table.add_row(one.predictor, *(f"{value:.3f}" for value in numbers.values()))
    console.print(table)
    if rows := order_rows(found, beside):
        order = Table("", *ORDER_COLUMNS, title=order_title(found), caption=ROW_WRONG)
        for row in rows:
            order.add_row(*row)
        console.print(order)
    if beside:
        console.print(f"beside it, baselines that see no image: {about['baselines_made_from']}")
    if found.settings["median_scaling"]:
        console.print(f"scale factors: median {found.scale:.2f}, spread {found.scale_spread:.1%}")
    metrics = found.mean
    if metrics.num_below or metrics.num_above:
        console.print(
            f"{metrics.num_below + metrics.num_above} of {metrics.num_valid} predictions were clamped to the range of "
            f"depth: {metrics.num_below} below it, {metrics.num_above} above"
        )


def _with_order(one: Evaluation, protocol: Protocol) -> dict[str, Any]:
    return protocol.numbers(one.mean) | ({} if one.order is None else {"order": one.order.as_dict()})


def write_json(
    file: Path,
    found: Evaluation,
    beside: Sequence[Evaluation],
    protocol: Protocol,
    about: dict[str, Any],
    split: Path | None,
) -> None:
    """Write the mean numbers under their names, the count of images, and the settings, whole or not at all."""
    content = {
        **protocol.numbers(found.mean),
        "count": len(found.images),
        "scale": {"median": found.scale, "spread": found.scale_spread},
        **({} if found.order is None else {"order": found.order.as_dict()}),
        "baselines": {one.predictor: _with_order(one, protocol) for one in beside},
        "settings": {
            **found.settings,
            **about,
            "split": None if split is None else {"file": str(split), "sha256": file_hash(split)},
        },
    }
    write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
