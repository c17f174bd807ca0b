"""``hybrid-encoder evaluate``: depth against ground truth, by a protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_encoder.cli.options import (
    Device,
    Weights,
    check_file,
    check_finite,
    console,
    parse_working_size,
)
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.evaluation.results import Evaluation

Name = Literal["eigen", "eigen-improved", "eigen-improved-garg", "lidar", "nyu", "make3d", "cityscapes"]
Crop = Literal["garg", "eigen", "none"]
Gives = Literal["disparity", "depth"]


def evaluate_command(
    root: Annotated[
        Path,
        typer.Argument(
            help="KITTI raw: the folder of the dates, or without a split the folder of one drive. With --protocol nyu, "
            "make3d or cityscapes: the folder of that data set."
        ),
    ],
    protocol: Annotated[
        Name,
        typer.Option(
            help="How to measure. eigen: Monodepth2's way, which most papers report. eigen-improved: on KITTI's "
            "annotated depth, as Monodepth2's eigen_benchmark; eigen-improved-garg: the same from 0.1 m and in Garg's "
            "crop. lidar: the camera's own depth of lidar points. nyu, make3d, cityscapes: on those data sets."
        ),
    ] = "eigen",
    weights: Weights = "tiny",
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH that the model works at, or 'native', the images' own size; by default, as predict: the "
            "size that the weights were fitted at, or as many pixels where images have another aspect."
        ),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Predict the mirrored image, too, and blend, as Monodepth2's --post_process."),
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Evaluate these instead of a model: a .npy file (N, H, W) of 1 / depth in the order of the split, "
            "such as Monodepth2's disps_eigen_split.npy."
        ),
    ] = None,
    gives: Annotated[Gives, typer.Option(help="What --predictions holds: disparity (1 / depth) or depth.")] = (
        "disparity"
    ),
    split: Annotated[
        Path | None,
        typer.Option(
            help="Text file with lines <date>/<drive> <frame> <l or r>; by default all frames with truth. nyu and "
            "cityscapes need the list of their scripts."
        ),
    ] = None,
    camera: Annotated[
        int | None, typer.Option(help="Colour camera, 2 (left, the default) or 3 (right); not with --split.")
    ] = None,
    depths: Annotated[
        Path | None,
        typer.Option(
            help="Read the ground truth from a gt_depths.npz, as Monodepth2's export_gt_depth.py writes it; nyu and "
            "cityscapes take it from beside the split by default."
        ),
    ] = None,
    crop: Annotated[Crop | None, typer.Option(help="Which part of an image counts, if not as the protocol.")] = None,
    max_depth: Annotated[
        float | None,
        typer.Option(min=0.1, help="Ignore truth beyond this distance, in metres, if not as the protocol."),
    ] = None,
    median_scaling: Annotated[
        bool | None,
        typer.Option(
            "--median-scaling/--no-median-scaling",
            help="Scale every prediction to the median of its truth; by default only where the scale is unknown.",
        ),
    ] = None,
    scale_factor: Annotated[
        float | None,
        typer.Option(help="Multiply depth by this: 5.4 for Monodepth2's stereo models. Turns median scaling off."),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Measure a constant, the image's row, the mean map and a flat road, too, to compare with."),
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write numbers and settings to this file.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a report to this folder: tables, the numbers of every image, the worst and the best."),
    ] = None,
    error_maps: Annotated[
        bool, typer.Option("--error-maps", help="Have an error map of every image in the report.")
    ] = False,
    save_predictions: Annotated[
        Path | None, typer.Option(help="Write what was predicted, 1 / depth, to this .npy file.")
    ] = None,
    save_depths: Annotated[
        Path | None, typer.Option(help="Write the ground truth to this .npz file, as Monodepth2 reads it.")
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Evaluate even weights that were trained on test frames.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Compare predicted depth with ground truth: the usual metrics, averaged over the images.

    Numbers compare with those of a paper only if they were made by the same protocol on the same split.
    """
    from hybrid_encoder.cli import _evaluating
    from hybrid_encoder.evaluation.baselines import evaluate_baselines
    from hybrid_encoder.evaluation.evaluating import evaluate
    from hybrid_encoder.evaluation.protocols import PROTOCOLS
    from hybrid_encoder.evaluation.report import check_report_folder, write_report

    check_finite("--max-depth", max_depth)
    check_finite("--scale-factor", scale_factor)
    if scale_factor is not None and scale_factor <= 0:
        raise InputError(f"--scale-factor is {scale_factor:g}; give a number above 0.")
    working_size = parse_working_size(size)
    if predictions is not None and (size is not None or flip or weights != "tiny"):
        raise InputError(f"--predictions is {predictions}, so no model runs; leave out --weights, --size and --flip.")
    chosen = PROTOCOLS[protocol]
    if crop is not None:
        chosen = chosen.changed(crop=None if crop == "none" else crop)
    if max_depth is not None:
        chosen = chosen.changed(max_truth=max_depth, max_depth=max_depth)
    for file, example in ((json, "numbers.json"), (save_predictions, "disparities.npy"), (save_depths, "depths.npz")):
        if file is not None:
            check_file(file, example)
    if report is not None:
        check_report_folder(report)
    elif error_maps:
        raise InputError("--error-maps is given without --report, where they would be; give --report FOLDER.")
    samples = _evaluating.find_samples(root, chosen, split, camera, depths)
    if predictions is not None:
        predictor, about = _evaluating.saved_predictor(predictions, gives, samples)
    else:
        predictor, about = _evaluating.model_predictor(
            weights, working_size, samples, chosen, flip=flip, allow_leak=allow_leak, device=device
        )
    if save_depths is not None:
        _evaluating.save_depths(samples, save_depths)
    saved = None if save_predictions is None else _evaluating.Saved()
    found = evaluate(
        predictor, samples, chosen, median_scaling=median_scaling, factor=scale_factor, seen=saved, console=console
    )
    if saved is not None and save_predictions is not None:
        saved.write(save_predictions)
    beside: list[Evaluation] = []
    if baselines:
        scaling = bool(found.settings["median_scaling"])
        beside, about["baselines_made_from"] = evaluate_baselines(
            samples, chosen, median_scaling=scaling, order=found.order is not None
        )
    _evaluating.show(found, beside, chosen, about)
    if json is not None:
        _evaluating.write_json(json, found, beside, chosen, about, split)
    if report is not None:
        source = weights if predictions is None else None
        write_report(
            report,
            found,
            samples,
            predictor,
            chosen,
            baselines=beside,
            about=about,
            split=split,
            weights=source,
            error_maps=error_maps,
        )
    for file in (json, report, save_predictions, save_depths):
        if file is not None:
            console.print(f"written: {file}")
