"""The command line: ``hybrid-encoder predict | evaluate | info | convert | export | demo | train-coarse | train-fine |
run``.

Errors are one sentence on standard error, with exit status 2. Heavy libraries are imported by the commands,
not here, so that help appears at once.
"""

from __future__ import annotations

import contextlib
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hybrid_encoder.cli import train as commands
from hybrid_encoder.cli.export import export
from hybrid_encoder.cli.options import make_folder, parse_size, pick_device
from hybrid_encoder.errors import ConfigError, HybridEncoderError, InputError

if TYPE_CHECKING:
    from hybrid_encoder.checkpoints import Checkpoint
    from hybrid_encoder.models.depth import DepthPrediction

app = typer.Typer(
    help="Monocular depth from CLIP and DINO under language guidance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()

Source = Annotated[str, typer.Argument(help="'tiny', a checkpoint folder, a stage-1 .ckpt file, or a Hub id.")]
Weights = Annotated[str, typer.Option(help="'tiny' (ships inside), a checkpoint folder, or a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]


class Numbers(str, Enum):
    """How predicted numbers are written."""

    npy = "npy"
    png16 = "png16"


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.")],
    weights: Weights = "tiny",
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    size: Annotated[str | None, typer.Option(help="Work at HEIGHTxWIDTH, e.g. 224x672 (results keep theirs).")] = None,
    numbers: Annotated[
        Numbers,
        typer.Option(help="npy: depth, float32. png16: depth in metres x 256 (KITTI), or else disparity x 65535."),
    ] = Numbers.npy,
    device: Device = "auto",
) -> None:
    """Predict depth: a colour picture (near is bright) and the numbers for every image, at its original size."""
    from rich.progress import track

    from hybrid_encoder.data.images import colorize, find_images, open_image, read_image, write_png
    from hybrid_encoder.models.depth import HybridDepthModel

    working = None if size is None else parse_size(size)
    paths = find_images(images)
    stems: dict[str, Path] = {}
    for path in paths:  # all are looked at before the first is predicted
        open_image(path)
        if path.stem in stems:
            raise InputError(f"{stems[path.stem]} and {path} would be written to the same files; give one at a time.")
        stems[path.stem] = path
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    make_folder(output)
    for path in track(paths, description="predicting", console=console, disable=len(paths) < 2):
        prediction = model.infer(read_image(path), size=working)
        write_png(output / f"{path.stem}_depth.png", colorize(prediction.disparity[0]))
        name = _write_numbers(output, path.stem, prediction, numbers)
    last = f" (numbers: *_{name})" if paths else ""
    console.print(f"{len(paths)} image{'s' if len(paths) > 1 else ''} -> {output}{last}", highlight=False)


class Crops(str, Enum):
    """Which part of a picture counts."""

    garg = "garg"
    eigen = "eigen"
    none = "none"


@app.command()
def evaluate(
    root: Annotated[Path, typer.Argument(help="KITTI raw: the folder of the dates, or one drive's.")],
    weights: Weights = "tiny",
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH; by default what the weights were fitted at.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="File with a frame a line, <date>/<drive> <frame> <l or r>; by default all.")
    ] = None,
    camera: Annotated[int | None, typer.Option(help="2 (left, the default) or 3 (right), without --split.")] = None,
    crop: Annotated[Crops, typer.Option(help="Which part of a picture counts.")] = Crops.garg,
    max_depth: Annotated[float, typer.Option(min=0.1, help="Metres; lidar beyond does not count.")] = 80.0,
    median_scaling: Annotated[
        bool | None,
        typer.Option(
            "--median-scaling/--no-median-scaling",
            help="Give every prediction the scale of its lidar; by default where the model's is unknown.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare predicted depth with lidar on KITTI raw: the seven usual numbers, averaged over the frames."""
    from rich.table import Table

    from hybrid_encoder.evaluation.protocols import evaluate_kitti, frames_with_lidar
    from hybrid_encoder.models.depth import HybridDepthModel

    working = None if size is None else parse_size(size)
    frames = frames_with_lidar(root, split, camera)
    target = pick_device(device)
    model = HybridDepthModel.from_pretrained(weights).to(target)
    scaling = not model.config.metric if median_scaling is None else median_scaling
    metrics = evaluate_kitti(
        model,
        frames,
        median_scaling=scaling,
        size=working,
        crop=None if crop is Crops.none else crop.value,
        max_depth=max_depth,
        console=console,
    ).as_dict()
    caption = f"{'median' if scaling else 'no'} scaling, crop {crop.value}, up to {max_depth:g} m"
    table = Table(*metrics, title=f"{len(frames)} frame{'s' if len(frames) > 1 else ''}", caption=caption)
    table.add_row(*(f"{value:.3f}" for value in metrics.values()))
    console.print(table, highlight=False)


@app.command()
def info(source: Source) -> None:
    """Say what a checkpoint holds."""
    from hybrid_encoder.checkpoints import read_checkpoint

    for key, value in _describe(read_checkpoint(source)):
        console.print(f"[bold]{key:<16}[/] {value}", highlight=False)


@app.command()
def convert(
    source: Source,
    output: Annotated[Path, typer.Argument(help="Folder to write (must not hold a checkpoint yet).")],
    notes: Annotated[str, typer.Option(help="How the weights were made, for the model card.")] = "",
) -> None:
    """Write a checkpoint in this library's layout: config.json, model.safetensors and a model card."""
    import hybrid_encoder
    from hybrid_encoder.checkpoints import read_checkpoint
    from hybrid_encoder.checkpoints.files import CONFIG, WEIGHTS

    for name in (CONFIG, WEIGHTS):
        if (output / name).exists():
            raise InputError(f"{output / name} exists already; name another folder.")
    loaded = read_checkpoint(source)
    model = getattr(hybrid_encoder, loaded.holds).from_checkpoint(loaded)
    make_folder(output)
    model.save_pretrained(output, notes=notes or f"Converted from a checkpoint of the {loaded.layout} layout.")
    console.print(f"{type(model).__name__} -> {output}", highlight=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="The picture to leave.")] = Path("demo.png"),
    coarse_steps: Annotated[int, typer.Option(min=1, help="Steps of the coarse stage.")] = 120,
    fine_steps: Annotated[int, typer.Option(min=1, help="Steps of the fine stage.")] = 600,
    drives: Annotated[int, typer.Option(min=1, help="Synthetic drives to learn from.")] = 140,
    seed: Annotated[int, typer.Option(min=0, max=99, help="Of weights, drives and order.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Also save the weights into this folder.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Even where there is an accelerator.")] = False,
) -> None:
    """The method on synthetic drives: words for depth first, then depth without a label; before and after."""
    from hybrid_encoder.training.demonstration import run_demo

    if not output.parent.is_dir():
        raise InputError(f"{output.parent} is no folder; make it first, or give --output another one.")
    run_demo(
        output,
        coarse_steps=coarse_steps,
        fine_steps=fine_steps,
        drives=drives,
        seed=seed,
        save=save,
        cpu=cpu,
        console=console,
    )


app.command()(export)
app.command("train-coarse")(commands.train_coarse)
app.command("train-fine")(commands.train_fine)


class Repositories(str, Enum):
    """Codebases that there is an adapter for."""

    monodepth2 = "monodepth2"
    manydepth = "manydepth"


class Decoders(str, Enum):
    """Whose decoder reads the maps."""

    dpt = "dpt"
    repository = "repository"


class Networks(str, Enum):
    """Ours, or the repository's own."""

    hybrid = "hybrid"
    repository = "repository"


class Poses(str, Enum):
    """What predicts the camera's motion."""

    repository = "repository"
    class_token = "class_token"


@app.command()
def run(
    repository: Annotated[Repositories, typer.Argument(help="The codebase that the script belongs to.")],
    command: Annotated[list[str], typer.Argument(help="After --: train.py ARGS, or -m package.module ARGS.")],
    encoder: Annotated[str, typer.Option(help="A preset, a checkpoint folder, or a Hub id.")] = "paper",
    decoder: Annotated[Decoders, typer.Option(help="Ours, or the repository's on our pyramid.")] = Decoders.dpt,
    pose: Annotated[Poses | None, typer.Option(help="monodepth2: its network, or DINO class tokens.")] = None,
    language_loss: Annotated[float | None, typer.Option(help="monodepth2: weight of the language loss.")] = None,
    teacher: Annotated[Networks | None, typer.Option(help="manydepth: whose single-frame network.")] = None,
    share_frozen: Annotated[
        bool | None, typer.Option("--share-frozen", help="manydepth: hold frozen towers once for both.")
    ] = None,
    networks: Annotated[str | None, typer.Option(help="The package that holds its networks.")] = None,
    legacy: Annotated[bool, typer.Option(help="Help old code to run on today's libraries.")] = True,
    cpu: Annotated[bool, typer.Option("--cpu", help="Where there is no CUDA, let .cuda() mean the CPU.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Show what would be replaced, and exit.")] = False,
) -> None:
    """Run a script of your own checkout with the hybrid encoder inside, without editing a file.

    hybrid-encoder run monodepth2 --encoder tiny -- train.py --data_path /data/kitti --png

    hybrid-encoder run manydepth -- -m manydepth.train --data_path /data/kitti --png
    """
    from hybrid_encoder import adapters
    from hybrid_encoder.adapters import runner
    from hybrid_encoder.adapters.patching.legacy import cuda_means_cpu
    from hybrid_encoder.adapters.patching.replacing import Patch

    own: dict[str, dict[str, Any]] = {
        "monodepth2": {"pose": pose and pose.value, "language_loss": language_loss},
        "manydepth": {"teacher": teacher and teacher.value, "share_frozen": share_frozen},
    }
    options = {name: value for name, value in own.pop(repository.value).items() if value is not None}
    for other, unused in own.items():
        for name, value in unused.items():
            if value is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is for {other}; leave it out with {repository.value}.")
    options |= {"encoder": encoder, "networks": networks, "legacy": legacy}
    options["decoder"] = "dpt" if decoder is Decoders.dpt else repository.value
    shown: list[str] = []

    def patch() -> Patch:
        patched: Patch = getattr(adapters, repository.value).patch(**options)
        shown.append(str(patched))
        return patched

    with cuda_means_cpu() if cpu else contextlib.nullcontext():
        runner.run_script(command, patch, show=show)
    if show:
        console.print(shown[0], highlight=False, markup=False)


def main() -> None:
    """Entry point: our own errors become one sentence and exit status 2."""
    try:
        app()
    except HybridEncoderError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _write_numbers(output: Path, stem: str, prediction: DepthPrediction, numbers: Numbers) -> str:
    import numpy as np

    from hybrid_encoder.data.images import write_npy, write_png

    metric = prediction.depth_m is not None
    depth = prediction.depth_m if prediction.depth_m is not None else prediction.relative_depth
    if depth is None:  # one of the two is always there
        raise AssertionError
    if numbers is Numbers.npy:
        name = "depth_m.npy" if metric else "relative_depth.npy"
        write_npy(output / f"{stem}_{name}", depth[0].cpu().numpy())
        return name
    scaled = depth[0] * 256 if metric else prediction.disparity[0] * 65535
    name = "depth_m_x256.png" if metric else "disparity_x65535.png"
    write_png(output / f"{stem}_{name}", scaled.clamp(0, 65535).round().cpu().numpy().astype(np.uint16))
    return name


def _describe(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    from hybrid_encoder.checkpoints.cards import config_rows

    layouts = {"ours": "hybrid-encoder", "published": "Hybrid-depth stage 2", "stage1": "Hybrid-depth stage 1"}
    tensors = [*checkpoint.tensors.values(), *checkpoint.decoder_tensors.values()]
    count = sum(tensor.numel() for tensor in tensors)
    return [
        ("path", str(checkpoint.path)),
        ("layout", layouts[checkpoint.layout]),
        ("holds", checkpoint.holds),
        *config_rows(checkpoint.config),
        ("numbers", f"{count / 1e6:.1f} million in {len(tensors)} tensors"),
    ]
