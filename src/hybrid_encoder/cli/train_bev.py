"""``hybrid-encoder train-bev``: a bird's-eye view from six cameras, on synthetic drives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid_encoder.cli import _surround, _training
from hybrid_encoder.cli._config import ConfigOption
from hybrid_encoder.cli.options import OnCpu, make_folder


def train_bev_command(
    context: typer.Context,
    data: Annotated[Literal["synthetic"], typer.Argument(help="'synthetic': rendered drives with six cameras.")],
    weights: Annotated[
        str,
        typer.Option(
            help="The depth model to start from: 'tiny' (ships with the package), a checkpoint folder, a Hub id; or "
            "'none', for a tiny one with random weights."
        ),
    ] = "tiny",
    depth: Annotated[
        _surround.DepthName,
        typer.Option(
            help="By what features are lifted: the decoder's depth (hybrid), what the words say (language), a layer "
            "of its own (learned), all depths alike (uniform), or the rendered depth (exact)."
        ),
    ] = "hybrid",
    output: _training.Output = Path("runs/bev"),
    recipe: Annotated[
        _training.RecipeName, typer.Option(help="small, or published: Lift-Splat-Shoot's length and size.")
    ] = "small",
    cell: Annotated[float, typer.Option(min=0.01, help="Side of a cell of the maps, in metres.")] = 1.0,
    steps: _training.Steps = None,
    batch_size: _training.BatchSize = None,
    lr: _training.LearningRate = None,
    lr_scale: _training.LrScale = None,
    accumulate: _training.Accumulate = None,
    ema: _training.Ema = None,
    encoder_lr: Annotated[
        float | None,
        typer.Option(help="Factor on the learning rate of the depth model; by default 0.1, and 1 for random weights."),
    ] = None,
    size: _training.Size = None,
    drives: _training.Drives = 200,
    workers: _training.Workers = None,
    compile: _training.Compile = False,
    checkpoint_activations: _training.CheckpointActivations = False,
    save_every: _training.SaveEvery = 500,
    precision: _training.PrecisionOption = "auto",
    seed: _training.Seed = 0,
    resume: _training.Resume = False,
    resume_from: _training.ResumeFrom = None,
    cpu: OnCpu = False,
    config_file: ConfigOption = None,
) -> None:
    """Train a bird's-eye view: vehicles and road on a grid around a vehicle, from the images of its cameras.

    hybrid-encoder train-bev synthetic --cpu

    hybrid-encoder train-bev synthetic --depth learned --weights none --cpu
    """
    from accelerate.utils import set_seed

    from hybrid_encoder.cli.options import check_finite
    from hybrid_encoder.config.bev import BevConfig
    from hybrid_encoder.training.bev import BEV, bev_model, start_scale, train_bev

    check_finite("--cell", cell)
    check_finite("--encoder-lr", encoder_lr)
    _surround.check_seed(seed)
    console = _training.console_of_run(cpu)
    random_weights = weights == "none"
    chosen = _training.change_recipe(
        BEV[recipe],
        context,
        epochs=None,
        steps=steps,
        size=size,
        batch_size=batch_size,
        lr=lr,
        lr_scale=lr_scale,
        accumulate=accumulate,
        ema=ema,
        encoder_lr=encoder_lr or (1.0 if random_weights else None),
    )
    make_folder(output)
    set_seed(seed)
    # The range of depth reaches the corners of the grid.
    config = BevConfig.preset("tiny").replace(cell=cell, far=36.0, num_depths=36)
    model = bev_model(None if random_weights else weights, config, _surround.KINDS[depth])
    items = _surround.render(_surround.drive_seeds(_surround.TRAINING, seed, drives), chosen.size, model.grid, console)
    if model.uncertainty is not None and not random_weights:
        start_scale(model, [items[index] for index in range(min(8, len(items)))])
    described = {"data": data, "weights": weights, "depth": depth, "cell": cell, "drives": drives}
    loop = {"workers": workers, "save_every": save_every, "precision": precision, "seed": seed, "cpu": cpu}
    loop |= {"compile": compile, "checkpoint_activations": checkpoint_activations}
    options = {"described": described, "resume": resume_from or resume, "console": console, **loop}
    result = train_bev(model, items, output, chosen, **options)
    _training.print_result(console, result, output)
