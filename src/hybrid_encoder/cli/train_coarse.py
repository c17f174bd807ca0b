"""``hybrid-encoder train-coarse``: the coarse stage on lanes, on images with depth maps, or on synthetic drives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_encoder.cli import _training as shared
from hybrid_encoder.cli._config import ConfigOption
from hybrid_encoder.cli.options import OnCpu, make_folder, refuse_unused

if TYPE_CHECKING:
    from rich.console import Console
    from torch.utils.data import Dataset

    from hybrid_encoder.training.recipes import CoarseRecipe

SHAPE = (720, 1280)  # of TuSimple's pictures, which synthetic ones are rendered in where a recipe keeps the aspect


def train_coarse_command(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="TuSimple's root folder, a folder of images (with --depths), or 'synthetic'.")
    ],
    encoder: Annotated[str, typer.Option(help="A preset, a checkpoint folder, or a Hub id.")] = "paper",
    output: shared.Output = Path("runs/coarse"),
    recipe: shared.RecipeOption = None,
    depths: Annotated[Path | None, typer.Option(help="Folder of depth maps, named like the images.")] = None,
    ending: Annotated[str, typer.Option(help="With --depths: what follows an image's stem in a map's name.")] = ".npy",
    inverse: Annotated[bool, typer.Option("--inverse", help="With --depths: the maps hold disparity.")] = False,
    epochs: shared.Epochs = None,
    steps: shared.Steps = None,
    batch_size: shared.BatchSize = None,
    lr: shared.LearningRate = None,
    lr_scale: shared.LrScale = None,
    accumulate: shared.Accumulate = None,
    ema: shared.Ema = None,
    size: shared.Size = None,
    two_sided: Annotated[bool | None, typer.Option(help="Compare patches with nearer ones as well.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="By how much the nearest patch must fit its word better than the farthest; 0 as published, small: 20."
        ),
    ] = None,
    pretrained: shared.Pretrained = True,
    drives: shared.Drives = 60,
    world: shared.World = "plain",
    workers: shared.Workers = None,
    compile: shared.Compile = False,
    checkpoint_activations: shared.CheckpointActivations = False,
    save_every: shared.SaveEvery = 500,
    precision: shared.PrecisionOption = "auto",
    seed: shared.Seed = 0,
    resume: shared.Resume = False,
    resume_from: shared.ResumeFrom = None,
    cpu: OnCpu = False,
    config_file: ConfigOption = None,
) -> None:
    """Run the coarse stage: the encoder learns to put patches in the order of their depth, by words.

    hybrid-encoder train-coarse /data/tusimple --output runs/coarse

    hybrid-encoder train-coarse synthetic --encoder tiny --no-pretrained --cpu
    """
    from accelerate.utils import set_seed

    from hybrid_encoder.training.coarse import coarse_encoder, train_coarse
    from hybrid_encoder.training.recipes import COARSE

    shared.check_seed(seed, data)
    refuse_unused(context, {} if data == shared.SYNTHETIC else {"world": shared.ONLY_RENDERED})
    console = shared.console_of_run(cpu)
    chosen = shared.change_recipe(
        COARSE[recipe or shared.fitting_recipe(encoder)],
        context,
        epochs=epochs,
        steps=steps,
        size=size,
        batch_size=batch_size,
        lr=lr,
        lr_scale=lr_scale,
        accumulate=accumulate,
        ema=ema,
        two_sided=two_sided,
        margin=margin,
    )
    # What is quick comes first: files are looked at before weights are read, and drives are rendered after that.
    items = None if data == shared.SYNTHETIC else _lanes_of_files(data, chosen, depths, ending, inverse)
    make_folder(output)
    set_seed(seed)
    model = coarse_encoder(encoder, chosen, pretrained)
    if items is None:
        items = _synthetic_lanes(chosen, drives, seed, console, world)
    described = {
        "data": data,
        "depths": depths,
        "encoder": encoder,
        "drives": drives if data == shared.SYNTHETIC else None,
        **({} if world == "plain" else {"world": world}),
        **shared.described_start(pretrained),
    }
    loop = {"workers": workers, "save_every": save_every, "precision": precision, "seed": seed, "cpu": cpu}
    loop |= {"compile": compile, "checkpoint_activations": checkpoint_activations}
    options = {"described": described, "resume": resume_from or resume, "console": console, **loop}
    weights = train_coarse(model, items, output, chosen, **options)
    shared.print_result(console, weights, output)


def _synthetic_lanes(
    recipe: CoarseRecipe, num_drives: int, seed: int, console: Console, world: shared.WorldName
) -> Dataset[Any]:
    from hybrid_encoder.data.transforms import item_size
    from hybrid_encoder.data.tusimple import SyntheticLanes

    size = item_size(recipe.size, SHAPE)
    rendered = shared.render_training_drives(num_drives, size, seed, console, world=world)
    return SyntheticLanes(rendered, len(recipe.words), recipe.flip, recipe.jitter)


def _lanes_of_files(data: str, recipe: CoarseRecipe, depths: Path | None, ending: str, inverse: bool) -> Dataset[Any]:
    """Open a folder of images with depth maps, or else TuSimple's folder."""
    from hybrid_encoder.data.ordered import OrderedDepth, depth_files
    from hybrid_encoder.data.tusimple import TuSimpleLanes

    num_points = len(recipe.words)  # one for each prompt
    if depths is None:
        return TuSimpleLanes(data, recipe.size, num_points, flip=recipe.flip, jitter=recipe.jitter)
    files = depth_files(data, depths, ending)
    return OrderedDepth(*files, recipe.size, num_points, inverse=inverse, flip=recipe.flip, jitter=recipe.jitter)
