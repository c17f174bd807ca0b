"""``hybrid-encoder evaluate-pose``: the path of the camera against the true one."""

from __future__ import annotations

import csv as csv_format
import io
import json as json_format
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_encoder.cli import _tracking as shared
from hybrid_encoder.cli.options import Device, check_file, console, make_folder
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.data.sources.base import FrameSource
    from hybrid_encoder.evaluation.pose import PoseResults
    from hybrid_encoder.evaluation.tracking import Tracker

    Results = Mapping[str, PoseResults]  # of the network and of the controls, by name

NETWORK = "pose network"
TESTED = ("09", "10")  # sequences of KITTI odometry, on which Monodepth2 and most others report
MOST_SHOWN = 4  # recordings in the table; all are in the files
COLUMNS = {
    "snippet_ate": ("5-frame ATE", "m", 4),
    "kitti_translation": ("t", "%", 2),
    "kitti_rotation": ("r", "deg/100 m", 2),
    "ate": ("ATE", "m", 2),
    "frame_translation": ("frame t", "m", 4),
    "frame_rotation": ("frame r", "deg", 4),
}


def evaluate_pose_command(
    context: typer.Context,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Recordings with poses: KITTI odometry (09 and 10 by default), KITTI raw with GPS, other data sets, "
            "or 'synthetic'.",
        ),
    ],
    weights: shared.Weights,
    metric: Annotated[
        bool | None,
        typer.Option("--metric/--no-metric", help="Compare in metres, without a scale; by default as the weights say."),
    ] = None,
    recording: shared.Recording = None,
    camera: shared.Camera = None,
    refine: shared.Refine = 0,
    depth: shared.Depth = None,
    camera_matrix: shared.CameraMatrix = None,
    fov: shared.Fov = None,
    size: shared.Size = None,
    drives: shared.Drives = 10,
    frames: shared.NumFrames = 100,
    turning: shared.Turning = 0.0,
    seed: shared.Seed = 0,
    json: Annotated[Path | None, typer.Option(help="Write numbers and settings to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the numbers of every recording to this file.")] = None,
    paths: Annotated[
        Path | None,
        typer.Option(help="Write the paths to this folder: predicted and true poses as KITTI has them, and a picture."),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Evaluate even weights that were trained on these frames.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Measure the path of the camera: Monodepth2's error of five frames, and KITTI's errors per 100 to 800 m.

    Beside it stand paths that see no image: of a camera that does not move, of one that moves as on average and never
    turns, and of the predicted motions in another order. Each is scaled as the prediction is.

    hybrid-encoder evaluate-pose /data/kitti_odometry --weights runs/fine
    """
    from hybrid_encoder.evaluation.pose import mean_results
    from hybrid_encoder.writing import write_whole

    shared.refuse_unused(context, source)
    for file, example in ((json, "numbers.json"), (csv, "numbers.csv")):
        if file is not None:
            check_file(file, example)
    tracker = shared.make_tracker(weights, depth, size, refine, device)
    choice = shared.Choice(recording, camera, camera_matrix, fov)
    sources = _tested(shared.open_recordings(source, tracker, choice), recording)
    leak = _refuse_leak(tracker, sources, weights, allow_leak) if sources else None
    if shared.SYNTHETIC in source:
        sources += shared.render_drives(tracker, drives, frames, seed, turning)
    if paths is not None:
        make_folder(paths)
    in_metres = tracker.network.config.metric if metric is None else metric
    found: dict[str, Results] = {}
    for number, one in enumerate(sources):
        results = _evaluate(tracker, one, in_metres, number, paths)
        if results is not None:
            name = shared.short_name(one)
            found[f"{name} ({number})" if name in found else name] = results
    if not found:
        raise InputError(f"no recording of {', '.join(source)} has poses of two frames; give one whose path is known.")
    names = list(next(iter(found.values())))
    means = {name: mean_results([results[name] for results in found.values()]) for name in names}
    settings = {
        "source": source,
        "weights": weights,
        "refine": refine,
        "size": list(tracker.size),
        "metric": in_metres,
        "recording": recording,
        "camera": camera,
        "leak": leak,
        **({"drives": drives, "frames": frames, "turning": turning, "seed": seed} if "synthetic" in source else {}),
        **_versions(weights),
    }
    if json is not None:
        numbers = {key: {name: one.as_dict() for name, one in results.items()} for key, results in found.items()}
        controls = {name: mean for name, mean in means.items() if name != NETWORK}
        told = {**means[NETWORK], "controls": controls, "recordings": numbers, "settings": settings}
        write_whole(json, (json_format.dumps(told, indent=2, allow_nan=False) + "\n").encode())
    if csv is not None:
        write_whole(csv, _csv(found).encode())
    _show(found, means, in_metres)
    for written in (json, csv, paths):
        if written is not None:
            console.print(f"written: {written}")


def _tested(sources: list[FrameSource], recording: Sequence[str] | None) -> list[FrameSource]:
    """Leave out the sequences of KITTI odometry that others train on, unless recordings are named."""
    from hybrid_encoder.data.sources.kitti_odometry import KittiOdometrySource

    if recording:
        return sources
    kept = [one for one in sources if not isinstance(one, KittiOdometrySource) or one.folder.name in TESTED]
    if not kept and sources:
        names = ", ".join(sorted({shared.short_name(one) for one in sources}))
        raise InputError(f"there is neither 09 nor 10 among the sequences ({names}); name others with --recording.")
    return kept


def _refuse_leak(tracker: Tracker, sources: Sequence[FrameSource], weights: str, allow: bool) -> dict[str, Any]:
    """Say whether the network was trained on these frames.

    Raises:
        InputError: it was, and that is not allowed.
    """
    from hybrid_encoder.evaluation.frame_lists import Frame
    from hybrid_encoder.evaluation.leaks import find_leaks, known_trainings
    from hybrid_encoder.models.pose_files import FINAL, find_pose

    folder = find_pose(weights).parent
    trainings, known = known_trainings(tracker.network.training_history, folder / FINAL)
    recorded = [source.recorded(frame) for source in sources for frame in source.frames]
    leak = find_leaks(trainings, [None if one is None else Frame(*one) for one in recorded], known)
    if leak.seen and not allow:
        raise InputError(f"{leak}; take other weights or recordings, or say --allow-leak to evaluate nevertheless.")
    console.print(str(leak))
    return leak.as_dict()


def _evaluate(tracker: Tracker, source: FrameSource, metric: bool, number: int, folder: Path | None) -> Results | None:
    """Measure the network and the controls on one recording; None where its path is not known."""
    from hybrid_encoder.data.images import write_png
    from hybrid_encoder.data.poses import write_trajectory
    from hybrid_encoder.evaluation.pose import evaluate_trajectory
    from hybrid_encoder.evaluation.pose_pictures import draw_paths
    from hybrid_encoder.evaluation.tracking import control_paths, scaled_to, true_path

    name, truth = shared.short_name(source), true_path(source)
    if left_out := len(source.frames) - len(truth.frames):
        console.print(f"{name}: {left_out} of {len(source.frames)} frames have no pose. {truth.problem}".rstrip())
    if len(truth.frames) < 2:
        return None
    predicted = shared.track(tracker, source, truth.frames)
    if folder is not None:
        scaled, scale = scaled_to(predicted, truth.poses, metric)
        stem = f"{number:02d}_" + re.sub(r"[^A-Za-z0-9.-]+", "_", name)
        write_trajectory(folder / f"{stem}_predicted.txt", scaled)
        write_trajectory(folder / f"{stem}_truth.txt", truth.poses)
        drawn = draw_paths({f"{NETWORK}, times {scale:.3g}": scaled, "truth": truth.poses}, name)
        write_png(folder / f"{stem}.png", drawn)
    all_paths = {NETWORK: predicted, **control_paths(predicted, truth.poses)}
    return {label: evaluate_trajectory(path, truth.poses, metric) for label, path in all_paths.items()}


def _versions(weights: str) -> dict[str, Any]:
    from importlib.metadata import version

    from hybrid_encoder.evaluation.report import file_hash
    from hybrid_encoder.models.pose_files import find_pose

    file = find_pose(weights)
    return {
        "sha256": {file.name: file_hash(file)},
        "versions": {name: version(name) for name in ("hybrid-encoder", "torch", "numpy")},
    }


def _csv(found: Mapping[str, Results]) -> str:
    """Return the numbers of every recording and predictor as rows."""
    text = io.StringIO()
    rows = [(key, name, one.as_dict()) for key, results in found.items() for name, one in results.items()]
    writer = csv_format.writer(text, lineterminator="\n")
    writer.writerow(["recording", "predictor", *rows[0][2]])
    writer.writerows([key, name, *numbers.values()] for key, name, numbers in rows)
    return text.getvalue()


def _show(found: Mapping[str, Results], means: Mapping[str, Mapping[str, float | None]], metric: bool) -> None:
    from rich.table import Table

    scaling = "in metres" if metric else "paths scaled by one number each, snippets one by one"
    count = f"{len(found)} recording{'s' if len(found) > 1 else ''}"
    frames = sum(results[NETWORK].num_frames for results in found.values())
    table = Table("", *(f"{title}\n{unit}" for title, unit, _ in COLUMNS.values()), caption=f"{count}; {scaling}")

    def add(label: str, numbers: Mapping[str, Any]) -> None:
        cells = [(numbers[column], digits) for column, (_, _, digits) in COLUMNS.items()]
        table.add_row(label, *("-" if value is None else f"{value:.{digits}f}" for value, digits in cells))

    if 1 < len(found) <= MOST_SHOWN:
        for key, results in found.items():
            add(key, results[NETWORK].as_dict())
    for name, numbers in means.items():
        add(f"{name}, mean" if len(found) > 1 else name, numbers)
    console.print(table)
    console.print(
        f"{frames} frames; 5-frame ATE of the network: standard deviation {means[NETWORK]['snippet_std']:.4f} m"
    )
