"""``hybrid-encoder train-coarse`` and ``train-fine``: what is typed, checked and told.

Heavy libraries are imported by the commands, not here, so that help appears at once.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from hybrid_encoder.cli.options import parse_size
from hybrid_encoder.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_encoder.data.synthetic import SyntheticFrame
    from hybrid_encoder.training.recipes import Recipe

R = TypeVar("R", bound="Recipe")
SYNTHETIC = "synthetic"


class Recipes(str, Enum):
    """How a stage trains."""

    published = "published"
    small = "small"


class Precision(str, Enum):
    """Of the forward pass."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


Output = Annotated[Path, typer.Option(help="Folder of the run; the weights come into its 'final'.")]
RecipeName = Annotated[
    Recipes | None, typer.Option(help="published, or small (for the tiny preset); by default what fits the encoder.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps, in place of the recipe's.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Items a step, for each process.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate, in place of the recipe's.")]
Size = Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the pictures, in place of the recipe's.")]
Pretrained = Annotated[bool, typer.Option(help="A preset starts from the public CLIP and DINO weights.")]
Drives = Annotated[int, typer.Option(min=1, help="synthetic: how many drives to render.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load data.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
PrecisionName = Annotated[Precision, typer.Option(help="Of the forward pass.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint, exactly.")]
OnCpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is an accelerator.")]


def train_coarse(
    data: Annotated[str, typer.Argument(help="TuSimple root, a folder of pictures (with --depths), or 'synthetic'.")],
    encoder: Annotated[str, typer.Option(help="A preset, a checkpoint, or a Hub id.")] = "paper",
    output: Output = Path("runs/coarse"),
    recipe: RecipeName = None,
    depths: Annotated[Path | None, typer.Option(help="Folder with depth maps named as the pictures.")] = None,
    ending: Annotated[str, typer.Option(help="--depths: what follows a picture's stem.")] = ".npy",
    inverse: Annotated[bool, typer.Option("--inverse", help="--depths hold disparity.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, in place of the recipe's.")] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    size: Size = None,
    two_sided: Annotated[bool | None, typer.Option(help="Compare with nearer patches as well.")] = None,
    pretrained: Pretrained = True,
    drives: Drives = 60,
    workers: Workers = 0,
    save_every: SaveEvery = 500,
    precision: PrecisionName = Precision.no,
    seed: Annotated[int, typer.Option(help="Of weights, data order and augmentation.")] = 0,
    resume: Resume = False,
    cpu: OnCpu = False,
) -> None:
    """The coarse stage: put patches in the order of their depth, in words.

    hybrid-encoder train-coarse /data/tusimple --output runs/coarse

    hybrid-encoder train-coarse synthetic --encoder tiny --no-pretrained --cpu
    """
    from hybrid_encoder.data import OrderedDepth, SyntheticLanes, TuSimpleLanes, depth_files
    from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
    from hybrid_encoder.training.loop import seed_everything
    from hybrid_encoder.training.recipes import COARSE

    told = _console()
    chosen = _change(
        COARSE[_recipe(recipe, encoder)],
        epochs=epochs,
        steps=steps or (0 if epochs else None),
        batch_size=batch_size,
        lr=lr,
        size=None if size is None else parse_size(size),
        two_sided=two_sided,
    )
    points = len(chosen.words)
    items: Any
    if data == SYNTHETIC:
        items = SyntheticLanes(_render(drives, 5, chosen.size, seed, told), points, flip=True)
    elif depths is not None:
        items = OrderedDepth(*depth_files(data, depths, ending), chosen.size, points, inverse=inverse, flip=True)
    else:
        items = TuSimpleLanes(data, chosen.size, points, flip=True)
    seed_everything(seed)
    model = coarse_encoder(encoder, chosen, pretrained)
    described = {"data": data, "depths": depths, "encoder": encoder, "drives": drives if data == SYNTHETIC else None}
    loop = {"workers": workers, "save_every": save_every, "precision": precision.value, "seed": seed, "cpu": cpu}
    done = train_coarse(model, items, output, chosen, described=described, resume=resume, console=told, **loop)
    _tell(told, done, output)


def train_fine(
    data: Annotated[str, typer.Argument(help="KITTI raw, the folder of the dates, or 'synthetic'.")],
    encoder: Annotated[
        str, typer.Option(help="A preset, a stage-1 result (ours or .ckpt), or a whole model.")
    ] = "paper",
    output: Output = Path("runs/fine"),
    recipe: RecipeName = None,
    split: Annotated[Path | None, typer.Option(help="File with lines <date>/<drive> <frame> <l or r>.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data, in place of the recipe's.")] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    size: Size = None,
    pose: Annotated[str | None, typer.Option(help="class_token, or a timm backbone for a pose network.")] = None,
    automask: Annotated[bool | None, typer.Option(help="Leave out what no motion explains better.")] = None,
    prompts: Annotated[int | None, typer.Option(min=2, help="So many learned prompts after a stage-1's words.")] = None,
    language_loss: Annotated[float, typer.Option(min=0, help="Weight of the pixel-language loss.")] = 0.0,
    pretrained: Pretrained = True,
    drives: Drives = 60,
    workers: Workers = 0,
    save_every: SaveEvery = 500,
    precision: PrecisionName = Precision.no,
    seed: Annotated[int, typer.Option(help="Of weights, data order and augmentation.")] = 0,
    resume: Resume = False,
    cpu: OnCpu = False,
) -> None:
    """The fine stage: depth from neighbouring frames alone, without a depth label.

    hybrid-encoder train-fine /data/kitti_raw --encoder runs/coarse/final --split train_files.txt

    hybrid-encoder train-fine synthetic --encoder runs/coarse/final --recipe small --cpu
    """
    from hybrid_encoder.data import KittiSequences, SyntheticSequences
    from hybrid_encoder.training.fine import fine_model, train_fine
    from hybrid_encoder.training.loop import seed_everything
    from hybrid_encoder.training.recipes import FINE

    told = _console()
    chosen = _change(
        FINE[_recipe(recipe, encoder)],
        epochs=epochs,
        steps=steps or (0 if epochs else None),
        batch_size=batch_size,
        lr=lr,
        size=None if size is None else parse_size(size),
        pose=pose,
        automask=automask,
    )
    items: Any
    if data == SYNTHETIC:
        items = SyntheticSequences(_render(drives, 5, chosen.size, seed, told), chosen.offsets, augment=True)
    else:
        items = KittiSequences(data, chosen.size, chosen.offsets, split, augment=True)
    seed_everything(seed)
    model = fine_model(encoder, chosen, pretrained, prompts)
    described = {
        "data": data,
        "split": split,
        "encoder": encoder,
        "prompts": prompts,
        "language_loss": language_loss,
        "drives": drives if data == SYNTHETIC else None,
    }
    loop = {"workers": workers, "save_every": save_every, "precision": precision.value, "seed": seed, "cpu": cpu}
    done = train_fine(
        model, items, output, chosen, language_loss, described=described, resume=resume, console=told, **loop
    )
    _tell(told, done, output)


def _console() -> Console:
    from hybrid_encoder.training.recipes import writes

    return Console(quiet=not writes())  # one process tells


def _recipe(recipe: Recipes | None, encoder: str) -> str:
    """The recipe that was asked for, or else the one for towers of this size."""
    from hybrid_encoder.checkpoints import read_config
    from hybrid_encoder.checkpoints.files import CONFIG
    from hybrid_encoder.config import PRESETS, find_encoder_config

    if recipe is not None:
        return recipe.value
    if encoder in PRESETS or not (Path(encoder) / CONFIG).is_file():
        return "small" if encoder == "tiny" else "published"
    spatial = find_encoder_config(read_config(Path(encoder))).spatial
    return "small" if spatial == PRESETS["tiny"].encoder.spatial else "published"


def _change(recipe: R, **changes: Any) -> R:
    return dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _render(count: int, frames: int, size: tuple[int, int], seed: int, console: Console) -> list[list[SyntheticFrame]]:
    from rich.progress import track

    from hybrid_encoder.data import SyntheticDrive

    if not 0 <= seed < 100_000:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to 99999.")
    seeds = range(10_000 * seed, 10_000 * seed + count)
    return [
        list(SyntheticDrive(seed=s, num_frames=frames, height=size[0], width=size[1]))
        for s in track(seeds, description="rendering drives", console=console)
    ]


def _tell(console: Console, done: Path | None, output: Path) -> None:
    if done is None:
        console.print(f"stopped; the same command with --resume goes on from {output}", highlight=False)
    else:
        console.print(f"weights -> {done}", highlight=False)
