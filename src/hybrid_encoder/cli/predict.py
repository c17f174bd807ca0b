"""``hybrid-encoder predict``: depth for pictures and videos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hybrid_encoder.cli.options import (
    Device,
    Weights,
    console,
    describe_weights,
    make_folder,
    parse_intrinsics,
    parse_working_size,
    pick_device,
)
from hybrid_encoder.errors import InputError

if TYPE_CHECKING:
    from hybrid_encoder.cli._work import Job
    from hybrid_encoder.models.depth import HybridDepthModel

NumberFormat = Literal["npy", "png16", "none"]
CloudFormat = Literal["ply", "glb"]


def predict_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, videos, folders (with those inside them), glob patterns, or .txt files with a path a line.",
            show_default=False,
        ),
    ],
    weights: Weights = "tiny",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; the folders of the input are made in it.")
    ] = Path("predictions"),
    size: Annotated[
        str | None,
        typer.Option(
            help="What the model works at: HEIGHTxWIDTH, e.g. 224x672, or native, the picture's own. By default the "
            "size that the weights were fitted at, or as many pixels at the picture's own aspect where this is another "
            "one by more than 25 %. Results have the size of their picture."
        ),
    ] = None,
    numbers: Annotated[
        NumberFormat,
        typer.Option(
            help="npy: float32 depth. png16: metres x 256 (KITTI) if the scale is known, or disparity x 65535. "
            "none: only the coloured map."
        ),
    ] = "npy",
    colormap: Annotated[str, typer.Option(help="One of matplotlib's; near is at its upper end.")] = "magma",
    colour_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="NEAR FAR",
            help="Depths at the two ends of the colours, the same for all pictures; by default each picture's own.",
        ),
    ] = None,
    point_cloud: Annotated[
        CloudFormat | None, typer.Option(help="Write a coloured point cloud of every picture, too.")
    ] = None,
    words: Annotated[
        bool,
        typer.Option("--words", help="Draw the most similar depth prompt of every cell of a picture, too."),
    ] = False,
    fov: Annotated[
        float | None,
        typer.Option(help="Horizontal field of view in degrees, for point clouds; by default from EXIF data."),
    ] = None,
    intrinsics: Annotated[
        str | None,
        typer.Option(
            help="Instead of --fov: fx,fy,cx,cy in pixels, or a .json, .txt or .npy file with a 3x3 matrix. Focal "
            "lengths below 10 are shares of width and height."
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video, take every N-th frame.")] = 1,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Of a video, show the source beside the depth.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Of a video, write the results of each frame, too, as for pictures.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures that the network sees at once; by default up to 8.")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger pictures before they are decoded; by default 89 million pixels."),
    ] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Go on without the files that cannot be read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    device: Device = "auto",
) -> None:
    """Predict depth: of every picture a coloured map (near is bright) and the numbers, of every video a video.

    Results of earlier runs are left out of the input, and replaced; other files never are.
    """
    from hybrid_encoder.cli._predicting import Predicting, summarized
    from hybrid_encoder.cli._work import check_targets, find_work
    from hybrid_encoder.data.images import check_colormap
    from hybrid_encoder.data.opening import MAX_PIXELS, expanded
    from hybrid_encoder.models.depth import HybridDepthModel

    with summarized(weights, wanted=as_json) as summary:
        check_colormap(colormap)
        options = _save_options(numbers, colormap, colour_range, point_cloud, words, fov, intrinsics)
        working_size = parse_working_size(size)
        limit = MAX_PIXELS if max_pixels is None else max_pixels
        work = find_work(inputs, expanded(output), limit)
        summary.damaged = work.damaged
        work.check_damaged(work.jobs, skip_damaged)
        check_targets(work.jobs, frames)
        videos = {"every": every > 1, "side_by_side": side_by_side, "frames": frames}
        _check_video_options(work.jobs, point_cloud=point_cloud, words=words, **videos)
        if point_cloud and fov is None:
            _check_cameras([job for job in work.jobs if frames or not job.is_video], options["intrinsics"], limit)
        target = pick_device(device)
        model = HybridDepthModel.from_pretrained(weights).to(target)
        _check_scale(model, numbers)
        if words and not model.has_words:
            raise InputError(f"--words is given, and the weights {weights} have no prompts; leave it out.")
        run = Predicting(model, work, working_size, batch_size, limit, options, quiet or as_json)
        summary.results = run.rows
        if not (quiet or as_json):
            console.print(describe_weights(weights, model, working_size))
        summary.start = time.perf_counter()
        for folder in dict.fromkeys(job.folder for job in work.jobs):
            make_folder(folder)
        run.pictures()
        run.videos(every=every, side_by_side=side_by_side, keep_frames=frames)
        if run.results and not (quiet or as_json):
            console.print(run.summary(expanded(output)))
        work.check_damaged(run.results, skip_damaged)  # only decoding may have shown it


def _save_options(
    numbers: NumberFormat,
    colormap: str,
    colour_range: tuple[float, float] | None,
    cloud: CloudFormat | None,
    words: bool,
    fov: float | None,
    intrinsics: str | None,
) -> dict[str, Any]:
    """Return the arguments of ``DepthPrediction.save``, checked."""
    near, far = colour_range or (None, None)
    if colour_range and not 0 < colour_range[0] < colour_range[1] < float("inf"):
        raise InputError(f"--range is {near} {far}; give two depths above 0, the nearer one first.")
    if cloud is None and (fov is not None or intrinsics is not None):
        raise InputError("--fov and --intrinsics are for point clouds; add --point-cloud ply, or leave them out.")
    if fov is not None and intrinsics is not None:
        raise InputError("--fov and --intrinsics are both given; leave one of them out.")
    if fov is not None and not 0 < fov < 180:
        raise InputError(f"--fov is {fov:g}; give degrees above 0 and below 180.")
    if cloud == "glb":
        from hybrid_encoder.data.point_clouds import check_glb

        check_glb()
    return {
        "numbers": None if numbers == "none" else numbers,
        "cloud": cloud,
        "words": words,
        "colormap": colormap,
        "near": near,
        "far": far,
        "fov": fov,
        "intrinsics": parse_intrinsics(intrinsics),
    }


def _check_video_options(jobs: Sequence[Job], *, point_cloud: CloudFormat | None, words: bool, **options: bool) -> None:
    """Raise InputError for an option that would do nothing."""
    if not any(job.is_video for job in jobs):
        for name, given in options.items():
            if given:
                raise InputError(f"--{name.replace('_', '-')} is for videos, and there is none; leave it out.")
    elif not options["frames"] and all(job.is_video for job in jobs):
        for name, asked in (("--point-cloud", point_cloud is not None), ("--words", words)):
            if asked:
                raise InputError(f"{name} is for pictures, and of videos for --frames; add --frames, or leave it out.")


def _check_cameras(jobs: Sequence[Job], intrinsics: Any, max_pixels: int) -> None:
    """Raise InputError where a point cloud is to be made and nothing right says how the camera sees."""
    from hybrid_encoder.data.images import field_of_view
    from hybrid_encoder.data.results import enumerated
    from hybrid_encoder.models.cameras import camera_of, is_in_pixels

    if intrinsics is None:
        silent = [job.path for job in jobs if job.is_video or field_of_view(job.path, max_pixels) is None]
        if silent:
            raise InputError(
                f"nothing says how wide the camera saw that made {enumerated(silent)}; give --fov, the horizontal "
                "field of view in degrees (about 65 for a phone held level, 82 for KITTI), or --intrinsics."
            )
        return
    sizes: dict[tuple[int, int], Path] = {}
    for job in jobs:
        sizes.setdefault(job.size(max_pixels), job.path)
    if is_in_pixels(intrinsics) and len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        raise InputError(
            f"--intrinsics are in pixels, of pictures of one size, and {first} has {one[0]} x {one[1]}, {second} "
            f"{other[0]} x {other[1]}; give one size at a time, or focal lengths and centre as shares."
        )
    for size in sizes:
        camera_of(None, size, None, intrinsics)


def _check_scale(model: HybridDepthModel, numbers: NumberFormat) -> None:
    from hybrid_encoder.models.prediction import FARTHEST

    if numbers == "png16" and model.config.metric and model.config.max_depth > FARTHEST:
        raise InputError(
            f"the weights give depth up to {model.config.max_depth:g} m, and a 16-bit PNG holds up to {FARTHEST:g} m; "
            "take --numbers npy."
        )
